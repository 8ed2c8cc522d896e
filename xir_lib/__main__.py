"""`python -m xir_lib` is the command `xir`."""

from xir_lib.cli import main

main()
