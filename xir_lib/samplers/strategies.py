"""Batch strategies: which pairs, in which languages, stand together in a training batch.

| strategy | a batch holds | source |
|---|---|---|
| `x-x-mono` | one language, drawn per batch | LAReQA (Roy et al. 2020), paper section 3 |
| `en-en` | the same, always in one language, the pivot | LAReQA, with English |
| `x-x` | pairs with query language == passage language, languages mixed | LAReQA |
| `x-y` | pairs with query language != passage language, languages mixed | LAReQA, paper section 3 |
| `x-y-pair` | one query language and one other passage language | fourth cell of the 2 x 2, ours |
| `hybrid` | with probability alpha an `x-x-mono` batch, else an `x-y` batch | paper section 3 |
| `hybrid-row` | each pair with probability alpha as in `x-x`, else as in `x-y` | ours |

In batch contrastive training the other rows of a batch are the negatives, so a batch never holds
two ids of which one has a passage, in any language, that is a passage or a hard negative of the
other: `pair_index` has the rule. Such an id waits for a later batch.

A *pass* visits the ids in one random order. Every random number is a function of (seed, epoch,
pass, purpose): the order of the ids does not depend on the strategy, `hybrid` with alpha 1 (0) is
`x-x-mono` (`x-y`) batch for batch, and `hybrid-row` is `x-x` (`x-y`). The numbers are Philox's raw
bits, which numpy keeps stable across versions, unlike the methods of its `Generator`.

The module knows row numbers and language codes; it knows no text, no model and no trainer.
"""

import copy
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import count, permutations
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from xir_lib.errors import InputError
from xir_lib.samplers.index import Bits, Ints, Mask, PairIndex

__all__ = [
    "BatchPlan",
    "LanguageDraw",
    "PairIndex",
    "ResumableSampler",
    "Strategy",
    "StrategyBatchSampler",
]

Codes = npt.NDArray[np.uint8]
Row = tuple[int, int]  # (query_row, passage_row)

_AHEAD = 32  # batches whose rows are looked up at once, which is faster than one by one
_BLOCK = (
    1 << 16
)  # pairs that are expanded at a time, so that transient memory does not grow with the data
_LOWER = np.uint64(
    2**32 - 1
)  # these bits draw a pair's kind in `hybrid-row`, the upper ones its languages


class Strategy(StrEnum):
    """The strategies by the names that YAML, file names, tables and legends use."""

    X_X_MONO = "x-x-mono"
    X_Y = "x-y"
    X_X = "x-x"
    HYBRID = "hybrid"
    EN_EN = "en-en"
    X_Y_PAIR = "x-y-pair"
    HYBRID_ROW = "hybrid-row"

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise InputError(f"unknown strategy {value!r}; known are {', '.join(s.value for s in cls)}")


class LanguageDraw(StrEnum):
    """How a batch of one language (pair) draws it, among those that can still fill a batch.

    `size` draws in proportion to the ids that a language (pair) offers at the start of the pass. It
    has no meaning where every pair of the batch draws for itself (`x-x`, `x-y`, `hybrid-row`): an
    id draws uniformly among what it has, so that the sizes of the languages show by themselves.
    """

    UNIFORM = "uniform"
    SIZE = "size"

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise InputError(f"unknown language_draw {value!r}; use uniform or size")


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """The batches of one epoch, 6 bytes per drawn pair; languages are positions in
    `PairIndex.languages`.
    """

    ids: Ints  # (batches, batch_size) positions in the index
    query_lang: Codes  # (batches, batch_size)
    doc_lang: Codes  # (batches, batch_size)
    kinds: tuple[Strategy, ...]  # (batches,) never `hybrid`
    passes: int  # begun in this epoch


class ResumableSampler(ABC):
    """The epoch of a batch sampler and the place in it, which can be saved and restored.

    The place counts the batches handed out by the iterator that moved last. A data loader that
    fetches ahead has taken more of them than the trainer has used; a trainer that resumes by
    skipping needs no state at all.
    """

    batch_size: int
    epoch = 0
    drop_last = True  # read by accelerate; every batch is full
    _place = 0  # batches handed out
    _start = 0  # where the next iteration begins

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return everything that fixes the batches but the epoch, as JSON values by name."""

    @property
    @abstractmethod
    def negatives(self) -> int:
        """Return the hard negatives per pair for which the batches were kept free of answers."""

    @abstractmethod
    def _length(self) -> int:
        """Return the number of batches of the whole epoch."""

    @abstractmethod
    def batches_from(self, start: int) -> Iterator[list[Row]]:
        """Yield the epoch's batches from number `start` on."""

    @abstractmethod
    def report(self) -> dict[str, Any]:
        """Return the settings and counts of this epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; calling it twice changes nothing, and keeps a restored place in the
        same epoch.
        """
        if epoch != self.epoch:
            self.epoch, self._place, self._start = epoch, 0, 0

    def __len__(self) -> int:
        """Return the number of batches that the next iteration yields, exactly."""
        return self._length() - self._start

    def __iter__(self) -> Iterator[list[Row]]:
        start, self._start = self._start, 0
        for place, batch in enumerate(self.batches_from(start), start + 1):
            self._place = place
            yield batch
        self._place = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the settings, the epoch and the place in it, as JSON values."""
        return {**self.settings, "epoch": self.epoch, "batch": self._place}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where the state was taken; the iteration after that begins at 0 again.

        Refused with `InputError`: a state of other settings or of other data.
        """
        for name, mine in self.settings.items():
            if state.get(name) != mine:
                raise InputError(
                    f"the state has {name} {state.get(name)!r}, this sampler {mine!r}; make them"
                    " equal"
                )
        self.epoch, self._start = state["epoch"], state["batch"]
        self._place = self._start


@dataclass(frozen=True, eq=False)
class _Pool:
    """The ids that a batch of one kind can draw: all of them, or those of one language (pair)."""

    masks: tuple[Mask, ...]  # each (ids,); an id is in the pool if all hold
    size: int  # ids in the pool
    query_lang: int = -1  # of the whole batch; -1 if every pair has its own
    doc_lang: int = -1


class StrategyBatchSampler(ResumableSampler):
    """Yield batches of (query_row, passage_row), row numbers of the `PairTable`, by one strategy.

    With `num_batches` an epoch has exactly that many batches and passes over the ids as often as
    that takes; a pass ends when the drawn kind of batch, or the drawn language (pair), cannot be
    filled any more, and what was drawn opens the next one: so alpha and `language_draw` hold on
    ragged data too, where the ids of a small language come round more often. Train with one such
    epoch: resuming is then a pure skip. Without it an epoch is one pass and ends when no kind can
    be filled; `hybrid` then goes on with the kind that is left. Either way an id appears at most
    once per pass.

    `x-x-mono` draws, by `language_draw`, among the languages. So does `x-y-pair` among the ordered
    pairs of languages, of which those with fewer ids than a batch are left out from the start.
    Without `num_batches` a language that could not fill a batch is out and the others go on: such
    an epoch uses up what it can, the draw rules the order and, where ids have several languages,
    their shares, but languages without common ids come out by size. `x-y` draws uniformly among the
    id's ordered language pairs, `x-x` among its languages; this draw belongs to (pass, id) and is
    the same at every alpha. `hybrid-row` draws the kind by (pass, id) too; an id that offers only
    same-language or only cross-language pairs takes that kind, unless alpha is 0 or 1 and excludes
    it. `pivot` is the language of `en-en`.

    Refused with `InputError`: alpha outside [0, 1], batch_size < 2, a seed outside 32 bits, an
    unknown pivot, fewer ids than a batch for a kind (for `x-x-mono`: in any language that has a
    same-language pair; for `x-y-pair`: in every pair), one language where two are needed.
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
        self.index, self.strategy, self.batch_size, self.seed = (
            index,
            Strategy(strategy),
            batch_size,
            seed,
        )
        self.alpha, self.num_batches = alpha, num_batches
        self.language_draw, self.pivot = LanguageDraw(language_draw), pivot
        if not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
            raise InputError(f"alpha must be in [0, 1], got {alpha!r}")
        if batch_size < 2:
            raise InputError(
                f"batch_size must be at least 2, got {batch_size}; a batch of one has no negatives"
            )
        if num_batches is not None and num_batches < 1:
            raise InputError(f"num_batches must be at least 1, got {num_batches}")
        if not 0 <= seed < 2**32:
            raise InputError(f"seed must be in [0, 2**32), got {seed}")
        if self.strategy == Strategy.EN_EN and pivot not in index.languages:
            raise InputError(
                f"unknown pivot {pivot!r}; this data has"
                f" {', '.join(index.languages) or 'no language'}"
            )
        kinds: tuple[Strategy, ...] = (self.strategy,)
        if self.strategy == Strategy.HYBRID:
            kinds = (Strategy.X_X_MONO,) * (alpha > 0) + (Strategy.X_Y,) * (alpha < 1)
        self.usable: Mask = np.zeros(len(index.row), bool)  # (ids,) the strategy can draw the id
        self.unreachable: list[str] = []  # languages, or ordered pairs, that no batch can come from
        self._pools = {kind: self._pools_of(kind) for kind in kinds}
        self._cached: tuple[int, BatchPlan] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Return everything that fixes the batches but the epoch, as JSON values by name; None has
        no meaning here.
        """
        return {
            "strategy": self.strategy.value,
            "alpha": (
                self.alpha if self.strategy in (Strategy.HYBRID, Strategy.HYBRID_ROW) else None
            ),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "num_batches": self.num_batches,
            "language_draw": self.language_draw.value,
            "pivot": self.pivot if self.strategy == Strategy.EN_EN else None,
            "data": self.index.fingerprint,
        }

    def reseeded(self, seed: int, num_batches: int | None) -> Self:
        """Return the same sampler, on the same arrays and at its beginning, with another seed and
        length.
        """
        other = copy.copy(self)
        other.seed, other.num_batches, other._cached = seed, num_batches, None
        other.epoch, other._place, other._start = 0, 0, 0
        return other

    def _length(self) -> int:
        return self.num_batches if self.num_batches is not None else len(self.plan().ids)

    def batches_from(self, start: int) -> Iterator[list[Row]]:
        """Yield the epoch's batches from number `start` on."""
        plan, row = self.plan(), self.index.row
        for at in range(start, len(plan.ids), _AHEAD):
            part = slice(at, at + _AHEAD)
            queries, passages = (
                row[plan.ids[part], plan.query_lang[part]],
                row[plan.ids[part], plan.doc_lang[part]],
            )
            for query, passage in zip(queries.tolist(), passages.tolist(), strict=True):
                yield list(zip(query, passage, strict=True))

    def plan(self) -> BatchPlan:
        """Return this epoch's batches; made at the first call and kept until the epoch changes."""
        if self._cached is None or self._cached[0] != self.epoch:
            self._cached = (self.epoch, self._make_plan())
        return self._cached[1]

    def describe(self) -> pd.DataFrame:
        """Return what this epoch realises: batch, kind, query_lang, doc_lang and the number of such
        pairs.
        """
        plan, langs = self.plan(), len(self.index.languages)
        batch = np.repeat(np.arange(len(plan.ids)), self.batch_size)
        key = (batch * langs + plan.query_lang.ravel()) * langs + plan.doc_lang.ravel()
        values, pairs = np.unique(key, return_counts=True)
        batch, name = values // langs**2, np.array(self.index.languages, object)
        kind = np.array([kind.value for kind in plan.kinds], object)[batch]
        columns = {
            "batch": batch,
            "kind": kind,
            "query_lang": name[values // langs % langs],
            "doc_lang": name[values % langs],
        }
        return pd.DataFrame({**columns, "pairs": pairs})

    @property
    def negatives(self) -> int:
        """Return the hard negatives per pair of the index."""
        return self.index.negative.shape[2]

    def report(self) -> dict[str, Any]:
        """Return the settings and counts of this epoch, as JSON values.

        `never`: ids without any pair that the strategy can draw; `dropped`: usable ids that this
        epoch does not visit; `unreachable`: languages of `x-x-mono` and ordered pairs of `x-y-pair`
        that no batch can come from; `one_kind`: usable ids of `hybrid-row` that cannot follow
        alpha; `without_negatives`: passages, by id and language, that are not drawn for want of
        hard negatives.
        """
        plan, usable = self.plan(), int(self.usable.sum())
        same, cross = self._kinds_offered(slice(None))
        rows = self.strategy == Strategy.HYBRID_ROW
        return {
            **self.settings,
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

    def _pools_of(self, kind: Strategy) -> list[_Pool]:
        """Return the pools that can fill a batch of this kind; note who is in them, and which
        cannot.
        """
        pools, langs, thin = [], self.index.languages, 0
        for masks, query_lang, doc_lang in self._candidates(kind):
            members = np.logical_and.reduce(masks)
            size = int(members.sum())
            mono = query_lang == doc_lang
            if size >= self.batch_size:
                pools.append(_Pool(masks, size, query_lang, doc_lang))
                self.usable |= members
            elif kind == Strategy.X_Y_PAIR or (kind == Strategy.X_X_MONO and not size):
                self.unreachable.append(
                    langs[query_lang] if mono else f"{langs[query_lang]}->{langs[doc_lang]}"
                )
                thin = max(thin, size)
            else:
                where = "" if query_lang < 0 else f"in {langs[query_lang]} "
                raise InputError(
                    f"batch_size {self.batch_size} exceeds the {size} ids {where}that {kind.value}"
                    " can draw; lower it or add ids"
                )
        if not pools:
            raise InputError(
                f"batch_size {self.batch_size} exceeds the {thin} ids of the largest language pair;"
                " lower it or add ids"
            )
        return pools

    def _candidates(self, kind: Strategy) -> Iterator[tuple[tuple[Mask, ...], int, int]]:
        """Yield (masks, query_lang, doc_lang) of every pool that the kind could draw from, as in
        `_Pool`.
        """
        langs, query, passage = self.index.languages, self.index.has_query, self.index.servable()
        rows = kind == Strategy.HYBRID_ROW
        wanted = {
            "one language": kind in (Strategy.X_X, Strategy.X_X_MONO) or (rows and self.alpha > 0),
            "two different languages": (
                kind in (Strategy.X_Y, Strategy.X_Y_PAIR) or (rows and self.alpha < 1)
            ),
        }
        if wanted["two different languages"] and len(langs) < 2:
            raise InputError(
                f"{self.strategy.value} needs at least two languages, got"
                f" {', '.join(langs) or 'none'}"
            )
        offered = dict(zip(wanted, self._kinds_offered(slice(None)), strict=True))
        for where in wanted:
            if wanted[where] and not offered[where].any():
                with_negatives = f" with {self.negatives} hard negatives" if self.negatives else ""
                raise InputError(
                    f"no usable id for {self.strategy.value}: none has a query and a"
                    f" passage{with_negatives} in {where}"
                )
        if kind in (Strategy.X_X_MONO, Strategy.EN_EN):
            same = np.asfortranarray(query & passage)  # read by column
            for lang in (
                range(len(langs)) if kind == Strategy.X_X_MONO else [langs.index(self.pivot)]
            ):
                yield (same[:, lang],), lang, lang
        elif kind == Strategy.X_Y_PAIR:
            query, passage = np.asfortranarray(query), np.asfortranarray(passage)
            for query_lang, doc_lang in permutations(range(len(langs)), 2):
                yield (query[:, query_lang], passage[:, doc_lang]), query_lang, doc_lang
        else:
            yield (
                (np.logical_or.reduce([offered[where] for where in wanted if wanted[where]]),),
                -1,
                -1,
            )

    def _kinds_offered(self, ids: Ints | slice) -> tuple[Mask, Mask]:
        """Say which ids have a pair in one language, and which one in two different languages, each
        (len(ids),).
        """
        query, passage = self.index.has_query[ids], self.index.servable(ids)
        same = (query & passage).sum(axis=1)
        return same > 0, query.sum(axis=1) * passage.sum(axis=1) > same

    def _make_plan(self) -> BatchPlan:
        ids: list[Ints] = []
        kinds: list[Strategy] = []
        languages: list[tuple[Codes, Codes]] = []
        most = (
            len(self.usable) // self.batch_size + 1
            if self.num_batches is None
            else self.num_batches
        )
        first, last = next(iter(self._pools)), next(reversed(self._pools))
        # drawn by batch, not by pass: a kind that ends a pass opens the next
        wanted = [first if u < self.alpha else last for u in self._uniform(0, "kinds", most)]
        drawn: _Pool | None = None  # ended the pass before, and opens the next
        for number in count():
            start = len(ids)
            pools: list[_Pool] = []
            for kind, pool, batch in self._pass(number, wanted[start:], drawn):
                drawn = pool if batch is None else None
                if batch is None:
                    break
                ids.append(batch)
                kinds.append(kind)
                pools.append(pool)
            if len(ids) == start:
                raise InputError(
                    f"no {self.strategy.value} batch of {self.batch_size} can be filled: too many"
                    " ids share passages; lower batch_size"
                )
            languages += self._languages(number, np.stack(ids[start:]), pools)
            if self.num_batches is None or len(ids) == self.num_batches:
                break
        query_lang, doc_lang = (np.concatenate(part) for part in zip(*languages, strict=True))
        return BatchPlan(np.stack(ids), query_lang, doc_lang, tuple(kinds), number + 1)

    def _pass(
        self, number: int, wanted: list[Strategy], drawn: _Pool | None
    ) -> Iterator[tuple[Strategy, _Pool, Ints | None]]:
        """Yield (kind, pool, ids), a batch per entry of `wanted`, until one cannot be filled.

        `drawn` is the pool of the first, where it is known. The last ids may be None: their pool is
        to open the next pass.
        """
        size = len(self.usable)
        order = _argsort(self._bits(number, "ids", size))
        most = size // self.batch_size + sum(
            map(len, self._pools.values())
        )  # each draw fills a batch or ends a pool
        draws = iter(self._uniform(number, "languages", most))
        free = np.ones(size, bool)
        queues = {
            kind: [_Queue(pool, order, free) for pool in pools]
            for kind, pools in self._pools.items()
        }
        ended: dict[Strategy, list[_Queue]] = {kind: [] for kind in queues}
        for place, kind in enumerate(wanted):
            filled = self._fill(queues[kind], ended[kind], draws, drawn, opening=not place)
            drawn = None
            if filled is None and self.num_batches is None and len(queues) > 1:
                kind = next(k for k in queues if k != kind)
                filled = self._fill(queues[kind], ended[kind], draws, None, opening=not place)
            if filled is None:
                return
            yield kind, *filled
            if filled[1] is not None:
                free[filled[1]] = False

    def _fill(
        self,
        queues: list["_Queue"],
        ended: list["_Queue"],
        draws: Iterator[float],
        drawn: _Pool | None,
        *,
        opening: bool,
    ) -> tuple[_Pool, Ints | None] | None:
        """Fill a batch from the pool `drawn`, or from one drawn by `language_draw`, and move the
        pools that cannot to `ended`.

        A single pass asks these again once no other is left: an id that shared passages with those
        that wait there may since have been drawn elsewhere. Among unlimited passes the first that
        cannot, while another could, is returned without ids; not at the opening of a pass, since
        the next one would fare no better.
        """
        while queues:
            if drawn is not None:
                chosen = next(at for at, queue in enumerate(queues) if queue.pool is drawn)
            else:
                chosen = self._choose(queues, next(draws)) if len(queues) > 1 else 0
            drawn = None
            queue = queues[chosen]
            if (ids := self._take(queue)) is not None:
                return queue.pool, ids
            ended.append(queues.pop(chosen))
            if (
                self.num_batches is not None
                and not opening
                and any(self._take(other) is not None for other in queues)
            ):
                return queue.pool, None
        for queue in ended if self.num_batches is None else ():
            if (ids := self._take(queue)) is not None:
                return queue.pool, ids
        return None

    def _take(self, queue: "_Queue") -> Ints | None:
        """Return the ids of a batch from one pool, None where they are too few."""
        want, ids = self.batch_size, np.empty(0, np.int32)
        while len(ids) < self.batch_size:
            candidates = queue.peek(want)
            ids = self.index.without_clashes(candidates[:want])  # more wait than are needed
            if len(candidates) < want:
                break
            want *= 2
        # a view would keep all that waits in memory
        return ids[: self.batch_size].copy() if len(ids) >= self.batch_size else None

    def _choose(self, queues: list["_Queue"], draw: float) -> int:
        """Return the position of the queue that a number in [0, 1) stands for."""
        if self.language_draw == LanguageDraw.UNIFORM:
            return int(draw * len(queues))
        upto = np.cumsum([queue.pool.size for queue in queues])
        return int(np.searchsorted(upto, draw * upto[-1], side="right"))

    def _languages(
        self, number: int, ids: Ints, pools: list[_Pool]
    ) -> Iterator[tuple[Codes, Codes]]:
        """Yield (query_lang, doc_lang), each (batches, batch_size), for blocks of a pass's
        batches.
        """
        bits = self._bits(number, "pairs", len(self.usable))
        of_batch = np.array([(pool.query_lang, pool.doc_lang) for pool in pools])  # (batches, 2)
        step = max(1, _BLOCK // self.batch_size)
        for start in range(0, len(ids), step):
            block, langs = ids[start : start + step], of_batch[start : start + step]
            own = langs[:, 0] < 0  # every pair of the batch has its own languages
            pair = np.repeat(langs[:, :, None], self.batch_size, axis=2)  # (batches, 2, batch_size)
            if own.any():
                flat = block[own].ravel()
                pair[own] = (
                    np.stack(self._draw_pairs(flat, bits[flat]))
                    .reshape(2, -1, self.batch_size)
                    .swapaxes(0, 1)
                )
            query_lang, doc_lang = pair.astype(np.uint8).swapaxes(0, 1)
            yield query_lang, doc_lang

    def _draw_pairs(self, ids: Ints, bits: Bits) -> tuple[Ints, Ints]:
        """Return (query_lang, doc_lang) of each id, by its bits."""
        if self.strategy == Strategy.X_X:
            return self._same_pairs(ids, bits)
        if self.strategy != Strategy.HYBRID_ROW:
            return self._cross_pairs(ids, bits)
        has_same, has_cross = self._kinds_offered(ids)
        same = has_same & (((bits & _LOWER) < self.alpha * 2.0**32) | ~has_cross)
        pair = np.empty((2, len(ids)), np.int32)
        pair[:, same] = self._same_pairs(ids[same], bits[same])
        pair[:, ~same] = self._cross_pairs(ids[~same], bits[~same])
        return pair[0], pair[1]

    def _same_pairs(self, ids: Ints, bits: Bits) -> tuple[Ints, Ints]:
        same = self.index.has_query[ids] & self.index.servable(ids)
        lang = _nth(same, _scale(bits, same.sum(axis=1)))
        return lang, lang

    def _cross_pairs(self, ids: Ints, bits: Bits) -> tuple[Ints, Ints]:
        query, passage = self.index.has_query[ids], self.index.servable(ids)  # (n, languages)
        partners = query * (
            passage.sum(axis=1, keepdims=True) - passage
        )  # passages that a query of the language may meet
        upto = partners.cumsum(axis=1)
        which = _scale(bits, upto[:, -1])
        query_lang = (upto > which[:, None]).argmax(axis=1)
        rows = np.arange(len(ids))
        which -= (upto - partners)[rows, query_lang]
        passage[rows, query_lang] = False
        return query_lang.astype(np.int32), _nth(passage, which)

    def _bits(self, number: int, purpose: str, size: int) -> Bits:
        return random_bits(self.seed, self.epoch, number, purpose, size)

    def _uniform(self, number: int, purpose: str, size: int) -> npt.NDArray[np.float64]:
        return to_unit(self._bits(number, purpose, size))


class _Queue:
    """The ids of one pool in the pass's order; every id is looked at once, however long it
    waits.
    """

    def __init__(self, pool: _Pool, order: Ints, free: Mask):
        self.pool, self.order, self.free = pool, order, free
        self.head = 0
        self.waiting = order[:0]

    def peek(self, want: int) -> Ints:
        """Return the first unused ids, in order: at least `want` of them, or all that are left."""
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


def random_bits(seed: int, epoch: int, number: int, purpose: str, size: int) -> Bits:
    """Return 64 random bits each, a function of (seed, epoch, pass number, purpose) alone."""
    entropy = np.random.SeedSequence([seed, epoch, number, zlib.crc32(purpose.encode())])
    return np.random.Philox(entropy).random_raw(size)


def _argsort(bits: Bits) -> Ints:
    """Sort stably, with numpy's faster unstable sort of 64 bits where that gives the same."""
    order = np.argsort(bits)
    ordered = bits[order]
    if (ordered[1:] == ordered[:-1]).any():
        order = np.argsort(bits, kind="stable")
    return order.astype(np.int32)


def to_unit(bits: Bits) -> npt.NDArray[np.float64]:
    """Map random bits to uniform numbers in [0, 1)."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _nth(mask: Mask, which: npt.NDArray[np.int64]) -> Ints:
    """Return the column of the `which`-th (from 0) true entry of each row."""
    return np.asarray((mask.cumsum(axis=1) > which[:, None]).argmax(axis=1), np.int32)


def _scale(bits: Bits, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Map the upper 32 bits to a uniform integer below each size."""
    return (((bits >> np.uint64(32)) * sizes.astype(np.uint64)) >> np.uint64(32)).astype(np.int64)
