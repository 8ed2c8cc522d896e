"""TREC's files: rankings and judgements as trec_eval reads them, and any other system's rankings.

A line of a run is `query Q0 passage rank score tag`; the score orders, the rank and the tag are not
read, as in trec_eval.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from xir_lib.data.records import RetrievalTask
from xir_lib.errors import InputError
from xir_lib.paths import atomic_path, require

QUERY, Q0, DOC, RANK, SCORE, TAG = range(6)


@dataclass(frozen=True)
class Run:
    """A system's rankings of a task: per query, in the task's order, what it lists and how high.

    >>> run = Run(Path("x.run"), "", [([1], [0.5])], n_passages=2)
    >>> (run.scores(slice(None)) < 0.5).tolist()
    [[True, False]]
    """

    path: Path
    sha256: str
    listed: list[tuple[list[int], list[float]]]  # rows of passages, and their scores
    n_passages: int

    @property
    def name(self) -> str:
        """The file's name, which stands where a model's would."""
        return self.path.name

    def key(self) -> dict[str, str | int]:
        """Return what identifies a result of this run."""
        fewest = min(len(rows) for rows, _ in self.listed)
        return {
            "file": self.name,
            "sha256": self.sha256,
            "fewest_passages": fewest,
            "unlisted": "behind the listed, as tied",
        }

    def scores(self, queries: slice) -> np.ndarray:
        """Return the scores of these queries, (n, n_passages) float32, in the passages' order.

        What a query does not list is tied behind all that it lists.
        """
        block = self.listed[queries]
        scores = np.empty((len(block), self.n_passages), dtype=np.float32)
        for row, (docs, values) in zip(scores, block, strict=True):
            given = np.array(values, dtype=np.float32)
            row[:] = np.nextafter(given.min(), np.float32(-np.inf))
            row[docs] = given
        return scores


def read_run(path: Path, task: RetrievalTask) -> Run:
    """Read a run over the task's passages of all languages.

    Every query needs a line. A line without six columns, with a query or passage that the task does
    not have, with a passage that the query has already, or with a score that is no finite number is
    refused by its number.
    """
    content = require(Path(path), "name a file of TREC's six columns").read_bytes()
    queries = {name: row for row, name in enumerate(task.queries["query_id"].to_pylist())}
    passages = {name: row for row, name in enumerate(task.passages["doc_id"].to_pylist())}
    found: list[dict[int, float]] = [{} for _ in queries]
    for number, line in enumerate(content.decode("utf-8", errors="replace").splitlines(), 1):
        columns = line.split()
        wrong = None
        if len(columns) != len((QUERY, Q0, DOC, RANK, SCORE, TAG)):
            wrong = f"{len(columns)} columns; a run has six: query Q0 passage rank score tag"
        elif columns[QUERY] not in queries:
            wrong = f"query {columns[QUERY]!r} is not in {task.name}"
        elif columns[DOC] not in passages:
            wrong = f"passage {columns[DOC]!r} is not in {task.name}"
        elif passages[columns[DOC]] in found[queries[columns[QUERY]]]:
            wrong = f"passage {columns[DOC]!r} is there twice for query {columns[QUERY]!r}"
        elif (score := _finite(columns[SCORE])) is None:
            wrong = f"the score {columns[SCORE]!r} is no finite number"
        else:
            found[queries[columns[QUERY]]][passages[columns[DOC]]] = score
        if wrong:
            raise InputError(f"{path}, line {number}: {wrong}")
    if missing := [name for name, row in queries.items() if not found[row]]:
        raise InputError(
            f"{path} ranks nothing for {len(missing)} of {len(queries)} queries, such as"
            f" {missing[0]!r}; add them"
        )
    listed = [(list(one), list(one.values())) for one in found]
    return Run(Path(path), hashlib.sha256(content).hexdigest(), listed, len(passages))


def _finite(text: str) -> float | None:
    """Return the number as float32 holds it."""
    try:
        with np.errstate(over="ignore"):
            value = float(np.float32(text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def write_run(path: Path, task: RetrievalTask, rows: np.ndarray, scores: np.ndarray) -> None:
    """Write passage rows and scores, (n_queries, depth) each, best first, in TREC's six columns."""
    doc_ids, query_ids = task.passages["doc_id"].to_pylist(), task.queries["query_id"].to_pylist()
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for query_id, row, score in zip(query_ids, rows, scores, strict=True):
            file.writelines(
                f"{query_id} Q0 {doc_ids[doc]} {rank} {value:.9g} xir\n"
                for rank, (doc, value) in enumerate(zip(row, score, strict=True), 1)
            )


def write_qrels(path: Path, task: RetrievalTask) -> None:
    """Write the judgements in TREC's four columns (query, 0, passage, grade), atomically."""
    columns = (task.qrels[name].to_pylist() for name in ("query_id", "doc_id", "relevance"))
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(
            f"{query_id} 0 {doc_id} {grade}\n"
            for query_id, doc_id, grade in zip(*columns, strict=True)
        )


def check_depth(task: RetrievalTask, depth: int) -> None:
    """Refuse a run that is deeper than the pool, and ids that TREC's files cannot hold."""
    if depth > task.passages.num_rows:
        raise InputError(
            f"--trec-run {depth} is deeper than the pool, {task.passages.num_rows} passages"
        )
    for table, column in ((task.queries, "query_id"), (task.passages, "doc_id")):
        blank = table.filter(pc.match_substring_regex(table[column], r"\s"))
        if blank.num_rows:
            raise InputError(
                f"{column} {blank[column][0].as_py()!r} holds white space, which ends an id in"
                " TREC's files; write the ids without or leave the run out"
            )
