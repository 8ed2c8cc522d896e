"""Several data sets in one training: each batch comes from one of them, by the strategy of that
one.

The paper (arXiv 2408.10536, experimental set-up) draws its batches by data set size, and prints
sizes in pairs per language. `size` here is the number of ids that a data set's strategy can draw:
an id is one pair in each of its languages, and an epoch visits it once. `temperature` flattens the
sizes, p ~ size ** (1 / T), as multilingual pre-training does with languages; `equal` is its limit.

Every random number is a function of (seed, epoch), and for the batches of a data set of (seed, its
name) besides: equally long data sets do not share an order, and a data set's batches do not depend
on the others.

The module knows samplers and row numbers; it knows no text, no model and no trainer.
"""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xir_lib.errors import InputError
from xir_lib.samplers.index import Ints
from xir_lib.samplers.strategies import (
    ResumableSampler,
    Row,
    StrategyBatchSampler,
    random_bits,
    to_unit,
)


@dataclass(frozen=True, eq=False)
class MixturePlan:
    """The data set of every batch of one epoch, and the samplers that have just these batches."""

    dataset: Ints  # (batches,) position in the mapping
    members: dict[int, StrategyBatchSampler]  # by position; a data set without a batch is missing


class MixtureBatchSampler(ResumableSampler):
    """Yield batches of (query_row, passage_row), rows of the data sets' tables end to end in the
    mapping's order.

    `PairDataset.from_pairs` takes the same tables as a list. A sampler lends its index and
    settings; its seed is replaced by one of (seed, name), its epoch by the mixture's.

    With `num_batches` an epoch has exactly that many, the data set of each is drawn by
    `dataset_draw` ("size", "equal" or a number, the temperature T), and a data set is passed over
    as often as that takes. Without it, with "size" only, an epoch is one epoch of every sampler,
    its batches in random order: each next one is drawn in proportion to the batches that are left.

    Refused with `InputError`: no sampler, unequal batch sizes, a `dataset_draw` of another name, a
    temperature that is not above 0, any draw but "size" without `num_batches`, a seed outside 32
    bits.
    """

    def __init__(
        self,
        samplers: Mapping[str, StrategyBatchSampler],
        *,
        dataset_draw: str | float,
        seed: int,
        num_batches: int | None = None,
    ) -> None:
        self.dataset_draw, self.seed, self.num_batches = dataset_draw, seed, num_batches
        sizes = {name: sampler.batch_size for name, sampler in samplers.items()}
        if len(set(sizes.values())) != 1:
            found = ", ".join(f"{name} {size}" for name, size in sizes.items()) or "no data set"
            raise InputError(f"all data sets need the same batch_size, got {found}")
        if dataset_draw not in ("size", "equal") and not (
            isinstance(dataset_draw, int | float) and dataset_draw > 0
        ):
            raise InputError(
                f"unknown dataset_draw {dataset_draw!r}; use size, equal or a number above 0, a"
                " temperature"
            )
        if num_batches is None and dataset_draw != "size":
            raise InputError(
                f"dataset_draw {dataset_draw} needs num_batches: its shares are not those of the"
                " data sets' epochs"
            )
        if num_batches is not None and num_batches < 1:
            raise InputError(f"num_batches must be at least 1, got {num_batches}")
        if not 0 <= seed < 2**32:
            raise InputError(f"seed must be in [0, 2**32), got {seed}")
        self.batch_size = next(iter(sizes.values()))
        self.samplers = {
            name: sampler.reseeded(_seed(seed, name), sampler.num_batches)
            for name, sampler in samplers.items()
        }
        self._cached: tuple[int, MixturePlan] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Return everything that fixes the batches but the epoch, as JSON values by name."""
        return {
            "dataset_draw": self.dataset_draw,
            "seed": self.seed,
            "num_batches": self.num_batches,
            "datasets": list(self.samplers),
            **{
                f"{name}.{key}": value
                for name, sampler in self.samplers.items()
                for key, value in sampler.settings.items()
            },
        }

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """Return the probability that `dataset_draw` gives each data set, shape (data sets,)."""
        log_size = np.log([sampler.usable.sum() for sampler in self.samplers.values()])
        temperature = {"size": 1.0, "equal": np.inf}.get(str(self.dataset_draw), self.dataset_draw)
        weights = np.exp((log_size - log_size.max()) / temperature)
        return np.asarray(weights / weights.sum())

    def plan(self) -> MixturePlan:
        """Return this epoch's batches; made at the first call and kept until the epoch changes."""
        if self._cached is None or self._cached[0] != self.epoch:
            self._cached = (self.epoch, self._make_plan())
        return self._cached[1]

    def describe(self) -> pd.DataFrame:
        """Return what this epoch realises, as `StrategyBatchSampler.describe` with a column
        `dataset`.
        """
        plan, names, frames = self.plan(), list(self.samplers), []
        for position, member in plan.members.items():
            frame = member.describe()
            frame["batch"] = np.flatnonzero(plan.dataset == position)[frame["batch"]]
            frame.insert(1, "dataset", names[position])
            frames.append(frame)
        return pd.concat(frames).sort_values("batch", kind="stable", ignore_index=True)

    @property
    def negatives(self) -> int:
        """Return the fewest hard negatives per pair of the data sets' indices."""
        return min(sampler.negatives for sampler in self.samplers.values())

    def report(self) -> dict[str, Any]:
        """Return the settings and counts of this epoch, as JSON values; `size` is in usable ids."""
        plan = self.plan()
        datasets = {}
        for position, (name, sampler) in enumerate(self.samplers.items()):
            member = plan.members.get(position)
            datasets[name] = {
                "size": int(sampler.usable.sum()),
                "share": float(self.shares[position]),
                "batches": int((plan.dataset == position).sum()),
                **(member.report() if member else {}),
            }
        own = {name: self.settings[name] for name in ("dataset_draw", "seed", "num_batches")}
        return {**own, "epoch": self.epoch, "batches": len(plan.dataset), "datasets": datasets}

    def _length(self) -> int:
        return self.num_batches if self.num_batches is not None else len(self.plan().dataset)

    def batches_from(self, start: int) -> Iterator[list[Row]]:
        """Yield the epoch's batches from number `start` on."""
        plan = self.plan()
        done = np.bincount(
            plan.dataset[:start], minlength=len(self.samplers)
        )  # batches of each data set
        streams = {
            position: member.batches_from(int(done[position]))
            for position, member in plan.members.items()
        }
        tables = [
            int(sampler.index.row.max(initial=-1)) + 1 for sampler in self.samplers.values()
        ]  # rows of each
        offsets = [0, *np.cumsum(tables).tolist()]
        for position in plan.dataset[start:].tolist():
            offset = offsets[position]
            yield [
                (query_row + offset, passage_row + offset)
                for query_row, passage_row in next(streams[position])
            ]

    def _make_plan(self) -> MixturePlan:
        members = {}
        if self.num_batches is not None:
            uniform = to_unit(random_bits(self.seed, self.epoch, 0, "datasets", self.num_batches))
            dataset = np.searchsorted(np.cumsum(self.shares)[:-1], uniform, side="right")
        for position, sampler in enumerate(self.samplers.values()):
            batches = (
                sampler.num_batches
                if self.num_batches is None
                else int((dataset == position).sum())
            )
            if batches != 0:
                members[position] = sampler.reseeded(sampler.seed, batches)
                members[position].set_epoch(self.epoch)
        if self.num_batches is None:
            labels = np.repeat(list(members), [len(member) for member in members.values()])
            dataset = labels[
                np.argsort(
                    random_bits(self.seed, self.epoch, 0, "datasets", len(labels)), kind="stable"
                )
            ]
        return MixturePlan(dataset.astype(np.int32), members)


def _seed(seed: int, name: str) -> int:
    """Return the seed of a data set: equal names in two mixtures of one seed give equal batches."""
    return int(np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1)[0])
