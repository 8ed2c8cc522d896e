"""What a sampler needs of a `PairTable`: row numbers and passage codes in place of texts.

In batch contrastive training the passages of the other rows are a row's negatives (arXiv
2408.10536, section 2). So two ids may not stand in one batch if a passage of one would answer the
query of the other. Parallel data makes this a question of ids, not of texts: a passage of the other
id counts in every language. `PairIndex.without_clashes` is that rule, the same for every strategy.

Each text is read once, for a 64-bit hash. The module knows no strategy, no batch and no model.
"""

from collections.abc import Iterator
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

_BLOCK = 1 << 16  # rows read at a time, so that transient memory does not grow with the data


@dataclass(frozen=True, eq=False)
class PairIndex:
    """A `PairTable` without its texts: 9 bytes per (id, language), 4 more per negative.

    Two entries of `passage` are equal if they have the same text, or the same passage_id in the
    same language. Negatives have the same codes. -1 stands for what is missing.

    Two ids, the first with a question in German alone:

    >>> import pyarrow as pa
    >>> from xir_lib.data.records import PAIR_SCHEMA
    >>> rows = [("rain", "de", "Regnet es?", "r", "Es regnet."),
    ...         ("rain", "en", None, "r", "It rains."),
    ...         ("snow", "en", "Snow?", "s", "It snows.")]
    >>> names = ("pair_id", "lang", "query", "passage_id", "passage")
    >>> rows = [dict(zip(names, row)) | {"group": row[0]} for row in rows]
    >>> pairs = PairTable(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA))
    >>> index = PairIndex.from_table(pairs)
    >>> index.languages
    ('de', 'en')
    >>> index.row.tolist()  # by id and language
    [[0, 1], [-1, 2]]
    >>> [kinds.tolist() for kinds in index.offered()]  # one language, two different ones
    [[True, True], [True, False]]
    """

    languages: tuple[str, ...]
    row: Ints  # (ids, languages) the number of the row in the table
    has_query: Mask  # (ids, languages)
    passage: Ints  # (ids, languages)
    negative: Ints  # (ids, languages, n) the first n hard negatives of the passage
    shares: Mask  # (ids,) the id may clash with another id

    @classmethod
    def from_table(cls, pairs: PairTable, *, negatives: int = 0) -> "PairIndex":
        """Index a table; ids keep their order of first appearance, languages are alphabetical.

        With `negatives` = n a row serves as passage only with n negatives of its own, none of them
        a passage of its id in any language; its passage counts in clashes all the same. At 70
        million passages the chance that two different texts have one hash is 1e-4; the price would
        be an id that waits without need.
        """
        table, languages = pairs.table, tuple(pairs.languages)
        _refuse_bad_input(table, languages, negatives)

        # 1. Where every (id, language) stands in the table, and what it has.
        ids = pairs.id_codes  # (rows,)
        lang = pc.index_in(table["lang"], pa.array(languages, pa.string())).to_numpy()
        present = table["passage"].is_valid().to_numpy()
        enough = present
        if negatives:
            listed = pc.greater_equal(pc.list_value_length(table["negatives"]), negatives)
            enough = present & pc.fill_null(listed, False).to_numpy()

        # 2. The same number for the same passage, whether it is one or a negative.
        texts = _hashes(table["passage"])[present]
        negative_texts = _negative_hashes(table, enough, negatives)
        codes = _passage_codes(table, lang, present, texts, negative_texts)

        # 3. From rows to (ids, languages).
        shape = (int(ids.max(initial=-1)) + 1, len(languages))
        row, passage = np.full(shape, -1, np.int32), np.full(shape, -1, np.int32)
        has_query, negative = np.zeros(shape, bool), np.full((*shape, negatives), -1, np.int32)
        row[ids, lang] = np.arange(len(ids), dtype=np.int32)
        has_query[ids, lang] = table["query"].is_valid().to_numpy()
        passage[ids[present], lang[present]] = codes[0]
        negative[ids[enough], lang[enough]] = codes[1]

        # 4. A passage of the id itself is no negative for its queries.
        for own in passage.T:
            same = (negative == own[:, None, None]) & (negative >= 0)
            negative[same.any(axis=2)] = -1

        return cls(languages, row, has_query, passage, negative, _sharing(passage, negative))

    def servable(self, ids: Ints | slice = slice(None)) -> Mask:
        """Say which (id, language) can be drawn as passage, shape (len(ids), languages)."""
        needed = self.negative[ids, :, -1] if self.negative.shape[2] else self.passage[ids]
        return np.asarray(needed >= 0)

    def offered(self, ids: Ints | slice = slice(None)) -> tuple[Mask, Mask]:
        """Say which ids have a pair in one language, and which in two; each (len(ids),)."""
        query, passage = self.has_query[ids], self.servable(ids)
        same = (query & passage).sum(axis=1)
        return same > 0, query.sum(axis=1) * passage.sum(axis=1) > same

    def draw_languages(self, ids: Ints, bits: Bits, same_share: float) -> npt.NDArray[np.int64]:
        """Draw (query_lang, doc_lang) of each id by its 64 bits, shape (2, len(ids)).

        With probability `same_share` they are one language, where the id offers both kinds; then
        every pair of the kind is as likely as any other.
        """
        # 1. The lower bits say whether it is one language or two.
        same = np.full(len(ids), same_share == 1)
        if 0 < same_share < 1:
            has_same, has_cross = self.offered(ids)
            lower = bits & np.uint64(2**32 - 1)
            same = has_same & ((lower < same_share * 2.0**32) | ~has_cross)

        # 2. With how many passages the query of each language can stand.
        query, passage = self.has_query[ids], self.servable(ids)  # (n, languages)
        others = passage.sum(axis=1, keepdims=True) - passage
        partners = query * np.where(same[:, None], passage, others)
        upto = partners.cumsum(axis=1)

        # 3. The upper bits choose one of all these pairs, numbered by query language.
        pairs = upto[:, -1].astype(np.uint64)
        which = (((bits >> np.uint64(32)) * pairs) >> np.uint64(32)).astype(np.int64)
        query_lang = (upto > which[:, None]).argmax(axis=1)

        # 4. Of two languages: what is left of the number says which of the other passages.
        doc_lang = query_lang.copy()
        (rows,) = np.nonzero(~same)
        own = query_lang[rows]
        left = which[rows] - (upto - partners)[rows, own]
        passage[rows, own] = False
        doc_lang[rows] = (passage[rows].cumsum(axis=1) > left[:, None]).argmax(axis=1)
        return np.stack([query_lang, doc_lang])

    def without_clashes(self, ids: Ints) -> Ints:
        """Drop every id that clashes, in any language, with a kept id before it.

        Two ids clash if they share a passage, or if a negative of one is a passage of the other.
        """
        # 1. Most ids share nothing with anyone, and most batches hold no two that share.
        (suspects,) = self.shares[ids].nonzero()
        if len(suspects) < 2:
            return ids
        codes = self.passage[ids[suspects]]  # (suspects, languages)
        if self.negative.shape[2]:
            negative = self.negative[ids[suspects]].reshape(len(suspects), -1)
            codes = np.hstack([codes, negative])  # (suspects, languages * (1 + n))
        ordered = np.sort(codes, axis=None)
        repeated = ordered[1:][(ordered[1:] == ordered[:-1]) & (ordered[1:] >= 0)]
        if not len(repeated):
            return ids

        # 2. The others are kept one by one, first come, first served.
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


def _refuse_bad_input(table: pa.Table, languages: tuple[str, ...], negatives: int) -> None:
    if len(languages) > 255:
        raise InputError(f"{len(languages)} languages; at most 255 fit a sampler's codes")
    if negatives < 0:
        raise InputError(f"negatives must be at least 0, got {negatives}")
    if negatives and "negatives" not in table.column_names:
        raise InputError(
            f"negatives is {negatives}, but the pair table has no column negatives; add it or set 0"
        )


def _sharing(passage: Ints, negative: Ints) -> Mask:
    """Say which ids have a passage code that another id has too, as passage or as negative."""
    # One of the ids with a code owns it; a code is common if it also belongs to someone else.
    ids, lang = np.nonzero(passage >= 0)
    codes, against = passage[ids, lang], negative[negative >= 0]
    owner = np.full(max(codes.max(initial=-1), against.max(initial=-1)) + 1, -1, np.int32)
    owner[codes] = ids
    common = np.zeros(len(owner) + 1, bool)  # the last place is that of -1
    common[codes[owner[codes] != ids]] = True
    common[against[owner[against] >= 0]] = True  # no id owns a passage that is its negative
    return np.asarray(common[passage].any(axis=1) | common[negative].any(axis=(1, 2)))


def _passage_codes(
    table: pa.Table, lang: Ints, present: Mask, texts: Bits, negative_texts: Bits
) -> tuple[Ints, Ints]:
    """Number passages (of the `present` rows) and negatives: equal numbers, the same passage.

    A passage may be known by its text and by (passage_id, language). If P stands for two texts, two
    windows of one article, and one of them is also called Q, then P, Q and both texts are one.
    """
    # 1. Texts are numbered in order of first appearance. Negatives have no other name.
    text = pd.factorize(np.concatenate([texts, negative_texts.ravel()]))[0].astype(np.int32)
    passage, negative = text[: len(texts)], text[len(texts) :].reshape(negative_texts.shape)

    # 2. So are the names; a passage without an id is called by its text.
    given = pd.arrays.ArrowExtensionArray(table["passage_id"]).factorize()[0][present]
    size = int(text.max(initial=-1)) + 1
    named = np.where(given < 0, passage, size + given * 256 + lang[present])
    name = pd.factorize(named)[0]

    # 3. Mostly a name stands for one text, and the number of the text will do.
    text_of = np.empty(int(name.max(initial=-1)) + 1, text.dtype)
    text_of[name] = passage
    if (text_of[name] == passage).all():
        return passage, negative

    # 4. Otherwise: what is connected in the graph of texts and names is one passage.
    edges = (np.ones(len(passage), bool), (passage, size + name))
    graph = coo_array(edges, shape=(size + len(text_of),) * 2)
    group = connected_components(graph, directed=False)[1]
    return group[passage], group[negative]


def _negative_hashes(table: pa.Table, rows: Mask, negatives: int) -> Bits:
    """Return the hashes of the first negatives of the marked rows, (marked rows, negatives)."""
    parts = [np.empty(0, np.uint64)]
    for start in range(0, len(rows) if negatives else 0, _BLOCK):
        block = table["negatives"].slice(start, _BLOCK)
        block = block.filter(pa.array(rows[start : start + _BLOCK]))
        parts.append(_hashes(pc.list_flatten(pc.list_slice(block, 0, negatives))))
    return np.concatenate(parts).reshape(int(rows.sum()), negatives)


def _hashes(texts: pa.ChunkedArray) -> Bits:
    """Return 64 bits of each text (of the empty text for a null), the same in every process."""
    return np.fromiter(_each_hash(texts), np.uint64, len(texts))


def _each_hash(texts: pa.ChunkedArray) -> Iterator[int]:
    for block in pa.table([texts], ["text"]).to_batches(max_chunksize=_BLOCK):
        # Bytes out of Arrow's own memory: no Python string is made. A column of string gets the
        # 64-bit offsets that one of large_string has.
        column = pc.fill_null(block["text"], "").cast(pa.large_string())
        _, offsets, data = column.buffers()
        ends = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
        characters = memoryview(data or b"")
        for start, end in pairwise(ends.tolist()):
            yield xxh3_64_intdigest(characters[start:end])
