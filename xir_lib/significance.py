"""Is a difference between two systems larger than chance over the articles that were asked about?

The rows of a parallel test set are not independent: translations of one question, and questions on one article,
rise and fall together, and tests over single queries find differences where there are none (measured: 1.3 to 2.3 times
too narrow). So everything here resamples whole *groups* (articles, countries), all their queries in all languages
together, and the statistic is the printed one: the macro mean over cells (query language, pool), recomputed exactly for
each resample from the sums of `metrics.group_sums`.

What this does not cover: another training seed (a checkpoint is not a strategy), and populations of few groups. Below
some 20 groups a percentile interval is too narrow; with g groups p cannot fall below 2 / 2^g.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from xir_lib.errors import InputError

Matrix = NDArray[np.float64]
KEYS = ["group", "query_lang", "pool"]
BATCH = 1000  # resamples at a time: bounds memory where groups are many


@dataclass(frozen=True)
class Comparison:
    """The macro mean of a minus that of b, its 95 % bootstrap interval over groups, and the two-sided p-value."""

    difference: float
    low: float
    high: float
    p: float
    n_groups: int


def compare(
    sums_a: pd.DataFrame, sums_b: pd.DataFrame, *, setting: str, measure: str, n_resamples: int = 10_000, seed: int = 0
) -> Comparison:
    """Compare two systems on the same queries by paired bootstrap and paired randomisation over groups.

    Args:
        sums_a: `metrics.group_sums` of one system (columns group, setting, query_lang, pool, measure, n, total).
        sums_b: the other's, on the same queries.
        setting: one of `metrics.SETTINGS`.
        measure: a measure of the tables, `mAP` or `rank distance` for instance.
        n_resamples: number of bootstrap resamples, and of randomisations.
        seed: determines both; the same call gives the same numbers.

    Interval: groups drawn with replacement, percentiles 2.5 and 97.5 of the difference. A cell none of whose groups
    is drawn is left out of that resample's mean. p: in each group a and b are swapped with probability 1/2, and p is the
    share of randomisations with a difference at least as large in size, the observed one counted in: (1 + hits) / (1 + n).

    Raises `InputError` if the tables lack the setting or measure, do not cover the same queries, or have one group only.
    """
    if n_resamples < 1:
        raise InputError(f"n_resamples must be at least 1, got {n_resamples}")
    return _compare(*_difference_matrices(sums_a, sums_b, setting, measure), n_resamples, seed)


def holm(p_values: ArrayLike) -> Matrix:
    """Return Holm's adjusted p-values of a family of tests, in the given order.

    The i-th smallest of m becomes the largest of (m - j + 1) p_(j) over j <= i, at most 1 (Holm 1979): rejecting where
    the result is below .05 keeps the chance of any false rejection below .05, under any dependence.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not np.all((p >= 0) & (p <= 1)):
        raise InputError(f"p-values must be a list of numbers in [0, 1], got {p_values!r}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def _compare(n: Matrix, total: Matrix, n_resamples: int, seed: int) -> Comparison:
    """Do what `compare` says, on the queries and the summed differences per (group, cell)."""
    observed = float(_macro(n.sum(axis=0), total.sum(axis=0)))

    drawn = _bootstrap(n, total, n_resamples, np.random.default_rng([seed, 0]))
    low, high = np.quantile(drawn, [0.025, 0.975])

    # Swapping leaves every cell's n as it is, so the macro mean is a weighted sum of the groups' signs.
    weight = (total / n.sum(axis=0)).mean(axis=1)  # (groups,)
    threshold = abs(observed) - 1e-12 * np.abs(weight).sum()  # equal sums must count as equal, however they were rounded
    hits = sum(
        int(np.count_nonzero(np.abs(sign @ weight) >= threshold))
        for sign in _signs(n_resamples, len(weight), np.random.default_rng([seed, 1]))
    )
    return Comparison(observed, float(low), float(high), (1 + hits) / (1 + n_resamples), len(n))


def _macro(n: NDArray, total: NDArray) -> Matrix:
    """Mean over the cells (last axis) that hold a query of total / n."""
    filled = n > 0
    means = np.divide(total, n, out=np.zeros(total.shape), where=filled)
    return means.sum(axis=-1) / filled.sum(axis=-1)


def _bootstrap(n: Matrix, total: Matrix, n_resamples: int, rng: np.random.Generator) -> Matrix:
    groups = len(n)
    parts = []
    for size in _batches(n_resamples):
        times = rng.multinomial(groups, np.full(groups, 1 / groups), size=size).astype(np.float64)  # (size, groups)
        parts.append(_macro(times @ n, times @ total))
    return np.concatenate(parts)


def _signs(n_resamples: int, groups: int, rng: np.random.Generator) -> Iterator[Matrix]:
    for size in _batches(n_resamples):
        yield rng.choice([-1.0, 1.0], size=(size, groups))


def _batches(n_resamples: int) -> list[int]:
    return [min(BATCH, n_resamples - start) for start in range(0, n_resamples, BATCH)]


def _difference_matrices(sums_a: pd.DataFrame, sums_b: pd.DataFrame, setting: str, measure: str) -> tuple[Matrix, Matrix]:
    """Return n and total_a - total_b as (groups, cells), groups and cells in alphabetical order."""
    chosen_a, chosen_b = (_chosen(sums, setting, measure) for sums in (sums_a, sums_b))
    both = chosen_a.join(chosen_b, how="outer", lsuffix="_a", rsuffix="_b", sort=True, validate="one_to_one").fillna(0.0)
    differing = both[both["n_a"] != both["n_b"]]
    if len(differing):
        (group, query_lang, pool), (here, there) = differing.index[0], differing[["n_a", "n_b"]].iloc[0]
        raise InputError(
            f"group {group!r}, {query_lang} queries in pool {pool}: {here:.0f} of a, {there:.0f} of b; give the same queries"
        )
    groups, row = np.unique(both.index.get_level_values("group"), return_inverse=True)
    column = both.groupby(["query_lang", "pool"]).ngroup().to_numpy()
    if len(groups) < 2:
        raise InputError(f"{setting} {measure} has one group, {groups[0]!r}; resampling by group needs at least 2, better 20")
    n, total = np.zeros((2, len(groups), column.max() + 1))
    n[row, column] = both["n_a"]
    total[row, column] = both["total_a"] - both["total_b"]
    return n, total


def _chosen(sums: pd.DataFrame, setting: str, measure: str) -> pd.DataFrame:
    """Return n and total of one setting and measure, indexed by (group, query_lang, pool)."""
    chosen = sums[(sums["setting"] == setting) & (sums["measure"] == measure)]
    if chosen.empty:
        known = dict.fromkeys(f"{s} {m}" for s, m in zip(sums["setting"], sums["measure"], strict=True))
        raise InputError(f"no values of {setting} {measure}; the table has {', '.join(known) or 'no rows'}")
    keys = [chosen[key].to_numpy(dtype=object) for key in KEYS]  # not categories: those of a and b may differ
    return pd.DataFrame(
        {"n": chosen["n"].to_numpy(np.float64), "total": chosen["total"].to_numpy(np.float64)},
        index=pd.MultiIndex.from_arrays(keys, names=KEYS),
    )
