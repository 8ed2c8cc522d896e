"""One page on a model's language bias, for whoever uses the model: `xir bias`.

The numbers are those of `evaluation.evaluate` (section 3 of arXiv 2408.10536 and `bias.bias_card`),
each beside what an unbiased, a random and a totally biased ranking give; the sentences are computed
from them. Beside the model as it is stand two fixes that need no training and no other text:
merging the rankings of the single languages by turns, and centring with means from the task's other
groups. The page knows no training and no interval: for differences with intervals run `xir compare`
on the folder, which is an output of `xir evaluate` too.
"""

import base64
import html
import importlib.util
import io
import shlex
import tempfile
from collections.abc import Container, Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import pandas as pd

from xir_lib.data.records import RetrievalTask
from xir_lib.encoders.encoder import Encoder
from xir_lib.encoders.precision import Asked
from xir_lib.errors import InputError
from xir_lib.evaluation import evaluate as evaluation
from xir_lib.evaluation.plan import plan_repairs
from xir_lib.evaluation.systems import repaired
from xir_lib.metrics import measures as metrics
from xir_lib.paths import atomic_path
from xir_lib.record import write_json
from xir_lib.repair.repair import Repair

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILES = ("card.html", "card.md", "card.json")
BOUNDS = {"ideal": "no bias", "random": "random", "same_language_first": "own language first"}
FIXES = {  # rival: what it is, in the card's words, and what to know of it
    "none": ("as it is", ""),
    "round-robin": (
        "round robin: rank each language by itself, take turns",
        (
            "It leaves pools of one language as they are. One answer per language favours it: where"
            " answers are spread unequally over the languages, expect less."
        ),
    ),
    "centring": (
        "centring: subtract each language's mean vector",
        (
            "The means are from the other groups of this task; for an index of your own take them"
            " from its passages."
        ),
    ),
}
MEASURES = {  # key of the bias card: name, what it says and when it means nothing
    "rank_distance": (
        "rank distance",
        (
            "Ranks from the best to the worst placed of a question's parallel answers. Grows with"
            " the pool and hangs on the worst language: compare models on the same pool only."
        ),
    ),
    "max_at_r": (
        "Max@R",
        (
            "How deep one reads until every answer was seen: 100 at once, 0 to the very end."
            " Comparable at equal numbers of passages and answers only."
        ),
    ),
    "complete@20": (
        "Complete@20",
        (
            "Share of questions with all answers in the first 20. Says nothing where the unbiased"
            " value is 0."
        ),
    ),
    "complete@100": ("Complete@100", "The same in the first 100."),
    "one_target": (
        "one-target gap",
        (
            "mAP of an answer in the query's language minus that of one in another, each alone in"
            " the pool. Matching within a language is easier, bias or not; a model that finds"
            " nothing has no gap either."
        ),
    ),
    "own": (
        "own language in the top",
        (
            "Share of the query's language among the first passages. A bias only as far as it"
            " departs from the unbiased value."
        ),
    ),
    "entropy": (
        "evenness of the top",
        (
            "1 if the languages are equally frequent among the first passages, 0 if one takes all."
            " A model that gives each query one language, another each time, looks even."
        ),
    ),
    "same_language_preference": (
        "own answer first",
        (
            "Share of questions whose answer in the query's language ranks before its translations."
            " Users may want that."
        ),
    ),
    "kendall_w": (
        "Kendall's W",
        (
            "1 if all queries of a language order the answers' languages alike, whatever the order;"
            " near 0 if by chance. Few questions raise it."
        ),
    ),
}
NOT_PARALLEL = (
    "This task is not parallel (no query has one answer in each of several languages): rank"
    " distance, own answer first and Kendall's W mean nothing here, and Max@R, Complete@k and the"
    " one-target gap measure accuracy alone; they are left out."
)
NEED_PARALLEL = (
    "rank_distance",
    "max_at_r",
    "complete@20",
    "complete@100",
    "one_target",
    "same_language_preference",
    "kendall_w",
)
Table = tuple[list[str], list[list[str]]]  # header, rows


def write_card(
    model: str,
    task: RetrievalTask,
    out: Path,
    *,
    cache: Path | None = None,
    precision: Asked = "auto",
) -> dict[str, Any]:
    """Evaluate `model` on `task` as it is and with the free fixes, and write the card to the folder
    `out`.

    `card.html` is one file without scripts that opens without a network; `card.md` has the same
    words and tables, `card.json` every number. Beside them lie the files of `evaluation.evaluate`,
    a fix's in a folder of its own. The card's files are written last, whole or not at all. Returns
    what `card.json` holds.

    Raises:
        InputError: `out` is a file, matplotlib is missing, the model cannot be opened or gives a
        vector without direction.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; --out names a folder")
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("the card's figures need matplotlib; pip install 'xir-lib[study]'")
    repairs, left_out = _plan(task)
    with (
        tempfile.TemporaryDirectory() as scratch
    ):  # without a cache every fix would encode the texts again
        encoder = Encoder(model, cache=cache or Path(scratch), precision=precision)
        for name in FILES:
            (out / name).unlink(
                missing_ok=True
            )  # so that a break never leaves an old card beside new numbers
        systems = repaired(encoder, task, repairs)
        evaluation.remove_stale(out, systems)
        results = {}
        for folder, system in systems.items():
            result = evaluation.evaluate(system, out / folder)
            results[result["config"]["repair"]] = result
    cells = metrics.cells(pd.read_parquet(out / "per_query.parquet"))
    card = make_card(model, results, cells[cells["measure"] == "mAP"], left_out)
    page = _html(
        card, {name: _png(figure) for name, figure in figures(card).items()}
    )  # all is made before a file is
    write_json(out / "card.json", card)
    for name, text in (("card.md", _markdown(card)), ("card.html", page)):
        with atomic_path(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return card


def make_card(
    model: str,
    results: dict[str, dict[str, Any]],
    cells: pd.DataFrame,
    left_out: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the card as JSON values.

    Args:
        model: its name.
        results: what `evaluation.evaluate` returned for the rival `none` and for each fix.
        cells: the mAP rows of `metrics.cells` for the rival `none`.
        left_out: sentences on fixes that could not be made.

    Keys: model, task, counts, parallel, findings and advice (sentences), measures, languages (worst
    first), fixes, cells (query language -> pool -> mAP in pools of one language), and results.
    """
    plain = results["none"]
    parallel = "rank_distance" in plain["bias"]
    measures = _measures(plain["bias"], parallel)
    languages = _languages(plain, cells)
    fixes = [
        {
            "fix": FIXES[rival][0],
            **{
                f"{name} mAP": result["settings"].get(name, {}).get("mAP")
                for name in ("multilingual", "monolingual")
            },
            "rank distance": result["bias"].get("rank_distance", {}).get("mean"),
            "note": FIXES[rival][1],
        }
        for rival, result in results.items()
    ]
    single = cells[cells["pool"] != metrics.ALL].astype({"query_lang": "str", "pool": "str"})
    grid = single.pivot(index="query_lang", columns="pool", values="value")
    return {
        "model": model,
        "task": plain["task"],
        "counts": plain["counts"],
        "parallel": parallel,
        "findings": _findings(plain, languages, parallel),
        "advice": [*_advice(plain, fixes), *left_out],
        "repair": (
            f"xir train --encoder {shlex.quote(model.removeprefix('untrained:'))} --pairs"
            " my_pairs.jsonl --out fixed"
        ),
        "measures": measures,
        "languages": languages,
        "fixes": fixes,
        "cells": {lang: row.dropna().to_dict() for lang, row in grid.iterrows()},
        "results": results,
    }


def figures(card: dict[str, Any]) -> dict[str, "Figure"]:
    """Return the card's figures: rank distance per query language, and the heatmaps; fewer where
    there is nothing to show.
    """
    found = {}
    if card["parallel"]:
        found["rank distance"] = _distance_figure(
            card["results"], [row["query language"] for row in card["languages"]]
        )
    if len(card["counts"]["languages"]) > 1:
        found["heatmaps"] = _heatmaps(card)
    return found


def _plan(task: RetrievalTask) -> tuple[list[Repair], list[str]]:
    """Return the repairs that this task allows, and a sentence on each that it does not."""
    if len(task.languages) < 2:
        return [], []
    repairs = plan_repairs(task, ["round-robin"])
    try:
        return [*repairs, *plan_repairs(task, ["centring"], ["cross-fit"])], []
    except InputError as error:
        return repairs, [f"Centring is left out: {error}."]


def _entries(bias_card: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the measures that have a mean and bounds by their keys in `MEASURES`."""
    share = bias_card.get("language_share", {})
    found = {**bias_card, **{key: share[key] for key in ("own", "entropy") if key in share}}
    return {key: found[key] for key in MEASURES if key in found}


def _measures(bias_card: dict[str, Any], parallel: bool) -> list[dict[str, Any]]:
    rows = []
    for key, entry in _entries(bias_card).items():
        name, says = MEASURES[key]
        if key in ("own", "entropy"):
            name += f" {bias_card['language_share']['k']}"
        if parallel or key not in NEED_PARALLEL:
            rows.append(
                {
                    "measure": name,
                    "value": entry["mean"],
                    **{bound: entry[bound] for bound in BOUNDS},
                    "says": says,
                }
            )
    return rows


def _languages(result: dict[str, Any], cells: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one row per query language, the farthest answers first, or the lowest mAP where there
    is no distance.
    """
    table = cells.astype({"setting": "str", "query_lang": "str"})
    columns = {
        f"mAP, {words}": table[table["setting"] == setting].groupby("query_lang")["value"].mean()
        for setting, words in zip(
            metrics.SETTINGS, ("own pool", "other pools", "all languages"), strict=True
        )
    }
    entries = _entries(result["bias"])
    for key in ("rank_distance", "own", "same_language_preference"):
        if key in entries:
            columns[MEASURES[key][0]] = pd.Series(entries[key]["per_language"])
    frame = pd.DataFrame(columns).rename_axis("query language").dropna(axis=1, how="all")
    by = _worst_by(frame)
    frame = frame.sort_values(by, ascending=by != "rank distance").reset_index()
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()}
        for row in frame.to_dict("records")
    ]


def _findings(result: dict[str, Any], languages: list[dict[str, Any]], parallel: bool) -> list[str]:
    entries, settings = _entries(result["bias"]), result["settings"]
    sentences = []
    if parallel:
        if first := entries.get("same_language_preference"):
            sentences.append(
                f"For {_percent(first['mean'])} of the questions the answer in the query's language"
                " ranks before its translations, which answer as well; without preference that"
                f" would be {_percent(first['no_preference'])}."
            )
        distance = entries["rank_distance"]
        sentences.append(
            "The best and the worst placed of a question's parallel answers are"
            f" {_shown(distance['mean'])} ranks apart (median {_shown(distance['median'])});"
            f" {_shown(distance['ideal'])} would be perfect, {_shown(distance['random'])} chance."
        )
    else:
        sentences.append(NOT_PARALLEL)
    if own := entries.get("own"):
        first_k = result["bias"]["language_share"]["k"]
        sentences.append(
            f"Of the first {first_k} passages {_percent(own['mean'])} are in the query's language; "
            f"without preference {_percent(own['ideal'])} would be."
        )
    for key in ("complete@20", "complete@100"):
        if (
            parallel and key in entries and entries[key]["ideal"] > 0
        ):  # else there are more answers than places
            sentences.append(
                f"All answers are among the first {key.removeprefix('complete@')} for"
                f" {_percent(entries[key]['mean'])} of the questions (at best"
                f" {_percent(entries[key]['ideal'])})."
            )
            break
    alone = [
        f"{settings[name]['mAP']:.3f} in {words}"
        for name, words in POOLS.items()
        if name in settings
    ]
    sentences.append(f"The mAP is {', '.join(alone)}.")
    by = _worst_by(languages[0])
    ordered = [
        row for row in languages if row[by] is not None
    ]  # a language without parallel answers has no rank distance
    if len(ordered) > 3:
        worst = ", ".join(f"{row['query language']} ({_shown(row[by])})" for row in ordered[:3])
        best = ordered[-1]
        sentences.append(
            f"Worst served by {by} are queries in {worst}; best {best['query language']}"
            f" ({_shown(best[by])})."
        )
    return sentences


def _worst_by(columns: Container[str]) -> str:
    """Return the column that languages are ordered by, the first that is there."""
    return next(
        name
        for name in ("rank distance", "mAP, all languages", "mAP, own pool", "mAP, other pools")
        if name in columns
    )


POOLS = {
    "monolingual": "pools of the query's language",
    "cross-lingual": "pools of one other language",
    "multilingual": "the pool of all languages",
}


def _advice(plain: dict[str, Any], fixes: list[dict[str, Any]]) -> list[str]:
    sentences = []
    before = fixes[0]
    for row in fixes[1:]:
        change = f"{before['multilingual mAP']:.3f} to {row['multilingual mAP']:.3f}"
        if row["rank distance"] is not None:
            change += (
                f" and the rank distance from {_shown(before['rank distance'])} to"
                f" {_shown(row['rank distance'])}"
            )
        sentences.append(
            f"{row['fix'].split(':')[0].capitalize()} takes the multilingual mAP from {change}."
            f" {row['note']}"
        )
    return sentences


def _distance_figure(results: dict[str, dict[str, Any]], languages: Sequence[str]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axis = figure.subplots()
    styles = {
        "none": ("D", "#555555"),
        "round-robin": ("o", "#0072B2"),
        "centring": ("s", "#E69F00"),
    }
    for rival, result in results.items():
        marker, colour = styles[rival]
        values = [result["bias"]["rank_distance"]["per_language"].get(lang) for lang in languages]
        filled = colour if rival == "none" else "white"
        axis.plot(
            range(len(languages)),
            values,
            marker,
            color=colour,
            mfc=filled,
            mew=1.6,
            ms=6,
            label=FIXES[rival][0].split(":")[0],
        )
    for bound, words in BOUNDS.items():
        value = results["none"]["bias"]["rank_distance"][bound]
        axis.axhline(value, color="#999999", lw=1, ls="--", zorder=0)
        axis.annotate(
            words,
            (1, value),
            (4, 0),
            ("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axis.set(
        xlabel="language of the query, worst first",
        ylabel="rank distance",
        yscale="log",
        xticks=range(len(languages)),
    )
    axis.set_xticklabels(languages)
    axis.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), fontsize=9)
    return figure


def _heatmaps(card: dict[str, Any]) -> "Figure":
    from matplotlib.figure import Figure

    queries, pools = (
        sorted(row["query language"] for row in card["languages"]),
        card["counts"]["languages"],
    )
    share = card["results"]["none"]["bias"]["language_share"]
    panels = {
        "mAP in the pool of one language": (card["cells"], "language of the pool"),
        f"share of the first {share['k']} in the pool of all": (
            share["share"],
            "language of the passages",
        ),
    }
    figure = Figure(
        figsize=(9, 1.6 + 7.0 * max(0.3, len(queries) / max(len(pools), 1)) / 2),
        layout="constrained",
    )
    for axis, (title, (cells, xlabel)) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        grid = pd.DataFrame(cells).T.reindex(index=queries, columns=pools)
        image = axis.imshow(grid.to_numpy(float), cmap="viridis", vmin=0, aspect="auto")
        axis.set(
            xlabel=xlabel,
            ylabel="language of the query",
            xticks=range(len(pools)),
            yticks=range(len(queries)),
        )
        axis.set_title(title, fontsize=10)
        size = 8 if len(pools) <= 16 else 6.5
        axis.set_xticklabels(pools, fontsize=size, rotation=0 if len(pools) <= 16 else 90)
        axis.set_yticklabels(queries, fontsize=size)
        figure.colorbar(image, ax=axis, location="bottom", shrink=0.8, aspect=40)
    return figure


def _png(figure: "Figure") -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode()


def _tables(card: dict[str, Any]) -> dict[str, Table]:
    """Return the tables fixes, measures and languages, cells as text; a column without any value is
    left out.
    """

    def table(rows: list[dict[str, Any]], names: dict[str, str]) -> Table:
        columns = [key for key in rows[0] if any(row[key] is not None for row in rows)]
        return [names.get(key, key) for key in columns], [
            [_shown(row[key]) for key in columns] for row in rows
        ]

    return {
        "fixes": table(
            [{key: row[key] for key in row if key != "note"} for row in card["fixes"]], {"fix": ""}
        ),
        "measures": (
            table(
                card["measures"],
                {"value": "this model", **BOUNDS, "says": "what it says, and when it says nothing"},
            )
            if card["measures"]
            else ([], [])
        ),
        "languages": table(card["languages"], {}),
    }


def _measured_on(card: dict[str, Any]) -> str:
    counts = card["counts"]
    return (
        f"Measured on {card['task']}: {counts['queries']:,} queries and {counts['passages']:,}"
        f" passages in {len(counts['languages'])} languages ({', '.join(counts['languages'])})."
        " Another task may show another bias."
    )


def _about(card: dict[str, Any]) -> str:
    config = card["results"]["none"]["config"]
    machine = config["environment"]
    return (
        f"Prompts {config['prompts'][0]!r} and {config['prompts'][1]!r}, texts cut at"
        f" {config['max_seq_length']} tokens, embeddings in {config['precision']}, cosine in"
        f" float32. Weights {config['weights_sha256'][:12]}; torch {machine['torch']},"
        f" sentence-transformers {machine['sentence-transformers']}. Means are taken over queries,"
        " then over query languages. No interval is given: a close call is no finding."
    )


CAPTIONS = {
    "fixes": "What costs no training, on the same embeddings",
    "measures": "Language bias in the pool of all languages, beside its bounds",
    "languages": "By language of the query, worst first",
}
REPAIR = (
    "To repair the model itself, train it shortly on hybrid batches of your own parallel pairs:"
)


def _markdown(card: dict[str, Any]) -> str:
    def rows(table: Table) -> list[str]:
        header, body = table
        lines = [header, [":--", *("--:" for _ in header[1:])], *body]
        return [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
        ]

    lines = [
        f"# Language bias of {card['model']}",
        "",
        _measured_on(card),
        "",
        *(f"- {sentence}" for sentence in card["findings"]),
        "",
    ]
    for name, table in _tables(card).items():
        if table[1]:
            lines += [f"## {CAPTIONS[name]}", "", *rows(table), ""]
        if name == "fixes":
            lines += [
                *(f"- {sentence}" for sentence in card["advice"]),
                "",
                REPAIR,
                "",
                "```",
                card["repair"],
                "```",
                "",
            ]
    return "\n".join([*lines, _about(card), ""])


def _html(card: dict[str, Any], pictures: dict[str, str]) -> str:
    def rows(name: str, table: Table) -> str:
        header, body = table
        if not body:
            return ""
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        lines = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>"
            for line in body
        )
        head = f"<caption>{CAPTIONS[name]}</caption><thead><tr>{head}</tr></thead>"
        return f'<table class="{name}">{head}<tbody>{lines}</tbody></table>'

    def items(sentences: list[str]) -> str:
        return "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)

    def image(name: str, alt: str) -> str:
        return (
            f'<img alt="{alt}" src="data:image/png;base64,{pictures[name]}">'
            if name in pictures
            else ""
        )

    template = Template((Path(__file__).with_name("card.html")).read_text(encoding="utf-8"))
    return template.substitute(
        model=html.escape(card["model"]),
        measured_on=html.escape(_measured_on(card)),
        findings=items(card["findings"]),
        advice=items(card["advice"]),
        repair=html.escape(card["repair"]),
        repair_words=REPAIR,
        about=html.escape(_about(card)),
        distance=image(
            "rank distance",
            "Rank distance of the parallel answers for every query language, with its bounds",
        ),
        heatmaps=image(
            "heatmaps",
            "mAP by language of query and pool; languages of the first passages by language of the"
            " query",
        ),
        **{name: rows(name, table) for name, table in _tables(card).items()},
    )


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, float | int):
        return str(value)
    if abs(value) >= 100 or (abs(value) >= 2 and round(value, 9) == round(value)):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 2 else f"{value:.3f}"


def _percent(share: float) -> str:
    return f"{share:.1%}" if 0 < share < 0.01 or 0.99 < share < 1 else f"{share:.0%}"
