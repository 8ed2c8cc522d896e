"""Language bias in the pool of all languages, each number beside its trivial bounds.

Section 3 of arXiv 2408.10536 (rank distance, after Huang et al. 2023), LAReQA (one-target pools),
Wu et al. (arXiv 2408.11942, language share of the top k), arXiv 2604.05684 (Max@R, Complete@k), and
a measure that the study adds. `bias_card` computes them all.

Most measures presume a **parallel** pool: one relevant passage per language, each as good an answer
as the others, so that differences between their ranks are due to language. Where that fails a
function refuses in one line, or its docstring says what is left of its meaning. No measure is free
of accuracy: a ranker that finds nothing scatters the answers without preferring any language. Hence
three bounds, all in closed form:

- `ideal`: the relevant passages come first, in random order, then the others, in random order;
- `random`: every order of the pool is as likely;
- `same_language_first`: the passages of the query's language come first (its relevant ones before
  its others), then the relevant ones of the other languages in random order, then the rest in
  random order: total bias, no other mistake.

In the formulas the pool holds N passages, a query has k relevant ones, r are their ranks. A value
is averaged over queries, then over query languages (`mean`, `per_language`), and so is each bound.
The module knows ranks and language names, no data set and no model.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from xir_lib.errors import InputError
from xir_lib.metrics import bounds
from xir_lib.metrics.measures import ALL, Values, check_tables, first_rank, per_query_frame
from xir_lib.metrics.pairs import one_target
from xir_lib.metrics.ranks import RelevantRanks

log = logging.getLogger(__name__)

RANK_DISTANCE = "rank distance"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # of the rank distances of a query language
COMPLETE_AT = (20, 100)
PEER_REFUSAL = (
    "PEER is not computed: it compares groups of ranks, and where a language has one relevant"
    " passage its group holds one rank and the test gives the same p for any ranking (.4405 for 11"
    " languages)"
)
Names = Sequence[str]  # of the language codes
Summary = dict[str, Any]  # mean, per_language, and a number per bound


def bias_card(
    ranks: RelevantRanks,
    queries: pd.DataFrame,
    languages: Names,
    *,
    complete_at: Sequence[int] = COMPLETE_AT,
) -> dict[str, Any]:
    """Return every measure with its bounds as plain, finite numbers, ready for JSON.

    Takes what `measures.score_settings` takes; of ranks with `top=k` the card has the language
    share of the top k. `complete_at` are the cutoffs of `complete_at_k`.

    `pool` says what the numbers belong to; cards compare only where it is equal. A measure that the
    task does not allow is missing, and `refused` holds its name and the reason.
    """
    check_tables(ranks, queries, languages)
    measures: dict[str, Callable[..., Summary]] = {
        "rank_distance": rank_distance_summary,
        "max_at_r": max_at_r,
        **{f"complete@{cut}": partial(complete_at_k, k=cut) for cut in complete_at},
        "one_target": one_target_gap,
        "language_share": top_language_share,
        "same_language_preference": same_language_preference,
    }
    asked = queries["lang"].value_counts(sort=False).sort_index()
    sizes, counts = np.unique(ranks.n_relevant, return_counts=True)
    pool = {
        "passages": dict(zip(languages, ranks.pool_sizes.tolist(), strict=True)),
        "queries": {str(lang): int(n) for lang, n in asked.items()},
        "relevant_per_query": dict(zip(map(str, sizes), counts.tolist(), strict=True)),
    }
    card: dict[str, Any] = {"pool": pool}
    refused = {"peer": PEER_REFUSAL}
    for name, measure in measures.items():
        try:
            card[name] = measure(ranks, queries, languages)
        except InputError as error:
            refused[name] = str(error)
    return {**card, "refused": refused}


def rank_distance(ranks: RelevantRanks, queries: pd.DataFrame) -> pd.DataFrame:
    """Return max r - min r of every query, the ranks between its best and its worst placed answer.

    The table is that of `measures.score_settings` (setting `multilingual`, pool `all`, measure
    `rank distance`), so that it takes the same way through `group_sums` and `compare`. Queries that
    have not one relevant passage in each of several languages have no distance and are left out
    (logged). The unit is ranks: it scales with the pool and is ruled by the worst language; compare
    only systems that rank the same pool.
    """
    parallel = _parallel(ranks)
    if n := np.count_nonzero(~parallel):
        log.warning("%s leaves out %d queries that have no parallel answers", RANK_DISTANCE, n)
    rows = np.flatnonzero(parallel)
    distance = (_last_rank(ranks) - first_rank(*ranks.in_all(), ranks.n_queries))[rows]
    return per_query_frame(queries, ranks.n_queries, [(ALL, RANK_DISTANCE, rows, distance)])


def rank_distance_summary(
    ranks: RelevantRanks, queries: pd.DataFrame, languages: Names | None = None
) -> Summary:
    """Summarise `rank_distance`; besides its mean: median, over all queries, and `QUANTILES`.

    - ideal: k - 1, they are the first k;
    - random: (N + 1)(k - 1) / (k + 1), the mean range of k ranks drawn without replacement;
    - same_language_first: from rank 1 to `bounds.last_rank_own_first`; k - 1 where no answer is in
      the query's language. Only with `languages`.
    """
    distances = rank_distance(ranks, queries)
    parallel = _parallel(ranks)
    k, n = ranks.n_relevant, ranks.pool_sizes.sum()
    of = {"ideal": k - 1, "random": (n + 1) * (k - 1) / (k + 1)}
    if languages is not None:
        own = bounds.own_language(queries, languages)
        led = (own & (bounds.relevant_per_language(ranks) > 0)).any(axis=1)
        last = np.where(led, bounds.last_rank_own_first(ranks, queries, languages), k)
        of["same_language_first"] = last - 1
    of = {name: bound[parallel] for name, bound in of.items()}
    by_language = distances.groupby("query_lang", observed=True)["value"]
    return {
        **_summary(distances["value"], queries["lang"][parallel], **of),
        "median": float(distances["value"].median()),
        "quantiles": {f"{q:g}": _by_name(by_language.quantile(q)) for q in QUANTILES},
    }


def max_at_r(ranks: RelevantRanks, queries: pd.DataFrame, languages: Names) -> Summary:
    """Return how deep one reads until every answer was seen: 100 (log2 N - log2 max r) / (log2 N -
    log2 k).

    100 if the k relevant passages are the first k, 0 if one of them is the last of the N. Unlike
    rank distance it does not scale with the pool and one lost answer does not drown a thousand
    found ones, but `random` still depends on N and k (1.3 for 11 of 13,014, 5.4 for 2 of 20,534):
    compare at equal N and k. On a pool that is not parallel it measures accuracy alone. Queries
    whose whole pool is relevant are left out.

    - ideal: 100;
    - random: with the expected log2 of the largest of k ranks;
    - same_language_first: with the rank of `bounds.last_rank_own_first`.
    """
    n = int(ranks.pool_sizes.sum())
    asked = np.flatnonzero(ranks.n_relevant < n)
    k = ranks.n_relevant[asked]
    if not len(asked):
        raise InputError(
            f"all {n} passages are relevant to every query; Max@R needs a pool with others"
        )

    def depth(log2_rank: Values) -> Values:
        return 100 * (np.log2(n) - log2_rank) / (np.log2(n) - np.log2(k))

    last_own_first = bounds.last_rank_own_first(ranks, queries, languages)
    return _summary(
        depth(np.log2(_last_rank(ranks)[asked])),
        queries["lang"].iloc[asked],
        ideal=100.0,
        random=depth(bounds.for_each(partial(bounds.random_log2_last_rank, n), k)),
        same_language_first=depth(np.log2(last_own_first[asked])),
    )


def complete_at_k(ranks: RelevantRanks, queries: pd.DataFrame, languages: Names, k: int) -> Summary:
    """Return the share of queries with max r <= `k`: all answers are among the first.

    It says nothing where a query has more than `k` of them, which `ideal` shows (Complete@10 is 0
    on XQuAD-R), and on a pool that is not parallel it measures accuracy alone.

    - ideal: 1 where that is possible, else 0;
    - random: k/N (k - 1)/(N - 1) ..., as many factors as there are relevant passages;
    - same_language_first: by the rank of `bounds.last_rank_own_first`.
    """
    n = int(ranks.pool_sizes.sum())
    if not 1 <= k <= n:
        raise InputError(f"k must be between 1 and the pool's {n} passages, got {k}")

    def by_chance(size: int) -> float:
        drawn = np.arange(size)
        return float(np.prod((k - drawn).clip(0) / (n - drawn)))

    return _summary(
        _last_rank(ranks) <= k,
        queries["lang"],
        ideal=ranks.n_relevant <= k,
        random=bounds.for_each(by_chance, ranks.n_relevant),
        same_language_first=bounds.last_rank_own_first(ranks, queries, languages) <= k,
    )


def one_target_gap(ranks: RelevantRanks, queries: pd.DataFrame, languages: Names) -> Summary:
    """Return how much better an answer is found if it is in the query's language: the mean of
    mAP(a, a) less that of mAP(a, b).

    Besides: diagonal and off_diagonal, the two means, and cells (query language -> passage language
    -> mAP). 0 without preference; negative is possible. Matching within a language is the easier
    task, and a ranker that finds nothing has a gap of 0 too: read it beside `diagonal`.
    """
    table = one_target(ranks, queries, languages).set_index(["query_lang", "doc_lang"])
    numbers = table.drop(columns="queries")
    own = table.index.get_level_values(0) == table.index.get_level_values(1)
    if not own.any() or own.all():
        raise InputError(
            "no answers both in the queries' language and in others; the one-target gap needs a"
            " parallel pool"
        )
    within, across = numbers[own], numbers[~own]
    gap = within.mean() - across.mean()
    gaps = within.groupby("query_lang")["mAP"].mean() - across.groupby("query_lang")["mAP"].mean()
    cells = numbers["mAP"].unstack()
    return {
        "mean": float(gap["mAP"]),
        "diagonal": float(within["mAP"].mean()),
        "off_diagonal": float(across["mAP"].mean()),
        "per_language": _by_name(gaps.dropna()),
        **_by_name(gap.drop("mAP")),
        "cells": {str(lang): _by_name(row.dropna()) for lang, row in cells.iterrows()},
    }


def same_language_preference(
    ranks: RelevantRanks, queries: pd.DataFrame, languages: Names
) -> Summary:
    """Return the share of queries whose own-language passage ranks first among its k versions.

    Queries without a relevant passage in their own language, or with no other one, say nothing and
    are left out. A user may want this preference, so a high value is no fault by itself; and since
    matching within a language is the easier task, a value above no_preference need not come from
    the language as such.

    - ideal, random, no_preference: 1 / k, what a ranker that ignores language gets;
    - same_language_first: 1.
    """
    query, rank = ranks.in_all()
    own = bounds.own_language(queries, languages)[query, ranks.doc_lang]
    first = first_rank(query, rank, ranks.n_queries)
    first_own = first_rank(query[own], rank[own], ranks.n_queries)
    n_own = np.bincount(query[own], minlength=ranks.n_queries)
    asked = (n_own > 0) & (n_own < ranks.n_relevant)
    if not asked.any():
        raise InputError(
            "no query has a relevant passage in its own and in another language; this needs a"
            " parallel pool"
        )
    chance = (n_own / ranks.n_relevant)[asked]
    summary = _summary(
        (first == first_own)[asked],
        queries["lang"][asked],
        ideal=chance,
        random=chance,
        same_language_first=1.0,
    )
    return {**summary, "no_preference": summary["random"]}


def top_language_share(ranks: RelevantRanks, queries: pd.DataFrame, languages: Names) -> Summary:
    """Return the languages of each query's first k passages, from `relevant_ranks(..., top=k)`.

    Keys: k; share (query language -> passage language), pool_share and uniform beside it; and, each
    with its bounds, own (share of the query's language) and entropy (of a query language's shares
    p: - sum p log p / log |L|, 1 if they are equal, 0 if one language takes all). A ranker that
    gives every query one language, another each time, looks even.

    It works on any pool, and is a sign of bias only as far as it departs from `ideal`, where the
    relevant passages lie.
    """
    if ranks.top_counts is None:
        raise InputError("the ranks hold no top k; give relevant_ranks top=10, for instance")
    if len(languages) < 2:
        raise InputError(f"the pool has one language, {languages[0]!r}; a language share needs two")
    k = int(ranks.top_counts[0].sum())
    relevant, own = bounds.relevant_per_language(ranks), bounds.own_language(queries, languages)
    pool = np.broadcast_to(ranks.pool_sizes, own.shape)  # (n_queries, n_langs), like all of these
    own_first = own * np.minimum(k, pool)
    left = k - own_first.sum(axis=1, keepdims=True)
    others = bounds.relevant_first(left, relevant * ~own, pool * ~own)
    counts = {
        "value": ranks.top_counts,
        "ideal": bounds.relevant_first(k, relevant, pool),
        "random": k * pool / pool.sum(axis=1, keepdims=True),
        "same_language_first": own_first + others,
    }
    langs = queries["lang"].to_numpy()
    shares = {
        name: pd.DataFrame(count / k, columns=list(languages)).groupby(langs).mean()
        for name, count in counts.items()
    }
    own_share = {
        name: pd.Series({lang: row.get(lang, 0.0) for lang, row in table.iterrows()})
        for name, table in shares.items()
    }
    entropy = {
        name: -(table * np.log(table.where(table > 0, 1))).sum(axis=1) / np.log(len(languages))
        for name, table in shares.items()
    }
    pool_share = ranks.pool_sizes / ranks.pool_sizes.sum()
    return {
        "k": k,
        "own": _over_languages(own_share),
        "entropy": _over_languages(entropy),
        "share": {str(lang): _by_name(row) for lang, row in shares["value"].iterrows()},
        "pool_share": dict(zip(languages, pool_share.tolist(), strict=True)),
        "uniform": 1 / len(languages),
    }


def _parallel(ranks: RelevantRanks) -> NDArray[np.bool_]:
    """Say which queries have relevant passages in several languages, one in each."""
    parallel = (ranks.n_relevant > 1) & (bounds.relevant_per_language(ranks).max(axis=1) == 1)
    if not parallel.any():
        raise InputError(
            f"none of the {ranks.n_queries} queries has one relevant passage in each of several"
            f" languages; {RANK_DISTANCE} needs a parallel pool"
        )
    return parallel


def _last_rank(ranks: RelevantRanks) -> Values:
    query, rank = ranks.in_all()
    return -first_rank(query, -rank, ranks.n_queries)


def _summary(values: ArrayLike, langs: pd.Series, **bounds: ArrayLike) -> dict[str, Any]:
    """Average a value and its bounds over queries, then over query languages."""
    table = pd.DataFrame({"value": np.asarray(values), **bounds}).astype(np.float64)
    means = table.groupby(langs.to_numpy()).mean()
    return _over_languages({str(name): column for name, column in means.items()})


def _over_languages(columns: dict[str, pd.Series]) -> dict[str, Any]:
    """Return the value's mean and per_language, and one number per bound."""
    means = {name: float(column.mean()) for name, column in columns.items()}
    return {"mean": means.pop("value"), "per_language": _by_name(columns["value"]), **means}


def _by_name(values: pd.Series) -> dict[str, float]:
    return {str(name): float(value) for name, value in values.items()}
