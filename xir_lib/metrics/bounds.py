"""What an ideal, a random and a totally biased ranking give, in closed form.

`bias` prints each measure beside these bounds and says which rankings they are of; here are the
expectations that take more than a line. The notation is the same: N passages in the pool, k of them
relevant.
"""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from xir_lib.metrics.measures import Values
from xir_lib.metrics.ranks import IntArray, RelevantRanks


def own_language(queries: pd.DataFrame, languages: Sequence[str]) -> NDArray[np.bool_]:
    """Say which language is the query's, (n_queries, n_langs)."""
    codes = pd.Index(languages).get_indexer(pd.Index(queries["lang"]))  # -1 where the pool lacks it
    return codes[:, None] == np.arange(len(languages))


def relevant_per_language(ranks: RelevantRanks) -> IntArray:
    """Count the relevant passages, (n_queries, n_langs)."""
    shape = ranks.n_queries, len(ranks.pool_sizes)
    cell = np.ravel_multi_index((ranks.query_index, ranks.doc_lang), shape)
    return np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)


def last_rank_own_first(
    ranks: RelevantRanks, queries: pd.DataFrame, languages: Sequence[str]
) -> IntArray:
    """Return where the last relevant passage is if the query's language comes first: behind all of
    that language, unless there is none elsewhere.
    """
    own = own_language(queries, languages)
    elsewhere = (relevant_per_language(ranks) * ~own).sum(axis=1)
    own_pool = (own * ranks.pool_sizes).sum(axis=1)
    return np.where(elsewhere > 0, own_pool + elsewhere, ranks.n_relevant)


def random_log2_last_rank(n: int, k: int) -> float:
    """Return the expected log2 of the largest of k ranks drawn from 1 to n.

    P(m) = C(m - 1, k - 1) / C(n, k), so P(n) = k / n and P(m - 1) / P(m) = (m - k) / (m - 1).
    """
    rank = np.arange(n, k - 1, -1)
    falling = np.cumprod(np.concatenate([[1.0], (rank[:-1] - k) / (rank[:-1] - 1)]))
    return float(k / n * (falling * np.log2(rank)).sum())


def random_average_precision(n: int, k: int) -> float:
    """Return the expected average precision of a random ranking of n passages, k of them relevant.

    The sum over ranks i of P(relevant at i) / i times the expected relevant ones among the first i,
    over k: (H_n + (k - 1) (n - H_n) / (n - 1)) / n with the harmonic number H_n.

    >>> round(random_average_precision(2, 1), 2)  # (1 + 1/2) / 2
    0.75
    """
    harmonic = float((1 / np.arange(1, n + 1)).sum())
    return (harmonic + (k - 1) * (n - harmonic) / max(1, n - 1)) / n


def average_precision_behind(ahead: int, k: int) -> float:
    """Return the average precision of k relevant passages in a row behind `ahead` others."""
    hits = np.arange(1, k + 1)
    return float((hits / (ahead + hits)).mean())


def relevant_first(k: ArrayLike, relevant: IntArray, pool: IntArray) -> Values:
    """Return the expected passages per language among the first k, (n_queries, n_langs), if the
    relevant ones come first, then any.
    """
    n_relevant = relevant.sum(axis=1, keepdims=True)
    others = pool - relevant
    found = np.minimum(1, k / np.maximum(1, n_relevant))
    left = np.maximum(0, k - n_relevant) / np.maximum(1, others.sum(axis=1, keepdims=True))
    return relevant * found + others * left


def for_each(function: Callable[..., float], *sizes: IntArray) -> Values:
    """Call `function` with the sizes of every row, once for rows of the same sizes, (n,)."""
    return np.array(list(map(cache(function), *(size.tolist() for size in sizes))))
