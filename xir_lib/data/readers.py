"""Read users' own training pairs into a `PairTable`, and say where a file is wrong.

One record is one id in one language (the long format):

    {"pair_id": "17", "lang": "de", "query": "Wer fliegt?", "passage": "Eulen fliegen."}

`pair_id` and `lang` are needed, and a `query`, a `passage` or both. Optional: `passage_id` (equal
for ids that share the passage), `group` (the unit that splits keep whole; `pair_id` if not given)
and `negatives` (a list of texts in `lang`). An absent key, a JSON null and an empty TSV cell are
the same: not given. Other columns are named in one warning and left out. Lines are counted from 1,
rows of Parquet files and data sets from 0, as their libraries do.

Records are checked one by one, since a message must name the place, and go into Arrow in blocks.
Knows no model, no sampler and no published data set.
"""

import gzip
import json
import logging
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from xir_lib.data.records import DATASET, NEGATIVES, PAIR_SCHEMA, PairTable
from xir_lib.errors import InputError
from xir_lib.paths import require

if TYPE_CHECKING:
    import datasets

log = logging.getLogger(__name__)

Records = Iterator[tuple[int, Mapping[str, Any]]]

READ = ".jsonl, .jsonl.gz, .parquet, .tsv, .tsv.gz, .arrow (a saved PairTable) and BEIR folders"
_SCHEMA = PAIR_SCHEMA.append(NEGATIVES)
_BEIR = ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv")
_WIDE = re.compile(
    r"(query|question|passage|text)[-_](?!id$)([a-z]{2,3})([-_]\w+)?"
)  # `query_id` is an id, not Indonesian
_BLOCK = 1 << 14  # records that are Python objects at a time


def load_pairs(path: str | Path, *, lang: str | None = None) -> PairTable:
    """Read training pairs from a file, by its suffix, or from a BEIR folder.

    A TSV file names its columns in the first line; cells are read as they are, without quotes or
    escapes.

    A BEIR folder (Thakur et al. 2021) holds `corpus.jsonl`, `queries.jsonl` and `qrels/train.tsv`.
    A query's id is its `pair_id`, a document's its `passage_id`, and title and text are joined by a
    space. If a query has several relevant documents, the one judged best is kept, the first in the
    file among equals, and the others are counted and left out: as two ids with one question they
    could meet in a batch, where each passage would be the other's negative. A document that was
    left out can still meet the query if it is the best of another one. If query and document are in
    different languages, the pair is one row for each. Rows come in the order of the corpus.

    Args:
        path: what to read, one of `READ`.
        lang: the language of records that name none; BEIR's files have no such field, unless
            someone added `lang`.

    Raises:
        InputError: whatever is wrong, with the file and the line.
    """
    path = Path(path)
    require(path, f"readable are {READ}")
    if path.is_dir():
        return _table(_beir(path, lang), f"{path / 'corpus.jsonl'} line", lang)
    name = path.name.lower()
    if name.endswith((".jsonl", ".jsonl.gz")):
        return _table(_jsonl(path), f"{path} line", lang)
    if name.endswith((".tsv", ".tsv.gz")):
        return _table(_tsv(path, lang), f"{path} line", lang)
    if name.endswith(".parquet"):
        return _parquet(path, lang)
    if name.endswith(".arrow"):
        return _saved(path)
    raise InputError(f"{path} is of no known kind; readable are {READ}")


def join(tables: Mapping[str, PairTable]) -> PairTable:
    """Put several data sets into one table with a column `dataset`, from which a training draws
    batches of one data set.

    Ids, passage ids and groups get the data set's name in front, as in `faq/7`, so none is taken
    for another's. A data set without negatives has none where another one has some.
    """
    parts = []
    for name, pairs in tables.items():
        table = pairs.table
        for column in ("pair_id", "passage_id", "group"):
            named = pc.binary_join_element_wise(pa.scalar(name), table[column], "/")
            table = table.set_column(table.schema.get_field_index(column), column, named)
        parts.append(table.append_column(DATASET, pa.repeat(name, len(table))))
    together = pa.concat_tables(parts, promote_options="default")
    return PairTable(
        together.select(
            [*(name for name in together.column_names if name != DATASET.name), DATASET.name]
        )
    )


def from_dataset(
    dataset: "datasets.Dataset",
    *,
    pair_id: str = "pair_id",
    lang: str = "lang",
    query: str = "query",
    passage: str = "passage",
    passage_id: str = "passage_id",
    group: str = "group",
    negatives: str = "negatives",
) -> PairTable:
    """Read one split of a Hugging Face data set in the long format; the arguments are the names of
    its columns.

    A name that was given must be there; of the default ones, `pair_id`, `lang` and `query` or
    `passage` must.
    """
    if isinstance(dataset, dict):  # a DatasetDict is one
        raise InputError(
            f"a dictionary of splits arrived, {', '.join(map(str, dataset))}; pass one of them"
        )
    names = dict(
        zip(
            _SCHEMA.names,
            (pair_id, lang, query, passage_id, passage, group, negatives),
            strict=True,
        )
    )
    there = {ours: theirs for ours, theirs in names.items() if theirs in dataset.column_names}
    needed = [
        theirs for ours, theirs in names.items() if ours != theirs or ours in ("pair_id", "lang")
    ]
    missing = [theirs for theirs in needed if theirs not in dataset.column_names]
    if not {"query", "passage"} & set(there):
        missing += [query, passage]
    if missing:
        raise InputError(
            f"the data set has no column {', '.join(missing)}; it has"
            f" {', '.join(dataset.column_names)}: name them, as in from_dataset(...,"
            " query='question')"
        )
    taken = list(dict.fromkeys(there.values()))
    batches = dataset.select_columns(taken).with_format("arrow").iter(batch_size=_BLOCK)
    renamed = (
        pa.table({ours: batch[theirs] for ours, theirs in there.items()}) for batch in batches
    )
    return _table(
        _rows(renamed, "data set"), "data set row", extra=set(dataset.column_names) - set(taken)
    )


def _table(
    records: Records, where: str, lang: str | None = None, extra: Iterable[str] = ()
) -> PairTable:
    """Check and collect the records; `where` and a record's number are its place."""
    known = frozenset(_SCHEMA.names)
    unknown = set(extra)
    blocks: list[pa.RecordBatch] = []
    numbers: list[pa.Array] = []
    rows: list[list[Any]] = []
    places: list[int] = []

    def flush() -> None:
        columns = zip(*rows, strict=True) if rows else [()] * len(_SCHEMA)
        arrays = [
            pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)
        ]
        blocks.append(pa.record_batch(arrays, schema=_SCHEMA))
        numbers.append(pa.array(places, pa.int64()))
        rows.clear()
        places.clear()

    for number, record in records:
        new = record.keys() - known - unknown if not known.issuperset(record) else set()
        if new or (unknown and not places and not blocks):
            unknown |= new
            _refuse_wide(unknown, record, f"{where} {number}")
        rows.append(_row(record, lang, f"{where} {number}"))
        places.append(number)
        if len(rows) == _BLOCK:
            flush()
    flush()
    table = pa.Table.from_batches(blocks)
    source = where.rsplit(" ", 1)[0]
    if not table.num_rows:
        raise InputError(
            f"{source} holds no pairs; one record is an id in a language with a query, a passage or"
            " both"
        )
    if unknown:
        log.warning(
            "%s: columns %s are not used; known are %s",
            source,
            ", ".join(sorted(unknown)),
            ", ".join(_SCHEMA.names),
        )
    _refuse_repeats(table, pa.chunked_array(numbers), where)
    if table["negatives"].null_count == len(table):
        table = table.drop_columns("negatives")
    return PairTable(table)


def _row(record: Mapping[str, Any], lang: str | None, where: str) -> list[Any]:
    """Return the record's values in the order of `_SCHEMA`."""
    pair_id, query, passage_id, passage, group = (
        _text(record, column, where)
        for column in ("pair_id", "query", "passage_id", "passage", "group")
    )
    lang = _text(record, "lang", where) or lang
    if pair_id is None or lang is None:
        missing = "pair_id" if pair_id is None else "lang"
        raise InputError(
            f"{where}: no {missing}; a record needs pair_id, lang and a query, a passage or both"
        )
    if query is None and passage is None:
        raise InputError(f"{where}: neither query nor passage; give one or drop the record")
    if passage is None and passage_id is not None:
        raise InputError(
            f"{where}: passage_id {passage_id!r} without a passage; give both or neither"
        )
    return [
        pair_id,
        lang,
        query,
        passage_id,
        passage,
        group or pair_id,
        _negatives(record, passage, where),
    ]


def _negatives(record: Mapping[str, Any], passage: str | None, where: str) -> list[str] | None:
    texts = record.get("negatives")
    if texts is None:
        return None
    if not isinstance(texts, list):
        raise InputError(
            f"{where}: negatives is a {type(texts).__name__}; a list of texts is needed"
        )
    for number, text in enumerate(texts):
        if _text({"a negative": text}, "a negative", where) is None:
            raise InputError(
                f"{where}: negative {number + 1} of {len(texts)} is null; leave it out"
            )
        if text == passage:
            raise InputError(
                f"{where}: negative {number + 1} of {len(texts)} is the passage itself; leave"
                " it out"
            )
    return texts


def _text(record: Mapping[str, Any], column: str, where: str) -> str | None:
    value = record.get(column)
    if value is None:
        return None
    if not isinstance(value, str):
        raise InputError(
            f"{where}: {column} is of type {type(value).__name__}, {value!r:.40}; write it as text"
        )
    if not value.strip():
        raise InputError(f"{where}: {column} is empty; give a text or leave it out")
    try:
        value.encode()
    except (
        UnicodeEncodeError
    ) as error:  # JSON can spell half of a surrogate pair, which no file can hold
        raise InputError(
            f"{where}: {column} has half a character at position {error.start}; write the text anew"
        ) from error
    return value


def _refuse_wide(columns: Iterable[str], record: Mapping[str, Any], where: str) -> None:
    """Refuse columns that tell of the wide format: several of one stem with a language, or one in
    the place of what is read.
    """
    from babel import Locale

    languages = Locale("en").languages
    wide = {
        column: found[1]
        for column in sorted(columns)
        if (found := _WIDE.fullmatch(column)) and found[2] in languages
    }
    if wide and (len({*wide.values()}) < len(wide) or not {"query", "passage"} <= record.keys()):
        raise InputError(
            f"{where}: column {next(iter(wide))} holds one language; write a record for each, as in"
            ' {"pair_id": "17", "lang": "de", "query": "...", "passage": "..."}'
        )


def _refuse_repeats(table: pa.Table, numbers: pa.ChunkedArray, where: str) -> None:
    keyed = table.select(["pair_id", "lang"]).append_column("number", numbers)
    counts = keyed.group_by(["pair_id", "lang"], use_threads=False).aggregate([("number", "count")])
    repeated = counts.filter(pc.greater(counts["number_count"], 1)).slice(0, 1).to_pylist()
    for row in repeated:
        same = pc.and_(
            pc.equal(keyed["pair_id"], row["pair_id"]), pc.equal(keyed["lang"], row["lang"])
        )
        first, second = keyed.filter(same)["number"].to_pylist()[:2]
        raise InputError(
            f"{where} {second}: pair_id {row['pair_id']!r} in {row['lang']!r} again, as in "
            f"{where.rsplit(' ', 1)[1]} {first}; one record for each id and language"
        )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not empty, with their numbers, without their ends and without a byte
    order mark.
    """
    number = 0
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if text:
                    yield number, text
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} line {number}: not UTF-8 at its byte {error.start + 1}; save the file as UTF-8"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path} cannot be read after line {number} ({error}); make it again"
        ) from error


def _jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _lines(path):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            why = (
                f"{error.msg}, column {error.colno}"
                if isinstance(error, json.JSONDecodeError)
                else str(error)
            )
            raise InputError(
                f"{path} line {number}: not JSON ({why}); write one object a line"
            ) from error
        if not isinstance(record, dict):
            raise InputError(
                f"{path} line {number}: a JSON {type(record).__name__}; write one object a line"
            )
        yield number, record


def _tsv(path: Path, lang: str | None) -> Records:
    lines = _lines(path)
    number, header = next(lines, (0, None))
    if header is None:
        return
    columns = header.split("\t")
    missing = {"pair_id", "lang"} - set(columns) - ({"lang"} if lang else set())
    if missing or len(set(columns)) < len(columns) or "negatives" in columns:
        why = (
            f"no {min(missing)}"
            if missing
            else "negatives, a list"
            if "negatives" in columns
            else "a name twice"
        )
        raise InputError(
            f"{path} line {number}: the header has {why}; name pair_id, lang, query, passage, and"
            " passage_id or group if there, with tabs between them (negatives go into .jsonl or"
            " .parquet)"
        )
    for number, line in lines:
        cells = line.split("\t")
        if len(cells) != len(columns):
            raise InputError(
                f"{path} line {number}: {len(cells)} fields, the header has {len(columns)}; no tab"
                " may be in a text"
            )
        yield number, {column: cell or None for column, cell in zip(columns, cells, strict=True)}


def _saved(path: Path) -> PairTable:
    try:
        pairs = PairTable.load(path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if not len(pairs):
        raise InputError(f"{path} holds no pairs; save a table that has some")
    return pairs


def _parquet(path: Path, lang: str | None) -> PairTable:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            batches = file.iter_batches(
                _BLOCK, columns=[name for name in _SCHEMA.names if name in names]
            )
            return _table(
                _rows(batches, str(path)), f"{path} row", lang, set(names) - set(_SCHEMA.names)
            )
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path} cannot be read as Parquet ({str(error).splitlines()[0]}); make it again"
        ) from error


def _rows(batches: Iterable[pa.RecordBatch | pa.Table], source: str) -> Records:
    start = 0
    for batch in batches:
        try:
            rows = batch.to_pylist()
        except UnicodeDecodeError as error:  # Arrow does not look at the bytes of a text column
            raise InputError(
                f"{source} rows {start} to {start + len(batch) - 1}: not UTF-8 ({error}); write the"
                " text anew"
            ) from error
        yield from enumerate(rows, start)
        start += len(rows)


def _beir(folder: Path, lang: str | None) -> Records:
    """Yield the records of a BEIR folder with the lines of its corpus; only the judged queries are
    held in memory.
    """
    if missing := [name for name in _BEIR if not (folder / name).is_file()]:
        raise InputError(
            f"{folder} is no BEIR folder, it lacks {', '.join(missing)}; readable are {READ}"
        )
    corpus, queries, qrels = (folder / name for name in _BEIR)
    best = _best_judged(qrels)
    texts: dict[str, tuple[str, str]] = {}  # query id: text, language
    line_of: dict[str, int] = {}
    for number, record in _jsonl(queries):
        where = f"{queries} line {number}"
        if (query_id := _beir_id(record, where)) in best:
            if query_id in line_of:
                raise InputError(
                    f"{where}: _id {query_id!r} again, as in line {line_of[query_id]}; ids must be"
                    " unique"
                )
            line_of[query_id] = number
            text = _text(record, "text", where)
            if text is None:
                raise InputError(f"{where}: no text; a query has _id and text")
            texts[query_id] = text, _beir_lang(record, lang, where)
    asked: dict[str, list[str]] = {}  # passage id: query ids
    for query_id, passage_id in best.items():
        if query_id not in texts:
            raise InputError(
                f"{queries} lacks query {query_id!r}, which {qrels} judges; take them from the same"
                " data set"
            )
        asked.setdefault(passage_id, []).append(query_id)
    lacking = dict.fromkeys(asked)
    for number, record in _jsonl(corpus):
        where = f"{corpus} line {number}"
        passage_id = _beir_id(record, where)
        for query_id in asked.get(passage_id, ()):
            passage = {"passage_id": passage_id, "passage": _title_and_text(record, where)}
            query, query_lang = texts[query_id]
            doc_lang = _beir_lang(record, lang, where)
            if query_lang == doc_lang:
                yield number, {"pair_id": query_id, "lang": doc_lang, "query": query, **passage}
            else:
                yield number, {"pair_id": query_id, "lang": query_lang, "query": query}
                yield number, {"pair_id": query_id, "lang": doc_lang, **passage}
        lacking.pop(passage_id, None)
    if lacking:
        raise InputError(
            f"{corpus} lacks passage {next(iter(lacking))!r}, which {qrels} judges; take them from"
            " the same data set"
        )


def _title_and_text(record: Mapping[str, Any], where: str) -> str:
    """Return what a BEIR document has of title and text, joined by a space; empty if neither is
    more than white space.
    """
    parts = [
        _text(record, part, where)
        for part in ("title", "text")
        if str(record.get(part) or "").strip()
    ]
    return " ".join(part for part in parts if part)


def _best_judged(qrels: Path) -> dict[str, str]:
    """Return the best judged passage id of every query; the other relevant ones are counted in a
    warning.
    """
    best: dict[str, tuple[int, str]] = {}
    line_of: dict[tuple[str, str], int] = {}
    for place, (number, line) in enumerate(_lines(qrels)):
        fields = line.split("\t")
        score = int(fields[2]) if len(fields) == 3 and re.fullmatch(r"-?\d+", fields[2]) else None
        if (place == 0) != (score is None):
            raise InputError(
                f"{qrels} line {number}: {line!r:.60}; a header, then query-id, corpus-id and a"
                " whole score with tabs between"
            )
        if score is not None and score > 0:
            query_id, passage_id, _ = fields
            if (first := line_of.setdefault((query_id, passage_id), number)) != number:
                raise InputError(
                    f"{qrels} line {number}: {query_id} and {passage_id} again, as in line {first};"
                    " judge them once"
                )
            if query_id not in best or score > best[query_id][0]:
                best[query_id] = score, passage_id
    if not best:
        raise InputError(f"{qrels} judges no passage relevant; a score above 0 does")
    if len(line_of) > len(best):
        log.warning(
            "%s: %d relevant passages beside the best of a query are left out",
            qrels,
            len(line_of) - len(best),
        )
    return {query_id: passage_id for query_id, (_, passage_id) in best.items()}


def _beir_id(record: Mapping[str, Any], where: str) -> str:
    value = _text(record, "_id", where)
    if value is None:
        raise InputError(f"{where}: no _id; a record of a BEIR folder has _id and text")
    return value


def _beir_lang(record: Mapping[str, Any], lang: str | None, where: str) -> str:
    value = _text(record, "lang", where) or lang
    if value is None:
        raise InputError(
            f"{where}: no lang, and BEIR names none; say which, as in load_pairs(folder, lang='en')"
        )
    return value
