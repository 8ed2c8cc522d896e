"""The steps that the Snakefile and the notebooks call, each from files to files."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from xir_lib.data.overlap import overlap
from xir_lib.data.records import PairTable, RetrievalTask, is_saved_task
from xir_lib.data.splits import pair_counts
from xir_lib.data.tasks import load_task
from xir_lib.metrics.bias import RANK_DISTANCE
from xir_lib.metrics.measures import CELL, SETTINGS
from xir_lib.paths import is_build, refuse_foreign, replace_folder, require
from xir_lib.record import write_json
from xir_lib.repair.kinds import parse_kind, result_folder
from xir_lib.samplers.strategies import PairIndex, StrategyBatchSampler
from xir_lib.study.profile import HELD_OUT, Study
from xir_lib.study.sources import load_training
from xir_lib.training.held_out import held_out_task
from xir_lib.training.settings import (
    parse_strategy,
    pivot_of,
)

PRINTED = pd.DataFrame(  # the measures of the paper's tables
    [
        *((setting, "mAP") for setting in SETTINGS),
        *((setting, "R@1") for setting in SETTINGS[:2]),
        (SETTINGS[2], "R@10"),
        (SETTINGS[2], RANK_DISTANCE),
    ],
    columns=["setting", "measure"],
)


BY_GROUP = ("mAP", RANK_DISTANCE)  # measures whose differences get intervals


def batch_mix(
    pairs: PairTable, strategies: list[str], *, batch_size: int, batches: int, seed: int
) -> pd.DataFrame:
    """Return the share of same-language pairs in every batch of each strategy: columns strategy,
    batch, same_share.
    """
    index, frames = PairIndex.from_table(pairs), []
    for name in strategies:
        strategy, alpha = parse_strategy(name)
        sampler = StrategyBatchSampler(
            index,
            strategy=strategy,
            alpha=alpha,
            batch_size=batch_size,
            seed=seed,
            num_batches=batches,
            pivot=pivot_of(name),
        )
        plan = sampler.describe().assign(strategy=name)
        plan["same"] = plan["pairs"].where(plan["query_lang"] == plan["doc_lang"], 0)
        sums = plan.groupby(["strategy", "batch"])[["same", "pairs"]].sum()
        frames.append((sums["same"] / sums["pairs"]).rename("same_share").reset_index())
    return pd.concat(frames, ignore_index=True)


def prepare(study: Study, folder: Path) -> dict[str, Any]:
    """Write `train.arrow`, `held_out.arrow`, `tasks/NAME/` and `summary.json`; return the summary's
    counts.
    """
    folder = Path(folder)
    train, held_out = load_training(study.data)
    summary: dict[str, Any] = {
        "train": pair_counts(train),
        "held_out": pair_counts(held_out),
        "tasks": {},
    }
    train.save(folder / "train.arrow")
    held_out.save(folder / "held_out.arrow")
    for name, languages in _tasks(study).items():
        task = (
            held_out_task(held_out.select(languages=languages), name)
            if name == HELD_OUT
            else load_task(name, languages)
        )
        target = folder / "tasks" / name
        with replace_folder(target, is_saved_task) as temporary:
            task.save(temporary)
        summary["tasks"][name] = {
            "languages": task.languages,
            "queries": task.queries.num_rows,
            "ids": len(task.queries["pair_id"].unique()),
            "passages": task.passages.num_rows,
            "judgements": task.qrels.num_rows,
        }
    write_json(folder / "summary.json", summary)
    return summary


def _tasks(study: Study) -> dict[str, list[str] | None]:
    """Return the tasks that judge or give means, with their languages: of Atlas-QA, which has many,
    those that are asked.
    """
    wanted: dict[str, list[str] | None] = {}
    for evaluation in study.evaluations:
        for name in evaluation.fit_on:
            langs = evaluation.languages if name.startswith("atlas") else None
            before = wanted.get(name, [])
            wanted[name] = (
                None if langs is None or before is None else list(dict.fromkeys([*before, *langs]))
            )
    return wanted | {evaluation.task: evaluation.languages for evaluation in study.evaluations}


def search_overlap(study: Study, folder: Path) -> None:
    """Write `overlap.json` into the folder of `prepare`: for every task, how near its texts are to
    those trained on.
    """
    folder = Path(folder)
    train = PairTable.load(require(folder / "train.arrow", "run the data step first"))
    tasks = {
        evaluation.task: RetrievalTask.load(folder / "tasks" / evaluation.task)
        for evaluation in study.evaluations
    }
    write_json(
        folder / "overlap.json", {name: overlap(train, task) for name, task in tasks.items()}
    )


def evaluation_folders(study: Study, build: Path) -> dict[tuple[str, str, str], Path]:
    """Return the folder of each (run, task, rival); a rival's lies inside that of the plain
    evaluation.
    """
    return {
        (run, evaluation.task, rival): (
            build / "evaluations" / run / evaluation.task / result_folder(rival, evaluation.fit)
        )
        for run in study.runs
        for evaluation in study.evaluations
        for rival in study.rivals
    }


def collect(study: Study, build: Path, out: Path) -> None:
    """Gather the results of all runs into `study.json`, `runs.json`, `evaluations.json`,
    `overlap.json`, `group_sums.parquet`.

    Of the sums per group only what tables and figures are made of is kept, since the files are
    committed: the measures of `PRINTED`, of merged rankings the multilingual setting, and of
    measures that are never compared (`BY_GROUP`) the sum over all groups. An evaluation is a line.
    """
    build, out = Path(build), Path(out)
    refuse_foreign(build, is_build)
    evaluations, sums = [], []
    for (run, task, rival), folder in evaluation_folders(study, build).items():
        metrics = require(folder / "metrics.json", "run the evaluation step first")
        key = {"run": run, "strategy": run.rsplit("-s", 1)[0], "task": task, "rival": rival}
        found = json.loads(metrics.read_text(encoding="utf-8"))
        evaluations.append(
            {**key, **found, "model": study.encoder if run == "none" else run}
        )  # no path of this machine
        found_sums = pd.read_parquet(folder / "group_sums.parquet").merge(
            PRINTED, on=["setting", "measure"]
        )
        if parse_kind(rival).merge:  # pools of one language keep their ranking
            found_sums = found_sums[found_sums["setting"] == SETTINGS[-1]]
        by_group = found_sums["measure"].isin(BY_GROUP)
        whole = (
            found_sums[~by_group]
            .groupby([*CELL, "measure"], observed=True)[["n", "total"]]
            .sum()
            .reset_index()
        )
        sums.append(
            pd.concat([found_sums[by_group], whole.assign(group="all groups")]).assign(**key)
        )
    near = require(build / "data" / "overlap.json", "search for overlap first")
    trained = [
        build / "models" / run / "run.json"
        for run in study.runs
        if run not in ("none", "untrained")
    ]
    table = pd.concat(sums, ignore_index=True)
    for column in table.columns.difference(["n", "total"]):
        table[column] = table[column].astype("category")
    with replace_folder(out, lambda folder: is_build(folder.parent)) as temporary:
        temporary.mkdir()
        write_json(temporary / "study.json", study.model_dump())
        shutil.copy(near, temporary)
        write_json(
            temporary / "runs.json",
            [json.loads(path.read_text(encoding="utf-8")) for path in trained],
        )
        lines = (
            json.dumps(one, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            for one in evaluations
        )
        (temporary / "evaluations.json").write_text(
            "[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8"
        )
        table.astype({"n": "int32"}).to_parquet(
            temporary / "group_sums.parquet", index=False, compression="brotli"
        )
        shutil.rmtree(build / "figures", ignore_errors=True)  # the readers draw them anew
