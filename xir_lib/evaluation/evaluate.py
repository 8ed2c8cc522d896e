"""One evaluation: a system and its task in, exact per-query values and language bias out.

Section 3 of arXiv 2408.10536: mAP over the full ranking, R@1 and R@10 in the monolingual,
cross-lingual and multilingual setting, and the rank distance of the parallel answers. Knows no
particular data set and no kind of system.
"""

import json
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd

from xir_lib.data import lareqa
from xir_lib.data.records import RetrievalTask
from xir_lib.errors import InputError
from xir_lib.evaluation import trec
from xir_lib.evaluation.systems import Ranks, System
from xir_lib.metrics import bias
from xir_lib.metrics import measures as metrics
from xir_lib.metrics import pairs as robustness
from xir_lib.paths import atomic_path
from xir_lib.record import environment, write_json
from xir_lib.repair.fit import FITS
from xir_lib.repair.kinds import is_kind

FILES = (
    *("metrics.json", "rows.csv", "per_query.parquet", "group_sums.parquet"),
    *("run.trec", "qrels.trec"),
)


def evaluate(system: System, out: Path, *, trec_run: int = 0) -> dict[str, Any]:
    """Rank every query of the system's task and write what the ranks say to the folder `out`.

    These are `metrics.json`, `rows.csv`, `per_query.parquet` and `group_sums.parquet`; with
    `trec_run` also the first `trec_run` passages of the pool of all languages as `run.trec`, and
    the judgements as `qrels.trec`: what trec_eval and ir_measures read. Returns what
    `metrics.json` holds.

        evaluate(Dense(Encoder("bundled:multilingual-e5-small"), load_task("atlas-qa")), out)
    """
    out, task = Path(out), system.task
    if trec_run:
        trec.check_depth(task, trec_run)
    for name in FILES:  # a break must never leave one model's numbers beside another's
        (out / name).unlink(missing_ok=True)
    best = system.best(trec_run) if trec_run else None
    ranks = system.ranks
    per_query = values(ranks, task)
    result = _result(system, ranks, per_query)
    with atomic_path(out / "rows.csv") as temporary:
        cells = metrics.cells(per_query)
        cells.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    if "rank_distance" in result["bias"]:  # refused where the pool is not parallel, as MIRACL's
        distance = bias.rank_distance(ranks.together, task.queries.to_pandas())
        per_query = metrics.stack([per_query, distance])
    for name, table in (("per_query", per_query), ("group_sums", metrics.group_sums(per_query))):
        with atomic_path(out / f"{name}.parquet") as temporary:
            table.to_parquet(temporary, index=False)
    if best:
        trec.write_run(out / "run.trec", task, *best)
        trec.write_qrels(out / "qrels.trec", task)
    write_json(out / "metrics.json", result)  # last: its presence says that all is complete
    return result


def values(ranks: Ranks, task: RetrievalTask) -> pd.DataFrame:
    """Return every measure of every query in every setting (`metrics.score_settings`).

    The multilingual setting is that of the ranks together, the others of the ranks apart. A task of
    one language, as MIRACL's are, has no multilingual setting: it would be the same pool again.
    """
    queries, languages = task.queries.to_pandas(), task.languages
    multilingual = metrics.SETTINGS[-1]
    per_query = metrics.score_settings(ranks.together, queries, languages, metrics.MEASURES)
    if len(languages) == 1:
        return per_query[per_query["setting"] != multilingual]
    if ranks.apart is ranks.together:
        return per_query
    alone = metrics.score_settings(ranks.apart, queries, languages, metrics.MEASURES)
    return pd.concat(
        [alone[alone["setting"] != multilingual], per_query[per_query["setting"] == multilingual]],
        ignore_index=True,
    )


def _result(system: System, ranks: Ranks, per_query: pd.DataFrame) -> dict[str, Any]:
    task, encoder = system.task, system.encoder
    queries, languages = task.queries.to_pandas(), task.languages
    return {
        "task": task.name,
        "model": system.name,
        "settings": metrics.macro(per_query),
        "micro": metrics.micro(per_query),
        "recall_ceilings": metrics.recall_ceilings(ranks.together, queries),
        "bias": bias.bias_card(ranks.together, queries, languages),
        "robustness": _robustness(ranks, queries, languages),
        "counts": {
            "queries": task.queries.num_rows,
            "passages": task.passages.num_rows,
            "languages": languages,
        },
        **system.facts(),
        "config": {
            **system.key(),
            "context": context_of(task),
            "environment": environment(*((encoder.precision, encoder.rates) if encoder else ())),
        },
    }


def _robustness(ranks: Ranks, queries: pd.DataFrame, languages: list[str]) -> dict[str, Any]:
    """Return what `robustness` says of the pairs of languages; for a task that has none, why."""
    table = robustness.pair_keep(ranks.together, queries, languages, apart=ranks.apart)
    try:
        summary = robustness.keep_summary(table, n_resamples=1000)
    except InputError as error:  # no answer in another language, or a single group
        return {"summary": [], "cells": [], "refused": str(error)}
    tables = {"summary": summary, "cells": robustness.keep_cells(table)}
    return {
        name: json.loads(one.to_json(orient="records", double_precision=10))
        for name, one in tables.items()
    }


def remove_stale(out: Path, keep: Collection[str]) -> None:
    """Remove results of repairs in `out` that are not in `keep`, and the curve.

    They may be of another model.
    """
    (Path(out) / "fit_curve.csv").unlink(missing_ok=True)
    for folder in [file.parent for file in Path(out).glob("*/metrics.json")]:
        name = re.sub(f"-({'|'.join(FITS[1:])})$", "", folder.name)
        if name != "none" and folder.name not in keep and is_kind(name):
            for file in FILES:  # what else somebody put there stays
                (folder / file).unlink(missing_ok=True)
            if not any(folder.iterdir()):
                folder.rmdir()


def context_of(task: RetrievalTask) -> str:
    """Return what of a passage's surroundings is embedded with it: its paragraph, or nothing."""
    return "paragraph" if task.name in lareqa.WITH_CONTEXT else "none"


def small_pools(task: RetrievalTask) -> dict[str, int]:
    """Return the languages with no more passages than the deepest cutoff, and how many they are.

    Recall at that cutoff says nothing there: every ranking has 1.
    """
    sizes = sorted(Counter(task.passages["lang"].to_pylist()).items())
    return {lang: size for lang, size in sizes if size <= metrics.DEEPEST}
