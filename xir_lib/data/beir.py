"""Read a user's own retrieval task from a BEIR folder whose records name their language, and say
where a file is wrong.

The layout is that of Thakur et al. (2021), with two or three keys more:

    corpus.jsonl       {"_id": "17b", "lang": "de", "title": "Eulen", "text": "Eulen fliegen
    nachts."} queries.jsonl      {"_id": "17q", "lang": "sw", "text": "Nani anaruka usiku?",
    "pair_id": "17", "group": "owls"} qrels/test.tsv     query-id <tab> corpus-id <tab> score, after
    a header

`pair_id` is equal for the translations of one question, `group` for the questions that resampling
keeps together (an article); without them every question is its own, and a group is a `pair_id`. A
task is **parallel**, and has a language bias that can be measured, if a query's relevant passages
are one in each of several languages: judge the translations too.

Ties are broken by passage id: let ids not begin with their language, or ties favour one. Knows no
model and no setting. Files are read line by line; the texts go into Arrow in blocks.
"""

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from xir_lib.data.readers import (
    _jsonl,
    _lines,
    _text,
    _title_and_text,
)  # how a user's files are read, with their line numbers
from xir_lib.data.records import PASSAGE_SCHEMA, QREL_SCHEMA, QUERY_SCHEMA, RetrievalTask
from xir_lib.errors import InputError

log = logging.getLogger(__name__)

_BLOCK = 1 << 14  # records that are Python objects at a time
_SCORES = range(-128, 128)  # what the qrels' 8 bits hold


def is_beir(folder: Path) -> bool:
    """Say whether a folder is laid out as BEIR's are."""
    return (Path(folder) / "corpus.jsonl").is_file()


def load_task(folder: Path, split: str = "test") -> RetrievalTask:
    """Return the task of a BEIR folder and one split of its judgements; its name is the folder's.

    Title and text are joined by a space, as in `pairs.load_pairs`. Queries that the split does not
    judge belong to another split: they are left out and counted in a warning.

    Raises:
        InputError: with file and line: no JSON, a missing or empty field, an id twice or with white
            space (a TREC run could not hold it), a judgement twice or of an unknown id, a score
            that is no whole number, a query without a relevant passage; with the file: no record at
            all.
    """
    folder = Path(folder)
    corpus, queries, qrels = (
        folder / "corpus.jsonl",
        folder / "queries.jsonl",
        folder / "qrels" / f"{split}.tsv",
    )
    if missing := [
        str(path.relative_to(folder)) for path in (corpus, queries, qrels) if not path.is_file()
    ]:
        raise InputError(f"{folder} is no BEIR folder, it lacks {', '.join(missing)}")
    passages, line_of_doc = _read(corpus, PASSAGE_SCHEMA, _passage)
    asked, line_of_query = _read(queries, QUERY_SCHEMA, _query)
    judged = _judgements(qrels, line_of_query, line_of_doc)
    answered = {row["query_id"]: False for row in judged}
    for row in judged:
        answered[row["query_id"]] |= row["relevance"] > 0
    for query_id, found in answered.items():
        if not found:
            raise InputError(
                f"{queries} line {line_of_query[query_id]}: query {query_id!r} has no relevant"
                f" passage in {qrels.name}; judge one above 0 or drop the query's judgements"
            )
    if left := len(line_of_query) - len(answered):
        log.warning("%s: %d queries that %s does not judge are left out", queries, left, qrels.name)
        asked = asked.filter(pa.array([name in answered for name in asked["query_id"].to_pylist()]))
    return RetrievalTask(
        folder.resolve().name, asked, passages, pa.Table.from_pylist(judged, schema=QREL_SCHEMA)
    )


def _read(
    path: Path, schema: pa.Schema, row_of: Callable[[str, Mapping[str, Any], str], list[Any]]
) -> tuple[pa.Table, dict[str, int]]:
    """Return the records of a file as a table, and the line of every id."""
    line_of: dict[str, int] = {}
    blocks: list[pa.RecordBatch] = []
    rows: list[list[Any]] = []

    def flush() -> None:
        columns = zip(*rows, strict=True)
        arrays = [
            pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)
        ]
        blocks.append(pa.record_batch(arrays, schema=schema))
        rows.clear()

    for number, record in _jsonl(path):
        where = f"{path} line {number}"
        name = _needed(record, "_id", where)
        if re.search(r"\s", name):
            raise InputError(
                f"{where}: _id {name!r} holds white space, which ends an id in TREC's files; write"
                " it without"
            )
        if name in line_of:
            raise InputError(
                f"{where}: _id {name!r} again, as in line {line_of[name]}; ids must be unique"
            )
        if not re.fullmatch(r"[A-Za-z0-9_-]+", _needed(record, "lang", where)):
            raise InputError(
                f"{where}: lang {record['lang']!r} is no language code; write letters, digits and"
                " -, such as zh"
            )
        line_of[name] = number
        rows.append(row_of(name, record, where))
        if len(rows) == _BLOCK:
            flush()
    if rows:
        flush()
    if not blocks:
        raise InputError(
            f"{path} holds no record; write one JSON object a line with _id, lang and text"
        )
    return pa.Table.from_batches(blocks), line_of


def _passage(name: str, record: Mapping[str, Any], where: str) -> list[Any]:
    return [
        name,
        _needed(record, "lang", where),
        _title_and_text(record, where) or _needed(record, "text", where),
    ]


def _query(name: str, record: Mapping[str, Any], where: str) -> list[Any]:
    pair_id = _text(record, "pair_id", where) or name
    texts = [_needed(record, key, where) for key in ("lang", "text")]
    return [name, pair_id, *texts, _text(record, "group", where) or pair_id]


def _needed(record: Mapping[str, Any], key: str, where: str) -> str:
    value = _text(record, key, where)
    if value is None:
        raise InputError(f"{where}: no {key}; a record needs _id, lang and text")
    return value


def _judgements(
    qrels: Path, line_of_query: Mapping[str, int], line_of_doc: Mapping[str, int]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    line_of: dict[tuple[str, str], int] = {}
    for place, (number, line) in enumerate(_lines(qrels)):
        where, fields = f"{qrels} line {number}", line.split("\t")
        score = int(fields[2]) if len(fields) == 3 and re.fullmatch(r"-?\d+", fields[2]) else None
        if (place == 0) != (score is None) or (score is not None and score not in _SCORES):
            raise InputError(
                f"{where}: {line!r:.60}; a header, then query-id, corpus-id and a whole score with"
                " tabs between"
            )
        if score is None:
            continue
        query_id, doc_id, _ = fields
        for name, known, file in (
            (query_id, line_of_query, "queries.jsonl"),
            (doc_id, line_of_doc, "corpus.jsonl"),
        ):
            if name not in known:
                raise InputError(
                    f"{where}: id {name!r} is not in {file}; take them from the same data set"
                )
        if (query_id, doc_id) in line_of:
            raise InputError(
                f"{where}: judges {query_id!r}, {doc_id!r} again, as line"
                f" {line_of[query_id, doc_id]}; once each"
            )
        line_of[query_id, doc_id] = number
        rows.append({"query_id": query_id, "doc_id": doc_id, "relevance": score})
    if not rows:
        raise InputError(
            f"{qrels} holds no judgement; a header, then query-id, corpus-id and a whole score with"
            " tabs between"
        )
    return rows
