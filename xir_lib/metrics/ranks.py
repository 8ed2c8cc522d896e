"""Exact ranks of the relevant passages, in every pool at once, from blocks of scores.

Every measure of the study is a function of the ranks of the relevant passages, so a full ranking is
never kept. For each relevant passage this module counts, language by language, the passages that
outrank it; the rank in one language's pool, and in the pool of all languages, are sums of these
counts. Monolingual, cross-lingual and multilingual results therefore stem from the same scores and
the same ties.

A passage outranks another if its score is strictly higher, or equal and its id later in lexical
order, so the ranks are the ones that trec_eval would find on a full-depth run.

Scores come in blocks of queries (`metrics.scores`), whoever computes them. This module knows no
text, no measure and no data set.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from xir_lib.errors import InputError
from xir_lib.metrics import scores as scoring
from xir_lib.metrics.scores import Block, Judged, Scores, top_columns
from xir_lib.metrics.scores import IntArray as IntArray


@dataclass(frozen=True)
class RelevantRanks:
    """For every (query, relevant passage): how many passages of each language outrank it.

    Rows are in the order of the judgements; languages are the codes of `Judged.doc_langs`.

    >>> one = np.array([0])
    >>> outranked_by = np.array([[2, 1]])
    >>> ranks = RelevantRanks(one, one, one, outranked_by, np.array([5, 3]), 1)
    >>> ranks.in_pool(0)[1].tolist(), ranks.in_all()[1].tolist()
    ([3], [4])
    """

    query_index: IntArray  # (n_rel,) row of the query
    doc_index: IntArray  # (n_rel,) row of the relevant passage
    doc_lang: IntArray  # (n_rel,) language code of the relevant passage
    outranked_by: NDArray[np.int32]  # (n_rel, n_langs)
    pool_sizes: IntArray  # (n_langs,) passages per language
    n_queries: int
    gains: IntArray | None = None  # (n_rel,) grade of each relevant passage; None: all 1
    # (n_queries, n_langs) passages of each language among the query's first k, if asked for
    top_counts: IntArray | None = None
    # (n_queries, n_langs) place, from 0, of each language by its first passage
    lang_places: IntArray | None = None

    @property
    def n_relevant(self) -> IntArray:
        """Relevant passages of each query in the pool of all languages, (n_queries,)."""
        return np.bincount(self.query_index, minlength=self.n_queries)

    def in_pool(self, lang: int) -> tuple[IntArray, IntArray]:
        """Return (query rows, 1-based ranks) of the relevant passages in this language's pool."""
        inside = self.doc_lang == lang
        return self.query_index[inside], 1 + self.outranked_by[inside, lang]

    def in_all(self) -> tuple[IntArray, IntArray]:
        """Return (query rows, 1-based ranks) of the relevant passages in the pool of all."""
        return self.query_index, 1 + self.outranked_by.sum(axis=1)


def relevant_ranks(blocks: Iterable[Block], judged: Judged, top: int = 0) -> RelevantRanks:
    """Count, per judgement and passage language, the passages that outrank the relevant one.

    With `top` also count the languages among every query's first `top` in the pool of all. The
    blocks together hold every query once. One is ranked per thread (`_rank_block`), and a product
    stays within its thread: products that share the cores wait for each other.

    One query scores four passages of two languages .5, .9 | .7, .5; the first is relevant. In its
    own language .9 is higher. In the other .7 is higher, and the .5 ties; it comes first, since its
    place in the order of ties is 0:

    >>> langs, ties = np.array([0, 0, 1, 1]), np.array([1, 2, 3, 0])
    >>> judged = Judged(*np.array([[0], [0], [1]]), langs, ties, 1)
    >>> block = Block(np.array([0]), lambda: np.float32([[0.5, 0.9, 0.7, 0.5]]))
    >>> ranks = relevant_ranks([block], judged, top=2)
    >>> ranks.outranked_by.tolist(), ranks.top_counts.tolist(), ranks.lang_places.tolist()
    ([[1, 2]], [[1, 1]], [[0, 1]])
    """
    blocks = list(blocks)
    if not 0 <= top <= judged.n_docs:
        raise InputError(
            f"top must be between 0 and the pool's {judged.n_docs} passages, got {top}"
        )
    shape = (judged.n_queries, len(judged.pools))
    outranked_by = np.empty((len(judged.query_rows), shape[1]), dtype=np.int32)
    top_counts = np.empty(shape, dtype=np.int32) if top else None
    lang_places = np.empty(shape, dtype=np.int32)
    threads = min(_threads(), len(blocks))
    with (
        _blas().limit(limits=1 if threads > 1 else None, user_api="blas"),
        ThreadPoolExecutor(threads) as pool,
    ):
        for found in pool.map(lambda block: _rank_block(block, judged, top), blocks):
            outranked_by[found.judgements] = found.outranked_by
            lang_places[found.queries] = found.lang_places
            if top_counts is not None and found.top_counts is not None:
                top_counts[found.queries] = found.top_counts
    return RelevantRanks(
        judged.query_rows,
        judged.doc_rows,
        judged.doc_langs[judged.doc_rows],
        outranked_by,
        judged.pool_sizes,
        judged.n_queries,
        gains=judged.grades,
        top_counts=top_counts,
        lang_places=lang_places,
    )


class _Ranked(NamedTuple):
    """What one block says of its judgements and queries, for `RelevantRanks`."""

    judgements: IntArray  # (n,) which of all judgements are of this block's queries
    outranked_by: IntArray  # (n, n_langs)
    queries: IntArray  # (block,)
    top_counts: IntArray | None  # (block, n_langs)
    lang_places: IntArray  # (block, n_langs)


def _rank_block(block: Block, judged: Judged, top: int) -> _Ranked:
    """Rank the relevant passages of one block of queries.

    1. Compute the scores. Passages are sorted by language, so a pool is a slice of columns.
    2. Take the scores of the relevant passages.
    3. Per language, sort the pool's scores and look the relevant ones up in them: cheaper than
       comparing every score with every relevant one, and independent of their number.
    4. Resolve exact ties one by one, by the passages' positions. They are few.
    5. The ends of the sorted pools say which languages are among the first `top`, and in which
       order the languages' first passages come.
    """
    scores = block.scores()  # 1: (block, n_docs)

    block_row = np.full(judged.n_queries, -1)
    block_row[block.queries] = np.arange(len(block.queries))
    mine = np.flatnonzero(block_row[judged.query_rows] >= 0)
    row, doc = block_row[judged.query_rows[mine]], judged.doc_rows[mine]
    column = np.empty_like(judged.columns)
    column[judged.columns] = np.arange(judged.n_docs)
    value = scores[row, column[doc]]  # 2: (n,)

    position = judged.ties[judged.columns]
    outranked_by = np.empty((len(mine), len(judged.pools)), dtype=np.int32)
    ends: list[Scores] = []  # per language the last of its sorted scores
    for lang, pool in enumerate(judged.pools):
        ordered = np.sort(scores[:, pool], axis=1)  # 3
        own = judged.doc_langs[doc] == lang
        count, tied = _count_higher(ordered, row, value, own)
        width = max(1, scoring.SCORES_IN_MEMORY // ordered.shape[1])
        for start in range(0, len(tied), width):  # 4
            part = tied[start : start + width]
            equal = scores[row[part], pool] == value[part, None]
            earlier = position[pool] < judged.ties[doc[part], None]
            count[part] += np.count_nonzero(equal & earlier, axis=1)
        outranked_by[:, lang] = count
        ends.append(ordered[:, -max(1, top) :].copy())

    top_counts = _top_languages(ends, scores, judged, top) if top else None  # 5
    places = _language_places(ends, scores, judged)
    return _Ranked(mine, outranked_by, block.queries, top_counts, places)


def _count_higher(
    ordered: Scores, row: IntArray, value: Scores, own: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the scores of each row above `value`; also return the entries that tie.

    `ordered` is (block, n) ascending; `own` marks the values that are themselves among their row's
    scores, and that tie only with another than themselves.
    """
    n = ordered.shape[1]
    flat, start = ordered.ravel(), row * n
    # A binary search for all entries at once: `below` scores of the row are <= value.
    below = np.zeros(len(row), dtype=np.int64)
    for step in (1 << bit for bit in reversed(range(n.bit_length()))):
        probe = below + step
        found = flat.take(start + (np.minimum(probe, n) - 1)) <= value
        below += step * (found & (probe <= n))
    neighbour = below - 1 - own  # the next one down, after the passage itself
    tied = (neighbour >= 0) & (flat.take(start + np.maximum(neighbour, 0)) == value)
    return n - below, np.flatnonzero(tied)


def _top_languages(ends: list[Scores], scores: Scores, judged: Judged, k: int) -> IntArray:
    """Count per query the passages of each language among the first k, (block, n_langs)."""
    together = np.concatenate(ends, axis=1)
    kth = np.partition(together, together.shape[1] - k, axis=1)[:, together.shape[1] - k, None]
    counts = np.stack([np.count_nonzero(part >= kth, axis=1) for part in ends], axis=1)
    for row in np.flatnonzero(counts.sum(axis=1) > k):  # a tie at place k: the ids decide
        first = top_columns(scores[row], judged.ties[judged.columns], k)
        langs = judged.doc_langs[judged.columns[first]]
        counts[row] = np.bincount(langs, minlength=len(ends))
    return counts


def _language_places(ends: list[Scores], scores: Scores, judged: Judged) -> IntArray:
    """Return the place of each language by its first passage, (block, n_langs)."""
    leaders = np.stack([part[:, -1] for part in ends], axis=1)
    ties = np.zeros(leaders.shape, dtype=np.int64)
    ascending = np.sort(leaders, axis=1)
    # Where two languages' best scores are equal, the ids decide.
    for row in np.flatnonzero((ascending[:, 1:] == ascending[:, :-1]).any(axis=1)):
        for lang, pool in enumerate(judged.pools):
            best = judged.ties[judged.columns[pool]][scores[row, pool] == leaders[row, lang]]
            ties[row, lang] = best.min()
    return np.lexsort((ties, -leaders), axis=1).argsort(axis=1)


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def _threads() -> int:
    """Return how many blocks are ranked at a time: as many as a product has threads, 8 at most."""
    return min(8, int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
