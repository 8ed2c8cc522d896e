"""Tables of MIRACL evaluations: ours per system with intervals over topics, beside published figures of the full corpus.

A folder holds what `xir evaluate --task miracl-LANG --out FOLDER/NAME` wrote, one subfolder per model and rivals inside it.
The published figures (`data/miracl_published.csv`) are nDCG@10 and recall of the BGE-M3 paper, of pyserini's reproductions and
of mteb's results, on the full corpus; a pool of hard negatives would be another table. A hundred topics separate few
systems: the table is descriptive, and says what difference it could have detected. Knows no texts and no model.
"""

import json
from itertools import combinations
from pathlib import Path

import pandas as pd

from xir_lib import metrics
from xir_lib.errors import InputError
from xir_lib.rivals import LEXICAL, parse_rival
from xir_lib.significance import compare

MEASURES = ("nDCG@10", "R@100", "MRR@10")
MAIN = MEASURES[0]
RESAMPLES = 10_000


def read_topics(folder: Path) -> pd.DataFrame:
    """Return the per-topic values of every evaluation in `folder`: task, system, topic, measure, value.

    A system is the evaluation's place in the folder, `none/centring` for a rival of `none`, or the name of BM25, which
    needs no model. Evaluations of different tasks are refused: their pools do not compare.
    """
    folder = Path(folder)
    frames, tasks = [], {}
    for path in sorted(file.parent for file in folder.rglob("metrics.json")):
        metrics_of = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
        rival = parse_rival(metrics_of["config"]["rival"])
        name = rival.name if rival.lexical else path.relative_to(folder).as_posix()
        if name in tasks:
            raise InputError(f"{folder} holds {name} twice; keep one")
        tasks[name] = metrics_of["task"]
        values = pd.read_parquet(path / "per_query.parquet").query("setting == 'monolingual' and measure in @MEASURES")
        found = values[["query_id", "measure", "value"]].astype({"query_id": str, "measure": str})
        frames.append(found.rename(columns={"query_id": "topic"}).assign(task=tasks[name], system=name))
    if not frames:
        raise InputError(f"{folder} holds no metrics.json; `xir evaluate --task miracl-yo --out {folder}/none` writes one")
    if len(set(tasks.values())) > 1:
        raise InputError(f"{folder} holds evaluations of {', '.join(sorted(set(tasks.values())))}; give one task's")
    return pd.concat(frames, ignore_index=True)[["task", "system", "topic", "measure", "value"]]


def system_table(topics: pd.DataFrame, baseline: str = "none") -> pd.DataFrame:
    """Return a row per system: the mean of each measure over topics, and nDCG@10 minus the baseline's, by topic.

    The baseline comes first, then its free fixes, then the others by name.

    Columns: system, topics, the measures, `minus BASELINE`, low and high (95 % bootstrap interval over topics) and
    detectable, the least difference that so many topics find with power .8 (`Comparison.mde`). No adjustment.
    """
    if baseline not in set(topics["system"]):
        raise InputError(f"no system {baseline!r}; there are {', '.join(topics['system'].unique())}")
    sums = _sums(topics)
    rows = []
    for system in sorted(sums, key=lambda name: (name != baseline, not name.startswith(f"{baseline}/"), name)):
        part = topics[topics["system"] == system]
        row = {"system": system, "topics": part["topic"].nunique(), **part.groupby("measure")["value"].mean()}
        if system != baseline:
            found = compare(sums[system], sums[baseline], setting="monolingual", measure=MAIN, n_resamples=RESAMPLES)
            row |= {"low": found.low, "high": found.high, "detectable": found.mde}
            row[f"minus {baseline}"] = found.difference
        rows.append(row)
    columns = ["system", "topics", *MEASURES, f"minus {baseline}", "low", "high", "detectable"]
    return pd.DataFrame(rows, columns=columns)


def pair_table(topics: pd.DataFrame) -> pd.DataFrame:
    """Return nDCG@10 of every trained model minus every other's, by topic: columns a, b, difference, low, high, detectable.

    Trained are the systems other than `none`, BM25 and free fixes. As in `system_table`; empty for fewer than two models.
    """
    names = sorted(name for name in topics["system"].unique() if "/" not in name and name != "none" and name not in LEXICAL)
    sums = _sums(topics[topics["system"].isin(names)])
    rows = []
    for a, b in combinations(names, 2):
        found = compare(sums[a], sums[b], setting="monolingual", measure=MAIN, n_resamples=RESAMPLES)
        rows.append(
            {"a": a, "b": b, "difference": found.difference, "low": found.low, "high": found.high, "detectable": found.mde}
        )
    return pd.DataFrame(rows, columns=["a", "b", "difference", "low", "high", "detectable"])


def variant_table(topics: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Return what the systems of another variant of the corpus lose or gain, by topic: `other` minus `topics`.

    Both as `read_topics` returns them; systems that only one of them has are left out. Columns: system, nDCG@10 and R@100
    under the names of both tasks, then difference (nDCG@10), low, high and detectable as in `system_table`.
    """
    names = [name for name in other["system"].unique() if name in set(topics["system"])]
    sums = [_sums(table[table["system"].isin(names)]) for table in (topics, other)]
    rows = []
    for name in names:
        row: dict[str, object] = {"system": name}
        for measure in MEASURES[:2]:
            for table in (topics, other):
                part = table[(table["system"] == name) & (table["measure"] == measure)]
                row[f"{measure}, {part['task'].iloc[0]}"] = part["value"].mean()
        found = compare(sums[1][name], sums[0][name], setting="monolingual", measure=MAIN, n_resamples=RESAMPLES)
        rows.append({**row, "difference": found.difference, "low": found.low, "high": found.high, "detectable": found.mde})
    return pd.DataFrame(rows)


def _sums(topics: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the sums of every system, each topic a group of its own."""
    return {
        str(system): metrics.group_sums(
            part.assign(group=part["topic"], setting="monolingual", query_lang="topics", pool="topics", query_id=part["topic"])
        )
        for system, part in topics.groupby("system", sort=False)
    }


def published(lang: str) -> pd.DataFrame:
    """Return the published figures of one language: system, nDCG@10, R@100, zero_shot (`no`: trained on MIRACL itself)."""
    table = pd.read_csv(Path(__file__).parent / "data" / "miracl_published.csv")
    return table[table["lang"] == lang].drop(columns="lang").reset_index(drop=True)
