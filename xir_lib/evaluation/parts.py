"""Exact ranks for rivals whose scores are no dot products of two fixed sets of vectors.

`retrieval.relevant_ranks` takes vectors. Three things do not fit: means that differ between queries
(`cross-fit`), scores that are merged over languages, and BM25. All fit if the queries come in
parts: each part brings its own vectors, and a block of finished scores is a pair of vectors too,
unit vectors for the queries and the columns of scores for the passages. So there is one code for
ranks and ties, and no full ranking is kept.

A part has two pairs of vectors, since a merge, or a statistic over the collection, ranks the pool
of all languages by other scores than the pools of one language. This module knows no text, no
measure and no data set.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from xir_lib.evaluation.bm25 import Index
from xir_lib.metrics.ranks import IntArray, RelevantRanks, product, relevant_ranks, top_k, twins
from xir_lib.repair.maps import Vectors
from xir_lib.repair.merge import merge

BLOCK = 128  # queries whose scores are turned into vectors: the detour costs this many dimensions

Pair = tuple[Vectors, Vectors]  # of queries and passages; their dot products are the scores
Best = tuple[IntArray, Vectors]  # passage rows and scores, (n_queries, k) each, best first


class Part(NamedTuple):
    """Some queries: their rows, and their scores in pools of one language and in the pool of all
    languages.
    """

    rows: IntArray
    apart: Pair
    together: Pair


def as_vectors(scores: Vectors) -> Pair:
    """Return vectors of queries, (n_queries, n_queries + 1), and passages whose dot products are
    these scores, bit for bit.

    The last dimension is 1 for passages and 0 for queries: a passage that scores 0 for every query
    needs a direction, too.
    """
    n_queries, n_docs = scores.shape
    ones = np.ones((n_docs, 1), dtype=np.float32)
    return np.eye(n_queries, n_queries + 1, dtype=np.float32), np.concatenate(
        [scores.T, ones], axis=1
    )


def plain_parts(shifted: Iterable[tuple[IntArray, Vectors, Vectors]]) -> Iterator[Part]:
    """Yield one part per (rows, query vectors, passage vectors), the same scores in every pool."""
    for rows, queries, passages in shifted:
        pair = (queries, passages)
        yield Part(rows, pair, pair)


def merged_parts(
    shifted: Iterable[tuple[IntArray, Vectors, Vectors]],
    doc_langs: IntArray,
    ties: IntArray,
    method: str,
) -> Iterator[Part]:
    """Yield parts whose pool of all languages is merged from the rankings of the single ones
    (`merging.merge`).
    """
    for rows, queries, passages in shifted:
        repeated = twins(passages)
        for block in _blocks(len(rows)):
            scores = product(queries[block], passages, repeated)  # (block, n_docs)
            yield Part(
                rows[block], as_vectors(scores), as_vectors(merge(scores, doc_langs, ties, method))
            )


def bm25_parts(
    queries: list[list[str]], passages: list[list[str]], doc_langs: IntArray
) -> Iterator[Part]:
    """Yield parts of BM25 scores from tokenised texts: an index per language, and one over all
    languages.
    """
    index = Index(passages, doc_langs)
    for block in _blocks(len(queries)):
        apart, together = index.scores(queries[block])
        yield Part(np.arange(len(queries))[block], as_vectors(apart), as_vectors(together))


def ranks_of(
    parts: Iterable[Part],
    doc_langs: IntArray,
    query_index: IntArray,
    doc_index: IntArray,
    ties: IntArray,
    *,
    gains: IntArray | None = None,
    top: int = 0,
) -> tuple[RelevantRanks, RelevantRanks]:
    """Return `retrieval.relevant_ranks` of all parts: for the pools of one language, and for the
    pool of all languages.

    Arguments are those of `relevant_ranks`; together the parts hold every query once. The two
    results are the same object where the scores are the same. Of the first only the ranks within
    one pool mean something, of the second only those in the pool of all.
    """
    ranked: list[tuple[IntArray, IntArray, RelevantRanks, RelevantRanks]] = []
    place = np.full(int(query_index.max()) + 1, -1)
    for part in parts:
        place[:] = -1
        place[part.rows] = np.arange(len(part.rows))
        judged = np.flatnonzero(place[query_index] >= 0)
        judgements = (place[query_index[judged]], doc_index[judged])
        apart = together = relevant_ranks(*part.apart, doc_langs, *judgements, ties, top=top)
        if part.together is not part.apart:
            together = relevant_ranks(*part.together, doc_langs, *judgements, ties, top=top)
        ranked.append((part.rows, judged, apart, together))

    def joined(results: list[RelevantRanks]) -> RelevantRanks:
        sizes = results[0].pool_sizes
        outranked_by = np.empty((len(query_index), len(sizes)), dtype=np.int32)
        top_counts = np.empty((len(place), len(sizes)), dtype=np.int64) if top else None
        lang_places = np.empty((len(place), len(sizes)), dtype=np.int64)
        for (rows, judged, _, _), result in zip(ranked, results, strict=True):
            outranked_by[judged] = result.outranked_by
            if top_counts is not None and result.top_counts is not None:
                top_counts[rows] = result.top_counts
            if result.lang_places is not None:
                lang_places[rows] = result.lang_places
        found = (query_index, doc_index, doc_langs[doc_index], outranked_by, sizes, len(place))
        return RelevantRanks(*found, gains=gains, top_counts=top_counts, lang_places=lang_places)

    together = joined([result for *_, result in ranked])
    same = all(one is other for *_, one, other in ranked)
    return together if same else joined([result for _, _, result, _ in ranked]), together


def top_of(parts: Iterable[Part], n_queries: int, doc_ids: list[str], k: int) -> Best:
    """Return `retrieval.top_k` of all parts in the pool of all languages: rows and scores,
    (n_queries, k), best first.
    """
    rows, scores = (
        np.empty((n_queries, k), dtype=np.int64),
        np.empty((n_queries, k), dtype=np.float32),
    )
    for part in parts:
        rows[part.rows], scores[part.rows] = top_k(*part.together, doc_ids, k)
    return rows, scores


def _blocks(n: int) -> Iterator[slice]:
    for start in range(0, n, BLOCK):
        yield slice(start, min(n, start + BLOCK))
