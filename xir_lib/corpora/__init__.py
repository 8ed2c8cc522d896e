"""The old name of `xir_lib.data`, kept for one release."""
