"""Per-query measures out of exact ranks, and the macro averages that the paper prints.

The three settings are LAReQA's and the paper's: *monolingual* (the pool of the query's language),
*cross-lingual* (the pool of one other language, every ordered pair) and *multilingual* (one pool of all
languages). A query is scored in a pool only if the pool holds a relevant passage for it.

Per-query values are the primary output. Averages are **macro**: first over the queries of a cell (query language,
pool), then over cells, so that every language or pair weighs the same. Metrics know no data set and no model.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xir_lib.errors import InputError
from xir_lib.retrieval import IntArray, RelevantRanks

SETTINGS = ("monolingual", "cross-lingual", "multilingual")
ALL = "all"  # the pool of all languages
CUTOFFS = (1, 10)
CELL = ["setting", "query_lang", "pool"]
Part = tuple[str, str, IntArray, NDArray[np.floating]]  # pool, measure, rows of the queries scored, their values
QUERY_COLUMNS = ["query_id", "pair_id", "group", "lang"]  # what the measures need of a task's queries


def average_precision(query_index: IntArray, rank: IntArray, n_queries: int) -> NDArray[np.float64]:
    """Return the average precision of the full ranking per query, (n_queries,), NaN for a query that has no rank.

    `rank` lists the 1-based ranks of all relevant passages in the pool, `query_index` whose they are, in any order.
    AP is the mean over the sorted ranks r_1 < r_2 < ... of j / r_j: trec_eval's `map` on a run of full depth.

    >>> average_precision(np.array([0, 0]), np.array([4, 1]), 1).tolist()  # (1/1 + 2/4) / 2
    [0.75]
    """
    order = np.lexsort((rank, query_index))
    query, ranks = query_index[order], rank[order]
    n_relevant = np.bincount(query, minlength=n_queries)
    first = np.cumsum(n_relevant) - n_relevant  # where each query's ranks begin
    hits = np.arange(len(query)) - first[query] + 1
    return _ratio(np.bincount(query, weights=hits / ranks, minlength=n_queries), n_relevant)


def recall_at(query_index: IntArray, rank: IntArray, n_queries: int, k: int) -> NDArray[np.float64]:
    """Return the share of the relevant passages ranked in the first k, (n_queries,), NaN as in `average_precision`.

    trec_eval's `recall_k`. With several relevant passages R@1 cannot reach 1: see `recall_ceilings`.
    """
    n_relevant = np.bincount(query_index, minlength=n_queries)
    return _ratio(np.bincount(query_index[rank <= k], minlength=n_queries), n_relevant)


def score_settings(ranks: RelevantRanks, queries: pd.DataFrame, languages: Sequence[str]) -> pd.DataFrame:
    """Score every query in every pool that holds an answer to it.

    Args:
        ranks: from `relevant_ranks`.
        queries: one row per query in the order of its embeddings, with `query_id`, `pair_id`, `group` and `lang`.
        languages: the name of each language code of the passages.

    Returns:
        One row per (query, pool, measure): query_id, pair_id, group, query_lang, setting, pool (a language or
        `all`), measure (`mAP`, `R@1`, `R@10`), all categorical, and value (float32).
    """
    if len(languages) != len(ranks.pool_sizes):
        raise InputError(f"{len(languages)} language names for {len(ranks.pool_sizes)} pools; name each code once")
    pools = [(lang, ranks.in_pool(code)) for code, lang in enumerate(languages)] + [(ALL, ranks.in_all())]
    parts: list[Part] = []
    for pool, (query_index, rank) in pools:
        scored = np.unique(query_index)
        values = {"mAP": average_precision(query_index, rank, ranks.n_queries)}
        values |= {f"R@{k}": recall_at(query_index, rank, ranks.n_queries, k) for k in CUTOFFS}
        parts += [(pool, measure, scored, value[scored]) for measure, value in values.items()]
    return per_query_frame(queries, ranks.n_queries, parts)


def per_query_frame(queries: pd.DataFrame, n_queries: int, parts: Sequence[Part]) -> pd.DataFrame:
    """Join (pool, measure, query rows, values) to the per-query table that `score_settings` describes."""
    if missing := [column for column in QUERY_COLUMNS if column not in queries]:
        raise InputError(f"the query table lacks {', '.join(missing)}; it has {', '.join(map(str, queries.columns))}")
    if len(queries) != n_queries:
        raise InputError(
            f"{len(queries)} rows in the query table for {n_queries} query embeddings; one row per embedding is needed"
        )
    pools, measures, rows, values = zip(*parts, strict=True)
    lengths = [len(row) for row in rows]
    row = np.concatenate(rows)
    lang = queries["lang"].to_numpy(dtype=object)
    setting = [
        np.full(n, 2) if p == ALL else np.where(lang[r] == p, 0, 1) for p, r, n in zip(pools, rows, lengths, strict=True)
    ]
    columns: dict[str, Any] = {
        "query_id": pd.Categorical(queries["query_id"]).take(row),
        "pair_id": pd.Categorical(queries["pair_id"]).take(row),
        "group": pd.Categorical(queries["group"]).take(row),
        "query_lang": pd.Categorical(queries["lang"]).take(row),
        "setting": pd.Categorical(SETTINGS, categories=SETTINGS).take(np.concatenate(setting)),
        "pool": pd.Categorical(pools, categories=list(dict.fromkeys(pools))).repeat(lengths),
        "measure": pd.Categorical(measures, categories=list(dict.fromkeys(measures))).repeat(lengths),
        "value": np.concatenate(values).astype(np.float32),
    }
    return pd.DataFrame(columns)


def cells(per_query: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over queries per (setting, query_lang, pool, measure): one row of a published table each."""
    values = per_query.assign(value=per_query["value"].astype(np.float64))  # a float32 sum would lose digits
    return values.groupby([*CELL, "measure"], observed=True, sort=True)["value"].mean().reset_index()


def macro(per_query: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return setting -> measure -> mean over the cells of the mean over each cell's queries.

    Cells are the languages (monolingual), the ordered pairs (cross-lingual), the query languages (multilingual).
    """
    means = cells(per_query).groupby(["setting", "measure"], observed=True, sort=True)["value"].mean()
    result: dict[str, dict[str, float]] = {}
    for setting, measure, value in means.reset_index().itertuples(index=False, name=None):
        result.setdefault(str(setting), {})[str(measure)] = float(value)
    return result


def group_sums(per_query: pd.DataFrame) -> pd.DataFrame:
    """Return n and total per (group, setting, query_lang, pool, measure).

    This is all that the macro means, and their bootstrap and randomisation by group, need: see `significance`.
    """
    if per_query["group"].isna().any():
        query = per_query.loc[per_query["group"].isna(), "query_id"].iloc[0]
        raise InputError(f"query {query!r} has no group; resampling by group needs one for every query")
    values = per_query.assign(value=per_query["value"].astype(np.float64))
    grouped = values.groupby(["group", *CELL, "measure"], observed=True, sort=True)["value"]
    return grouped.agg(n="count", total="sum").reset_index()


def recall_ceilings(ranks: RelevantRanks, queries: pd.DataFrame) -> dict[str, float]:
    """Return the highest macro R@k that any ranking can reach in the pool of all languages.

    A query with |R| relevant passages has R@k of at most min(1, k / |R|): .091 and .909 for the 11 of XQuAD-R.
    """
    return {f"R@{k}": macro_over_languages(np.minimum(1, k / ranks.n_relevant), queries["lang"]) for k in CUTOFFS}


def macro_over_languages(values: NDArray[np.floating], query_langs: pd.Series) -> float:
    """Return the mean over query languages of the mean over each language's queries."""
    return float(pd.Series(values).groupby(query_langs.to_numpy()).mean().mean())


def _ratio(total: NDArray[np.floating | np.integer], n: IntArray) -> NDArray[np.float64]:
    return np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0)


def random_average_precision(n: int, k: int) -> float:
    """Return the average precision that a random ranking of `n` passages expects, `k` of them relevant.

    The sum over ranks i of P(relevant at i) / i times the expected relevant ones among the first i, over k:
    (H_n + (k - 1) (n - H_n) / (n - 1)) / n with the harmonic number H_n.

    >>> round(random_average_precision(2, 1), 2)  # (1 + 1/2) / 2
    0.75
    """
    harmonic = float((1 / np.arange(1, n + 1)).sum())
    return (harmonic + (k - 1) * (n - harmonic) / max(1, n - 1)) / n
