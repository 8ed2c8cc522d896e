"""The study's commands; `xir` holds them beside the library's."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from xir_lib.errors import InputError
from xir_lib.options import AsJson, InPrecision, Params, show

app = typer.Typer()


@app.command()
def mix(
    model: Annotated[
        str,
        typer.Option(help="bundled:multilingual-e5-small, a folder, a hub id, or untrained:NAME."),
    ],
    out: Annotated[
        Path,
        typer.Option(help="The folder of mixed.json, topics.parquet, intruders.csv and examples."),
    ],
    task: Annotated[str, typer.Option(help="A task of one language.")] = "miracl-yo",
    foreign: Annotated[
        list[str] | None,
        typer.Option(
            help=(
                "Whose passages replace the task's: xquad-contexts, mlqa-contexts, or a task;"
                " repeat for several. "
                "Default belebele, xquad-contexts and mlqa-contexts."
            )
        ),
    ] = None,
    shares: Annotated[
        list[float] | None,
        typer.Option(
            "--share", help="Foreign part of the unjudged places; default 0, .25, .5, .75 and .9."
        ),
    ] = None,
    size: Annotated[int, typer.Option(min=1, help="Passages in every pool.")] = 20_000,
    draws: Annotated[
        int, typer.Option(min=1, help="Pools per share, the same for every model.")
    ] = 5,
    rivals: Annotated[
        list[str] | None,
        typer.Option(
            "--repair", "--rival", help="As in evaluate, or BM25; means are the corpus fit."
        ),
    ] = None,
    fit_on: Annotated[
        list[str] | None, typer.Option(help="Tasks whose queries give the query mean of centring.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="A folder that keeps embeddings between calls.")
    ] = None,
    precision: InPrecision = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure what foreign passages do to a one-language task: pools of one size, a growing share
    of them foreign.
    """
    from xir_lib.data.tasks import load_paragraphs, load_task
    from xir_lib.encoders.encoder import Encoder
    from xir_lib.study import mixed_pools

    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; --out names a folder")
    judged, others = load_task(task), load_paragraphs(foreign or mixed_pools.FOREIGN)
    names = list(dict.fromkeys(["none", *(rivals or [])]))
    sources = [load_task(name) for name in fit_on or []]
    options: dict[str, Any] = {"shares": shares or mixed_pools.SHARES, "size": size, "draws": draws}
    planned = mixed_pools.plan(judged, others, rivals=names, fit_on=sources, **options)
    mixed_pools.measure(Encoder(model, cache=cache, precision=precision), planned, out)
    table = mixed_pools.cost_table(mixed_pools.read(out)).drop(columns=["model", "seeds"])
    rows = json.loads(table.to_json(orient="records"))
    if not as_json:
        shown = ("mixed", "alone", "foreign cost", "own cost", "intruders", "pool share")
        rows = [
            {key: row[key] for key in ("rival", "share")}
            | {key: "" if row[key] is None else f"{row[key]:.3f}" for key in shown}
            for row in rows
        ]
    show(rows, as_json, title=f"{model} on {task}, pools of {size:,} passages: nDCG@10")


@app.command()
def study(
    params: Params,
    jobs: Annotated[
        int, typer.Option(min=1, help="Steps at the same time; each computes on one core.")
    ] = 2,
    build: Annotated[
        Path | None, typer.Option(help="Default: build/PROFILE in the repository.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
) -> None:
    """Run a profile from data to report; only what is missing or changed is done."""
    from xir_lib.study.graph import run_graph

    index = run_graph(params, build=build, jobs=jobs, dry_run=dry_run)
    if not dry_run:
        typer.echo(f"The report: {index}")


@app.command()
def publish(
    params: Params,
    build: Annotated[Path | None, typer.Option(help="Default: build/PROFILE.")] = None,
    from_results: Annotated[
        bool,
        typer.Option(
            "--from-results",
            help=(
                "Make figures and pages anew from figures/PROFILE/results, without a build folder."
            ),
        ),
    ] = False,
) -> None:
    """Copy a finished profile's results and figures into figures/PROFILE, to be committed."""
    from xir_lib.study.graph import publish as publish_profile
    from xir_lib.study.graph import republish

    if from_results and build:
        raise InputError("--from-results reads figures/PROFILE/results; leave --build out")
    typer.echo(
        f"Copied to {republish(params) if from_results else publish_profile(params, build=build)}"
    )


@app.command(hidden=True)
def notebooks(folder: Annotated[Path, typer.Argument(help="The folder of the notebooks.")]) -> None:
    """Execute notebooks in place with their defaults; `make notebooks` refreshes the committed
    ones.
    """
    from xir_lib.paths import require
    from xir_lib.study.report import execute_notebooks

    execute_notebooks(require(folder, "name the folder of the notebooks"))


@app.command(hidden=True)
def step(
    name: Annotated[str, typer.Argument(help="overlap, collect or report.")],
    params: Params,
    build: Annotated[Path, typer.Option(help="The profile's build folder.")],
) -> None:
    """Run one step of the Snakefile that has no notebook."""
    from xir_lib.study import report
    from xir_lib.study.profile import load_study
    from xir_lib.study.steps import collect, search_overlap

    profile = load_study(params)
    if name == "overlap":
        search_overlap(profile, build / "data")
    elif name == "collect":
        collect(profile, build, build / "results")
    elif name == "report":
        report.write_report(profile, build)
    else:
        raise InputError(f"unknown step {name!r}; use overlap, collect or report")
