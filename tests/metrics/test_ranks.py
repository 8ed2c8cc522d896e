"""Ranks against a literal sort of every pool; ids and ties against trec_eval."""

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import judged_of, score_blocks, vector_lists, vector_ranks

from xir_lib.errors import InputError
from xir_lib.metrics import scores as scoring
from xir_lib.metrics.ranks import relevant_ranks
from xir_lib.metrics.scores import tie_order


def literal_rank(scores: np.ndarray, doc_ids: list[str], pool: list[int], doc: int) -> int:
    """Sort one pool by score, then by descending id, and look the passage up."""
    return sorted(pool, key=lambda d: (scores[d], doc_ids[d]), reverse=True).index(doc) + 1


@st.composite
def ranking_problems(draw):
    """Few distinct small-integer vectors, so that most scores are tied and every product is
    exact.
    """
    n_langs, n_queries, n_docs = (
        draw(st.integers(1, 4)),
        draw(st.integers(1, 5)),
        draw(st.integers(4, 24)),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    vectors = np.array([[1, 0], [0, 1], [1, 1], [-1, 0], [2, -1]], dtype=np.float32)[
        : draw(st.integers(1, 5))
    ]
    langs = rng.permutation(
        np.concatenate([np.arange(n_langs), rng.integers(0, n_langs, n_docs - n_langs)])
    )
    relevant = [
        (q, d)
        for q in range(n_queries)
        for d in rng.choice(n_docs, rng.integers(1, min(5, n_docs) + 1), replace=False)
    ]
    relevant = [relevant[i] for i in rng.permutation(len(relevant))]
    doc_ids = [f"{i:x}" for i in rng.permutation(n_docs)]
    return (
        rng.choice(vectors, n_queries),
        rng.choice(vectors, n_docs),
        langs,
        *np.array(relevant).T,
        doc_ids,
    )


@settings(deadline=None)
@given(ranking_problems(), st.sampled_from([1, 7, 40, 2**22]))
def test_ranks_equal_a_literal_sort_of_every_pool(problem, scores_in_memory):
    queries, docs, langs, query_index, doc_index, doc_ids = problem
    with pytest.MonkeyPatch.context() as patch:  # small: many blocks of queries and of ties
        patch.setattr(scoring, "SCORES_IN_MEMORY", scores_in_memory)
        ranks = vector_ranks(queries, docs, langs, query_index, doc_index, tie_order(doc_ids))
    scores = queries @ docs.T
    for i, (q, d) in enumerate(zip(query_index, doc_index, strict=True)):
        for lang in range(langs.max() + 1):
            pool = sorted(
                {d, *np.flatnonzero(langs == lang)}
            )  # a foreign passage's rank had it been in this pool
            assert 1 + ranks.outranked_by[i, lang] == literal_rank(scores[q], doc_ids, pool, d)
        assert ranks.in_all()[1][i] == literal_rank(scores[q], doc_ids, list(range(len(docs))), d)
    for lang in range(langs.max() + 1):
        inside = langs[doc_index] == lang
        assert ranks.in_pool(lang)[0].tolist() == query_index[inside].tolist()
        assert ranks.in_pool(lang)[1].tolist() == (1 + ranks.outranked_by[inside, lang]).tolist()


@pytest.mark.parametrize("n_queries", [1, 3, 19, 40])
def test_passages_with_one_vector_tie_however_few_the_queries(n_queries: int) -> None:
    """Real-valued vectors: BLAS scores the same vector differently in different columns of a small
    product.
    """
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(31, 384)).astype(np.float32)
    which = rng.permutation(
        np.concatenate([np.arange(30), np.arange(31)])
    )  # two of each but one, in columns that are far apart
    queries = rng.normal(size=(n_queries, 384)).astype(np.float32)
    doc_ids = [f"{number:02d}" for number in range(61)]
    rows, scores = vector_lists(queries, vectors[which], doc_ids, 61)
    assert all(len(set(row)) == 31 for row in scores)
    query_index, doc_index = np.repeat(np.arange(n_queries), 61), np.tile(np.arange(61), n_queries)
    judged = vector_ranks(
        queries, vectors[which], np.zeros(61, dtype=int), query_index, doc_index, tie_order(doc_ids)
    )
    np.testing.assert_array_equal(
        judged.in_all()[1].reshape(n_queries, 61), np.argsort(rows, axis=1) + 1
    )
    places = np.argsort(rows, axis=1)
    for number in range(30):  # the later id comes first, directly before its twin
        earlier, later = np.flatnonzero(which == number)
        np.testing.assert_array_equal(places[:, later] + 1, places[:, earlier])


@settings(deadline=None)
@given(ranking_problems(), st.randoms(use_true_random=False))
def test_ranks_do_not_depend_on_the_order_of_passages_and_queries(problem, random):
    queries, docs, langs, query_index, doc_index, doc_ids = problem
    before = vector_ranks(
        queries, docs, langs, query_index, doc_index, tie_order(doc_ids)
    ).outranked_by
    query_order, doc_order = list(range(len(queries))), list(range(len(docs)))
    random.shuffle(query_order)
    random.shuffle(doc_order)
    after = vector_ranks(
        queries[query_order],
        docs[doc_order],
        langs[doc_order],
        np.argsort(query_order)[query_index],
        np.argsort(doc_order)[doc_index],
        tie_order([doc_ids[d] for d in doc_order]),
    ).outranked_by
    assert after.tolist() == before.tolist()


def test_hand_worked_ranks_in_both_pools():
    # Scores of query (1, 0): a 3, b 2, c 2, d 2 | x 3, y 1. Relevant: c (first language) and y
    # (second).
    docs = np.array([[3, 0], [2, 5], [2, 1], [2, 0], [3, 1], [1, 1]], dtype=np.float32)
    ranks = vector_ranks(
        [[1, 0]], docs, [0, 0, 0, 0, 1, 1], [0, 0], [2, 5], tie_order(list("abcdxy"))
    )
    # c: a scores higher, d ties and comes first (descending id), b ties and comes after; x of the
    # other language is higher. y: all four of the first language and x are higher.
    assert ranks.outranked_by.tolist() == [[2, 1], [4, 1]]
    assert ranks.in_all()[1].tolist() == [4, 6]
    assert [r.tolist() for r in ranks.in_pool(1)] == [[0], [2]]
    assert ranks.n_relevant.tolist() == [2]


def test_many_random_vectors_over_several_blocks():
    rng = np.random.default_rng(5)
    queries, docs = (rng.standard_normal((n, 16)).astype(np.float32) for n in (1100, 300))
    langs, doc_ids = rng.integers(0, 3, 300), [f"{i:03d}" for i in range(300)]
    doc_index = rng.integers(0, 300, 1100)
    ranks = vector_ranks(queries, docs, langs, np.arange(1100), doc_index, tie_order(doc_ids))
    exact = queries.astype(np.float64) @ docs.T.astype(np.float64)
    higher = exact > exact[np.arange(1100), doc_index][:, None]
    expected = np.stack([(higher & (langs == lang)).sum(axis=1) for lang in range(3)], axis=1)
    assert (ranks.outranked_by != expected).mean() < 1e-3  # float32 may swap a near tie
    rows, scores = vector_lists(queries, docs, doc_ids, 300)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert (np.argmax(rows == doc_index[:, None], axis=1) + 1 != ranks.in_all()[1]).mean() < 1e-3


@settings(deadline=None)
@given(ranking_problems(), st.data())
def test_top_k_is_the_head_of_the_literal_sort(problem, data):
    queries, docs, *_, doc_ids = problem
    k = data.draw(st.integers(1, len(docs)))
    rows, scores = vector_lists(queries, docs, doc_ids, k)
    all_scores = queries @ docs.T
    for q in range(len(queries)):
        literal = sorted(
            range(len(docs)), key=lambda d: (all_scores[q, d], doc_ids[d]), reverse=True
        )[:k]
        assert rows[q].tolist() == literal
        assert scores[q].tolist() == all_scores[q, literal].tolist()


def test_ids_of_any_script_are_ordered_as_trec_eval_orders_them():
    ids = ["Z", "a", "é", "ß", "я", "ไ", "中", "😀", "a1", "a10", "a2"]
    best_first = [ids[i] for i in np.argsort(tie_order(ids))]
    for position, doc in enumerate(best_first, 1):
        measured = pytrec_eval.RelevanceEvaluator({"q": {doc: 1}}, {"recip_rank"}).evaluate(
            {"q": dict.fromkeys(ids, 0.5)}
        )
        assert measured["q"]["recip_rank"] == pytest.approx(1 / position)


GOOD = {
    "queries": np.eye(2, dtype=np.float32),
    "docs": np.eye(2, dtype=np.float32)[[0, 1, 1]],
    "langs": [0, 1, 1],
    "query_rows": [0, 1],
    "doc_rows": [0, 2],
    "ties": np.arange(3),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": np.array([[1, 0], [np.nan, 0]])}, "query embedding in row 1 holds NaN"),
        (
            {"docs": np.array([[1, 0], [0, 1], [np.inf, 0]])},
            "passage embedding in row 2 holds NaN or infinity",
        ),
        ({"docs": np.array([[1, 0], [0, 0], [0, 1]])}, "passage embedding in row 1 is all zeros"),
        ({"queries": np.ones((2, 5))}, "queries have 5 dimensions, passages 2"),
        ({"docs": np.ones((0, 2))}, r"passage embeddings have shape \(0, 2\)"),
        ({"queries": np.ones(2)}, r"query embeddings have shape \(2,\)"),
        ({"top": 4}, "top must be between 0 and the pool's 3 passages, got 4"),
    ],
)
def test_bad_input_is_named(change, message):
    vector_ranks(**GOOD)
    with pytest.raises(InputError, match=message) as error:
        vector_ranks(**{**GOOD, **change})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("k", [0, 4])
def test_k_outside_the_pool_is_refused(k):
    with pytest.raises(InputError, match=f"between 1 and the pool's 3 passages, got {k}"):
        vector_lists(GOOD["queries"], GOOD["docs"], ["a", "b", "c"], k)


@settings(deadline=None)
@given(ranking_problems(), st.randoms(use_true_random=False))
def test_blocks_of_any_queries_rank_as_the_whole(problem, random):
    queries, docs, langs, query_index, doc_index, doc_ids = problem
    ties = tie_order(doc_ids)
    whole = vector_ranks(queries, docs, langs, query_index, doc_index, ties, top=3)
    judged = judged_of(langs, query_index, doc_index, ties, n_queries=len(queries))
    blocks = score_blocks(queries @ docs.T, judged, size=1)
    random.shuffle(blocks)
    found = relevant_ranks(blocks, judged, 3)
    for name in ("outranked_by", "top_counts", "lang_places"):
        assert getattr(found, name).tolist() == getattr(whole, name).tolist()
