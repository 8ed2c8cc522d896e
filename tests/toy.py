"""A separable toy: ids are letters, languages are suffixes; questions and passages of an id share
its letters.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from xir_lib.data.records import (
    PAIR_SCHEMA,
    PASSAGE_SCHEMA,
    QREL_SCHEMA,
    QUERY_SCHEMA,
    PairTable,
    RetrievalTask,
)
from xir_lib.metrics.ranks import RelevantRanks, relevant_ranks
from xir_lib.metrics.scores import Block, Judged, tie_order, top_lists, vector_blocks

if TYPE_CHECKING:
    from xir_lib.encoders.encoder import Encoder

LANGS = {"xx": "n", "yy": "o", "zz": "p"}
IDS = [f"{a} {b}" for a in "abcdefgh" for b in "ijklm"]  # 40 ids of two letters

# of a training that learns the toy in a second
SETTINGS: dict[str, Any] = {
    "strategy": "hybrid-0.5",
    "seed": 1,
    "steps": 40,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "temperature": 0.1,
    "max_seq_length": 16,
}


def toy_pairs(ids: list[str] = IDS) -> PairTable:
    rows = [
        {
            "pair_id": name.replace(" ", ""),
            "lang": lang,
            "query": f"{name} {letter}",
            "passage_id": name,
            "passage": f"{letter} {name} {name}",
            "group": name[0],
        }
        for name in ids
        for lang, letter in LANGS.items()
    ]
    return PairTable(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA))


def toy_task(name: str = "toy", ids: list[str] = IDS[::2]) -> RetrievalTask:
    rows = toy_pairs(ids).table.to_pylist()
    queries = [
        {
            "query_id": f"{r['pair_id']}-{r['lang']}",
            **{key: r[key] for key in ("pair_id", "lang", "group")},
            "text": r["query"],
        }
        for r in rows
    ]
    passages = [
        {"doc_id": f"{r['pair_id']}-{r['lang']}", "lang": r["lang"], "text": r["passage"]}
        for r in rows
    ]
    qrels = [
        {"query_id": q["query_id"], "doc_id": f"{q['pair_id']}-{lang}", "relevance": 1}
        for q in queries
        for lang in LANGS
    ]
    return RetrievalTask(
        name,
        pa.Table.from_pylist(queries, schema=QUERY_SCHEMA),
        pa.Table.from_pylist(passages, schema=PASSAGE_SCHEMA),
        pa.Table.from_pylist(qrels, schema=QREL_SCHEMA),
    )


def judged_of(
    langs: ArrayLike,
    query_rows: ArrayLike,
    doc_rows: ArrayLike,
    ties: ArrayLike,
    gains: ArrayLike | None = None,
    n_queries: int | None = None,
) -> Judged:
    """Return what a task's `judged` would be, from plain lists."""
    rows = np.asarray(query_rows)
    grades = np.ones_like(rows) if gains is None else np.asarray(gains)
    count = int(rows.max()) + 1 if n_queries is None else n_queries
    return Judged(rows, np.asarray(doc_rows), grades, np.asarray(langs), np.asarray(ties), count)


def vector_ranks(
    queries: ArrayLike,
    docs: ArrayLike,
    langs: ArrayLike,
    query_rows: ArrayLike,
    doc_rows: ArrayLike,
    ties: ArrayLike,
    *,
    gains: ArrayLike | None = None,
    top: int = 0,
) -> RelevantRanks:
    """Rank by the dot products of vectors."""
    judged = judged_of(langs, query_rows, doc_rows, ties, gains)
    return relevant_ranks(vector_blocks(np.asarray(queries), np.asarray(docs), judged), judged, top)


def vector_lists(
    queries: ArrayLike, docs: ArrayLike, doc_ids: list[str], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """List the first k passages by the dot products of vectors, all in one language."""
    rows, none = np.arange(len(np.asarray(queries))), np.zeros(len(doc_ids), int)
    judged = judged_of(none, rows, np.zeros_like(rows), tie_order(doc_ids))
    return top_lists(vector_blocks(np.asarray(queries), np.asarray(docs), judged), judged, k)


def score_blocks(scores: np.ndarray, judged: Judged, size: int = 3) -> list[Block]:
    """Return blocks of finished scores, (n_queries, n_docs), passages in the task's order."""
    parts = np.array_split(np.arange(len(scores)), -(-len(scores) // size))
    return [Block(rows, lambda rows=rows: scores[rows][:, judged.columns]) for rows in parts]


def judge(
    encoder: "Encoder",
    task: RetrievalTask,
    out: Path,
    kind: str = "none",
    fit: str = "foreign",
    fit_on: Sequence[RetrievalTask] = (),
    fit_texts: int | None = None,
    trec_run: int = 0,
) -> dict[str, Any]:
    """Evaluate an encoder with a repair."""
    from xir_lib.evaluation.evaluate import evaluate
    from xir_lib.evaluation.systems import repaired
    from xir_lib.repair.repair import Repair

    repair = Repair(kind, fit, tuple(fit_on), fit_texts)
    return evaluate(repaired(encoder, task, [repair])[repair.folder], out, trec_run=trec_run)
