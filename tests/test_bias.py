"""Bias measures against hand-worked pools and simulated rankers whose bias is known."""

import numpy as np
import pandas as pd
import pytest

from xir_lib import bias, metrics
from xir_lib.errors import InputError
from xir_lib.retrieval import RelevantRanks

LANGUAGES = ["de", "en", "sw", "yo"]


def simulate(rank_all, n_queries, pool_sizes, n_versions=None, seed=0):
    """Queries in turn of each language with one relevant passage per language, at the ranks that `rank_all` gives.

    Only the pool of all languages is meant: what outranks a passage is booked under the first language.
    """
    rng = np.random.default_rng(seed)
    n_langs, pool = len(pool_sizes), sum(pool_sizes)
    rows = []
    for q in range(n_queries):
        versions = np.arange(n_langs) if n_versions is None else np.sort(rng.choice(n_langs, n_versions[q], replace=False))
        own = q % n_langs
        if own not in versions:
            versions[0] = own
        rows += [(q, lang, rank) for lang, rank in zip(versions, rank_all(rng, versions, own, pool), strict=True)]
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
def test_random_bound_is_the_published_number_and_what_a_random_ranker_gets(pool_size, k, published):
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
    # de asks rows 0, 4 (k 2, 2), en 1, 5 (3, 3), sw 2, 6 (4, 4), yo 3, 7 (4, 3): means of k - 1 are 1, 2, 3, 2.5.
    assert summary["per_language"] == pytest.approx({"de": 1, "en": 2, "sw": 3, "yo": 2.5})
    assert summary["ideal"] == pytest.approx((1 + 2 + 3 + 2.5) / 4)
    # (201 (k - 1) / (k + 1)): 67 for k = 2, 100.5 for 3, 120.6 for 4.
    assert summary["random"] == pytest.approx((67 + 100.5 + 120.6 + (120.6 + 100.5) / 2) / 4)


def test_hand_worked_distance_and_macro_over_query_languages():
    # Ranks: query 0 (de) 1, 9 -> 8; query 1 (en) 2, 3 -> 1; query 2 (en) 10, 1 -> 9; query 3 (en) 7, 9 -> 2.
    rank = np.array([1, 9, 2, 3, 10, 1, 7, 9])
    outranked = np.stack([rank - 1, np.zeros(8, int)], axis=1).astype(np.int32)
    ranks = RelevantRanks(np.repeat(np.arange(4), 2), np.tile([0, 1], 4), np.tile([0, 1], 4), outranked, np.array([10, 10]), 4)
    queries = query_table(4).assign(lang=["de", "en", "en", "en"])
    summary = bias.rank_distance_summary(ranks, queries)
    assert summary["per_language"] == {"de": 8, "en": 4}  # (1 + 9 + 2) / 3
    assert summary["mean"] == 6 and summary["median"] == 5  # over all queries: mean 5, median of 1 2 8 9 is 5
    # Own version first among its two: de yes (1 < 9); en is code 1: 3 < 2 no, 1 < 10 yes, 9 < 7 no.
    preference = bias.same_language_preference(ranks, queries, ["de", "en"])
    assert preference["per_language"] == pytest.approx({"de": 1, "en": 1 / 3})
    assert preference["mean"] == pytest.approx(2 / 3) and preference["no_preference"] == 0.5


def test_distance_takes_the_way_of_every_measure():
    ranks, queries = simulate(random_ranker, 80, [40] * 4), query_table(80)
    distances = bias.rank_distance(ranks, queries)
    scores = metrics.score_settings(ranks, queries, LANGUAGES)
    assert list(distances.columns) == list(scores.columns)
    assert metrics.macro(distances)["multilingual"]["rank distance"] == bias.rank_distance_summary(ranks, queries)["mean"]
    assert metrics.group_sums(distances)["n"].sum() == 80


def test_queries_with_one_version_are_left_out_and_named(caplog):
    rank = np.array([4, 9, 3])
    outranked = np.stack([rank - 1, np.zeros(3, int)], axis=1).astype(np.int32)
    ranks = RelevantRanks(np.array([0, 0, 1]), np.arange(3), np.array([0, 1, 0]), outranked, np.array([10, 10]), 2)
    queries = query_table(2)
    assert bias.rank_distance(ranks, queries)["value"].tolist() == [5]
    assert "leaves out 1 queries" in caplog.text
    alone = RelevantRanks(np.array([0]), np.array([0]), np.array([0]), np.array([[3]], dtype=np.int32), np.array([10]), 1)
    with pytest.raises(InputError, match="needs a parallel pool"):
        bias.rank_distance_summary(alone, query_table(1))
    with pytest.raises(InputError, match="needs a parallel pool"):
        bias.same_language_preference(alone, query_table(1), ["de"])


def test_preference_of_rankers_whose_preference_is_known():
    n = 4000
    versions = np.random.default_rng(1).integers(2, 5, n)
    queries = query_table(n)
    first = bias.same_language_preference(simulate(same_language_first, n, [100] * 4, versions), queries, LANGUAGES)
    assert first["mean"] == first["same_language_first"] == 1
    neutral = bias.same_language_preference(simulate(random_ranker, n, [100] * 4, versions), queries, LANGUAGES)
    assert neutral["no_preference"] == pytest.approx(np.mean(1 / versions), abs=0.01)
    assert abs(neutral["mean"] - neutral["no_preference"]) < 4 * 0.5 / np.sqrt(n)
    assert set(neutral["per_language"]) == set(LANGUAGES)


def test_language_share_by_hand_and_of_a_random_ranker():
    doc_langs = ["am", "th", "th", "th"]
    share = bias.language_share([[1, 2], [0, 3]], doc_langs, ["am", "km"]).set_index(["query_lang", "doc_lang"])
    assert share["share"].to_dict() == {("am", "am"): 0, ("am", "th"): 1, ("km", "am"): 0.5, ("km", "th"): 0.5}
    assert share["pool_share"].tolist() == [0.25, 0.75, 0.25, 0.75] and set(share["uniform"]) == {0.5}
    rng = np.random.default_rng(0)
    pool = np.repeat(["a", "b", "c"], [10, 30, 60])
    random_top = np.array([rng.choice(100, 10, replace=False) for _ in range(2000)])
    share = bias.language_share(random_top, pool, np.tile(["a", "b"], 1000))
    np.testing.assert_allclose(share["share"], share["pool_share"], atol=0.02)  # 10,000 draws each: s.e. below .005
