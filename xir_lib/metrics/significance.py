"""Is a difference between two systems larger than chance over the articles asked about and the
seeds trained with?

The rows of a parallel test set are not independent: translations of one question, and questions on
one article, rise and fall together, and tests over single queries find differences where there are
none. So everything here resamples whole *groups* (articles, countries), all their queries in all
languages together, and the statistic is the printed one: the macro mean over cells (query language,
pool), recomputed exactly for each resample from the sums of `measures.group_sums`.

**Input**: per system one table of `measures.group_sums` (group, setting, query_lang, pool, measure,
n, total), and where a strategy was trained several times a column `seed` besides, the tables of its
runs below each other. A table without `seed` (an encoder as it is, or seeds averaged beforehand)
holds for every seed of the other. The group is whatever `group_sums` was given: article, paragraph
(sensitivity) or query (`design_effect`).

**Two levels.** Seeds and groups are drawn independently of each other (Owen 2007, *The pigeonhole
bootstrap*), the same draws whatever the two systems, so that differences between several strategies
add up draw by draw. Of S seeds S - 1 are drawn: the variance of the mean is then unbiased (Rao and
Wu 1988), S of S would give (S - 1) / S of it. Group draws keep their G of G, where the loss is 1 /
G.

**One seed**: percentile intervals of the bootstrap, and the p-value of a randomisation over groups.
It speaks of checkpoints, not of strategies. **Several**: three to five seeds cannot show the tails
of their distribution, so intervals and one-sided tests are of Student's t with the bootstrap's
standard error and Satterthwaite's degrees of freedom (1946) for its two parts, G - 1 for the
groups' and S - 1 for the seeds'; p is the larger of that t test's and of the randomisation's, which
knows no seeds. `tests/metrics/test_significance.py` simulates how often that finds a difference
where none is.

What this does not cover: populations of few groups (below some 20 a percentile interval is too
narrow, and p cannot fall below 2 / 2^g).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from xir_lib.errors import InputError
from xir_lib.metrics.paired import Matrix, difference_matrices

BATCH = 1000  # resamples at a time: bounds memory where groups are many
REMEMBERED = 1000  # comparisons (80 kB each, of 10,000 draws) that are not computed again
ALPHA, POWER = 0.05, 0.8
A_BETTER, B_BETTER, EQUIVALENT, NON_INFERIOR = "a better", "b better", "equivalent", "non-inferior"
NOT_DECIDABLE = "not decidable"  # such a verdict goes on with the minimum detectable effect


@dataclass(frozen=True)
class Comparison:
    """The macro mean of a minus that of b, averaged over seeds, and what is known of its error.

    `p` is two-sided, `se` the standard deviation of the bootstrap, `se_groups` the same with the
    seeds kept as they are. `per_seed` are the differences of the single seeds, in order, `draws`
    the bootstrap's, (n_resamples,). `df` are the degrees of freedom of `se`; infinite with one
    seed, or if the seeds do not differ: then the draws themselves give the intervals.

    >>> sums = {"group": list("abcdefgh"), "setting": "multilingual", "query_lang": "en"}
    >>> sums |= {"pool": "all", "measure": "mAP", "n": 10}
    >>> one = pd.DataFrame({**sums, "total": [5, 6, 4, 7, 6, 5, 8, 6]})
    >>> other = pd.DataFrame({**sums, "total": [4, 5, 4, 5, 5, 3, 7, 4]})
    >>> found = compare(one, other, setting="multilingual", measure="mAP")
    >>> f"{found.difference:.3f} [{found.low:.3f}, {found.high:.3f}]"
    '0.125 [0.075, 0.163]'
    >>> verdict(found, margin=0.01)
    'a better'
    """

    difference: float
    p: float
    n_groups: int
    per_seed: tuple[float, ...]
    se: float
    se_groups: float
    draws: Matrix = field(repr=False, compare=False)
    df: float = float("inf")

    @property
    def low(self) -> float:
        """The lower end of the 95 % interval over groups and seeds."""
        return self.interval(1 - ALPHA)[0]

    @property
    def high(self) -> float:
        """The upper end of the 95 % interval over groups and seeds."""
        return self.interval(1 - ALPHA)[1]

    @property
    def mde(self) -> float:
        """The minimum detectable effect: the true difference that one two-sided test at .05 finds
        in 80 % of repetitions.

        (t_.975 + t_.8) se, which is 2.80 se with one seed; more after an adjustment for a family.
        Infinite where p cannot fall below .05 (five groups or fewer).
        """
        if 2 / 2**self.n_groups >= ALPHA:
            return float("inf")
        return float(stats.t.ppf([1 - ALPHA / 2, POWER], self.df).sum()) * self.se

    def interval(self, level: float) -> tuple[float, float]:
        """Return the interval of the difference at `level`, .9 for instance."""
        if not 0 < level < 1:
            raise InputError(f"level must be between 0 and 1, got {level}; use .95, or .9 for TOST")
        if self.df < float("inf"):
            half = float(stats.t.ppf((1 + level) / 2, self.df)) * self.se
            return self.difference - half, self.difference + half
        low, high = np.quantile(self.draws, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def p_non_inferior(self, margin: float, *, lower_is_better: bool = False) -> float:
        """Return the one-sided p-value of "a is worse than b by the margin or more".

        With one seed the share of draws at or beyond the margin, with several that of Student's t.
        Below .05 means that the 90 % interval ends short of the margin on the bad side.
        """
        if not margin > 0:
            raise InputError(
                f"margin must be above 0, got {margin}; declare the largest difference that does"
                " not matter"
            )
        if self.df < float("inf"):
            away = margin - self.difference if lower_is_better else self.difference + margin
            return float(stats.t.sf(away / self.se, self.df))
        beyond = self.draws >= margin if lower_is_better else self.draws <= -margin
        return (1 + int(np.count_nonzero(beyond))) / (1 + len(self.draws))

    def p_equivalent(self, margin: float) -> float:
        """Return the p-value of "a and b differ by the margin or more": the larger of two one-sided
        ones (TOST).

        Below .05 means that the 90 % interval lies inside the margins.
        """
        return max(self.p_non_inferior(margin), self.p_non_inferior(margin, lower_is_better=True))


def compare(
    sums_a: pd.DataFrame,
    sums_b: pd.DataFrame,
    *,
    setting: str,
    measure: str,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two systems on the same queries: paired bootstrap over groups and seeds, paired
    randomisation over groups.

    Args:
        sums_a: the sums of one system, see **Input** above.
        sums_b: the other's, on the same queries and, where both have seeds, the same seeds.
        setting: one of `measures.SETTINGS`.
        measure: a measure of the tables, `mAP` or `rank distance` for instance.
        n_resamples: of the bootstrap, and of the randomisation.
        seed: determines both; the same call gives the same numbers. Not a training seed.

    Bootstrap: groups and seeds drawn with replacement. A cell none of whose groups is drawn is left
    out of that resample's mean. Randomisation: the differences are averaged over seeds, in each
    group a and b are swapped with probability 1/2, and p is the share of randomisations with a
    difference at least as large in size, the observed one counted in: (1 + hits) / (1 + n).
    """
    if n_resamples < 1:
        raise InputError(f"n_resamples must be at least 1, got {n_resamples}")
    return _remembered(*difference_matrices(sums_a, sums_b, setting, measure), n_resamples, seed)


def verdict(
    result: Comparison,
    *,
    margin: float | None,
    p: float | None = None,
    lower_is_better: bool = False,
) -> str:
    """Say in words what a comparison decides, at level .05.

    `margin` is the largest difference that does not matter, declared beforehand; with None
    equivalence and non-inferiority are not tested. `p` is the p-value adjusted for its family
    (`holm`), if it belongs to one.

    The first that holds: "a better" or "b better", if p < .05 *and* the 95 % interval over groups
    and seeds lies on that side of 0 (the interval ignores the family); "equivalent", if the 90 %
    interval lies within the margins; "non-inferior" (a to b), if it does on the bad side; else "not
    decidable", with the minimum detectable effect of a single test. A difference can be certain and
    smaller than the margin: the verdict then names the better one.
    """
    if (result.p if p is None else p) < ALPHA and not result.low <= 0 <= result.high:
        return A_BETTER if (result.difference > 0) != lower_is_better else B_BETTER
    if margin is not None:
        if result.p_equivalent(margin) < ALPHA:
            return EQUIVALENT
        if result.p_non_inferior(margin, lower_is_better=lower_is_better) < ALPHA:
            return NON_INFERIOR
    if result.mde == float("inf"):
        return f"{NOT_DECIDABLE} ({result.n_groups} groups are too few for any difference)"
    return f"{NOT_DECIDABLE} (minimum detectable effect {result.mde:.2g})"


def design_effect(by_group: Comparison, by_query: Comparison) -> float:
    """Return the variance of the difference by groups over that by smaller units, both with the
    seeds as they are.

    Both of `compare` on the same scores, the second with the query_id or the pair_id (a question
    with all its translations) as the group; for thousands of them 2,000 resamples do. 1: grouping
    does not matter; 4: an interval that ignores it is half as wide as it should be. For m units in
    each group with intraclass correlation r it is 1 + (m - 1) r (Kish 1965). NaN if the systems do
    not differ at all.
    """
    if not np.isclose(by_group.difference, by_query.difference, rtol=1e-6, atol=1e-9):
        raise InputError(
            f"differences {by_group.difference:.6g} and {by_query.difference:.6g} are not of the"
            " same scores; give one comparison by group and one by query"
        )
    return (by_group.se_groups / by_query.se_groups) ** 2 if by_query.se_groups else float("nan")


def holm(p_values: ArrayLike) -> Matrix:
    """Return Holm's adjusted p-values of a family of tests, in the given order.

    The i-th smallest of m becomes the largest of (m - j + 1) p_(j) over j <= i, at most 1 (Holm
    1979): rejecting where the result is below .05 keeps the chance of any false rejection below
    .05, under any dependence.
    """
    p = _p_values(p_values)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def benjamini_hochberg(p_values: ArrayLike) -> Matrix:
    """Return p-values adjusted for the false discovery rate, in the given order; for what is
    exploratory.

    Of the results below .05 no more than 5 % are expected to be false (Benjamini and Hochberg
    1995), under independence or positive dependence. SciPy's.
    """
    p = _p_values(p_values)
    return np.asarray(stats.false_discovery_control(p), dtype=np.float64) if len(p) else p


def _p_values(p_values: ArrayLike) -> Matrix:
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not np.all((p >= 0) & (p <= 1)):
        raise InputError(f"p-values must be a list of numbers in [0, 1], got {p_values!r}")
    return p


_known: dict[bytes, Comparison] = {}  # by a digest of what was compared, the oldest first


def _remembered(n: Matrix, total: Matrix, n_resamples: int, seed: int) -> Comparison:
    """Return `_compare`, from memory if the same numbers were compared before: a page's tables and
    claims share many pairs.
    """
    settings = repr((n.shape, total.shape, n_resamples, seed)).encode()
    asked = hashlib.sha256(settings + n.tobytes() + total.tobytes()).digest()
    if asked not in _known:
        if len(_known) >= REMEMBERED:
            del _known[next(iter(_known))]
        _known[asked] = _compare(n, total, n_resamples, seed)
        _known[asked].draws.flags.writeable = False  # all who ask get the same array
    return _known[asked]


def _compare(n: Matrix, total: Matrix, n_resamples: int, seed: int) -> Comparison:
    """Do what `compare` says, on the queries (groups, cells) and the summed differences (seeds,
    groups, cells).
    """
    seeds, groups = total.shape[:2]
    per_seed = _macro(n.sum(axis=0), total.sum(axis=1))  # (seeds,)
    observed = float(per_seed.mean())

    # 1. The groups are drawn, the same for all seeds, which are taken one at a time for memory.
    parts = []
    for batch in _batches(_drawn_groups(n_resamples, groups, seed)):
        times = batch.astype(np.float64)  # (batch, groups)
        counts = times @ n
        parts.append(np.stack([_macro(counts, times @ one) for one in total], axis=1))
    by_seed = np.concatenate(parts)  # (resamples, seeds)

    # 2. The seeds are drawn, independently of the groups.
    drawn_seeds = np.random.default_rng([seed, 2]).multinomial(
        max(1, seeds - 1), np.full(seeds, 1 / seeds), size=n_resamples
    )
    draws = np.average(by_seed, axis=1, weights=drawn_seeds)
    se, se_groups = float(draws.std()), float(by_seed.mean(axis=1).std())

    # 3. The two systems are swapped in random groups. That leaves every cell's n as it is, so the
    # macro mean is a weighted sum of the groups' signs. Equal sums must count as equal, however
    # they were rounded.
    weight = (total.mean(axis=0) / n.sum(axis=0)).mean(axis=1)  # (groups,)
    threshold = abs(observed) - 1e-12 * np.abs(weight).sum()
    hits = sum(
        int(np.count_nonzero(np.abs(sign @ weight) >= threshold))
        for sign in _batches(_swaps(n_resamples, groups, seed))
    )
    p = (1 + hits) / (1 + n_resamples)

    # 4. Of several seeds the t test decides too.
    df = _degrees_of_freedom(se, se_groups, groups, seeds)
    if df < float("inf"):
        p = max(p, 2 * float(stats.t.sf(abs(observed) / se, df)))
    return Comparison(observed, p, groups, tuple(per_seed.tolist()), se, se_groups, draws, df)


def _degrees_of_freedom(se: float, se_groups: float, groups: int, seeds: int) -> float:
    """Return Satterthwaite's, for the groups' and the seeds' part of a variance."""
    of_groups, of_seeds = se_groups**2, se**2 - se_groups**2
    if seeds == 1 or of_seeds <= 1e-12 * se**2:
        return float("inf")
    return float(se**4 / (of_groups**2 / (groups - 1) + of_seeds**2 / (seeds - 1)))


def _macro(n: Matrix, total: Matrix) -> Matrix:
    """Return the mean of total / n over the cells (the last axis) that hold a query."""
    filled = np.broadcast_to(n > 0, total.shape)
    means = np.divide(total, n, out=np.zeros(total.shape), where=filled)
    result: Matrix = means.sum(axis=-1) / filled.sum(axis=-1)
    return result


@lru_cache(maxsize=4)  # drawing takes longer than the rest of a comparison
def _drawn_groups(n_resamples: int, groups: int, seed: int) -> NDArray[np.uint16]:
    """Return how often each group is drawn in each resample, (n_resamples, groups)."""
    rng = np.random.default_rng([seed, 0])
    times = np.empty((n_resamples, groups), dtype=np.uint16)
    for batch in _batches(times):
        batch[:] = rng.multinomial(groups, np.full(groups, 1 / groups), size=len(batch))
    return times


@lru_cache(maxsize=4)
def _swaps(n_resamples: int, groups: int, seed: int) -> NDArray[np.int8]:
    """Return -1 where a and b are swapped in a group, else 1, (n_resamples, groups)."""
    rng = np.random.default_rng([seed, 1])
    signs = np.empty((n_resamples, groups), dtype=np.int8)
    for batch in _batches(signs):
        batch[:] = rng.choice([-1.0, 1.0], size=batch.shape)
    return signs


def _batches(rows: NDArray[Any]) -> Iterator[NDArray[Any]]:
    return (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))
