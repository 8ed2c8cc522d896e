"""Exact search and ranks in shards of vectors (`shards`), with the memory of one block.

A score is the dot product of the float32 query and the stored float16 passage, computed in float64
and rounded once to float32; ties are those of `metrics.scores`. It depends neither on how the
corpus is cut nor on the BLAS library, so equal vectors tie wherever they lie. The float32 product
of a block only proposes candidates: whatever lies within its error bound of the k-th best score is
computed again. Rounding to float16 itself moves the score of two unit vectors by about 2**-11
(4.9e-4) at most, and in practice by far less (tests/benchmarks/search_scale.py prints the largest
difference it saw).

The product is NumPy's and Faiss selects from it, in threads. Faiss's own product (`knn`,
`IndexFlatIP`) is slower: 1.15.1 leaves BLAS aside below 128,000 query values (its pull requests
5022 and 5109); both are timed in `tests/benchmarks/results/search_scale.json`.
"""

import numpy as np
from numpy.typing import NDArray

from xir_lib.errors import InputError
from xir_lib.evaluation.shards import Shards
from xir_lib.metrics.ranks import RelevantRanks
from xir_lib.metrics.scores import FloatArray, IntArray, Judged, Scores, checked

QUERIES = 128  # queries whose scores with one block are held: 34 MB
_RESCORED = 4096  # candidates computed in float64 at a time


def search_shards(
    shards: Shards, query_emb: FloatArray, k: int, ties: IntArray
) -> tuple[NDArray[np.int64], Scores]:
    """Return the corpus rows and scores of each query's k best passages, (n_queries, k), in order.

    Exact, with scores and ties as the module says; `ties` is the corpus's `tie_order`, (n_docs,). A
    k beyond the corpus gives all of it: no row number stands for nothing. Raises `InputError` for
    bad query vectors, another dimension, a tie order of another length and a k below 1.

    Block by block: Faiss proposes the k best of the float32 product; of these, what may be among
    the k best so far is scored exactly and put into the query's list.
    """
    try:
        import faiss
    except ImportError as missing:
        raise InputError(
            "search in shards needs the package faiss-cpu; pip install 'xir-lib[search]'"
        ) from missing

    queries, error = _prepared(shards, query_emb, ties)
    if k < 1:
        raise InputError(f"k must be at least 1, got {k}")
    k = min(k, len(shards))
    rows = np.zeros((len(queries), k), dtype=np.int64)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    for offset, block in shards.blocks():
        # Faiss would pad what is missing with row -1, which NumPy takes for the last one.
        depth = min(k, len(block))
        for start in range(0, len(queries), QUERIES):
            asked = slice(start, start + QUERIES)
            product = queries[asked] @ block.T  # (QUERIES, rows of the block)
            best, where = faiss.kmax(product, depth)  # best first
            kth = scores[asked, -1].astype(np.float64)  # -inf until there are k
            if depth == k:
                kth = np.maximum(kth, best[:, -1] - error[asked])
            floor = kth - error[asked]
            for i in np.flatnonzero(best[:, 0] >= floor):
                inside = best[i] >= floor[i]
                found = where[i, inside]
                # Faiss's list may end among scores that are as good.
                if inside.all() and depth < len(block):
                    found = np.flatnonzero(product[i] >= floor[i])
                exact = _score(queries[start + i], block, found)
                listed = rows[start + i], scores[start + i]
                _insert(*listed, offset + found, exact, ties)
    return rows, scores


def ranks_in_shards(shards: Shards, query_emb: FloatArray, judged: Judged) -> RelevantRanks:
    """Count, per judgement and passage language, the passages that outrank the relevant one.

    As `metrics.ranks.relevant_ranks`, without what is said of languages; the scores are this
    module's. The corpus is read twice, first for the scores of the relevant passages.
    """
    queries, error = _prepared(shards, query_emb, judged.ties)
    value = _relevant_scores(shards, queries, judged)
    outranked_by = np.zeros((len(judged.query_rows), len(judged.pools)), dtype=np.int32)
    by_query = np.argsort(judged.query_rows, kind="stable")
    sorted_rows = judged.query_rows[by_query]
    for offset, block in shards.blocks():
        here = slice(offset, offset + len(block))
        langs, ties = judged.doc_langs[here], judged.ties[here]
        for start in range(0, len(queries), QUERIES):
            product = queries[start : start + QUERIES] @ block.T  # (QUERIES, rows of the block)
            for j in by_query[slice(*np.searchsorted(sorted_rows, [start, start + QUERIES]))]:
                query, own = judged.query_rows[j], judged.ties[judged.doc_rows[j]]
                row = product[query - start]
                # What is certainly higher counts; what is near is scored exactly.
                above = np.flatnonzero(row >= value[j] - error[query])
                close = row[above] <= value[j] + error[query]
                near = above[close]
                exact = _score(queries[query], block, near)
                outranks = (exact > value[j]) | ((exact == value[j]) & (ties[near] < own))
                better = np.concatenate([above[~close], near[outranks]])
                outranked_by[j] += np.bincount(langs[better], minlength=len(judged.pools))
    return RelevantRanks(
        judged.query_rows,
        judged.doc_rows,
        judged.doc_langs[judged.doc_rows],
        outranked_by,
        judged.pool_sizes,
        judged.n_queries,
        gains=judged.grades,
    )


def _relevant_scores(shards: Shards, queries: Scores, judged: Judged) -> Scores:
    """Return the score of every judgement, (n_rel,)."""
    value = np.empty(len(judged.query_rows), dtype=np.float32)
    doc = judged.doc_rows
    for offset, shard in shards:
        for j in np.flatnonzero((doc >= offset) & (doc < offset + len(shard))):
            value[j] = _score(queries[judged.query_rows[j]], shard, doc[j : j + 1] - offset)[0]
    return value


def _prepared(
    shards: Shards, query_emb: FloatArray, ties: IntArray
) -> tuple[Scores, NDArray[np.float64]]:
    """Return checked queries, and per query how far a float32 score of a product may be off."""
    queries = checked(query_emb, "query")
    if queries.shape[1] != shards.dim:
        raise InputError(
            f"queries have {queries.shape[1]} dimensions, passages {shards.dim}; encode both with"
            " one model"
        )
    if ties.shape != (len(shards),):
        raise InputError(
            f"tie order has shape {ties.shape}; one position per passage, ({len(shards)},), is"
            " needed"
        )
    # Summed in any order, a product of n terms is off by n half-units of the norms (Higham 2002,
    # section 3.1); doubled, for norms a little above 1 and the final rounding.
    half_units = (shards.dim + 1) * float(np.finfo(np.float32).eps)
    return queries, half_units * np.linalg.norm(queries.astype(np.float64), axis=1)


def _score(query: Scores, passages: FloatArray, rows: IntArray) -> Scores:
    """Return the scores of one query with some rows, each summed in the same order."""
    scores = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), _RESCORED):
        part = passages[rows[start : start + _RESCORED]].astype(np.float64)
        products = part * query.astype(np.float64)  # exact
        scores[start : start + _RESCORED] = products.sum(axis=1)
    return scores


def _insert(
    rows: NDArray[np.int64],
    scores: Scores,
    new_rows: IntArray,
    new_scores: Scores,
    ties: IntArray,
) -> None:
    """Put new passages into one query's list, in place, best first."""
    all_rows, all_scores = np.concatenate([rows, new_rows]), np.concatenate([scores, new_scores])
    order = np.lexsort((ties[all_rows], -all_scores))[: len(rows)]
    rows[:], scores[:] = all_rows[order], all_scores[order]
