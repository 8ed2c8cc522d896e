"""The study's figures: each drawn by one function from one table, and saved beside that table as CSV.

Colours are Okabe and Ito's, constant across figures, and every series has a marker of its own, so that a figure
reads in grey too. Functions return the figure; they know no files, but for `save_figure`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from xir_lib.metrics import SETTINGS
from xir_lib.paths import atomic_path
from xir_lib.tables import save_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "none": "#555555",
    "x-x-mono": "#0072B2",
    "x-y": "#E69F00",
    "x-x": "#CC79A7",
    "hybrid": "#009E73",
    "untrained": "#999999",
}
MARKERS = {"none": "D", "x-x-mono": "o", "x-y": "s", "x-x": "v", "hybrid": "^", "untrained": "x"}


def strategies_figure(scores: pd.DataFrame, family: pd.DataFrame) -> "Figure":
    """Draw, per task, the mAP of each strategy in the three settings, and hybrid minus the others with intervals.

    `scores` has task, strategy, rival, setting and value (mAP only); `family` is `report.primary_family`.
    """
    import matplotlib.pyplot as plt

    tasks = list(scores["task"].unique())
    names = list(dict.fromkeys(scores["strategy"]))
    figure, axes = plt.subplots(
        len(tasks), 4, figsize=(12, 0.9 + (0.42 * len(names) + 1.1) * len(tasks)), squeeze=False, width_ratios=[1, 1, 1, 1.35]
    )
    for row, task in zip(axes, tasks, strict=True):
        for axis, setting in zip(row, SETTINGS, strict=False):
            part = scores[(scores["task"] == task) & (scores["setting"] == setting)]
            for rival, filled in (("none", True), ("centring", False)):
                values = part[part["rival"] == rival].set_index("strategy")["value"].reindex(names)
                for y, name in enumerate(names):
                    colour, marker = _style(name)
                    axis.plot(values[name], y, marker, color=colour, mfc=colour if filled else "white", ms=8, mew=1.6)
            axis.set(title=f"{task}\n{setting}", xlabel="mAP", ylim=(len(names) - 0.5, -0.5), yticks=range(len(names)))
            axis.set_yticklabels(names if axis is row[0] else [])
            axis.margins(x=0.12)
        _differences(row[3], family[(family["task"] == task) & (family["measure"] == "mAP")])
    handles = [plt.Line2D([], [], marker="o", ls="", color="#555555", mfc=mfc, ms=8, mew=1.6) for mfc in ("#555555", "white")]
    figure.legend(handles, ["as trained", "with mean centring"], loc="upper left", ncols=2, frameon=False)
    figure.legend(*axes[0, 3].get_legend_handles_labels(), loc="upper right", ncols=2, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.3 / figure.get_figheight()))
    return figure


def _differences(axis: "Axes", table: pd.DataFrame) -> None:
    """Draw one interval per setting and rival strategy around a line at 0."""
    others = list(dict.fromkeys(table["b"]))
    for offset, other in enumerate(others):
        part = table[table["b"] == other].set_index("setting").reindex(SETTINGS)
        colour, marker = _style(other)
        y = [i + 0.28 * (offset - (len(others) - 1) / 2) for i in range(len(SETTINGS))]
        errors = [part["difference"] - part["low"], part["high"] - part["difference"]]
        axis.errorbar(part["difference"], y, xerr=errors, fmt=marker, color=colour, capsize=3, label=f"hybrid minus {other}")
    axis.axvline(0, color="#999999", lw=1, zorder=0)
    axis.set(
        title=f"{table['task'].iloc[0]}: hybrid minus\na pure strategy (95 % interval)",
        xlabel="difference in mAP",
        ylim=(2.6, -0.6),
        yticks=range(3),
    )
    axis.set_yticklabels(SETTINGS)
    axis.yaxis.tick_right()
    axis.locator_params(axis="x", nbins=5)


def pair_heatmaps(cells: pd.DataFrame, languages: Sequence[str]) -> "Figure":
    """Draw mAP by query language (rows) and pool language (columns), one panel per strategy.

    `cells` has strategy, query_lang, pool and value, single-language pools only.
    """
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(cells["strategy"]))
    low, high = cells["value"].min(), cells["value"].max()
    figure, axes = plt.subplots(1, len(names), figsize=(3.6 * len(names), 4.3), squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], names, strict=True):
        grid = cells[cells["strategy"] == name].pivot(index="query_lang", columns="pool", values="value")
        image = axis.imshow(grid.reindex(index=languages, columns=languages), cmap="viridis", vmin=low, vmax=high)
        axis.set(title=name, xlabel="language of the pool", xticks=range(len(languages)), yticks=range(len(languages)))
        axis.set_xticklabels(languages, fontsize=8)
        axis.set_yticklabels(languages, fontsize=8)
    axes[0, 0].set_ylabel("language of the query")
    figure.colorbar(image, ax=axes, label="mAP", shrink=0.75, location="bottom", aspect=50)
    return figure


def language_lines(
    table: pd.DataFrame, languages: Sequence[str], ylabel: str, bounds: dict[str, float], log: bool = False
) -> "Figure":
    """Draw one marker per strategy and query language, with horizontal lines for the trivial bounds.

    `table` has strategy, query_lang and value.
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(max(6.0, 0.6 * len(languages) + 2.5), 3.8), layout="constrained")
    names = list(dict.fromkeys(table["strategy"]))
    for offset, name in enumerate(names):
        values = table[table["strategy"] == name].set_index("query_lang")["value"].reindex(languages)
        colour, marker = _style(name)
        x = [i + 0.14 * (offset - (len(names) - 1) / 2) for i in range(len(languages))]
        axis.plot(x, values, marker, color=colour, label=name, ms=6)
    for text, value in bounds.items():
        axis.axhline(value, color="#999999", lw=1, ls="--")
        axis.annotate(
            text, (1, value), xycoords=("axes fraction", "data"), va="center", xytext=(4, 0), textcoords="offset points"
        )
    axis.set(ylabel=ylabel, xlabel="language of the query", xticks=range(len(languages)), yscale="log" if log else "linear")
    axis.set_xticklabels(languages)
    axis.legend(frameon=False, ncols=len(names), loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


def loss_figure(curve: pd.DataFrame) -> "Figure":
    """Draw the training loss over steps (columns step and loss)."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 2.8), layout="constrained")
    axis.plot(curve["step"], curve["loss"], "o-", color=COLOURS["x-x-mono"], ms=4)
    axis.set(xlabel="step", ylabel="InfoNCE loss (nats)", ylim=(0, None))
    return figure


def batch_mix_figure(plan: pd.DataFrame) -> "Figure":
    """Draw the realised mix of batches: for each strategy, the kind of every batch and its share of same-language pairs.

    `plan` has strategy, batch, same_share (of the batch's pairs, 0 to 1).
    """
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(plan["strategy"]))
    figure, axis = plt.subplots(figsize=(8, 0.5 * len(names) + 1.1), layout="constrained")
    grid = plan.pivot(index="strategy", columns="batch", values="same_share").reindex(names)
    axis.imshow(grid, aspect="auto", cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
    axis.set(xlabel="batch", yticks=range(len(names)), title="yellow: all pairs in one language; blue: all pairs cross-lingual")
    axis.set_yticklabels([f"{name} ({grid.loc[name].mean():.0%} same-language)" for name in names])
    axis.title.set_fontsize(10)
    return figure


def save_figure(figure: "Figure", table: pd.DataFrame, folder: str | Path, name: str) -> None:
    """Write `NAME.png` and the `NAME.csv` that it is drawn from; an empty `folder` writes nothing."""
    save_table(table, folder, name)
    if not str(folder):
        return
    with atomic_path(Path(folder) / f"{name}.png") as temporary:
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})


def _style(name: str) -> tuple[str, str]:
    family = "hybrid" if name.startswith("hybrid") else name
    return COLOURS.get(family, "#000000"), MARKERS.get(family, "o")
