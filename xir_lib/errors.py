"""The one exception that a user is meant to read."""


class InputError(ValueError):
    """Bad input from outside: a one-line message that says what arrived and what would do.

    The command line prints the message alone and exits with code 2; any other exception is a bug
    and keeps its traceback.
    """
