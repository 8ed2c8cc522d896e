"""Pairs of languages: queries in a, their answers in b, in the pool of all languages.

Every answer in another language is as good as the one asked for, so it is taken out of the pool;
what is left is LAReQA's *one target* pool. `one_target` gives the mAP there beside its bounds.

`pair_keep` is the study's own measure of robustness: keep(a, b) is that mAP over the mAP in the
pool of b alone, what is left of a ranking when passages of other languages join. Two things make
the ratio misread, so two numbers stand beside it: a ranker that finds little has little to lose
(`alone`, the mAP in b's pool), and more passages cost something even where language plays no part
(`blind`, what a ranker that is blind to language and as good within b would have in the large
pool).

It knows ranks and language names, no data set and no model.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from xir_lib.errors import InputError
from xir_lib.metrics import bounds
from xir_lib.metrics.measures import average_precision, check_tables, one_target_rank, places
from xir_lib.metrics.ranks import RelevantRanks

VALUES = ["alone", "among", "blind"]
QUANTILE = 0.1
SUMMARY = [
    *("statistic", "query_lang", "pool", "keep", "low", "high"),
    *("alone", "among", "blind_keep", "pairs", "groups"),
]


def one_target(
    ranks: RelevantRanks, queries: pd.DataFrame, languages: Sequence[str]
) -> pd.DataFrame:
    """Return LAReQA's one-target mAP(a, b): queries of language a, only the answer in language b
    kept in the full pool.

    The answers in the other languages are taken out of the pool, all other passages of all
    languages stay (`one_target_rank`). The columns are query_lang, doc_lang, queries (how many have
    an answer in doc_lang), mAP, and its bounds: ideal (1), random (of the pool that is left),
    same_language_first (where b is not a, behind the passages in a that are left).

    Several relevant passages in b are kept together, so this works on any pool; where the ids of
    the cells differ (MLQA-R), cells differ also by the difficulty of their questions.
    """
    check_tables(ranks, queries, languages)
    query, rank = ranks.in_all()
    cell = query * len(languages) + ranks.doc_lang
    relevant, own = bounds.relevant_per_language(ranks), bounds.own_language(queries, languages)
    values = average_precision(cell, one_target_rank(query, cell, rank), relevant.size)
    row, lang = np.nonzero(relevant)
    kept = relevant[row, lang]
    left = ranks.pool_sizes.sum() - ranks.n_relevant[row] + kept
    own_others = (own * (ranks.pool_sizes - relevant)).sum(axis=1)
    ahead = np.where(own[row, lang], 0, own_others[row])
    columns = {
        "query_lang": pd.Categorical(queries["lang"]).take(row),
        "doc_lang": pd.Categorical.from_codes(lang, pd.Index(languages)),
        "mAP": values.reshape(relevant.shape)[row, lang],
        "ideal": 1.0,
        "random": bounds.for_each(bounds.random_average_precision, left, kept),
        "same_language_first": bounds.for_each(bounds.average_precision_behind, ahead, kept),
    }
    grouped = pd.DataFrame(columns).groupby(["query_lang", "doc_lang"], observed=True, sort=True)
    means = grouped.mean()
    means.insert(0, "queries", grouped.size())
    names = {"query_lang": "str", "doc_lang": "str"}  # as categories they would not compare
    return means.reset_index().astype(names)


def pair_keep(
    ranks: RelevantRanks,
    queries: pd.DataFrame,
    languages: Sequence[str],
    *,
    apart: RelevantRanks | None = None,
) -> pd.DataFrame:
    """Return the average precision of every query for its answers in each language, alone and among
    the other languages.

    Args:
        ranks: from `relevant_ranks`, of the pool of all languages.
        queries: the query table of `measures.score_settings`.
        languages: the name of each language code of the passages.
        apart: the ranks in the pools of one language where other scores give them (a merged
            repair).

    Returns one row per query and language that holds an answer to it, the query's own included:
    query_lang, pool (the language of the answer), query_id, pair_id, group, and average precision
    alone (in that language's pool), among (in the pool of all languages less the answers in other
    languages) and blind. `blind` supposes that the passages ahead of an answer in its own language
    have as many counterparts, by the sizes of the pools, in every other: an answer with n passages
    ahead of n_b that are not relevant gets n N / n_b ahead in the large pool. Where the passages
    are parallel and their vectors do not depend on language, that is exact.
    """
    check_tables(ranks, queries, languages)
    lang, (query, rank) = ranks.doc_lang, ranks.in_all()
    cell = query.astype(np.int64) * len(languages) + lang
    size = ranks.n_queries * len(languages)

    among = one_target_rank(query, cell, rank)
    alone = 1 + (ranks if apart is None else apart).outranked_by[np.arange(len(lang)), lang]
    place = places(cell, alone)  # among the query's relevant passages in the language
    distractors = ranks.pool_sizes[lang] - np.bincount(cell, minlength=size)[cell]
    all_distractors = ranks.pool_sizes.sum() - ranks.n_relevant[query]
    blind = place + (alone - place) * all_distractors / np.maximum(1, distractors)

    cells = np.unique(cell)
    row, pool = np.divmod(cells, len(languages))
    asked = queries.iloc[row].reset_index(drop=True)
    table = asked[["query_id", "pair_id", "group"]]
    table.insert(0, "query_lang", asked["lang"])
    table.insert(1, "pool", np.asarray(languages, dtype=object)[pool])
    for name, found in zip(VALUES, (alone, among, blind), strict=True):
        table[name] = average_precision(cell, found, size)[cells]
    return table


def keep_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per ordered pair of languages, a = b included, from a `pair_keep` table.

    Columns: query_lang, pool, queries, the mAPs alone, among and blind, keep = among / alone, and
    blind_keep = blind / alone.
    """
    grouped = table.groupby(["query_lang", "pool"], sort=True)
    cells = grouped[VALUES].mean()
    cells.insert(0, "queries", grouped.size())
    keep = cells[["among", "blind"]].div(cells["alone"], axis=0)
    return cells.assign(keep=keep["among"], blind_keep=keep["blind"]).reset_index()


def keep_summary(table: pd.DataFrame, *, n_resamples: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Summarise keep over the pairs of two different languages, with 95 % intervals by resampling
    whole groups.

    Returns three rows: `mean` over the pairs, `p10` (their 10th percentile, interpolated) and
    `worst` pair. Columns: statistic, query_lang and pool (of the worst pair, else None), keep, low,
    high, then alone, among and blind_keep (the mean over pairs, the 10th percentile over pairs, or
    the worst pair's), pairs and groups.

    All rows of a group (an article, a passage) are drawn together, as in `significance`, and mean
    and p10 are taken anew from each resample; a pair none of whose groups is drawn is left out of
    it. The interval of `worst` is that of the pair that was worst in the data: it does not tell of
    how it was chosen, and with many pairs it lies too low. The percentile has less of the same
    fault. The same `seed` and groups give the same draws whatever the system.
    """
    across = table[table["query_lang"].astype(str) != table["pool"].astype(str)]
    if across.empty:
        raise InputError(
            "no query has an answer in another language than its own; keep needs at least two"
            " languages"
        )
    if across["group"].isna().any():
        raise InputError("a query has no group; resampling by group needs one for every query")
    groups, names = pd.factorize(across["group"].astype(str), sort=True)
    if len(names) < 2:
        raise InputError(
            f"one group, {names[0]!r}; resampling by group needs at least 2, better 20"
        )
    cells = keep_cells(across)
    pair = across.groupby(["query_lang", "pool"], sort=True).ngroup().to_numpy()
    alone, among = np.zeros((2, len(names), len(cells)))  # sums, (groups, pairs)
    np.add.at(alone, (groups, pair), across["alone"])
    np.add.at(among, (groups, pair), across["among"])
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=n_resamples)
    below = times @ alone  # (resamples, pairs)
    draws = np.divide(times @ among, below, out=np.full(below.shape, np.nan), where=below > 0)

    numbers = cells[["keep", "alone", "among", "blind_keep"]]
    lowest = int(numbers["keep"].to_numpy().argmin())
    worst = (cells["query_lang"][lowest], cells["pool"][lowest])
    found = [
        ("mean", None, None, numbers.mean(), np.nanmean(draws, axis=1)),
        ("p10", None, None, numbers.quantile(QUANTILE), np.nanquantile(draws, QUANTILE, axis=1)),
        ("worst", *worst, numbers.iloc[lowest], draws[:, lowest]),
    ]
    rows = []
    for statistic, query_lang, pool, (keep, *others), resampled in found:
        low, high = np.nanquantile(resampled, [0.025, 0.975])
        rows.append((statistic, query_lang, pool, keep, low, high, *others, len(cells), len(names)))
    return pd.DataFrame(rows, columns=SUMMARY)
