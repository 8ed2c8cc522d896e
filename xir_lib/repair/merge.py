"""Merge rankings made language by language into one: the classical answer to a pool of several
languages.

Each pool of one language is ranked by itself, then the rankings are merged (field.md, section 2). A
merge is written as new scores for the passages of all pools, so that ranks, ties and runs come from
the same code as everything else. Within one pool it keeps the order: the monolingual and the
cross-lingual setting do not change.

**Answers in every language, as on XQuAD-R, favour `round-robin`**: it hands every language the same
places, which is where the answers are by the construction of the test set (MLQA-R has them in two
to four of seven). Elsewhere that is a guess.

This module knows scores and language codes, no text, no model and no measure.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from xir_lib.errors import InputError
from xir_lib.metrics.ranks import IntArray, RelevantRanks
from xir_lib.repair.maps import MERGES, Vectors

TOP = 10
EXACT_IN_FLOAT32 = 2**24  # whole numbers up to here


def merge(scores: Vectors, doc_langs: IntArray, ties: IntArray, method: str) -> Vectors:
    """Turn scores that compare within a language into scores of one merged ranking, (n_queries,
    n_docs) float32 each.

    `doc_langs` are the language codes 0, 1, ... of the passages, `ties` their
    `retrieval.tie_order`. The methods:

    * `round-robin`: the best passage of every language, then the second of every language, and so
      on. In each round the languages come in the order of the scores of their *first* passages. The
      rule does not look at the query's language; the scores of a biased encoder may still put it
      first. A language that is exhausted is passed over.
    * `z-score`: the score minus the mean of the language's pool, over its standard deviation. All
      passages of the pool count, not only the retrieved ones. Where all scores are equal, in a pool
      of one passage for instance, it is 0.
    * `minus-top10`: the score minus the mean of the pool's 10 best, or of all if there are fewer.
    """
    if method not in MERGES:
        raise InputError(f"unknown merge {method!r}; use {', '.join(MERGES)}")
    pools = [np.flatnonzero(doc_langs == lang) for lang in range(int(doc_langs.max()) + 1)]
    if method == "round-robin":
        return _round_robin(scores, doc_langs, ties, pools)
    merged = np.empty(scores.shape, dtype=np.float32)
    for pool in pools:
        own = scores[:, pool].astype(np.float64)  # (n_queries, pool)
        if method == "z-score":
            deviation = own.std(axis=1, keepdims=True)
            deviation[deviation == 0] = (
                1  # the mean of equal float32 scores is exact in float64, so 0 / 1 remains
            )
            merged[:, pool] = (own - own.mean(axis=1, keepdims=True)) / deviation
        else:
            first = max(0, len(pool) - TOP)
            merged[:, pool] = own - np.partition(own, first, axis=1)[:, first:].mean(
                axis=1, keepdims=True
            )
    return merged


def _round_robin(
    scores: Vectors, doc_langs: IntArray, ties: IntArray, pools: list[NDArray[np.int64]]
) -> Vectors:
    largest = max(map(len, pools))
    if largest * len(pools) > EXACT_IN_FLOAT32:
        raise InputError(
            f"round-robin over {len(pools)} pools of up to {largest} passages; at most 2^24 places"
            " can be told apart"
        )
    keys = _ranking_keys(scores, ties)
    column = np.argsort(ties)
    turn = np.empty(scores.shape, dtype=np.int64)  # each passage's 0-based rank among its language
    first = np.empty((len(scores), len(pools)), dtype=np.int64)
    for lang, pool in enumerate(pools):
        ordered = np.sort(keys[:, pool], axis=1)
        np.put_along_axis(turn, column[ordered & 0xFFFFFFFF], np.arange(len(pool))[None], axis=1)
        first[:, lang] = ordered[:, 0]
    place = first.argsort(axis=1).argsort(axis=1)  # of each language within a round
    return -(turn * len(pools) + place[:, doc_langs]).astype(np.float32)


def round_robin_ranks(apart: RelevantRanks, top: int = 0) -> RelevantRanks:
    """Return the ranks in the pool of all languages that `round-robin` gives, from the ranks in the
    pools of one language.

    A passage with t others of its language before it comes in round t: before it are t passages of
    every language, and one more of those that come earlier in a round, as far as they have so many.
    So nothing needs to be sorted; `top` counts as in `relevant_ranks`. What is said of pools of one
    language stays.
    """
    places, sizes = apart.lang_places, apart.pool_sizes
    if places is None:
        raise InputError(
            "these ranks do not say which language comes first; make them with relevant_ranks"
        )
    own = np.arange(len(apart.doc_lang)), apart.doc_lang
    turn = apart.outranked_by[own]  # (n_rel,)
    place = places[apart.query_index]  # (n_rel, n_langs)
    outranked_by = np.minimum(turn[:, None] + (place < place[own][:, None]), sizes).astype(np.int32)
    outranked_by[own] = turn
    counts = None
    if top:
        key = np.concatenate(
            [
                np.arange(min(top, size)) * len(sizes) + places[:, [lang]]
                for lang, size in enumerate(sizes)
            ],
            axis=1,
        )  # (n_queries, passages that may be among the first)
        last = np.partition(key, top - 1, axis=1)[:, top - 1, None]
        bounds = np.cumsum([min(top, size) for size in sizes])[:-1]
        counts = np.stack(
            [(part <= last).sum(axis=1) for part in np.split(key, bounds, axis=1)], axis=1
        )
    return replace(apart, outranked_by=outranked_by, top_counts=counts)


def _ranking_keys(scores: Vectors, ties: IntArray) -> NDArray[np.int64]:
    """Return whole numbers, all different, in whose ascending order the passages are ranked, ties
    as ever.

    The bits of a float32 sort as integers once those of the negative ones are turned round; the
    place among equal scores fills the lower 32 bits. A plain sort of these keys stands for a stable
    argsort of the scores and is faster.
    """
    bits = (0.0 - scores.astype(np.float32)).view(
        np.int32
    )  # the best score is the smallest; 0.0 - 0.0 has no sign
    return np.where(bits < 0, bits ^ 0x7FFFFFFF, bits).astype(np.int64) << 32 | ties
