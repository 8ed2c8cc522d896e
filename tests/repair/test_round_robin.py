"""A round robin of the languages' rankings against literal list merging and hand arithmetic."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import judged_of, score_blocks

from xir_lib.errors import InputError
from xir_lib.metrics.ranks import relevant_ranks
from xir_lib.repair.merge import round_robin_lists, round_robin_ranks


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
@given(pools(), st.integers(1, 12))
def test_ranks_are_those_of_the_literal_list(pool, top):
    scores, langs, ties = pool
    top = min(top, len(langs))
    every = np.arange(len(langs))
    judged = judged_of(langs, np.zeros_like(every), every, ties)
    alone = relevant_ranks(score_blocks(scores, judged), judged, top)
    found = round_robin_ranks(alone, top)
    expected = literal_round_robin(scores[0].tolist(), langs.tolist(), ties)
    assert [expected.index(doc) + 1 for doc in every] == found.in_all()[1].tolist()
    for row, doc in enumerate(every):
        before = [langs[other] for other in expected[: expected.index(doc)]]
        by_language = np.bincount(before, minlength=langs.max() + 1)
        assert found.outranked_by[row].tolist() == by_language.tolist()
    first = np.bincount(langs[expected[:top]], minlength=langs.max() + 1)
    assert found.top_counts is not None and found.top_counts[0].tolist() == first.tolist()
    np.testing.assert_array_equal(
        found.outranked_by[every, langs], alone.outranked_by[every, langs]
    )


@settings(deadline=None)
@given(pools(), st.integers(1, 30))
def test_lists_are_the_head_of_the_literal_list(pool, k):
    scores, langs, ties = pool
    k = min(k, len(langs))
    judged = judged_of(langs, [0], [0], ties)
    rows, places = round_robin_lists(score_blocks(scores, judged), judged, k)
    assert rows[0].tolist() == literal_round_robin(scores[0].tolist(), langs.tolist(), ties)[:k]
    assert (np.diff(places[0]) < 0).all() and places.dtype == np.float32


def test_round_robin_by_hand():
    # Language 0 has .9 .5 .1, language 1 has .95 .2: the turns are (.95, .9), (.2, .5), (.1).
    scores = np.array([[0.9, 0.5, 0.1, 0.95, 0.2]], dtype=np.float32)
    judged = judged_of([0, 0, 0, 1, 1], [0], [2], np.arange(5))
    rows, places = round_robin_lists(score_blocks(scores, judged), judged, 5)
    assert rows.tolist() == [[3, 0, 4, 1, 2]]
    assert places.tolist() == [[0, -1, -2, -3, -5]]  # language 1 has no third passage
    alone = relevant_ranks(score_blocks(scores, judged), judged)
    assert round_robin_ranks(alone).outranked_by.tolist() == [[2, 2]]


def test_an_offset_per_language_is_undone():
    # Every language has the same scores but for an offset, so the three versions of a passage are
    # neighbours.
    rng = np.random.default_rng(0)
    content = rng.normal(0, 0.1, (20, 30))
    scores = np.concatenate([content, content + 0.5, content - 0.3], axis=1).astype(np.float32)
    langs, every = np.repeat([0, 1, 2], 30), np.arange(20)
    judged = judged_of(langs, every, every, np.arange(90))
    rows, _ = round_robin_lists(score_blocks(scores, judged), judged, 3)
    for biased, best in zip(scores, rows, strict=True):
        assert {doc % 30 for doc in best} == {best[0] % 30}
        assert set(langs[ranking(biased, np.arange(90))[:3]]) == {1}


def test_ranks_that_do_not_know_the_first_languages_are_refused():
    judged = judged_of([0, 1], [0, 1], [0, 1], np.arange(2))
    ranks = relevant_ranks(score_blocks(np.eye(2, dtype=np.float32), judged), judged)
    with pytest.raises(InputError, match="do not say which language comes first"):
        round_robin_ranks(replace(ranks, lang_places=None))
