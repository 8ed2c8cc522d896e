"""Per-query measures out of exact ranks, and their macro and micro averages.

The three settings are LAReQA's and the paper's: *monolingual* (the pool of the query's language),
*cross-lingual* (the pool of one other language, every ordered pair) and *multilingual* (one pool of
all languages). A query is scored in a pool only if the pool holds a relevant passage for it.

Per-query values are the primary output, float64, and trec_eval's on a run of full depth. The paper
prints **macro** averages: first over the queries of a cell (query language, pool), then over cells,
so that every language or pair weighs the same. LAReQA averages over all queries, here called
**micro**. The two agree where every cell has as many queries (XQuAD-R) and differ on MLQA-R.
Metrics know no data set and no model.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import union_categoricals

from xir_lib.errors import InputError
from xir_lib.metrics.ranks import IntArray, RelevantRanks

Values = NDArray[np.float64]
SETTINGS = ("monolingual", "cross-lingual", "multilingual")
ALL = "all"  # the pool of all languages
MEASURES = ("mAP", "R@1", "R@10", "nDCG@10", "MRR@10", "R@100")
DEEPEST = max(int(name.partition("@")[2] or 0) for name in MEASURES)  # the largest of their cutoffs
PRINTED = MEASURES[:3]  # those of the paper's tables
CELL = ["setting", "query_lang", "pool"]
QUERY_COLUMNS = ["query_id", "pair_id", "group", "lang"]  # what is needed of a task's queries
# A pool, a measure, the rows of the queries that are scored, and their values.
Part = tuple[str, str, IntArray, NDArray[np.floating]]


# ---- one value per query; `rank` lists the ranks of all relevant passages, `query` whose they are


def average_precision(query: IntArray, rank: IntArray, n_queries: int) -> Values:
    """Return the average precision of the full ranking, (n_queries,), NaN where there is no rank.

    AP is the mean over the sorted ranks r_1 < r_2 < ... of j / r_j: trec_eval's `map`.

    >>> average_precision(np.array([0, 0]), np.array([4, 1]), 1).tolist()  # (1/1 + 2/4) / 2
    [0.75]
    """
    total = np.bincount(query, weights=places(query, rank) / rank, minlength=n_queries)
    return _ratio(total, np.bincount(query, minlength=n_queries))


def recall_at(query: IntArray, rank: IntArray, n_queries: int, k: int) -> Values:
    """Return the share of the relevant passages in the first k, (n_queries,).

    trec_eval's `recall_k`. With several relevant passages R@1 cannot reach 1: `recall_ceilings`.
    """
    found = np.bincount(query[rank <= k], minlength=n_queries)
    return _ratio(found, np.bincount(query, minlength=n_queries))


def reciprocal_rank_at(query: IntArray, rank: IntArray, n_queries: int, k: int) -> Values:
    """Return 1 / the rank of the first relevant passage, 0 if that is beyond k, (n_queries,).

    trec_eval's `recip_rank` on a run of depth k; its mean is MRR@k.
    """
    first = first_rank(query, rank, n_queries)
    return np.where(np.isinf(first), np.nan, (first <= k) / first)


def ndcg_at(
    query: IntArray, rank: IntArray, n_queries: int, k: int, gains: IntArray | None = None
) -> Values:
    """Return the normalised discounted cumulative gain of the first k, (n_queries,).

    trec_eval's `ndcg_cut_k`: the grade itself is the gain (linear, not 2^grade - 1), discounted by
    log2(1 + rank), over the same sum with *all* of the query's relevant passages in the pool in the
    best order. Without `gains` every grade is 1.

    >>> ndcg_at(np.array([0]), np.array([3]), 1, 10).tolist()  # 1 / log2(4)
    [0.5]
    """
    gain = np.ones(len(rank)) if gains is None else gains.astype(np.float64)

    def dcg(at: IntArray) -> NDArray[np.number]:
        discounted = np.where(at <= k, gain / np.log2(1.0 + at), 0)
        return np.bincount(query, weights=discounted, minlength=n_queries)

    return _ratio(dcg(rank), dcg(places(query, -gain)))


def measure_values(
    measure: str, query: IntArray, rank: IntArray, n_queries: int, gains: IntArray | None = None
) -> Values:
    """Return the measure of this name per query: `mAP`, `nDCG@k`, `R@k` or `MRR@k`, k >= 1."""
    if measure == "mAP":
        return average_precision(query, rank, n_queries)
    found = re.fullmatch(r"(nDCG|R|MRR)@([1-9][0-9]*)", measure)
    if found is None:
        raise InputError(
            f"unknown measure {measure!r}; use mAP, or nDCG@k, R@k or MRR@k with k = 1, 2, ..."
        )
    name, k = found[1], int(found[2])
    if name == "nDCG":
        return ndcg_at(query, rank, n_queries, k, gains)
    return (recall_at if name == "R" else reciprocal_rank_at)(query, rank, n_queries, k)


def places(keys: IntArray, values: NDArray[np.number]) -> NDArray[np.int64]:
    """Return each row's 1-based place by ascending value among the rows of the same key, (n,).

    >>> places(np.array([0, 1, 0]), np.array([7, 2, 3])).tolist()
    [2, 1, 1]
    """
    if np.bincount(keys).max(initial=0) <= 1:  # one relevant passage in the pool, the common case
        return np.ones(len(keys), dtype=np.int64)
    order = np.lexsort((values, keys))
    ordered = keys[order]
    place = np.empty(len(keys), dtype=np.int64)
    place[order] = np.arange(len(keys)) - np.searchsorted(ordered, ordered) + 1
    return place


def first_rank(query: IntArray, rank: IntArray, n_queries: int) -> Values:
    """Return the best rank of every query, (n_queries,), infinite where it has none."""
    first = np.full(n_queries, np.inf)
    np.minimum.at(first, query, rank.astype(np.float64))  # unlike types are slow
    return first


def one_target_rank(query: IntArray, cell: IntArray, rank: IntArray) -> IntArray:
    """Return the ranks in a pool without the query's answers in other cells (languages).

    Nothing is ranked again: the new rank is the old one less the removed passages above it.
    """
    return rank - (places(query, rank) - places(cell, rank))


def _ratio(total: NDArray[np.number], n: NDArray[np.number]) -> Values:
    return np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0)


# ---- the table of all values


def score_settings(
    ranks: RelevantRanks,
    queries: pd.DataFrame,
    languages: Sequence[str],
    measures: Sequence[str] = PRINTED,
) -> pd.DataFrame:
    """Score every query in every pool that holds an answer to it.

    Args:
        ranks: from `relevant_ranks`.
        queries: one row per query in the order of its embeddings, with `QUERY_COLUMNS`.
        languages: the name of each language code of the passages.
        measures: names as `measure_values` takes them.

    Returns:
        One row per (query, pool, measure): query_id, pair_id, group, query_lang, setting, pool (a
        language or `all`), measure, all categorical, and value (float64); with `queries`,
        `paragraph` (categorical).
    """
    check_tables(ranks, queries, languages)
    pools = [
        (lang, ranks.doc_lang == code, ranks.in_pool(code)) for code, lang in enumerate(languages)
    ]
    pools.append((ALL, np.ones(len(ranks.doc_lang), dtype=bool), ranks.in_all()))
    parts: list[Part] = []
    for pool, inside, (query, rank) in pools:
        scored = np.flatnonzero(np.bincount(query))
        gains = None if ranks.gains is None else ranks.gains[inside]
        for measure in measures:
            values = measure_values(measure, query, rank, ranks.n_queries, gains)
            parts.append((pool, measure, scored, values[scored]))
    return per_query_frame(queries, ranks.n_queries, parts)


def per_query_frame(queries: pd.DataFrame, n_queries: int, parts: Sequence[Part]) -> pd.DataFrame:
    """Join parts to the per-query table that `score_settings` describes."""
    check_query_table(queries, n_queries)
    pools, measures, rows, values = zip(*parts, strict=True)
    row, lengths = np.concatenate(rows), list(map(len, rows))
    lang = pd.Categorical(queries["lang"])

    def asked(column: str) -> Any:
        return pd.Categorical(queries[column]).take(row)

    def repeated(names: Sequence[Any]) -> Any:
        return pd.Categorical(names, categories=list(dict.fromkeys(names))).repeat(lengths)

    def setting(pool: str, scored: IntArray) -> IntArray:
        if pool == ALL:
            return np.full(len(scored), 2)
        own = lang.categories.get_indexer(pd.Index([pool]))  # -1 where no query is in its language
        return (lang.codes[scored] != own).astype(np.int64)

    settings = np.concatenate([setting(*part) for part in zip(pools, rows, strict=True)])
    columns: dict[str, Any] = {
        **{name: asked(name) for name in ("query_id", "pair_id", "group")},
        "query_lang": lang.take(row),
        "setting": pd.Categorical(SETTINGS, categories=SETTINGS).take(settings),
        "pool": repeated(pools),
        "measure": repeated(measures),
        "value": np.concatenate(values).astype(np.float64),
    }
    if "paragraph" in queries:
        columns["paragraph"] = asked("paragraph")
    return pd.DataFrame(columns)


def stack(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Join tables of the same columns, categories united; `pandas.concat` would make them text."""

    def joined(columns: list[pd.Series]) -> pd.Categorical | NDArray[np.generic]:
        categorical = isinstance(columns[0].dtype, pd.CategoricalDtype)
        return union_categoricals(columns) if categorical else np.concatenate(columns)

    return pd.DataFrame({name: joined([table[name] for table in tables]) for name in tables[0]})


def check_tables(ranks: RelevantRanks, queries: pd.DataFrame, languages: Sequence[str]) -> None:
    """Refuse language names that are not one per pool, and what `check_query_table` refuses."""
    if len(languages) != len(ranks.pool_sizes):
        raise InputError(
            f"{len(languages)} language names for {len(ranks.pool_sizes)} pools; name each code"
            " once"
        )
    check_query_table(queries, ranks.n_queries)


def check_query_table(queries: pd.DataFrame, n_queries: int) -> None:
    """Refuse a query table that lacks a column or has not one row per query."""
    if missing := [column for column in QUERY_COLUMNS if column not in queries]:
        raise InputError(
            f"the query table lacks {', '.join(missing)}; it has"
            f" {', '.join(map(str, queries.columns))}"
        )
    if len(queries) != n_queries:
        raise InputError(
            f"{len(queries)} rows in the query table for {n_queries} query embeddings; one row per"
            " embedding is needed"
        )


# ---- averages


def cells(per_query: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over queries per (setting, query_lang, pool, measure)."""
    sums = _sums(per_query, [*CELL, "measure"])
    return sums.assign(value=sums["total"] / sums["n"]).drop(columns=["n", "total"])


def macro(per_query: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return setting -> measure -> mean over the cells of the mean over each cell's queries.

    Cells are the languages (monolingual), the ordered pairs (cross-lingual), the query languages
    (multilingual).
    """
    by = cells(per_query).groupby(["setting", "measure"], observed=True, sort=True)
    return _by_setting(by["value"].mean())


def micro(per_query: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return setting -> measure -> mean over all queries, whatever their language and pool.

    LAReQA's average. In the cross-lingual setting a query counts once per pool it is scored in.
    """
    sums = _sums(per_query, ["setting", "measure"]).set_index(["setting", "measure"])
    return _by_setting(sums["total"] / sums["n"])


def _by_setting(means: pd.Series) -> dict[str, dict[str, float]]:
    result: dict[str, dict[str, float]] = {}
    for setting, measure, value in means.reset_index().itertuples(index=False, name=None):
        result.setdefault(str(setting), {})[str(measure)] = float(value)
    return result


def group_sums(per_query: pd.DataFrame) -> pd.DataFrame:
    """Return n and total per (group, setting, query_lang, pool, measure).

    This is all that the macro means, and their bootstrap and randomisation by group, need: see
    `significance`.
    """
    without = per_query["group"].isna()
    if without.any():
        raise InputError(
            f"query {per_query.loc[without, 'query_id'].iloc[0]!r} has no group; resampling by"
            " group needs one for every query"
        )
    return _sums(per_query, ["group", *CELL, "measure"])


def _sums(per_query: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Return n and total of the values per combination of keys that occurs, in the order of their
    categories.

    What pandas' `groupby(keys).agg(n="count", total="sum")` gives, in less time on a million rows.
    Summed in float64, which older files do not hold.
    """
    columns = [pd.Categorical(per_query[key]) for key in keys]
    sizes = [len(column.categories) for column in columns]
    combined = np.ravel_multi_index([column.codes.astype(np.int64) for column in columns], sizes)
    row, found = pd.factorize(combined, sort=True)
    codes = np.unravel_index(found, sizes)
    names = {
        key: pd.Categorical.from_codes(code, dtype=column.dtype)
        for key, column, code in zip(keys, columns, codes, strict=True)
    }
    value = per_query["value"].to_numpy(np.float64)
    return pd.DataFrame({**names, "n": np.bincount(row), "total": np.bincount(row, weights=value)})


def macro_over_languages(values: NDArray[np.floating], query_langs: pd.Series) -> float:
    """Return the mean over query languages of the mean over each language's queries."""
    return float(pd.Series(values).groupby(query_langs.to_numpy()).mean().mean())


def recall_ceilings(
    ranks: RelevantRanks, queries: pd.DataFrame, cutoffs: Sequence[int] = (1, 10)
) -> dict[str, float]:
    """Return the highest macro R@k that any ranking can reach in the pool of all languages.

    A query with |R| relevant passages has R@k of at most min(1, k / |R|): .091 and .909 for the 11
    of XQuAD-R.
    """
    return {
        f"R@{k}": macro_over_languages(np.minimum(1, k / ranks.n_relevant), queries["lang"])
        for k in cutoffs
    }
