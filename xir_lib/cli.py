"""The command `xir`: thin calls of the library, one line and exit code 2 for bad input."""

import contextlib
import json
import logging
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from xir_lib.encoders.precision import Asked
from xir_lib.errors import InputError
from xir_lib.evaluation.cli import evaluate
from xir_lib.options import AsJson, InPrecision, show
from xir_lib.study.cli import app as study

if TYPE_CHECKING:
    from xir_lib.data.records import PairTable
    from xir_lib.training.cost import Mixture
    from xir_lib.training.settings import TrainSettings

BUNDLED = "bundled:multilingual-e5-small"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Hybrid batch training, measured.",
)
data = typer.Typer(no_args_is_help=True, help="List, download, check and build the data sets.")
app.add_typer(data, name="data")
app.add_typer(study)

# typer carries its own click and does not export the class.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]
# What a given path can be wrong by.
PathError = (NotADirectoryError, IsADirectoryError, FileExistsError, PermissionError)


def main() -> None:
    """Run the command line; bad input is one line on standard error and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        sys.exit(app(standalone_mode=False))
    except UsageError as error:  # a wrong option; without any argument the help was printed
        if message := error.format_message():  # type: ignore[attr-defined]
            sys.stderr.write(f"xir: {message} See xir --help.\n")
    except InputError as error:
        sys.stderr.write(f"xir: {' '.join(str(error).split())}\n")
    except PathError as error:
        sys.stderr.write(f"xir: {error}; name another path\n")
    sys.exit(2)


@data.command("list")
def data_list(as_json: AsJson = False) -> None:
    """List the data sets: licence, size, and whether they are here."""
    from xir_lib.data.catalogue import list_datasets

    rows = list_datasets()
    if not as_json:
        short = ("name", "status", "licence", "folder")
        rows = [
            {**{key: row[key] for key in short}, "MB": row["download_size"] / 1e6 or "?"}
            for row in rows
        ]
    show(rows, as_json)


@data.command("get")
def data_get(
    name: Annotated[str, typer.Argument(help="A name of `xir data list`.")],
    base_url: Annotated[
        str | None,
        typer.Option(help="A mirror in upstream's layout; believed where no sum is pinned."),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(help="Seconds without a byte after which a connection counts as stalled."),
    ] = 30.0,
) -> None:
    """Download a data set from upstream, pinned and checked; what is here already is kept."""
    from xir_lib.data.download import get

    typer.echo(f"{name}: complete in {get(name, base_url=base_url, timeout=timeout)}")


@data.command("verify")
def data_verify(
    name: Annotated[str, typer.Argument(help="A name of `xir data list`.")], as_json: AsJson = False
) -> None:
    """Check the files of a data set against their pinned checksums; exit code 2 if one is missing
    or wrong.
    """
    from xir_lib.data.catalogue import verify

    problems = verify(name)
    if as_json:
        typer.echo(json.dumps({"name": name, "problems": problems}, indent=1))
    else:
        typer.echo("\n".join(problems) or f"{name}: every file is right")
    if problems:
        raise typer.Exit(2)


@data.command("build")
def data_build(
    out: Annotated[Path, typer.Option(help="A new folder for the files.")],
    languages: Annotated[
        list[str] | None, typer.Option("--language", help="Repeat for several; default all.")
    ] = None,
) -> None:
    """Export Atlas-QA: the pairs of each split as JSON lines, and the report of what was checked
    when it was made.
    """
    from xir_lib.data import atlas
    from xir_lib.paths import atomic_path

    if out.exists():
        raise InputError(f"{out} exists already; name a new folder")
    chosen = languages or list(atlas.LANGUAGES)
    with atomic_path(out) as temporary:
        temporary.mkdir()
        for split in atlas.SPLITS:
            rows = atlas.load_pairs(split, chosen).table.to_pylist()
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (temporary / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        report = json.dumps(atlas.report(chosen), indent=1, ensure_ascii=False) + "\n"
        (temporary / "report.json").write_text(report, encoding="utf-8")
    typer.echo(f"Atlas-QA in {len(chosen)} languages: {out}")


@app.command()
def train(
    params: Annotated[
        Path | None,
        typer.Option(
            "--params",
            help="A profile by its name, such as demo, or a file; --pairs does without.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The model's folder.")] = None,
    pairs_files: Annotated[
        list[Path] | None,
        typer.Option(
            "--pairs",
            help="Your own pairs (jsonl, tsv, parquet, BEIR folder), not the profile's data; repeat"
            " for several data sets.",
        ),
    ] = None,
    dataset_draw: Annotated[
        str | None,
        typer.Option(
            help="How a batch draws one of several data sets: size, equal, or a temperature such as"
            " 2; default size."
        ),
    ] = None,
    negatives: Annotated[
        int | None,
        typer.Option(
            help="Hard negatives per pair, from the pairs' own lists; default the profile's, or 0."
        ),
    ] = None,
    lang: Annotated[str | None, typer.Option(help="The language of pairs that name none.")] = None,
    encoder: Annotated[
        str | None, typer.Option(help=f"A folder, a hub id or {BUNDLED}, the default of --pairs.")
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="x-x-mono, x-y, hybrid-0.5 ...; default the profile's last, or hybrid-0.5."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Default the profile's first, or 0.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Default the profile's, or one pass over the pairs.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Default the profile's, or 32.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Default the profile's, or 2e-5.")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="What the loss divides cosines by; default the profile's, or 0.02."),
    ] = None,
    max_seq_length: Annotated[
        int | None, typer.Option(help="Tokens kept of a text; default the profile's, or 128.")
    ] = None,
    early_stopping: Annotated[
        str | None,
        typer.Option(
            help="loss or 'multilingual mAP' of the held-out pairs, measured 20 times; stops after"
            " 3 without a best, keeps it."
        ),
    ] = None,
    precision: Annotated[
        Asked | None,
        typer.Option(help="What is computed in; default the profile's, or auto: the faster here."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print settings, data, batches and cost.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train one model on a profile's data or on --pairs; the folder is an ordinary
    SentenceTransformer with a run.json.
    """
    if out is None and not dry_run:
        raise InputError("--out is missing; name the model's folder, only --dry-run does without")
    if lang is not None and not pairs_files:
        raise InputError(f"--lang {lang} belongs to --pairs; give a file of pairs")
    options = {
        "strategy": strategy,
        "seed": seed,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "temperature": temperature,
        "max_seq_length": max_seq_length,
        "negatives": negatives,
        "precision": precision,
        "dataset_draw": _name_or_number(dataset_draw),
    }
    given = {name: value for name, value in options.items() if value is not None}
    job = _training(params, pairs_files or [], lang, encoder, early_stopping, given, dry_run)
    if dry_run or out is None:
        from xir_lib.training.cost import preview
        from xir_lib.training.preview import show_preview

        show_preview(preview(job.encoder, job.settings, job.data, job.held_out), as_json)
        return
    run = job.run(out)
    summary = f"{run['steps_trained']} steps in {run['seconds']:.0f} s, {out}"
    if as_json:
        typer.echo(json.dumps(run, indent=1))
    else:
        typer.echo(f"{job.settings.strategy}, seed {job.settings.seed}: {summary}")


app.command()(evaluate)


@app.command()
def bias(
    model: Annotated[
        str,
        typer.Option(help="bundled:multilingual-e5-small, a folder, a hub id, or untrained:NAME."),
    ],
    out: Annotated[
        Path, typer.Option(help="The folder of card.html, card.md, card.json and the evaluations.")
    ],
    task: Annotated[
        str,
        typer.Option(
            help="xquad-r, mlqa-r, belebele, miracl-yo ..., atlas-qa, a saved task's folder or a"
            " BEIR folder."
        ),
    ] = "atlas-qa",
    languages: Annotated[
        list[str] | None, typer.Option("--language", help="Repeat for several; default all.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="A folder that keeps embeddings between calls.")
    ] = None,
    precision: InPrecision = "auto",
    as_json: AsJson = False,
) -> None:
    """Write one page on a model's language bias: what it does, beside its bounds and beside fixes
    that cost no training.
    """
    from xir_lib.data.tasks import load_task
    from xir_lib.evaluation.card import write_card

    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; --out names a folder")
    card = write_card(model, load_task(task, languages), out, cache=cache, precision=precision)
    if as_json:
        typer.echo(json.dumps(card, indent=1, ensure_ascii=False))
        return
    typer.echo(
        "\n".join(
            [f"Language bias of {model} on {card['task']}", *card["findings"], *card["advice"]]
        )
    )
    typer.echo(f"The page: {out / 'card.html'}")


@app.command()
def compare(
    dir_a: Annotated[Path, typer.Argument(help="An output folder of xir evaluate.")],
    dir_b: Annotated[Path, typer.Argument(help="Another, of the same task.")],
    also_a: Annotated[
        list[Path] | None,
        typer.Option(
            help="A's output for a training with another seed; repeat. Intervals then cover seeds."
        ),
    ] = None,
    also_b: Annotated[
        list[Path] | None,
        typer.Option(
            help="B's, as many and in the same order of seeds; the same one again if B has no"
            " seeds."
        ),
    ] = None,
    resamples: Annotated[
        int, typer.Option(min=100, help="Of the bootstrap and of the randomisation test.")
    ] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Fixes the resamples.")] = 0,
    margin: Annotated[
        float | None,
        typer.Option(
            help="The largest difference in mAP that does not matter, declared beforehand; default"
            " .01."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the table as CSV.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two systems: differences A - B, 95 % intervals over groups, Holm-adjusted p,
    verdict.
    """
    from xir_lib.evaluation.compare import MARGIN, compare_evaluations, save_table

    margin = MARGIN if margin is None else margin
    if out and out.suffix != ".csv":
        raise InputError(f"--out {out} is no .csv; name a CSV file")
    if not 0 < margin < 1:
        raise InputError(
            f"--margin {margin:g} is no difference in mAP; give one between 0 and 1, such as .01"
        )
    more_a, more_b = also_a or [], also_b or []
    if len(more_a) != len(more_b):
        raise InputError(f"{len(more_a)} --also-a and {len(more_b)} --also-b; give as many of both")
    pairs = [(dir_a, dir_b), *zip(more_a, more_b, strict=True)]
    table = compare_evaluations(pairs, n_resamples=resamples, seed=seed, margin=margin)
    if out:
        save_table(table, out.parent, out.stem)
    rows = json.loads(table.to_json(orient="records"))
    if not as_json:  # what fits a line; the rest is in the CSV and the JSON
        for row in rows:
            row["difference"] = f"{row['difference']:+.4g} [{row['low']:+.4g}, {row['high']:+.4g}]"
        shown = ("setting", "measure", "difference", "p_holm", "mde", "design_effect", "verdict")
        rows = [{name.replace("_", " "): row[name] for name in shown} for row in rows]
    show(rows, as_json, title=f"{dir_a} minus {dir_b}, margin {margin:g} mAP")


class _Training(NamedTuple):
    """What a training is told: by a profile, by options, by a user's own pairs."""

    encoder: str
    settings: "TrainSettings"
    data: "PairTable | Mixture"
    held_out: "PairTable | None"
    data_name: str

    def run(self, out: Path) -> dict[str, Any]:
        """Train; what the trainer's bar writes to standard output, which --json needs, is moved."""
        from xir_lib.training.run import train

        pairs: Any = self.data  # a mixture is only ever previewed
        with contextlib.redirect_stdout(sys.stderr):
            return train(
                self.encoder,
                pairs,
                self.settings,
                out,
                held_out=self.held_out,
                data_name=self.data_name,
            )


def _training(
    params: Path | None,
    pairs_files: list[Path],
    lang: str | None,
    encoder: str | None,
    early_stopping: str | None,
    given: dict[str, Any],
    dry_run: bool,
) -> _Training:
    """Join what the profile says with what the options say, which goes before it."""
    from xir_lib.study.profile import load_study
    from xir_lib.study.sources import load_training
    from xir_lib.training.cost import Mixture
    from xir_lib.training.own import load_own, own_settings, with_early_stopping

    study = load_study(params) if params else None
    settings = None
    if study:
        defaults: dict[str, Any] = {"strategy": study.strategies[-1], "seed": study.seeds[0]}
        settings = study.settings(**defaults | given)
        encoder = encoder or study.encoder

    data: PairTable | Mixture
    if pairs_files:
        data, held_out = load_own(pairs_files, lang)
        data_name = ", ".join(path.name for path in pairs_files)
        settings = settings or own_settings(data, **given)
    elif study is None or settings is None:
        raise InputError(
            "nothing to train on; give --pairs FILE with your own pairs or --params with a profile"
        )
    else:
        data_name = study.data.source
        if dry_run and isinstance(study.data, Mixture):  # its sizes are known, its pairs are not
            data, held_out = study.data, None
        else:
            data, held_out = load_training(study.data)
    if early_stopping:
        settings = with_early_stopping(settings, early_stopping)
    return _Training(encoder or BUNDLED, settings, data, held_out, data_name)


def _name_or_number(value: str | None) -> str | float | None:
    return float(value) if value and re.fullmatch(r"\d*\.?\d+", value) else value
