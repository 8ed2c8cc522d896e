"""Tests of the tests: scipy where it has the same thing, and calibration on simulated scores with
group and seed effects.
"""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from xir_lib.errors import InputError
from xir_lib.metrics import measures as metrics
from xir_lib.metrics import significance
from xir_lib.metrics.significance import (
    Comparison,
    _compare,
    benjamini_hochberg,
    compare,
    design_effect,
    holm,
    verdict,
)


def sums_of(totals, n, setting="multilingual", measure="mAP"):
    """Turn (groups, cells) matrices into the table of `metrics.group_sums`; empty cells have no
    row.

    With (seeds, groups, cells) totals: the runs' tables below each other, numbered in `seed`.
    """
    if totals.ndim == 3:
        return pd.concat(
            [sums_of(one, n, setting, measure).assign(seed=s) for s, one in enumerate(totals)]
        )
    rows = [
        (f"g{g:03d}", setting, f"l{c}", "all", measure, n[g, c], totals[g, c])
        for g, c in zip(*np.nonzero(n), strict=True)
    ]
    return pd.DataFrame(
        rows, columns=["group", "setting", "query_lang", "pool", "measure", "n", "total"]
    )


def run(a, b, n, **options):
    return compare(sums_of(a, n), sums_of(b, n), setting="multilingual", measure="mAP", **options)


def ragged(seed, groups=12, cells=4):
    rng = np.random.default_rng(seed)
    n = rng.integers(0, 9, (groups, cells))
    n[0] = 1
    return rng.random((groups, cells)) * n, rng.random((groups, cells)) * n, n


def test_equal_cells_agree_with_scipy():
    """One value per group, equal n: the macro mean is the mean of the groups' means, which scipy
    resamples too.
    """
    rng = np.random.default_rng(0)
    n = np.full((9, 1), 5)
    a, b = rng.random((9, 1)) * 5, rng.random((9, 1)) * 5
    difference = ((a - b) / 5).ravel()
    ours = run(a, b, n, n_resamples=40_000)
    assert ours.difference == pytest.approx(difference.mean())
    theirs = stats.bootstrap(
        (difference,),
        np.mean,
        n_resamples=40_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx(
        tuple(theirs), abs=0.03 * (theirs.high - theirs.low)
    )
    exact = stats.permutation_test(
        (difference,), np.mean, permutation_type="samples", n_resamples=np.inf
    ).pvalue  # 2^9 sign flips
    assert ours.p == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 40_000))


def test_ragged_cells_agree_with_a_literal_resampling():
    a, b, n = ragged(1)

    def macro(chosen, totals):
        filled = [c for c in range(n.shape[1]) if n[chosen, c].sum()]
        return np.mean([totals[chosen, c].sum() / n[chosen, c].sum() for c in filled])

    everything = np.arange(len(n))
    ours = run(a, b, n, n_resamples=20_000)
    assert ours.difference == pytest.approx(macro(everything, a) - macro(everything, b))
    rng = np.random.default_rng(7)
    drawn, flipped = [], []
    for _ in range(2000):
        chosen = rng.integers(0, len(n), len(n))
        drawn.append(macro(chosen, a) - macro(chosen, b))
        swap = rng.random(len(n))[:, None] < 0.5
        flipped.append(
            macro(everything, np.where(swap, b, a)) - macro(everything, np.where(swap, a, b))
        )
    assert (ours.low, ours.high) == pytest.approx(
        np.quantile(drawn, [0.025, 0.975]), abs=0.08 * (ours.high - ours.low)
    )
    p = np.mean(np.abs(flipped) >= abs(ours.difference) - 1e-12)
    assert ours.p == pytest.approx(p, abs=4 * np.sqrt(0.25 / 2000))
    assert ours.n_groups == 12


def test_difference_is_that_of_the_printed_macro_means():
    rng = np.random.default_rng(2)
    rows = pd.DataFrame(
        {
            "query_id": [f"q{i}" for i in range(300)],
            "group": rng.choice(list("abcdefgh"), 300),
            "setting": "cross-lingual",
            "query_lang": rng.choice(["en", "de"], 300, p=[0.8, 0.2]),
            "pool": rng.choice(["th", "yo", "sw"], 300),
            "measure": "R@10",
        }
    )
    one, two = (rows.assign(value=rng.random(300)) for _ in range(2))
    printed = (
        metrics.macro(one)["cross-lingual"]["R@10"] - metrics.macro(two)["cross-lingual"]["R@10"]
    )
    result = compare(
        metrics.group_sums(one),
        metrics.group_sums(two),
        setting="cross-lingual",
        measure="R@10",
        n_resamples=100,
    )
    assert result.difference == pytest.approx(printed, abs=1e-12)


def test_a_cell_that_lives_in_one_group_is_left_out_of_resamples_without_it():
    n = np.array([[4, 4], [4, 0], [4, 0]])
    a = n * np.array(
        [0.5, 1.0]
    )  # cell 0 differs by .5 in every group, cell 1 by 1 in the only group that has it
    result = run(a, 0 * a, n, n_resamples=2000)
    assert result.difference == pytest.approx(0.75)
    assert (result.low, result.high) == pytest.approx(
        (0.5, 0.75)
    )  # without cell 1 and with it; no other value occurs


def test_mirror_same_seed_and_no_difference():
    a, b, n = ragged(3)
    one, mirrored = run(a, b, n, seed=4), run(b, a, n, seed=4)
    assert one == run(a, b, n, seed=4)
    assert one != run(a, b, n, seed=5)
    assert (one.difference, one.low, one.high) == pytest.approx(
        (-mirrored.difference, -mirrored.high, -mirrored.low)
    )
    assert one.p == mirrored.p
    same = run(a, a, n)
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_smallest_p_is_the_share_of_the_two_extreme_swaps():
    n = np.full((5, 2), 3)
    a = (
        n * np.linspace(0.1, 0.5, 5)[:, None]
    )  # all groups favour a: only no swap and all swaps are as extreme, 2 / 2^5
    assert run(a, 0 * a, n, n_resamples=20_000).p == pytest.approx(
        1 / 16, abs=4 * np.sqrt(1 / 16 / 20_000)
    )


def test_group_order_and_categories_do_not_matter():
    a, b, n = ragged(6)
    plain = run(a, b, n)
    shuffled = sums_of(a, n).sample(frac=1, random_state=0)
    shuffled["group"] = pd.Categorical(
        shuffled["group"], categories=sorted(set(shuffled["group"]), reverse=True)
    )
    assert compare(shuffled, sums_of(b, n), setting="multilingual", measure="mAP") == plain


def test_what_was_compared_before_is_remembered_and_nothing_else(monkeypatch):
    a, b, n = ragged(6)
    first = run(a, b, n)
    assert run(a, b, n) is first
    others = [run(b, a, n), run(a + n, b, n), run(a, b, n, seed=1), run(a, b, n, n_resamples=500)]
    assert len({one.draws.tobytes() for one in (first, *others)}) == 5
    assert run(a, b, n) is first
    with pytest.raises(ValueError, match="read-only"):
        first.draws[0] = 0  # it is everybody's
    monkeypatch.setattr(significance, "_known", {})
    assert run(a, b, n) == first and run(a, b, n) is not first
    monkeypatch.setattr(significance, "REMEMBERED", 2)
    for seed in (2, 3):
        run(a, b, n, seed=seed)
    assert len(significance._known) == 2


def test_many_groups_agree_with_the_t_test():
    """With 500 groups the central limit theorem holds: sign flips, bootstrap, one-sided p-values
    all meet the t test.
    """
    rng = np.random.default_rng(8)
    difference = rng.exponential(size=500) - 0.93
    one = run(
        difference[:, None],
        0 * difference[:, None],
        np.ones((500, 1), dtype=int),
        n_resamples=20_000,
    )
    theirs = stats.ttest_1samp(difference, 0)
    interval = theirs.confidence_interval(0.95)
    width = interval.high - interval.low
    assert one.p == pytest.approx(theirs.pvalue, abs=0.01)
    assert (one.low, one.high) == pytest.approx(tuple(interval), abs=0.03 * width)
    assert one.interval(0.9) == pytest.approx(
        tuple(theirs.confidence_interval(0.9)), abs=0.03 * width
    )
    assert one.se == one.se_groups == pytest.approx(stats.sem(difference), rel=0.02)
    for margin in (0.02, 0.05, 0.15):
        above = stats.ttest_1samp(difference, -margin, alternative="greater").pvalue
        below = stats.ttest_1samp(difference, margin, alternative="less").pvalue
        assert one.p_non_inferior(margin) == pytest.approx(above, abs=0.015)
        assert one.p_non_inferior(margin, lower_is_better=True) == pytest.approx(below, abs=0.015)
        assert one.p_equivalent(margin) == pytest.approx(max(above, below), abs=0.015)


def test_three_seeds_and_three_groups_draw_the_distribution_that_enumeration_gives():
    """3^3 draws of groups times 3^2 draws of seeds (S - 1 of S), each equally likely: 243
    differences, exactly.
    """
    n = np.array([[2, 1], [1, 0], [3, 2]])
    total = np.array(
        [[[2, 1], [0, 0], [3, 1]], [[1, 0], [1, 0], [6, -2]], [[4, 1], [-1, 0], [0, 2.5]]],
        dtype=float,
    )

    def macro(seeds, groups):
        groups = list(groups)
        filled = [c for c in range(2) if n[groups, c].sum()]
        return np.mean(
            [[total[s, groups, c].sum() / n[groups, c].sum() for c in filled] for s in seeds]
        )

    exact = np.array(
        [
            macro(s, g)
            for s in itertools.product(range(3), repeat=2)
            for g in itertools.product(range(3), repeat=3)
        ]
    )
    ours = run(total, 0 * total, n, n_resamples=60_000)
    assert ours.difference == pytest.approx(macro(range(3), range(3)))
    assert ours.per_seed == pytest.approx([macro([s], range(3)) for s in range(3)])
    assert set(ours.draws.round(9)) == set(exact.round(9))
    for bound in np.unique(exact.round(9)):
        share = np.mean(exact <= bound + 1e-9)
        assert np.mean(ours.draws <= bound + 1e-9) == pytest.approx(
            share, abs=4 * np.sqrt(0.25 / 60_000)
        )
    assert ours.se == pytest.approx(exact.std(), rel=0.02)
    kept = [macro(range(3), g) for g in itertools.product(range(3), repeat=3)]
    assert ours.se_groups == pytest.approx(np.std(kept), rel=0.02)


def test_seeds_alone_give_the_usual_standard_error():
    """Every group alike: only seeds vary, and the variance of their mean is s^2 / S with s^2 over S
    - 1.
    """
    per_seed = np.array([0.1, 0.4, 0.25, 0.2])
    n = np.full((6, 2), 3)
    ours = run(per_seed[:, None, None] * n, np.zeros((4, 6, 2)), n, n_resamples=40_000)
    assert ours.per_seed == pytest.approx(per_seed)
    assert ours.se == pytest.approx(stats.sem(per_seed), rel=0.02)
    assert ours.se_groups == pytest.approx(0, abs=1e-12)
    theirs = stats.ttest_1samp(per_seed, 0)  # and the usual t test
    assert ours.df == pytest.approx(3)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)), abs=0.01)
    assert ours.p_non_inferior(0.1) == pytest.approx(
        stats.ttest_1samp(per_seed, -0.1, alternative="greater").pvalue, rel=0.1
    )
    assert ours.p == pytest.approx(
        max(theirs.pvalue, 2 / 2**6), rel=0.1
    )  # of 2^6 swaps two are as extreme


def seeded(seed, seeds=3):
    a, b, n = ragged(seed)
    noise = np.random.default_rng([seed, 1]).normal(0, 0.1, (2, seeds, *n.shape))
    return a + noise[0] * n, b + noise[1] * n, n


def test_equal_seeds_are_one_seed():
    a, b, n = ragged(11)
    one, three = run(a, b, n), run(np.stack([a] * 3), np.stack([b] * 3), n)
    assert three.per_seed == pytest.approx([one.difference] * 3)
    np.testing.assert_allclose(three.draws, one.draws)
    assert (three.p, three.low, three.high, three.se) == pytest.approx(
        (one.p, one.low, one.high, one.se_groups)
    )


def test_p_and_difference_are_those_of_the_sums_averaged_over_seeds():
    a, b, n = seeded(12)
    crossed, averaged = run(a, b, n), run(a.mean(axis=0), b.mean(axis=0), n)
    assert crossed.difference == pytest.approx(averaged.difference)
    t_test = 2 * stats.t.sf(abs(crossed.difference) / crossed.se, crossed.df)
    assert crossed.p == pytest.approx(max(averaged.p, t_test))  # the seeds can only make it larger
    assert crossed.se_groups == pytest.approx(averaged.se)
    assert crossed.se > averaged.se


def test_the_same_draw_serves_all_strategies():
    """Draw by draw, a - c is a - b plus b - c; without shared draws of seeds and of groups it would
    not be.
    """
    a, b, n = seeded(13)
    c = seeded(14)[1][:, : len(n)]
    chain = run(a, b, n).draws + run(b, c, n).draws
    np.testing.assert_allclose(run(a, c, n).draws, chain, atol=1e-12)


def test_a_table_without_seeds_holds_for_every_seed():
    a, b, n = seeded(15)
    assert run(a, b[0], n) == run(a, np.stack([b[0]] * 3), n)
    assert run(b[0], a, n) == run(np.stack([b[0]] * 3), a, n)


# A test set as it comes: 40 articles of 3 paragraphs of 4 questions in 3 languages, with a part
# that each level shares.
PER_QUERY = pd.DataFrame(list(itertools.product(range(40), range(3), range(4), ["en", "th", "yo"])))
PER_QUERY.columns = ["article", "paragraph", "question", "query_lang"]
PER_QUERY["paragraph"] += 3 * PER_QUERY["article"]
PER_QUERY["question"] += 4 * PER_QUERY["paragraph"]


def scored(seed):
    rng = np.random.default_rng([16, seed])
    shared = sum(
        rng.normal(size=480)[PER_QUERY[level]] for level in ("article", "paragraph", "question")
    )
    value = (shared + rng.normal(size=len(PER_QUERY))) / 4
    return PER_QUERY.assign(
        query_id=PER_QUERY.index, setting="multilingual", pool="all", measure="mAP", value=value
    )


def test_any_key_can_be_the_group_and_the_design_effect_is_that_of_hand_arithmetic():
    one, two = scored(0), scored(1)
    by = {}
    for key in ("article", "paragraph", "query_id"):
        sums = (metrics.group_sums(table.assign(group=table[key])) for table in (one, two))
        by[key] = compare(*sums, setting="multilingual", measure="mAP", n_resamples=5000)
    assert [by[key].n_groups for key in by] == [40, 120, 1440]
    assert len({round(result.difference, 12) for result in by.values()}) == 1
    assert by["article"].se > by["paragraph"].se > by["query_id"].se
    # Articles of equal size: var(article means) / 40 over the variance of single rows within their
    # language / 1440.
    difference = (one["value"] - two["value"]).to_numpy()
    within = np.mean([difference[one["query_lang"] == lang].var() for lang in ("en", "th", "yo")])
    exact = (difference.reshape(40, 36).mean(axis=1).var() / 40) / (within / 1440)
    assert design_effect(by["article"], by["query_id"]) == pytest.approx(exact, rel=0.08)
    # Kish: 1 + (36 - 1) r with r the covariance of two rows of an article over the variance.
    # Expected: two rows share the article (1), the paragraph with 11 of 35 others (1), the question
    # with 2 of 35 (1), of a variance of 4.
    expected = 1 + 35 * (1 + 11 / 35 + 2 / 35) / 4
    assert exact == pytest.approx(expected, rel=0.5)  # 40 articles tell a variance to a fifth or so
    with pytest.raises(InputError, match="are not of the same scores"):
        design_effect(by["article"], run(*ragged(1)))


def test_no_design_effect_without_a_difference():
    a, _, n = ragged(17)
    assert np.isnan(design_effect(run(a, a, n), run(a, a, n)))


def test_minimum_detectable_effect_by_hand():
    a, b, n = seeded(18)
    one = run(a[0], b[0], n)
    assert one.mde == pytest.approx((1.959964 + 0.841621) * one.se, rel=1e-6)
    few = [
        run(a[0][:groups], b[0][:groups], n[:groups]).mde for groups in (5, 6)
    ]  # 2 / 2^5 = .0625, 2 / 2^6 = .031
    assert few[0] == np.inf > few[1]
    three = run(a, b, n)  # two parts of a variance: Satterthwaite's degrees of freedom
    of_groups, of_seeds = three.se_groups**2, three.se**2 - three.se_groups**2
    assert three.df == pytest.approx(
        (of_groups + of_seeds) ** 2 / (of_groups**2 / (len(n) - 1) + of_seeds**2 / 2)
    )
    assert three.mde == pytest.approx(sum(stats.t.ppf([0.975, 0.8], three.df)) * three.se)


def test_verdicts():
    def result(low, high, p):
        """A uniform distribution, whose 95 % interval is [low, high]."""
        margin = (high - low) / 38  # 2.5 % of the whole width
        draws = np.linspace(low - margin, high + margin, 1001)
        middle = (low + high) / 2
        return Comparison(middle, p, 48, (middle,), 0.002, 0.002, draws)

    assert verdict(result(0.001, 0.03, 0.01), margin=0.01) == "a better"
    assert verdict(result(-0.03, -0.001, 0.01), margin=0.01) == "b better"
    assert verdict(result(10, 30, 0.01), margin=None, lower_is_better=True) == "b better"
    assert verdict(result(-30, -10, 0.01), margin=None, lower_is_better=True) == "a better"
    assert verdict(result(0.001, 0.03, 0.01), margin=0.01, p=0.06) == "non-inferior"  # after Holm
    assert (
        verdict(result(-0.001, 0.03, 0.01), margin=0.01) == "non-inferior"
    )  # the seeds leave it open
    assert verdict(result(-0.008, 0.008, 0.9), margin=0.01) == "equivalent"
    # 90 % of [-.0104, .0104] is [-.00985, .00985]: TOST at .05 reads that one; of [-.0108, .0108]
    # it is .01023.
    assert verdict(result(-0.0104, 0.0104, 0.9), margin=0.01) == "equivalent"
    assert verdict(result(-0.0108, 0.0108, 0.9), margin=0.01).startswith("not decidable")
    assert verdict(result(-0.008, 0.05, 0.2), margin=0.01) == "non-inferior"
    assert verdict(result(-0.05, 0.008, 0.2), margin=0.01, lower_is_better=True) == "non-inferior"
    # 2.8016 x .002 = .0056
    assert (
        verdict(result(-0.05, 0.008, 0.2), margin=0.01)
        == "not decidable (minimum detectable effect 0.0056)"
    )
    assert verdict(result(-0.008, 0.008, 0.9), margin=None).startswith("not decidable")


def test_one_sided_tests_and_the_90_percent_interval_say_the_same():
    result = run(*seeded(19))
    low, high = result.interval(0.9)
    for margin in np.linspace(0.005, 0.995, 200) * max(-low, high, 0.1) * 2:
        if min(abs(low + margin), abs(high - margin)) < 0.001 * (high - low):
            continue  # between two neighbouring draws, where a quantile interpolates
        assert (result.p_non_inferior(margin) < 0.05) == (low > -margin)
        assert (result.p_non_inferior(margin, lower_is_better=True) < 0.05) == (high < margin)
        assert (result.p_equivalent(margin) < 0.05) == (-margin < low and high < margin)


# Calibration, on the matrices: building thousands of tables would take most of the time. Groups of
# 2 to 12 queries in 3 languages; a and b are equally good, but each group favours one of them, and
# so does each seed.
LANGS, SIMULATIONS, RESAMPLES = 3, 400, 299
GROUP_SD = 0.5


def simulated(seed, *, groups=30, seeds=1, seed_share=0.0, effect=0.0):
    """Return n and total of differences with mean `effect`; also the single queries' values,
    (seeds, queries, cells).

    `seed_share`: variance that the seeds add to the mean over seeds, relative to what the groups
    add.
    """
    rng = np.random.default_rng([99, seed])
    size = rng.integers(2, 13, groups)
    group = np.repeat(np.arange(groups), size)
    favour = rng.normal(0, GROUP_SD, groups)[group][:, None] + rng.normal(
        0, 0.5, (len(group), LANGS)
    )
    by_seed = rng.normal(0, GROUP_SD * np.sqrt(seed_share * seeds / groups), (seeds, 1, 1))
    value = (
        effect + favour + by_seed + rng.normal(0, 0.25, (seeds, len(group), LANGS)) * (seeds > 1)
    )
    total = np.stack([np.add.reduceat(one, np.r_[0, size.cumsum()[:-1]]) for one in value])
    return np.repeat(size[:, None], LANGS, axis=1), total, value


def simulate(simulations, **options):
    return [
        _compare(*simulated(seed, **options)[:2], RESAMPLES, seed) for seed in range(simulations)
    ]


def binomial_bounds(simulations, rate):
    return stats.binom.ppf([0.0005, 0.9995], simulations, rate)


@pytest.fixture(scope="module")
def calibration():
    return simulate(SIMULATIONS)


def test_false_positive_rate_is_nominal(calibration):
    hits = sum(result.p < 0.05 for result in calibration)
    low, high = binomial_bounds(SIMULATIONS, 0.05)
    assert low <= hits <= high


def test_interval_covers_the_truth_about_as_often_as_it_says(calibration):
    covered = np.mean([result.low <= 0 <= result.high for result in calibration])
    assert (
        0.90 <= covered <= 0.98
    )  # a percentile interval on 30 groups is known to be a little narrow


def test_the_same_data_by_single_query_finds_what_is_not_there():
    hits, simulations = 0, 100
    for seed in range(simulations):
        value = simulated(seed)[2]
        hits += _compare(np.ones_like(value[0]), value, RESAMPLES, seed).p < 0.05
    assert hits > 2 * binomial_bounds(simulations, 0.05)[1]


@pytest.mark.parametrize(
    ("groups", "seeds", "seed_share", "least"),
    [(48, 3, 0, 0.92), (48, 3, 1, 0.92), (48, 5, 1, 0.92), (48, 3, 4, 0.9), (16, 3, 2.5, 0.9)],
)
def test_several_seeds_cover_and_find_nothing_too_often(groups, seeds, seed_share, least):
    results = simulate(SIMULATIONS, groups=groups, seeds=seeds, seed_share=seed_share)
    assert least <= np.mean([result.low <= 0 <= result.high for result in results]) <= 0.99
    found = np.mean([result.p < 0.05 for result in results])
    named = np.mean([verdict(result, margin=None).endswith("better") for result in results])
    assert named <= found <= 1 - least
    assert np.mean([result.p_non_inferior(0.001) < 0.05 for result in results]) <= 1 - least
    if seed_share:  # the groups alone, which do not see that the next training would differ
        alone = np.mean([abs(result.difference) > 1.96 * result.se_groups for result in results])
        assert alone > max(binomial_bounds(SIMULATIONS, 0.05)[1] / SIMULATIONS, found)


@pytest.mark.parametrize(("seeds", "seed_share"), [(1, 0), (5, 0.25)])
def test_power_at_the_minimum_detectable_effect(seeds, seed_share):
    """Simulate at the effect that the estimated errors promise to find in 80 % of the cases, and
    count.
    """
    options = {"groups": 48, "seeds": seeds, "seed_share": seed_share}
    promised = np.median([result.mde for result in simulate(50, **options)])
    found = sum(
        verdict(result, margin=None) == "a better"
        for result in simulate(SIMULATIONS, effect=promised, **options)
    )
    low, high = binomial_bounds(SIMULATIONS, 0.8)
    assert low <= found <= high


def test_non_inferiority_and_equivalence_at_the_margin_are_claimed_in_5_percent():
    """The truth lies at -margin, the worst case; a wide margin makes the other side of TOST
    irrelevant.
    """
    margin = 1.0
    results = simulate(SIMULATIONS, groups=48, effect=-margin)
    low, high = binomial_bounds(SIMULATIONS, 0.05)
    assert low <= sum(result.p_non_inferior(margin) < 0.05 for result in results) <= high
    assert low <= sum(result.p_equivalent(margin) < 0.05 for result in results) <= high


def test_benjamini_hochberg_by_hand():
    # Sorted .01 .03 .04 .5 times 4/1 4/2 4/3 4/4 = .04 .06 .0533 .5; from the largest down the
    # smallest so far.
    assert benjamini_hochberg([0.04, 0.01, 0.5, 0.03]).tolist() == pytest.approx(
        [0.16 / 3, 0.04, 0.5, 0.16 / 3]
    )
    assert benjamini_hochberg([]).tolist() == []
    with pytest.raises(InputError, match="p-values must be"):
        benjamini_hochberg([0.5, 1.5])


def test_holm_by_hand():
    # Sorted .01 .03 .04 .5: times 4 3 2 1 = .04 .09 .08 .5, running maximum .04 .09 .09 .5.
    assert holm([0.04, 0.01, 0.5, 0.03]).tolist() == pytest.approx([0.09, 0.04, 0.5, 0.09])
    assert holm([0.6, 0.7]).tolist() == [1, 1]
    assert holm([]).tolist() == []
    for bad in ([0.1, 1.2], [np.nan], [[0.1]]):
        with pytest.raises(InputError, match="p-values"):
            holm(bad)


def test_holm_keeps_the_family_error():
    rng = np.random.default_rng(0)
    false = sum(bool((holm(rng.random(8)) < 0.05).any()) for _ in range(2000))
    assert false <= stats.binom.ppf(0.9995, 2000, 0.05)


A, B, N = ragged(8)
GOOD = sums_of(A, N)
MORE = sums_of(B, np.where(np.arange(N.size).reshape(N.shape) == 0, 3, N))  # 3 in the first cell
SEEDS = pd.concat([GOOD.assign(seed=4), GOOD.assign(seed=7)])
UNLIKE = pd.concat([GOOD.assign(seed=4), MORE.assign(seed=7)])
FIRST = "group 'g000', l0 queries in pool all: "


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        (GOOD[GOOD["group"] != "g000"], GOOD, f"{FIRST}0 of a, 1 of b"),
        (GOOD, GOOD[GOOD["query_lang"] != "l1"], "l1 queries in pool all: 1 of a, 0 of b"),
        (GOOD, MORE, f"{FIRST}1 of a, 3 of b"),
        (SEEDS, GOOD.assign(seed=7), "1 of a with seed 4, 0 of b with seed 4; give the same"),
        (UNLIKE, UNLIKE, f"{FIRST}1 of a with seed 4, 3 of a with seed 7"),
        (GOOD, pd.concat([GOOD, GOOD]), f"{FIRST}two rows of b; number the trainings"),
        (
            GOOD,
            GOOD.assign(query_lang=[None, *GOOD["query_lang"][1:]]),
            "1 rows have no query_lang; every sum needs its seed, group, query_lang, pool",
        ),
        (GOOD.assign(total=np.nan), GOOD, "multilingual mAP has a sum that is no number"),
        (sums_of(A[:1], N[:1]), sums_of(B[:1], N[:1]), "has one group, 'g000'"),
        (GOOD.assign(measure="R@9"), GOOD, "no values of multilingual mAP; the table has multi"),
    ],
)
def test_what_cannot_be_compared_is_named(a, b, says):
    with pytest.raises(InputError, match=says):
        compare(a, b, setting="multilingual", measure="mAP")


def test_impossible_numbers_are_refused():
    found = run(A, B, N, n_resamples=100)
    with pytest.raises(InputError, match=r"margin must be above 0, got -0\.01"):
        found.p_equivalent(-0.01)
    with pytest.raises(InputError, match="level must be between 0 and 1, got 95"):
        found.interval(95)
    with pytest.raises(InputError, match="n_resamples must be at least 1, got 0"):
        run(A, B, N, n_resamples=0)
