"""Language bias in the pool of all languages, each number beside its trivial bounds.

Section 3 of arXiv 2408.10536 (rank distance, after Huang et al. 2023), LAReQA (one-target pools),
Wu et al. (arXiv 2408.11942, language share of the top k), and measures that the study adds.
`bias_card` computes them all.

Most measures presume a **parallel** pool: one relevant passage per language, each as good an answer
as the others, so that differences between their ranks are due to language. Where that fails a
function refuses in one line, or its docstring says what is left of its meaning. No measure is free
of accuracy: a ranker that finds nothing scatters the answers without preferring any language. Hence
three bounds, all in closed form. With N passages, n_a of them in the query's language a, and k
relevant ones they are

- `ideal`: the relevant passages come first, in random order, then the others, in random order;
- `random`: every order of the pool is as likely;
- `same_language_first`: the passages of the query's language come first (its relevant ones before
  its others), then the relevant ones of the other languages in random order, then the rest in
  random order: total bias, no other mistake.

A value is averaged over queries, then over query languages; so are its bounds. This module knows
ranks and language names, no data set and no model.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from xir_lib.errors import InputError
from xir_lib.metrics.measures import (
    ALL,
    average_precision,
    check_query_table,
    macro_over_languages,
    per_query_frame,
    places,
    random_average_precision,
)
from xir_lib.metrics.ranks import IntArray, RelevantRanks

log = logging.getLogger(__name__)

RANK_DISTANCE = "rank distance"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # of the rank distances of a query language
COMPLETE_AT = (20, 100)
PEER_REFUSAL = (
    "PEER is not computed: it compares groups of ranks, and where a language has one relevant"
    " passage its group holds one rank and the test gives the same p for any ranking (.4405 for 11"
    " languages)"
)
Values = NDArray[np.float64]


def bias_card(
    ranks: RelevantRanks,
    queries: pd.DataFrame,
    languages: Sequence[str],
    *,
    complete_at: Sequence[int] = COMPLETE_AT,
) -> dict[str, Any]:
    """Return every measure of this module with its bounds as one dict of plain, finite numbers,
    ready for JSON.

    Args:
        ranks: from `relevant_ranks`; with `top=k` the card has the language share of the top k.
        queries: the query table of `metrics.score_settings`.
        languages: the name of each language code of the passages.
        complete_at: the cutoffs of `complete_at`.

    `pool` says what the numbers belong to; cards compare only where it is equal. A measure that the
    task does not allow is missing, and `refused` holds its name and the reason.
    """
    sizes = _sizes(ranks, queries, languages)
    k = sizes.versions.sum(axis=1)
    measures: dict[str, Callable[..., dict[str, Any]]] = {
        "rank_distance": _rank_distance_with_bound,
        "max_at_r": max_at_r,
        **{f"complete@{cut}": partial(complete_at_k, k=cut) for cut in complete_at},
        "one_target": one_target_gap,
        "language_share": top_language_share,
        "same_language_preference": same_language_preference,
        "kendall_w": kendall_w,
    }
    card: dict[str, Any] = {
        "pool": {
            "passages": {lang: int(n) for lang, n in zip(languages, ranks.pool_sizes, strict=True)},
            "queries": {
                str(lang): int(n)
                for lang, n in queries["lang"].value_counts(sort=False).sort_index().items()
            },
            "relevant_per_query": {
                str(size): int(n) for size, n in zip(*np.unique(k, return_counts=True), strict=True)
            },
        }
    }
    refused = {"peer": PEER_REFUSAL}
    for name, measure in measures.items():
        try:
            card[name] = measure(ranks, queries, languages)
        except InputError as error:
            refused[name] = str(error)
    return {**card, "refused": refused}


def rank_distance(ranks: RelevantRanks, queries: pd.DataFrame) -> pd.DataFrame:
    """Return per query the highest minus the lowest rank of its relevant passages in the pool of
    all languages.

    The table is that of `metrics.score_settings` (setting `multilingual`, pool `all`, measure `rank
    distance`), so that it takes the same way through `group_sums` and `compare`. Queries that have
    not one relevant passage in each of several languages have no distance and are left out
    (logged). The unit is ranks: it scales with the pool and is ruled by the worst language; compare
    only systems that rank the same pool.
    """
    query_index, rank = ranks.in_all()
    lowest = np.full(ranks.n_queries, np.iinfo(np.int64).max)
    np.minimum.at(lowest, query_index, rank)
    rows = np.flatnonzero(_parallel(ranks, RANK_DISTANCE))
    distance = (_worst_rank(ranks) - lowest)[rows].astype(np.float64)
    return per_query_frame(queries, ranks.n_queries, [(ALL, RANK_DISTANCE, rows, distance)])


def rank_distance_summary(ranks: RelevantRanks, queries: pd.DataFrame) -> dict[str, Any]:
    """Summarise `rank_distance`: mean, median, per_language, quantiles, ideal, random.

    mean (the paper's number) is taken over queries, then over query languages; median over all
    queries; per_language holds the mean per query language, quantiles the `QUANTILES` of each one's
    queries. For k relevant passages in a pool of N the ideal is k - 1 (they are the first k) and a
    random ranking expects (N + 1)(k - 1) / (k + 1), the mean range of k ranks drawn without
    replacement; both are averaged like the mean where k differs between queries.
    """
    distances = rank_distance(ranks, queries)
    by_language = distances["value"].groupby(distances["query_lang"], observed=True, sort=True)
    per_language = by_language.mean()
    several = _parallel(ranks, RANK_DISTANCE, warn=False)
    k, langs = ranks.n_relevant[several], queries["lang"][several]
    return {
        "mean": float(per_language.mean()),
        "median": float(distances["value"].median()),
        "per_language": _by_name(per_language),
        "quantiles": {f"{q:g}": _by_name(by_language.quantile(q)) for q in QUANTILES},
        "ideal": macro_over_languages(k - 1.0, langs),
        "random": macro_over_languages((ranks.pool_sizes.sum() + 1) * (k - 1) / (k + 1), langs),
    }


def max_at_r(
    ranks: RelevantRanks, queries: pd.DataFrame, languages: Sequence[str]
) -> dict[str, Any]:
    """Return how deep one reads until every relevant passage was seen, as 100 (log2 N - log2 max
    rank) / (log2 N - log2 k).

    100 if the k relevant passages are the first k, 0 if one of them is the last of the N. Keys:
    mean, per_language, and the three bounds. Unlike rank distance it does not scale with the pool
    and one lost answer does not drown a thousand found ones, but `random` still depends on N and k
    (1.3 for 11 of 13,014, 5.4 for 2 of 20,534): compare at equal N and k. On a pool that is not
    parallel it measures accuracy alone. Queries whose whole pool is relevant are left out.
    """
    sizes = _sizes(ranks, queries, languages)
    k, n = ranks.n_relevant, int(ranks.pool_sizes.sum())
    asked = k < n
    if not asked.any():
        raise InputError(
            f"all {n} passages are relevant to every query; Max@R needs a pool with others"
        )

    def normalised(log2_rank: Values) -> Values:
        return (100 * (np.log2(n) - log2_rank) / (np.log2(n) - np.log2(np.where(asked, k, 1))))[
            asked
        ]

    return _summary(
        normalised(np.log2(_worst_rank(ranks))),
        queries["lang"][asked],
        ideal=np.full(np.count_nonzero(asked), 100.0),
        random=normalised(_per_size(lambda size: _random_log2_worst_rank(n, size), k)),
        same_language_first=normalised(np.log2(_worst_rank_same_language_first(sizes))),
    )


def complete_at_k(
    ranks: RelevantRanks, queries: pd.DataFrame, languages: Sequence[str], k: int
) -> dict[str, Any]:
    """Return the share of queries all of whose relevant passages are among the first k of the pool
    of all languages.

    Keys: mean, per_language, and the three bounds. It says nothing where a query has more than k
    relevant passages, which `ideal` shows (Complete@10 is 0 on XQuAD-R), and on a pool that is not
    parallel it measures accuracy alone.
    """
    sizes = _sizes(ranks, queries, languages)
    n = int(ranks.pool_sizes.sum())
    if not 1 <= k <= n:
        raise InputError(f"k must be between 1 and the pool's {n} passages, got {k}")
    return _summary(
        _worst_rank(ranks) <= k,
        queries["lang"],
        ideal=ranks.n_relevant <= k,
        random=_per_size(
            lambda size: float(np.prod((k - np.arange(size)).clip(0) / (n - np.arange(size)))),
            ranks.n_relevant,
        ),
        same_language_first=_worst_rank_same_language_first(sizes) <= k,
    )


def one_target(
    ranks: RelevantRanks, queries: pd.DataFrame, languages: Sequence[str]
) -> pd.DataFrame:
    """Return LAReQA's one-target mAP(a, b): queries of language a, only the answer in language b
    kept in the full pool.

    The answers in the other languages are taken out of the pool, all other passages of all
    languages stay. Nothing is ranked again: a passage's new rank is the old one less the removed
    passages above it. The columns are query_lang, doc_lang, queries (how many have an answer in
    doc_lang), mAP, and the bounds ideal (1), random, same_language_first.

    Several relevant passages in b are kept together, so this works on any pool; where the ids of
    the cells differ (MLQA-R), cells differ also by the difficulty of their questions.
    """
    sizes = _sizes(ranks, queries, languages)
    query_index, rank = ranks.in_all()
    cell = query_index * len(languages) + ranks.doc_lang
    target_rank = rank - (places(query_index, rank) - places(cell, rank))
    values = average_precision(cell, target_rank, sizes.versions.size).reshape(
        sizes.versions.shape
    )  # (n_queries, n_langs)
    row, lang = np.nonzero(sizes.versions)
    kept = sizes.versions[row, lang]
    left = ranks.pool_sizes.sum() - sizes.versions.sum(axis=1)[row] + kept
    ahead = np.where(
        sizes.own[row, lang], 0, (sizes.own * (ranks.pool_sizes - sizes.versions)).sum(axis=1)[row]
    )
    columns = {
        "query_lang": pd.Categorical(queries["lang"]).take(row),
        "doc_lang": pd.Categorical.from_codes(lang, pd.Index(languages)),
        "mAP": values[row, lang],
        "ideal": 1.0,
        "random": _per_size(random_average_precision, left, kept),
        "same_language_first": _per_size(_average_precision_after, ahead, kept),
    }
    grouped = pd.DataFrame(columns).groupby(["query_lang", "doc_lang"], observed=True, sort=True)
    means = grouped.mean()
    means.insert(0, "queries", grouped.size())
    return means.reset_index().astype(
        {"query_lang": "str", "doc_lang": "str"}
    )  # as categories they would not compare


def one_target_gap(
    ranks: RelevantRanks, queries: pd.DataFrame, languages: Sequence[str]
) -> dict[str, Any]:
    """Summarise `one_target`: how much better an answer is found if it is in the query's language.

    Keys: mean (the mean of the diagonal cells minus that of the others), diagonal, off_diagonal,
    per_language (the same difference within a query language), cells (query language -> passage
    language -> mAP), and the bounds of mean. 0 without preference; negative is possible. Matching
    within a language is the easier task, and a ranker that finds nothing has a gap of 0 too: read
    it beside `diagonal`.
    """
    table = one_target(ranks, queries, languages)
    own = table["query_lang"] == table["doc_lang"]
    if not own.any() or own.all():
        raise InputError(
            "no answers both in the queries' language and in others; the one-target gap needs a"
            " parallel pool"
        )
    numbers = table.set_index(["query_lang", "doc_lang"])[
        ["mAP", "ideal", "random", "same_language_first"]
    ]
    within, across = numbers[own.to_numpy()], numbers[~own.to_numpy()]
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
    ranks: RelevantRanks, queries: pd.DataFrame, languages: Sequence[str]
) -> dict[str, Any]:
    """Return the share of queries whose own-language passage ranks first among its parallel
    versions.

    Keys: mean (over query languages), per_language, no_preference (what a ranker that ignores
    language expects, the ideal and the random one alike: the mean of 1 / k over the queries' k
    versions, averaged like the mean) and the bounds. Queries without a relevant passage in their
    own language, or with no other one, say nothing and are left out.

    A user may want this preference, so a high value is no fault by itself; and since matching
    within a language is the easier task, a value above no_preference need not come from the
    language as such.
    """
    query_index, rank = ranks.in_all()
    own = np.asarray(languages)[ranks.doc_lang] == queries["lang"].to_numpy()[query_index]
    best = np.full(ranks.n_queries, np.iinfo(np.int64).max)
    best_own = best.copy()
    np.minimum.at(best, query_index, rank)
    np.minimum.at(best_own, query_index[own], rank[own])
    n_own = np.bincount(query_index[own], minlength=ranks.n_queries)
    asked = (n_own > 0) & (n_own < ranks.n_relevant)
    if not asked.any():
        raise InputError(
            "no query has a relevant passage in its own and in another language; this needs a"
            " parallel pool"
        )
    chance = (n_own / ranks.n_relevant)[asked]
    summary = _summary(
        (best == best_own)[asked],
        queries["lang"][asked],
        ideal=chance,
        random=chance,
        same_language_first=np.ones(len(chance)),
    )
    return {**summary, "no_preference": summary["random"]}


def kendall_w(
    ranks: RelevantRanks, queries: pd.DataFrame, languages: Sequence[str]
) -> dict[str, Any]:
    """Return Kendall's W of the order of the languages' answers, per query language, with
    Friedman's chi2 = W m (k - 1).

    Blocks are queries, treatments the languages. W is 1 if all queries of a language order the
    languages alike, and 1 / blocks in expectation if the order is random. **Each query language is
    a test of its own**, and the mean is taken after: pooled over query languages, total
    same-language bias cancels out (W = .0001 on XQuAD-R instead of .25).

    Blocks must be complete. Where ids exist in some languages only (MLQA-R), the queries of a
    language are split by the set of languages that hold their answer; W is averaged over these
    subsets weighted by their blocks, chi2 and the degrees of freedom are added up. Queries that are
    alone in their subset (W = 1 whatever the ranking) or are not parallel are left out and counted.

    Keys: mean, per_language, chi2, df and blocks per language, left_out, ideal, random (both: no
    preference, the subsets over the blocks), same_language_first (for m blocks 3 / (k + 1) + (k -
    2) / ((k + 1) m), since only one answer of the k has a fixed place: any other fixed order of the
    languages gives a larger W, and which one W does not say). No p-value: questions on one article
    rank alike, so the blocks are not independent and p would be far too small.
    """
    sizes = _sizes(ranks, queries, languages)
    query_index, rank = ranks.in_all()
    place = np.zeros(sizes.versions.shape)
    place[query_index, ranks.doc_lang] = places(
        query_index, rank
    )  # 1 to k within the query; 0: no version in the language
    there = sizes.versions > 0
    rows = np.flatnonzero(_parallel(ranks, "Kendall's W"))
    query_lang = pd.Categorical(queries["lang"])
    _, subset = np.unique(
        np.column_stack([query_lang.codes, there])[rows], axis=0, return_inverse=True
    )
    tests = []
    for members in np.split(
        rows[np.argsort(subset, kind="stable")], np.cumsum(np.bincount(subset))[:-1]
    ):
        m, treatments = len(members), np.flatnonzero(there[members[0]])
        if m < 2:
            continue
        k = len(treatments)
        sums = place[np.ix_(members, treatments)].sum(axis=0)
        w = 12 * ((sums - m * (k + 1) / 2) ** 2).sum() / (m**2 * (k**3 - k))
        first = (
            3 / (k + 1) + (k - 2) / ((k + 1) * m)
            if sizes.own[members[0], treatments].any()
            else 1 / m
        )
        tests.append((query_lang[members[0]], m, m * w, m * (k - 1) * w, k - 1, 1.0, m * first))
    if not tests:
        raise InputError(
            "no two queries of a language have answers in the same languages; Kendall's W needs"
            " blocks to compare"
        )
    total = (
        pd.DataFrame(tests, columns=["lang", "blocks", "w", "chi2", "df", "null", "first"])
        .groupby("lang")
        .sum()
    )
    shares = total[["w", "null", "first"]].div(total["blocks"], axis=0)
    null = float(shares["null"].mean())
    return {
        "mean": float(shares["w"].mean()),
        "per_language": _by_name(shares["w"]),
        "chi2": _by_name(total["chi2"]),
        "df": {str(lang): int(value) for lang, value in total["df"].items()},
        "blocks": {str(lang): int(value) for lang, value in total["blocks"].items()},
        "left_out": int(ranks.n_queries - total["blocks"].sum()),
        "ideal": null,
        "random": null,
        "same_language_first": float(shares["first"].mean()),
    }


def language_share(top: ArrayLike, doc_langs: ArrayLike, query_langs: ArrayLike) -> pd.DataFrame:
    """Return the share of each passage language in the top k, per query language.

    `top` is (n_queries, k) rows of `doc_langs` as `retrieval.top_k` gives them; languages are
    names. The columns are query_lang, doc_lang, share, pool_share (what a random ranking expects)
    and uniform (1 / number of languages). Large deviations are a sign of bias only where the
    relevant passages are spread over the languages like the pool.
    """
    rows, docs, asked = np.asarray(top), np.asarray(doc_langs), np.asarray(query_langs)
    names, doc_code = np.unique(docs, return_inverse=True)
    query_names, query_code = np.unique(asked, return_inverse=True)
    flat = query_code[:, None] * len(names) + doc_code[rows]  # (n_queries, k)
    counts = np.bincount(flat.ravel(), minlength=len(query_names) * len(names)).reshape(
        len(query_names), len(names)
    )
    return pd.DataFrame(
        {
            "query_lang": np.repeat(query_names, len(names)),
            "doc_lang": np.tile(names, len(query_names)),
            "share": (counts / counts.sum(axis=1, keepdims=True)).ravel(),
            "pool_share": np.tile(np.bincount(doc_code) / len(docs), len(query_names)),
            "uniform": 1 / len(names),
        }
    )


def top_language_share(
    ranks: RelevantRanks, queries: pd.DataFrame, languages: Sequence[str]
) -> dict[str, Any]:
    """Summarise the languages of each query's first k passages, from `relevant_ranks(..., top=k)`.

    Keys: k; share (query language -> passage language) as `language_share` has it, pool_share and
    uniform beside it; own (share of the query's language) and entropy (of the shares, over log of
    the number of languages: 1 if they are equal, 0 if one language takes all), each with mean,
    per_language and the three bounds. Entropy is taken of a query language's shares, so a ranker
    that gives every query one language, another each time, looks even.

    This works on any pool; it is a sign of bias only as far as it departs from `ideal`, where the
    relevant passages lie.
    """
    sizes = _sizes(ranks, queries, languages)
    if ranks.top_counts is None:
        raise InputError("the ranks hold no top k; give relevant_ranks top=10, for instance")
    if len(languages) < 2:
        raise InputError(f"the pool has one language, {languages[0]!r}; a language share needs two")
    pool = np.broadcast_to(ranks.pool_sizes, sizes.versions.shape)
    k = int(ranks.top_counts[0].sum())
    own, taken = (
        sizes.own,
        np.minimum(k, sizes.own_pool)[:, None],
    )  # (n_queries, n_langs), (n_queries, 1)
    filled = {
        "value": ranks.top_counts,
        "ideal": _ideal_counts(k, sizes.versions, pool),
        "random": k * pool / pool.sum(axis=1, keepdims=True),
        "same_language_first": (
            own * taken + _ideal_counts(k - taken, sizes.versions * ~own, pool * ~own)
        ),
    }
    langs = queries["lang"].to_numpy()
    shares = {
        name: pd.DataFrame(counts / k, columns=list(languages)).groupby(langs).mean()
        for name, counts in filled.items()
    }
    own_share = {
        name: pd.Series({lang: table.loc[lang].get(lang, 0.0) for lang in table.index})
        for name, table in shares.items()
    }
    entropy = {name: _entropy(table) for name, table in shares.items()}
    return {
        "k": k,
        "own": _language_summary(own_share),
        "entropy": _language_summary(entropy),
        "share": {str(lang): _by_name(row) for lang, row in shares["value"].iterrows()},
        "pool_share": dict(
            zip(languages, (ranks.pool_sizes / ranks.pool_sizes.sum()).tolist(), strict=True)
        ),
        "uniform": 1 / len(languages),
    }


class _Sizes(NamedTuple):
    """What the bounds of a query depend on."""

    versions: IntArray  # (n_queries, n_langs) relevant passages per language
    own: NDArray[
        np.bool_
    ]  # (n_queries, n_langs) the query's language; no column where the pool lacks it
    own_pool: IntArray  # (n_queries,) passages in the query's language


def _sizes(ranks: RelevantRanks, queries: pd.DataFrame, languages: Sequence[str]) -> _Sizes:
    n_langs = len(ranks.pool_sizes)
    if len(languages) != n_langs:
        raise InputError(
            f"{len(languages)} language names for {n_langs} pools; name each code once"
        )
    check_query_table(queries, ranks.n_queries)
    own = queries["lang"].to_numpy()[:, None] == np.asarray(languages, dtype=object)
    return _Sizes(_versions(ranks), own, (own * ranks.pool_sizes).sum(axis=1))


def _versions(ranks: RelevantRanks) -> IntArray:
    n_langs = len(ranks.pool_sizes)
    cell = ranks.query_index.astype(np.int64) * n_langs + ranks.doc_lang
    return np.bincount(cell, minlength=ranks.n_queries * n_langs).reshape(ranks.n_queries, n_langs)


def _parallel(ranks: RelevantRanks, what: str, *, warn: bool = True) -> NDArray[np.bool_]:
    """Say which queries have relevant passages in several languages, one in each."""
    parallel = (ranks.n_relevant > 1) & (_versions(ranks).max(axis=1) == 1)
    if not parallel.any():
        raise InputError(
            f"none of the {ranks.n_queries} queries has one relevant passage in each of several"
            f" languages; {what} needs a parallel pool"
        )
    if warn and not parallel.all():
        log.warning(
            "%s leaves out %d queries that have no parallel answers",
            what,
            np.count_nonzero(~parallel),
        )
    return parallel


def _worst_rank(ranks: RelevantRanks) -> IntArray:
    query_index, rank = ranks.in_all()
    worst = np.zeros(ranks.n_queries, dtype=np.int64)
    np.maximum.at(worst, query_index, rank)
    return worst


def _worst_rank_same_language_first(sizes: _Sizes) -> IntArray:
    """Return where the last relevant passage is: behind all of the query's language, unless there
    is none elsewhere.
    """
    elsewhere = (sizes.versions * ~sizes.own).sum(axis=1)
    return np.where(elsewhere > 0, sizes.own_pool + elsewhere, sizes.versions.sum(axis=1))


def _rank_distance_with_bound(
    ranks: RelevantRanks, queries: pd.DataFrame, languages: Sequence[str]
) -> dict[str, Any]:
    summary = rank_distance_summary(ranks, queries)
    sizes, parallel = _sizes(ranks, queries, languages), _parallel(ranks, RANK_DISTANCE, warn=False)
    answered = (sizes.versions * sizes.own).any(
        axis=1
    )  # then the own answer leads; else the k answers are neighbours
    first = np.where(answered, _worst_rank_same_language_first(sizes), ranks.n_relevant) - 1
    return {
        **summary,
        "same_language_first": macro_over_languages(first[parallel], queries["lang"][parallel]),
    }


def _random_log2_worst_rank(n: int, k: int) -> float:
    """Return the expected log2 of the largest of k ranks drawn from 1 to n: P(m) = C(m - 1, k - 1)
    / C(n, k).
    """
    rank = np.arange(n, k - 1, -1)
    falling = np.cumprod(
        np.concatenate([[1.0], (rank[:-1] - k) / (rank[:-1] - 1)])
    )  # P(m) / P(n), P(n) = k / n
    return float(k / n * (falling * np.log2(rank)).sum())


def _average_precision_after(ahead: int, k: int) -> float:
    """Return the average precision of k relevant passages in a row behind `ahead` others."""
    hits = np.arange(1, k + 1)
    return float((hits / (ahead + hits)).mean())


def _ideal_counts(k: ArrayLike, relevant: IntArray, pool: IntArray) -> Values:
    """Return the expected passages per language among the first k, (n_queries, n_langs): the
    relevant ones, then any.
    """
    wanted = np.broadcast_to(k, (len(relevant), 1))
    total = relevant.sum(axis=1, keepdims=True)
    others = pool - relevant
    found = relevant * np.minimum(1, wanted / np.maximum(1, total))
    return found + others * np.maximum(0, wanted - total) / np.maximum(
        1, others.sum(axis=1, keepdims=True)
    )


def _entropy(shares: pd.DataFrame) -> pd.Series:
    p = shares.to_numpy()
    bits = -(p * np.log(np.where(p > 0, p, 1))).sum(axis=1)
    return pd.Series(bits / np.log(p.shape[1]), index=shares.index)


def _per_size(function: Callable[..., float], *sizes: IntArray) -> Values:
    """Call `function` once for each distinct combination of sizes and spread the results, (n,)."""
    shape = tuple(int(size.max()) + 1 for size in sizes)
    distinct, row = np.unique(np.ravel_multi_index(sizes, shape), return_inverse=True)
    combinations = np.column_stack(np.unravel_index(distinct, shape)).tolist()
    return np.array([function(*combination) for combination in combinations], dtype=np.float64)[row]


def _summary(values: ArrayLike, langs: pd.Series, **bounds: ArrayLike) -> dict[str, Any]:
    """Average values and bounds over queries, then over query languages."""
    columns = {"value": values, **bounds}
    table = pd.DataFrame(
        {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}
    )
    means = table.groupby(langs.to_numpy()).mean()
    return _language_summary({name: means[name] for name in columns})


def _language_summary(columns: dict[str, pd.Series]) -> dict[str, Any]:
    """Turn the means per language of value and bounds into mean, per_language and one number per
    bound.
    """
    means = {name: float(column.mean()) for name, column in columns.items()}
    return {"mean": means.pop("value"), "per_language": _by_name(columns["value"]), **means}


def _by_name(values: pd.Series) -> dict[str, float]:
    return {str(name): float(value) for name, value in values.items()}
