"""Per-query measures out of exact ranks, and their macro and micro averages.

The three settings are LAReQA's and the paper's: *monolingual* (the pool of the query's language),
*cross-lingual* (the pool of one other language, every ordered pair) and *multilingual* (one pool of
all languages). A query is scored in a pool only if the pool holds a relevant passage for it.

Per-query values are the primary output, float64, and trec_eval's on a run of full depth: `map`,
`ndcg_cut`, `recall`, and `recip_rank` of the first k. The paper prints **macro** averages: first
over the queries of a cell (query language, pool), then over cells, so that every language or pair
weighs the same. LAReQA averages over all queries, here called **micro**. The two agree where every
cell has as many queries (XQuAD-R) and differ on MLQA-R. Metrics know no data set and no model.
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

SETTINGS = ("monolingual", "cross-lingual", "multilingual")
ALL = "all"  # the pool of all languages
CUTOFFS = (1, 10)
MEASURES = ("mAP", "R@1", "R@10", "nDCG@10", "MRR@10", "R@100")
DEEPEST = max(int(name.partition("@")[2] or 0) for name in MEASURES)  # the largest of their cutoffs
PRINTED = MEASURES[:3]  # those of the paper's tables
CELL = ["setting", "query_lang", "pool"]
Part = tuple[
    str, str, IntArray, NDArray[np.floating]
]  # pool, measure, rows of the queries scored, their values
QUERY_COLUMNS = [
    "query_id",
    "pair_id",
    "group",
    "lang",
]  # what the measures need of a task's queries


def average_precision(query_index: IntArray, rank: IntArray, n_queries: int) -> NDArray[np.float64]:
    """Return the average precision of the full ranking per query, (n_queries,), NaN for a query
    that has no rank.

    `rank` lists the 1-based ranks of all relevant passages in the pool, `query_index` whose they
    are, in any order. AP is the mean over the sorted ranks r_1 < r_2 < ... of j / r_j: trec_eval's
    `map` on a run of full depth.

    >>> average_precision(np.array([0, 0]), np.array([4, 1]), 1).tolist()  # (1/1 + 2/4) / 2
    [0.75]
    """
    total = np.bincount(query_index, weights=places(query_index, rank) / rank, minlength=n_queries)
    return _ratio(total, np.bincount(query_index, minlength=n_queries))


def recall_at(query_index: IntArray, rank: IntArray, n_queries: int, k: int) -> NDArray[np.float64]:
    """Return the share of the relevant passages ranked in the first k, (n_queries,), NaN as in
    `average_precision`.

    trec_eval's `recall_k`. With several relevant passages R@1 cannot reach 1: see
    `recall_ceilings`.
    """
    n_relevant = np.bincount(query_index, minlength=n_queries)
    return _ratio(np.bincount(query_index[rank <= k], minlength=n_queries), n_relevant)


def reciprocal_rank_at(
    query_index: IntArray, rank: IntArray, n_queries: int, k: int
) -> NDArray[np.float64]:
    """Return 1 / the rank of the first relevant passage, 0 if that is beyond k, (n_queries,), NaN
    as in `average_precision`.

    trec_eval's `recip_rank` on a run of depth k; its mean is MRR@k.
    """
    best = np.full(n_queries, np.inf)
    np.minimum.at(best, query_index, rank)
    return np.where(np.isinf(best), np.nan, np.where(best <= k, 1 / best, 0))


def ndcg_at(
    query_index: IntArray, rank: IntArray, n_queries: int, k: int, gains: IntArray | None = None
) -> NDArray[np.float64]:
    """Return the normalised discounted cumulative gain of the first k, (n_queries,), NaN as in
    `average_precision`.

    trec_eval's `ndcg_cut_k`: the grade itself is the gain (linear, not 2^grade - 1), discounted by
    log2(1 + rank), over the same sum with *all* of the query's relevant passages in the pool in the
    best order. Without `gains` every grade is 1.

    >>> ndcg_at(np.array([0]), np.array([3]), 1, 10).tolist()  # 1 / log2(4)
    [0.5]
    """
    gain = np.ones(len(rank)) if gains is None else gains.astype(np.float64)
    dcg = np.bincount(
        query_index, weights=np.where(rank <= k, gain / np.log2(1.0 + rank), 0), minlength=n_queries
    )
    place = places(query_index, -gain)  # where an ideal ranking has it
    ideal = np.bincount(
        query_index,
        weights=np.where(place <= k, gain / np.log2(1.0 + place), 0),
        minlength=n_queries,
    )
    return _ratio(dcg, ideal)


def measure_values(
    measure: str,
    query_index: IntArray,
    rank: IntArray,
    n_queries: int,
    gains: IntArray | None = None,
) -> NDArray[np.float64]:
    """Return the measure of this name per query: `mAP`, `nDCG@k`, `R@k` or `MRR@k` for any k of at
    least 1.
    """
    if measure == "mAP":
        return average_precision(query_index, rank, n_queries)
    found = re.fullmatch(r"(nDCG|R|MRR)@([1-9][0-9]*)", measure)
    if found is None:
        raise InputError(
            f"unknown measure {measure!r}; use mAP, or nDCG@k, R@k or MRR@k with k = 1, 2, ..."
        )
    k = int(found[2])
    if found[1] == "nDCG":
        return ndcg_at(query_index, rank, n_queries, k, gains)
    return (recall_at if found[1] == "R" else reciprocal_rank_at)(query_index, rank, n_queries, k)


def places(keys: IntArray, values: NDArray[np.number]) -> NDArray[np.int64]:
    """Return each row's 1-based place by ascending value among the rows of the same key (0, 1,
    ...), (n,).

    >>> places(np.array([0, 1, 0]), np.array([7, 2, 3])).tolist()
    [2, 1, 1]
    """
    if (
        np.bincount(keys).max(initial=0) <= 1
    ):  # one relevant passage in the pool, the commonest case
        return np.ones(len(keys), dtype=np.int64)
    order = np.lexsort((values, keys))
    ordered = keys[order]
    place = np.empty(len(keys), dtype=np.int64)
    place[order] = np.arange(len(keys)) - np.searchsorted(ordered, ordered) + 1
    return place


def score_settings(
    ranks: RelevantRanks,
    queries: pd.DataFrame,
    languages: Sequence[str],
    measures: Sequence[str] = PRINTED,
) -> pd.DataFrame:
    """Score every query in every pool that holds an answer to it.

    Args:
        ranks: from `relevant_ranks`.
        queries: one row per query in the order of its embeddings, with `query_id`, `pair_id`,
        `group` and `lang`.
        languages: the name of each language code of the passages.
        measures: names as `measure_values` takes them; `MEASURES` are the study's, the default the
            paper's.

    Returns:
        One row per (query, pool, measure): query_id, pair_id, group, query_lang, setting, pool (a
        language or `all`), measure, all categorical, and value (float64); with `queries`,
        `paragraph` (categorical).
    """
    if len(languages) != len(ranks.pool_sizes):
        raise InputError(
            f"{len(languages)} language names for {len(ranks.pool_sizes)} pools; name each code"
            " once"
        )
    everything = np.ones(len(ranks.doc_lang), dtype=bool)
    pools = [
        (lang, ranks.doc_lang == code, ranks.in_pool(code)) for code, lang in enumerate(languages)
    ]
    parts: list[Part] = []
    for pool, inside, (query_index, rank) in [*pools, (ALL, everything, ranks.in_all())]:
        scored = np.flatnonzero(np.bincount(query_index))
        gains = None if ranks.gains is None else ranks.gains[inside]
        for measure in measures:
            values = measure_values(measure, query_index, rank, ranks.n_queries, gains)
            parts.append((pool, measure, scored, values[scored]))
    return per_query_frame(queries, ranks.n_queries, parts)


def per_query_frame(queries: pd.DataFrame, n_queries: int, parts: Sequence[Part]) -> pd.DataFrame:
    """Join (pool, measure, query rows, values) to the per-query table that `score_settings`
    describes.
    """
    check_query_table(queries, n_queries)
    pools, measures, rows, values = zip(*parts, strict=True)
    lengths = [len(row) for row in rows]
    row = np.concatenate(rows)
    lang = queries["lang"].to_numpy(dtype=object)
    other = {
        pool: (lang != pool).astype(np.int8) if pool != ALL else np.full(n_queries, 2, np.int8)
        for pool in set(pools)
    }
    columns: dict[str, Any] = {
        "query_id": pd.Categorical(queries["query_id"]).take(row),
        "pair_id": pd.Categorical(queries["pair_id"]).take(row),
        "group": pd.Categorical(queries["group"]).take(row),
        "query_lang": pd.Categorical(queries["lang"]).take(row),
        "setting": (
            pd.Categorical(SETTINGS, categories=SETTINGS).take(
                np.concatenate(
                    [other[pool][scored] for pool, scored in zip(pools, rows, strict=True)]
                )
            )
        ),
        "pool": pd.Categorical(pools, categories=list(dict.fromkeys(pools))).repeat(lengths),
        "measure": (
            pd.Categorical(measures, categories=list(dict.fromkeys(measures))).repeat(lengths)
        ),
        "value": np.concatenate(values).astype(np.float64),
    }
    if "paragraph" in queries:
        columns["paragraph"] = pd.Categorical(queries["paragraph"]).take(row)
    return pd.DataFrame(columns)


def stack(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return per-query tables of the same columns as one, categories united; `pandas.concat` would
    make them text.
    """
    return pd.DataFrame(
        {
            name: (
                union_categoricals([table[name] for table in tables])
                if isinstance(tables[0][name].dtype, pd.CategoricalDtype)
                else np.concatenate([table[name] for table in tables])
            )
            for name in tables[0]
        }
    )


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


def cells(per_query: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over queries per (setting, query_lang, pool, measure): one row of a published
    table each.
    """
    sums = _sums(per_query, [*CELL, "measure"])
    return sums.assign(value=sums["total"] / sums["n"]).drop(columns=["n", "total"])


def macro(per_query: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return setting -> measure -> mean over the cells of the mean over each cell's queries.

    Cells are the languages (monolingual), the ordered pairs (cross-lingual), the query languages
    (multilingual).
    """
    return _by_setting(
        cells(per_query).groupby(["setting", "measure"], observed=True, sort=True)["value"].mean()
    )


def micro(per_query: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return setting -> measure -> mean over all queries, whatever their language and pool
    (LAReQA's average).

    In the cross-lingual setting a query counts once per pool that it is scored in.
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
    if per_query["group"].isna().any():
        query = per_query.loc[per_query["group"].isna(), "query_id"].iloc[0]
        raise InputError(
            f"query {query!r} has no group; resampling by group needs one for every query"
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
    names = {
        key: pd.Categorical.from_codes(codes, dtype=column.dtype)
        for key, column, codes in zip(keys, columns, np.unravel_index(found, sizes), strict=True)
    }
    value = per_query["value"].to_numpy(np.float64)
    return pd.DataFrame({**names, "n": np.bincount(row), "total": np.bincount(row, weights=value)})


def recall_ceilings(
    ranks: RelevantRanks, queries: pd.DataFrame, cutoffs: Sequence[int] = CUTOFFS
) -> dict[str, float]:
    """Return the highest macro R@k that any ranking can reach in the pool of all languages.

    A query with |R| relevant passages has R@k of at most min(1, k / |R|): .091 and .909 for the 11
    of XQuAD-R.
    """
    return {
        f"R@{k}": macro_over_languages(np.minimum(1, k / ranks.n_relevant), queries["lang"])
        for k in cutoffs
    }


def macro_over_languages(values: NDArray[np.floating], query_langs: pd.Series) -> float:
    """Return the mean over query languages of the mean over each language's queries."""
    return float(pd.Series(values).groupby(query_langs.to_numpy()).mean().mean())


def _ratio(
    total: NDArray[np.floating | np.integer], n: NDArray[np.floating | np.integer]
) -> NDArray[np.float64]:
    return np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0)


def random_average_precision(n: int, k: int) -> float:
    """Return the average precision that a random ranking of `n` passages expects, `k` of them
    relevant.

    The sum over ranks i of P(relevant at i) / i times the expected relevant ones among the first i,
    over k: (H_n + (k - 1) (n - H_n) / (n - 1)) / n with the harmonic number H_n.

    >>> round(random_average_precision(2, 1), 2)  # (1 + 1/2) / 2
    0.75
    """
    harmonic = float((1 / np.arange(1, n + 1)).sum())
    return (harmonic + (k - 1) * (n - harmonic) / max(1, n - 1)) / n
