"""What a sampler needs of a `PairTable`: row numbers and passage codes in place of texts.

Two ids may not stand in one batch if a passage of one would answer the query of the other (paper
section 2: the other passages of a batch are its negatives). Parallel data makes this a question of
ids, not of texts: a passage of the other id counts in every language. `PairIndex.without_clashes`
is that rule; it is the same for every strategy.

The module reads each text once, for a 64-bit fingerprint. It knows no strategy, no batch and no
model.
"""

import hashlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from xxhash import xxh3_64_intdigest

from xir_lib.data.records import PairTable
from xir_lib.errors import InputError

Ints = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
Bits = npt.NDArray[np.uint64]

_BLOCK = (
    1 << 16
)  # rows that are expanded at a time, so that transient memory does not grow with the data


@dataclass(frozen=True, eq=False)
class PairIndex:
    """A `PairTable` without its texts: 9 bytes per (id, language), 4 more per negative, and 1 per
    id.

    `row` is the row number in the table, -1 where the id lacks the language. `passage` is the code
    of the passage, -1 without one; two entries have the same code if they have the same (language,
    passage_id) or the same text. `negative` holds the first n hard negatives in the same codes, -1
    where the passage lacks them.
    """

    languages: tuple[str, ...]
    row: Ints  # (ids, languages)
    has_query: Mask  # (ids, languages)
    passage: Ints  # (ids, languages)
    negative: Ints  # (ids, languages, n)
    shares: Mask  # (ids,) the id may clash with another id
    fingerprint: str  # of all of the above and of the texts of passages and negatives

    @classmethod
    def from_table(cls, pairs: PairTable, *, negatives: int = 0) -> "PairIndex":
        """Index a table; ids keep their order of first appearance, languages are alphabetical.

        With `negatives` = n a row serves as passage only with n negatives of its own, the first n
        of its list, none of them a passage of its id in any language; its passage counts in clashes
        all the same. At 70 million passages the chance that the fingerprints of any two different
        texts meet is 1e-4, and the price would be one needlessly deferred id.
        """
        table, languages = pairs.table, tuple(pairs.languages)
        if len(languages) > 255:
            raise InputError(f"{len(languages)} languages; at most 255 fit a sampler's codes")
        if negatives < 0:
            raise InputError(f"negatives must be at least 0, got {negatives}")
        if negatives and "negatives" not in table.column_names:
            raise InputError(
                f"negatives is {negatives}, but the pair table has no column negatives; add it or"
                " set 0"
            )
        ids = pairs.id_codes
        lang = pc.index_in(table["lang"], pa.array(languages, pa.string())).to_numpy()
        shape = (int(ids.max(initial=-1)) + 1, len(languages))
        row, passage = np.full(shape, -1, np.int32), np.full(shape, -1, np.int32)
        negative, has_query = np.full((*shape, negatives), -1, np.int32), np.zeros(shape, bool)
        row[ids, lang] = np.arange(len(ids), dtype=np.int32)
        has_query[ids, lang] = table["query"].is_valid().to_numpy()
        present = table["passage"].is_valid().to_numpy()
        enough = present & _at_least(table, negatives)
        texts = _fingerprints(table["passage"])[present]
        negative_texts = _negative_fingerprints(table, enough, negatives)
        passage_codes, negative_codes = _passage_codes(table, lang, present, texts, negative_texts)
        passage[ids[present], lang[present]] = passage_codes
        negative[ids[enough], lang[enough]] = negative_codes
        for column in passage.T:  # a passage of the id itself is no negative for its queries
            negative[((negative == column[:, None, None]) & (negative >= 0)).any(axis=2)] = -1
        fingerprint = hashlib.blake2b(",".join(languages).encode(), digest_size=8)
        for part in (row, has_query, passage, negative, texts, negative_texts):
            fingerprint.update(part.ravel().data)
        return cls(
            languages,
            row,
            has_query,
            passage,
            negative,
            _sharing(passage, negative),
            fingerprint.hexdigest(),
        )

    def servable(self, ids: Ints | slice = slice(None)) -> Mask:
        """Say which (id, language) can be drawn as passage, shape (len(ids), languages)."""
        needed = self.negative[ids, :, -1] if self.negative.shape[2] else self.passage[ids]
        return np.asarray(needed >= 0)

    def without_clashes(self, ids: Ints) -> Ints:
        """Drop every id that clashes, in any language, with a kept id before it.

        Two ids clash if they share a passage, or if a negative of one is a passage of the other.
        """
        (suspects,) = self.shares[ids].nonzero()
        if len(suspects) < 2:
            return ids
        codes = self.passage[ids[suspects]]  # (suspects, languages)
        if self.negative.shape[2]:
            codes = np.hstack(
                [codes, self.negative[ids[suspects]].reshape(len(suspects), -1)]
            )  # (, languages * (1 + n))
        ordered = np.sort(codes, axis=None)
        repeated = ordered[1:][(ordered[1:] == ordered[:-1]) & (ordered[1:] >= 0)]
        if not len(repeated):
            return ids
        touched = np.isin(codes, repeated).any(axis=1)
        taken: set[int] = set()  # passages of the kept ids
        barred: set[int] = set()  # their negatives
        keep = np.ones(len(ids), bool)
        for position, row in zip(suspects[touched].tolist(), codes[touched].tolist(), strict=True):
            own, against = set(row[: len(self.languages)]) - {-1}, row[len(self.languages) :]
            if taken.isdisjoint(own) and taken.isdisjoint(against) and barred.isdisjoint(own):
                taken |= own
                barred.update(against)
            else:
                keep[position] = False
        return ids[keep]


def _sharing(passage: Ints, negative: Ints) -> Mask:
    """Say which ids have a passage code that another id has too, as passage or as negative."""
    ids, lang = np.nonzero(passage >= 0)
    codes = passage[ids, lang]
    owner = np.full(int(max(codes.max(initial=-1), negative.max(initial=-1))) + 1, -1, np.int32)
    owner[codes] = ids
    common = np.zeros(len(owner) + 1, bool)  # the last place is that of -1
    common[codes[owner[codes] != ids]] = True
    against = negative[negative >= 0]
    common[against[owner[against] >= 0]] = True
    return np.asarray(common[passage].any(axis=1) | common[negative].any(axis=(1, 2)))


def _passage_codes(
    table: pa.Table, lang: Ints, present: Mask, texts: Bits, negative_texts: Bits
) -> tuple[Ints, Ints]:
    """Number the passages and the negatives: equal for equal texts, and for passages of equal
    (lang, passage_id).

    `texts` are the fingerprints of the `present` rows' passages, `negative_texts` those of
    negatives, (rows, n).
    """
    text = pd.factorize(np.concatenate([texts, negative_texts.ravel()]))[0].astype(np.int32)
    passage, negative = text[: len(texts)], text[len(texts) :].reshape(negative_texts.shape)
    if table["passage_id"].null_count == len(table):
        return passage, negative
    named = _fingerprints(table["passage_id"])[present] + lang[present].astype(
        np.uint64
    ) * np.uint64(0x9E3779B97F4A7C15)
    name = pd.factorize(
        np.where(
            table["passage_id"].is_valid().to_numpy()[present], named, passage.astype(np.uint64)
        )
    )[0]
    text_of = np.empty(int(name.max(initial=-1)) + 1, text.dtype)
    text_of[name] = passage
    if (text_of[name] == passage).all():  # the rule: a passage id stands for one text
        return passage, negative
    size = int(text.max()) + 1
    edges = coo_array(
        (np.ones(len(passage), bool), (passage, size + name)), shape=(size + len(text_of),) * 2
    )
    group = connected_components(edges, directed=False)[1]
    return group[passage], group[negative]


def _fingerprints(column: pa.ChunkedArray) -> Bits:
    """Return a 64-bit hash of each text (of the empty text for a null), stable across processes."""
    result = np.empty(len(column), np.uint64)
    done = 0
    for chunk in column.chunks:
        for start in range(0, len(chunk), _BLOCK):
            block = pc.fill_null(chunk.slice(start, _BLOCK), "")
            _, ends, texts = (
                block.buffers()
            )  # bytes out of Arrow's own memory: no Python string is made
            ends = np.frombuffer(ends, np.int32)[
                block.offset : block.offset + len(block) + 1
            ].tolist()
            texts = memoryview(texts or b"")
            result[done : done + len(block)] = [
                xxh3_64_intdigest(texts[a:b]) for a, b in pairwise(ends)
            ]
            done += len(block)
    return result


def _at_least(table: pa.Table, negatives: int) -> Mask:
    """Say which rows list that many negatives, shape (rows,)."""
    if not negatives:
        return np.zeros(len(table), bool)
    return np.asarray(
        pc.fill_null(pc.greater_equal(pc.list_value_length(table["negatives"]), negatives), False)
    )


def _negative_fingerprints(table: pa.Table, rows: Mask, negatives: int) -> Bits:
    """Return the hashes of the first `negatives` texts of the marked rows, shape (marked rows,
    negatives).
    """
    result = np.empty((int(rows.sum()), negatives), np.uint64)
    done = 0
    for start in range(0, len(rows) if negatives else 0, _BLOCK):
        block = (
            table["negatives"].slice(start, _BLOCK).filter(pa.array(rows[start : start + _BLOCK]))
        )
        texts = _fingerprints(pc.list_flatten(pc.list_slice(block, 0, negatives)))
        result[done : done + len(block)] = texts.reshape(-1, negatives)
        done += len(block)
    return result
