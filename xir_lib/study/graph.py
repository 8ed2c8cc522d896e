"""Start the Snakefile for a profile, one start at a time, and copy a finished profile's results to
be committed.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from xir_lib.data import miracl
from xir_lib.data.tasks import load_paragraphs
from xir_lib.errors import InputError
from xir_lib.evaluation.compare import MARGIN
from xir_lib.paths import (
    REPO,
    atomic_path,
    claim_build,
    data_dir,
    is_build,
    put_back,
    refuse_foreign,
    replace_folder,
    require,
)
from xir_lib.record import write_json
from xir_lib.study import designs, factors, mixed_pools
from xir_lib.study.plots import alpha_figure, designs_figure, mixed_figure, save_figure
from xir_lib.study.profile import Study, load_study
from xir_lib.study.report import (
    READERS,
    averages_block,
    claims_block,
    context_block,
    curve_block,
    designs_block,
    fill_readme,
    miracl_block,
    mixed_block,
    profile_page,
    readme_blocks,
    stock_block,
)
from xir_lib.study.results import load_results
from xir_lib.study.sources import load_training
from xir_lib.study.tables import hybrid_and_pure
from xir_lib.training.cost import Mixture

SNAKEFILE = REPO / "Snakefile"
MIRACL = (
    REPO / "figures" / "miracl-yo"
)  # what `xir evaluate --task miracl-yo --out` wrote, without the rankings
MIXED = (
    REPO / "figures" / "mixed-yo"
)  # what `xir mix` wrote, a folder per model, without the examples' texts
CURVES = REPO / "figures" / "fit_curve"  # what `xir evaluate --fit-curve` wrote, a folder per task
CONTEXTS = (
    REPO / "figures" / "context"
)  # what `xir evaluate` wrote for sentences alone and with their paragraphs
AVERAGES = (
    REPO / "figures" / "averaged"
)  # what `xir evaluate` wrote of averaged weights; per group mAP alone
STOCK = (
    REPO / "figures" / "stock"
)  # the same of a model that the stock trainer made, and what it drew
DESIGNS = REPO / "figures" / "when_hybrid"  # what notebook 06 shows of all profiles
CLAIMS = REPO / "figures" / "claims"  # the ledgers of several profiles side by side
BLOCKS = {
    MIRACL: miracl_block,
    MIXED: mixed_block,
    CURVES: curve_block,
    DESIGNS: designs_block,
    AVERAGES: averages_block,
    STOCK: stock_block,
    CONTEXTS: context_block,
    CLAIMS: claims_block,
}


def run_graph(
    params: Path, *, build: Path | None = None, jobs: int = 2, dry_run: bool = False
) -> Path:
    """Run a profile's graph and return the report's path; a second start on the same build folder
    is refused.

    Each job computes on one core, so that `jobs` of them do not fight over threads and the numbers
    do not depend on their count; one training runs at a time, since it takes gigabytes. After a
    kill the lock is free again, half-made outputs are redone and finished ones kept.
    """
    study = load_study(params)
    hybrid_and_pure(study)
    if isinstance(study.data, Mixture):
        load_training(study.data)  # says what is missing, as the next line does
    for corpus in study.corpora:
        miracl.required_files(corpus.removeprefix("miracl-"))
    if study.mixed:
        load_paragraphs(mixed_pools.FOREIGN)
    require(SNAKEFILE, "`xir study` runs inside a clone of the repository")
    build = (build or REPO / "build" / study.profile).resolve()
    claim_build(build)
    with (build / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another run works in {build}; wait for it or choose another --build"
            ) from None
        # Under one name, so that the path of a profile is no part of any job; what it says is.
        profile = build / "profile.yaml"
        with atomic_path(profile) as temporary:
            temporary.write_text(
                yaml.safe_dump(study.model_dump(), sort_keys=False), encoding="utf-8"
            )
        command = [
            sys.executable,
            "-m",
            "snakemake",
            "--snakefile",
            str(SNAKEFILE),
            "--directory",
            str(build),
        ]
        command += [
            "--cores",
            str(jobs),
            "--resources",
            "training=1",
            "--nolock",
            "--rerun-incomplete",
            "--quiet",
            "rules",
        ]
        command += [
            *(["--dry-run"] if dry_run else []),
            "--config",
            f"params={profile}",
            f"build={build}",
        ]
        settings = {
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONUTF8": "1",
            "XIR_DATA": str(data_dir()),
        }
        environment = {
            **os.environ,
            **settings,
        }  # notebooks run in another folder: XIR_DATA must not be relative
        # The lock's descriptor goes down, so that the lock lives as long as the graph does if this
        # process is killed.
        done = subprocess.run(command, env=environment, pass_fds=[lock.fileno()], check=False)
    if done.returncode:
        raise InputError(
            f"the study stopped (snakemake's exit code {done.returncode}); the message is above,"
            f" logs are in {build}"
        )
    return build / "report" / "index.html"


def publish(params: Path, *, build: Path | None = None) -> Path:
    """Copy results and figures of a finished profile into `figures/PROFILE`, and its numbers into
    the README's blocks.

    The pages that belong to no single profile (`BLOCKS`) get their tables and figures anew as well.
    """
    study = load_study(params)
    build = build or REPO / "build" / study.profile
    require(build / "report" / "index.html", f"run `xir study --params {params}` first")
    refuse_foreign(build, is_build)
    target, readme = REPO / "figures" / study.profile, REPO / "README.md"
    results = load_results(build / "results")
    if (found := results.study.profile) != study.profile:
        raise InputError(
            f"{build} holds the results of profile {found}; give the build folder of"
            f" {study.profile}"
        )
    blocks = {readme: (study.profile, readme_blocks(results, readme.read_text(encoding="utf-8")))}
    with replace_folder(target, is_published) as temporary:
        shutil.copytree(build / "figures", temporary, ignore=shutil.ignore_patterns(".*"))
        shutil.copytree(build / "results", temporary / "results")
        (temporary / "README.md").write_text(profile_page(results), encoding="utf-8")
        for measured in target.glob(
            "*.txt"
        ):  # what was measured by hand, such as the cost of a run
            shutil.copy(measured, temporary)
    for corpus in study.corpora:
        for kind, page_name in (
            ("corpora", corpus),
            ("mixed", f"mixed-{corpus.removeprefix('miracl-')}"),
        ):
            _publish_corpus(study, build / kind, corpus, REPO / "figures" / page_name)
    table = mixed_pools.cost_table(mixed_pools.read(MIXED))
    save_figure(mixed_figure(table), table, MIXED, "mixed_pools")
    table = designs.effects(designs.read_designs(DESIGNS.parent))
    save_figure(
        designs_figure(table[table["languages"] == "all"], MARGIN), table, DESIGNS, "06_effects"
    )
    table = factors.alphas(load_results(DESIGNS.parent / factors.LADDER / "results"))
    save_figure(alpha_figure(table, MARGIN), table, DESIGNS, "06_alpha")
    table = factors.factors(factors.read_factors(DESIGNS.parent))
    save_figure(designs_figure(table, MARGIN), table, DESIGNS, "06_factors")
    table = factors.grid_effects(load_results(DESIGNS.parent / factors.GRID / "results"))
    save_figure(designs_figure(table, MARGIN), table, DESIGNS, "06_grid")
    for folder, block in BLOCKS.items():
        blocks[folder / "README.md"] = folder.name, {"tables": block(folder)}
    for page, (
        name,
        parts,
    ) in blocks.items():  # a page is read at the end: what was written in it meanwhile stays
        text = fill_readme(page.read_text(encoding="utf-8"), name, parts)
        with atomic_path(page) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return target


def _publish_corpus(study: Study, built: Path, corpus: str, target: Path) -> None:
    """Copy what a profile's trained models did on a corpus into `target`/PROFILE-RUN: no texts, no
    values of single queries.
    """
    for run in study.runs:
        source, name = built / run / corpus, f"{study.profile}-{run}"
        if (
            run not in ("none", "untrained") and source.is_dir()
        ):  # the encoder as it is has a folder that no profile makes
            with replace_folder(target / name, _is_published_model) as temporary:
                shutil.copytree(
                    source,
                    temporary,
                    ignore=shutil.ignore_patterns("*.md", "per_query.parquet", "rows.csv", ".*"),
                )
                for file in [
                    *temporary.rglob("metrics.json"),
                    *temporary.rglob("mixed.json"),
                ]:  # not the folder that was judged
                    write_json(file, json.loads(file.read_text(encoding="utf-8")) | {"model": name})


def is_published(folder: Path) -> bool:
    """Say whether `publish` made a folder: its results name the profile that it is called after."""
    return _says(folder / "results" / "study.json", "profile") == folder.name


def _is_published_model(folder: Path) -> bool:
    return folder.name in (_says(folder / name, "model") for name in ("metrics.json", "mixed.json"))


def _says(file: Path, key: str) -> Any:
    """Return what a JSON file holds under `key`, None if it is no such file."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def republish(params: Path) -> Path:
    """Make figures, tables and pages of a published profile anew from its committed results; no
    data, training or encoding.

    Runs the notebooks that read results (`READERS`), then `publish`.
    """
    study = load_study(params)
    published = REPO / "figures" / study.profile
    put_back(published, is_published)
    results = require(
        published / "results",
        f"only a published profile has them; run `xir study --params {params}`",
    )
    (REPO / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{study.profile}.republished.", dir=REPO / "build"
    ) as scratch:
        build = Path(scratch)
        claim_build(build)
        shutil.copytree(results, build / "results")
        for name in READERS:
            command = [
                sys.executable,
                "-m",
                "papermill",
                "--log-level",
                "WARNING",
                "--cwd",
                str(REPO / "notebooks"),
            ]
            command += [
                "-p",
                "results",
                str(build / "results"),
                "-p",
                "figures",
                str(build / "figures"),
            ]
            command += [str(REPO / "notebooks" / f"{name}.ipynb"), str(build / f"{name}.ipynb")]
            if subprocess.run(command, check=False).returncode:
                raise InputError(f"notebook {name} stopped; the message is above")
        (build / "report").mkdir()
        (build / "report" / "index.html").touch()
        return publish(params, build=build)


@cache
def code_digest(*names: str) -> str:
    """Return a digest of modules or folders of the package: what a rule's result depends on besides
    its inputs.
    """
    digest = hashlib.sha256()
    for name in names:
        path = REPO / "xir_lib" / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.suffix != ".pyc":
                digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:12]
