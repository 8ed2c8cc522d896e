"""Language bias in the pool of all languages, each number beside its trivial bounds.

The measures presume a parallel pool: one relevant passage per language, each as good an answer as the others, so
that differences between their ranks are due to language. On pools with one relevant passage per query, or with several
of one language (MIRACL), they are meaningless. They are also confounded with accuracy: a ranker that finds nothing has
a large rank distance without preferring any language, a perfect one the ideal distance. Rank distance is the
paper's (after Huang et al. 2023); the language share of the top k is that of Wu et al. (arXiv 2408.11942).

This module knows ranks and language names, no data set and no model.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from xir_lib.errors import InputError
from xir_lib.metrics import ALL, macro_over_languages, per_query_frame
from xir_lib.retrieval import RelevantRanks

log = logging.getLogger(__name__)

RANK_DISTANCE = "rank distance"


def rank_distance(ranks: RelevantRanks, queries: pd.DataFrame) -> pd.DataFrame:
    """Return per query the highest minus the lowest rank of its relevant passages in the pool of all languages.

    The table is that of `metrics.score_settings` (setting `multilingual`, pool `all`, measure `rank distance`), so
    that it takes the same way through `group_sums` and `compare`. Queries with one relevant passage have no distance and
    are left out (logged). The unit is ranks: it scales with the pool and is ruled by the worst language; compare only
    systems that rank the same pool.
    """
    query_index, rank = ranks.in_all()
    lowest = np.full(ranks.n_queries, np.iinfo(np.int64).max)
    highest = np.zeros(ranks.n_queries, dtype=np.int64)
    np.minimum.at(lowest, query_index, rank)
    np.maximum.at(highest, query_index, rank)
    rows = np.flatnonzero(_has_several(ranks))
    distance = (highest - lowest)[rows].astype(np.float64)
    return per_query_frame(queries, ranks.n_queries, [(ALL, RANK_DISTANCE, rows, distance)])


def rank_distance_summary(ranks: RelevantRanks, queries: pd.DataFrame) -> dict[str, Any]:
    """Summarise `rank_distance`: mean, median, per_language, ideal, random.

    mean (the paper's number) is taken over queries, then over query languages; median over all queries;
    per_language holds the mean per query language. For k relevant passages in a pool of N the ideal is k - 1 (they are
    the first k) and a random ranking expects (N + 1)(k - 1) / (k + 1), the mean range of k ranks drawn without
    replacement; both are averaged like the mean where k differs between queries.
    """
    distances = rank_distance(ranks, queries)
    value = distances["value"].astype(np.float64)
    per_language = value.groupby(distances["query_lang"], observed=True, sort=True).mean()
    several = _has_several(ranks)
    k, langs = ranks.n_relevant[several], queries["lang"][several]
    return {
        "mean": float(per_language.mean()),
        "median": float(value.median()),
        "per_language": {str(lang): float(mean) for lang, mean in per_language.items()},
        "ideal": macro_over_languages(k - 1.0, langs),
        "random": macro_over_languages((ranks.pool_sizes.sum() + 1) * (k - 1) / (k + 1), langs),
    }


def same_language_preference(ranks: RelevantRanks, queries: pd.DataFrame, languages: Sequence[str]) -> dict[str, Any]:
    """Return the share of queries whose own-language passage ranks first among its parallel versions.

    Keys: mean (over query languages), per_language, no_preference (what a ranker that ignores language expects: the
    mean of 1 / k over the queries' k versions, averaged like the mean) and same_language_first (1, the upper bound).
    Queries without a relevant passage in their own language, or with no other one, say nothing and are left out.

    A user may want this preference, so a high value is no fault by itself; and since matching within a language is the
    easier task, a value above no_preference need not come from the language as such.
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
        raise InputError("no query has a relevant passage in its own and in another language; this needs a parallel pool")
    langs = queries["lang"][asked]
    per_language = pd.Series((best == best_own)[asked]).groupby(langs.to_numpy()).mean()
    return {
        "mean": float(per_language.mean()),
        "per_language": {str(lang): float(share) for lang, share in per_language.items()},
        "no_preference": macro_over_languages((n_own / ranks.n_relevant)[asked], langs),
        "same_language_first": 1.0,
    }


def language_share(top: ArrayLike, doc_langs: ArrayLike, query_langs: ArrayLike) -> pd.DataFrame:
    """Return the share of each passage language in the top k, per query language.

    `top` is (n_queries, k) rows of `doc_langs` as `retrieval.top_k` gives them; languages are names. The columns are
    query_lang, doc_lang, share, pool_share (what a random ranking expects) and uniform (1 / number of languages). Large
    deviations are a sign of bias only where the relevant passages are spread over the languages like the pool.
    """
    rows, docs, asked = np.asarray(top), np.asarray(doc_langs), np.asarray(query_langs)
    names, doc_code = np.unique(docs, return_inverse=True)
    query_names, query_code = np.unique(asked, return_inverse=True)
    flat = query_code[:, None] * len(names) + doc_code[rows]  # (n_queries, k)
    counts = np.bincount(flat.ravel(), minlength=len(query_names) * len(names)).reshape(len(query_names), len(names))
    return pd.DataFrame(
        {
            "query_lang": np.repeat(query_names, len(names)),
            "doc_lang": np.tile(names, len(query_names)),
            "share": (counts / counts.sum(axis=1, keepdims=True)).ravel(),
            "pool_share": np.tile(np.bincount(doc_code) / len(docs), len(query_names)),
            "uniform": 1 / len(names),
        }
    )


def _has_several(ranks: RelevantRanks) -> NDArray[np.bool_]:
    several = ranks.n_relevant > 1
    if not several.any():
        raise InputError(f"each of the {ranks.n_queries} queries has one relevant passage; rank distance needs a parallel pool")
    if not several.all():
        log.warning("rank distance leaves out %d queries that have one relevant passage", np.count_nonzero(~several))
    return several
