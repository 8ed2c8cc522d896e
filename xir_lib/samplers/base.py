"""What the batch samplers share: an epoch of a number of batches, and where chance comes from.

Every random number is a function of (seed, epoch, number, purpose). No generator is shared, so one
draw never moves another. The numbers are Philox's raw bits, which numpy keeps stable across
versions, unlike the methods of its `Generator`.
"""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from xir_lib.errors import InputError
from xir_lib.samplers.index import Bits

Row = tuple[int, int]  # (query_row, passage_row)


class EpochSampler(ABC):
    """An epoch of exactly `num_batches` full batches.

    The batches are a function of the settings and the epoch alone. A trainer resumes by skipping
    those that it has seen, so there is no state to save.
    """

    batch_size: int
    num_batches: int
    seed: int
    epoch = 0
    drop_last = True  # read by accelerate; every batch is full
    _made: tuple[int, Any] | None = None  # an epoch and its plan

    @property
    @abstractmethod
    def negatives(self) -> int:
        """Return the hard negatives per pair for which the batches are kept free of answers."""

    @abstractmethod
    def batches_from(self, start: int) -> Iterator[list[Row]]:
        """Yield the epoch's batches from number `start` on."""

    @abstractmethod
    def _make_plan(self) -> Any:
        """Return the batches of this epoch."""

    def plan(self) -> Any:
        """Return this epoch's batches; made at the first call and kept until the epoch changes."""
        if self._made is None or self._made[0] != self.epoch:
            self._made = (self.epoch, self._make_plan())
        return self._made[1]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[Row]]:
        return self.batches_from(0)

    def _bits(self, number: int, purpose: str, size: int) -> Bits:
        """Return 64 random bits each; `number` is that of a pass, 0 for the epoch as a whole."""
        entropy = [self.seed, self.epoch, number, zlib.crc32(purpose.encode())]
        return np.random.Philox(np.random.SeedSequence(entropy)).random_raw(size)

    def _uniform(self, number: int, purpose: str, size: int) -> npt.NDArray[np.float64]:
        """Return random numbers in [0, 1)."""
        return (self._bits(number, purpose, size) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def check_numbers(seed: int, num_batches: int | None) -> None:
    """Refuse a seed or a number of batches that no sampler takes."""
    if num_batches is not None and num_batches < 1:
        raise InputError(f"num_batches must be at least 1, got {num_batches}")
    if not 0 <= seed < 2**32:
        raise InputError(f"seed must be in [0, 2**32), got {seed}")
