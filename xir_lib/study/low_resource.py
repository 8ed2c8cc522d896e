"""Tables that answer the low-resource question: what hybrid batches do to pairs of languages, and
to their robustness.

The question is the project's own: arXiv 2408.10536 stops at monolingual MIRACL tables. Everything
is computed from collected results, as in `tables`; what `robustness` measured is read there, and
results that lack it give empty tables. The line between languages is drawn by XLM-R's pre-training
list, as mE5 and the paper's first encoder descend from XLM-R: a published line and a coarse one,
with Swahili, Telugu and Amharic inside it. Which pairs gain, and what goes with that, is
exploratory. Knows no texts and no model: tokens per word come from the evaluation of `none`, and
are no predictor where it did not count them.
"""

from collections.abc import Iterable
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from xir_lib.errors import InputError
from xir_lib.evaluation.compare import MARGIN, comparison_table
from xir_lib.metrics.pairs import QUANTILE, VALUES
from xir_lib.metrics.significance import EQUIVALENT, benjamini_hochberg, compare
from xir_lib.study.plots import pair_heatmaps
from xir_lib.study.results import Results
from xir_lib.study.tables import HYBRID, PURE, group_sums, label, pair_cells

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENGLISH = "en"
# Passages per MIRACL corpus, v1.0 (Zhang et al. 2023, table 1).
MIRACL_PASSAGES = {
    "yo": 49_043,
    "sw": 131_924,
    "bn": 297_265,
    "hi": 506_264,
    "te": 518_079,
    "th": 542_166,
    "id": 1_446_315,
    "ko": 1_486_752,
    "fi": 1_883_509,
    "ar": 2_061_414,
    "fa": 2_207_172,
    "zh": 4_934_368,
    "ja": 6_953_614,
    "ru": 9_543_918,
    "es": 10_373_953,
    "fr": 14_636_953,
    "de": 15_866_222,
    "en": 32_893_221,
}
# Conneau et al. 2020, arXiv 1911.02116, table 6: 100 entries, of which bn, hi, ta, te, ur, my and
# zh have two each. The CC-100 files on the Hub, made afterwards, hold more languages, Yoruba and
# Zulu for instance. Of Belebele's twelve: af, am, en and xh are in it; bm, ig, nso, sn, st, tn, ts
# and zu are not. Nor is Yoruba.
_CC100 = (
    "af am ar as az be bg bn br bs ca cs cy da de el en eo es et eu fa fi fr fy ga gd gl gu ha he"
    " hi hr hu hy id is it ja jv ka kk km kn ko ku ky la lo lt lv mg mk ml mn mr ms my ne nl no om"
    " or pa pl ps pt ro ru sa sd si sk sl so sq sr su sv sw ta te th tl tr ug uk ur uz vi xh yi zh"
)
XLM_R = frozenset(_CC100.split())
DIRECTIONS = ("English -> X", "X -> English", "X -> Y")
ALL_PAIRS, OUTSIDE = "all pairs", "outside XLM-R's list"
PREDICTORS = ("off-the-shelf mAP", "languages in XLM-R's list", "same script", "tokens per word")
EXACT = 8  # languages up to which all relabellings are tried: 8! = 40,320
RELABELLINGS = 9_999


def language_order(languages: Iterable[str]) -> list[str]:
    """Order languages by the size of their MIRACL corpus, the smallest first; those that MIRACL
    lacks follow by name.
    """
    return sorted(languages, key=lambda lang: (MIRACL_PASSAGES.get(lang, np.inf), lang))


def directions(cells: pd.DataFrame) -> NDArray[np.object_]:
    """Return the direction of each (query_lang, pool): monolingual or one of `DIRECTIONS`; X and Y
    are not English.
    """
    asked, pool = cells["query_lang"].astype(str), cells["pool"].astype(str)
    conditions = [asked == pool, asked == ENGLISH, pool == ENGLISH]
    return np.select(conditions, ["monolingual", *DIRECTIONS[:2]], DIRECTIONS[2]).astype(object)


def keep_cells(results: Results, task: str) -> pd.DataFrame:
    """Return what `robustness.keep_cells` measured, per strategy and rival: the mAPs averaged over
    seeds, then the ratios.

    Columns: strategy, rival, query_lang, pool, alone, among, blind, keep, blind_keep; no row
    without measurements.
    """
    keys = ["strategy", "rival", "query_lang", "pool"]
    rows = [
        {**cell, "strategy": e["strategy"], "rival": e["rival"]}
        for e, found in _measured(results, task)
        for cell in found["cells"]
    ]
    table = pd.DataFrame(rows, columns=[*keys, *VALUES]).astype(dict.fromkeys(VALUES, float))
    cells = table.groupby(keys, sort=False)[VALUES].mean().reset_index()
    return cells.assign(
        keep=cells["among"] / cells["alone"], blind_keep=cells["blind"] / cells["alone"]
    )


def keep_table(results: Results, task: str) -> pd.DataFrame:
    """Return how much of the cross-lingual mAP is left when the other languages' passages join the
    pool.

    One row per strategy and free fix. Columns: keep (mean over the ordered pairs of two languages),
    low, high, p10 (10th percentile over pairs), p10 low, p10 high, outside list (mean over pairs
    with a language outside `XLM_R`, NaN where there is none), worst pair and its keep, then what
    keep must not be read without: mAP alone and among (means over pairs), and blind keep, what a
    ranker blind to language would keep. pairs counts them.

    low and high are the 95 % intervals over groups of `robustness.keep_summary`; with several seeds
    the mean of the seeds' bounds, so they never tell of seeds. The worst pair is the lowest of
    cells averaged over seeds: the lowest of any seed would fall with their number. It has no
    interval, since one that forgets how the pair was chosen lies too low.
    """
    named = {"mean": "", "p10": "p10 "}
    bounds = [
        {"strategy": e["strategy"], "rival": e["rival"]}
        | {
            f"{named[row['statistic']]}{side}": row[side]
            for row in found["summary"]
            if row["statistic"] in named
            for side in ("low", "high")
        }
        for e, found in _measured(results, task)
    ]
    keys, rows = ["strategy", "rival"], []
    cells = keep_cells(results, task)
    for (strategy, rival), part in cells[cells["query_lang"] != cells["pool"]].groupby(
        keys, sort=False
    ):
        worst = part.nsmallest(1, "keep").iloc[0]
        outside = part[~(part["query_lang"].isin(XLM_R) & part["pool"].isin(XLM_R))]
        rows.append(
            {
                "strategy": strategy,
                "rival": rival,
                "keep": part["keep"].mean(),
                "p10": part["keep"].quantile(QUANTILE),
                "outside list": outside["keep"].mean(),
                "worst pair": f"{worst['query_lang']} -> {worst['pool']}",
                "its keep": worst["keep"],
                "mAP alone": part["alone"].mean(),
                "mAP among": part["among"].mean(),
                "blind keep": part["blind_keep"].mean(),
                "pairs": len(part),
            }
        )
    if not rows:
        return pd.DataFrame()
    intervals = pd.DataFrame(bounds).groupby(keys, sort=False).mean().reset_index()
    table = pd.DataFrame(rows).merge(intervals, on=keys)
    first = ["strategy", "rival", "keep", "low", "high", "p10", "p10 low", "p10 high"]
    columns = [*first, *(name for name in rows[0] if name not in first)]
    return table.reindex(columns=columns).rename(columns={"rival": "free fix"})


def direction_table(results: Results, task: str) -> pd.DataFrame:
    """Return the mAP by direction, the mean over pairs: monolingual, English -> X, X -> English and
    X -> Y (X and Y differ).

    One row per pool and strategy. Pool `one language` is that of the answer alone, from
    `tables.pair_cells`; `all languages` is `among` of `robustness`, the pool of all languages less
    the answers in others, where it was measured. Without free fixes. A direction that the task
    lacks is NaN.
    """
    alone = pair_cells(results, task).assign(pool_of="one language")
    kept = keep_cells(results, task).query("rival == 'none' and strategy != 'untrained'")
    among = kept.rename(columns={"among": "value"}).assign(pool_of="all languages")[alone.columns]
    cells = pd.concat([alone, among], ignore_index=True)
    cells["direction"] = directions(cells)
    means = (
        cells.groupby(["pool_of", "strategy", "direction"], observed=True)["value"].mean().unstack()
    )
    rows = [
        (pool, name)
        for pool in ("one language", "all languages")
        for name in _strategies(results)
        if (pool, name) in means.index
    ]
    wide = means.reindex(
        index=pd.MultiIndex.from_tuples(rows), columns=["monolingual", *DIRECTIONS]
    )
    return wide.rename_axis(index=["pool", "strategy"], columns=None).reset_index()


def gains_by_pair(results: Results, task: str, over: str) -> pd.DataFrame:
    """Return what hybrid batches gain over another strategy, or over `none`, for every (query_lang,
    pool).

    Columns: over, query_lang, pool, base (mAP of the other), hybrid and gain = hybrid - base, in
    pools of one language, a = b included. No interval: single pairs are exploratory.
    """
    wide = pair_cells(results, task).pivot(
        index=["query_lang", "pool"], columns="strategy", values="value"
    )
    if missing := [name for name in (HYBRID, over) if name not in wide.columns]:
        raise InputError(
            f"no results of {missing[0]!r} on {task!r}; there are"
            f" {', '.join(map(str, wide.columns))}"
        )
    table = wide.rename(columns={over: "base", HYBRID: "hybrid"})[["base", "hybrid"]].reset_index()
    table.columns.name = None
    table.insert(0, "over", over)
    return table.assign(gain=table["hybrid"] - table["base"])


def pair_predictors(results: Results, task: str) -> pd.DataFrame:
    """Return per pair of two different languages what might go with a gain: query_lang, pool and
    the `PREDICTORS`.

    Off-the-shelf mAP is that of the pair in the pool of one language; of the two languages 0, 1 or
    2 are in `XLM_R`; the script is the likely one of CLDR, and a code that CLDR lacks has a script
    of its own. Tokens per word are the mean of the two languages', a column only where the
    evaluation of `none` counted them and every language has words.
    """
    from babel.core import get_global

    likely = get_global("likely_subtags")
    cells = (
        pair_cells(results, task)
        .query("strategy == 'none'")
        .astype({"query_lang": str, "pool": str})
    )
    cells = cells[cells["query_lang"] != cells["pool"]]
    table = cells[["query_lang", "pool"]].reset_index(drop=True)
    table[PREDICTORS[0]] = cells["value"].to_numpy()
    table[PREDICTORS[1]] = sum(
        table[column].isin(XLM_R).astype(int) for column in ("query_lang", "pool")
    )
    asked, pool = (
        table[column].map(lambda lang: likely.get(lang, f"{lang}_{lang}").split("_")[1])
        for column in ("query_lang", "pool")
    )
    table[PREDICTORS[2]] = (asked == pool).astype(int)
    counted: dict[str, float | None] = next(
        (e.get("tokens_per_word", {}) for e in _plain(results, task)), {}
    )
    tokens = [table[column].map(counted).astype(float) for column in ("query_lang", "pool")]
    if tokens[0].notna().all() and tokens[1].notna().all():
        table[PREDICTORS[3]] = (tokens[0] + tokens[1]) / 2
    return table


def label_permutation(
    outcome: ArrayLike, predictor: ArrayLike, *, seed: int = 0
) -> tuple[float, float]:
    """Return Spearman's rho between two matrices over the same languages, and its p from
    relabelling the languages.

    Both are (n, n), row: language of the query, column: of the pool; the diagonal is left out. The
    pairs are not independent, as each language is in 2 (n - 1) of them, so rows and columns of one
    matrix are permuted *together* (Mantel 1967): all n! orders up to `EXACT` languages, else
    `RELABELLINGS` random ones and the observed. p is the share of orders with a rho at least as
    large in size. A predictor with few values has few different orders: where one language of eight
    differs from the others, p is at least 1/8. Both are NaN where a matrix is constant.
    """
    matrices = [np.asarray(matrix, dtype=np.float64) for matrix in (outcome, predictor)]
    n = len(matrices[0])
    off = ~np.eye(n, dtype=bool)
    if n < 3 or any(matrix.shape != (n, n) or np.isnan(matrix[off]).any() for matrix in matrices):
        raise InputError(
            f"shapes {', '.join(str(m.shape) for m in matrices)}; two full square matrices of 3 or"
            " more are needed"
        )
    x, y = (_standard_ranks(matrix, off) for matrix in matrices)
    if not (x.any() and y.any()):
        return float("nan"), float("nan")
    if n <= EXACT:
        orders = np.array(list(permutations(range(n))))  # the first is the identity
    else:
        rng = np.random.default_rng(seed)
        orders = np.vstack(
            [np.arange(n), rng.permuted(np.tile(np.arange(n), (RELABELLINGS, 1)), axis=1)]
        )
    rho = np.einsum("pij,ij->p", y[orders[:, :, None], orders[:, None, :]], x)
    return float(rho[0]), float(np.mean(np.abs(rho) >= abs(rho[0]) - 1e-9))


def predictor_table(results: Results, task: str) -> pd.DataFrame:
    """Return, per other strategy and predictor, how the hybrid's gain by pair goes with it;
    exploratory.

    Columns: over, predictor, rho, p (`label_permutation`), p_bh (Benjamini-Hochberg over this
    table) and languages, the number of things that are independent. Over `none` the off-the-shelf
    mAP is left out: it is part of the gain, and noise alone makes a negative rho. Over a trained
    strategy that is weaker and not gone, as all start from that encoder. No row for a task of fewer
    than four languages or one that lacks a pair.
    """
    known = pair_predictors(results, task)
    languages = sorted({*known["query_lang"], *known["pool"]})
    if len(languages) < 4 or len(known) < len(languages) * (len(languages) - 1):
        return pd.DataFrame()
    rows = []
    for over in _others(results):
        gain = _matrix(gains_by_pair(results, task, over), "gain", languages)
        for name in known.columns.drop(["query_lang", "pool"]).drop(
            [PREDICTORS[0]] if over == "none" else []
        ):
            rho, p = label_permutation(
                gain, _matrix(known, name, languages), seed=results.study.report_seed
            )
            rows.append({"over": over, "predictor": name, "rho": rho, "p": p})
    table = pd.DataFrame(rows)
    there = table["p"].notna()
    table.loc[there, "p_bh"] = benjamini_hochberg(table.loc[there, "p"])
    return table.assign(languages=len(languages))


def pair_comparisons(results: Results, task: str) -> pd.DataFrame:
    """Compare the hybrid's cross-lingual mAP with the others', by direction and on pairs with a
    language outside `XLM_R`.

    The others are the pure strategies, `none`, and `none` with mean centring where the profile has
    it. Columns: pairs (which), count, b, then those of `tables.comparison_table`; paired, over
    groups and seeds, p unadjusted. The sets of pairs overlap, so the rows are not independent.
    """
    known = pair_predictors(results, task)
    direction, listed = directions(known), known[PREDICTORS[1]]
    chosen = {
        ALL_PAIRS: known,
        **{name: known[direction == name] for name in DIRECTIONS},
        OUTSIDE: known[listed < 2],
    }
    free = [("none", name) for name in results.study.rivals if name == "centring"]
    others = [*((name, "none") for name in _others(results)), *free]
    sums = {key: group_sums(results, task, *key) for key in ((HYBRID, "none"), *others)}
    n, seed = results.study.resamples, results.study.report_seed
    keys: list[dict[str, Any]] = []
    found = []
    for which, pairs in chosen.items():
        if pairs.empty:
            continue
        part = {key: table.merge(pairs[["query_lang", "pool"]]) for key, table in sums.items()}
        for key in others:
            both = part[HYBRID, "none"], part[key]
            found.append(
                compare(*both, setting="cross-lingual", measure="mAP", n_resamples=n, seed=seed)
            )
            keys.append({"pairs": which, "count": len(pairs), "b": label(*key), "measure": "mAP"})
    return comparison_table(keys, found, family=False)


def answers(results: Results, compared: dict[str, pd.DataFrame]) -> list[str]:
    """Return the notebook's answer: per task a sentence on mAP, those without a clear difference
    first, then one on keep.

    `compared` holds the `pair_comparisons` by task. mAP is that of pairs with a language outside
    `XLM_R`, or of all pairs where none or all have one, in pools of one language. A difference is
    clear if its 95 % interval over groups and seeds leaves out 0; p is not looked at. "within" says
    that the difference is shown to be smaller than the margin (`verdict`).
    """
    found = sorted(
        (_gain_sentence(task, table) for task, table in compared.items()), key=lambda item: item[0]
    )
    kept = [
        _keep_sentence(task, table) for task in compared if len(table := keep_table(results, task))
    ]
    none = (
        ["These results hold no keep of pairs: they were collected before it was measured."]
        if not kept
        else []
    )
    return [sentence for _, sentence in found] + kept + none


def _gain_sentence(task: str, table: pd.DataFrame) -> tuple[float, str]:
    """Return the share of clear differences and the sentence, in which the others come first."""
    count = dict(zip(table["pairs"], table["count"], strict=True))
    some = 0 < count.get(OUTSIDE, 0) < count[ALL_PAIRS]
    part = table[table["pairs"] == (OUTSIDE if some else ALL_PAIRS)]
    part = part.assign(clear=(part["low"] > 0) | (part["high"] < 0)).sort_values(
        "clear", kind="stable"
    )
    unlike = ~part["clear"]
    conditions = [unlike & (part["verdict"] == EQUIVALENT), unlike, part["difference"] > 0]
    words = np.select(
        conditions, [f"within {MARGIN} of", "not clearly different from", "above"], "below"
    )
    parts = [
        f"{word} {row.b} ({row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}])"
        for word, row in zip(words, part.itertuples(), strict=True)
    ]
    if some:
        which = f"{count[OUTSIDE]} of {count[ALL_PAIRS]} pairs, those with a language {OUTSIDE}"
    else:
        which = (
            f"all {count[ALL_PAIRS]} pairs, {'each with a' if OUTSIDE in count else 'no'} language"
            f" {OUTSIDE}"
        )
    return float(part["clear"].mean()), f"mAP on {task}, {which}: {HYBRID} is {', '.join(parts)}."


def _keep_sentence(task: str, table: pd.DataFrame) -> str:
    """Say what every strategy keeps, and `none` with the free fix that finds most in the pool of
    all languages.
    """
    plain = table[table["free fix"] == "none"]
    fixed = table[(table["strategy"] == "none") & (table["free fix"] != "none")].nlargest(
        1, "mAP among"
    )
    rows = pd.concat(
        [plain[plain["strategy"] == "none"], fixed, plain[plain["strategy"] != "none"]]
    )
    parts = []
    for _, row in rows.iterrows():
        outside = "" if pd.isna(row["outside list"]) else f"{OUTSIDE} {row['outside list']:.2f}, "
        keep = f"{row['keep']:.2f} [{row['low']:.2f}, {row['high']:.2f}] of {row['mAP alone']:.3f}"
        parts.append(
            f"{label(row['strategy'], row['free fix'])} {keep} ({outside}worst {row['worst pair']}"
            f" {row['its keep']:.2f})"
        )
    told = f"{', '.join(parts)}; blind to language {plain['blind keep'].mean():.2f}"
    return f"Keep on {task}, mean over {table['pairs'].iloc[0]} pairs, of that mAP: {told}."


def keep_figure(results: Results, task: str) -> tuple["Figure", pd.DataFrame]:
    """Draw keep by pair for `none`, the hybrid, and what else finds most among all languages;
    return the cells too.

    The third is chosen by mAP in the pool of all languages, not by keep, which a ranker that finds
    little can have.
    """
    cells, table = keep_cells(results, task), keep_table(results, task)
    shown = [("none", "none"), (HYBRID, "none")]
    others = table[
        [key not in shown for key in zip(table["strategy"], table["free fix"], strict=True)]
    ]
    shown[1:1] = [
        (row["strategy"], row["free fix"]) for _, row in others.nlargest(1, "mAP among").iterrows()
    ]
    parts = [
        cells[(cells["strategy"] == strategy) & (cells["rival"] == rival)].assign(
            strategy=label(strategy, rival)
        )
        for strategy, rival in shown
    ]
    drawn = pd.concat(parts, ignore_index=True)[
        ["strategy", "query_lang", "pool", "keep", "alone", "among", "blind_keep"]
    ]
    figure = pair_heatmaps(
        drawn.rename(columns={"keep": "value"}), language_order(set(drawn["pool"]))
    )
    figure.axes[-1].set_xlabel(
        "keep: share of the mAP left when all languages share the pool"
    )  # the colour bar
    return figure, drawn


def gain_figure(results: Results, task: str) -> tuple["Figure", pd.DataFrame]:
    """Draw the hybrid's gain over each other strategy by pair, in hundredths of mAP; return the
    cells too.

    Colours are the same distance from 0 to either side, and the numbers stand in the cells.
    """
    import matplotlib.pyplot as plt

    others = _others(results)
    table = pd.concat([gains_by_pair(results, task, over) for over in others], ignore_index=True)
    languages = language_order(set(table["pool"]))
    side = max(3.6, 0.33 * len(languages) + 0.6)
    figure, axes = plt.subplots(
        1,
        len(others),
        figsize=(side * len(others), side + 0.7),
        squeeze=False,
        layout="constrained",
    )
    limit = 100 * table["gain"].abs().max()
    for axis, over in zip(axes[0], others, strict=True):
        grid = 100 * _matrix(table[table["over"] == over], "gain", languages)
        image = axis.imshow(grid, cmap="PuOr", vmin=-limit, vmax=limit)
        for (row, column), value in np.ndenumerate(grid):
            if not np.isnan(value):
                style = {
                    "color": "white" if abs(value) > 0.6 * limit else "black",
                    "ha": "center",
                    "va": "center",
                    "fontsize": 7,
                }
                axis.text(column, row, f"{round(value):+d}", in_layout=False, **style)
        axis.set(
            title=f"hybrid minus {over}",
            xlabel="language of the pool",
            xticks=range(len(languages)),
            yticks=range(len(languages)),
        )
        axis.set_xticklabels(languages, fontsize=8)
        axis.set_yticklabels(languages, fontsize=8)
    axes[0, 0].set_ylabel("language of the query")
    figure.colorbar(
        image, ax=axes, label="gain in mAP, hundredths", shrink=0.75, location="bottom", aspect=50
    )
    return figure, table


def _measured(results: Results, task: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the evaluations of a task with their `robustness`; earlier ones lack it, and of one
    language it is refused.
    """
    return [
        (e, e["robustness"])
        for e in results.evaluations
        if e["task"] == task and e.get("robustness", {}).get("cells")
    ]


def _plain(results: Results, task: str) -> list[dict[str, Any]]:
    return [
        e
        for e in results.evaluations
        if e["task"] == task and e["run"] == "none" and e["rival"] == "none"
    ]


def _strategies(results: Results) -> list[str]:
    return ["none", *results.study.strategies]


def _others(results: Results) -> list[str]:
    """Return what the hybrid is held against: the pure strategies that the profile trains, then
    `none`.
    """
    return [*(name for name in PURE if name in results.study.strategies), "none"]


def _standard_ranks(matrix: NDArray[np.float64], off: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return ranks of the entries off the diagonal, centred and of length 1: the sum of products of
    two is Spearman's rho.
    """
    from scipy.stats import rankdata

    ranks = np.zeros(matrix.shape)
    ranks[off] = rankdata(matrix[off])
    ranks[off] -= ranks[off].mean()
    return ranks / (np.linalg.norm(ranks) or 1)


def _matrix(table: pd.DataFrame, column: str, languages: list[str]) -> NDArray[np.float64]:
    """Return (query_lang, pool) values as a matrix; what is missing, the diagonal for one, is
    NaN.
    """
    wide = table.pivot(index="query_lang", columns="pool", values=column)
    return wide.reindex(index=languages, columns=languages).to_numpy(dtype=np.float64)
