"""One page on a model's language bias, for whoever uses the model: `xir bias`.

The numbers are those of `evaluation.evaluate` (section 3 of arXiv 2408.10536 and `bias.bias_card`),
each beside what an unbiased, a random and a totally biased ranking give; the sentences are computed
from them. Beside the model as it is stand two fixes that need no training and no other text:
merging the rankings of the single languages by turns, and centring with means from the task's other
groups. The page knows no training and no interval: for differences with intervals run `xir compare`
on the folder, which is an output of `xir evaluate` too.

`make_card` says what the page says, in the words of `card_words.yaml`; the templates `card.html`
and `card.md`, and `card_figures`, lay it out.
"""

import importlib.util
import shlex
import tempfile
from collections.abc import Container, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from xir_lib.data.records import RetrievalTask
from xir_lib.encoders.encoder import Encoder
from xir_lib.encoders.precision import Asked
from xir_lib.errors import InputError
from xir_lib.evaluation import evaluate as evaluation
from xir_lib.evaluation.card_figures import figures, png
from xir_lib.evaluation.plan import plan_repairs
from xir_lib.evaluation.systems import repaired
from xir_lib.metrics import measures as metrics
from xir_lib.paths import atomic_path
from xir_lib.record import write_json
from xir_lib.repair.repair import Repair

FILES = ("card.html", "card.md", "card.json")
HERE = Path(__file__).parent
WORDS = yaml.safe_load((HERE / "card_words.yaml").read_text(encoding="utf-8"))
BOUNDS = ("ideal", "random", "same_language_first")
ANY_POOL = ("own", "entropy")  # the measures that say something on a pool that is not parallel
WORST_BY = ("rank distance", "mAP, all languages", "mAP, own pool", "mAP, other pools")
Row = dict[str, Any]


def write_card(
    model: str,
    task: RetrievalTask,
    out: Path,
    *,
    cache: Path | None = None,
    precision: Asked = "auto",
) -> dict[str, Any]:
    """Evaluate `model` on `task` as it is and with the free fixes, and write the card to `out`.

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
    with tempfile.TemporaryDirectory() as scratch:  # else every repair would encode the texts again
        encoder = Encoder(model, cache=cache or Path(scratch), precision=precision)
        for name in FILES:  # so that a break never leaves an old card beside new numbers
            (out / name).unlink(missing_ok=True)
        systems = repaired(encoder, task, repairs)
        evaluation.remove_stale(out, systems)
        results = {}
        for folder, system in systems.items():
            result = evaluation.evaluate(system, out / folder)
            results[result["config"]["repair"]] = result
    cells = metrics.cells(pd.read_parquet(out / "per_query.parquet"))
    card = make_card(model, results, cells[cells["measure"] == "mAP"], left_out)
    pictures = {name: png(figure) for name, figure in figures(card).items()}
    pages = {name: render(name, card, pictures) for name in ("card.md", "card.html")}
    write_json(out / "card.json", card)  # all is made before a file is
    for name, text in pages.items():
        with atomic_path(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return card


def _plan(task: RetrievalTask) -> tuple[list[Repair], list[str]]:
    """Return the repairs that this task allows, and a sentence on each that it does not."""
    if len(task.languages) < 2:
        return [], []
    repairs = plan_repairs(task, ["round-robin"])
    try:
        return [*repairs, *plan_repairs(task, ["centring"], ["cross-fit"])], []
    except InputError as error:
        return repairs, [_said(WORDS["left_out"], error=error)]


def make_card(
    model: str,
    results: dict[str, dict[str, Any]],
    cells: pd.DataFrame,
    left_out: Sequence[str] = (),
) -> dict[str, Any]:
    """Return what the card says, as JSON values.

    Args:
        model: its name.
        results: what `evaluation.evaluate` returned for the model as it is, `none`, and each fix.
        cells: the mAP rows of `measures.cells` for the model as it is.
        left_out: sentences on fixes that could not be made.

    Keys: model, task, counts, parallel, findings and advice (sentences), repair (a command),
    measures, languages (worst first), fixes, cells (query language -> pool -> mAP in pools of one
    language), and results.
    """
    plain = results["none"]
    parallel = "rank_distance" in plain["bias"]
    languages = _languages(plain, cells)
    fixes = [_fix(name, result) for name, result in results.items()]
    advice = [
        _said(WORDS["advice"], name=WORDS["fixes"][name][0], before=fixes[0], after=fix)
        for name, fix in zip(results, fixes, strict=True)
        if name != "none"
    ]
    single = cells[cells["pool"] != metrics.ALL].astype({"query_lang": "str", "pool": "str"})
    grid = single.pivot(index="query_lang", columns="pool", values="value")
    encoder = shlex.quote(model.removeprefix("untrained:"))
    return {
        "model": model,
        "task": plain["task"],
        "counts": plain["counts"],
        "parallel": parallel,
        "findings": _findings(plain, languages, parallel),
        "advice": [*advice, *left_out],
        "repair": f"xir train --encoder {encoder} --pairs my_pairs.jsonl --out fixed",
        "measures": _measures(plain["bias"], parallel),
        "languages": languages,
        "fixes": fixes,
        "cells": {lang: row.dropna().to_dict() for lang, row in grid.iterrows()},
        "results": results,
    }


def _fix(rival: str, result: dict[str, Any]) -> Row:
    name, what_it_does, note = WORDS["fixes"][rival]
    settings = ("multilingual", "monolingual")
    return {
        "fix": name + what_it_does,
        **{f"{one} mAP": result["settings"].get(one, {}).get("mAP") for one in settings},
        "rank distance": result["bias"].get("rank_distance", {}).get("mean"),
        "note": note,
    }


def _entries(bias_card: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the measures that have a mean and bounds, by their keys in `card_words.yaml`."""
    found = bias_card | bias_card.get("language_share", {})
    return {key: found[key] for key in WORDS["measures"] if key in found}


def _measures(bias_card: dict[str, Any], parallel: bool) -> list[Row]:
    rows = []
    for key, entry in _entries(bias_card).items():
        name, says = WORDS["measures"][key]
        if key in ANY_POOL:
            name += f" {bias_card['language_share']['k']}"
        if parallel or key in ANY_POOL:
            bounds = {bound: entry[bound] for bound in BOUNDS}
            rows.append({"measure": name, "value": entry["mean"], **bounds, "says": says})
    return rows


def _languages(result: dict[str, Any], cells: pd.DataFrame) -> list[Row]:
    """Return one row per query language, the farthest answers first, or the lowest mAP where there
    is no distance.
    """
    by_setting = cells.astype({"setting": "str", "query_lang": "str"}).pivot_table(
        index="query_lang", columns="setting", values="value"
    )
    words = zip(metrics.SETTINGS, ("own pool", "other pools", "all languages"), strict=True)
    columns = {f"mAP, {pool}": by_setting.get(setting) for setting, pool in words}
    entries = _entries(result["bias"])
    for key in ("rank_distance", "own", "same_language_preference"):
        if key in entries:
            columns[WORDS["measures"][key][0]] = pd.Series(entries[key]["per_language"])
    frame = pd.DataFrame(columns).rename_axis("query language").dropna(axis=1, how="all")
    by = _worst_by(frame)
    frame = frame.sort_values(by, ascending=by != "rank distance").reset_index()
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()}
        for row in frame.to_dict("records")
    ]


def _worst_by(columns: Container[str]) -> str:
    """Return the column that languages are ordered by, the first that is there."""
    return next(name for name in WORST_BY if name in columns)


def _findings(result: dict[str, Any], languages: list[Row], parallel: bool) -> list[str]:
    told, settings = _entries(result["bias"]), result["settings"]
    complete = [{**told[key], "k": key.split("@")[1]} for key in told if key.startswith("complete")]
    by = _worst_by(languages[0])
    # A language without parallel answers has no rank distance.
    ordered = [row for row in languages if row[by] is not None]
    facts = {
        "parallel": parallel,
        "told": told,
        "first_k": result["bias"].get("language_share", {}).get("k"),
        # Of an ideal of 0 there are more answers than places.
        "complete": next((found for found in complete if found["ideal"] > 0), None),
        "alone": [
            f"{settings[name]['mAP']:.3f} in {pool}"
            for name, pool in WORDS["pools"].items()
            if name in settings
        ],
        "by": by,
        "ordered": [f"{row['query language']} ({shown(row[by])})" for row in ordered],
    }
    return [said for sentence in WORDS["findings"] if (said := _said(sentence, **facts))]


# ---- the page


def render(name: str, card: dict[str, Any], pictures: dict[str, str]) -> str:
    """Return the page of the template `name`, `card.html` or `card.md`.

    `pictures` are PNGs in base64 by their names in `figures`; Markdown has none.
    """
    config = card["results"]["none"]["config"]
    words = {
        "measured_on": _said(WORDS["measured_on"], **card),
        "to_repair": WORDS["to_repair"],
        "about": _said(WORDS["about"], config=config),
        "tables": {key: (text, *_table(card[key])) for key, text in WORDS["captions"].items()},
    }
    return _templates().get_template(name).render(card | words, pictures=pictures)


def _table(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Return header and cells as text, without columns that have no value; notes are advice."""
    named = [key for key in rows[0] if key != "note"] if rows else []
    columns = [key for key in named if any(row[key] is not None for row in rows)]
    header = [WORDS["columns"].get(key, key) for key in columns]
    return header, [[shown(row[key]) for key in columns] for row in rows]


def _said(text: str, **facts: Any) -> str:
    """Return a text of `card_words.yaml` with the facts filled in."""
    return " ".join(_templates().from_string(text).render(facts).split())


@cache
def _templates() -> Environment:
    found = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=select_autoescape(["html"], default_for_string=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= {"shown": shown, "percent": percent, "repr": repr}
    return found


def shown(value: Any) -> str:
    """Return a number with as many digits as say something; None is empty, words stay.

    >>> shown(1234.5), shown(12.34), shown(3.0), shown(0.12345)
    ('1,234', '12.3', '3', '0.123')
    """
    if value is None:
        return ""
    if not isinstance(value, float | int):
        return str(value)
    if abs(value) >= 100 or (abs(value) >= 2 and round(value, 9) == round(value)):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 2 else f"{value:.3f}"


def percent(share: float) -> str:
    """Return a share in percent, with a decimal where it would look like none or all.

    >>> percent(0.25), percent(0.004), percent(0.996)
    ('25%', '0.4%', '99.6%')
    """
    return f"{share:.1%}" if 0 < share < 0.01 or 0.99 < share < 1 else f"{share:.0%}"
