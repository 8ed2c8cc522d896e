"""The old name of `xir_lib.training.loss`, kept for one release."""

from xir_lib.training.loss import ParallelQueryLoss as ParallelQueryLoss
