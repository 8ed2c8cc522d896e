"""Tables of MIRACL evaluations: ours per system with intervals over topics and seeds, beside
published ones of the full corpus.

A folder holds what `xir evaluate --task miracl-LANG --out FOLDER/NAME` wrote, one subfolder per
model and rivals inside it. Models trained several times, PROFILE-STRATEGY-sSEED, are one system
each over its seeds. The published figures (`data/miracl_published.csv`) are nDCG@10 and recall of
the BGE-M3 paper, of pyserini's reproductions and of mteb's results, on the full corpus; a pool of
hard negatives would be another table. A hundred topics separate few systems: the table is
descriptive, and says what difference it could have detected. Knows no texts and no model.
"""

import json
from itertools import combinations
from pathlib import Path

import pandas as pd

from xir_lib.errors import InputError
from xir_lib.evaluation.compare import sums_by_seed
from xir_lib.metrics.significance import Comparison, compare
from xir_lib.paths import require
from xir_lib.repair.kinds import LEXICAL, kind_of
from xir_lib.study.tables import HYBRID, PURE, trainings

MEASURES = ("nDCG@10", "R@100", "MRR@10")
MAIN = MEASURES[0]
RESAMPLES = 10_000


def read_topics(folder: Path) -> pd.DataFrame:
    """Return the per-topic values of every evaluation in `folder`: task, system, seed, topic,
    measure, value.

    A system is the evaluation's place in the folder, `none/centring` for a rival of `none`, or the
    name of BM25, which needs no model. Folders NAME-sSEED are trainings of one system NAME
    (`tables.trainings`); the others have no seed (NA). Evaluations of different tasks are refused,
    since their pools do not compare, and so are texts cut at different lengths.
    """
    folder = Path(folder)
    paths = sorted(file.parent for file in folder.rglob("metrics.json"))
    told = {path: json.loads((path / "metrics.json").read_text(encoding="utf-8")) for path in paths}
    if not told:
        raise InputError(
            f"{folder} holds no metrics.json; `xir evaluate --task miracl-yo --out {folder}/none`"
            " writes one"
        )
    if len(tasks := sorted({metrics_of["task"] for metrics_of in told.values()})) > 1:
        raise InputError(f"{folder} holds evaluations of {', '.join(tasks)}; give one task's")
    rivals = {path: kind_of(metrics_of["config"]) for path, metrics_of in told.items()}
    cut = {
        told[path]["config"]["max_seq_length"]
        for path, rival in rivals.items()
        if not rival.lexical
    }
    if len(cut) > 1:
        raise InputError(
            f"{folder} holds evaluations of texts cut at {', '.join(map(str, sorted(cut)))} tokens;"
            " give one length's"
        )
    names = {
        path: path.relative_to(folder).as_posix()
        for path, rival in rivals.items()
        if not rival.lexical
    }
    trained = trainings(names.values())
    frames, lexical = [], set[str]()
    for path, rival in rivals.items():
        if rival.name in lexical:
            raise InputError(f"{folder} holds {rival.name} twice; keep one")
        if rival.lexical:
            lexical.add(rival.name)
        system, seed = trained[names[path]] if path in names else (rival.name, None)
        values = _values(path).assign(task=tasks[0], system=system)
        frames.append(values.assign(seed=pd.array([seed] * len(values), dtype="Int64")))
    return pd.concat(frames, ignore_index=True)[
        ["task", "system", "seed", "topic", "measure", "value"]
    ]


def _values(path: Path) -> pd.DataFrame:
    """Return topic, measure and value of one evaluation: of `per_query.parquet`, or without it of
    `group_sums.parquet`.

    A topic of MIRACL is a group of its own, so that the sums of a group are its values.
    """
    if (path / "per_query.parquet").exists():
        found = pd.read_parquet(path / "per_query.parquet").rename(columns={"query_id": "topic"})
    else:
        sums = pd.read_parquet(require(path / "group_sums.parquet", "evaluate again"))
        if (sums.loc[sums["setting"] == "monolingual", "n"] > 1).any():
            raise InputError(
                f"{path / 'group_sums.parquet'} holds groups of several topics; add"
                " per_query.parquet"
            )
        found = sums.rename(columns={"group": "topic", "total": "value"})
    found = found.query("setting == 'monolingual' and measure in @MEASURES")
    found = found[["topic", "measure", "value"]].astype({"topic": str, "measure": str})
    if missing := [measure for measure in MEASURES if measure not in set(found["measure"])]:
        raise InputError(f"{path} has no {', '.join(missing)} of single topics; evaluate again")
    return found


def system_table(topics: pd.DataFrame, baseline: str = "none") -> pd.DataFrame:
    """Return a row per system: the mean of each measure over topics and seeds, and nDCG@10 minus
    the baseline's, by topic.

    The baseline comes first, then its free fixes, then BM25, then the others by name.

    Columns: system, seeds (0: no numbered training), topics, the measures, lowest and highest
    (nDCG@10 over the seeds), `minus BASELINE`, low and high (95 % interval over topics and, if
    there are several, seeds) and detectable, the least difference that so many topics and seeds
    find with power .8 (`Comparison.mde`). No adjustment.
    """
    systems = {str(name): part for name, part in topics.groupby("system")}
    if baseline not in systems:
        raise InputError(
            f"no system {baseline!r}; there are {', '.join(topics['system'].unique())}"
        )
    rows = []
    for system in sorted(
        systems,
        key=lambda name: (
            name != baseline,
            not name.startswith(f"{baseline}/"),
            name not in LEXICAL,
            name,
        ),
    ):
        part = systems[system]
        by_seed = part[part["measure"] == MAIN].groupby("seed")["value"].mean()
        row = {"system": system, "seeds": len(by_seed), "topics": part["topic"].nunique()}
        row |= {
            **part.groupby("measure")["value"].mean(),
            "lowest": by_seed.min(),
            "highest": by_seed.max(),
        }
        if system != baseline:
            row |= _told(_minus(part, systems[baseline]), f"minus {baseline}")
        rows.append(row)
    columns = [
        "system",
        "seeds",
        "topics",
        MAIN,
        "lowest",
        "highest",
        *MEASURES[1:],
        f"minus {baseline}",
    ]
    return pd.DataFrame(rows, columns=[*columns, "low", "high", "detectable"]).astype(
        {"lowest": float, "highest": float}
    )


def pair_table(topics: pd.DataFrame) -> pd.DataFrame:
    """Return nDCG@10 of hybrid minus each pure strategy, and of these, per profile: the models
    PROFILE-STRATEGY that are there.

    Columns: profile, a, b, seeds (those that both have), difference, low, high, detectable as in
    `system_table`. Free fixes are left out.
    """
    systems = {str(name): part for name, part in topics.groupby("system")}
    rows = []
    for profile in dict.fromkeys(name.partition("-")[0] for name in sorted(systems)):
        for a, b in combinations((HYBRID, *PURE), 2):
            sides = [
                systems[name] for name in (f"{profile}-{a}", f"{profile}-{b}") if name in systems
            ]
            if len(sides) == 2:
                found = _minus(*sides)
                rows.append(
                    {
                        "profile": profile,
                        "a": a,
                        "b": b,
                        "seeds": len(found.per_seed),
                        **_told(found),
                    }
                )
    return pd.DataFrame(
        rows, columns=["profile", "a", "b", "seeds", "difference", "low", "high", "detectable"]
    )


def training_table(topics: pd.DataFrame) -> pd.DataFrame:
    """Return nDCG@10 of a strategy on one profile's training text minus the same strategy on
    another's: PROFILE-STRATEGY.

    Columns: strategy, a, b (profiles), seeds (those that both have), difference, low, high,
    detectable as in `system_table`. Free fixes are left out.
    """
    systems = {str(name): part for name, part in topics.groupby("system")}
    rows = []
    for strategy in (*PURE, HYBRID):
        profiles = sorted(
            name.removesuffix(f"-{strategy}") for name in systems if name.endswith(f"-{strategy}")
        )
        for a, b in combinations(profiles, 2):
            found = _minus(systems[f"{a}-{strategy}"], systems[f"{b}-{strategy}"])
            rows.append(
                {"strategy": strategy, "a": a, "b": b, "seeds": len(found.per_seed), **_told(found)}
            )
    return pd.DataFrame(
        rows, columns=["strategy", "a", "b", "seeds", "difference", "low", "high", "detectable"]
    )


def fix_table(topics: pd.DataFrame) -> pd.DataFrame:
    """Return nDCG@10 of every system with a free fix minus the same system without it.

    Columns: system, free fix, seeds, difference, low, high, detectable as in `system_table`.
    """
    systems = {str(name): part for name, part in topics.groupby("system")}
    rows = []
    for name in sorted(
        name for name in systems if "/" in name and name.rpartition("/")[0] in systems
    ):
        plain, _, fix = name.rpartition("/")
        found = _minus(systems[name], systems[plain])
        seeds = systems[name]["seed"].nunique()
        rows.append({"system": plain, "free fix": fix, "seeds": seeds, **_told(found)})
    return pd.DataFrame(
        rows, columns=["system", "free fix", "seeds", "difference", "low", "high", "detectable"]
    )


def machines(folder: Path) -> str:
    """Say on which machine, and in which precision, the models of a folder of `read_topics` were
    judged.
    """
    judged: dict[str, set[str]] = {}
    for file in sorted(Path(folder).rglob("metrics.json")):
        config = json.loads(file.read_text(encoding="utf-8"))["config"]
        if kind_of(config).name == "none":
            where = f"{config['environment']['device']}, {config['precision']}"
            name = file.parent.relative_to(folder).as_posix()
            judged.setdefault(where, set()).add(trainings([name])[name][0])
    return "; ".join(f"{where}: {', '.join(sorted(names))}" for where, names in judged.items())


def variant_table(topics: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Return what the systems of another variant of the corpus lose or gain, by topic: `other`
    minus `topics`.

    Both as `read_topics` returns them; systems, and seeds of them, that only one of them has are
    left out. Columns: system, nDCG@10 and R@100 under the names of both tasks, then difference
    (nDCG@10), low, high and detectable as in `system_table`.
    """
    rows = []
    for name in (name for name in other["system"].unique() if name in set(topics["system"])):
        row: dict[str, object] = {"system": name}
        sides = _same_seeds(*(table[table["system"] == name] for table in (topics, other)))
        for measure in MEASURES[:2]:
            for part in sides:
                row[f"{measure}, {part['task'].iloc[0]}"] = part.loc[
                    part["measure"] == measure, "value"
                ].mean()
        rows.append({**row, **_told(_minus(sides[1], sides[0]))})
    return pd.DataFrame(rows)


def _same_seeds(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return two systems' values with the seeds that both have; one without seeds stands beside
    each of the other's.
    """
    if a["seed"].isna().any() or b["seed"].isna().any():
        return a, b
    shared = set(a["seed"]) & set(b["seed"])
    if not shared:
        named = " and ".join(part["system"].iloc[0] for part in (a, b))
        raise InputError(f"{named} have no seed in common; evaluate trainings of the same seeds")
    return a[a["seed"].isin(shared)], b[b["seed"].isin(shared)]


def _minus(a: pd.DataFrame, b: pd.DataFrame) -> Comparison:
    """Compare two systems' nDCG@10 over topics and the seeds that both have."""
    sums = [_sums(part) for part in _same_seeds(a, b)]
    return compare(*sums, setting="monolingual", measure=MAIN, n_resamples=RESAMPLES)


def _told(found: Comparison, name: str = "difference") -> dict[str, float]:
    """Return what the tables say of a comparison."""
    return {name: found.difference, "low": found.low, "high": found.high, "detectable": found.mde}


def _sums(part: pd.DataFrame) -> pd.DataFrame:
    """Return the sums of one system, each topic a group of its own, by seed if it has seeds."""
    part = part.assign(
        group=part["topic"],
        setting="monolingual",
        query_lang="topics",
        pool="topics",
        query_id=part["topic"],
    )
    return sums_by_seed(part.drop(columns="seed") if part["seed"].isna().any() else part)


def published(lang: str) -> pd.DataFrame:
    """Return the published figures of one language: system, nDCG@10, R@100, zero_shot (`no`:
    trained on MIRACL itself).
    """
    table = pd.read_csv(Path(__file__).with_name("miracl_published.csv"))
    return table[table["lang"] == lang].drop(columns="lang").reset_index(drop=True)
