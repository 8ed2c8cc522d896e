"""Is a difference between two systems larger than chance over the articles asked about and the
seeds trained with?

The rows of a parallel test set are not independent: translations of one question, and questions on
one article, rise and fall together, and tests over single queries find differences where there are
none. So everything here resamples whole *groups* (articles, countries), all their queries in all
languages together, and the statistic is the printed one: the macro mean over cells (query language,
pool), recomputed exactly for each resample from the sums of `metrics.group_sums`.

**Input**: per system one table of `metrics.group_sums` (group, setting, query_lang, pool, measure,
n, total), and where a strategy was trained several times a column `seed` besides, the tables of its
runs below each other. A table without `seed` (an encoder as it is, or seeds averaged beforehand)
holds for every seed of the other. The group is whatever `metrics.group_sums` was given: article,
paragraph (sensitivity) or query (`design_effect`).

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
knows no seeds. `tests/test_significance.py` simulates how often that finds a difference where none
is.

What this does not cover: populations of few groups (below some 20 a percentile interval is too
narrow, and p cannot fall below 2 / 2^g).
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from xir_lib.errors import InputError

Matrix = NDArray[np.float64]
KEYS = ["seed", "group", "query_lang", "pool"]
BATCH = 1000  # resamples at a time: bounds memory where groups are many
KEPT = 2**24  # draws of groups (16 to 32 MB) that the next comparison finds made
REMEMBERED = 1000  # comparisons (80 kB each, of 10,000 draws) that are not computed again
ALPHA, POWER = 0.05, 0.8
A_BETTER, B_BETTER, EQUIVALENT, NON_INFERIOR = "a better", "b better", "equivalent", "non-inferior"
NOT_DECIDABLE = (  # a verdict that begins so goes on with the minimum detectable effect
    "not decidable"
)


@dataclass(frozen=True)
class Comparison:
    """The macro mean of a minus that of b, averaged over seeds, and what is known of its error.

    `low` and `high` are the 95 % interval over groups and seeds, `p` the two-sided p-value, `se`
    the standard deviation of the bootstrap, `se_groups` the same with the seeds kept as they are.
    `per_seed` are the differences of the single seeds, in order. `draws` are the bootstrap's
    differences, (n_resamples,). `df` are the degrees of freedom of `se`; infinite with one seed, or
    if the seeds do not differ: then the draws themselves give the intervals.
    """

    difference: float
    low: float
    high: float
    p: float
    n_groups: int
    per_seed: tuple[float, ...]
    se: float
    se_groups: float
    draws: Matrix = field(repr=False, compare=False)
    df: float = float("inf")

    @property
    def mde(self) -> float:
        """The minimum detectable effect: the true difference that one two-sided test at .05 finds
        in 80 % of repetitions.

        (t_.975 + t_.8) se, which is 2.80 se with one seed, with the error estimated here. Of one
        test: after an adjustment for a family it takes a larger one, or more groups. Infinite where
        p cannot fall below .05 (five groups or fewer).
        """
        if 2 / 2**self.n_groups >= ALPHA:
            return float("inf")
        return float(stats.t.ppf(1 - ALPHA / 2, self.df) + stats.t.ppf(POWER, self.df)) * self.se

    def interval(self, level: float) -> tuple[float, float]:
        """Return the interval of the difference at `level`, .9 for instance."""
        if not 0 < level < 1:
            raise InputError(
                f"level must be between 0 and 1, got {level}; use .95, or .9 for two one-sided"
                " tests at .05"
            )
        if self.df < float("inf"):
            half = float(stats.t.ppf((1 + level) / 2, self.df)) * self.se
            return self.difference - half, self.difference + half
        low, high = np.quantile(self.draws, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def p_non_inferior(self, margin: float, *, lower_is_better: bool = False) -> float:
        """Return the one-sided p-value of "a is worse than b by the margin or more".

        With one seed the share of draws at or beyond the margin, (1 + hits) / (1 + n) as it is
        never 0; with several that of Student's t. Below .05 means that the 90 % interval ends short
        of the margin on the bad side.
        """
        _check_margin(margin)
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


_known: dict[bytes, Comparison] = {}


def compare(
    sums_a: pd.DataFrame,
    sums_b: pd.DataFrame,
    *,
    setting: str,
    measure: str,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two systems on the same queries by paired bootstrap over groups and seeds and paired
    randomisation over groups.

    Args:
        sums_a: the sums of one system, see **Input** above.
        sums_b: the other's, on the same queries and, where both have seeds, the same seeds.
        setting: one of `metrics.SETTINGS`.
        measure: a measure of the tables, `mAP` or `rank distance` for instance.
        n_resamples: number of bootstrap resamples, and of randomisations.
        seed: determines both; the same call gives the same numbers. Not a training seed.

    Bootstrap: groups and seeds drawn with replacement. A cell none of whose groups is drawn is left
    out of that resample's mean. Randomisation: the differences are averaged over seeds, in each
    group a and b are swapped with probability 1/2, and p is the share of randomisations with a
    difference at least as large in size, the observed one counted in: (1 + hits) / (1 + n). See
    above for what becomes of them with one seed and with several.

    Raises `InputError` if the tables lack the setting or measure, do not cover the same queries and
    seeds, hold a row twice or a NaN, or have one group only.
    """
    if n_resamples < 1:
        raise InputError(f"n_resamples must be at least 1, got {n_resamples}")
    return _once(*_difference_matrices(sums_a, sums_b, setting, measure), n_resamples, seed)


def verdict(
    result: Comparison,
    *,
    margin: float | None,
    p: float | None = None,
    lower_is_better: bool = False,
) -> str:
    """Say in words what a comparison decides, at level .05.

    Args:
        result: of `compare`.
        margin: the largest difference that does not matter, declared beforehand in units of the
            measure; None: no margin was declared, and equivalence and non-inferiority are not
            tested.
        p: the p-value adjusted for its family (`holm`), if it belongs to one; else the comparison's
        own is taken.
        lower_is_better: true for rank distance.

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

    Both of `compare` on the same scores, the second with `metrics.group_sums` of
    `per_query.assign(group=...)`: the query_id, or the pair_id, a question with all its
    translations. For thousands of them 2,000 resamples do. 1: grouping does not matter; 4: an
    interval that ignores it is half as wide as it should be. For m units in each group with
    intraclass correlation r it is 1 + (m - 1) r (Kish 1965). NaN if the systems do not differ at
    all.
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
    from scipy.stats import false_discovery_control

    p = _p_values(p_values)
    return np.asarray(false_discovery_control(p), dtype=np.float64) if len(p) else p


def _p_values(p_values: ArrayLike) -> Matrix:
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not np.all((p >= 0) & (p <= 1)):
        raise InputError(f"p-values must be a list of numbers in [0, 1], got {p_values!r}")
    return p


def _check_margin(margin: float) -> None:
    if not margin > 0:
        raise InputError(
            f"margin must be above 0, got {margin}; declare the largest difference that does not"
            " matter"
        )


def _once(n: Matrix, total: Matrix, n_resamples: int, seed: int) -> Comparison:
    """Return `_compare`, from memory if the same numbers were compared before: a page's tables and
    claims share many pairs.
    """
    asked = hashlib.sha256(
        repr((n.shape, total.shape, n_resamples, seed)).encode() + n.tobytes() + total.tobytes()
    ).digest()
    if asked not in _known:
        if len(_known) >= REMEMBERED:
            del _known[next(iter(_known))]  # the oldest
        _known[asked] = _compare(n, total, n_resamples, seed)
        _known[asked].draws.flags.writeable = False  # all who ask get the same array
    return _known[asked]


def _compare(n: Matrix, total: Matrix, n_resamples: int, seed: int) -> Comparison:
    """Do what `compare` says, on the queries (groups, cells) and the summed differences (seeds,
    groups, cells).
    """
    per_seed = _macro(n.sum(axis=0), total.sum(axis=1))  # (seeds,)
    observed = float(per_seed.mean())

    by_seed = _bootstrap(n, total, n_resamples, seed)  # (resamples, seeds)
    seeds = len(total)
    times = np.random.default_rng([seed, 2]).multinomial(
        max(1, seeds - 1), np.full(seeds, 1 / seeds), size=n_resamples
    )
    draws = np.average(by_seed, axis=1, weights=times)
    se, se_groups = float(draws.std()), float(by_seed.mean(axis=1).std())

    # Swapping leaves every cell's n as it is, so the macro mean is a weighted sum of the groups'
    # signs.
    weight = (total.mean(axis=0) / n.sum(axis=0)).mean(axis=1)  # (groups,)
    threshold = (
        abs(observed) - 1e-12 * np.abs(weight).sum()
    )  # equal sums must count as equal, however they were rounded
    hits = sum(
        int(np.count_nonzero(np.abs(sign @ weight) >= threshold))
        for sign in _batches(_signs, n_resamples, len(weight), seed)
    )
    df = _degrees_of_freedom(se, se_groups, len(n), seeds)
    p = (1 + hits) / (1 + n_resamples)
    if df < float("inf"):
        p = max(p, 2 * float(stats.t.sf(abs(observed) / se, df)))
    plain = Comparison(
        observed, 0, 0, p, len(n), tuple(per_seed.tolist()), se, se_groups, draws, df
    )
    low, high = plain.interval(1 - ALPHA)
    return replace(plain, low=low, high=high)


def _degrees_of_freedom(se: float, se_groups: float, groups: int, seeds: int) -> float:
    """Return Satterthwaite's, for a variance with a part of the groups and one of the seeds;
    infinite without the latter.
    """
    of_groups, of_seeds = se_groups**2, se**2 - se_groups**2
    if seeds == 1 or of_seeds <= 1e-12 * se**2:
        return float("inf")
    return float(se**4 / (of_groups**2 / (groups - 1) + of_seeds**2 / (seeds - 1)))


def _macro(n: Matrix, total: Matrix) -> Matrix:
    """Mean over the cells (last axis) that hold a query of total / n; `n` may lack leading axes of
    `total`.
    """
    filled = np.broadcast_to(n > 0, total.shape)
    means = np.divide(total, n, out=np.zeros(total.shape), where=filled)
    result: Matrix = means.sum(axis=-1) / filled.sum(axis=-1)
    return result


def _bootstrap(n: Matrix, total: Matrix, n_resamples: int, seed: int) -> Matrix:
    """Return the difference of each seed, (n_resamples, seeds), on groups drawn with replacement,
    the same for all seeds.
    """
    parts = []
    for drawn in _batches(_draws, n_resamples, len(n), seed):
        times = drawn.astype(np.float64)  # (batch, groups)
        counts = times @ n
        parts.append(
            np.stack([_macro(counts, times @ one) for one in total], axis=1)
        )  # a seed at a time: memory
    return np.concatenate(parts)


def _draws(sizes: list[int], groups: int, seed: int) -> Iterator[NDArray[np.integer]]:
    """Yield, per batch, how often each group is drawn in each resample, (size, groups)."""
    rng = np.random.default_rng([seed, 0])
    for size in sizes:
        yield rng.multinomial(groups, np.full(groups, 1 / groups), size=size).astype(np.uint16)


def _signs(sizes: list[int], groups: int, seed: int) -> Iterator[NDArray[np.integer]]:
    rng = np.random.default_rng([seed, 1])
    for size in sizes:
        yield rng.choice([-1.0, 1.0], size=(size, groups)).astype(np.int8)


Drawing = Callable[[list[int], int, int], Iterator[NDArray[np.integer]]]


def _batches(
    drawing: Drawing, n_resamples: int, groups: int, seed: int
) -> Iterable[NDArray[np.integer]]:
    """Return the batches of `drawing`, kept for the next comparison on as many groups unless they
    are large.
    """
    kept = n_resamples * groups <= KEPT
    return (
        _keep(drawing, n_resamples, groups, seed)
        if kept
        else drawing(_sizes(n_resamples), groups, seed)
    )


@lru_cache(maxsize=8)  # drawing takes longer than the rest of a comparison
def _keep(drawing: Drawing, n_resamples: int, groups: int, seed: int) -> list[NDArray[np.integer]]:
    return list(drawing(_sizes(n_resamples), groups, seed))


def _sizes(n_resamples: int) -> list[int]:
    return [min(BATCH, n_resamples - start) for start in range(0, n_resamples, BATCH)]


def _difference_matrices(
    sums_a: pd.DataFrame, sums_b: pd.DataFrame, setting: str, measure: str
) -> tuple[Matrix, Matrix]:
    """Return n, (groups, cells), and total_a - total_b, (seeds, groups, cells), each axis in sorted
    order.
    """
    trained = next(
        (list(sums["seed"].unique()) for sums in (sums_a, sums_b) if "seed" in sums), [0]
    )
    tables = [_chosen(sums, setting, measure, trained) for sums in (sums_a, sums_b)]
    (layer, seeds), (row, groups), (lang, langs), (pool, pools) = (
        _numbered([table[key] for table in tables]) for key in KEYS
    )
    cells, column = np.unique(lang * len(pools) + pool, return_inverse=True)
    system = np.repeat([0, 1], list(map(len, tables)))
    if len(groups) < 2:
        raise InputError(
            f"{setting} {measure} has one group, {groups[0]!r}; resampling by group needs at least"
            " 2, better 20"
        )
    shape = (2, len(seeds), len(groups), len(cells))
    where = np.ravel_multi_index((system, layer, row, column), shape)
    for again in np.flatnonzero(pd.Index(where).duplicated())[:1]:
        raise InputError(
            f"group {groups[row[again]]!r}, {langs[lang[again]]} queries in pool"
            f" {pools[pool[again]]}: two rows of {'ab'[system[again]]}; number the trainings of a"
            " strategy in a column seed"
        )
    n, total = np.zeros((2, *shape))
    n.flat[where] = np.concatenate([table["n"] for table in tables])
    total.flat[where] = np.concatenate([table["total"] for table in tables])
    if not np.isfinite(total).all():
        raise InputError(
            f"{setting} {measure} has a sum that is no number; leave out queries without a value"
            " before summing"
        )
    for of, seed, group, cell in np.argwhere(n != n[0, 0])[:1]:
        query_lang, among = langs[cells[cell] // len(pools)], pools[cells[cell] % len(pools)]
        with_seed = [f" with seed {seeds[i]}" if len(seeds) > 1 else "" for i in (0, seed)]
        raise InputError(
            f"group {groups[group]!r}, {query_lang} queries in pool {among}:"
            f" {n[0, 0, group, cell]:.0f} of a{with_seed[0]}, {n[of, seed, group, cell]:.0f} of"
            f" {'ab'[of]}{with_seed[1]}; give the same queries and seeds"
        )
    return n[0, 0], total[0] - total[1]


def _numbered(columns: Sequence["pd.Series[Any]"]) -> tuple[NDArray[np.intp], NDArray[np.object_]]:
    """Return a number for every value of the columns, one behind the other, and what it stands for,
    in sorted order.

    A column is read by its own categories, if it has them: to hash the string of every row took
    longer than to resample. Raises InputError where a value is missing.
    """
    coded = [pd.factorize(column) for column in columns]
    for column, (codes, _) in zip(columns, coded, strict=True):
        if (codes < 0).any():
            raise InputError(
                f"{(codes < 0).sum()} rows have no {column.name}; every sum needs its"
                f" {', '.join(KEYS)}"
            )
    number, values = pd.factorize(
        np.concatenate([np.asarray(known, dtype=object) for _, known in coded]), sort=True
    )
    starts = np.cumsum([0, *(len(known) for _, known in coded[:-1])])
    return (
        np.concatenate(
            [number[start + codes] for start, (codes, _) in zip(starts, coded, strict=True)]
        ),
        values,
    )


def _chosen(sums: pd.DataFrame, setting: str, measure: str, seeds: list[Any]) -> pd.DataFrame:
    """Return seed, group, query_lang, pool, n and total of one setting and measure; repeated for
    each seed if it has none.
    """
    there = (sums["setting"] == setting) & (sums["measure"] == measure)
    chosen = sums.loc[there, [name for name in (*KEYS, "n", "total") if name in sums]]
    if chosen.empty:
        known = dict.fromkeys(
            f"{s} {m}" for s, m in zip(sums["setting"], sums["measure"], strict=True)
        )
        raise InputError(
            f"no values of {setting} {measure}; the table has {', '.join(known) or 'no rows'}"
        )
    if "seed" not in chosen:
        chosen = pd.concat([chosen.assign(seed=seed) for seed in seeds])
    return chosen
