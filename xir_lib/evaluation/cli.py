"""The command `xir evaluate`: its options, one plan, and a table per result."""

import contextlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xir_lib.errors import InputError
from xir_lib.options import AsJson, InPrecision, short_number, show

if TYPE_CHECKING:
    from xir_lib.data.records import RetrievalTask

SHARES = {"own": "own share", "entropy": "entropy"}


def evaluate(
    task: Annotated[
        str,
        typer.Option(
            help="xquad-r, mlqa-r, belebele, miracl-yo ..., atlas-qa, a saved task's folder or a"
            " BEIR folder."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder of metrics.json and per_query.parquet.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="bundled:multilingual-e5-small, a folder, a hub id, or untrained:NAME; or bm25,"
            " bm25-folded, bm25-spaces, bm25-pieces:NAME."
        ),
    ] = None,
    ranked: Annotated[
        Path | None,
        typer.Option(
            "--run",
            help="Instead of a model: another system's ranking of the task's passages, a TREC run.",
        ),
    ] = None,
    languages: Annotated[
        list[str] | None, typer.Option("--language", help="Repeat for several; default all.")
    ] = None,
    repairs: Annotated[
        list[str] | None,
        typer.Option(
            "--repair",
            help="Also score a repair that costs no training, into OUT/REPAIR; repeat for several:"
            " centring, round-robin, centring+round-robin.",
        ),
    ] = None,
    rivals: Annotated[  # the old name of --repair, which also takes BM25
        list[str] | None, typer.Option("--rival", hidden=True)
    ] = None,
    fits: Annotated[
        list[str] | None,
        typer.Option(
            "--fit",
            help="Where centring gets its means: foreign (texts of --fit-on, the default), corpus"
            " (passages from the pool) or cross-fit (by group, from the task itself). Repeat for"
            " several; into OUT/REPAIR-FIT if not foreign.",
        ),
    ] = None,
    fit_on: Annotated[
        list[str] | None,
        typer.Option(help="Tasks whose texts give the means; the first with a language counts."),
    ] = None,
    fit_texts: Annotated[
        int | None, typer.Option(min=1, help="Texts per language and side for the means.")
    ] = None,
    fit_curve: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Also centre with N texts, several samples each, into OUT/fit_curve.csv; repeat"
            " for several N.",
            metavar="N",
        ),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="A folder that keeps embeddings between calls.")
    ] = None,
    trec_run: Annotated[
        int,
        typer.Option(
            min=0,
            help="Also write the top K of the multilingual pool as run.trec, beside qrels.trec.",
        ),
    ] = 0,
    shards: Annotated[
        Path | None,
        typer.Option(
            help="A folder for the passages' vectors, searched file by file: for pools that do not"
            " fit in memory."
        ),
    ] = None,
    precision: InPrecision = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure a model in the monolingual, cross-lingual and multilingual setting, with its language
    bias.
    """
    from xir_lib.data.tasks import load_task
    from xir_lib.evaluation import evaluate as evaluation
    from xir_lib.evaluation import plan, trec
    from xir_lib.evaluation.fit_curve import write_fit_curve
    from xir_lib.evaluation.systems import Listed, System
    from xir_lib.repair.kinds import LEXICAL

    # 1. Refuse options that contradict each other.
    if (model is None) == (ranked is None):
        raise InputError(
            f"{'neither' if ranked is None else 'both'} of --model and --run given; name a model or"
            " a TREC run"
        )
    beside = [name for name in rivals or [] if name in LEXICAL]
    kinds = [name for name in [*(repairs or []), *(rivals or [])] if name not in beside]
    given = {"repair": kinds or beside, "cache": cache, "shards": shards}
    _refuse_without_vectors(model, {**given, "precision": precision != "auto"})
    if fit_curve and "centring" not in kinds:
        raise InputError("--fit-curve is for the repair centring; add --repair centring")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; --out names a folder")

    # 2. Read what is judged, and refuse what it does not allow.
    judged = load_task(task, languages)
    sources = _fit_on(task, fit_on, fits, kinds)
    planned = plan.plan_repairs(judged, kinds, fits or ["foreign"], sources, fit_texts)
    if fit_curve:
        plan.plan_repairs(judged, ["centring"], ["foreign"], sources)
    if shards and (kinds or beside):
        raise InputError(
            f"--repair {(kinds or beside)[0]} needs all vectors in memory; leave out --shards or"
            " the repair"
        )
    if trec_run:
        trec.check_depth(judged, trec_run)

    # 3. Evaluate. Without a cache every repair would encode the texts again.
    with contextlib.ExitStack() as stack:
        if cache is None and (kinds or beside):
            cache = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        systems: dict[str, System] = (
            plan.open_systems(
                model,
                judged,
                planned,
                beside=beside,
                cache=cache,
                shards=shards / judged.name if shards else None,  # a folder holds one corpus
                precision=precision,
            )
            if model
            else {"": Listed(trec.read_run(ranked or Path(), judged), judged)}
        )
        evaluation.remove_stale(out, systems)
        results = {
            folder: evaluation.evaluate(system, out / folder, trec_run=trec_run)
            for folder, system in systems.items()
        }
        encoder = systems[""].encoder
        if fit_curve and encoder:
            write_fit_curve(out / "fit_curve.csv", encoder, judged, sources, fit_curve)
    _print(results, judged, as_json)


def _refuse_without_vectors(model: str | None, given: dict[str, Any]) -> None:
    """Refuse what needs vectors where none are: in a run, and in BM25."""
    from xir_lib.evaluation.plan import lexical_parts

    if model and not lexical_parts(model):
        return
    if needing := [name for name, value in given.items() if value]:
        raise InputError(f"--{needing[0]} needs a model's vectors; leave it out or give --model")


def _fit_on(
    task: str, named: list[str] | None, fits: list[str] | None, kinds: list[str]
) -> "list[RetrievalTask]":
    """Load the tasks to fit on: those that were named, or the task's usual ones if needed."""
    from xir_lib.data.tasks import FIT_ON, load_task

    wanted = {"foreign", "corpus"} & {*(fits or ["foreign"])}
    if not named and wanted and any("centring" in kind for kind in kinds):
        named = FIT_ON.get(task)
    return [load_task(name) for name in named or []]


def _print(results: dict[str, dict[str, Any]], task: "RetrievalTask", as_json: bool) -> None:
    """Print all results as tables, or as JSON: a list if there are several."""
    from xir_lib.evaluation.evaluate import small_pools
    from xir_lib.metrics.measures import DEEPEST

    if as_json:
        every = list(results.values())
        typer.echo(json.dumps(every if len(every) > 1 else every[0], indent=1, ensure_ascii=False))
        return
    for folder, result in results.items():
        _show(folder, result)
    if small := small_pools(task):
        pools = ", ".join(f"{lang} ({size})" for lang, size in small.items())
        typer.echo(f"R@{DEEPEST} is 1 whatever the ranking in pools of no more passages: {pools}")


def _show(folder: str, result: dict[str, Any]) -> None:
    """Print one result: the settings, the bias beside its bounds, and how much can be had."""
    rows = [
        {"setting": key, **{m: f"{v:.3f}" for m, v in value.items()}}
        for key, value in result["settings"].items()
    ]
    show(rows, False, title=f"{result['model']} on {result['task']}, repair {folder or 'none'}")
    bounds = ("mean", "ideal", "random", "same_language_first")
    card = {name: entry for name, entry in result["bias"].items() if "mean" in entry}
    if share := result["bias"].get("language_share"):
        card |= {f"{name} of the top {share['k']}": share[key] for key, name in SHARES.items()}
    rows = [
        {
            "bias": name.replace("_", " "),
            **{key.replace("_", " "): short_number(entry[key]) for key in bounds},
        }
        for name, entry in card.items()
    ]
    if rows:
        show(rows, False, title="Language bias in the pool of all languages, beside its bounds")
    if "multilingual" in result["settings"]:
        ceilings = result["recall_ceilings"].items()
        ceiling = ", ".join(f"{name} {value:.3f}" for name, value in ceilings)
        typer.echo(f"no ranking exceeds {ceiling} in the multilingual setting")
