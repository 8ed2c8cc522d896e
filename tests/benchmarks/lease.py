"""Not a speed: train and judge the models of several profiles on a GPU that is lent for minutes.

    python tests/benchmarks/lease.py --stage STAGE --out OUT [--seconds 540] [--workers 14]

`xir study` starts a process for every training and every evaluation, and these import for longer
than a GPU computes. Here a pool of workers imports once and calls the same functions with the same
settings, `training.train` and `evaluation.evaluate`, in the order of STAGE/schedule.json ([profile,
seeds] by importance) until the time is up. Models that profiles share are trained once. What
`collect` reads is left as `xir study` would leave it, in OUT/part-N.tar.xz:
PROFILE/models/RUN/run.json and PROFILE/evaluations/RUN/TASK/, of the sums per group those that it
keeps. What several profiles share is there once; `places` in OUT/log.jsonl says where else it
belongs. `--unpack BUILD` puts everything there, for `xir step collect` and the notebooks.

STAGE has what `prepare` makes: pairs/PROFILE/{train,held_out}.arrow with kept.npy
(`vocabulary.used_pieces` of them), pairs.json (which folder a profile uses), tasks/NAME/;
others.arrow and extra.json for what belongs to no profile (MIRACL Yoruba, and pools with foreign
passages). OUT also gets log.jsonl: what took how long, and what failed.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tarfile
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before NumPy is imported
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "XIR_OFFLINE": "1",
    }

import pandas as pd
import pyarrow.feather as feather

from xir_lib.data.records import PairTable, RetrievalTask
from xir_lib.encoders import vocabulary
from xir_lib.encoders.encoder import Encoder
from xir_lib.errors import InputError
from xir_lib.evaluation.evaluate import evaluate
from xir_lib.evaluation.plan import plan_repairs
from xir_lib.evaluation.systems import Lexical, Merged, System, repaired
from xir_lib.metrics.measures import SETTINGS
from xir_lib.paths import claim_build
from xir_lib.repair.kinds import LEXICAL
from xir_lib.study import mixed_pools
from xir_lib.study.profile import Study, load_study
from xir_lib.study.steps import PRINTED
from xir_lib.training import run as training

REPO = Path(__file__).resolve().parents[2]
SCRATCH = Path(os.environ.get("XIR_SCRATCH", "/tmp/xir-lease"))
PART, PARTS = (
    18 * 2**20,
    7,
)  # bytes of new results that make a part, not compressed yet; at most so many parts
LOOKED_THROUGH = vocabulary.used_pieces
STATE: dict[str, Any] = {}  # what the workers inherit: tasks and pairs, mapped


def jobs(stage: Path) -> list[dict[str, Any]]:
    """Return what is to be done, in order: untouched encoders task by task, then models with all
    their tasks.
    """
    schedule = json.loads((stage / "schedule.json").read_text())
    pairs = json.loads((stage / "pairs.json").read_text())
    extra = json.loads((stage / "extra.json").read_text())
    studies = {name: load_study(name) for name, _ in schedule}
    untouched: dict[str, dict[str, Any]] = {}
    models: dict[str, dict[str, Any]] = {}
    wanted = [(name, run) for name, seeds in schedule for run in runs_of(studies[name], seeds)]
    for name, study in studies.items():
        for evaluation_ in study.evaluations:
            given = {**evaluation_.model_dump(), "exploratory": False, "rivals": study.rivals}
            job = {"kind": "none", "encoder": study.encoder, "tasks": [given], "to": []}
            untouched.setdefault(json.dumps([study.encoder, given]), job)["to"].append(
                f"{name}/evaluations/none"
            )
    for name, (strategy, seed) in wanted:
        study = studies[name]
        settings = study.settings(strategy, seed).model_dump()
        key = json.dumps([study.encoder, pairs[name], settings], sort_keys=True)
        job = models.setdefault(
            key,
            {"kind": "model", "encoder": study.encoder, "pairs": pairs[name], "settings": settings},
        )
        job.setdefault("to", []).append(f"{name}/evaluations/{strategy}-s{seed}")
        job.setdefault("source", study.data.source)
        tasks = job.setdefault("tasks", [])
        for evaluation_ in study.evaluations:
            given = {**evaluation_.model_dump(), "exploratory": False, "rivals": study.rivals}
            if given not in tasks:
                tasks.append(given)
        if name in extra["yoruba"]:
            job.setdefault("yoruba", []).append(f"yoruba/{name}-{strategy}-s{seed}")
        if [name, strategy, seed] in extra["mixed"]:
            job["mixed"] = f"mixed/{name}-{strategy}-s{seed}"
    for job in models.values():
        names = [given["task"] for given in job["tasks"]]
        if len(set(names)) < len(names):
            raise InputError(
                f"{' and '.join(job['to'])} judge one task in two ways; put them into two schedules"
            )
    first = {
        "kind": "none",
        "encoder": "bundled:multilingual-e5-small",
        "tasks": [],
        "to": [],
        "yoruba": ["yoruba/none"],
    }
    return [first, *untouched.values(), *models.values()]


def runs_of(study: Study, seeds: list[int]) -> list[tuple[str, int]]:
    """Return (strategy, seed) with the seeds outside, so that what is compared is finished
    together.
    """
    return [(strategy, seed) for seed in seeds for strategy in study.strategies]


def work(job: dict[str, Any], number: int) -> dict[str, Any]:
    """Do one job in a worker and leave its files under SCRATCH/build."""
    import torch

    torch.set_num_threads(1)
    sys.stdout = sys.stderr = (SCRATCH / f"worker-{os.getpid()}.log").open(
        "a"
    )  # bars, warnings, the trainer's logs
    started = time.monotonic()
    log: dict[str, Any] = {"job": number, "places": job["to"], "yoruba": job.get("yoruba", [])}
    log["tasks"] = [given["task"] for given in job["tasks"]]
    model, cache = SCRATCH / "models" / str(number), SCRATCH / "cache" / str(number)
    cache.mkdir(parents=True)
    try:
        if job["kind"] == "model":
            settings = STATE["settings"](**job["settings"])
            whole = all(
                job["settings"][name] in (None, False)
                for name in ("ids", "languages", "one_language_per_id")
            )
            kept = STATE["kept"][job["pairs"]] if whole else None
            vocabulary.used_pieces = (
                (lambda model, texts: kept) if whole else LOOKED_THROUGH
            )  # the same pairs, done before
            train, held_out = STATE["pairs"][job["pairs"]]
            run = training.train(
                job["encoder"],
                train,
                settings,
                model,
                held_out=held_out,
                data_name=job["source"],
                checkpoint_steps=None,
            )
            log |= {"train": round(time.monotonic() - started, 1), "steps": run["seconds"]}
            made = SCRATCH / "making" / job["to"][0].replace("/evaluations/", "/models/")
            made.mkdir(parents=True)
            shutil.copy(model / "run.json", made)
            put(made)
        encoder = Encoder(str(model) if job["kind"] == "model" else job["encoder"], cache=cache)
        if job["kind"] == "model":  # no path of this machine
            encoder.name = job["to"][0].replace("/evaluations/", "-")
        for given in job["tasks"]:
            since = time.monotonic()
            judge(encoder, given, f"{job['to'][0]}/{given['task']}", cache)
            log[given["task"]] = round(time.monotonic() - since, 1)
        if job.get("yoruba"):
            since = time.monotonic()
            given = {
                "task": "miracl-yo",
                "fit": "foreign",
                "fit_on": ["atlas-qa-train"],
                "fit_texts": None,
            }
            judge(encoder, {**given, "rivals": ["none", "centring"]}, job["yoruba"][0], cache)
            log["miracl-yo"] = round(time.monotonic() - since, 1)
        if job.get("mixed"):
            mixed_pools.measure(encoder, STATE["mixed"], SCRATCH / "making" / job["mixed"])
            put(SCRATCH / "making" / job["mixed"])
    except Exception:
        log["failed"] = traceback.format_exc()
    finally:
        vocabulary.used_pieces = LOOKED_THROUGH
        shutil.rmtree(model, ignore_errors=True)
        shutil.rmtree(cache, ignore_errors=True)
        if torch.cuda.is_available():
            log["memory"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    log["seconds"] = round(time.monotonic() - started, 1)
    return log


def judge(encoder: Encoder, given: dict[str, Any], place: str, cache: Path) -> None:
    """Evaluate as `xir evaluate` does, and put what `collect` reads in its place."""
    task = STATE["tasks"][given["task"]]
    sources = [STATE["tasks"][name] for name in given["fit_on"]]
    kinds = [name for name in given["rivals"] if name not in ("none", *LEXICAL)]
    repairs = plan_repairs(task, kinds, [given["fit"]], sources, given["fit_texts"])
    systems: dict[str, System] = repaired(encoder, task, repairs)
    systems |= {name: Lexical(name, task, encoder) for name in given["rivals"] if name in LEXICAL}
    scratch = cache / "out"
    for folder, system in systems.items():
        out = scratch / folder
        evaluate(system, out)
        sums = pd.read_parquet(out / "group_sums.parquet")
        if given["task"] != "miracl-yo":
            sums = sums.merge(PRINTED, on=["setting", "measure"])
            if isinstance(system, Merged):
                sums = sums[sums["setting"] == SETTINGS[-1]]
        made = SCRATCH / "making" / place / folder
        made.mkdir(parents=True)
        sums.to_parquet(made / "group_sums.parquet", index=False, compression="brotli")
        shutil.copy(out / "metrics.json", made)
        put(made)
    shutil.rmtree(scratch)


def put(made: Path) -> None:
    """Move a finished folder from SCRATCH/making to its place under SCRATCH/build, where `pack` may
    take it at any moment.
    """
    target = SCRATCH / "build" / made.relative_to(SCRATCH / "making")
    target.parent.mkdir(parents=True, exist_ok=True)
    made.rename(target)


def pack(out: Path, taken: set[Path], *, last: bool) -> None:
    """Write what is new under SCRATCH/build as another part, if it is large enough or the last."""
    build = SCRATCH / "build"
    names = {
        "metrics.json",
        "group_sums.parquet",
        "run.json",
        "mixed.json",
        "topics.parquet",
        "intruders.csv",
        "examples.csv",
    }
    new = sorted(path for path in build.rglob("*") if path.name in names and path not in taken)
    number = len(list(out.glob("part-*")))
    if not new or not (
        last or (number < PARTS - 1 and sum(path.stat().st_size for path in new) > PART)
    ):
        return
    part = out / f"part-{number}.tar.xz"
    with tarfile.open(part.with_suffix(".tmp"), "w:xz", preset=1) as archive:
        for path in new:
            archive.add(path, path.relative_to(build))
    part.with_suffix(".tmp").rename(part)
    taken.update(new)


def unpack(out: Path, build: Path) -> None:
    """Put the results of finished jobs into the build folders of all profiles that they
    belong to.
    """
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    for profile in {place.split("/")[0] for done in log for place in done["places"]}:
        claim_build(build / profile)
    for part in sorted(out.glob("part-*.tar.xz")):
        with tarfile.open(part) as archive:
            archive.extractall(build, filter="data")
    for done in log:
        first, *others = done["places"] or [""]
        for to in others:
            for task in done["tasks"]:
                if (source := build / first / task).is_dir():
                    shutil.copytree(source, build / to / task, dirs_exist_ok=True)
            if (model := build / first.replace("/evaluations/", "/models/")).is_dir():
                shutil.copytree(
                    model, build / to.replace("/evaluations/", "/models/"), dirs_exist_ok=True
                )
        for to in done["yoruba"][1:]:
            shutil.copytree(build / done["yoruba"][0], build / to, dirs_exist_ok=True)


def main() -> int:
    """Work through the jobs until they are done or the time is up."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stage", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--first", type=int, help="only so many jobs")
    parser.add_argument(
        "--unpack", type=Path, metavar="BUILD", help="compute nothing; put what is in OUT there"
    )
    arguments = parser.parse_args()
    if arguments.unpack:
        unpack(arguments.out, arguments.unpack)
        return 0
    end = time.monotonic() + arguments.seconds
    stage, out = arguments.stage.resolve(), arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir(parents=True)
    from xir_lib.training.settings import TrainSettings

    STATE["settings"] = TrainSettings
    STATE["tasks"] = {
        path.name: RetrievalTask.load(path) for path in sorted((stage / "tasks").iterdir())
    }
    STATE["pairs"], STATE["kept"] = {}, {}
    import numpy as np

    for folder in sorted((stage / "pairs").iterdir()):
        STATE["pairs"][folder.name] = (
            PairTable.load(folder / "train.arrow"),
            PairTable.load(folder / "held_out.arrow"),
        )
        STATE["kept"][folder.name] = np.load(folder / "kept.npy").astype(np.int64)
    others = feather.read_table(stage / "others.arrow")
    sources = [STATE["tasks"]["atlas-qa-train"]]
    STATE["mixed"] = mixed_pools.plan(
        STATE["tasks"]["miracl-yo"],
        others,
        rivals=["none", "centring", "round-robin"],
        fit_on=sources,
        shares=mixed_pools.SHARES,
        size=20_000,
        draws=5,
    )
    todo = list(enumerate(jobs(stage)))[: arguments.first]
    print(f"{len(todo)} jobs", flush=True)
    taken: set[Path] = set()
    pool = ProcessPoolExecutor(arguments.workers, mp_context=multiprocessing.get_context("fork"))
    waiting: set[Future[dict[str, Any]]] = {pool.submit(work, job, number) for number, job in todo}
    with (out / "log.jsonl").open("w") as log:
        while waiting and time.monotonic() < end:
            done, waiting = wait(
                waiting,
                timeout=max(0.1, min(10, end - time.monotonic())),
                return_when=FIRST_COMPLETED,
            )
            for future in done:
                print(json.dumps(future.result()), file=log, flush=True)
            if time.monotonic() < end - 30:
                pack(out, taken, last=False)
    for process in pool._processes.values():
        process.kill()
    pack(out, taken, last=True)
    print(f"{len(waiting)} jobs are left", flush=True)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
