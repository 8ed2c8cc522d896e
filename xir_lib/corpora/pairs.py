"""The old name of `xir_lib.data.readers`, kept for one release."""

from xir_lib.data.readers import from_dataset as from_dataset
