"""Exact ranks of the relevant passages, in every pool at once, from one matrix product.

Every measure of the study is a function of the ranks of the relevant passages, so a full ranking is
never kept. For each relevant passage this module counts, language by language, the passages that
outrank it; the rank in one language's pool, and in the pool of all languages, are sums of these
counts. Monolingual, cross-lingual and multilingual results therefore stem from the same scores and
the same ties.

A score is the float32 dot product (give unit vectors for the cosine). A passage outranks another if
its score is strictly higher, or equal and its id later in lexical order: trec_eval breaks ties by
descending docno, so the ranks are the ones it would find on a full-depth run. Give ids no language
prefix, or ties favour a language.

It knows no text, no measure and no data set.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import ThreadpoolController

from xir_lib.errors import InputError

IntArray = NDArray[np.integer]
FloatArray = NDArray[np.floating]

SCORES_IN_MEMORY = (
    2**23
)  # float32 scores of one block of queries: 32 MiB; smaller blocks multiply at lower speed


@dataclass(frozen=True)
class RelevantRanks:
    """For every (query, relevant passage): how many passages of each language outrank it.

    Rows are in the order in which the judgements were given; languages are the codes of
    `relevant_ranks`.
    """

    query_index: IntArray  # (n_rel,) row of the query
    doc_index: IntArray  # (n_rel,) row of the relevant passage
    doc_lang: IntArray  # (n_rel,) language code of the relevant passage
    outranked_by: NDArray[np.int32]  # (n_rel, n_langs)
    pool_sizes: IntArray  # (n_langs,) passages per language
    n_queries: int
    gains: IntArray | None = (
        None  # (n_rel,) grade of each relevant passage, at least 1; None: all 1
    )
    # (n_queries, n_langs) passages of each language among the query's first k, if asked for
    top_counts: IntArray | None = None
    lang_places: IntArray | None = (
        None  # (n_queries, n_langs) place, from 0, of each language by its first passage
    )

    @property
    def n_relevant(self) -> IntArray:
        """Relevant passages of each query in the pool of all languages, (n_queries,), at
        least 1.
        """
        return np.bincount(self.query_index, minlength=self.n_queries)

    def in_pool(self, lang: int) -> tuple[IntArray, IntArray]:
        """Return (query rows, 1-based ranks) of the relevant passages in the pool of this one
        language.
        """
        inside = self.doc_lang == lang
        return self.query_index[inside], 1 + self.outranked_by[inside, lang]

    def in_all(self) -> tuple[IntArray, IntArray]:
        """Return (query rows, 1-based ranks) of the relevant passages in the pool of all
        languages.
        """
        return self.query_index, 1 + self.outranked_by.sum(axis=1)


def tie_order(doc_ids: Sequence[str]) -> NDArray[np.int64]:
    """Return each id's position in reverse lexical order, in which trec_eval lists passages of
    equal score.

    >>> tie_order(["b", "c", "a"]).tolist()
    [1, 0, 2]
    """
    ordered = sorted(
        range(len(doc_ids)), key=doc_ids.__getitem__, reverse=True
    )  # code points sort as UTF-8 bytes do
    for one, other in pairwise(ordered):
        if doc_ids[one] == doc_ids[other]:
            raise InputError(
                f"passage id {doc_ids[one]!r} occurs twice, in rows {one} and {other}; ids must be"
                " unique"
            )
    positions = np.empty(len(doc_ids), dtype=np.int64)
    positions[ordered] = np.arange(len(doc_ids))
    return positions


def relevant_ranks(
    query_emb: FloatArray,
    doc_emb: FloatArray,
    doc_langs: ArrayLike,
    query_index: ArrayLike,
    doc_index: ArrayLike,
    ties: ArrayLike,
    *,
    gains: ArrayLike | None = None,
    top: int = 0,
) -> RelevantRanks:
    """Count, per judgement and passage language, the passages that outrank the relevant one.

    Args:
        query_emb: (n_queries, dim), computed with in float32.
        doc_emb: (n_docs, dim), all languages together, in any order.
        doc_langs: (n_docs,) language codes 0, 1, ..., as `np.unique(langs, return_inverse=True)`
        makes them.
        query_index: (n_rel,) row of the query of each judgement; every query needs at least one.
        doc_index: (n_rel,) row of its relevant passage.
        ties: (n_docs,) the passages' `tie_order`, smaller first.
        gains: (n_rel,) grade of each judgement for nDCG, whole numbers of at least 1; without them
        every grade is 1.
        top: also count the passages of each language among every query's first `top` in the pool of
            all languages; cheaper than `top_k`, since the scores are sorted by language already. 0
            leaves it out.

    Raises:
        InputError: vectors with NaN, infinity or norm zero, unequal dimensions, a code without
            passages, a query without a relevant passage, a judgement given twice or outside the
            rows, a grade below 1, `top` above n_docs.

    Per block of queries and language the scores are sorted and the judged scores looked up in them:
    cheaper than comparing every score with every relevant one (11 per query on XQuAD-R), and
    independent of their number. Exact ties are then resolved one by one.
    """
    queries, docs = _embeddings(query_emb, doc_emb)
    langs, position = np.asarray(doc_langs), np.asarray(ties)
    rel_query, rel_doc = np.asarray(query_index), np.asarray(doc_index)
    pool_sizes = _check_codes(langs, len(docs))
    if position.shape != langs.shape:
        raise InputError(
            f"tie order has shape {position.shape}; one position per passage, ({len(docs)},), is"
            " needed"
        )
    _check_judgements(rel_query, rel_doc, len(queries), len(docs))
    grades = None if gains is None else _check_gains(np.asarray(gains), len(rel_query))
    if not 0 <= top <= len(docs):
        raise InputError(f"top must be between 0 and the pool's {len(docs)} passages, got {top}")

    by_lang = np.argsort(langs, kind="stable")
    column = np.empty_like(by_lang)
    column[by_lang] = np.arange(len(docs))
    docs_by_lang, position_by_lang = docs[by_lang], position[by_lang]
    bounds = np.concatenate([[0], np.cumsum(pool_sizes)])

    outranked_by = np.empty((len(rel_query), len(pool_sizes)), dtype=np.int32)
    top_counts = np.empty((len(queries), len(pool_sizes)), dtype=np.int32) if top else None
    lang_places = np.empty((len(queries), len(pool_sizes)), dtype=np.int32)
    by_query = np.argsort(rel_query, kind="stable")
    sorted_query = rel_query[by_query]

    repeated = twins(docs_by_lang)

    def rank(block: tuple[int, int]) -> None:
        start, stop = block
        scores = product(queries[start:stop], docs_by_lang, repeated)  # (block, n_docs)
        judged = by_query[slice(*np.searchsorted(sorted_query, [start, stop]))]
        row = rel_query[judged] - start
        value = scores[row, column[rel_doc[judged]]]
        best: list[
            NDArray[np.float32]
        ] = []  # per language the last `top` of its sorted scores, or the last
        for lang in range(len(pool_sizes)):
            pool = slice(bounds[lang], bounds[lang + 1])
            own = langs[rel_doc[judged]] == lang
            ordered = np.sort(scores[:, pool], axis=1)
            count, tied = _count_higher(ordered, row, value, own)
            best.append(ordered[:, max(0, ordered.shape[1] - max(1, top)) :].copy())
            width = max(1, SCORES_IN_MEMORY // int(pool_sizes[lang]))
            for part in (tied[i : i + width] for i in range(0, len(tied), width)):
                equal = scores[row[part], pool] == value[part, None]
                earlier = position_by_lang[pool] < position[rel_doc[judged[part]], None]
                count[part] += np.count_nonzero(equal & earlier, axis=1)
            outranked_by[judged, lang] = count
        if top_counts is not None:
            top_counts[start:stop] = _count_languages(
                best, scores, position_by_lang, langs[by_lang], top
            )
        leaders = np.stack([part[:, -1] for part in best], axis=1)
        lang_places[start:stop] = _places(leaders, scores, position_by_lang, bounds)

    blocks = _query_blocks(len(queries), len(docs))
    threads = min(_threads(), len(blocks))
    # A block per thread, and a product within one thread: products that share the cores wait for
    # each other.
    with (
        _blas().limit(limits=1 if threads > 1 else None, user_api="blas"),
        ThreadPoolExecutor(threads) as pool,
    ):
        list(pool.map(rank, blocks))
    found = (rel_query, rel_doc, langs[rel_doc], outranked_by, pool_sizes, len(queries))
    return RelevantRanks(*found, gains=grades, top_counts=top_counts, lang_places=lang_places)


def top_k(
    query_emb: FloatArray, doc_emb: FloatArray, doc_ids: Sequence[str], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the rows and scores of each query's k best passages, (n_queries, k) each, best first.

    Exact, with the ties of `relevant_ranks`. Raises `InputError` for bad vectors or ids, and for a
    k that is not between 1 and the number of passages.
    """
    queries, docs = _embeddings(query_emb, doc_emb)
    if len(doc_ids) != len(docs):
        raise InputError(
            f"{len(doc_ids)} passage ids for {len(docs)} embeddings; one id per row is needed"
        )
    if not 1 <= k <= len(docs):
        raise InputError(f"k must be between 1 and the pool's {len(docs)} passages, got {k}")
    in_tie_order = np.argsort(tie_order(doc_ids))
    docs = docs[in_tie_order]  # so that a stable sort by score breaks ties as it should
    rows = np.empty((len(queries), k), dtype=np.int64)
    best = np.empty((len(queries), k), dtype=np.float32)
    repeated = twins(docs)
    for start, stop in _query_blocks(len(queries), len(docs)):
        scores = product(queries[start:stop], docs, repeated)  # (block, n_docs)
        kth_best = np.partition(scores, len(docs) - k, axis=1)[:, len(docs) - k]
        for i, (row, threshold) in enumerate(zip(scores, kth_best, strict=True), start):
            candidates = np.flatnonzero(row >= threshold)
            order = candidates[np.argsort(-row[candidates], kind="stable")[:k]]
            rows[i], best[i] = in_tie_order[order], row[order]
    return rows, best


def twins(docs: NDArray[np.float32]) -> tuple[IntArray, IntArray]:
    """Return the rows that repeat the vector of an earlier row, and those earlier rows.

    >>> twins(np.array([[1, 2, 3], [1, 2, 4], [1, 2, 3], [5, 2, 3]], dtype=np.float32))
    (array([2]), array([0]))
    """
    begins = np.ascontiguousarray(docs[:, : min(2, docs.shape[1])])
    _, group, size = np.unique(_bytes_of(begins), return_inverse=True, return_counts=True)
    alike = np.flatnonzero(
        size[group] > 1
    )  # in their first numbers; few, so that all numbers are compared of few
    _, first, group = np.unique(_bytes_of(docs[alike]), return_index=True, return_inverse=True)
    original = alike[first[group]]
    later = original != alike
    return alike[later], original[later]


def _bytes_of(vectors: NDArray[np.float32]) -> NDArray[np.void]:
    rows = np.ascontiguousarray(vectors)
    return rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()


def product(
    queries: NDArray[np.float32], docs: NDArray[np.float32], repeated: tuple[IntArray, IntArray]
) -> NDArray[np.float32]:
    """Return the scores, (n_queries, n_docs), where passages with one vector have one score;
    `repeated` is `twins(docs)`.

    BLAS libraries compute the elements of a product in several ways (OpenBLAS those of one query,
    or of few queries and passages), so that twins would differ in the last bit and their tie be
    lost.
    """
    scores = queries @ docs.T
    scores[:, repeated[0]] = scores[:, repeated[1]]
    return scores


def _count_higher(
    ordered: NDArray[np.float32], row: IntArray, value: NDArray[np.float32], own: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the scores of each row above `value` and list the entries that tie with a passage other
    than themselves.

    `ordered` is (block, n) ascending; `own` marks the values that are themselves among their row's
    scores.
    """
    n = ordered.shape[1]
    flat, start = ordered.ravel(), row * n
    below = np.zeros(
        len(row), dtype=np.int64
    )  # how many scores are <= value: a binary search for all entries at once
    for step in (1 << bit for bit in reversed(range(n.bit_length()))):
        probe = below + step
        found = flat.take(start + (np.minimum(probe, n) - 1)) <= value
        below += step * (found & (probe <= n))
    neighbour = below - 1 - own  # the next one down after the passage itself: equal only in a tie
    tied = (neighbour >= 0) & (flat.take(start + np.maximum(neighbour, 0)) == value)
    return n - below, np.flatnonzero(tied)


def _count_languages(
    best: list[NDArray[np.float32]],
    scores: NDArray[np.float32],
    position: IntArray,
    langs: IntArray,
    k: int,
) -> IntArray:
    """Count per query the passages of each language among the first k, (block, n_langs), from each
    language's k `best`.
    """
    together = np.concatenate(best, axis=1)
    kth = np.partition(together, together.shape[1] - k, axis=1)[:, together.shape[1] - k, None]
    counts = np.stack([np.count_nonzero(part >= kth, axis=1) for part in best], axis=1)
    for row in np.flatnonzero(
        counts.sum(axis=1) > k
    ):  # a tie at place k: the order of the ids decides
        first = np.lexsort((position, -scores[row]))[:k]
        counts[row] = np.bincount(langs[first], minlength=len(best))
    return counts


def _places(
    leaders: NDArray[np.float32], scores: NDArray[np.float32], position: IntArray, bounds: IntArray
) -> IntArray:
    """Return the place of each language by its first passage, (block, n_langs); `leaders` are the
    scores of these.
    """
    ties = np.zeros(leaders.shape, dtype=np.int64)
    ascending = np.sort(leaders, axis=1)
    for row in np.flatnonzero(
        (ascending[:, 1:] == ascending[:, :-1]).any(axis=1)
    ):  # the order of the ids decides
        for lang, (start, stop) in enumerate(pairwise(bounds)):
            ties[row, lang] = position[start:stop][
                scores[row, start:stop] == leaders[row, lang]
            ].min()
    return np.lexsort((ties, -leaders), axis=1).argsort(axis=1)


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def _threads() -> int:
    """Return how many blocks are ranked at a time: as many as a product has threads, 8 at most for
    their memory.
    """
    return min(8, int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))


def _query_blocks(n_queries: int, n_docs: int) -> list[tuple[int, int]]:
    size = min(512, max(1, SCORES_IN_MEMORY // n_docs))
    return [(start, min(start + size, n_queries)) for start in range(0, n_queries, size)]


def _embeddings(
    query_emb: FloatArray, doc_emb: FloatArray
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    queries, docs = _checked(query_emb, "query"), _checked(doc_emb, "passage")
    if queries.shape[1] != docs.shape[1]:
        raise InputError(
            f"queries have {queries.shape[1]} dimensions, passages {docs.shape[1]}; encode both"
            " with one model"
        )
    return queries, docs


def _checked(emb: FloatArray, what: str) -> NDArray[np.float32]:
    vectors = np.asarray(emb, dtype=np.float32)
    if vectors.ndim != 2 or not vectors.size:
        raise InputError(
            f"{what} embeddings have shape {vectors.shape}; (n, dim) with n and dim of at least 1"
            " is needed"
        )
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise InputError(
            f"{what} embedding in row {int(np.argmin(finite))} holds NaN or infinity; encode that"
            " text again"
        )
    nonzero = vectors.any(axis=1)
    if not nonzero.all():
        raise InputError(
            f"{what} embedding in row {int(np.argmin(nonzero))} is all zeros and has no direction;"
            " encode that text again"
        )
    return vectors


def _check_codes(langs: IntArray, n_docs: int) -> NDArray[np.int64]:
    """Return the passages per language code."""
    if langs.shape != (n_docs,) or not np.issubdtype(langs.dtype, np.integer):
        raise InputError(
            f"language codes have shape {langs.shape} and type {langs.dtype}; ({n_docs},) integers"
            " are needed"
        )
    if langs.min() < 0:
        raise InputError(
            f"language code of passage {int(langs.argmin())} is {langs.min()}; codes are 0, 1, ..."
        )
    pool_sizes = np.bincount(langs)
    if not pool_sizes.all():
        raise InputError(
            f"empty pool: no passage has language code {int(np.argmin(pool_sizes))}; number the"
            " languages without gaps"
        )
    return pool_sizes


def _check_gains(gains: IntArray, n_rel: int) -> IntArray:
    if gains.shape != (n_rel,) or not np.issubdtype(gains.dtype, np.integer):
        raise InputError(
            f"grades have shape {gains.shape} and type {gains.dtype}; ({n_rel},) integers are"
            " needed"
        )
    if gains.min() < 1:
        raise InputError(
            f"judgement {int(gains.argmin())} has grade {gains.min()}; give relevant ones only,"
            " from 1 up"
        )
    return gains


def _check_judgements(
    query_index: IntArray, doc_index: IntArray, n_queries: int, n_docs: int
) -> None:
    if query_index.ndim != 1 or query_index.shape != doc_index.shape:
        raise InputError(
            f"judgements: {query_index.shape} query rows and {doc_index.shape} passage rows; two"
            " equal lists are needed"
        )
    for index, n, what in ((query_index, n_queries, "query"), (doc_index, n_docs, "passage")):
        outside = (index < 0) | (index >= n)
        if outside.any():
            raise InputError(
                f"a judgement names {what} row {index[outside.argmax()]}; the rows are 0 to {n - 1}"
            )
    judged = np.zeros(n_queries, dtype=bool)
    judged[query_index] = True
    if not judged.all():
        raise InputError(
            f"the query in row {int(np.argmin(judged))} has no relevant passage; drop it or"
            " judge it"
        )
    keys = np.sort(query_index.astype(np.int64) * n_docs + doc_index)
    repeated = keys[1:][keys[1:] == keys[:-1]]
    if repeated.size:
        query, doc = divmod(int(repeated[0]), n_docs)
        raise InputError(
            f"passage row {doc} is judged twice for query row {query}; give each judgement once"
        )
