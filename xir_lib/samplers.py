"""Batch strategies: which pairs, in which languages, stand together in a training batch.

| strategy | a batch holds | source |
|---|---|---|
| `x-x-mono` | one language, drawn uniformly; queries and passages in it | LAReQA (Roy et al. 2020), paper section 3 |
| `x-y` | pairs with query language != passage language, languages mixed | the same |
| `x-x` | pairs with query language == passage language, languages mixed | LAReQA |
| `hybrid` | with probability alpha an `x-x-mono` batch, else an `x-y` batch | paper section 3 (arXiv 2408.10536) |

In batch contrastive training the other rows of a batch are the negatives, so a batch never holds two ids that share
a passage in any language: one row's passage would answer the other row's query. Such an id waits for a later batch.

A *pass* visits the ids in one random order. Every random number is a function of (seed, epoch, pass, purpose): the
order of the ids does not depend on the strategy, and `hybrid` with alpha 1 (0) is `x-x-mono` (`x-y`) batch for batch.
The numbers are Philox's raw bits, which numpy keeps stable across versions, unlike the methods of its `Generator`.

The module knows row numbers and language codes; it knows no text in the loop, no model and no trainer.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import count

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from xir_lib.corpora.records import PairTable
from xir_lib.errors import InputError

Ints = npt.NDArray[np.int32]
Codes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Bits = npt.NDArray[np.uint64]

_BLOCK = 1 << 16  # rows that are expanded at a time, so that transient memory does not grow with the data


class Strategy(StrEnum):
    """The strategies by the names that YAML, file names, tables and legends use."""

    X_X_MONO = "x-x-mono"
    X_Y = "x-y"
    X_X = "x-x"
    HYBRID = "hybrid"

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise InputError(f"unknown strategy {value!r}; known are {', '.join(s.value for s in cls)}")


@dataclass(frozen=True, eq=False)
class PairIndex:
    """What a sampler needs of a `PairTable`: 9 bytes per (id, language), and 1 per id; no text.

    `row` is the row number in the table, -1 where the id lacks the language. `passage` is the code of the passage,
    -1 without one; two entries have the same code if they have the same (language, passage_id) or the same text.
    """

    languages: tuple[str, ...]
    row: Ints  # (ids, languages)
    has_query: Mask  # (ids, languages)
    passage: Ints  # (ids, languages)
    shares: Mask  # (ids,) the id shares a passage with another id

    @classmethod
    def from_table(cls, pairs: PairTable) -> "PairIndex":
        """Index a table; ids keep their order of first appearance, languages are alphabetical.

        Texts are read once, in blocks, for a 64-bit fingerprint (at 70 million passages the chance that any two
        different ones meet is 1e-4, and the price would be one needlessly deferred id).
        """
        table, languages = pairs.table, tuple(pairs.languages)
        if len(languages) > 255:
            raise InputError(f"{len(languages)} languages; at most 255 fit a sampler's codes")
        ids = pc.index_in(table["pair_id"], table["pair_id"].unique()).to_numpy()
        lang = pc.index_in(table["lang"], pa.array(languages, pa.string())).to_numpy()
        shape = (int(ids.max(initial=-1)) + 1, len(languages))
        row, passage = np.full(shape, -1, np.int32), np.full(shape, -1, np.int32)
        has_query = np.zeros(shape, bool)
        row[ids, lang] = np.arange(len(ids), dtype=np.int32)
        has_query[ids, lang] = table["query"].is_valid().to_numpy()
        present = table["passage"].is_valid().to_numpy()
        passage[ids[present], lang[present]] = _passage_codes(table, lang, present)
        return cls(languages, row, has_query, passage, _sharing(passage))

    @property
    def has_passage(self) -> Mask:
        """Say which (id, language) have a passage, shape (ids, languages)."""
        return self.passage >= 0

    def without_clashes(self, ids: Ints) -> Ints:
        """Drop every id that shares a passage, in any language, with a kept id before it."""
        suspects = np.flatnonzero(self.shares[ids])
        codes = self.passage[ids[suspects]]  # (suspects, languages)
        values, counts = np.unique(codes, return_counts=True)
        repeated = values[(counts > 1) & (values >= 0)]
        if not len(repeated):
            return ids
        touched = np.isin(codes, repeated).any(axis=1)
        taken: set[int] = set()
        keep = np.ones(len(ids), bool)
        for position, row in zip(suspects[touched].tolist(), codes[touched].tolist(), strict=True):
            own = set(row) - {-1}
            if taken.isdisjoint(own):
                taken |= own
            else:
                keep[position] = False
        return ids[keep]


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """The batches of one epoch, 6 bytes per drawn pair; languages are positions in `PairIndex.languages`."""

    ids: Ints  # (batches, batch_size) positions in the index
    query_lang: Codes  # (batches, batch_size)
    doc_lang: Codes  # (batches, batch_size)
    kinds: tuple[Strategy, ...]  # (batches,) never `hybrid`
    passes: int  # begun in this epoch


class StrategyBatchSampler:
    """Yield batches of (query_row, passage_row), row numbers of the `PairTable`, by one strategy.

    With `num_batches` an epoch has exactly that many batches and passes over the ids as often as that takes; a pass
    ends when the drawn kind of batch cannot be filled any more, so that alpha holds. Train with one such epoch:
    resuming is then a pure skip. Without it an epoch is one pass and ends when no kind can be filled; `hybrid` then
    goes on with the kind that is left. Either way an id appears at most once per pass.

    `x-x-mono` draws uniformly among the languages that can still fill a batch from the ids left in the pass; a
    language that could not is out until the next pass. `x-y` draws uniformly among the id's ordered language pairs,
    `x-x` among its languages; this draw belongs to (pass, id) and is the same at every alpha.

    Refused with `InputError`: alpha outside [0, 1], batch_size < 2, a seed outside 32 bits, fewer ids than a batch
    for a kind (for `x-x-mono`: in any language that has a same-language pair), one language where two are needed.
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
    ) -> None:
        self.index, self.strategy, self.batch_size, self.seed = index, Strategy(strategy), batch_size, seed
        self.alpha, self.num_batches, self.epoch = alpha, num_batches, 0
        self.drop_last = True  # read by accelerate; every batch is full
        if not 0 <= alpha <= 1:
            raise InputError(f"alpha must be in [0, 1], got {alpha}")
        if batch_size < 2:
            raise InputError(f"batch_size must be at least 2, got {batch_size}; a batch of one has no negatives")
        if num_batches is not None and num_batches < 1:
            raise InputError(f"num_batches must be at least 1, got {num_batches}")
        if not 0 <= seed < 2**32:
            raise InputError(f"seed must be in [0, 2**32), got {seed}")
        self._share = {Strategy.X_X_MONO: 1.0, Strategy.HYBRID: alpha}.get(self.strategy, 0.0)  # of x-x-mono batches
        self._other = Strategy.X_X if self.strategy == Strategy.X_X else Strategy.X_Y
        same = np.asfortranarray(index.has_query & index.has_passage)  # (ids, languages), read by column
        self._mono_langs = np.flatnonzero(same.any(axis=0))
        self._eligible: dict[Strategy, list[Mask]] = {}  # kind -> one mask (ids,) per pool that a batch comes from
        if self._share > 0:
            self._eligible[Strategy.X_X_MONO] = list(same.T[self._mono_langs])
        if self._share < 1:
            self._eligible[self._other] = [np.asarray(same.any(axis=1)) if self._other == Strategy.X_X else self._crossings()]
        self._refuse_unfillable()
        pools = np.stack([mask for masks in self._eligible.values() for mask in masks])  # (pools, ids)
        self.usable: Mask = np.asarray(pools.any(axis=0))  # (ids,)
        self._cached: tuple[int, BatchPlan] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; calling it twice changes nothing."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of batches that this epoch yields, exactly."""
        return self.num_batches if self.num_batches is not None else len(self.plan().ids)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        plan, row = self.plan(), self.index.row
        for ids, query_lang, doc_lang in zip(plan.ids, plan.query_lang, plan.doc_lang, strict=True):
            yield list(zip(row[ids, query_lang].tolist(), row[ids, doc_lang].tolist(), strict=True))

    def plan(self) -> BatchPlan:
        """Return this epoch's batches; made at the first call and kept until the epoch changes."""
        if self._cached is None or self._cached[0] != self.epoch:
            self._cached = (self.epoch, self._make_plan())
        return self._cached[1]

    def describe(self) -> pd.DataFrame:
        """Return what this epoch realises: batch, kind, query_lang, doc_lang and the number of such pairs."""
        plan, langs = self.plan(), len(self.index.languages)
        batch = np.repeat(np.arange(len(plan.ids)), self.batch_size)
        key = (batch * langs + plan.query_lang.ravel()) * langs + plan.doc_lang.ravel()
        values, pairs = np.unique(key, return_counts=True)
        batch, name = values // langs**2, np.array(self.index.languages, object)
        kind = np.array([kind.value for kind in plan.kinds], object)[batch]
        columns = {"batch": batch, "kind": kind, "query_lang": name[values // langs % langs], "doc_lang": name[values % langs]}
        return pd.DataFrame({**columns, "pairs": pairs})

    def report(self) -> dict[str, str | int | float]:
        """Return the settings and counts of this epoch.

        `never`: ids without any pair that the strategy can draw; `dropped`: usable ids that this epoch does not visit.
        """
        plan, usable = self.plan(), int(self.usable.sum())
        return {
            "strategy": self.strategy.value,
            "alpha": self._share,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "epoch": self.epoch,
            "batches": len(plan.ids),
            "mono_batches": sum(kind == Strategy.X_X_MONO for kind in plan.kinds),
            "passes": plan.passes,
            "ids": len(self.usable),
            "never": len(self.usable) - usable,
            "usable": usable,
            "dropped": usable - len(np.unique(plan.ids)),
        }

    def _make_plan(self) -> BatchPlan:
        ids: list[Ints] = []
        kinds: list[Strategy] = []
        languages: list[tuple[Codes, Codes]] = []
        most = len(self.usable) // self.batch_size + 1 if self.num_batches is None else self.num_batches
        mono = self._uniform(0, "kinds", most) < self._share  # by batch, not by pass: a kind that ends a pass opens the next
        for number in count():
            start = len(ids)
            cells: list[int] = []
            for kind, cell, batch in self._pass(number, mono[start:]):
                ids.append(batch)
                kinds.append(kind)
                cells.append(cell)
            if len(ids) == start:
                raise InputError(
                    f"no {self.strategy.value} batch of {self.batch_size} can be filled: too many ids share passages; "
                    "lower batch_size"
                )
            languages += self._languages(number, np.stack(ids[start:]), kinds[start:], cells)
            if self.num_batches is None or len(ids) == self.num_batches:
                break
        query_lang, doc_lang = (np.concatenate(part) for part in zip(*languages, strict=True))
        return BatchPlan(np.stack(ids), query_lang, doc_lang, tuple(kinds), number + 1)

    def _pass(self, number: int, mono: Mask) -> Iterator[tuple[Strategy, int, Ints]]:
        """Yield (kind, pool, ids), a batch per entry of `mono`, until one cannot be filled."""
        size = len(self.usable)
        order = np.argsort(self._bits(number, "ids", size), kind="stable").astype(np.int32)
        draws = iter(self._uniform(number, "languages", size // self.batch_size + 256))  # each fills a batch or ends a pool
        used = np.zeros(size, bool)
        queues = {k: {i: _Queue(order[m[order]], used) for i, m in enumerate(masks)} for k, masks in self._eligible.items()}
        for wanted in mono:
            kind = Strategy.X_X_MONO if wanted else self._other
            filled = self._fill(queues[kind], draws)
            if filled is None and self.num_batches is None and len(queues) > 1:
                kind = next(k for k in queues if k != kind)
                filled = self._fill(queues[kind], draws)
            if filled is None:
                return
            used[filled[1]] = True
            yield kind, *filled

    def _fill(self, queues: dict[int, "_Queue"], draws: Iterator[float]) -> tuple[int, Ints] | None:
        """Fill a batch from a uniformly drawn pool, and remove the pools that cannot."""
        while queues:
            pool = list(queues)[int(next(draws) * len(queues)) if len(queues) > 1 else 0]
            want, ids = self.batch_size, np.empty(0, np.int32)
            while len(ids) < self.batch_size:
                candidates = queues[pool].peek(want)
                ids = self.index.without_clashes(candidates)
                if len(candidates) < want:
                    break
                want *= 2
            if len(ids) >= self.batch_size:
                return pool, ids[: self.batch_size]
            del queues[pool]
        return None

    def _languages(self, number: int, ids: Ints, kinds: list[Strategy], cells: list[int]) -> Iterator[tuple[Codes, Codes]]:
        """Yield (query_lang, doc_lang), each (batches, batch_size), for blocks of a pass's batches."""
        bits = self._bits(number, "pairs", len(self.usable)) >> np.uint64(32)
        mono = np.array([kind == Strategy.X_X_MONO for kind in kinds])
        step = max(1, _BLOCK // self.batch_size)
        for start in range(0, len(ids), step):
            part = slice(start, start + step)
            query_lang = np.empty(ids[part].shape, np.uint8)
            doc_lang = np.empty(ids[part].shape, np.uint8)
            if mono[part].any():
                langs = self._mono_langs[np.array(cells[part])[mono[part]]][:, None]
                query_lang[mono[part]] = doc_lang[mono[part]] = langs
            if not mono[part].all():
                flat = ids[part][~mono[part]].ravel()
                draw = self._same_pairs if self._other == Strategy.X_X else self._cross_pairs
                query, doc = draw(flat, bits[flat])
                query_lang[~mono[part]] = query.reshape(-1, self.batch_size)
                doc_lang[~mono[part]] = doc.reshape(-1, self.batch_size)
            yield query_lang, doc_lang

    def _same_pairs(self, ids: Ints, bits: Bits) -> tuple[Ints, Ints]:
        same = self.index.has_query[ids] & (self.index.passage[ids] >= 0)
        lang = _nth(same, _scale(bits, same.sum(axis=1)))
        return lang, lang

    def _cross_pairs(self, ids: Ints, bits: Bits) -> tuple[Ints, Ints]:
        query, passage = self.index.has_query[ids], self.index.passage[ids] >= 0  # (n, languages)
        partners = query * (passage.sum(axis=1, keepdims=True) - passage)  # passages that a query of the language may meet
        upto = partners.cumsum(axis=1)
        which = _scale(bits, upto[:, -1])
        query_lang = (upto > which[:, None]).argmax(axis=1)
        rows = np.arange(len(ids))
        which -= (upto - partners)[rows, query_lang]
        passage[rows, query_lang] = False
        return query_lang.astype(np.int32), _nth(passage, which)

    def _crossings(self) -> Mask:
        """Say which ids have a query and a passage in different languages, shape (ids,)."""
        query, passage = self.index.has_query, self.index.has_passage
        q, p = query.sum(axis=1), passage.sum(axis=1)
        return q * p > (query & passage).sum(axis=1)

    def _refuse_unfillable(self) -> None:
        langs, size = self.index.languages, self.batch_size
        for kind, masks in self._eligible.items():
            if kind == Strategy.X_Y and len(langs) < 2:
                raise InputError(f"{self.strategy.value} needs at least two languages, got {', '.join(langs) or 'none'}")
            if not any(mask.any() for mask in masks):
                where = "two different languages" if kind == Strategy.X_Y else "one language"
                raise InputError(f"no usable id for {self.strategy.value}: none has a query and a passage in {where}")
            for pool, mask in enumerate(masks):
                if (have := int(mask.sum())) < size:
                    where = f"in {langs[self._mono_langs[pool]]} " if kind == Strategy.X_X_MONO else ""
                    raise InputError(
                        f"batch_size {size} exceeds the {have} ids {where}that {kind.value} can draw; lower it or add ids"
                    )

    def _bits(self, number: int, purpose: str, size: int) -> Bits:
        """Return 64 random bits each, a function of (seed, epoch, pass number, purpose) alone."""
        entropy = np.random.SeedSequence([self.seed, self.epoch, number, zlib.crc32(purpose.encode())])
        return np.random.Philox(entropy).random_raw(size)

    def _uniform(self, number: int, purpose: str, size: int) -> npt.NDArray[np.float64]:
        return (self._bits(number, purpose, size) >> np.uint64(11)).astype(np.float64) * 2.0**-53  # in [0, 1)


class _Queue:
    """The ids of one pool in the pass's order; every id is looked at once, however long it waits."""

    def __init__(self, order: Ints, used: Mask):
        self.order, self.used = order, used
        self.head = 0
        self.waiting = order[:0]

    def peek(self, want: int) -> Ints:
        """Return the first unused ids, in order: at least `want` of them, or all that are left."""
        waiting = self.waiting[~self.used[self.waiting]]
        while len(waiting) < want and self.head < len(self.order):
            chunk = self.order[self.head : self.head + 2 * want]
            self.head += len(chunk)
            waiting = np.concatenate([waiting, chunk[~self.used[chunk]]])
        self.waiting = waiting
        return waiting


def _nth(mask: Mask, which: npt.NDArray[np.int64]) -> Ints:
    """Return the column of the `which`-th (from 0) true entry of each row."""
    return (mask.cumsum(axis=1) > which[:, None]).argmax(axis=1).astype(np.int32)


def _scale(bits: Bits, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Map 32 random bits to a uniform integer below each size."""
    return ((bits * sizes.astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


def _sharing(passage: Ints) -> Mask:
    """Say which ids have a passage code that another id has too."""
    ids, lang = np.nonzero(passage >= 0)
    codes = passage[ids, lang]
    owner = np.empty(int(codes.max(initial=-1)) + 1, np.int32)
    owner[codes] = ids
    common = np.zeros(len(owner), bool)
    common[codes[owner[codes] != ids]] = True
    shares = np.zeros(len(passage), bool)
    shares[ids[common[codes]]] = True
    return shares


def _passage_codes(table: pa.Table, lang: Ints, present: Mask) -> Ints:
    """Number the passages: equal for equal (lang, passage_id), and for equal texts, of the `present` rows."""
    text = pd.factorize(_fingerprints(table["passage"])[present])[0]
    named = _fingerprints(table["passage_id"])[present] + lang[present].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    name = pd.factorize(np.where(table["passage_id"].is_valid().to_numpy()[present], named, text.astype(np.uint64)))[0]
    text_of = np.empty(int(name.max(initial=-1)) + 1, text.dtype)
    text_of[name] = text
    if (text_of[name] == text).all():  # the rule: a passage id stands for one text
        return text.astype(np.int32)
    texts = int(text.max()) + 1
    edges = coo_array((np.ones(len(text), bool), (text, texts + name)), shape=(texts + len(text_of),) * 2)
    return connected_components(edges, directed=False)[1][text]


def _fingerprints(column: pa.ChunkedArray) -> Bits:
    """Return a 64-bit hash of each text (of the empty text for a null), stable across processes."""
    result = np.empty(len(column), np.uint64)
    for start in range(0, len(column), _BLOCK):
        block = pc.fill_null(column.slice(start, _BLOCK), "").to_numpy()
        result[start : start + _BLOCK] = pd.util.hash_array(np.asarray(block, object), categorize=False)
    return result
