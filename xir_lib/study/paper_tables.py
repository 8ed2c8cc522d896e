"""Our results in the layout of the paper's result tables, its printed numbers beside ours (arXiv
2408.10536, Tables 1, 3 to 8).

Tables 3 to 6 hold mAP and recall per query language, 7 and 8 the rank distance; the headline
numbers are their mean rows of mAP and rank distance, rounded. The encoders, the training data and
the number of steps differ, so the tables invite a look at the order of the strategies, not at
levels. This module knows no model; it reads what `study.collect` gathered and
`data/published_results.csv`.
"""

import re
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any

import pandas as pd

from xir_lib.metrics.bias import RANK_DISTANCE
from xir_lib.metrics.measures import SETTINGS
from xir_lib.study.results import Results
from xir_lib.study.tables import PAPER_NAMES, PAPER_STRATEGIES, cell_means, published

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

# of Tables 3 to 8; the multilingual recall is R@10, since R@1 cannot pass 1 / languages there
BLOCKS = [
    *((setting, "mAP") for setting in SETTINGS),
    ("monolingual", "R@1"),
    ("cross-lingual", "R@1"),
    ("multilingual", "R@10"),
    ("multilingual", RANK_DISTANCE),
]
HEADLINE = [*((setting, "mAP") for setting in SETTINGS), ("multilingual", RANK_DISTANCE)]
CAVEAT = "other encoders and training data than ours, far more steps"
KEYS = ["setting", "measure", "query_lang"]
MEAN = "mean"


def per_language(results: Results, task: str) -> pd.DataFrame:
    """Return one row per block of the paper's tables and query language, then the mean over query
    languages.

    Columns: setting, measure, query_lang, `ours STRATEGY` for `none` and every trained strategy
    (means over seeds, no free fix), and, if the paper has the task, `XLM-R STRATEGY` and `LaBSE
    STRATEGY` as printed. A cross-lingual row is the mean over the other languages' pools. A number
    that one side lacks is NaN, and so is the paper's mean where the two sides have different
    languages. The printed means are kept as they are (one of them is not the mean of its rows:
    paper.md).
    """
    cells = cell_means(results, task).rename(columns={"strategy": "column"})
    cells["column"] = "ours " + cells["column"].astype(str)
    mine = _wide(cells.astype(dict.fromkeys(KEYS, str)), results.study.strategies)
    theirs = _published(task)
    table = pd.concat([mine, theirs], axis=1)
    languages = {
        side: set(numbers.index.get_level_values("query_lang")) - {MEAN}
        for side, numbers in enumerate((mine, theirs))
    }
    if languages[0] != languages[1]:
        table.loc[table.index.get_level_values("query_lang") == MEAN, theirs.columns] = float("nan")
    order = [
        (*block, lang) for block in BLOCKS for lang in [*sorted(languages[0] | languages[1]), MEAN]
    ]
    return table.reindex(pd.MultiIndex.from_tuples(order, names=KEYS)).reset_index()


def overview(results: Results) -> pd.DataFrame:
    """Return the layout of Table 1: encoder and batches in rows; per task mAP in three settings and
    rank distance.

    These are the mean rows of `per_language`. The table prints three decimals and whole ranks
    (`rounded`). A profile without a task of the paper has no rows.
    """
    columns = {}
    for task in (evaluation.task for evaluation in results.study.evaluations):
        if task not in PAPER_NAMES:
            continue
        table = per_language(results, task)
        means = (
            table[table["query_lang"] == MEAN]
            .set_index(["setting", "measure"])
            .drop(columns="query_lang")
        )
        for setting, measure in HEADLINE:
            columns[f"{task} {setting if measure == 'mAP' else measure}"] = means.loc[
                (setting, measure)
            ]
    if not columns:
        return pd.DataFrame()
    found = pd.DataFrame(columns)
    names = pd.DataFrame(
        [name.split(" ", 1) for name in found.index], columns=["encoder", "batches"]
    )
    names["encoder"] = names["encoder"].replace(
        "ours", f"ours ({re.split('[/:]', results.study.encoder)[-1]})"
    )
    return pd.concat([names, found.reset_index(drop=True)], axis=1)


def two_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Give `overview` a header of two rows, the task above its settings, which is narrower on a
    page.
    """
    pairs = [tuple(name.split(" ", 1)) if " " in name else ("", name) for name in table.columns]
    return table.set_axis(pd.MultiIndex.from_tuples(pairs), axis=1)


def rounded(value: Any) -> str:
    """Write a number as the paper's Table 1 does: three decimals, ranks as whole numbers, halves
    up, nothing for NaN.

    What is infinite, as an effect that so few groups never show, is ∞.

    Halves are those of the decimal number that is printed: the .6475 of Table 4 becomes .648, where
    `format`, which sees the binary number, gives .647, and the .5785 of Table 6 .579, where
    rounding to even gives .578.

    >>> rounded(0.6475), rounded(261.5), rounded(float("nan")), rounded(float("inf"))
    ('0.648', '262', '', '∞')
    """
    if pd.isna(value):
        return ""
    if abs(value) == float("inf"):
        return "∞" if value > 0 else "-∞"
    places = "0.001" if abs(value) < 2 else "1"
    return f"{Decimal(repr(float(value))).quantize(Decimal(places), ROUND_HALF_UP):,}"


def block(table: pd.DataFrame, task: str, setting: str, measure: str) -> "Styler":
    """Show one block of `per_language`: languages in rows, strategies in columns, the best one of
    each encoder in bold.
    """
    part = table[(table["setting"] == setting) & (table["measure"] == measure)].set_index(
        "query_lang"
    )[table.columns[len(KEYS) :]]
    part.columns = pd.MultiIndex.from_tuples(
        [(side, name) for side, name in (str(column).split(" ", 1) for column in part)]
    )
    part.index.name = None
    printed = published()
    printed = printed[
        (printed["dataset"] == PAPER_NAMES.get(task)) & (printed["metric"] == measure)
    ]
    numbers = " and Table ".join(map(str, sorted(printed["table"].unique())))
    beside = f"; Table {numbers} of the paper: {CAVEAT}" if numbers else ""
    style = part.style.format(rounded).set_caption(f"{task}, {setting} {measure}{beside}")
    style.set_table_styles(
        [
            {
                "selector": "caption",
                "props": "text-align: left; font-weight: bold; white-space: nowrap",
            }
        ]
    )
    for side in part.columns.unique(level=0):
        edge = part.columns[part.columns.get_level_values(0) == side][0]
        style.set_table_styles(
            {edge: [{"selector": "", "props": "border-left: 1px solid #999"}]}, overwrite=False
        )
        mark = style.highlight_min if measure == RANK_DISTANCE else style.highlight_max
        mark(subset=[side], axis=1, props="font-weight: bold")
    return style


def _wide(cells: pd.DataFrame, strategies: list[str]) -> pd.DataFrame:
    """Average cells over pools, put strategies into columns, and append the mean over query
    languages.
    """
    means = cells.groupby([*KEYS, "column"])["value"].mean().unstack("column")
    overall = (
        means.groupby(["setting", "measure"])
        .mean()
        .assign(query_lang=MEAN)
        .set_index("query_lang", append=True)
    )
    return pd.concat([means, overall]).reindex(
        columns=[f"ours {name}" for name in ("none", *strategies)]
    )


def _published(task: str) -> pd.DataFrame:
    """Return the printed numbers of a task with our names of settings and strategies; no rows for a
    task of our own.
    """
    printed = published()
    printed = printed[printed["dataset"] == PAPER_NAMES.get(task)].rename(
        columns={"metric": "measure"}
    )
    sides = {
        f"{encoder} {name}": rows.set_index(KEYS)[column]
        for encoder, rows in printed.groupby("encoder", sort=False)
        for name, column in PAPER_STRATEGIES.items()
    }
    empty = pd.MultiIndex.from_tuples([], names=KEYS)
    return pd.DataFrame(sides) if sides else pd.DataFrame(index=empty)
