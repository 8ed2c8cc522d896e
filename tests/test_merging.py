"""Merged rankings against literal list merging and hand arithmetic; scores in disguise rank as the
vectors they came from.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xir_lib.errors import InputError
from xir_lib.evaluation.bm25 import Index
from xir_lib.evaluation.parts import (
    Part,
    as_vectors,
    bm25_parts,
    merged_parts,
    plain_parts,
    ranks_of,
    top_of,
)
from xir_lib.metrics.ranks import relevant_ranks, tie_order, top_k
from xir_lib.repair.maps import MERGES
from xir_lib.repair.merge import merge, round_robin_ranks


def ranking(scores, ties):
    """The passages of one query, best first."""
    return sorted(range(len(scores)), key=lambda doc: (-scores[doc], ties[doc]))


def literal_round_robin(scores, langs, ties):
    pools = [
        [doc for doc in ranking(scores, ties) if langs[doc] == lang] for lang in sorted(set(langs))
    ]
    pools.sort(key=lambda pool: (-scores[pool[0]], ties[pool[0]]))
    return [doc for turn in itertools.zip_longest(*pools) for doc in turn if doc is not None]


@st.composite
def pools(draw):
    """Scores of a few values, with many ties, of passages in up to four languages."""
    n_langs = draw(st.integers(1, 4))
    langs = [*range(n_langs), *draw(st.lists(st.integers(0, n_langs - 1), max_size=24))]
    values = draw(
        st.lists(
            st.sampled_from([-1.5, -0.0, 0.0, 0.1, 0.7, 0.70000005]),
            min_size=len(langs),
            max_size=len(langs),
        )
    )
    ties = draw(st.permutations(range(len(langs))))
    return np.array([values], dtype=np.float32), np.array(langs), np.array(ties)


@settings(deadline=None)
@given(pools())
def test_round_robin_takes_turns(pool):
    scores, langs, ties = pool
    merged = merge(scores, langs, ties, "round-robin")
    assert merged.dtype == np.float32
    assert ranking(merged[0], ties) == literal_round_robin(scores[0].tolist(), langs.tolist(), ties)


@settings(deadline=None)
@given(pools(), st.integers(1, 12))
def test_round_robin_ranks_are_those_of_the_literal_list(pool, top):
    scores, langs, ties = pool
    top = min(top, len(langs))
    every = np.arange(len(langs))
    alone = relevant_ranks(*as_vectors(scores), langs, np.zeros_like(every), every, ties, top=top)
    found = round_robin_ranks(alone, top)
    expected = literal_round_robin(scores[0].tolist(), langs.tolist(), ties)
    assert [expected.index(doc) + 1 for doc in every] == found.in_all()[1].tolist()
    for row, doc in enumerate(every):
        before = [langs[other] for other in expected[: expected.index(doc)]]
        assert (
            found.outranked_by[row].tolist()
            == np.bincount(before, minlength=langs.max() + 1).tolist()
        )
    first = np.bincount(langs[expected[:top]], minlength=langs.max() + 1)
    assert found.top_counts is not None and found.top_counts[0].tolist() == first.tolist()
    np.testing.assert_array_equal(
        found.outranked_by[every, langs], alone.outranked_by[every, langs]
    )


def test_ranks_that_do_not_know_the_first_languages_are_refused():
    ranks = relevant_ranks(
        *as_vectors(np.eye(2, dtype=np.float32)), np.array([0, 1]), [0, 1], [0, 1], np.arange(2)
    )
    with pytest.raises(InputError, match="do not say which language comes first"):
        round_robin_ranks(replace(ranks, lang_places=None))


def test_round_robin_by_hand():
    # Language 0 has .9 .5 .1, language 1 has .95 .2: the turns are (.95, .9), (.2, .5), (.1).
    scores, langs = (
        np.array([[0.9, 0.5, 0.1, 0.95, 0.2]], dtype=np.float32),
        np.array([0, 0, 0, 1, 1]),
    )
    merged = merge(scores, langs, np.arange(5), "round-robin")
    assert ranking(merged[0], range(5)) == [3, 0, 4, 1, 2]


def test_z_score_by_hand():
    # 1, 3: mean 2, deviation 1. Scores that are all equal, and one alone, are 0.
    scores = np.array([[1, 3, 0.1, 0.1, 0.1, 7]], dtype=np.float32)
    merged = merge(scores, np.array([0, 0, 1, 1, 1, 2]), np.arange(6), "z-score")
    assert merged.tolist() == [[-1, 1, 0, 0, 0, 0]]


def test_minus_top10_by_hand():
    # 0 to 1999: the best ten are 1990 to 1999, of mean 1994.5. A pool of two has the mean (4 + 6) /
    # 2.
    values = np.random.default_rng(0).permutation(2000).tolist()
    scores = np.array([[*values, 4, 6]], dtype=np.float32)
    merged = merge(scores, np.array([0] * 2000 + [1, 1]), np.arange(2002), "minus-top10")
    assert merged.tolist() == [[*(value - 1994.5 for value in values), -1, 1]]


@settings(deadline=None)
@given(pools())
def test_a_language_keeps_its_ranking(pool):
    scores, langs, ties = pool
    for method in MERGES:
        merged = merge(scores, langs, ties, method)
        for lang in set(langs.tolist()):
            own = np.flatnonzero(langs == lang)
            higher = scores[0, own][:, None] > scores[0, own]
            assert (merged[0, own][:, None] >= merged[0, own])[higher].all()


@pytest.mark.parametrize("method", MERGES)
def test_an_offset_per_language_is_undone(method):
    # Every language has the same scores but for an offset, so the three versions of a passage are
    # neighbours.
    rng = np.random.default_rng(0)
    content = rng.normal(0, 0.1, (20, 30))
    scores = np.concatenate([content, content + 0.5, content - 0.3], axis=1).astype(np.float32)
    langs = np.repeat([0, 1, 2], 30)
    for biased, merged in zip(scores, merge(scores, langs, np.arange(90), method), strict=True):
        best = ranking(merged, np.arange(90))[:3]
        assert {doc % 30 for doc in best} == {best[0] % 30}
        assert set(langs[ranking(biased, np.arange(90))[:3]]) == {1}


def test_places_that_float32_cannot_tell_apart_are_refused():
    langs = np.array([2**15] + [0] * 1023)
    with pytest.raises(InputError, match="round-robin over 32769 pools of up to 1023 passages"):
        merge(np.zeros((1, 1024), np.float32), langs, np.arange(1024), "round-robin")
    with pytest.raises(InputError, match="unknown merge 'borda'; use round-robin"):
        merge(np.zeros((1, 1), np.float32), np.zeros(1, int), np.zeros(1, int), "borda")


def toy(rng, n_queries=300, n_docs=90):
    """Vectors on a grid, so that many scores tie, and two relevant passages a query."""
    queries, docs = (
        rng.integers(-1, 2, (n_queries, 6)) + 0.5,
        rng.integers(-1, 2, (n_docs, 6)) + 0.5,
    )
    langs = np.concatenate([[0, 1, 2], rng.integers(0, 3, n_docs - 3)])
    query_index = np.repeat(np.arange(n_queries), 2)
    doc_index = np.concatenate([rng.choice(n_docs, 2, replace=False) for _ in range(n_queries)])
    order = rng.permutation(2 * n_queries)
    ids = [f"d{number}" for number in rng.permutation(n_docs)]
    return (
        queries.astype(np.float32),
        docs.astype(np.float32),
        langs,
        query_index[order],
        doc_index[order],
        ids,
    )


def test_scores_in_disguise_are_the_scores():
    scores = np.random.default_rng(1).standard_normal((40, 500)).astype(np.float32)
    scores[:, 7] = 0  # a passage that no query shares a word with
    queries, docs = as_vectors(scores)
    assert (queries @ docs.T == scores).all()
    assert docs.any(axis=1).all()


def test_parts_rank_as_the_whole():
    rng = np.random.default_rng(2)
    queries, docs, langs, query_index, doc_index, ids = toy(rng)
    ties = tie_order(ids)
    whole = relevant_ranks(queries, docs, langs, query_index, doc_index, ties)
    rows = rng.permutation(300)
    scores = queries @ docs.T
    blocks = (rows[:100], rows[100:101], rows[101:])
    disguised = [
        Part(block, as_vectors(scores[block]), as_vectors(-scores[block])) for block in blocks
    ]
    vectors = plain_parts((block, queries[block], docs) for block in blocks)
    apart, together = ranks_of(disguised, langs, query_index, doc_index, ties)
    plain, same = ranks_of(vectors, langs, query_index, doc_index, ties)
    assert plain is same
    opposite = relevant_ranks(-queries, docs, langs, query_index, doc_index, ties)
    for found, expected in ((apart, whole), (plain, whole), (together, opposite)):
        assert (found.outranked_by == expected.outranked_by).all()
        assert (found.doc_lang == expected.doc_lang).all() and (
            found.pool_sizes == expected.pool_sizes
        ).all()
        assert found.n_queries == 300
    for found, expected in zip(
        top_of(disguised, 300, ids, 20), top_k(-queries, docs, ids, 20), strict=True
    ):
        assert (found == expected).all()


@pytest.mark.parametrize("method", MERGES)
def test_ranks_after_merging_are_those_of_the_literal_ranking(method):
    queries, docs, langs, query_index, doc_index, ids = toy(np.random.default_rng(3))
    ties = tie_order(ids)
    shifted = [(np.arange(300), queries, docs)]
    apart, together = ranks_of(
        merged_parts(shifted, langs, ties, method), langs, query_index, doc_index, ties
    )
    plain = relevant_ranks(queries, docs, langs, query_index, doc_index, ties)
    for lang in range(3):
        assert (
            apart.in_pool(lang)[1] == plain.in_pool(lang)[1]
        ).all()  # exactly: the single pools are not merged
    scores = queries @ docs.T
    for query, doc, rank in zip(query_index, doc_index, together.in_all()[1], strict=True):
        if method == "round-robin":
            merged = literal_round_robin(scores[query].tolist(), langs.tolist(), ties)
        else:
            merged = ranking(merge(scores[query : query + 1], langs, ties, method)[0], ties)
        assert merged.index(doc) + 1 == rank


def test_single_pools_are_ranked_by_the_scores_before_the_merge():
    # .1 and its neighbour among the float32 numbers are one z-score, since -10 sets the scale: a
    # tie, but only after merging.
    scores = np.array(
        [0.1, np.nextafter(np.float32(0.1), np.float32(1)), -10, 0.5], dtype=np.float32
    )
    langs, ties = np.array([0, 0, 0, 1]), np.arange(4)
    assert len(set(merge(scores[None], langs, ties, "z-score")[0, :2])) == 1
    parts = merged_parts(
        [(np.arange(1), np.ones((1, 1), np.float32), scores[:, None])], langs, ties, "z-score"
    )
    apart, together = ranks_of(parts, langs, np.zeros(1, int), np.zeros(1, int), ties)
    assert apart.in_pool(0)[1].tolist() == [2] and together.in_all()[1].tolist() == [1]


def test_passages_without_a_common_word_come_last_in_the_order_of_the_ids():
    passages = [["a", "a"], ["b"], ["c"], ["a"], ["d"]]
    ids, langs = ["0-x", "1-x", "2-y", "3-y", "4-y"], np.array([0, 0, 1, 1, 1])
    parts = list(bm25_parts([["a"], ["nowhere"]], passages, langs))
    expected = Index(passages, langs).scores([["a"], ["nowhere"]])
    for (queries, docs), found in zip((parts[0].apart, parts[0].together), expected, strict=True):
        assert (queries @ docs.T == found).all()
    assert (expected[0] != expected[1]).any()
    rows, scores = top_of(parts, 2, ids, 5)
    assert rows[0, 2:].tolist() == [4, 2, 1] and set(rows[0, :2]) == {
        0,
        3,
    }  # reverse lexical, as trec_eval does
    assert rows[1].tolist() == [4, 3, 2, 1, 0] and not scores[1].any()
    found, _ = ranks_of(parts, langs, np.array([0, 1]), np.array([2, 0]), tie_order(ids))
    assert found.in_pool(1)[1].tolist() == [3] and found.in_pool(0)[1].tolist() == [2]
