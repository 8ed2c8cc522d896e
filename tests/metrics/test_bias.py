"""Bias measures against hand-worked pools, reference libraries and simulated rankers whose bias is
known.
"""

import json
import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from toy import vector_lists, vector_ranks

from xir_lib.errors import InputError
from xir_lib.metrics import bias
from xir_lib.metrics import measures as metrics
from xir_lib.metrics.ranks import RelevantRanks
from xir_lib.metrics.scores import tie_order

LANGUAGES = ["de", "en", "sw", "yo"]


def simulate(rank_all, n_queries, pool_sizes, n_versions=None, seed=0):
    """Queries in turn of each language with one relevant passage per language, at the ranks that
    `rank_all` gives.

    Only the pool of all languages is meant: what outranks a passage is booked under the first
    language.
    """
    rng = np.random.default_rng(seed)
    n_langs, pool = len(pool_sizes), sum(pool_sizes)
    rows = []
    for q in range(n_queries):
        versions = (
            np.arange(n_langs)
            if n_versions is None
            else np.sort(rng.choice(n_langs, n_versions[q], replace=False))
        )
        own = q % n_langs
        if own not in versions:
            versions[0] = own
        rows += [
            (q, lang, rank)
            for lang, rank in zip(versions, rank_all(rng, versions, own, pool), strict=True)
        ]
    query, lang, rank = np.array(rows).T
    outranked = np.zeros((len(rows), n_langs), dtype=np.int32)
    outranked[:, 0] = rank - 1
    return RelevantRanks(query, lang, lang, outranked, np.array(pool_sizes), n_queries)


def random_ranker(rng, versions, own, pool):
    return rng.choice(pool, len(versions), replace=False) + 1


def ideal_ranker(rng, versions, own, pool):
    return rng.permutation(len(versions)) + 1


def same_language_first(rng, versions, own, pool):
    ranks = random_ranker(rng, versions, own, pool)
    at = np.flatnonzero(versions == own)[0]
    best = ranks.argmin()
    ranks[[at, best]] = ranks[[best, at]]
    return ranks


def query_table(n, langs=LANGUAGES):
    return pd.DataFrame(
        {
            "query_id": [f"q{i}" for i in range(n)],
            "pair_id": [f"p{i // len(langs)}" for i in range(n)],
            "group": [f"g{i % 7}" for i in range(n)],
            "lang": [langs[i % len(langs)] for i in range(n)],
        }
    )


@pytest.mark.parametrize(
    ("pool_size", "k", "published"),
    [(13_014, 11, 10_846), (20_534, 4, 12_321), (20_534, 3, 10_268), (20_534, 2, 6_845)],
)
def test_random_bound_is_the_published_number_and_what_a_random_ranker_gets(
    pool_size, k, published
):
    n = 2200
    languages = [f"l{i:02d}" for i in range(k)]
    ranks = simulate(random_ranker, n, [pool_size - 100 * (k - 1)] + [100] * (k - 1))
    summary = bias.rank_distance_summary(ranks, query_table(n, languages))
    assert summary["random"] == pytest.approx(published, abs=0.51)
    distances = bias.rank_distance(ranks, query_table(n, languages))["value"]
    assert abs(summary["mean"] - summary["random"]) < 4 * distances.std() / np.sqrt(n)
    assert summary["ideal"] == k - 1


def test_ideal_ranker_reaches_the_ideal_also_when_ragged():
    k = [2, 3, 4, 4, 2, 3, 4, 3] * 5
    ranks = simulate(ideal_ranker, 40, [50] * 4, k)
    summary = bias.rank_distance_summary(ranks, query_table(40))
    assert summary["mean"] == pytest.approx(summary["ideal"])
    # de asks rows 0, 4 (k 2, 2), en 1, 5 (3, 3), sw 2, 6 (4, 4), yo 3, 7 (4, 3): means of k - 1 are
    # 1, 2, 3, 2.5.
    assert summary["per_language"] == pytest.approx({"de": 1, "en": 2, "sw": 3, "yo": 2.5})
    assert summary["ideal"] == pytest.approx((1 + 2 + 3 + 2.5) / 4)
    # five distances of 3 and five of 2 in yo
    found = [summary["quantiles"][name] for name in ("0.05", "0.25", "0.5", "0.75", "0.95")]
    assert [row["yo"] for row in found] == [2, 2, 2.5, 3, 3] and {row["de"] for row in found} == {1}
    # (201 (k - 1) / (k + 1)): 67 for k = 2, 100.5 for 3, 120.6 for 4.
    assert summary["random"] == pytest.approx((67 + 100.5 + 120.6 + (120.6 + 100.5) / 2) / 4)


def test_hand_worked_distance_and_macro_over_query_languages():
    # Ranks: query 0 (de) 1, 9 -> 8; query 1 (en) 2, 3 -> 1; query 2 (en) 10, 1 -> 9; query 3 (en)
    # 7, 9 -> 2.
    rank = np.array([1, 9, 2, 3, 10, 1, 7, 9])
    outranked = np.stack([rank - 1, np.zeros(8, int)], axis=1).astype(np.int32)
    ranks = RelevantRanks(
        np.repeat(np.arange(4), 2),
        np.tile([0, 1], 4),
        np.tile([0, 1], 4),
        outranked,
        np.array([10, 10]),
        4,
    )
    queries = query_table(4).assign(lang=["de", "en", "en", "en"])
    summary = bias.rank_distance_summary(ranks, queries)
    assert summary["per_language"] == {"de": 8, "en": 4}  # (1 + 9 + 2) / 3
    assert (
        summary["mean"] == 6 and summary["median"] == 5
    )  # over all queries: mean 5, median of 1 2 8 9 is 5
    # Own version first among its two: de yes (1 < 9); en is code 1: 3 < 2 no, 1 < 10 yes, 9 < 7 no.
    preference = bias.same_language_preference(ranks, queries, ["de", "en"])
    assert preference["per_language"] == pytest.approx({"de": 1, "en": 1 / 3})
    assert preference["mean"] == pytest.approx(2 / 3) and preference["no_preference"] == 0.5


def test_distance_takes_the_way_of_every_measure():
    ranks, queries = simulate(random_ranker, 80, [40] * 4), query_table(80)
    distances = bias.rank_distance(ranks, queries)
    scores = metrics.score_settings(ranks, queries, LANGUAGES)
    assert list(distances.columns) == list(scores.columns)
    assert (
        metrics.macro(distances)["multilingual"]["rank distance"]
        == bias.rank_distance_summary(ranks, queries)["mean"]
    )
    assert metrics.group_sums(distances)["n"].sum() == 80


def test_queries_with_one_version_are_left_out_and_named(caplog):
    rank = np.array([4, 9, 3])
    outranked = np.stack([rank - 1, np.zeros(3, int)], axis=1).astype(np.int32)
    ranks = RelevantRanks(
        np.array([0, 0, 1]), np.arange(3), np.array([0, 1, 0]), outranked, np.array([10, 10]), 2
    )
    queries = query_table(2)
    assert bias.rank_distance(ranks, queries)["value"].tolist() == [5]
    assert "leaves out 1 queries" in caplog.text
    alone = RelevantRanks(
        np.array([0]),
        np.array([0]),
        np.array([0]),
        np.array([[3]], dtype=np.int32),
        np.array([10]),
        1,
    )
    with pytest.raises(InputError, match="needs a parallel pool"):
        bias.rank_distance_summary(alone, query_table(1))
    with pytest.raises(InputError, match="needs a parallel pool"):
        bias.same_language_preference(alone, query_table(1), ["de"])


def test_preference_of_rankers_whose_preference_is_known():
    n = 4000
    versions = np.random.default_rng(1).integers(2, 5, n)
    queries = query_table(n)
    first = bias.same_language_preference(
        simulate(same_language_first, n, [100] * 4, versions), queries, LANGUAGES
    )
    assert first["mean"] == first["same_language_first"] == 1
    neutral = bias.same_language_preference(
        simulate(random_ranker, n, [100] * 4, versions), queries, LANGUAGES
    )
    assert neutral["no_preference"] == pytest.approx(np.mean(1 / versions), abs=0.01)
    assert abs(neutral["mean"] - neutral["no_preference"]) < 4 * 0.5 / np.sqrt(n)
    assert set(neutral["per_language"]) == set(LANGUAGES)


# ---- a literal simulator: whole pools are put in order
# ----------------------------------------------------------------------


def draw_world(rng, n, ragged):
    """Return the passages' languages, and per query its language and its relevant passages, at most
    one per language.
    """
    doc_lang = rng.permutation(np.repeat(np.arange(4), [8, 13, 11, 9]))
    relevant = []
    for _ in range(n):
        versions = rng.choice(4, rng.integers(2, 5), replace=False) if ragged else np.arange(4)
        relevant.append(
            np.array([rng.choice(np.flatnonzero(doc_lang == lang)) for lang in versions])
        )
    return doc_lang, np.arange(n) % 4, relevant


def ideal_order(rng, doc_lang, own, relevant):
    rest = np.setdiff1d(np.arange(len(doc_lang)), relevant)
    return np.concatenate([rng.permutation(relevant), rng.permutation(rest)])


def random_order(rng, doc_lang, own, relevant):
    return rng.permutation(len(doc_lang))


def same_language_first_order(rng, doc_lang, own, relevant):
    order = ideal_order(rng, doc_lang, own, relevant)
    return np.concatenate([order[doc_lang[order] == own], order[doc_lang[order] != own]])


ORDERS = {
    "ideal": ideal_order,
    "random": random_order,
    "same_language_first": same_language_first_order,
}


def ranks_of(orders, doc_lang, relevant, top=0):
    """Count literally what stands before each relevant passage, and the languages of the first
    `top`.
    """
    n_langs = doc_lang.max() + 1
    before = [
        np.bincount(doc_lang[order[: np.flatnonzero(order == doc)[0]]], minlength=n_langs)
        for order, docs in zip(orders, relevant, strict=True)
        for doc in docs
    ]
    return RelevantRanks(
        np.repeat(np.arange(len(relevant)), [len(docs) for docs in relevant]),
        np.concatenate(relevant),
        doc_lang[np.concatenate(relevant)],
        np.array(before, dtype=np.int32),
        np.bincount(doc_lang),
        len(relevant),
        top_counts=(
            np.array([np.bincount(doc_lang[order[:top]], minlength=n_langs) for order in orders])
            if top
            else None
        ),
    )


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("ranker", ORDERS)
def test_every_bound_is_what_its_ranker_gets(ranker, ragged):
    rng = np.random.default_rng(7)
    differences: dict = {}
    for _ in range(16):
        doc_lang, own, relevant = draw_world(rng, 160, ragged)
        orders = [
            ORDERS[ranker](rng, doc_lang, *query) for query in zip(own, relevant, strict=True)
        ]
        card = bias.bias_card(
            ranks_of(orders, doc_lang, relevant, top=6),
            query_table(160),
            LANGUAGES,
            complete_at=(3, 12),
        )
        assert card["refused"].keys() == {"peer"}
        card |= {
            "share of own": card["language_share"]["own"],
            "entropy": card["language_share"]["entropy"],
        }
        for name in card.keys() - {"pool", "refused", "language_share"}:
            differences.setdefault(name, []).append(card[name]["mean"] - card[name][ranker])
    assert len(differences) == 8
    for name, values in differences.items():
        # Entropy is of shares: those of 40 queries are a little less even than the ones expected.
        slack = 0.01 if name == "entropy" else 1e-9
        assert abs(np.mean(values)) <= 4 * np.std(values) / np.sqrt(len(values)) + slack, (
            name,
            np.mean(values),
        )
    exact = {"ideal": ["rank_distance", "max_at_r", "complete@3", "one_target"], "random": []}
    for name in exact.get(
        ranker,
        ["rank_distance", "max_at_r", "complete@3", "one_target", "same_language_preference"],
    ):
        np.testing.assert_allclose(differences[name], 0, atol=1e-9)


def test_hand_worked_card():
    # Pool: 8 de and 8 en passages. Query 0 (de): de answer at rank 1, en at 8. Query 1 (en): de at
    # 2, en at 4.
    rank = np.array([1, 8, 2, 4])
    outranked = np.stack([rank - 1, np.zeros(4, int)], axis=1).astype(np.int32)
    top = np.array([[3, 1], [1, 3]])  # of the first 4
    langs = np.tile([0, 1], 2)
    ranks = RelevantRanks(
        np.repeat([0, 1], 2),
        np.array([0, 8, 0, 8]),
        langs,
        outranked,
        np.array([8, 8]),
        2,
        top_counts=top,
    )
    card = bias.bias_card(ranks, query_table(2), ["de", "en"], complete_at=(4, 17))
    assert card["pool"] == {
        "passages": {"de": 8, "en": 8},
        "queries": {"de": 1, "en": 1},
        "relevant_per_query": {"2": 2},
    }
    # Distances 7 and 2; ideal 1; random 17 / 3; own at 1, the other behind the 8 own: 8.
    distance = card["rank_distance"]
    assert (
        distance["mean"],
        distance["median"],
        distance["ideal"],
        distance["same_language_first"],
    ) == (4.5, 4.5, 1, 8)
    assert distance["random"] == pytest.approx(17 / 3)
    # 100 (4 - log2 8) / (4 - 1) and 100 (4 - log2 4) / 3; random by enumeration of all 120 pairs;
    # 100 (4 - log2 9) / 3.
    depth = card["max_at_r"]
    assert depth["per_language"] == pytest.approx({"de": 100 / 3, "en": 200 / 3})
    pairs = [np.log2(max(pair)) for pair in combinations(range(1, 17), 2)]
    assert depth["random"] == pytest.approx(100 * (4 - np.mean(pairs)) / 3)
    assert (
        depth["same_language_first"] == pytest.approx(100 * (4 - np.log2(9)) / 3)
        and depth["ideal"] == 100
    )
    # Only query 1 is complete at 4. Random: 4 / 16 times 3 / 15. The biased ranker needs 9.
    complete = card["complete@4"]
    assert (complete["mean"], complete["ideal"], complete["same_language_first"]) == (0.5, 1, 0)
    assert complete["random"] == pytest.approx(0.05)
    assert (
        card["refused"]["complete@17"] == "k must be between 1 and the pool's 16 passages, got 17"
    )
    # Without the other answer: query 0 finds de at 1, en at 8 - 1; query 1 de at 2, en at 4 - 1.
    target = card["one_target"]
    assert target["cells"]["de"] == pytest.approx({"de": 1, "en": 1 / 7})
    assert target["cells"]["en"] == pytest.approx({"de": 1 / 2, "en": 1 / 3})
    assert target["mean"] == pytest.approx((1 + 1 / 3) / 2 - (1 / 7 + 1 / 2) / 2)
    assert target["per_language"] == pytest.approx({"de": 6 / 7, "en": -1 / 6})
    assert target["same_language_first"] == pytest.approx(
        7 / 8
    )  # 1 - 1 / 8: the 7 other own passages stay
    assert target["ideal"] == target["random"] == 0
    cells = bias.one_target(ranks, query_table(2), ["de", "en"])
    np.testing.assert_allclose(
        cells["random"], sum(1 / r for r in range(1, 16)) / 15
    )  # the one answer of 16 - 1 passages
    np.testing.assert_allclose(cells["same_language_first"], [1, 1 / 8, 1 / 8, 1])
    # Own share 3 / 4 twice; entropy of (3/4, 1/4) in bits: 2 - 3/4 log2 3. Ideal: 1 answer and 1 of
    # 14 others each: even.
    share = card["language_share"]
    assert share["share"] == {"de": {"de": 0.75, "en": 0.25}, "en": {"de": 0.25, "en": 0.75}}
    assert share["own"].pop("per_language") == {"de": 0.75, "en": 0.75}
    assert share["own"] == pytest.approx(
        {"mean": 0.75, "ideal": 0.5, "random": 0.5, "same_language_first": 1}
    )
    assert share["entropy"]["mean"] == pytest.approx(2 - 0.75 * np.log2(3))
    assert (
        share["entropy"]["ideal"],
        share["entropy"]["random"],
        share["entropy"]["same_language_first"],
    ) == (1, 1, 0)
    assert (share["k"], share["pool_share"], share["uniform"]) == (4, {"de": 0.5, "en": 0.5}, 0.5)
    assert card["same_language_preference"]["mean"] == 0.5  # 1 < 8 but not 4 < 2


@pytest.mark.parametrize(("n", "k", "published"), [(13_014, 11, 1.3), (20_534, 2, 5.4)])
def test_random_max_at_r_is_the_expectation_over_all_draws(n, k, published):
    # P(max = m) = C(m - 1, k - 1) / C(n, k) in whole numbers. field.md prints 1.3 and, a little
    # low, 5.3: without the corrections of order 1 / n it is 100 / (k ln 2) / log2(n / k), 1.285 and
    # 5.413.
    expected = sum(
        math.comb(m - 1, k - 1) / math.comb(n, k) * math.log2(m) for m in range(k, n + 1)
    )
    languages = [f"l{i:02d}" for i in range(k)]
    ranks = simulate(random_ranker, 2 * k, [n - 100 * (k - 1)] + [100] * (k - 1))
    bound = bias.max_at_r(ranks, query_table(2 * k, languages), languages)["random"]
    assert bound == pytest.approx(100 * (math.log2(n) - expected) / math.log2(n / k), abs=1e-9)
    assert round(bound, 1) == published


@st.composite
def retrieval_problems(draw):
    """Pools with ties; a query has any number of relevant passages in any language, its own
    or not.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_queries, n_docs = draw(st.integers(1, 6)), draw(st.integers(4, 20))
    vectors = np.array([[1, 0], [0, 1], [1, 1], [-1, 0], [2, -1]], dtype=np.float32)
    doc_lang = rng.permutation(np.concatenate([np.arange(3), rng.integers(0, 3, n_docs - 3)]))
    relevant = [
        (q, d)
        for q in range(n_queries)
        for d in rng.choice(n_docs, rng.integers(1, 5), replace=False)
    ]
    doc_ids = [f"{i:x}" for i in rng.permutation(n_docs)]
    return (
        rng.choice(vectors, n_queries),
        rng.choice(vectors, n_docs),
        doc_lang,
        np.array(relevant),
        doc_ids,
    )


@settings(deadline=None)
@given(retrieval_problems())
def test_one_target_equals_trec_eval_on_the_masked_pool(problem):
    queries, docs, doc_lang, relevant, doc_ids = problem
    ranks = vector_ranks(queries, docs, doc_lang, *relevant.T, tie_order(doc_ids))
    table = query_table(len(queries), LANGUAGES[:3]).assign(
        lang=[f"q{i}" for i in range(len(queries))]
    )  # a cell per query
    ours = (
        bias.one_target(ranks, table, LANGUAGES[:3])
        .set_index(["query_lang", "doc_lang"])["mAP"]
        .to_dict()
    )
    expected = {}
    for q in range(len(queries)):
        answers = {d for query, d in relevant.tolist() if query == q}
        for lang in {doc_lang[d] for d in answers}:
            kept = [d for d in range(len(docs)) if d not in answers or doc_lang[d] == lang]
            run = {"q": {doc_ids[d]: float(queries[q] @ docs[d]) for d in kept}}
            qrels = {"q": {doc_ids[d]: 1 for d in answers if doc_lang[d] == lang}}
            measured = pytrec_eval.RelevanceEvaluator(qrels, {"map"}).evaluate(run)["q"]["map"]
            expected[f"q{q}", LANGUAGES[lang]] = measured
    assert ours == pytest.approx(expected, abs=1e-9, rel=0)


@settings(deadline=None)
@given(retrieval_problems(), st.data())
def test_counted_languages_are_those_of_the_top_k_list(problem, data):
    queries, docs, doc_lang, relevant, doc_ids = problem
    k = data.draw(st.integers(1, len(docs)))
    counted = vector_ranks(
        queries, docs, doc_lang, *relevant.T, tie_order(doc_ids), top=k
    ).top_counts
    listed, _ = vector_lists(queries, docs, doc_ids, k)
    assert counted.tolist() == [np.bincount(doc_lang[row], minlength=3).tolist() for row in listed]
    with pytest.raises(
        InputError, match=f"top must be between 0 and the pool's {len(docs)} passages"
    ):
        vector_ranks(queries, docs, doc_lang, *relevant.T, tie_order(doc_ids), top=len(docs) + 1)


def test_top_share_agrees_with_the_list_and_departs_with_the_bias():
    rng = np.random.default_rng(2)
    doc_lang, own, relevant = draw_world(rng, 200, True)
    orders = [
        same_language_first_order(rng, doc_lang, *query)
        for query in zip(own, relevant, strict=True)
    ]
    share = bias.top_language_share(
        ranks_of(orders, doc_lang, relevant, top=12), query_table(200), LANGUAGES
    )
    pool = np.bincount(doc_lang) / len(doc_lang)
    assert share["pool_share"] == pytest.approx(dict(zip(LANGUAGES, pool, strict=True)))
    for code, name in enumerate(LANGUAGES):
        first = np.concatenate([doc_lang[order[:12]] for order in orders[code::4]])
        found = dict(zip(LANGUAGES, np.bincount(first, minlength=4) / len(first), strict=True))
        assert share["share"][name] == pytest.approx(found)
    # 12 places: all 8 of de and 4 more; 12 of the 13 of en; all 11 and one; all 9 and three.
    expected = {"de": 8 / 12, "en": 1, "sw": 11 / 12, "yo": 9 / 12}
    assert share["own"]["per_language"] == pytest.approx(expected)
    assert share["own"]["same_language_first"] == pytest.approx(np.mean(list(expected.values())))


def test_peer_is_constant_on_parallel_pools_and_so_refused():
    rng = np.random.default_rng(0)
    for _ in range(3):  # one rank per language, whatever the ranking
        assert round(stats.kruskal(*rng.permutation(11)[:, None]).pvalue, 4) == 0.4405
    assert ".4405 for 11 languages" in bias.PEER_REFUSAL


def test_a_card_of_a_task_that_is_not_parallel_says_what_it_lacks():
    # Two languages with corpora and queries of their own, two relevant passages each: MIRACL.
    rng = np.random.default_rng(3)
    doc_lang = np.repeat([0, 1], 20)
    relevant = [rng.choice(20, 2, replace=False) + 20 * (q % 2) for q in range(40)]
    orders = [random_order(rng, doc_lang, None, None) for _ in relevant]
    card = bias.bias_card(
        ranks_of(orders, doc_lang, relevant, top=10), query_table(40, ["de", "en"]), ["de", "en"]
    )
    assert card.keys() == {"pool", "max_at_r", "complete@20", "language_share", "refused"}
    parallel = {"rank_distance", "one_target", "same_language_preference"}
    assert card["refused"].keys() == {"peer", "complete@100", *parallel}
    assert all(
        "parallel pool" in card["refused"][name] and "\n" not in card["refused"][name]
        for name in parallel
    )
    bare = bias.bias_card(
        ranks_of(orders, doc_lang, relevant), query_table(40, ["de", "en"]), ["de", "en"]
    )
    assert "give relevant_ranks top=10" in bare["refused"]["language_share"]
    # The one-target heatmap has its diagonal also here; its gap has no other side.
    cells = bias.one_target(
        ranks_of(orders, doc_lang, relevant), query_table(40, ["de", "en"]), ["de", "en"]
    )
    assert cells[["query_lang", "doc_lang", "queries"]].to_numpy().tolist() == [
        ["de", "de", 20],
        ["en", "en", 20],
    ]
    with pytest.raises(InputError, match="3 language names for 2 pools"):
        bias.bias_card(
            ranks_of(orders, doc_lang, relevant), query_table(40, ["de", "en"]), ["de", "en", "sw"]
        )


def test_query_languages_without_passages_and_the_card_as_json():
    rng = np.random.default_rng(5)
    doc_lang, _, relevant = draw_world(rng, 80, True)
    queries = query_table(80).assign(
        lang=[["de", "am"][i % 2] for i in range(80)]
    )  # the pool has no Amharic
    orders = [
        same_language_first_order(rng, doc_lang, 0 if i % 2 == 0 else -1, docs)
        for i, docs in enumerate(relevant)
    ]
    card = bias.bias_card(ranks_of(orders, doc_lang, relevant, top=6), queries, LANGUAGES)
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    assert card["language_share"]["own"]["per_language"]["am"] == 0
    assert card["one_target"]["per_language"].keys() == {"de"}
    assert card["same_language_preference"]["per_language"].keys() == {"de"}
    assert card["rank_distance"]["mean"] == pytest.approx(
        card["rank_distance"]["same_language_first"]
    )
    assert card["max_at_r"]["mean"] == pytest.approx(card["max_at_r"]["same_language_first"])
