"""Several data sets in one training: every batch comes from one of them, by that one's strategy.

The paper (arXiv 2408.10536, experimental set-up) draws its batches by data set size. `size` here is
the number of ids that a data set's strategy can draw: an id is one pair in each of its languages,
and a pass visits it once. `temperature` flattens the sizes, p ~ size ** (1 / T), as multilingual
pre-training does with languages; `equal` is its limit.

Random numbers are functions of (seed, epoch), for the batches of a data set of (seed, its name)
besides: equally long data sets do not share an order, and none depends on the others.

The module knows samplers and row numbers; it knows no text, no model and no trainer.
"""

import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from xir_lib.errors import InputError
from xir_lib.samplers.base import EpochSampler, Row, check_numbers
from xir_lib.samplers.index import Ints
from xir_lib.samplers.strategies import StrategyBatchSampler


class MixturePlan(NamedTuple):
    """The data set of every batch of one epoch, and the samplers that have just these batches."""

    dataset: Ints  # (batches,) position in the mapping
    members: dict[int, StrategyBatchSampler]  # by position; a data set without a batch is missing


class MixtureBatchSampler(EpochSampler):
    """Yield batches of (query_row, passage_row), rows of the data sets' tables end to end.

    `PairDataset.from_pairs` takes the same tables as a list, in the mapping's order. The data set
    of each batch is drawn by `dataset_draw` ("size", "equal" or a number, the temperature T); one
    is passed over as often as that takes. An epoch has `num_batches` batches, by default as many as
    the epochs of the samplers together. A sampler lends its index and settings; its seed is
    replaced by one of (seed, name), its epoch by the mixture's.

    Refused with `InputError`: no sampler, unequal batch sizes, a `dataset_draw` of another name, a
    temperature that is not above 0, a seed outside 32 bits.

    >>> import pyarrow as pa
    >>> from xir_lib.data.records import PAIR_SCHEMA, PairTable
    >>> from xir_lib.samplers.index import PairIndex
    >>> def index(ids):
    ...     rows = [{"pair_id": f"{i}", "lang": "en", "query": f"{i}?", "passage_id": f"{i}",
    ...              "passage": f"It is {i}.", "group": f"{i}"} for i in range(ids)]
    ...     return PairIndex.from_table(PairTable(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA)))
    >>> samplers = {name: StrategyBatchSampler(index(ids), strategy="x-x", batch_size=2, seed=0)
    ...             for name, ids in (("large", 12), ("small", 4))}
    >>> mixture = MixtureBatchSampler(samplers, dataset_draw="size", seed=0)
    >>> mixture.shares.tolist()
    [0.75, 0.25]
    >>> mixture.plan().dataset.tolist()
    [0, 0, 0, 0, 0, 0, 0, 1]
    """

    def __init__(
        self,
        samplers: Mapping[str, StrategyBatchSampler],
        *,
        dataset_draw: str | float,
        seed: int,
        num_batches: int | None = None,
    ) -> None:
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
        check_numbers(seed, num_batches)
        self.dataset_draw, self.seed = dataset_draw, seed
        self.batch_size = next(iter(sizes.values()))
        self.num_batches = num_batches or sum(map(len, samplers.values()))
        self.samplers = {
            name: sampler.reseeded(_seed(seed, name), len(sampler))
            for name, sampler in samplers.items()
        }

    @property
    def negatives(self) -> int:
        """Return the fewest hard negatives per pair of the data sets' indices."""
        return min(sampler.negatives for sampler in self.samplers.values())

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """Return the probability that `dataset_draw` gives each data set, shape (data sets,)."""
        log_size = np.log([sampler.usable.sum() for sampler in self.samplers.values()])
        temperature = {"size": 1.0, "equal": np.inf}.get(str(self.dataset_draw), self.dataset_draw)
        weights = np.exp((log_size - log_size.max()) / temperature)
        return np.asarray(weights / weights.sum())

    def _make_plan(self) -> MixturePlan:
        # 1. Draw the data set of every batch.
        draws = self._uniform(0, "datasets", self.num_batches)
        dataset = np.searchsorted(np.cumsum(self.shares)[:-1], draws, side="right")

        # 2. Give each the epoch of as many batches as it has to fill.
        members = {}
        for position, sampler in enumerate(self.samplers.values()):
            if batches := int((dataset == position).sum()):
                members[position] = sampler.reseeded(sampler.seed, batches)
                members[position].set_epoch(self.epoch)
        return MixturePlan(dataset.astype(np.int32), members)

    def batches_from(self, start: int) -> Iterator[list[Row]]:
        """Yield the epoch's batches from number `start` on."""
        plan: MixturePlan = self.plan()
        done = np.bincount(plan.dataset[:start], minlength=len(self.samplers)).tolist()
        streams = {at: member.batches_from(done[at]) for at, member in plan.members.items()}
        rows = [int(sampler.index.row.max(initial=-1)) + 1 for sampler in self.samplers.values()]
        first = [0, *np.cumsum(rows).tolist()]  # row of each data set in the tables end to end
        for at in plan.dataset[start:].tolist():
            yield [(query + first[at], passage + first[at]) for query, passage in next(streams[at])]

    def describe(self) -> pd.DataFrame:
        """Return what this epoch realises: `StrategyBatchSampler.describe` with the `dataset`."""
        plan, names, frames = self.plan(), list(self.samplers), []
        for position, member in plan.members.items():
            frame = member.describe()
            frame["batch"] = np.flatnonzero(plan.dataset == position)[frame["batch"]]
            frame.insert(1, "dataset", names[position])
            frames.append(frame)
        return pd.concat(frames).sort_values("batch", kind="stable", ignore_index=True)

    def report(self) -> dict[str, Any]:
        """Return the settings and counts of this epoch, as JSON values; `size` is in usable ids."""
        plan, shares = self.plan(), self.shares.tolist()
        datasets = {}
        for position, (name, sampler) in enumerate(self.samplers.items()):
            member = plan.members.get(position)
            datasets[name] = {
                "size": int(sampler.usable.sum()),
                "share": shares[position],
                "batches": len(member) if member else 0,
                **(member.report() if member else {}),
            }
        return {
            "dataset_draw": self.dataset_draw,
            "seed": self.seed,
            "num_batches": self.num_batches,
            "epoch": self.epoch,
            "batches": len(plan.dataset),
            "datasets": datasets,
        }


def _seed(seed: int, name: str) -> int:
    """Return the seed of a data set: equal names in two mixtures of one seed give equal batches."""
    return int(np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1)[0])
