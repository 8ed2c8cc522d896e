"""Tests of the tests: scipy where it has the same thing, and calibration on simulated scores with group effects."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from xir_lib import metrics
from xir_lib.errors import InputError
from xir_lib.significance import _compare, compare, holm


def sums_of(totals, n, setting="multilingual", measure="mAP"):
    """(groups, cells) matrices -> the table of `metrics.group_sums`; empty cells have no row."""
    rows = [(f"g{g:03d}", setting, f"l{c}", "all", measure, n[g, c], totals[g, c]) for g, c in zip(*np.nonzero(n), strict=True)]
    return pd.DataFrame(rows, columns=["group", "setting", "query_lang", "pool", "measure", "n", "total"])


def run(a, b, n, **options):
    return compare(sums_of(a, n), sums_of(b, n), setting="multilingual", measure="mAP", **options)


def ragged(seed, groups=12, cells=4):
    rng = np.random.default_rng(seed)
    n = rng.integers(0, 9, (groups, cells))
    n[0] = 1
    return rng.random((groups, cells)) * n, rng.random((groups, cells)) * n, n


def test_equal_cells_agree_with_scipy():
    """One value per group, equal n: the macro mean is the mean of the groups' means, which scipy resamples too."""
    rng = np.random.default_rng(0)
    n = np.full((9, 1), 5)
    a, b = rng.random((9, 1)) * 5, rng.random((9, 1)) * 5
    difference = ((a - b) / 5).ravel()
    ours = run(a, b, n, n_resamples=40_000)
    assert ours.difference == pytest.approx(difference.mean())
    theirs = stats.bootstrap(
        (difference,), np.mean, n_resamples=40_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs), abs=0.03 * (theirs.high - theirs.low))
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
        flipped.append(macro(everything, np.where(swap, b, a)) - macro(everything, np.where(swap, a, b)))
    assert (ours.low, ours.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.08 * (ours.high - ours.low))
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
    one, two = (rows.assign(value=rng.random(300).astype(np.float32)) for _ in range(2))
    printed = metrics.macro(one)["cross-lingual"]["R@10"] - metrics.macro(two)["cross-lingual"]["R@10"]
    result = compare(metrics.group_sums(one), metrics.group_sums(two), setting="cross-lingual", measure="R@10", n_resamples=100)
    assert result.difference == pytest.approx(printed, abs=1e-12)


def test_a_cell_that_lives_in_one_group_is_left_out_of_resamples_without_it():
    n = np.array([[4, 4], [4, 0], [4, 0]])
    a = n * np.array([0.5, 1.0])  # cell 0 differs by .5 in every group, cell 1 by 1 in the only group that has it
    result = run(a, 0 * a, n, n_resamples=2000)
    assert result.difference == pytest.approx(0.75)
    assert (result.low, result.high) == pytest.approx((0.5, 0.75))  # without cell 1 and with it; no other value occurs


def test_mirror_same_seed_and_no_difference():
    a, b, n = ragged(3)
    one, mirrored = run(a, b, n, seed=4), run(b, a, n, seed=4)
    assert one == run(a, b, n, seed=4)
    assert one != run(a, b, n, seed=5)
    assert (one.difference, one.low, one.high) == pytest.approx((-mirrored.difference, -mirrored.high, -mirrored.low))
    assert one.p == mirrored.p
    same = run(a, a, n)
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_smallest_p_is_the_share_of_the_two_extreme_swaps():
    n = np.full((5, 2), 3)
    a = n * np.linspace(0.1, 0.5, 5)[:, None]  # all groups favour a: only no swap and all swaps are as extreme, 2 / 2^5
    assert run(a, 0 * a, n, n_resamples=20_000).p == pytest.approx(1 / 16, abs=4 * np.sqrt(1 / 16 / 20_000))


def test_group_order_and_categories_do_not_matter():
    a, b, n = ragged(6)
    plain = run(a, b, n)
    shuffled = sums_of(a, n).sample(frac=1, random_state=0)
    shuffled["group"] = pd.Categorical(shuffled["group"], categories=sorted(set(shuffled["group"]), reverse=True))
    assert compare(shuffled, sums_of(b, n), setting="multilingual", measure="mAP") == plain


# Calibration: 30 groups of 2 to 12 queries in 3 languages; a and b are equally good, but each group favours one of them.
GROUPS, LANGS, SIMULATIONS = 30, 3, 400


def simulated(seed):
    rng = np.random.default_rng([99, seed])
    size = rng.integers(2, 13, GROUPS)
    group = np.repeat(np.arange(GROUPS), size)
    favour = rng.normal(0, 0.5, GROUPS)[group][:, None] + rng.normal(0, 0.5, (len(group), LANGS))  # a - b, mean 0
    n = np.repeat(size[:, None], LANGS, axis=1)
    by_group = np.stack([np.bincount(group, weights=favour[:, c], minlength=GROUPS) for c in range(LANGS)], axis=1)
    by_query = favour
    return by_group, n, by_query, np.ones_like(by_query, dtype=int)


@pytest.fixture(scope="module")
def calibration():
    # On the matrices: building 500 tables would take most of the time.
    grouped, single = [], []
    for seed in range(SIMULATIONS):
        by_group, n, by_query, ones = simulated(seed)
        grouped.append(_compare(n, by_group, 399, seed))
        if seed < 100:
            single.append(_compare(ones, by_query, 399, seed))
    return grouped, single


def test_false_positive_rate_is_nominal(calibration):
    hits = sum(result.p < 0.05 for result in calibration[0])
    low, high = stats.binom.ppf([0.0005, 0.9995], SIMULATIONS, 0.05)
    assert low <= hits <= high


def test_interval_covers_the_truth_about_as_often_as_it_says(calibration):
    covered = np.mean([result.low <= 0 <= result.high for result in calibration[0]])
    assert 0.90 <= covered <= 0.98  # a percentile interval on 30 groups is known to be a little narrow


def test_the_same_data_by_single_query_finds_what_is_not_there(calibration):
    hits = sum(result.p < 0.05 for result in calibration[1])
    assert hits > 2 * stats.binom.ppf(0.9995, len(calibration[1]), 0.05)


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


def test_what_cannot_be_compared_is_named():
    a, b, n = ragged(8)
    good = sums_of(a, n)
    with pytest.raises(InputError, match="no values of multilingual R@1; the table has multilingual mAP"):
        compare(good, good, setting="multilingual", measure="R@1")
    with pytest.raises(InputError, match="group 'g000', l0 queries in pool all: 0 of a, 1 of b"):
        compare(good[good["group"] != "g000"], good, setting="multilingual", measure="mAP")
    with pytest.raises(InputError, match="group 'g000', l1 queries in pool all: 1 of a, 0 of b"):
        compare(good, good[good["query_lang"] != "l1"], setting="multilingual", measure="mAP")
    with pytest.raises(InputError, match="group 'g000', l0 queries in pool all: 1 of a, 3 of b"):
        more = n.copy()
        more[0, 0] = 3
        compare(good, sums_of(b, more), setting="multilingual", measure="mAP")
    with pytest.raises(InputError, match="has one group, 'g000'"):
        run(a[:1], b[:1], n[:1])
    with pytest.raises(InputError, match="n_resamples must be at least 1, got 0"):
        run(a, b, n, n_resamples=0)
