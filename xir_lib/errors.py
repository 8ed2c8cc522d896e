"""The one exception that a user is meant to read."""

from pydantic import ValidationError


class InputError(ValueError):
    """Bad input from outside: a one-line message that says what arrived and what would do.

    The command line prints the message alone and exits with code 2; any other exception is a bug
    and keeps its traceback.
    """


def explain(error: ValidationError) -> str:
    """Turn pydantic's report into one line: where, what is wrong, what arrived."""
    first = error.errors()[0]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    where = ".".join(map(str, first["loc"])) or "value"
    if first["type"] == "value_error":  # of our own checks, which say what arrived
        return f"{where}: {first['msg'].removeprefix('Value error, ')}{more}"
    return f"{where}: {first['msg']}, got {str(first['input'])[:60]!r}{more}"
