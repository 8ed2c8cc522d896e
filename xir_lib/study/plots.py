"""The study's figures: each drawn by one function from one table, and saved beside that table as
CSV.

Colours are Okabe and Ito's, constant across figures, and every series has a marker of its own, so
that a figure reads in grey too. Functions return the figure; they know no files, but for
`save_figure`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from xir_lib.evaluation.compare import save_table
from xir_lib.metrics.measures import SETTINGS
from xir_lib.paths import atomic_path
from xir_lib.repair.kinds import parse_kind
from xir_lib.study.tables import HYBRID, merges

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
_OTHER_MARKERS = "<>PX*dhp"
_TASK_STYLES = (
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
)  # of lines that are tasks
MARKERS = {"none": "D", "x-x-mono": "o", "x-y": "s", "x-x": "v", "hybrid": "^", "untrained": "x"}


def strategies_figure(scores: pd.DataFrame, differences: pd.DataFrame) -> "Figure":
    """Draw, per task, the mAP of each strategy in the three settings, and hybrid minus the others
    with intervals.

    `scores` has task, strategy, rival, setting and value (mAP only); `differences` is
    `tables.against_pure`. A strategy is a band, coloured, with a line of its own for every free
    fix, so that equal values do not hide each other; a stem leads from the plain value to the fixed
    one. The symbol says the fix (`_rival_style`). Merges stand in the multilingual panel alone:
    they change nothing elsewhere.
    """
    import matplotlib.pyplot as plt

    tasks = list(scores["task"].unique())
    names, rivals = (list(dict.fromkeys(scores[column])) for column in ("strategy", "rival"))
    lines = len(names) * (0.14 * len(rivals) + 0.12)  # inches of a panel
    figure, axes = plt.subplots(
        len(tasks),
        4,
        figsize=(12.5, 0.6 + (lines + 1.2) * len(tasks)),
        squeeze=False,
        width_ratios=[1, 1, 1.25, 1.25],
    )
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.06)
    for row, task in zip(axes, tasks, strict=True):
        for axis, setting in zip(row, SETTINGS, strict=False):
            part = scores[(scores["task"] == task) & (scores["setting"] == setting)]
            shown = [rival for rival in rivals if setting == "multilingual" or not merges(rival)]
            _strategy_lines(axis, part.set_index(["strategy", "rival"])["value"], names, shown)
            axis.set_title(f"{task}\n{setting}", fontsize=11)
            axis.set_yticklabels(names if axis is row[0] else [])
        _differences(
            row[3], differences[(differences["task"] == task) & (differences["measure"] == "mAP")]
        )
    handles = [
        plt.Line2D([], [], ls="", color="#333333", **_rival_style(rival, "#333333"))
        for rival in rivals
    ]
    labels = ["no free fix" if rival == "none" else rival for rival in rivals]
    pairs, others = axes[0, 3].get_legend_handles_labels()
    legend = {"frameon": False, "handletextpad": 0.3, "columnspacing": 1.4}
    figure.legend(handles, labels, loc="outside upper left", ncols=min(6, len(labels)), **legend)
    figure.legend(pairs, others, loc="outside upper right", ncols=len(others), **legend)
    return figure


def designs_figure(table: pd.DataFrame, margin: float) -> "Figure":
    """Draw the hybrid minus each pure strategy: a row per profile, task and part of its languages,
    a panel per setting.

    `table` is `designs.effects` or `factors.factors`. The last panel has the free fix on both
    sides. Grey: within the margin.
    """
    import matplotlib.pyplot as plt

    rows = table[["profile", "task", "languages"]].drop_duplicates().reset_index(drop=True)
    shown = table[["setting", "free fix"]].drop_duplicates().itertuples(index=False, name=None)
    panels = sorted(shown, key=lambda panel: (panel[1] != "none", SETTINGS.index(panel[0])))
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(12.5, 1.2 + 0.42 * len(rows)),
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    others = list(dict.fromkeys(table["b"]))
    for axis, (setting, fix) in zip(axes, panels, strict=True):
        axis.axvspan(-margin, margin, color="#ececec", lw=0, zorder=0)
        axis.axvline(0, color="#999999", lw=1, zorder=0)
        for offset, other in enumerate(others):
            chosen = (
                (table["setting"] == setting) & (table["free fix"] == fix) & (table["b"] == other)
            )
            part = rows.merge(table[chosen], how="left")
            colour, marker = _style(other)
            y = [i + 0.26 * (offset - (len(others) - 1) / 2) for i in range(len(rows))]
            errors = [part["difference"] - part["low"], part["high"] - part["difference"]]
            axis.errorbar(
                part["difference"],
                y,
                xerr=errors,
                fmt=marker,
                color=colour,
                ms=5,
                label=f"hybrid minus {other}",
            )
        axis.set_title(setting if fix == "none" else f"{setting}, both with\n{fix}", fontsize=11)
        axis.set(xlabel="difference in mAP", ylim=(len(rows) - 0.5, -0.5), yticks=range(len(rows)))
        axis.locator_params(axis="x", nbins=4)
    whole = rows["languages"] == "all"
    names = rows["task"].where(whole, rows["task"] + ", " + rows["languages"])
    axes[0].set_yticklabels(rows["profile"] + ": " + names)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), frameon=False)
    return figure


def alpha_figure(table: pd.DataFrame, margin: float) -> "Figure":
    """Draw mAP minus that of `x-y` over the share of monolingual batches that were drawn: a panel
    per setting, a line per task.

    `table` is `factors.alphas`. The last panel has the free fix on both sides. Grey: differences
    within the margin.
    """
    import matplotlib.pyplot as plt

    table = table[table["minus"] == "x-y"]
    panels = list(
        table[["setting", "free fix"]].drop_duplicates().itertuples(index=False, name=None)
    )
    panels.sort(key=lambda panel: (panel[1] != "none", SETTINGS.index(panel[0])))
    tasks = list(dict.fromkeys(table["task"]))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(12.5, 3.2), sharex=True, sharey=True, layout="constrained"
    )
    for axis, (setting, fix) in zip(axes, panels, strict=True):
        axis.axhspan(-margin, margin, color="#ececec", lw=0, zorder=0)
        axis.axhline(0, color="#999999", lw=1, zorder=0)
        for number, task in enumerate(tasks):
            chosen = (
                (table["setting"] == setting) & (table["free fix"] == fix) & (table["task"] == task)
            )
            part = table[chosen].sort_values("alpha")
            x = [
                0,
                *(part["share"] + 0.012 * (2 * number - len(tasks) + 1)),
            ]  # apart, so that intervals do not hide each other
            colour, marker = _TASK_STYLES[number % len(_TASK_STYLES)]
            errors = [
                [0, *(part["difference"] - part["low"])],
                [0, *(part["high"] - part["difference"])],
            ]
            style = {"fmt": f"{marker}-", "color": colour, "ms": 5, "lw": 1.2, "capsize": 2}
            axis.errorbar(x, [0, *part["difference"]], yerr=errors, label=task, **style)
        axis.set_title(setting if fix == "none" else f"{setting}, both with\n{fix}", fontsize=11)
        axis.set(
            xlabel="monolingual share",
            xticks=[0, 0.25, 0.5, 0.75, 1],
            xticklabels=["0", ".25", ".5", ".75", "1"],
        )
    axes[0].set_ylabel("mAP minus that of x-y")
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside upper left",
        ncols=len(tasks),
        frameon=False,
    )
    return figure


def _strategy_lines(
    axis: "Axes", values: pd.Series, names: Sequence[str], rivals: Sequence[str]
) -> None:
    """Draw one band per strategy and in it one line per free fix; `values` is indexed by both."""
    for band, name in enumerate(names):
        colour, _ = _style(name)
        if band % 2 == 0:
            axis.axhspan(band - 0.5, band + 0.5, color="#f3f3f3", lw=0, zorder=0)
        for i, rival in enumerate(rivals):
            y = band + 0.8 * ((i + 0.5) / len(rivals) - 0.5)
            plain, value = values[name, "none"], values[name, rival]
            axis.plot([plain, value], [y, y], color=colour, lw=1.2, zorder=1)
            axis.plot(value, y, color=colour, **_rival_style(rival, colour))
    axis.set(xlabel="mAP", ylim=(len(names) - 0.5, -0.5), yticks=range(len(names)))
    axis.tick_params(axis="y", length=0)
    axis.margins(x=0.1)
    axis.locator_params(axis="x", nbins=4)


def _rival_style(rival: str, colour: str) -> dict[str, Any]:
    """Return the symbol of a free fix: the form says the merge, hollow is centring, half filled LIR
    by rank, a cross BM25.
    """
    parts = parse_kind(rival)
    marker = {None: "o", "round-robin": "D", "z-score": "s", "minus-top10": "^"}[parts.merge]
    if parts.lexical:
        marker = "X" if rival == "bm25" else "P"
    half = {"lir-1": "left", "lir-2": "bottom", "lir-3": "top"}.get(parts.shift or "", "right")
    fill = {None: {"mfc": colour}, "centring": {"mfc": "white"}}.get(
        parts.shift, {"fillstyle": half, "mfcalt": "white"}
    )
    return {"marker": marker, "ms": 6 if marker == "D" else 7, "mew": 1.6, **fill}


def _differences(axis: "Axes", table: pd.DataFrame) -> None:
    """Draw one interval per setting and rival strategy around a line at 0."""
    others = list(dict.fromkeys(table["b"]))
    for offset, other in enumerate(others):
        part = table[table["b"] == other].set_index("setting").reindex(SETTINGS)
        colour, marker = _style(other)
        y = [i + 0.28 * (offset - (len(others) - 1) / 2) for i in range(len(SETTINGS))]
        errors = [part["difference"] - part["low"], part["high"] - part["difference"]]
        axis.errorbar(
            part["difference"],
            y,
            xerr=errors,
            fmt=marker,
            color=colour,
            capsize=3,
            label=f"hybrid minus {other}",
        )
    axis.axvline(0, color="#999999", lw=1, zorder=0)
    axis.set(
        xlabel="difference in mAP, 95 % interval",
        ylim=(2.6, -0.6),
        yticks=range(3),
    )
    axis.set_title(f"{table['task'].iloc[0]}\nhybrid minus pure", fontsize=11)
    axis.set_yticklabels(SETTINGS)
    axis.yaxis.tick_right()
    axis.locator_params(axis="x", nbins=5)


def pair_heatmaps(cells: pd.DataFrame, languages: Sequence[str], label: str = "mAP") -> "Figure":
    """Draw a value by query (rows) and passage language (columns): a panel per strategy, four in a
    row; one scale.

    `cells` has strategy, query_lang, pool (the passages' language) and value; `label` names the
    value with its unit. The colours grow lighter with the value, so that they read in grey.
    """
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(cells["strategy"]))
    low, high = cells["value"].min(), cells["value"].max()
    wide = min(4, len(names))
    rows = -(-len(names) // wide)
    figure, axes = plt.subplots(
        rows, wide, figsize=(3.1 * wide, 3.1 * rows + 1), squeeze=False, layout="compressed"
    )
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    for axis, name in zip(axes.flat, names, strict=False):
        grid = cells[cells["strategy"] == name].pivot(
            index="query_lang", columns="pool", values="value"
        )
        image = axis.imshow(
            grid.reindex(index=languages, columns=languages), cmap="viridis", vmin=low, vmax=high
        )
        axis.set(
            title=name,
            xlabel="language of the passages",
            xticks=range(len(languages)),
            yticks=range(len(languages)),
        )
        axis.set_xticklabels(languages, fontsize=8)
        axis.set_yticklabels(languages, fontsize=8)
    for axis in axes[:, 0]:
        axis.set_ylabel("language of the query")
    figure.colorbar(
        image, ax=axes, label=label, shrink=0.75, location="bottom", aspect=50, pad=0.04
    )
    return figure


def language_lines(
    table: pd.DataFrame,
    languages: Sequence[str],
    ylabel: str,
    bounds: dict[str, float],
    log: bool = False,
) -> "Figure":
    """Draw one marker per strategy and query language, with horizontal lines for the trivial
    bounds.

    `table` has strategy, query_lang and value, and perhaps low and high, between which a thin line
    is drawn.
    """
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(table["strategy"]))
    width = max(0.6, 0.12 * len(names))  # inches of a language
    figure, axis = plt.subplots(
        figsize=(max(6.0, width * len(languages) + 2.5), 3.8), layout="constrained"
    )
    for offset, name in enumerate(names):
        own = table[table["strategy"] == name].set_index("query_lang").reindex(languages)
        colour, marker = _style(name, names)
        x = [
            i + min(0.16, 0.8 / len(names)) * (offset - (len(names) - 1) / 2)
            for i in range(len(languages))
        ]
        axis.plot(x, own["value"], marker, color=colour, label=name, ms=6)
        if "low" in own:
            axis.vlines(x, own["low"], own["high"], color=colour, lw=1.2)
    for text, value in bounds.items():
        axis.axhline(value, color="#999999", lw=1, ls="--")
        axis.annotate(
            text,
            (1, value),
            xycoords=("axes fraction", "data"),
            va="center",
            xytext=(4, 0),
            textcoords="offset points",
        )
    axis.set(
        ylabel=ylabel,
        xlabel="language of the query",
        xticks=range(len(languages)),
        yscale="log" if log else "linear",
    )
    axis.set_xticklabels(languages)
    axis.legend(
        frameon=False, ncols=min(4, len(names)), loc="lower center", bbox_to_anchor=(0.5, 1)
    )
    return figure


def mixed_figure(table: pd.DataFrame) -> "Figure":
    """Draw, per model, nDCG@10 and the intruders among the first ten over the foreign share of the
    pool.

    `table` is `mixed_pools.cost_table`. Left: solid in the mixed pool, dotted in its own-language
    passages alone, which are fewer the larger the share; the gap is what foreign passages cost.
    Right: the line of the pool's foreign share is what a ranking at random gives.
    """
    import matplotlib.pyplot as plt

    models, rivals = (list(dict.fromkeys(table[column])) for column in ("model", "rival"))
    figure, axes = plt.subplots(
        len(models),
        2,
        figsize=(9, 0.9 + 2.6 * len(models)),
        squeeze=False,
        sharex=True,
        sharey="col",
        layout="constrained",
    )
    colours = dict(
        zip(
            rivals,
            ["#000000", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00"] * len(rivals),
            strict=False,
        )
    )
    for row, model in zip(axes, models, strict=True):
        for rival in rivals:
            own = table[(table["model"] == model) & (table["rival"] == rival)].sort_values("share")
            style = {"color": colours[rival], "ms": 5, "marker": _rival_style(rival, "")["marker"]}
            row[0].plot(
                own["share"], own["mixed"], label="as it is" if rival == "none" else rival, **style
            )
            row[0].plot(own["share"], own["alone"], ls=":", color=colours[rival])
            row[1].plot(own["share"], own["intruders"], **style)
        pool = (
            table[table["model"] == model].drop_duplicates("share").sort_values("share")
        )  # the same for all rivals
        row[1].plot(
            pool["share"],
            pool["pool share"],
            ls="--",
            color="#999999",
            label="foreign part of the pool",
        )
        row[0].plot([], [], ls=":", color="#777777", label="without the foreign passages")
        row[0].set(title=model, ylabel="nDCG@10")
        row[1].set(title=model, ylabel="foreign part of the first ten")
    for axis in axes[-1]:
        axis.set_xlabel("foreign share of the unjudged passages")
    handles = [handle for axis in axes[0] for handle in axis.get_legend_handles_labels()[0]]
    figure.legend(
        handles,
        [handle.get_label() for handle in handles],
        loc="outside upper left",
        ncols=4,
        frameon=False,
    )
    return figure


def loss_figure(curve: pd.DataFrame) -> "Figure":
    """Draw the training loss over steps (columns step and loss)."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 2.8), layout="constrained")
    axis.plot(curve["step"], curve["loss"], "o-", color=COLOURS["x-x-mono"], ms=4)
    axis.set(xlabel="step", ylabel="InfoNCE loss (nats)", ylim=(0, None))
    return figure


def batch_mix_figure(plan: pd.DataFrame) -> "Figure":
    """Draw the realised mix of batches: for each strategy, the kind of every batch and its share of
    same-language pairs.

    `plan` has strategy, batch, same_share (of the batch's pairs, 0 to 1).
    """
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(plan["strategy"]))
    figure, axis = plt.subplots(figsize=(8, 0.5 * len(names) + 1.1), layout="constrained")
    grid = plan.pivot(index="strategy", columns="batch", values="same_share").reindex(names)
    axis.imshow(grid, aspect="auto", cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
    axis.set(
        xlabel="batch",
        yticks=range(len(names)),
        title="yellow: all pairs in one language; blue: all pairs cross-lingual",
    )
    axis.set_yticklabels([f"{name} ({grid.loc[name].mean():.0%} same-language)" for name in names])
    axis.title.set_fontsize(10)
    return figure


def save_figure(figure: "Figure", table: pd.DataFrame, folder: str | Path, name: str) -> None:
    """Write `NAME.png` and the `NAME.csv` that it is drawn from; an empty `folder` writes
    nothing.
    """
    save_table(table, folder, name)
    if not str(folder):
        return
    with atomic_path(Path(folder) / f"{name}.png") as temporary:
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})


def _style(name: str, among: Sequence[str] = ()) -> tuple[str, str]:
    """Return colour and marker of a strategy. Another alpha or a variant has the colour that its
    name begins with.

    Its marker is one that no other of `among`, the names of the figure, has.
    """
    family = next((key for key in COLOURS if name.startswith(key)), "")
    others = [other for other in among if other != HYBRID and other not in MARKERS]
    if name in others:
        return (
            COLOURS.get(family, "#000000"),
            _OTHER_MARKERS[others.index(name) % len(_OTHER_MARKERS)],
        )
    return COLOURS.get(family, "#000000"), MARKERS.get(family, "o")
