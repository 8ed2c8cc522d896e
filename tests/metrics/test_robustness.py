"""Pairs of languages against literal rankings by trec_eval, and against simulated rankers whose
answer is known.
"""

import numpy as np
import pandas as pd
import pytest
import pytrec_eval
from numpy.typing import NDArray
from toy import vector_ranks

from xir_lib.errors import InputError
from xir_lib.metrics.pairs import keep_cells, keep_summary, one_target, pair_keep
from xir_lib.metrics.ranks import RelevantRanks
from xir_lib.metrics.scores import tie_order

LANGS = ["am", "en", "zu"]


def parallel(n: int) -> tuple[pd.DataFrame, NDArray, NDArray, NDArray, list[str]]:
    """Return queries, passage languages, judgements and ids of n passages and a question on each in
    every language.

    Row `3 * p + lang` is passage (or question) p in a language.
    """
    ids = [f"{p:03d}-{lang}" for p in range(n) for lang in LANGS]
    langs = np.tile(np.arange(3), n)
    queries = pd.DataFrame(
        {
            "query_id": [f"q{name}" for name in ids],
            "pair_id": [name[:3] for name in ids],
            "group": [name[:2] for name in ids],
        }
    ).assign(lang=np.asarray(LANGS)[langs])
    query = np.repeat(np.arange(3 * n), 3)
    doc = (query // 3) * 3 + np.tile(np.arange(3), 3 * n)
    return queries, langs, query, doc, ids


@pytest.mark.parametrize("seed", range(3))
def test_keep_agrees_with_reduced_pools_ranked_by_trec_eval(seed: int) -> None:
    """Small whole numbers make many ties; queries have one, several or no answers in a language."""
    rng = np.random.default_rng(seed)
    n_docs, n_queries = 40, 12
    docs = rng.integers(-2, 3, (n_docs, 4)).astype(np.float32) + np.float32([0, 0, 0, 7])
    asked = rng.integers(-2, 3, (n_queries, 4)).astype(np.float32) + np.float32([0, 0, 0, 7])
    langs = rng.permutation(np.r_[np.repeat([0, 1, 2], 12), [0, 1, 1, 2]])
    ids = [f"d{n}" for n in rng.permutation(n_docs)]
    judged = [
        (q, d)
        for q in range(n_queries)
        for d in rng.choice(n_docs, rng.integers(1, 8), replace=False)
    ]
    query, doc = np.array(judged).T
    queries = pd.DataFrame(
        {
            "query_id": [f"q{q}" for q in range(n_queries)],
            "pair_id": "p",
            "group": "g",
            "lang": "en",
        }
    )
    ranks = vector_ranks(asked, docs, langs, query, doc, tie_order(ids))
    table = pair_keep(ranks, queries, LANGS).set_index(["query_id", "pool"])

    scores, expected = asked @ docs.T, {}
    for q in range(n_queries):
        answers = {int(d) for one, d in judged if one == q}
        for code, lang in enumerate(LANGS):
            right = {ids[d]: 1 for d in answers if langs[d] == code}
            if not right:
                continue
            pools = (
                [d for d in range(n_docs) if langs[d] == code],
                [d for d in range(n_docs) if d not in answers or langs[d] == code],
            )
            expected[f"q{q}", lang] = [
                pytrec_eval.RelevanceEvaluator({"q": right}, {"map"}).evaluate(
                    {"q": {ids[d]: float(scores[q, d]) for d in pool}}
                )["q"]["map"]
                for pool in pools
            ]
    assert set(table.index) == set(expected)
    for key, (alone, among) in expected.items():
        assert table.loc[key, "alone"] == pytest.approx(alone, abs=1e-12)
        assert table.loc[key, "among"] == pytest.approx(among, abs=1e-12)
    assert (table["among"] <= table["alone"]).all()
    lareqa = one_target(ranks, queries, LANGS)  # the package's other way to the same mAPs
    cells = keep_cells(table.reset_index())
    np.testing.assert_allclose(cells["among"], lareqa["mAP"])


def test_ranker_blind_to_language_keeps_what_blind_says() -> None:
    """Equal vectors in every language: r - 1 passages ahead within b are 3 (r - 1) ahead in the
    pool of three languages.
    """
    queries, langs, query, doc, ids = parallel(30)
    rng = np.random.default_rng(1)
    meaning = np.repeat(rng.normal(size=(30, 5)), 3, axis=0).astype(np.float32)
    asked = np.repeat(rng.normal(size=(30, 5)), 3, axis=0).astype(np.float32) + meaning
    table = pair_keep(
        vector_ranks(asked, meaning, langs, query, doc, tie_order(ids)),
        queries,
        LANGS,
    )
    assert len(table) == 30 * 9 and table["alone"].mean() < 0.8  # it makes mistakes
    r = 1 / table["alone"]
    np.testing.assert_allclose(table["among"], 1 / (1 + 3 * (r - 1)))
    np.testing.assert_allclose(table["blind"], table["among"])
    cells = keep_cells(table)
    np.testing.assert_allclose(cells["keep"], cells["blind_keep"])


def test_blind_scales_by_the_pools_that_there_are() -> None:
    """The answer is second of 3 in en; 1 of en's 2 distractors ahead gives 1 * 7 / 2 of the 7 ahead
    in all: rank 4.5.
    """
    one = np.array([0])
    ranks = RelevantRanks(
        one, one, np.array([1]), np.array([[0, 1]], np.int32), np.array([5, 3]), 1
    )
    queries = pd.DataFrame({"query_id": ["q"], "pair_id": ["p"], "group": ["g"], "lang": ["am"]})
    found = pair_keep(ranks, queries, ["am", "en"]).iloc[0]
    assert (found["alone"], found["among"], found["blind"]) == (1 / 2, 1 / 2, 1 / 4.5)


def test_same_language_first_keeps_one_in_n() -> None:
    """Perfect within a language, but all n - 1 other passages of the query's language come first:
    rank n of the answer in b.
    """
    n = 20
    queries, langs, query, doc, ids = parallel(n)
    meaning, language = np.repeat(np.eye(n), 3, axis=0), np.tile(np.eye(3), (n, 1))
    asked, docs = np.hstack([meaning, 9 * language]), np.hstack([meaning, language])
    ranks = vector_ranks(asked, docs, langs, query, doc, tie_order(ids))
    cells = keep_cells(pair_keep(ranks, queries, LANGS))
    own = cells["query_lang"] == cells["pool"]
    assert (cells["alone"] == 1).all() and (cells["blind_keep"] == 1).all()
    np.testing.assert_allclose(cells["keep"], np.where(own, 1, 1 / n))
    summary = keep_summary(pair_keep(ranks, queries, LANGS)).set_index("statistic")
    np.testing.assert_allclose(summary[["keep", "low", "high", "among"]], 1 / n)
    assert (summary["pairs"] == 6).all() and (
        summary["groups"] == 2
    ).all()  # the group is the tens of 20 passages


def test_ranks_apart_give_alone_and_the_others_among() -> None:
    queries, langs, query, doc, ids = parallel(10)
    rng = np.random.default_rng(2)
    asked, docs = rng.normal(size=(2, 30, 6))
    ties = tie_order(ids)
    one, other = (
        vector_ranks(asked, emb, langs, query, doc, ties) for emb in (docs, docs[::-1].copy())
    )
    both = pair_keep(one, queries, LANGS, apart=other)
    pd.testing.assert_series_equal(both["among"], pair_keep(one, queries, LANGS)["among"])
    pd.testing.assert_series_equal(both["alone"], pair_keep(other, queries, LANGS)["alone"])


def keep_table(rows: list[tuple[str, str, str, float, float]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["query_lang", "pool", "group", "alone", "among"])
    return table.assign(query_id="q", pair_id="p", blind=table["alone"])


def test_summary_by_hand() -> None:
    """am-en keeps (.4 + .2) / (.8 + .4) = .5, en-am (.9 + .3) / (1 + .5) = .8; am-am is no pair of
    two languages.
    """
    table = keep_table(
        [
            ("am", "en", "g", 0.8, 0.4),
            ("am", "en", "h", 0.4, 0.2),
            ("en", "am", "g", 1.0, 0.9),
            ("en", "am", "h", 0.5, 0.3),
            ("am", "am", "g", 1.0, 0.0),
        ]
    )
    found = keep_summary(table, n_resamples=4000).set_index("statistic")
    # mean (.5 + .8) / 2; tenth percentile .5 + .1 (.8 - .5)
    assert found["keep"].to_dict() == pytest.approx({"mean": 0.65, "p10": 0.53, "worst": 0.5})
    assert tuple(found.loc["worst", ["query_lang", "pool", "alone", "among"]]) == (
        "am",
        "en",
        pytest.approx(0.6),
        pytest.approx(0.3),
    )
    assert found.loc["mean", "alone"] == pytest.approx((0.6 + 0.75) / 2)
    # two groups give three resamples, gg and hh with probability 1/4 each: the ends of every
    # interval. gg: am-en .5, en-am .9, mean .7; hh: am-en .5, en-am .6, mean .55; am-en is .5 in
    # each
    assert tuple(found.loc["mean", ["low", "high"]]) == (pytest.approx(0.55), pytest.approx(0.7))
    assert tuple(found.loc["p10", ["low", "high"]]) == (pytest.approx(0.51), pytest.approx(0.54))
    assert tuple(found.loc["worst", ["low", "high"]]) == (pytest.approx(0.5), pytest.approx(0.5))


def test_pairs_are_refused_where_they_say_nothing() -> None:
    table = keep_table([("am", "am", "g", 1.0, 1.0)])
    with pytest.raises(InputError, match="at least two languages"):
        keep_summary(table)
    with pytest.raises(InputError, match="one group, 'g'"):
        keep_summary(table.assign(pool="en"))
    with pytest.raises(InputError, match="has no group"):
        keep_summary(table.assign(pool="en", group=None))
