"""The one record reader: whatever the file, one record after the other, each with its place.

A *place* is a file and a line or row in words, `pairs.jsonl line 3`, with which every message about
a record begins. Lines are counted from 1, rows of Parquet files and data sets from 0, as their
libraries do. Files are never whole in memory: records go into Arrow in blocks (`table_of`).
"""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from xir_lib.errors import InputError

BLOCK = 1 << 14  # records that are Python objects at a time
Record = Mapping[str, Any]
Records = Iterator[tuple[str, Record]]


def is_readable(path: Path) -> bool:
    """Say whether `records` knows the kind of a file, by its suffix."""
    return path.name.lower().endswith((".jsonl", ".jsonl.gz", ".tsv", ".tsv.gz", ".parquet"))


def records(path: Path, columns: Sequence[str] = ()) -> Records:
    """Yield every record of a JSONL, TSV or Parquet file with its place.

    A TSV file names its columns in the first line; cells are read as they are, without quotes or
    escapes, and an empty one is None. `columns` are those that the header of a TSV or Parquet file
    must name; an object of JSON may lack any.
    """
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(".jsonl"):
        return _of_jsonl(path)
    return _of_tsv(path, columns) if name.endswith(".tsv") else _of_parquet(path, columns)


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the lines that are not empty with their places, without their ends and without a byte
    order mark.
    """
    number = 0
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if text:
                    yield f"{path} line {number}", text
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} line {number}: not UTF-8 at its byte {error.start + 1}; save the file as UTF-8"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path} cannot be read after line {number} ({error}); make it again"
        ) from error


def of_batches(batches: Iterable[pa.RecordBatch | pa.Table], source: str) -> Records:
    """Yield the rows of Arrow tables with their places."""
    start = 0
    for batch in batches:
        try:
            rows = batch.to_pylist()
        except UnicodeDecodeError as error:  # Arrow does not look at the bytes of a text column
            raise InputError(
                f"{source} rows {start} to {start + len(batch) - 1}: not UTF-8 ({error}); write the"
                " text anew"
            ) from error
        for number, row in enumerate(rows, start):
            yield f"{source} row {number}", row
        start += len(rows)


def text_of(record: Record, column: str, place: str) -> str | None:
    """Return a text of a record; None if it is not given: no such key, or null."""
    value = record.get(column)
    if value is None:
        return None
    if not isinstance(value, str):
        raise InputError(
            f"{place}: {column} is of type {type(value).__name__}, {value!r:.40}; write it as text"
        )
    if not value.strip():
        raise InputError(f"{place}: {column} is empty; give a text or leave it out")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, which no file can hold
        raise InputError(
            f"{place}: {column} has half a character at position {error.start}; write the text anew"
        ) from error
    return value


def needed(record: Record, column: str, place: str, rule: str) -> str:
    """Return a text that must be given; `rule` says what a record needs."""
    value = text_of(record, column, place)
    if value is None:
        raise InputError(f"{place}: no {column}; {rule}")
    return value


def batches_of(rows: Iterable[Sequence[Any]], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield rows, values in the order of the schema, as blocks of Arrow."""
    rows = iter(rows)
    while block := list(islice(rows, BLOCK)):
        columns = zip(zip(*block, strict=True), schema, strict=True)
        arrays = [pa.array(values, field.type) for values, field in columns]
        yield pa.record_batch(arrays, schema=schema)


def table_of(rows: Iterable[Sequence[Any]], schema: pa.Schema, *, whole: bool = True) -> pa.Table:
    """Return rows, values in the order of the schema, as one table.

    It is `whole`, of one chunk, on which the order of Arrow's groups depends; a large one, in
    memory once, stays in its blocks.
    """
    table = pa.Table.from_batches(batches_of(rows, schema), schema=schema)
    return table.combine_chunks() if whole else table


def _of_jsonl(path: Path) -> Records:
    for place, line in lines(path):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            at = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            why = getattr(error, "msg", error)
            raise InputError(f"{place}: not JSON ({why}{at}); write one object a line") from error
        if not isinstance(record, dict):
            raise InputError(f"{place}: a JSON {type(record).__name__}; write one object a line")
        yield place, record


def _of_tsv(path: Path, columns: Sequence[str]) -> Records:
    names: list[str] = []
    for place, line in lines(path):
        cells = line.split("\t")
        if not names:
            names = cells
            _refuse_header(names, columns, place)
        elif len(cells) != len(names):
            raise InputError(
                f"{place}: {len(cells)} fields, the header has {len(names)}; no tab may be in a"
                " text"
            )
        else:
            yield place, {name: cell or None for name, cell in zip(names, cells, strict=True)}


def _of_parquet(path: Path, columns: Sequence[str]) -> Records:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _refuse_header(file.schema_arrow.names, columns, str(path))
            yield from of_batches(file.iter_batches(BLOCK), str(path))
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path} cannot be read as Parquet ({str(error).splitlines()[0]}); make it again"
        ) from error


def _refuse_header(names: Sequence[str], columns: Sequence[str], place: str) -> None:
    missing = [name for name in columns if name not in names]
    twice = [name for name in names if names.count(name) > 1]
    if missing or twice:
        why = f"no {missing[0]}" if missing else f"{twice[0]} twice"
        raise InputError(
            f"{place}: the header has {why}; it names the columns"
            f"{' ' if columns else ''}{', '.join(columns)}, each once"
        )
