"""The old name of `xir_lib.samplers.dataset`, kept for one release."""

from xir_lib.samplers.dataset import PairDataset as PairDataset
from xir_lib.samplers.dataset import batch_sampler_factory as batch_sampler_factory
