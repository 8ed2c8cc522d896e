"""The figures of the bias card (`card`): rank distance by language, and two heatmaps."""

import base64
import io
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BOUNDS = {"ideal": "no bias", "random": "random", "same_language_first": "own language first"}
STYLES = {"none": ("D", "#555555"), "round-robin": ("o", "#0072B2"), "centring": ("s", "#E69F00")}


def figures(card: dict[str, Any]) -> dict[str, "Figure"]:
    """Return the figures by name, `rank distance` and `heatmaps`; fewer where there is nothing to
    show.
    """
    drawn = {}
    if card["parallel"]:
        drawn["rank distance"] = _distances(card)
    if len(card["counts"]["languages"]) > 1:
        drawn["heatmaps"] = _heatmaps(card)
    return drawn


def png(figure: "Figure") -> str:
    """Return the figure as a PNG in base64."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode()


def _distances(card: dict[str, Any]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axis = figure.subplots()
    languages = [row["query language"] for row in card["languages"]]
    places = range(len(languages))
    for (name, result), fix in zip(card["results"].items(), card["fixes"], strict=True):
        marker, colour = STYLES[name]
        values = [result["bias"]["rank_distance"]["per_language"].get(lang) for lang in languages]
        fill = colour if name == "none" else "white"
        label = fix["fix"].split(":")[0]
        axis.plot(places, values, marker, color=colour, mfc=fill, mew=1.6, ms=6, label=label)
    for bound, words in BOUNDS.items():
        value = card["results"]["none"]["bias"]["rank_distance"][bound]
        axis.axhline(value, color="#999999", lw=1, ls="--", zorder=0)
        right = ("axes fraction", "data")
        axis.annotate(words, (1, value), (4, 0), right, "offset points", va="center", fontsize=8)
    axis.set(xlabel="language of the query, worst first", ylabel="rank distance", yscale="log")
    axis.set_xticks(places, languages)
    axis.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), fontsize=9)
    return figure


def _heatmaps(card: dict[str, Any]) -> "Figure":
    from matplotlib.figure import Figure

    queries = sorted(row["query language"] for row in card["languages"])
    pools = card["counts"]["languages"]
    share = card["results"]["none"]["bias"]["language_share"]
    height = 1.6 + 7.0 * max(0.3, len(queries) / len(pools)) / 2
    figure = Figure(figsize=(9, height), layout="constrained")
    left, right = figure.subplots(1, 2)
    _heatmap(left, pd.DataFrame(card["cells"]).T.reindex(index=queries, columns=pools))
    left.set_title("mAP in the pool of one language", fontsize=10)
    left.set_xlabel("language of the pool")
    _heatmap(right, pd.DataFrame(share["share"]).T.reindex(index=queries, columns=pools))
    right.set_title(f"share of the first {share['k']} in the pool of all", fontsize=10)
    right.set_xlabel("language of the passages")
    return figure


def _heatmap(axis: "Axes", grid: pd.DataFrame) -> None:
    image = axis.imshow(grid.to_numpy(float), cmap="viridis", vmin=0, aspect="auto")
    few = len(grid.columns) <= 16
    size = 8 if few else 6.5
    axis.set_ylabel("language of the query")
    axis.set_xticks(
        range(len(grid.columns)), grid.columns, fontsize=size, rotation=0 if few else 90
    )
    axis.set_yticks(range(len(grid)), grid.index, fontsize=size)
    axis.figure.colorbar(image, ax=axis, location="bottom", shrink=0.8, aspect=40)
