"""Measures against trec_eval, a literal LAReQA evaluation, and hand-worked pools."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import vector_ranks

from xir_lib.errors import InputError
from xir_lib.metrics import measures as metrics
from xir_lib.metrics.ranks import RelevantRanks
from xir_lib.metrics.scores import tie_order

LANGUAGES = ["de", "en", "sw"]


def query_table(langs, groups=None):
    n = len(langs)
    return pd.DataFrame(
        {
            "query_id": [f"q{i}" for i in range(n)],
            "pair_id": [f"p{i // 2}" for i in range(n)],
            "group": groups or "g",
            "lang": langs,
        }
    )


def parallel_problem(rng, n_ids, n_langs, distractors, vectors):
    """Every id asked in every language; its passage exists in some of them; vectors drawn with
    replacement, so with ties.
    """
    doc_lang = np.concatenate(
        [np.tile(np.arange(n_langs), n_ids), rng.integers(0, n_langs, distractors)]
    )
    present = np.concatenate([rng.random(n_ids * n_langs) < 0.7, np.ones(distractors, bool)])
    present[: n_langs if n_ids == 1 else 0] = True
    for i in range(n_ids):
        present[i * n_langs + rng.integers(n_langs)] = True
    for lang in range(n_langs):
        present[lang] = True  # no empty pool
    row = np.cumsum(present) - 1
    relevant = [
        (i * n_langs + query_lang, row[i * n_langs + lang])
        for i in range(n_ids)
        for query_lang in range(n_langs)
        for lang in range(n_langs)
        if present[i * n_langs + lang]
    ]
    queries = rng.choice(vectors, n_ids * n_langs)
    docs = rng.choice(vectors, int(present.sum()))
    doc_ids = [f"{i:x}" for i in rng.permutation(len(docs))]
    langs = [LANGUAGES[i % n_langs] for i in range(len(queries))]
    return queries, docs, doc_lang[present], np.array(relevant), doc_ids, langs


GRID = np.array([[1, 0], [0, 1], [1, 1], [-1, 0], [2, -1], [1, 2]], dtype=np.float32)


# What trec_eval calls each measure; MRR@k is its recip_rank on a run cut at k.
TREC_EVAL = {
    "mAP": "map",
    "R@1": "recall_1",
    "R@3": "recall_3",
    "R@10": "recall_10",
    "nDCG@3": "ndcg_cut_3",
    "nDCG@10": "ndcg_cut_10",
}
CUT = {"MRR@2": 2, "MRR@10": 10}


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 40),
    st.integers(1, 6),
    st.booleans(),
)
def test_every_query_in_every_pool_equals_trec_eval(
    seed, n_ids, n_langs, distractors, n_vectors, graded
):
    rng = np.random.default_rng(seed)
    queries, docs, doc_lang, relevant, doc_ids, langs = parallel_problem(
        rng, n_ids, n_langs, distractors, GRID[:n_vectors]
    )
    docs = (
        docs * (1 + rng.integers(0, 9, len(docs)) * 1e-12)[:, None]
    )  # ties in float32 that are none in float64
    gains = rng.integers(1, 4, len(relevant)) if graded else np.ones(len(relevant), int)
    ranks = vector_ranks(
        queries, docs, doc_lang, *relevant.T, tie_order(doc_ids), gains=gains if graded else None
    )
    per_query = metrics.score_settings(
        ranks, query_table(langs), LANGUAGES[:n_langs], [*TREC_EVAL, *CUT]
    )
    ours = {(r.query_id, r.pool, r.measure): (r.value, r.setting) for r in per_query.itertuples()}
    scores = queries.astype(np.float64) @ docs.T
    expected = {}
    for pool in [*range(n_langs), None]:
        inside = [d for d in range(len(docs)) if pool is None or doc_lang[d] == pool]
        qrels: dict = {}
        for (q, d), gain in zip(relevant.tolist(), gains.tolist(), strict=True):
            if d in inside:
                qrels.setdefault(f"q{q}", {})[doc_ids[d]] = gain
        run = {
            f"q{q}": {doc_ids[d]: float(scores[q, d]) for d in inside} for q in range(len(queries))
        }
        found = pytrec_eval.RelevanceEvaluator(
            qrels, {"map", "recall.1,3,10", "ndcg_cut.3,10"}
        ).evaluate(run)
        for k in CUT.values():
            head = {
                q: dict(sorted(of.items(), key=lambda x: (np.float32(x[1]), x[0]))[-k:])
                for q, of in run.items()
            }
            for query, values in (
                pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(head).items()
            ):
                found[query][f"MRR@{k}"] = values["recip_rank"]
        name = "all" if pool is None else LANGUAGES[pool]
        for query, values in found.items():
            lang = langs[int(query[1:])]
            setting = (
                "multilingual"
                if pool is None
                else "monolingual"
                if name == lang
                else "cross-lingual"
            )
            for measure in [*TREC_EVAL, *CUT]:
                expected[query, name, measure] = (values[TREC_EVAL.get(measure, measure)], setting)
    assert ours.keys() == expected.keys()
    for key, (value, setting) in expected.items():
        assert ours[key][0] == pytest.approx(value, abs=1e-9, rel=0), key
        assert ours[key][1] == setting


def test_hand_worked_pools():
    # Query "en"; passages of en: d0* d1, of de: d2 d3*, scores d2 4, d0 3, d3 2, d1 1 (* relevant).
    docs = np.array([[3.0], [1.0], [4.0], [2.0]])
    ranks = vector_ranks([[1.0]], docs, [1, 1, 0, 0], [0, 0], [0, 3], tie_order(list("wxyz")))
    table = metrics.score_settings(ranks, query_table(["en"]), ["de", "en"]).set_index(
        ["pool", "measure"]
    )["value"]
    assert table["en", "mAP"] == 1 and table["en", "R@1"] == 1  # d0 d1
    assert table["de", "mAP"] == 0.5 and table["de", "R@1"] == 0  # d2 d3
    assert table["all", "mAP"] == pytest.approx((1 / 2 + 2 / 3) / 2)  # d2 d0 d3 d1
    assert table["all", "R@1"] == 0 and table["all", "R@10"] == 1


def test_graded_ndcg_by_hand():
    # Grades 3, 1, 2 at ranks 2, 1, 5. DCG@3: 1 / log2(2) + 3 / log2(3); the best order is 3, 2, 1.
    query, rank, gains = np.zeros(3, int), np.array([2, 1, 5]), np.array([3, 1, 2])
    best = 3 + 2 / np.log2(3) + 1 / 2
    assert metrics.ndcg_at(query, rank, 1, 3, gains)[0] == pytest.approx(
        (1 + 3 / np.log2(3)) / best, abs=1e-15
    )
    assert metrics.ndcg_at(query, rank, 1, 1, gains)[0] == pytest.approx(
        1 / 3, abs=1e-15
    )  # grade 1 where 3 could be
    assert metrics.ndcg_at(query, rank, 1, 5)[0] == pytest.approx(
        (1 + 1 / np.log2(3) + 1 / np.log2(6)) / (1 + 1 / np.log2(3) + 1 / 2), abs=1e-15
    )
    assert metrics.reciprocal_rank_at(query, rank + 1, 2, 2).tolist()[0] == 0.5
    assert metrics.reciprocal_rank_at(query, rank + 1, 2, 1).tolist()[0] == 0
    assert np.isnan(metrics.reciprocal_rank_at(query, rank, 2, 1)[1]) and np.isnan(
        metrics.ndcg_at(query, rank, 2, 1)[1]
    )


def test_perfect_worst_and_missing():
    best, worst = np.array([1, 2, 3]), np.array([10, 9, 8])  # worst: (1/8 + 2/9 + 3/10) / 3
    none = np.zeros(3, dtype=int)
    assert metrics.average_precision(none, best, 2)[0] == 1
    assert metrics.average_precision(none, worst, 1)[0] == pytest.approx(
        (1 / 8 + 2 / 9 + 3 / 10) / 3, abs=1e-15
    )
    assert np.isnan(metrics.average_precision(none, best, 2)[1]) and np.isnan(
        metrics.recall_at(none, best, 2, 1)[1]
    )
    assert metrics.recall_at(none, best, 1, 2)[0] == pytest.approx(2 / 3)
    assert metrics.recall_at(none, worst, 1, 7)[0] == 0


def frame(rows):
    columns = ["query_id", "group", "setting", "query_lang", "pool", "measure", "value"]
    return pd.DataFrame(rows, columns=columns).assign(pair_id="p")


def test_macro_weighs_cells_not_queries():
    rows = [("q1", "g", "multilingual", "en", "all", "mAP", v) for v in (1, 0, 0, 0)]  # mean .25
    rows += [("q2", "g", "multilingual", "yo", "all", "mAP", 0.75)]  # mean .75
    assert metrics.macro(frame(rows)) == {"multilingual": {"mAP": 0.5}}  # micro: 1.75 / 5 = .35
    assert metrics.micro(frame(rows)) == {"multilingual": {"mAP": 0.35}}
    assert metrics.cells(frame(rows))["value"].tolist() == [0.25, 0.75]


def test_group_sums_reproduce_every_cell_also_from_parquet(tmp_path):
    rng = np.random.default_rng(0)
    queries, docs, doc_lang, relevant, doc_ids, langs = parallel_problem(rng, 12, 3, 30, GRID)
    ranks = vector_ranks(queries, docs, doc_lang, *relevant.T, tie_order(doc_ids))
    per_query = metrics.score_settings(
        ranks, query_table(langs, [f"g{i % 5}" for i in range(36)]), LANGUAGES
    )
    per_query.to_parquet(tmp_path / "per_query.parquet")
    for table in (per_query, pd.read_parquet(tmp_path / "per_query.parquet")):
        sums = (
            metrics.group_sums(table)
            .groupby([*metrics.CELL, "measure"], observed=True)[["n", "total"]]
            .sum()
        )
        cells = metrics.cells(per_query).set_index([*metrics.CELL, "measure"])["value"]
        assert len(cells) == 3 * (3 + 6 + 3)
        np.testing.assert_allclose((sums["total"] / sums["n"]).loc[cells.index], cells, rtol=1e-12)
        assert sums["n"].sum() == len(per_query)


@pytest.mark.parametrize("float_type", ["float64", "float32"])
def test_sums_are_those_of_pandas(float_type):
    rng = np.random.default_rng(3)
    n = 500  # shuffled, with categories that no row has and combinations that do not occur
    names = {
        "group": "vwxyz",
        "query_lang": ["yo", "en", "de"],
        "pool": ["all", "en", "yo"],
        "measure": ["mAP", "R@1", "R@9"],
    }
    table = pd.DataFrame(
        {
            key: pd.Categorical(rng.choice(list(of)[:-1], n), categories=list(of))
            for key, of in names.items()
        }
    )
    table["setting"] = pd.Categorical(
        rng.choice(metrics.SETTINGS[1:], n), categories=metrics.SETTINGS
    )
    table["value"] = rng.random(n).astype(float_type)
    keys = ["group", *metrics.CELL, "measure"]
    wide = table.assign(value=table["value"].astype(float))
    expected = wide.groupby(keys, observed=True)["value"].agg(n="count", total="sum").reset_index()
    pd.testing.assert_frame_equal(metrics.group_sums(table), expected, rtol=1e-12)
    means = wide.groupby(keys[1:], observed=True)["value"].mean().reset_index()
    pd.testing.assert_frame_equal(metrics.cells(table), means, rtol=1e-12)


def test_order_of_queries_does_not_matter():
    rng = np.random.default_rng(1)
    queries, docs, doc_lang, relevant, doc_ids, langs = parallel_problem(rng, 20, 3, 30, GRID)
    order = rng.permutation(len(queries))
    ties = tie_order(doc_ids)
    one = metrics.score_settings(
        vector_ranks(queries, docs, doc_lang, *relevant.T, ties), query_table(langs), LANGUAGES
    )
    shuffled = vector_ranks(
        queries[order], docs, doc_lang, np.argsort(order)[relevant[:, 0]], relevant[:, 1], ties
    )
    two = metrics.score_settings(
        shuffled, query_table(langs).iloc[order].reset_index(drop=True), LANGUAGES
    )
    for setting, values in metrics.macro(one).items():
        assert metrics.macro(two)[setting] == pytest.approx(values, abs=1e-12)


def perfect(n_relevant):
    """Queries whose k relevant passages, one per language of max(k), are the first k of the
    pool.
    """
    query_index = np.repeat(np.arange(len(n_relevant)), n_relevant)
    place = np.concatenate([np.arange(k) for k in n_relevant])
    outranked = (np.arange(max(n_relevant))[None, :] < place[:, None]).astype(np.int32)
    return RelevantRanks(
        query_index, place, place, outranked, np.full(max(n_relevant), 100), len(n_relevant)
    )


def test_recall_ceilings_are_the_published_ones_and_reached_by_a_perfect_ranking():
    xquad = perfect([11, 11, 11])
    table = query_table(["en", "de", "en"])
    ceilings = metrics.recall_ceilings(xquad, table)
    assert ceilings == {
        "R@1": pytest.approx(1 / 11),
        "R@10": pytest.approx(10 / 11),
    }  # .091 and .909 in field.md
    ragged = perfect([2, 4, 11, 12])
    table = query_table(["en", "en", "de", "sw"])
    languages = [f"l{i:02d}" for i in range(12)]
    reached = metrics.macro(metrics.score_settings(ragged, table, languages))["multilingual"]
    assert reached == pytest.approx(
        {"mAP": 1.0, **metrics.recall_ceilings(ragged, table)}, abs=1e-12
    )
    assert metrics.recall_ceilings(ragged, table, [3]) == {
        "R@3": pytest.approx(((1 + 3 / 4) / 2 + 3 / 11 + 3 / 12) / 3)
    }
    assert metrics.recall_ceilings(ragged, table)["R@1"] == pytest.approx(
        ((1 / 2 + 1 / 4) / 2 + 1 / 11 + 1 / 12) / 3
    )


def test_bad_input_is_named():
    ranks, table = perfect([2, 2]), query_table(["en", "de"])
    with pytest.raises(InputError, match="3 language names for 2 pools"):
        metrics.score_settings(ranks, table, LANGUAGES)
    with pytest.raises(InputError, match="lacks group"):
        metrics.score_settings(ranks, table.drop(columns="group"), ["de", "en"])
    with pytest.raises(InputError, match="1 rows in the query table for 2 query embeddings"):
        metrics.score_settings(ranks, table.iloc[:1], ["de", "en"])
    with pytest.raises(InputError, match="query 'q1' has no group"):
        metrics.group_sums(
            metrics.score_settings(ranks, table.assign(group=["a", None]), ["de", "en"])
        )
    for measure in ("P@5", "R@0", "nDCG", "map", "R@10 "):
        with pytest.raises(InputError, match=f"unknown measure '{measure}'; use mAP"):
            metrics.score_settings(ranks, table, ["de", "en"], [measure])


def test_settings_are_listed_in_the_order_of_the_paper():
    per_query = metrics.score_settings(perfect([2, 2]), query_table(["en", "de"]), ["de", "en"])
    assert tuple(metrics.macro(per_query)) == metrics.SETTINGS
    assert per_query["value"].dtype == np.float64
    assert all(a <= b for a, b in pairwise(per_query["measure"].cat.codes.unique()))
