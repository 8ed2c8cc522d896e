"""What is left of a ranking when passages of other languages join the pool: for pairs of languages,
and for one corpus.

**Pairs** (`pair_keep`): keep(a, b) is the mAP of queries in a for their answers in b, in the pool
of all languages without the answers in other languages, over the same mAP in the pool of b alone.
The answers of other languages are taken out because each is as good as the one asked for. Two
things make the ratio misread, so two numbers stand beside it: a ranker that finds little has little
to lose (`alone`, the mAP in b's pool), and more passages cost something even where language plays
no part (`blind`, what a ranker that is blind to language and as good within b would have in the
large pool). The measure is the study's own; the masked pool is LAReQA's (one target).

**One corpus** (`mixed_rows`, `mixed_pool`): a pool of fixed size in which a growing share of the
passages that nobody judged is replaced by foreign ones; after arXiv 2408.11942, which counts the
languages of the first ten (`intruders`). Replacing lowers the number of own-language distractors
too, hence the control: the same own-language passages alone, which is the *monolingual* setting of
the same evaluation, while *multilingual* is the mixed pool.

It knows ranks and tables of texts, no data set and no model.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from xir_lib.errors import InputError
from xir_lib.metrics.measures import average_precision, check_query_table, places
from xir_lib.metrics.ranks import RelevantRanks

VALUES = ["alone", "among", "blind"]
QUANTILE = 0.1


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
        queries: the query table of `metrics.score_settings`.
        languages: the name of each language code of the passages.
        apart: the ranks in the pools of one language where other scores give them (`parts.ranks_of`
            of a merged rival).

    Returns one row per query and language that holds an answer to it, the query's own included:
    query_lang, pool (the language of the answer), query_id, pair_id, group, and average precision
    alone (in that language's pool), among (in the pool of all languages less the answers in other
    languages) and blind. For `among` nothing is ranked again: the new rank is the old one less the
    removed passages above it, ties as in `retrieval`. `blind` supposes that the passages ahead of
    an answer in its own language have as many counterparts, by the sizes of the pools, in every
    other: an answer with n passages ahead of n_b that are not relevant gets n N / n_b ahead in the
    large pool. Where the passages are parallel and their vectors do not depend on language, that is
    exact.
    """
    if len(languages) != len(ranks.pool_sizes):
        raise InputError(
            f"{len(languages)} language names for {len(ranks.pool_sizes)} pools; name each code"
            " once"
        )
    check_query_table(queries, ranks.n_queries)
    query, lang = ranks.query_index.astype(np.int64), ranks.doc_lang
    cell = query * len(languages) + lang
    size = ranks.n_queries * len(languages)
    alone = 1 + (ranks if apart is None else apart).outranked_by[np.arange(len(lang)), lang]
    _, rank = ranks.in_all()
    among = rank - (places(query, rank) - places(cell, rank))
    place = places(cell, alone)  # among the query's relevant passages in the language
    distractors = ranks.pool_sizes[lang] - np.bincount(cell, minlength=size)[cell]
    all_distractors = ranks.pool_sizes.sum() - ranks.n_relevant[query]
    blind = place + (alone - place) * all_distractors / np.maximum(1, distractors)
    row, pool = np.divmod(np.unique(cell), len(languages))
    asked = queries.iloc[row].reset_index(drop=True)
    columns = {
        "query_lang": asked["lang"],
        "pool": np.asarray(languages, dtype=object)[pool],
        **{name: asked[name] for name in ("query_id", "pair_id", "group")},
        **{
            name: average_precision(cell, found, size)[np.unique(cell)]
            for name, found in zip(VALUES, (alone, among, blind), strict=True)
        },
    }
    return pd.DataFrame(columns)


def keep_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per ordered pair of languages, a = b included, from a `pair_keep` table.

    Columns: query_lang, pool, queries, the mAPs alone, among and blind, keep = among / alone, and
    blind_keep = blind / alone.
    """
    grouped = table.groupby(["query_lang", "pool"], sort=True)
    cells = grouped[VALUES].mean()
    cells.insert(0, "queries", grouped.size())
    cells["keep"], cells["blind_keep"] = (
        cells["among"] / cells["alone"],
        cells["blind"] / cells["alone"],
    )
    return cells.reset_index()


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
    cells = keep_cells(across)
    groups, names = pd.factorize(across["group"].astype(str), sort=True)
    if len(names) < 2:
        raise InputError(
            f"one group, {names[0]!r}; resampling by group needs at least 2, better 20"
        )
    pair = across.groupby(["query_lang", "pool"], sort=True).ngroup().to_numpy()
    alone, among = np.zeros((2, len(names), len(cells)))  # sums, (groups, pairs)
    np.add.at(alone, (groups, pair), across["alone"])
    np.add.at(among, (groups, pair), across["among"])
    times = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=n_resamples
    )
    below = times @ alone
    draws = np.divide(
        times @ among, below, out=np.full(below.shape, np.nan), where=below > 0
    )  # (resamples, pairs)
    worst = int(cells["keep"].to_numpy().argmin())
    numbers = cells[["keep", "alone", "among", "blind_keep"]]
    found = [
        ("mean", None, None, numbers.mean(), np.nanmean(draws, axis=1)),
        ("p10", None, None, numbers.quantile(QUANTILE), np.nanquantile(draws, QUANTILE, axis=1)),
        (
            "worst",
            cells["query_lang"][worst],
            cells["pool"][worst],
            numbers.iloc[worst],
            draws[:, worst],
        ),
    ]
    rows = []
    for statistic, query_lang, pool, values, resampled in found:
        low, high = np.nanquantile(resampled, [0.025, 0.975])
        keep, *others = values
        rows.append((statistic, query_lang, pool, keep, low, high, *others, len(cells), len(names)))
    columns = [
        "statistic",
        "query_lang",
        "pool",
        "keep",
        "low",
        "high",
        "alone",
        "among",
        "blind_keep",
        "pairs",
        "groups",
    ]
    return pd.DataFrame(rows, columns=columns)
