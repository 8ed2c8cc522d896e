"""Low-resource tables on made-up results whose right answers are worked out by hand."""

from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import spearmanr

from xir_lib.data import belebele
from xir_lib.errors import InputError
from xir_lib.metrics.pairs import keep_cells, keep_summary
from xir_lib.paths import REPO
from xir_lib.study import low_resource
from xir_lib.study.low_resource import ALL_PAIRS, OUTSIDE, PREDICTORS, label_permutation
from xir_lib.study.profile import Study
from xir_lib.study.results import Results, load_results

Cells = dict[tuple[str, str], float]
LANGS = (
    "en",
    "sw",
    "te",
    "yo",
)  # XLM-R's list lacks yo; te is the one that is not written in Latin letters
PAIRS = [(a, b) for a in LANGS for b in LANGS]


def results_of(
    levels: dict[str, Cells],
    robustness: dict[tuple[str, str], dict[str, Any]] | None = None,
    groups: int = 30,
) -> Results:
    """Results with this mAP per strategy and pair, the same noise per group in all; robustness by
    (run, rival).
    """
    noise = np.random.default_rng(0).normal(0, 0.02, groups)
    noise -= noise.mean()
    rows, evaluations = [], []
    for strategy, cells in levels.items():
        key = {
            "run": strategy if strategy == "none" else f"{strategy}-s0",
            "strategy": strategy,
            "task": "atlas-qa",
        }
        for (query_lang, pool), value in cells.items():
            setting = "monolingual" if query_lang == pool else "cross-lingual"
            cell = {
                "setting": setting,
                "query_lang": query_lang,
                "pool": pool,
                "measure": "mAP",
                "rival": "none",
            }
            rows += [
                {**key, **cell, "group": f"g{g}", "n": 5, "total": 5 * (value + noise[g])}
                for g in range(groups)
            ]
    for (run, rival), measured in (robustness or {}).items():
        evaluations.append(
            {
                "run": run,
                "strategy": run.rsplit("-s", 1)[0],
                "task": "atlas-qa",
                "rival": rival,
                "robustness": measured,
            }
        )
    evaluations.append(
        {"run": "none", "strategy": "none", "task": "atlas-qa", "rival": "bm25"}
    )  # made before it was measured
    demo = yaml.safe_load((REPO / "params" / "demo.yaml").read_text())
    trained = [name for name in levels if name != "none"]
    study = Study(
        **demo
        | {
            "strategies": trained or ["x-y"],
            "rivals": ["none"],
            "resamples": 200,
            "untrained": False,
        }
    )
    return Results(study, [], evaluations, pd.DataFrame(rows), {})


def level(of: Any) -> Cells:
    return {pair: of(*pair) for pair in PAIRS}


LEVELS = {
    "none": level(lambda a, b: 0.50),
    "x-x-mono": level(lambda a, b: 0.60),
    "x-y": level(lambda a, b: 0.80 if a == b else 0.70),
    "hybrid-0.5": level(
        lambda a, b: {"en": 0.65, "sw": 0.60, "te": 0.55, "yo": 0.70}[b] + (0.1 if a == b else 0)
    ),
}


def kept(
    cells: dict[tuple[str, str], tuple[float, float]], low: float = 0.4, high: float = 0.6
) -> dict[str, Any]:
    """What an evaluation holds, from (alone, among) by pair; a ranker blind to language would have
    .9 of alone.
    """
    table = pd.DataFrame([(*pair, 5, *values) for pair, values in cells.items()])
    table.columns = ["query_lang", "pool", "queries", "alone", "among"]
    table["blind"] = 0.9 * table["alone"]
    rows = table.to_dict("records")
    return {"cells": rows, "summary": [{"statistic": "mean", "low": low, "high": high}]}


# ---- languages
# ----------------------------------------------------------------------


def test_languages_come_by_the_size_of_their_miracl_corpus() -> None:
    assert low_resource.language_order(["en", "tr", "yo", "am", "te", "sw"]) == [
        "yo",
        "sw",
        "te",
        "en",
        "am",
        "tr",
    ]
    assert len(low_resource.MIRACL_PASSAGES) == 18
    assert (
        sum(low_resource.MIRACL_PASSAGES.values()) == 106_332_152
    )  # the total that MIRACL's table 1 prints


def test_the_pre_training_list_has_100_entries() -> None:
    twice = [
        "bn",
        "hi",
        "ta",
        "te",
        "ur",
        "my",
        "zh",
    ]  # romanised; Burmese in two encodings; Chinese in two scripts
    assert len(low_resource.XLM_R) + len(twice) == 100
    assert {"af", "am", "en", "xh"} == low_resource.XLM_R & set(belebele.LANGUAGES)
    assert "sw" in low_resource.XLM_R
    assert "yo" not in low_resource.XLM_R


# ---- keep
# ----------------------------------------------------------------------


def test_keep_of_one_seed_is_the_summary_of_robustness() -> None:
    rng = np.random.default_rng(3)
    rows = [(a, b, f"{i}-{a}", str(i), f"g{i % 7}") for a, b in PAIRS for i in range(21)]
    table = pd.DataFrame(rows, columns=["query_lang", "pool", "query_id", "pair_id", "group"])
    table["alone"] = rng.uniform(0.3, 1, len(table))
    table["among"], table["blind"] = (
        table["alone"] * rng.uniform(0.2, 1, len(table)),
        table["alone"] * 0.8,
    )
    summary = keep_summary(table, n_resamples=200)
    measured = {
        "summary": summary.to_dict("records"),
        "cells": keep_cells(table).to_dict("records"),
    }
    found = low_resource.keep_table(
        results_of(LEVELS, {("none", "none"): measured}), "atlas-qa"
    ).iloc[0]
    mean, p10, worst = (row for _, row in summary.iterrows())
    for name, column in (
        ("keep", "keep"),
        ("low", "low"),
        ("high", "high"),
        ("mAP alone", "alone"),
        ("mAP among", "among"),
    ):
        assert found[name] == pytest.approx(mean[column])
    for name, column in (("p10", "keep"), ("p10 low", "low"), ("p10 high", "high")):
        assert found[name] == pytest.approx(p10[column])
    assert (found["worst pair"], found["its keep"]) == (
        f"{worst['query_lang']} -> {worst['pool']}",
        pytest.approx(worst["keep"]),
    )
    assert (found["blind keep"], found["pairs"]) == (pytest.approx(0.8), 12)


def test_seeds_are_averaged_before_the_worst_pair_is_looked_for() -> None:
    # alone is .5. Seed 0 has .1 and .4 among, seed 1 .4 and .2; the means .25 and .3 keep .5 and
    # .6. The lowest of any seed would be .2. The diagonal is no pair.
    first = kept(
        {("en", "sw"): (0.5, 0.1), ("sw", "en"): (0.5, 0.4), ("en", "en"): (0.5, 0.01)},
        low=0.2,
        high=0.5,
    )
    second = kept(
        {("en", "sw"): (0.5, 0.4), ("sw", "en"): (0.5, 0.2), ("en", "en"): (0.5, 0.01)},
        low=0.4,
        high=0.9,
    )
    results = results_of(
        LEVELS,
        {("x-y-s0", "none"): first, ("x-y-s1", "none"): second, ("x-y-s0", "centring"): first},
    )
    table = low_resource.keep_table(results, "atlas-qa")
    assert table[["strategy", "free fix"]].to_numpy().tolist() == [
        ["x-y", "none"],
        ["x-y", "centring"],
    ]
    row = table.iloc[0]
    assert row["worst pair"] == "en -> sw"
    numbers = {
        "keep": 0.55,
        "low": 0.3,
        "high": 0.7,
        "p10": 0.51,
        "its keep": 0.5,
        "mAP alone": 0.5,
        "mAP among": 0.275,
    }
    assert {name: row[name] for name in numbers} == pytest.approx(
        numbers
    )  # p10: .5 + .1 of the way to .6


def test_keep_of_the_pairs_with_a_language_outside_the_list() -> None:
    cells = {(a, b): (0.5, 0.1 if b == "yo" else 0.2 if a == "yo" else 0.5) for a, b in PAIRS}
    results = results_of(LEVELS, {("none", "none"): kept(cells)})
    # Three pairs x -> yo keep .2 and three yo -> x .4; the other six of twelve keep all.
    row = low_resource.keep_table(results, "atlas-qa").iloc[0]
    assert (row["outside list"], row["keep"]) == (
        pytest.approx(0.3),
        pytest.approx((0.6 + 1.2 + 6) / 12),
    )
    compared = {"atlas-qa": low_resource.pair_comparisons(results, "atlas-qa")}
    assert (
        "of 0.500 (outside XLM-R's list 0.30, worst en -> yo 0.20)"
        in low_resource.answers(results, compared)[1]
    )


def test_results_without_robustness_give_no_rows() -> None:
    results = results_of(LEVELS)
    assert low_resource.keep_cells(results, "atlas-qa").empty
    assert low_resource.keep_table(results, "atlas-qa").empty
    assert set(low_resource.direction_table(results, "atlas-qa")["pool"]) == {"one language"}


# ---- directions and gains
# ----------------------------------------------------------------------


def test_directions_by_hand() -> None:
    among = kept({pair: (0.5, 0.1 if "en" in pair else 0.2) for pair in PAIRS})
    results = results_of(
        LEVELS,
        {("none", "none"): among, ("none", "centring"): kept(dict.fromkeys(PAIRS, (0.5, 0.5)))},
    )
    table = low_resource.direction_table(results, "atlas-qa").set_index(["pool", "strategy"])
    assert list(table.columns) == ["monolingual", "English -> X", "X -> English", "X -> Y"]
    # Monolingual: .1 + (.65 + .6 + .55 + .7) / 4. en -> X: pools sw te yo. X -> Y: each of these
    # three twice.
    third = (0.60 + 0.55 + 0.70) / 3
    assert table.loc["one language", "hybrid-0.5"].to_list() == pytest.approx(
        [0.725, third, 0.65, third]
    )
    assert table.loc["one language", "x-y"].to_list() == pytest.approx([0.8, 0.7, 0.7, 0.7])
    # The diagonal has en -> en once (.1) and three others (.2).
    assert table.loc["all languages", "none"].to_list() == pytest.approx([0.175, 0.1, 0.1, 0.2])
    assert [name for pool, name in table.index if pool == "one language"] == [
        "none",
        "x-x-mono",
        "x-y",
        "hybrid-0.5",
    ]


def test_a_task_without_english_has_one_direction() -> None:
    levels = {
        name: {pair: value for pair, value in cells.items() if "en" not in pair}
        for name, cells in LEVELS.items()
    }
    row = (
        low_resource.direction_table(results_of(levels), "atlas-qa")
        .set_index("strategy")
        .loc["x-y"]
    )
    assert row.isna().to_list() == [False, False, True, True, False]
    assert row["X -> Y"] == pytest.approx(0.7)


def test_a_task_of_one_language_has_nothing_to_compare() -> None:
    results = results_of(
        {name: {("yo", "yo"): cells["yo", "yo"]} for name, cells in LEVELS.items()}
    )
    for made in (
        low_resource.pair_comparisons,
        low_resource.predictor_table,
        low_resource.keep_table,
    ):
        assert made(results, "atlas-qa").empty


def test_gains_by_hand() -> None:
    results = results_of(LEVELS)
    table = low_resource.gains_by_pair(results, "atlas-qa", "x-y").set_index(["query_lang", "pool"])
    assert len(table) == 16
    assert table.loc[("en", "yo"), ["base", "hybrid", "gain"]].to_list() == pytest.approx(
        [0.7, 0.7, 0]
    )
    assert table.loc[("te", "te"), "gain"] == pytest.approx(0.55 + 0.1 - 0.8)
    assert low_resource.gains_by_pair(results, "atlas-qa", "none")["gain"].mean() == pytest.approx(
        0.65 - 0.5, abs=1e-9
    )
    with pytest.raises(
        InputError, match=r"^no results of 'x-x' on 'atlas-qa'; there are [^\n]*hybrid-0.5"
    ):
        low_resource.gains_by_pair(results, "atlas-qa", "x-x")


def test_directions_of_the_committed_results_are_plain_means_of_their_sums() -> None:
    for folder in sorted((REPO / "figures").glob("*/results")):
        results = load_results(folder)
        sums = results.group_sums.query(
            "rival == 'none' and measure == 'mAP' and strategy == 'x-y'"
        )
        for task, mine in sums.groupby("task", observed=True):
            table = low_resource.direction_table(results, str(task)).set_index(["pool", "strategy"])
            expected = []
            for pool in set(
                mine.loc[mine["query_lang"].astype(str) != "en", "query_lang"].astype(str)
            ):
                part = mine[
                    (mine["query_lang"].astype(str) == "en") & (mine["pool"].astype(str) == pool)
                ]
                expected.append(part["total"].sum() / part["n"].sum())
            assert table.loc[("one language", "x-y"), "English -> X"] == pytest.approx(
                np.mean(expected)
            )


# ---- what goes with a gain
# ----------------------------------------------------------------------


def test_predictors_by_hand() -> None:
    table = low_resource.pair_predictors(results_of(LEVELS), "atlas-qa").set_index(
        ["query_lang", "pool"]
    )
    assert len(table) == 12
    assert list(table.columns) == list(PREDICTORS[:3])  # nobody counted tokens
    assert table.loc[("en", "sw")].to_list() == pytest.approx([0.5, 2, 1])
    assert table.loc[("te", "yo")].to_list() == pytest.approx([0.5, 1, 0])


def test_tokens_per_word_are_a_predictor_where_every_language_has_words() -> None:
    plain = {"run": "none", "strategy": "none", "task": "atlas-qa", "rival": "none"}
    results = results_of(LEVELS)
    for counted, there in (
        ({"en": 1.0, "sw": 2.0, "te": 4.0, "yo": 3.0}, True),
        ({"en": 1.0, "sw": 2.0, "te": None, "yo": 3.0}, False),
    ):
        known = results._replace(
            evaluations=[{**plain, "tokens_per_word": counted}, *results.evaluations]
        )
        table = low_resource.pair_predictors(known, "atlas-qa").set_index(["query_lang", "pool"])
        assert ("tokens per word" in table) == there
        names = set(low_resource.predictor_table(known, "atlas-qa")["predictor"])
        assert names == set(PREDICTORS if there else PREDICTORS[:3])
        if there:
            assert (
                table.loc[("en", "te"), "tokens per word"]
                == table.loc[("te", "en"), "tokens per word"]
                == 2.5
            )


def off_diagonal(matrix: np.ndarray) -> np.ndarray:
    return matrix[~np.eye(len(matrix), dtype=bool)]


def test_the_permutation_is_that_of_scipy_and_all_orders() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        x, y = rng.integers(0, 4, (2, 4, 4)).astype(float)  # with ties
        rho, p = label_permutation(x, y)
        found = [
            spearmanr(off_diagonal(x), off_diagonal(y[np.ix_(order, order)])).statistic
            for order in permutations(range(4))
        ]
        assert rho == pytest.approx(spearmanr(off_diagonal(x), off_diagonal(y)).statistic)
        assert p == pytest.approx(np.mean(np.abs(found) >= abs(rho) - 1e-9))


def test_the_smallest_p_is_one_in_all_orders() -> None:
    x = np.random.default_rng(0).uniform(size=(4, 4))
    assert label_permutation(x, np.sqrt(x)) == pytest.approx((1, 1 / 24))
    assert label_permutation(x, -x) == pytest.approx((-1, 1 / 24))
    one_out = np.array([[float("a" in (a, b)) for b in "abcde"] for a in "abcde"])
    assert label_permutation(one_out, one_out)[1] == pytest.approx(
        1 / 5
    )  # five places for the one, 4! orders of the rest
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 9))
    assert label_permutation(x, x) == pytest.approx((1, 1 / (1 + low_resource.RELABELLINGS)))
    assert all(np.isnan(label_permutation(x, np.ones((9, 9)))))
    with pytest.raises(InputError, match="two full square matrices"):
        label_permutation(x, x[:8])


def test_effects_of_single_languages_are_not_taken_for_a_relation_of_pairs() -> None:
    # Both matrices are sums of independent effects of the languages: nothing goes with anything. A
    # test that takes the 30 pairs of 6 languages for independent finds something much more often
    # than in the 5 % it says.
    rng = np.random.default_rng(2)
    ours, naive = [], []
    for _ in range(200):
        x, y = (np.add.outer(*rng.normal(size=(2, 6))) for _ in range(2))
        ours.append(label_permutation(x, y)[1])
        naive.append(spearmanr(off_diagonal(x), off_diagonal(y)).pvalue)
    assert np.mean(np.array(ours) < 0.05) <= 0.096  # 5 % of 200, three standard errors of 1.54 %
    assert np.mean(np.array(naive) < 0.05) > 0.15


def test_a_gain_that_follows_the_list_is_found_with_its_sign() -> None:
    levels = LEVELS | {"hybrid-0.5": level(lambda a, b: 0.7 + 0.1 * ("yo" in (a, b)))}
    table = low_resource.predictor_table(results_of(levels), "atlas-qa").set_index(
        ["over", "predictor"]
    )
    # The list separates pairs exactly as the gain does; yo can take four places, so p is 1/4.
    assert table.loc[("x-y", PREDICTORS[1]), ["rho", "p", "languages"]].to_list() == pytest.approx(
        [-1, 0.25, 4]
    )
    assert np.isnan(table.loc[("x-y", PREDICTORS[0]), "p"])  # none has the same mAP everywhere
    assert ("none", PREDICTORS[0]) not in table.index  # it would be part of the gain
    assert ("none", PREDICTORS[1]) in table.index


# ---- the answer
# ----------------------------------------------------------------------


def test_comparisons_by_sets_of_pairs() -> None:
    table = low_resource.pair_comparisons(results_of(LEVELS), "atlas-qa").set_index(["pairs", "b"])
    # Shared noise cancels, so the differences are exact. Pools of the six pairs with yo: yo three
    # times, en sw te once.
    outside = (3 * 0.70 + 0.65 + 0.60 + 0.55) / 6
    every = (0.65 + 0.60 + 0.55 + 0.70) / 4
    for which, count, mean in (
        (OUTSIDE, 6, outside),
        (ALL_PAIRS, 12, every),
        ("X -> English", 3, 0.65),
        ("X -> Y", 6, 1.85 / 3),
    ):
        for other, value in (("x-x-mono", 0.6), ("x-y", 0.7), ("none", 0.5)):
            row = table.loc[which, other]
            assert (row["count"], row["difference"]) == (count, pytest.approx(mean - value))


def test_the_answer_starts_with_what_is_not_clear() -> None:
    equal = level(lambda a, b: 0.7)
    results = results_of(LEVELS | {"hybrid-0.5": equal, "x-y": equal})
    compared = {"atlas-qa": low_resource.pair_comparisons(results, "atlas-qa")}
    first, second = low_resource.answers(results, compared)
    assert (
        first
        == "mAP on atlas-qa, 6 of 12 pairs, those with a language outside XLM-R's list: hybrid-0.5"
        " is within 0.01 of x-y (+0.000 [+0.000, +0.000]), above x-x-mono (+0.100 [+0.100,"
        " +0.100]), above none (+0.200 [+0.200, +0.200])."
    )
    assert "hold no keep" in second
    worse = results_of(LEVELS | {"hybrid-0.5": level(lambda a, b: 0.4)})
    compared = {"other": low_resource.pair_comparisons(worse, "atlas-qa"), **compared}
    assert [line.split(",")[0] for line in low_resource.answers(results, compared)[:2]] == [
        "mAP on atlas-qa",
        "mAP on other",
    ]
    assert "is below x-x-mono (-0.200" in low_resource.answers(results, compared)[1]


def test_a_difference_that_is_not_clear_need_not_be_small() -> None:
    results = results_of(LEVELS | {name: level(lambda a, b: 0.7) for name in ("hybrid-0.5", "x-y")})
    sums = results.group_sums
    swing = sums["group"].str[1:].astype(int) % 2 - 0.5  # half the groups gain .5 and half lose it
    sums.loc[sums["strategy"] == "hybrid-0.5", "total"] += 5 * swing
    compared = {"atlas-qa": low_resource.pair_comparisons(results, "atlas-qa")}
    assert (
        "not clearly different from x-y (+0.000 [-0." in low_resource.answers(results, compared)[0]
    )


def test_the_answer_on_keep_names_mAP_and_the_worst_pair() -> None:
    def measured(among: float) -> dict[str, Any]:
        return kept({("en", "sw"): (0.5, among), ("sw", "en"): (0.5, among - 0.1)})

    found = {
        ("none", "none"): 0.2,
        ("none", "centring"): 0.3,
        ("none", "lir-1"): 0.25,
        ("hybrid-0.5-s0", "none"): 0.4,
    }
    results = results_of(LEVELS, {key: measured(among) for key, among in found.items()})
    # Of (.2, .1) the mean is .15, of .5: .3; centring .5, and the better one is named; hybrid .7;
    # worst is sw -> en.
    compared = {"atlas-qa": low_resource.pair_comparisons(results, "atlas-qa")}
    assert (
        low_resource.answers(results, compared)[1]
        == "Keep on atlas-qa, mean over 2 pairs, of that mAP: none 0.30 [0.40, 0.60] of 0.500"
        " (worst sw -> en 0.20), none + centring 0.50 [0.40, 0.60] of 0.500 (worst sw -> en"
        " 0.40), hybrid-0.5 0.70 [0.40, 0.60] of 0.500 (worst sw -> en 0.60); blind to language"
        " 0.90."
    )
    figure, cells = low_resource.keep_figure(results, "atlas-qa")
    assert [axis.get_title() for axis in figure.axes[:3]] == [
        "none",
        "none + centring",
        "hybrid-0.5",
    ]
    assert cells["keep"].to_list() == pytest.approx([0.4, 0.2, 0.6, 0.4, 0.8, 0.6])


def test_the_figure_of_gains_shows_its_table() -> None:
    figure, table = low_resource.gain_figure(results_of(LEVELS), "atlas-qa")
    assert [axis.get_title() for axis in figure.axes[:3]] == [
        f"hybrid minus {name}" for name in ("x-x-mono", "x-y", "none")
    ]
    texts = [
        text.get_text() for text in figure.axes[1].texts
    ]  # rows and columns by corpus size: yo sw te en
    assert texts[:4] == [
        "+0",
        "-10",
        "-15",
        "-5",
    ]  # in pools yo, sw, te and en: .7 + .1 - .8, .6 - .7, .55 - .7, .65 - .7
    assert table.query("over == 'x-y' and query_lang == 'yo' and pool == 'te'")[
        "gain"
    ].item() == pytest.approx(-0.15)
