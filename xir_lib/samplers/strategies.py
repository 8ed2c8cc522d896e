"""The sampler: batches by one strategy, as row numbers of a `PairTable`.

What the strategies are is in `recipes`. One loop fills every batch of all of them:
`StrategyBatchSampler._make_plan`, and the `_Pass` over the ids that it repeats. Of two ids that
clash (`index` has the rule) one waits for a later batch.

Every random number belongs to a purpose. So the order of the ids is the same for every strategy,
`hybrid` with alpha 1 (0) is `x-x-mono` (`x-y`) batch for batch, and `hybrid-row` is `x-x` (`x-y`).

The module knows row numbers and language codes; it knows no text, no model and no trainer.
"""

import copy
from bisect import bisect
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from xir_lib.errors import InputError
from xir_lib.samplers.base import EpochSampler, Row, check_numbers
from xir_lib.samplers.index import Ints, Mask, PairIndex
from xir_lib.samplers.recipes import (
    MIXED_BY_BATCH,
    LanguageDraw,
    Pool,
    Strategy,
    pools_of,
    same_share,
)

__all__ = ["LanguageDraw", "PairIndex", "Strategy", "StrategyBatchSampler"]

Codes = npt.NDArray[np.uint8]

_AHEAD = 32  # batches whose rows are looked up at once, which is faster than one by one
_BLOCK = 1 << 16  # pairs drawn at a time, so that transient memory does not grow with the data


class BatchPlan(NamedTuple):
    """The batches of one epoch, 6 bytes per drawn pair."""

    ids: Ints  # (batches, batch_size) positions in the index
    query_lang: Codes  # (batches, batch_size) positions in `PairIndex.languages`
    doc_lang: Codes  # (batches, batch_size)
    kinds: tuple[Strategy, ...]  # (batches,) keys of `RECIPES`
    passes: int  # begun in this epoch


class StrategyBatchSampler(EpochSampler):
    """Yield batches of (query_row, passage_row), row numbers of the `PairTable`, by one strategy.

    An epoch has `num_batches` batches, by default as many as the usable ids fill, and passes over
    the ids as often as that takes. A pass visits them in one random order, each at most once, and
    ends when what was drawn, the kind of batch or its language (pair), cannot be filled any more;
    that opens the next pass. So alpha and `language_draw` hold on ragged data too, where the ids of
    a small language come round more often.

    `x-y` draws uniformly among the ordered language pairs of an id, `x-x` among its languages; this
    draw belongs to (pass, id) and is the same at every alpha. `hybrid-row` draws same or cross by
    (pass, id) too; an id that offers only one of them takes it, unless alpha is 0 or 1 and excludes
    it. `x-y-pair` leaves out the pairs with fewer ids than a batch. `pivot` is the language of
    `en-en`.

    Refused with `InputError`: alpha outside [0, 1], batch_size < 2, a seed outside 32 bits, an
    unknown pivot, fewer ids than a batch for a kind (for `x-x-mono`: in any language that has a
    same-language pair; for `x-y-pair`: in every pair).

    >>> import pyarrow as pa
    >>> from xir_lib.data.records import PAIR_SCHEMA, PairTable
    >>> rows = [{"pair_id": name, "lang": lang, "query": f"{name} ({lang})?",
    ...          "passage_id": name, "passage": f"{name} ({lang})", "group": name}
    ...         for name in ("rain", "snow", "wind", "hail") for lang in ("de", "en")]
    >>> index = PairIndex.from_table(PairTable(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA)))
    >>> sampler = StrategyBatchSampler(index, strategy="x-y", batch_size=2, seed=0)
    >>> for batch in sampler:
    ...     print([(rows[q]["query"], rows[p]["passage"]) for q, p in batch])
    [('wind (en)?', 'wind (de)'), ('hail (de)?', 'hail (en)')]
    [('rain (en)?', 'rain (de)'), ('snow (en)?', 'snow (de)')]
    """

    def __init__(
        self,
        index: PairIndex,
        *,
        strategy: Strategy | str,
        batch_size: int,
        seed: int,
        alpha: float = 0.5,
        num_batches: int | None = None,
        language_draw: LanguageDraw | str = LanguageDraw.UNIFORM,
        pivot: str = "en",
    ) -> None:
        self.index, self.strategy = index, Strategy(strategy)
        self.batch_size, self.seed, self.alpha, self.pivot = batch_size, seed, alpha, pivot
        self.language_draw = LanguageDraw(language_draw)
        check_numbers(seed, num_batches)
        if not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
            raise InputError(f"alpha must be in [0, 1], got {alpha!r}")
        if batch_size < 2:
            raise InputError(
                f"batch_size must be at least 2, got {batch_size}; a batch of one has no negatives"
            )
        if self.strategy == Strategy.EN_EN and pivot not in index.languages:
            known = ", ".join(index.languages) or "no language"
            raise InputError(f"unknown pivot {pivot!r}; this data has {known}")

        first, second = MIXED_BY_BATCH.get(self.strategy, (self.strategy, self.strategy))
        self._kinds = (first if alpha > 0 else second, second if alpha < 1 else first)
        self.usable: Mask = np.zeros(len(index.row), bool)  # (ids,) the strategy can draw the id
        self.unreachable: list[str] = []  # languages, or ordered pairs, that no batch can come from
        self._pools: dict[Strategy, list[Pool]] = {}
        for kind in dict.fromkeys(self._kinds):
            self._pools[kind], usable, left_out = pools_of(
                kind, index, batch_size=batch_size, alpha=alpha, pivot=pivot
            )
            self.usable |= usable
            self.unreachable += left_out
        self.num_batches = num_batches or max(1, int(self.usable.sum()) // batch_size)

    @property
    def negatives(self) -> int:
        """Return the hard negatives per pair of the index."""
        return self.index.negative.shape[2]

    def reseeded(self, seed: int, num_batches: int) -> Self:
        """Return the same sampler in epoch 0, on the same arrays, with another seed and length."""
        other = copy.copy(self)
        other.seed, other.num_batches, other.epoch, other._made = seed, num_batches, 0, None
        return other

    def batches_from(self, start: int) -> Iterator[list[Row]]:
        """Yield the epoch's batches from number `start` on."""
        plan, row = self.plan(), self.index.row
        for at in range(start, len(plan.ids), _AHEAD):
            part = slice(at, at + _AHEAD)
            queries = row[plan.ids[part], plan.query_lang[part]].tolist()
            passages = row[plan.ids[part], plan.doc_lang[part]].tolist()
            for query, passage in zip(queries, passages, strict=True):
                yield list(zip(query, passage, strict=True))

    def describe(self) -> pd.DataFrame:
        """Return what this epoch realises: batch, kind, query_lang, doc_lang, number of pairs."""
        plan: BatchPlan = self.plan()
        columns = {
            "batch": np.repeat(np.arange(len(plan.ids)), self.batch_size),
            "query_lang": plan.query_lang.ravel(),
            "doc_lang": plan.doc_lang.ravel(),
        }
        frame = pd.DataFrame(columns).groupby(list(columns)).size().reset_index(name="pairs")
        frame.insert(1, "kind", np.array([kind.value for kind in plan.kinds])[frame["batch"]])
        for side in ("query_lang", "doc_lang"):
            frame[side] = np.array(self.index.languages)[frame[side]]
        return frame

    def report(self) -> dict[str, Any]:
        """Return the settings and counts of this epoch, as JSON values.

        A setting without meaning for the strategy is None. `never`: ids without any pair that the
        strategy can draw; `dropped`: usable ids that this epoch does not visit; `unreachable`:
        languages of `x-x-mono` and ordered pairs of `x-y-pair` that no batch can come from;
        `one_kind`: usable ids of `hybrid-row` that cannot follow alpha; `without_negatives`:
        passages, by id and language, that are not drawn for want of hard negatives.
        """
        plan, usable = self.plan(), int(self.usable.sum())
        rows = self.strategy == Strategy.HYBRID_ROW
        same, cross = self.index.offered()
        return {
            "strategy": self.strategy.value,
            "alpha": self.alpha if rows or self.strategy in MIXED_BY_BATCH else None,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "num_batches": self.num_batches,
            "language_draw": self.language_draw.value,
            "pivot": self.pivot if self.strategy == Strategy.EN_EN else None,
            "epoch": self.epoch,
            "batches": len(plan.ids),
            "mono_batches": sum(kind in (Strategy.X_X_MONO, Strategy.EN_EN) for kind in plan.kinds),
            "passes": plan.passes,
            "ids": len(self.usable),
            "never": len(self.usable) - usable,
            "usable": usable,
            "dropped": usable - len(np.unique(plan.ids)),
            "unreachable": self.unreachable,
            "one_kind": int((self.usable & (same != cross)).sum()) if rows else 0,
            "without_negatives": int(((self.index.passage >= 0) & ~self.index.servable()).sum()),
        }

    def _make_plan(self) -> BatchPlan:
        shape = (self.num_batches, self.batch_size)
        ids, langs = np.empty(shape, np.int32), np.empty((2, *shape), np.uint8)
        pools: list[Pool] = []  # of each batch

        # 1. Draw the kind of every batch, for the epoch and not by pass: the kind that ends a pass
        #    opens the next one, so that alpha holds however short the passes are.
        draws = self._uniform(0, "kinds", self.num_batches)
        wanted = [self._kinds[0] if draw < self.alpha else self._kinds[1] for draw in draws]

        # 2. Pass over the ids until every batch is filled.
        number, opener = 0, None
        while len(pools) < self.num_batches:
            filled, opener = _Pass(self, number).fill(wanted[len(pools) :], opener)
            done = slice(len(pools), len(pools) + len(filled))
            pools += [pool for pool, _ in filled]
            ids[done] = np.stack([taken for _, taken in filled])

            # 3. Draw the languages of their rows.
            langs[:, done] = self._languages(number, pools[done], ids[done])
            number += 1
        kinds = tuple(pool.kind for pool in pools)
        return BatchPlan(ids, langs[0], langs[1], kinds, passes=number)

    def _languages(self, number: int, pools: list[Pool], ids: Ints) -> Codes:
        """Return the query and passage languages of a pass's batches, (2, batches, batch_size)."""
        fixed = np.array([pool.langs or (0, 0) for pool in pools], np.uint8)  # (batches, 2)
        langs = np.repeat(fixed.T[:, :, None], self.batch_size, axis=2)
        mixed = np.flatnonzero([pool.langs is None for pool in pools])
        bits = self._bits(number, "pairs", len(self.usable))
        step = max(1, _BLOCK // self.batch_size)
        for start in range(0, len(mixed), step):
            part = mixed[start : start + step]
            flat, share = ids[part].ravel(), same_share(pools[part[0]].kind, self.alpha)
            drawn = self.index.draw_languages(flat, bits[flat], share)
            langs[:, part] = drawn.reshape(2, len(part), self.batch_size)
        return langs


class _Pass:
    """One pass over the ids: each at most once, in one random order that all pools share."""

    def __init__(self, sampler: StrategyBatchSampler, number: int) -> None:
        self.sampler = sampler
        size, pools = len(sampler.usable), sampler._pools
        order = np.argsort(sampler._bits(number, "ids", size), kind="stable").astype(np.int32)
        self.free = np.ones(size, bool)  # (ids,) not used yet, by any pool
        self.queues = {kind: [_Queue(p, order, self.free) for p in pools[kind]] for kind in pools}
        most = size // sampler.batch_size + sum(map(len, pools.values()))
        self.draws = iter(sampler._uniform(number, "languages", most).tolist())

    def fill(
        self, wanted: list[Strategy], opener: Pool | None
    ) -> tuple[list[tuple[Pool, Ints]], Pool | None]:
        """Fill batches of the wanted kinds, in turn, until one cannot be filled.

        `opener` is the pool of the first, where the pass before has drawn it. Returns the pool and
        the ids of each batch, and the opener of the next pass.
        """
        filled: list[tuple[Pool, Ints]] = []
        for kind in wanted:
            queues = self.queues[kind]
            while queues:
                # 1. Draw the language (pair) of the batch, where there is a choice.
                queue = self._draw(queues, opener)
                opener = None

                # 2. Take the first ids that do not clash.
                taken = self._take(queue)
                if taken is not None:
                    filled.append((queue.pool, taken))
                    self.free[taken] = False
                    break

                # 3. Too few are left: the pass is over. If other languages could go on, the one
                #    that was drawn opens the next pass, or it would come too rarely.
                if filled:
                    others = any(self._take(q) is not None for q in queues if q is not queue)
                    return filled, queue.pool if others else None

                # 4. A fresh pass cannot fill it either: go on with the others.
                queues.remove(queue)
            else:
                raise InputError(
                    f"no {self.sampler.strategy.value} batch of {self.sampler.batch_size} can be"
                    " filled: too many ids share passages; lower batch_size"
                )
        return filled, None

    def _draw(self, queues: list["_Queue"], opener: Pool | None) -> "_Queue":
        if opener is not None:
            return next(queue for queue in queues if queue.pool is opener)
        if len(queues) == 1:
            return queues[0]  # without a choice no draw is used up
        by_size = self.sampler.language_draw == LanguageDraw.SIZE
        upto = list(accumulate(queue.pool.size if by_size else 1 for queue in queues))
        return queues[bisect(upto, next(self.draws) * upto[-1])]

    def _take(self, queue: "_Queue") -> Ints | None:
        """Return the ids of a batch, None where too few are left that do not clash."""
        size, want = self.sampler.batch_size, self.sampler.batch_size
        while True:
            candidates = queue.peek(want)
            ids = self.sampler.index.without_clashes(candidates[:want])  # more wait than needed
            if len(ids) >= size:
                return ids[:size].copy()  # a view would keep all that waits in memory
            if len(candidates) < want:
                return None
            want *= 2


class _Queue:
    """The ids of one pool in the pass's order; each is looked at once, however long it waits."""

    def __init__(self, pool: Pool, order: Ints, free: Mask) -> None:
        self.pool, self.order, self.free = pool, order, free
        self.head = 0  # how far the order was looked at
        self.waiting = order[:0]  # ids of the pool before that, most of them still free

    def peek(self, want: int) -> Ints:
        """Return the first free ids, in order: at least `want` of them, or all that are left."""
        waiting = self.waiting[self.free[self.waiting]]
        step = 8 * want
        while len(waiting) < want and self.head < len(self.order):
            chunk = self.order[self.head : self.head + step]
            self.head += step
            step *= 2  # thin pools and late passes
            chunk = chunk[self.free[chunk]]
            for mask in self.pool.masks:
                chunk = chunk[mask[chunk]]
            waiting = np.concatenate([waiting, chunk])
        self.waiting = waiting
        return waiting
