"""Round robin: merge the rankings of the single languages into one of the pool of all languages.

The best passage of every language comes first, then the second of every language, and so on. In
each round the languages come in the order of the scores of their *first* passages; one that is
exhausted is passed over (field.md, section 2). The rule does not look at the query's language; the
scores of a biased encoder may still put it first. Pools of one language keep their ranking, so the
monolingual and the cross-lingual setting do not change.

**Answers in every language, as on XQuAD-R, favour it**: it hands every language the same places,
which is where the answers are by the construction of the test set (MLQA-R has them in two to four
of seven). Elsewhere that is a guess. Knows no text, no model and no measure.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from xir_lib.errors import InputError
from xir_lib.metrics.ranks import RelevantRanks
from xir_lib.metrics.scores import Block, IntArray, Judged, top_columns


def round_robin_ranks(apart: RelevantRanks, top: int = 0) -> RelevantRanks:
    """Return the ranks in the pool of all languages that a round robin gives.

    A passage with t others of its language before it comes in round t: before it are t passages of
    every language, and one more of those that come earlier in a round, as far as they have so many.
    So the ranks in the pools of one language say all, and nothing needs to be sorted. `top` counts
    as in `relevant_ranks`. What is said of pools of one language stays.
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
        key = _order(places, np.minimum(sizes, top))
        last = np.partition(key, top - 1, axis=1)[:, top - 1, None]
        bounds = np.cumsum(np.minimum(sizes, top))[:-1]
        parts = np.split(key, bounds, axis=1)
        counts = np.stack([(part <= last).sum(axis=1) for part in parts], axis=1)
    return replace(apart, outranked_by=outranked_by, top_counts=counts)


def round_robin_lists(
    blocks: Iterable[Block], judged: Judged, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the rows of each query's first k passages, (n_queries, k), and scores in their order.

    Lists of the single languages are dealt out by the rule. The scores are 0, -1, ..., each place
    that a language leaves empty counted: whole numbers that a file of a run can hold.
    """
    rows = np.empty((judged.n_queries, k), dtype=np.int64)
    scores = np.empty((judged.n_queries, k), dtype=np.float32)
    position = judged.ties[judged.columns]
    depths = np.minimum(judged.pool_sizes, k)
    for block in blocks:
        for query, given in zip(block.queries, block.scores(), strict=True):
            lists = [
                pool.start + top_columns(given[pool], position[pool], depth)
                for pool, depth in zip(judged.pools, depths, strict=True)
            ]
            leaders = np.array([found[0] for found in lists])
            places = np.lexsort((position[leaders], -given[leaders])).argsort()
            key = _order(places[None], depths)[0]
            first = np.argsort(key)[:k]
            rows[query] = judged.columns[np.concatenate(lists)[first]]
            scores[query] = -key[first]
    return rows, scores


def _order(places: IntArray, depths: IntArray) -> IntArray:
    """Return the place of each language's first passages in the dealing, (n_queries, all depths).

    >>> _order(np.array([[1, 0]]), np.array([2, 1])).tolist()
    [[1, 3, 0]]
    """
    turns = [
        np.arange(depth) * len(depths) + places[:, [lang]] for lang, depth in enumerate(depths)
    ]
    return np.concatenate(turns, axis=1)
