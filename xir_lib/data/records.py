"""The two types that carry everything: `PairTable` for training, `RetrievalTask` for evaluation.

Both are thin shells around Arrow tables: text stays in memory-mapped files and is touched only
where it is encoded. They know no data set and no model.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather
from numpy.typing import NDArray

from xir_lib.errors import InputError
from xir_lib.metrics.scores import Judged, tie_order
from xir_lib.paths import atomic_path, require

PAIR_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),  # language-neutral: the same question in every language
        ("lang", pa.string()),
        ("query", pa.string()),  # null: the id has no question in this language
        ("passage_id", pa.string()),  # null with `passage`; equal for ids that share the passage
        ("passage", pa.string()),
        ("group", pa.string()),  # what splits and resampling keep whole: article, country
    ]
)
# Optional: texts in the row's language that do not answer its id; then the data set of a row where
# there are several, each in one stretch.
NEGATIVES = pa.field("negatives", pa.list_(pa.string()))
DATASET = pa.field("dataset", pa.string())

_QUERY = ("query_id", "pair_id", "lang", "text", "group")
QUERY_SCHEMA = pa.schema([(name, pa.string()) for name in _QUERY])
PARAGRAPH = pa.field("paragraph", pa.string())  # optional: a finer unit inside the group
PASSAGE_SCHEMA = pa.schema([(name, pa.string()) for name in ("doc_id", "lang", "text")])
QREL_SCHEMA = pa.schema(
    [("query_id", pa.string()), ("doc_id", pa.string()), ("relevance", pa.int8())]
)


@dataclass(frozen=True)
class PairTable:
    """Parallel questions and passages for training, one row per (pair_id, lang), ragged.

    `table` has `PAIR_SCHEMA`, then `NEGATIVES` and `DATASET`, both optional. A row holds a query, a
    passage or both; the (query, passage) of two rows with the same `pair_id` are a cross-lingual
    pair. The negatives of a passage, hardest first, stand in its row; null and the empty list both
    mean none.

    >>> german = {"pair_id": "1", "lang": "de", "query": "Wer fliegt?", "group": "owls"}
    >>> swahili = {"pair_id": "1", "lang": "sw", "passage": "Bundi huruka.", "group": "owls"}
    >>> pairs = PairTable(pa.Table.from_pylist([german, swahili], schema=PAIR_SCHEMA))
    >>> len(pairs), pairs.pair_ids, pairs.languages
    (2, ['1'], ['de', 'sw'])
    """

    table: pa.Table

    def __post_init__(self) -> None:
        optional = [
            field for field in (NEGATIVES, DATASET) if field.name in self.table.column_names
        ]
        what = "pair table"
        _check_schema(self.table, pa.schema([*PAIR_SCHEMA, *optional]), what)
        _refuse_nulls(self.table, ["pair_id", "lang", "group"], what)
        _refuse_duplicates(self.table, ["pair_id", "lang"], what, self.id_codes)
        for column in ("query", "passage"):
            _refuse_empty(self.table, column, "pair_id", what)
        neither = pc.and_(self.table["query"].is_null(), self.table["passage"].is_null())
        if pc.any(neither).as_py():
            row = self.table.filter(neither).slice(0, 1).to_pylist()[0]
            raise InputError(
                f"pair {row['pair_id']!r} has neither query nor passage in {row['lang']!r}; give"
                " one or drop the row"
            )
        if NEGATIVES in optional:
            _refuse_bad_negatives(self.table)

    def __len__(self) -> int:
        """Return the number of rows, (pair_id, lang) combinations; see `pair_ids` for the ids."""
        return self.table.num_rows

    @property
    def pair_ids(self) -> list[str]:
        """Distinct ids in order of first appearance."""
        return self.table["pair_id"].unique().to_pylist()

    @cached_property
    def id_codes(self) -> NDArray[np.int32]:
        """The place of each row's id in `pair_ids`, shape (rows,)."""
        return _codes(self.table["pair_id"])[0]

    def datasets(self) -> dict[str, "PairTable"]:
        """Return the data sets by name in the order of their rows, without that column; one without
        a name is called "".
        """
        if DATASET.name not in self.table.column_names:
            return {"": self}
        names = self.table[DATASET.name].unique().to_pylist()
        codes = pc.index_in(self.table[DATASET.name], pa.array(names, pa.string())).to_numpy()
        if (back := np.flatnonzero(np.diff(codes) < 0)).size:
            raise InputError(
                f"pair table: row {back[0] + 1} returns to data set {names[codes[back[0] + 1]]!r};"
                " sort by data set"
            )
        alone = self.table.drop_columns(DATASET.name)
        return {
            name: PairTable(alone.filter(pa.array(codes == code)))
            for code, name in enumerate(names)
        }

    @property
    def languages(self) -> list[str]:
        """Language codes in alphabetical order."""
        return sorted(self.table["lang"].unique().to_pylist())

    def select(
        self, *, pair_ids: list[str] | None = None, languages: list[str] | None = None
    ) -> "PairTable":
        """Keep the rows of these ids and languages; an unknown language is refused."""
        table = self.table
        if languages is not None:
            if unknown := sorted(set(languages) - set(self.languages)):
                raise InputError(
                    f"unknown language {', '.join(unknown)}; this data has"
                    f" {', '.join(self.languages)}"
                )
            table = table.filter(pc.is_in(table["lang"], pa.array(languages, pa.string())))
        if pair_ids is not None:
            table = table.filter(pc.is_in(table["pair_id"], pa.array(pair_ids, pa.string())))
        return PairTable(table)

    def save(self, path: Path) -> None:
        """Write one uncompressed Arrow file, atomically."""
        with atomic_path(path) as temporary:
            feather.write_feather(self.table, temporary, compression="uncompressed")

    @classmethod
    def load(cls, path: Path) -> "PairTable":
        """Memory-map a saved table."""
        return cls(_read(Path(path)))


@dataclass(frozen=True)
class RetrievalTask:
    """Queries, passages and judgements; the *setting* decides later which pool a query meets.

    Pools are sets of passage languages: a query's own (monolingual), one other (cross-lingual), all
    (multilingual). A query is scored in a pool only if the pool holds a relevant passage for it.
    """

    name: str
    queries: pa.Table
    passages: pa.Table
    qrels: pa.Table

    def __post_init__(self) -> None:
        if not self.passages.num_rows or not self.queries.num_rows:
            raise InputError(
                f"task {self.name}: {self.queries.num_rows} queries and {self.passages.num_rows}"
                " passages; both must be > 0"
            )
        finer = [PARAGRAPH] if PARAGRAPH.name in self.queries.column_names else []
        parts = {
            "qrels": (QREL_SCHEMA, ["query_id", "doc_id"]),
            "queries": (pa.schema([*QUERY_SCHEMA, *finer]), ["query_id"]),
            "passages": (PASSAGE_SCHEMA, ["doc_id"]),
        }
        for part, (schema, keys) in parts.items():
            table, what = getattr(self, part), f"{self.name} {part}"
            _check_schema(table, schema, what)
            given = [name for name in schema.names if name not in ("group", PARAGRAPH.name)]
            _refuse_nulls(table, given, what)
            _refuse_duplicates(table, keys, what)
            if part != "qrels":
                _refuse_empty(table, "text", keys[0], what)
                known = table[keys[0]].combine_chunks()
                unknown = self.qrels.filter(pc.invert(pc.is_in(self.qrels[keys[0]], known)))
                if unknown.num_rows:
                    raise InputError(
                        f"task {self.name}: judged {keys[0]} {unknown[keys[0]][0].as_py()!r} is not"
                        " among its texts"
                    )
        relevant = self.qrels.filter(pc.greater(self.qrels["relevance"], 0))["query_id"]
        answered = pc.is_in(self.queries["query_id"], relevant.combine_chunks())
        bare = self.queries.filter(pc.invert(answered))["query_id"]
        if len(bare):
            raise InputError(
                f"task {self.name}: query {bare[0].as_py()!r} and {len(bare) - 1} more have no"
                " relevant passage; drop them or judge them"
            )

    @property
    def languages(self) -> list[str]:
        """Languages of the passages, alphabetical: the possible single-language pools."""
        return sorted(self.passages["lang"].unique().to_pylist())

    def judged(self) -> Judged:
        """Return the positive judgements as row numbers, and the passages' languages and tie order.

        Made once per task. The language codes are places in `languages`.
        """
        return self._judged

    @cached_property
    def _judged(self) -> Judged:
        positive = self.qrels.filter(pc.greater(self.qrels["relevance"], 0))
        query_rows, doc_rows = (
            pc.index_in(positive[column], texts[column].combine_chunks()).to_numpy()
            for column, texts in (("query_id", self.queries), ("doc_id", self.passages))
        )
        return Judged(
            query_rows.astype(np.int64),
            doc_rows.astype(np.int64),
            positive["relevance"].to_numpy().astype(np.int64),
            pc.index_in(self.passages["lang"], pa.array(self.languages)).to_numpy(),
            tie_order(self.passages["doc_id"].to_pylist()),
            self.queries.num_rows,
        )

    def save(self, folder: Path) -> None:
        """Write `queries`, `passages` and `qrels` as Arrow files into a new folder, atomically."""
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            for part in ("queries", "passages", "qrels"):
                feather.write_feather(
                    getattr(self, part), temporary / f"{part}.arrow", compression="uncompressed"
                )

    @classmethod
    def load(cls, folder: Path) -> "RetrievalTask":
        """Memory-map a saved task; its name is the folder's."""
        folder = require(Path(folder), "run the data step first")
        parts = [
            _read(folder / f"{part}.arrow", check=True) for part in ("queries", "passages", "qrels")
        ]
        return cls(folder.name, *parts)


def is_saved_task(folder: Path) -> bool:
    """Say whether a folder holds a task that `RetrievalTask.save` wrote, and nothing besides."""
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return found - {".snakemake_timestamp"} == {"queries.arrow", "passages.arrow", "qrels.arrow"}


def _read(path: Path, *, check: bool = False) -> pa.Table:
    """Memory-map a table; `check` looks at every value, such as the bytes of a text, which Arrow
    else takes on trust.
    """
    require(path, "run the data step first, or name a folder that RetrievalTask.save wrote")
    try:
        table = feather.read_table(path, memory_map=True)
        if check:
            table.validate(full=True)
        return table
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{path} is no complete Arrow file ({str(error).splitlines()[0]}); make it again"
        ) from error


def _types(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def _check_schema(table: pa.Table, schema: pa.Schema, what: str) -> None:
    if not table.schema.equals(schema):
        raise InputError(f"{what}: columns {_types(table.schema)}; expected {_types(schema)}")


def _codes(column: pa.ChunkedArray) -> tuple[NDArray[np.int32], int]:
    """Number the values of a column in order of first appearance; return the numbers, shape
    (rows,), and how many there are.
    """
    values = column.dictionary_encode(null_encoding="encode").unify_dictionaries().combine_chunks()
    return values.indices.to_numpy(), len(values.dictionary)


def _refuse_duplicates(
    table: pa.Table, keys: list[str], what: str, first: NDArray[np.int32] | None = None
) -> None:
    """Refuse two rows of equal keys; `first` are the codes of the first key, where known."""
    code = (_codes(table[keys[0]])[0] if first is None else first).astype(np.int64)
    for key in keys[1:]:  # one code for the keys together
        codes, count = _codes(table[key])
        code = code * count + codes
    again = pd.Series(code).duplicated().to_numpy()
    if again.any():
        place = int(again.argmax())
        row = table.slice(place, 1).to_pylist()[0]
        named = ", ".join(f"{key}={row[key]!r}" for key in keys)
        count = int((code == code[place]).sum())
        raise InputError(f"{what}: {count} rows for {named}; one is allowed")


def _refuse_nulls(table: pa.Table, columns: list[str], what: str) -> None:
    for column in columns:
        if table[column].null_count:
            row = pc.index(table[column].is_null(), True).as_py()
            raise InputError(f"{what}: row {row} has no {column}; drop the row or give one")


def _refuse_empty(table: pa.Table, column: str, key: str, what: str) -> None:
    empty = _is_empty(table[column])
    if pc.any(empty).as_py():
        bad = table.filter(empty)[key][0].as_py()
        raise InputError(f"{what}: empty {column} for {key} {bad!r}; drop it or give a text")


def _is_empty(texts: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Say which texts hold nothing but white space; null for a null."""
    return pc.or_(pc.equal(pc.binary_length(texts), 0), pc.utf8_is_space(texts))


def _refuse_bad_negatives(table: pa.Table) -> None:
    columns = table.select(["pair_id", "lang", "passage", NEGATIVES.name])
    for block in columns.to_batches(max_chunksize=1 << 16):
        row_of = pc.list_parent_indices(block[NEGATIVES.name])
        texts = pc.list_flatten(block[NEGATIVES.name])
        empty = pc.fill_null(_is_empty(texts), True)
        own = pc.fill_null(pc.equal(texts, block["passage"].take(row_of)), False)
        found = {"an empty negative": empty, "its own passage among its negatives": own}
        for what, bad in found.items():
            if pc.any(bad).as_py():
                row = block.slice(row_of[bad.index(True).as_py()].as_py(), 1).to_pylist()[0]
                raise InputError(
                    f"pair table: {what} for pair_id {row['pair_id']!r}, lang {row['lang']!r};"
                    " drop it"
                )


def table_digest(pairs: PairTable) -> str:
    """Return the sha256 of the table's content, whatever its chunks."""
    digest = hashlib.sha256()
    for column in pairs.table.column_names:
        for block in pairs.table.select([column]).to_batches(max_chunksize=1 << 16):
            for value in block[0].to_pylist():
                digest.update(
                    b"\0" if value is None else str(value).encode() + b"\1"
                )  # str: negatives are lists
    return digest.hexdigest()
