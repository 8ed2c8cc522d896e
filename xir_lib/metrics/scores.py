"""What is judged, by row numbers, and blocks of scores for it: from vectors, or from anywhere.

A score is a float32. Equal scores are ordered by the passages' ids, later in lexical order first:
trec_eval breaks ties by descending docno. Give ids no language prefix, or ties favour a language.

Knows no text, no measure and no data set.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xir_lib.errors import InputError

IntArray = NDArray[np.integer]
FloatArray = NDArray[np.floating]
Scores = NDArray[np.float32]

SCORES_IN_MEMORY = 2**23  # of one block: 32 MiB; smaller blocks multiply at lower speed
BLOCK_QUERIES = 512


@dataclass(frozen=True)
class Judged:
    """Which passages answer which queries, by row: all that ranks depend on besides the scores.

    `RetrievalTask.judged` makes it. Every query has a relevant passage, no judgement is given
    twice, and every language of the codes has passages.

    >>> none = np.array([0])
    >>> judged = Judged(none, none, none + 1, np.array([1, 0, 1]), np.array([2, 0, 1]), 1)
    >>> judged.columns.tolist(), judged.pools
    ([1, 0, 2], [slice(0, 1, None), slice(1, 3, None)])
    """

    query_rows: IntArray  # (n_rel,) the query of each judgement
    doc_rows: IntArray  # (n_rel,) its relevant passage
    grades: IntArray  # (n_rel,) at least 1
    doc_langs: IntArray  # (n_docs,) language codes 0, 1, ... of the passages
    ties: IntArray  # (n_docs,) the passages' `tie_order`
    n_queries: int

    @property
    def n_docs(self) -> int:
        """Passages of all languages together."""
        return len(self.doc_langs)

    @cached_property
    def columns(self) -> IntArray:
        """The passages in the order of a block's columns, (n_docs,): sorted by language."""
        return np.argsort(self.doc_langs, kind="stable")

    @cached_property
    def pools(self) -> list[slice]:
        """Each language's columns."""
        return [slice(*ends) for ends in pairwise([0, *np.cumsum(self.pool_sizes).tolist()])]

    @cached_property
    def pool_sizes(self) -> IntArray:
        """Passages per language, (n_langs,)."""
        return np.bincount(self.doc_langs)


class Block(NamedTuple):
    """Some queries, and how to compute their scores: when it is their turn, in a thread."""

    queries: IntArray  # (block,) their rows
    scores: Callable[[], Scores]  # (block, n_docs), passages in the order of `Judged.columns`


def tie_order(doc_ids: Sequence[str]) -> NDArray[np.int64]:
    """Return each id's position in reverse lexical order, in which trec_eval lists equal scores.

    >>> tie_order(["b", "c", "a"]).tolist()
    [1, 0, 2]
    """
    # Code points sort as UTF-8 bytes do.
    ordered = sorted(range(len(doc_ids)), key=doc_ids.__getitem__, reverse=True)
    positions = np.empty(len(doc_ids), dtype=np.int64)
    positions[ordered] = np.arange(len(doc_ids))
    return positions


def vector_blocks(
    queries: FloatArray, passages: FloatArray, judged: Judged, rows: IntArray | None = None
) -> list[Block]:
    """Return blocks whose scores are dot products (give unit vectors for the cosine).

    `queries`, (n, dim), are those in `rows`, or all of them in order; `passages` are all,
    (n_docs, dim). Both are computed with in float32. Raises `InputError` for vectors with NaN,
    infinity or norm zero, and for unequal dimensions.

    >>> judged = Judged(*np.array([[0], [1], [1]]), np.array([0, 1]), np.array([0, 1]), 1)
    >>> blocks = vector_blocks(np.eye(2)[:1], np.eye(2), judged)
    >>> blocks[0].scores().tolist()
    [[1.0, 0.0]]
    """
    asked, docs = checked(queries, "query"), checked(passages, "passage")
    if asked.shape[1] != docs.shape[1]:
        raise InputError(
            f"queries have {asked.shape[1]} dimensions, passages {docs.shape[1]}; encode both"
            " with one model"
        )
    docs = docs[judged.columns]
    repeated = twins(docs)

    def block(part: slice) -> Block:
        everyone = np.arange(len(asked)) if rows is None else rows
        return Block(everyone[part], lambda: product(asked[part], docs, repeated))

    return [block(part) for part in block_slices(len(asked), len(docs))]


def block_slices(n_queries: int, n_docs: int) -> Iterator[slice]:
    """Cut the queries into blocks whose scores fit in `SCORES_IN_MEMORY`."""
    size = min(BLOCK_QUERIES, max(1, SCORES_IN_MEMORY // n_docs))
    yield from (slice(start, start + size) for start in range(0, n_queries, size))


def twins(docs: NDArray[np.float32]) -> tuple[IntArray, IntArray]:
    """Return the rows that repeat the vector of an earlier row, and those earlier rows.

    >>> twins(np.array([[1, 2, 3], [1, 2, 4], [1, 2, 3], [5, 2, 3]], dtype=np.float32))
    (array([2]), array([0]))
    """
    begins = _bytes_of(docs[:, : min(2, docs.shape[1])])
    _, group, size = np.unique(begins, return_inverse=True, return_counts=True)
    # Few are alike in their first numbers, so that all numbers are compared of few.
    alike = np.flatnonzero(size[group] > 1)
    _, first, group = np.unique(_bytes_of(docs[alike]), return_index=True, return_inverse=True)
    original = alike[first[group]]
    later = original != alike
    return alike[later], original[later]


def _bytes_of(vectors: NDArray[np.float32]) -> NDArray[np.void]:
    rows = np.ascontiguousarray(vectors)
    return rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()


def product(queries: Scores, docs: Scores, repeated: tuple[IntArray, IntArray]) -> Scores:
    """Return the scores, (n_queries, n_docs), where passages with one vector have one score.

    `repeated` is `twins(docs)`. BLAS libraries compute the elements of a product in several ways
    (OpenBLAS those of one query, or of few queries and passages), so that twins would differ in the
    last bit and their tie be lost.
    """
    scores = queries @ docs.T
    scores[:, repeated[0]] = scores[:, repeated[1]]
    return scores


def checked(emb: FloatArray, what: str) -> NDArray[np.float32]:
    """Return vectors as float32, or refuse what has no direction; `what` names them."""
    vectors = np.asarray(emb, dtype=np.float32)
    if vectors.ndim != 2 or not vectors.size:
        raise InputError(
            f"{what} embeddings have shape {vectors.shape}; (n, dim) with n and dim of at least 1"
            " is needed"
        )
    for good, wrong in (
        (np.isfinite(vectors).all(axis=1), "holds NaN or infinity"),
        (vectors.any(axis=1), "is all zeros and has no direction"),
    ):
        if not good.all():
            row = int(np.argmin(good))
            raise InputError(f"{what} embedding in row {row} {wrong}; encode that text again")
    return vectors


def top_columns(scores: Scores, position: IntArray, k: int) -> IntArray:
    """Return where one query's first k of these scores stand, best first, ties by `position`.

    >>> top_columns(np.float32([0.5, 0.9, 0.5]), np.array([1, 2, 0]), 2).tolist()
    [1, 2]
    """
    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    candidates = np.flatnonzero(scores >= kth)
    return candidates[np.lexsort((position[candidates], -scores[candidates]))[:k]]


def top_lists(
    blocks: Iterable[Block], judged: Judged, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the rows and scores of each query's k best passages, (n_queries, k), best first.

    >>> judged = Judged(*np.array([[0], [0], [1]]), np.array([0, 0, 1]), np.array([1, 2, 0]), 1)
    >>> block = Block(np.array([0]), lambda: np.float32([[0.5, 0.9, 0.5]]))
    >>> top_lists([block], judged, 2)[0].tolist()
    [[1, 2]]
    """
    if not 1 <= k <= judged.n_docs:
        raise InputError(f"k must be between 1 and the pool's {judged.n_docs} passages, got {k}")
    rows = np.empty((judged.n_queries, k), dtype=np.int64)
    best = np.empty((judged.n_queries, k), dtype=np.float32)
    position = judged.ties[judged.columns]
    for block in blocks:
        for query, scores in zip(block.queries, block.scores(), strict=True):
            first = top_columns(scores, position, k)
            rows[query], best[query] = judged.columns[first], scores[first]
    return rows, best
