"""What foreign passages do to a corpus of one language: pools of a fixed size, a growing share of
them foreign.

`robustness.mixed_rows` says which passages a pool holds. Here a model, or BM25, ranks every pool,
and tables come out of the files. In a pool of size N with the share f foreign, three figures belong
together: the topics in that pool (*mixed*), in its own-language passages alone (*alone*), and in
the pool of N own-language passages (share 0). Mixed minus alone is what the foreign passages cost;
the pool of share 0 minus alone is what as many passages of the topics' own language cost, the
control. All texts are embedded once, and every pool takes its rows. Knows no data set.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tqdm.auto import tqdm

from xir_lib.data.records import PASSAGE_SCHEMA, RetrievalTask
from xir_lib.encoders.encoder import Encoder, encoder_key
from xir_lib.errors import InputError
from xir_lib.evaluation.compare import sums_by_seed
from xir_lib.evaluation.evaluate import context_of
from xir_lib.evaluation.systems import Dense, Lexical, Merged, System, repaired
from xir_lib.metrics import measures as metrics
from xir_lib.metrics.measures import places
from xir_lib.metrics.ranks import IntArray, RelevantRanks
from xir_lib.metrics.significance import compare
from xir_lib.paths import atomic_path
from xir_lib.record import environment, write_json
from xir_lib.repair.kinds import LEXICAL
from xir_lib.repair.repair import Repair
from xir_lib.study.tables import trainings

FOREIGN = (
    "belebele",
    "xquad-contexts",
    "mlqa-contexts",
)  # paragraphs, no sentences; none is in Yoruba
SHARES = (0.0, 0.25, 0.5, 0.75, 0.9)
SIZE, DRAWS = 20_000, 5
MEASURES = ("nDCG@10", "R@100")
MAIN = MEASURES[0]
EXAMPLES = 50
VERDICTS = (
    "answers",
    "names",
    "neither",
)  # a foreign passage answers the query, names what it asks about, or does neither
POOLS = {"monolingual": "alone", "multilingual": "mixed"}  # by setting of the mixed pool


class Plan(NamedTuple):
    """What `plan` made ready: the task, the foreign passages, both in one task, the rivals, and the
    rows of every pool.
    """

    task: RetrievalTask
    foreign: pa.Table
    union: RetrievalTask
    rivals: list[str]
    fit_on: Sequence[RetrievalTask]
    size: int
    rows: dict[
        tuple[float, int], NDArray[np.int64]
    ]  # by share and draw, into the passages of `union`


class Pools(NamedTuple):
    """What `read` found: a row per (model, rival, share, draw, pool, topic, measure), and one per
    passage language.
    """

    topics: pd.DataFrame
    intruders: pd.DataFrame


def plan(
    task: RetrievalTask,
    foreign: pa.Table,
    *,
    rivals: Sequence[str] = ("none",),
    fit_on: Sequence[RetrievalTask] = (),
    shares: Sequence[float] = SHARES,
    size: int = SIZE,
    draws: int = DRAWS,
) -> Plan:
    """Choose the passages of every pool, and refuse what cannot be measured, before anything is
    encoded.

    Args:
        task: queries and passages of one language.
        foreign: passages in other languages, see `robustness.mixed_rows`.
        rivals: names of repairs, or of BM25. Means are the `corpus` fit: of passages from the
            task's and the foreign passages, each language by itself, of queries from `fit_on`.
        fit_on: tasks that have queries in the task's language.
        shares: of the places that judged passages leave.
        size: passages in every pool.
        draws: pools per share; the same for all models.
    """
    asked = task.queries["lang"].unique().to_pylist()
    if len(task.languages) != 1 or asked != task.languages:
        raise InputError(
            f"{task.name} has queries in {', '.join(asked)} and passages in"
            f" {', '.join(task.languages)}; mixed pools need a task of one language"
        )
    if task.queries.num_rows < 2:
        raise InputError(f"{task.name} has one query; an interval needs at least 2, better 20")
    if not shares or draws < 1:
        raise InputError(
            f"mixed pools need a share and a draw at least, got {list(shares)} and {draws} draws"
        )
    union = RetrievalTask(
        f"{task.name}+foreign", task.queries, pa.concat_tables([task.passages, foreign]), task.qrels
    )
    for repair in _repairs(rivals, fit_on):
        repair.check(union)
    rows = {
        (s, d): mixed_rows(task, foreign, s, size, draw=d)
        for s in sorted(set(shares))
        for d in range(draws)
    }
    return Plan(task, foreign, union, list(rivals), fit_on, size, rows)


def measure(encoder: Encoder, planned: Plan, out: Path) -> dict[str, Any]:
    """Rank the queries in every pool of a plan and write `mixed.json`, `topics.parquet`,
    `intruders.csv` and examples.

    `encoder` gives the vectors; BM25 takes at most its tokenizer. `examples.csv` lists foreign
    passages in the first ten of the first rival at the largest share: query, rank, passage and its
    language, so that somebody can see whether they answer the query; `examples.md` has their texts,
    which are others' and not for committing. Returns what `mixed.json` holds.
    """
    out, task, union = Path(out), planned.task, planned.union
    if below := [path for path in out.rglob("mixed.json") if path.parent != out]:
        raise InputError(f"{out} holds pools of its own in {below[0].parent}; name another folder")
    (out / "mixed.json").unlink(missing_ok=True)
    systems = _systems(encoder, planned)
    topics, languages = [], []
    keys: dict[str, dict[str, Any]] = {}
    examples: list[dict[str, Any]] = []
    with tqdm(
        total=len(planned.rivals) * len(planned.rows), desc="mixed pools", unit="pool"
    ) as bar:
        for rival, system in systems.items():
            key = system.key()
            kept = {name: value for name, value in key.items() if name in ("merge", "bm25")}
            keys[rival] = {"fit": key["repair_fit"], **kept}
            for (share, draw), rows in planned.rows.items():
                pool = mixed_pool(
                    union, rows, f"{task.name}-pool{planned.size}-foreign{share:g}-draw{draw}"
                )
                inside = system.within(pool, rows)
                values, counts = _values(inside)
                told: dict[str, Any] = {"rival": rival, "share": share, "draw": draw}
                topics.append(values.assign(**told))
                languages.append(counts.assign(own=counts["doc_lang"] == task.languages[0], **told))
                if rival == planned.rivals[0] and (share, draw) == (max(planned.rows)[0], 0):
                    examples = _examples(pool, inside.best(inside.top)[0])
                bar.update()
    result = {
        "task": task.name,
        "model": encoder.name,
        "size": planned.size,
        "shares": sorted({share for share, _ in planned.rows}),
        "draws": len({draw for _, draw in planned.rows}),
        "judged": len(task.qrels["doc_id"].unique()),
        "passages": {
            str(one["values"]): one["counts"]
            for one in union.passages["lang"].value_counts().to_pylist()
        },
        "passages_sha256": _digest(union.passages),
        "config": {
            "rivals": keys,
            **encoder_key(encoder),
            "context": context_of(task),
            "environment": environment(encoder.precision, encoder.rates),
        },
    }
    out.mkdir(parents=True, exist_ok=True)
    table = pd.concat(topics, ignore_index=True)
    for column in table.columns.difference(["value"]):
        table[column] = table[column].astype("category")
    with atomic_path(out / "topics.parquet") as temporary:
        table.to_parquet(temporary, index=False, compression="brotli")
    counted = pd.concat(languages, ignore_index=True).round(
        {"share_of_top": 6, "pool_share": 6, "queries": 6}
    )
    listed = pd.DataFrame(examples, columns=["query_id", "rank", "doc_id", "doc_lang"])
    for name, table in (("intruders", counted), ("examples", listed)):
        with atomic_path(out / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False)
    with atomic_path(out / "examples.md") as temporary:
        lines = (
            f"1. **{one['query']}** rank {one['rank']}, {one['doc_lang']}: {one['passage']}\n"
            for one in examples
        )
        temporary.write_text("".join(lines), encoding="utf-8")
    write_json(out / "mixed.json", result)  # last: its presence says that the rest is complete
    return result


def read(folder: Path) -> Pools:
    """Read every `measure` in `folder`, a subfolder per model, `none` first; other tasks, sizes or
    texts are refused.
    """
    folder = Path(folder)
    topics, found, keys = [], [], {}
    paths = (file.parent for file in folder.rglob("mixed.json"))
    for path in sorted(paths, key=lambda path: (path.name != "none", path)):
        model = folder.name if path == folder else path.relative_to(folder).as_posix()
        told = json.loads((path / "mixed.json").read_text(encoding="utf-8"))
        keys[model] = {
            name: told[name] for name in ("task", "size", "shares", "draws", "passages_sha256")
        }
        topics.append(
            pd.read_parquet(path / "topics.parquet")
            .astype({"share": float, "draw": int})
            .assign(model=model)
        )
        found.append(pd.read_csv(path / "intruders.csv").assign(model=model))
    if not keys:
        raise InputError(f"{folder} holds no mixed.json; `xir mix --out {folder}/none` writes one")
    for model, key in keys.items():
        if key != (first := next(iter(keys.values()))):
            what = next(name for name in key if key[name] != first[name])
            raise InputError(
                f"{folder}: {model} and {next(iter(keys))} differ in {what}; give pools that are"
                " the same"
            )
    return Pools(pd.concat(topics, ignore_index=True), pd.concat(found, ignore_index=True))


def cost_table(pools: Pools, *, n_resamples: int = 10_000) -> pd.DataFrame:
    """Return a row per model, rival and share: nDCG@10 mixed and alone, and what foreign and own
    passages cost.

    Folders NAME-sSEED are trainings of one model NAME (`tables.trainings`), and all numbers means
    over them.

    Columns: model, seeds (0: no numbered training), rival, share, mixed, alone, `foreign cost`
    (mixed - alone) with low and high (95 % interval over topics and, if there are several, seeds,
    of the mean over draws), `own cost` (the pool of share 0 - alone, NaN without that share),
    spread (standard deviation over draws of `foreign cost`, of the choice of passages alone),
    intruders (foreign part of the first ten), and `pool share` (foreign part of the pool: what a
    ranking blind to language and content gives).
    """
    rows = []
    main = pools.topics[pools.topics["measure"].astype(str) == MAIN]
    trained = trainings(main["model"].unique())
    systems = main["model"].map(lambda run: trained[run][0]).rename("system")
    for (model, rival), part in main.astype({"rival": str}).groupby([systems, "rival"], sort=False):
        runs = list(part["model"].unique())
        columns = ["pool", "share", "draw"]
        values = part.pivot_table(
            index=["model", "topic"], columns=columns, values="value", observed=True
        )
        full = values["mixed"][0.0].to_numpy().mean() if 0.0 in values["mixed"] else np.nan
        for share in sorted(part["share"].unique()):
            mixed, alone = (
                values["mixed"][share],
                values["alone"][share],
            )  # (runs and topics, draws)
            sums = [_by_topic(one.mean(axis=1)) for one in (mixed, alone)]
            cost = compare(*sums, setting="monolingual", measure=MAIN, n_resamples=n_resamples)
            there = pools.intruders.query("model in @runs and rival == @rival and share == @share")
            if set(there["model"]) != set(runs):
                raise InputError(
                    f"{model}, {rival}: no languages counted at share {share}; measure the pools"
                    " again"
                )
            foreign = (
                there[~there["own"]]
                .groupby(["model", "draw"])[["share_of_top", "pool_share"]]
                .sum()
            )
            rows.append(
                {
                    "model": model,
                    "seeds": sum(trained[run][1] is not None for run in runs),
                    "rival": rival,
                    "share": share,
                    "mixed": mixed.to_numpy().mean(),
                    "alone": alone.to_numpy().mean(),
                    "foreign cost": cost.difference,
                    "low": cost.low,
                    "high": cost.high,
                    "own cost": full - alone.to_numpy().mean(),
                    "spread": (mixed - alone).mean().std(),
                    "intruders": foreign["share_of_top"].mean() if len(foreign) else 0.0,
                    "pool share": foreign["pool_share"].mean() if len(foreign) else 0.0,
                }
            )
    return pd.DataFrame(rows)


def intruder_table(pools: Pools, rival: str = "none") -> pd.DataFrame:
    """Return whose passages the foreign ones among the first ten are, at the largest share; means
    over draws and trainings.

    Columns: language, pool share (its part of the pool, what a ranking blind to language and
    content gives), then its part of the first ten after each model, most of the first model's
    first. Names as in `cost_table`.
    """
    table = pools.intruders
    table = table[
        (table["rival"] == rival) & (table["share"] == table["share"].max()) & ~table["own"]
    ]
    trained = trainings(table["model"].unique())
    systems = table["model"].map(lambda run: trained[run][0])
    parts = (
        table.assign(system=systems)
        .groupby(["doc_lang", "system"])[["share_of_top", "pool_share"]]
        .mean()
        .unstack()
    )
    shown = parts["share_of_top"][systems.unique()].fillna(0.0)
    shown.insert(0, "pool share", parts["pool_share"].max(axis=1))
    return (
        shown.sort_values(shown.columns[1], ascending=False)
        .rename_axis(index="language", columns=None)
        .reset_index()
    )


def verdict_table(folder: Path) -> pd.DataFrame:
    """Return how many of a model's examples somebody read and what they are: the verdicts of
    `verdicts.csv` in `folder`.

    `verdicts.csv` is written by hand: query_id, doc_id and one of `VERDICTS`; a pair that several
    models have stands once. Columns: model (a folder of `measure`), foreign passages (in its
    `examples.csv`), read, answers, names, neither.
    """
    folder = Path(folder)
    verdicts = pd.read_csv(folder / "verdicts.csv", dtype=str)
    if wrong := sorted(set(verdicts["verdict"].fillna("nothing")) - {*VERDICTS}):
        raise InputError(f"{folder / 'verdicts.csv'} says {wrong[0]!r}; use {', '.join(VERDICTS)}")
    if verdicts.duplicated(["query_id", "doc_id"]).any():
        raise InputError(
            f"{folder / 'verdicts.csv'} has a query and passage twice; keep one verdict"
        )
    rows: list[dict[str, Any]] = []
    for path in sorted(
        folder.rglob("examples.csv"), key=lambda path: (path.parent.name != "none", path)
    ):
        listed = pd.read_csv(path, dtype=str).merge(verdicts, on=["query_id", "doc_id"], how="left")
        counts = {name: int((listed["verdict"] == name).sum()) for name in VERDICTS}
        model = path.parent.relative_to(folder).as_posix()
        rows.append(
            {
                "model": model,
                "foreign passages": len(listed),
                "read": sum(counts.values()),
                **counts,
            }
        )
    return pd.DataFrame(rows)


def _repairs(rivals: Sequence[str], fit_on: Sequence[RetrievalTask]) -> list[Repair]:
    """Return the repairs among the names; the others are BM25s."""
    return [Repair(name, "corpus", tuple(fit_on)) for name in rivals if name not in LEXICAL]


def _systems(encoder: Encoder, planned: Plan) -> dict[str, Dense | Merged | Lexical]:
    """Return a system over all passages per name of the plan."""
    union = planned.union
    repairs = _repairs(planned.rivals, planned.fit_on)
    dense = repaired(encoder, union, repairs)
    found = {repair.kind: dense[repair.folder] for repair in repairs}
    lexical = {name: Lexical(name, union, encoder) for name in planned.rivals if name in LEXICAL}
    return {name: {**found, **lexical}[name] for name in planned.rivals}


def _values(system: System) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the values per topic, in the pool and in its own-language part, and the languages of
    the first ten.
    """
    pool, frames = system.task, []
    for (setting, name), ranks in zip(POOLS.items(), system.ranks, strict=True):
        table = metrics.score_settings(ranks, pool.queries.to_pandas(), pool.languages, MEASURES)
        table = table[table["setting"] == setting].rename(columns={"query_id": "topic"})
        frames.append(
            table[["topic", "measure", "value"]]
            .astype({"topic": str, "measure": str})
            .assign(pool=name)
        )
    counts = intruders(system.ranks.together, pool.languages)
    return pd.concat(frames, ignore_index=True), counts.rename(columns={"share": "share_of_top"})


def _digest(passages: pa.Table) -> str:
    digest = hashlib.sha256()
    for name, text in zip(
        passages["doc_id"].to_pylist(), passages["text"].to_pylist(), strict=True
    ):
        digest.update(f"{name}\0{text}\0".encode())
    return digest.hexdigest()


def _examples(pool: RetrievalTask, best: IntArray) -> list[dict[str, Any]]:
    """Return up to `EXAMPLES` foreign passages among the first ones, `best`, chosen by a hash of
    query and passage.
    """
    passages, queries = pool.passages.to_pylist(), pool.queries.to_pylist()
    found = [
        {
            "query_id": query["query_id"],
            "rank": rank,
            "doc_id": passages[row]["doc_id"],
            "doc_lang": passages[row]["lang"],
            "query": query["text"],
            "passage": " ".join(passages[row]["text"].split()),
        }
        for query, first in zip(queries, best, strict=True)
        for rank, row in enumerate(first, 1)
        if passages[row]["lang"] != query["lang"]
    ]
    found.sort(
        key=lambda one: hashlib.sha256(f"{one['query_id']}|{one['doc_id']}".encode()).hexdigest()
    )
    return found[:EXAMPLES]


def _by_topic(values: pd.Series) -> pd.DataFrame:
    """Return one model's values by run and topic as `significance` takes them: each topic its own
    group, a run a seed.
    """
    run, topic = (values.index.get_level_values(name).astype(str) for name in ("model", "topic"))
    rows = {
        "query_id": topic,
        "group": topic,
        "setting": "monolingual",
        "query_lang": "topics",
        "pool": "topics",
    }
    return sums_by_seed(
        pd.DataFrame({**rows, "seed": run, "measure": MAIN, "value": values.to_numpy()})
    )


def mixed_rows(
    task: RetrievalTask, foreign: pa.Table, share: float, size: int, *, draw: int
) -> NDArray[np.int64]:
    """Choose a pool of `size` passages in which foreign ones replace a share of those that nobody
    judged.

    Args:
        task: its judged passages, of whatever relevance, are all in the pool.
        foreign: passages (`PASSAGE_SCHEMA`) of languages that the task's passages do not have.
        share: of the places that judged passages leave, the part that is foreign, rounded to whole
        passages.
        size: passages in the pool.
        draw: the number of the draw, which decides everything besides; the same for all models.

    Returns ascending row numbers into the task's passages followed by the foreign ones: embeddings
    of both, computed once, serve every pool. Within a draw the pools are nested: a larger share
    drops own-language passages and adds foreign ones. The languages take turns, so their shares are
    equal until one has no passage left; the others then fill its place. Passages come in the order
    of a hash of their ids, which depends neither on the order of the tables nor on other passages.
    """
    if not 0 <= share <= 1:
        raise InputError(f"share must be in [0, 1], got {share}")
    if not foreign.schema.equals(PASSAGE_SCHEMA):
        raise InputError(
            f"foreign passages have columns {', '.join(foreign.column_names)}; doc_id, lang and"
            " text are needed"
        )
    langs = foreign["lang"].to_numpy(zero_copy_only=False)
    if shared := sorted(set(langs) & set(task.languages)):
        raise InputError(
            f"foreign passages in {', '.join(shared)}, a language of {task.name}; leave them out"
        )
    judged = pc.is_in(task.passages["doc_id"], task.qrels["doc_id"].combine_chunks()).to_numpy()
    places_left = size - int(judged.sum())
    n_foreign = round(share * places_left)
    unjudged = np.flatnonzero(~judged)
    if places_left < 0:
        raise InputError(
            f"a pool of {size} cannot hold the {size - places_left} judged passages of {task.name};"
            " make it larger"
        )
    for what, there, needed in (
        ("unjudged passages", len(unjudged), places_left - n_foreign),
        ("foreign passages", len(langs), n_foreign),
    ):
        if there < needed:
            raise InputError(
                f"pool of {size} from {task.name}, share {share}: {needed} {what} are needed, there"
                f" are {there}"
            )
    own = unjudged[np.argsort(_hashes(task.passages["doc_id"], draw)[unjudged], kind="stable")]
    _, code = np.unique(langs.astype(str), return_inverse=True)
    turn = places(code, _hashes(foreign["doc_id"], draw)) if len(code) else code
    chosen = np.lexsort((code, turn))[:n_foreign]
    return np.sort(
        np.concatenate(
            [
                np.flatnonzero(judged),
                own[: places_left - n_foreign],
                task.passages.num_rows + chosen,
            ]
        )
    )


def mixed_pool(union: RetrievalTask, rows: NDArray[np.int64], name: str) -> RetrievalTask:
    """Return a task whose pool are the `rows` of `mixed_rows`, in that order, of a task that has
    all passages.

    Scored by `metrics.score_settings`, its setting `multilingual` is the mixed pool and
    `monolingual` the control, the same own-language passages without the foreign ones.
    """
    return RetrievalTask(name, union.queries, union.passages.take(rows), union.qrels)


def intruders(ranks: RelevantRanks, languages: Sequence[str]) -> pd.DataFrame:
    """Return how much of the first k places each passage language takes, from `relevant_ranks(...,
    top=k)`.

    Columns: doc_lang, share (of the first k, mean over queries), pool_share (what a random ranking
    gives), queries (the share of queries with at least one such passage). Of a mixed pool every
    language but the queries' own is an intruder.
    """
    if ranks.top_counts is None:
        raise InputError("the ranks hold no top k; give relevant_ranks top=10, for instance")
    if len(languages) != len(ranks.pool_sizes):
        raise InputError(
            f"{len(languages)} language names for {len(ranks.pool_sizes)} pools; name each code"
            " once"
        )
    return pd.DataFrame(
        {
            "doc_lang": list(languages),
            "share": ranks.top_counts.mean(axis=0) / ranks.top_counts[0].sum(),
            "pool_share": ranks.pool_sizes / ranks.pool_sizes.sum(),
            "queries": (ranks.top_counts > 0).mean(axis=0),
        }
    )


def _hashes(ids: pa.ChunkedArray, draw: int) -> NDArray[np.uint64]:
    digests = (hashlib.sha256(f"{draw}\n{name}".encode()).digest() for name in ids.to_pylist())
    return np.array([int.from_bytes(digest[:8], "big") for digest in digests], dtype=np.uint64)
