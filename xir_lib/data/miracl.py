"""Load MIRACL v1.0 (Zhang et al. 2023), the full corpora of its 18 languages: Wikipedia passages,
monolingual retrieval.

Upstream's files: a corpus of `docs-N.jsonl.gz` (docid, title, text), topics as TSV, judgements in
TREC's format, binary and of pooled passages. The corpus is streamed line by line, so that text is
never whole in memory as Python strings. Judgements of the tests A and B were not published, and
German and Yoruba have no training topics: what is judged here is `dev`. The name of a task,
`miracl-yo`, means the full corpus. `miracl-yo-hard` is mteb's pool of hard negatives, per topic the
first 250 of BM25, multilingual-e5-large and e5-mistral-instruct together: smaller, easier, and
never comparable with the full corpus. Does not know how anything is embedded or scored.
"""

import gzip
import json
import mmap
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from xir_lib.data.records import PASSAGE_SCHEMA, QREL_SCHEMA, QUERY_SCHEMA, RetrievalTask
from xir_lib.errors import InputError
from xir_lib.paths import data_dir, require

LANGUAGES = {  # files of the corpus
    "ar": 5, "bn": 1, "de": 32, "en": 66, "es": 21, "fa": 5, "fi": 4, "fr": 30, "hi": 2,
    "id": 3, "ja": 14, "ko": 3, "ru": 20, "sw": 1, "te": 2, "th": 2, "yo": 1, "zh": 10,
}  # fmt: skip
TASKS = tuple(
    f"miracl-{lang}{variant}" for variant in ("", "-hard", "-untitled") for lang in LANGUAGES
)
HARD_COLUMNS = {  # of mteb's Parquet files, by kind
    "corpus": ("_id", "title", "text"),
    "queries": ("_id", "text"),
    "qrels": ("query-id", "corpus-id", "score"),
}
SPLITS = ("dev",)
CHUNK = 1 << 14  # passages that are Python strings at a time
IN_MEMORY = 1 << 28  # bytes of passages; a larger corpus lies in a file


class Passage(NamedTuple):
    """One passage as the corpus has it."""

    doc_id: str
    title: str
    text: str

    @property
    def full_text(self) -> str:
        """Return title and text with a blank between, as mteb and ir_datasets join them for the
        published figures.
        """
        return f"{self.title} {self.text}".strip()


def folder_name(lang: str) -> str:
    """Return the name of a language's folder inside the data folder."""
    return f"miracl-v1.0-{lang}"


def corpus_files(lang: str) -> tuple[str, ...]:
    """Return the corpus files of a language, in their order, relative to its folder."""
    return tuple(f"corpus/docs-{number}.jsonl.gz" for number in range(LANGUAGES[lang]))


def split_file(lang: str, kind: str, split: str) -> str:
    """Return the file of the `topics` or `qrels` of a split, relative to the language's folder."""
    return f"{kind}/{kind}.miracl-v1.0-{lang}-{split}.tsv"


def load_task(
    lang: str, split: str = "dev", *, titles: bool = True, folder: Path | None = None
) -> RetrievalTask:
    """Return a language's full corpus with the topics and judgements of a split as a task of one
    pool.

    Without `titles` a passage is its text alone, or its title if it has no text, and the task is
    `miracl-LANG-untitled`. `folder` is the language's own; default: `miracl-v1.0-LANG` in the data
    folder. Ids are upstream's; a topic is its own `pair_id` and its own `group`, since topics are
    independent of each other. The judged passages that are not relevant stay among the judgements,
    with relevance 0. A corpus of more than `IN_MEMORY` bytes lies in a nameless file in its folder,
    as large as its unpacked files, from which passages are read as they are needed; in memory, if
    the folder cannot be written to. Ids are in memory while they are checked.
    """
    if lang not in LANGUAGES:
        raise InputError(f"MIRACL has no language {lang!r}; it has {', '.join(LANGUAGES)}")
    if split not in SPLITS:
        raise InputError(
            f"miracl-{lang}: no public judgements of split {split!r} are read here; use"
            f" {', '.join(SPLITS)}"
        )
    *corpus, topics_file, qrels_file = required_files(lang, split, folder)
    topics, judgements = read_topics(topics_file), read_qrels(qrels_file)
    passages = stream_passages(corpus)
    if titles:
        return _task(f"miracl-{lang}", lang, topics, passages, judgements, qrels_file.parents[1])
    untitled = (
        passage._replace(title="") if passage.text.strip() else passage for passage in passages
    )
    return _task(
        f"miracl-{lang}-untitled", lang, topics, untitled, judgements, qrels_file.parents[1]
    )


def required_files(lang: str, split: str = "dev", folder: Path | None = None) -> list[Path]:
    """Return the corpus files of a language, then a split's topics and judgements; says how to get
    one that is missing.
    """
    folder = data_dir() / folder_name(lang) if folder is None else Path(folder)
    names = [*corpus_files(lang), *(split_file(lang, kind, split) for kind in ("topics", "qrels"))]
    what_to_do = (
        f"`xir data get miracl-{lang}` downloads it, or set XIR_DATA to the folder above"
        f" {folder.name}"
    )
    return [require(folder / name, what_to_do) for name in names]


def hard_file(lang: str, kind: str) -> str:
    """Return mteb's file of a `kind` of `HARD_COLUMNS`, relative to the folder
    `miracl-LANG-hard`.
    """
    return f"{lang}-{kind}/dev-00000-of-00001.parquet"


def load_hard_task(lang: str, *, folder: Path | None = None) -> RetrievalTask:
    """Return the topics that mteb kept of a language, with the pool of hard negatives, as
    `miracl-LANG-hard`.

    Ids are those of `load_task`. `folder` is by default `miracl-LANG-hard` in the data folder.
    Refused, with file and row: a missing column, an empty id or text, an id or a judgement that
    occurs twice, a relevance other than 0 and 1.
    """
    if lang not in LANGUAGES:
        raise InputError(f"MIRACL has no language {lang!r}; it has {', '.join(LANGUAGES)}")
    name = f"miracl-{lang}-hard"
    folder = data_dir() / name if folder is None else Path(folder)
    paths = {kind: folder / hard_file(lang, kind) for kind in HARD_COLUMNS}
    for path in paths.values():
        require(
            path, f"`xir data get {name}` downloads it, or set XIR_DATA to the folder above {name}"
        )
    topics: dict[str, str] = {}
    for where, (topic, text) in _rows(paths["queries"], "queries"):
        if topic in topics or not text.strip():
            raise InputError(
                f"{where}: topic {topic!r} is empty or occurs twice; get the pool again"
            )
        topics[topic] = text
    judgements: dict[tuple[str, str], int] = {}
    for where, (topic, doc_id, relevance) in _rows(paths["qrels"], "qrels"):
        if (topic, doc_id) in judgements or relevance not in (0, 1):
            raise InputError(
                f"{where}: {doc_id!r} for topic {topic!r} is judged twice or as {relevance!r}; get"
                " the pool again"
            )
        judgements[topic, doc_id] = int(relevance)
    return _task(name, lang, topics, _hard_passages(paths["corpus"]), judgements, folder)


def _hard_passages(path: Path) -> Iterator[Passage]:
    seen: set[str] = set()
    for where, values in _rows(path, "corpus"):
        passage = Passage(*values)
        if passage.doc_id in seen or not passage.full_text:
            raise InputError(
                f"{where}: passage {passage.doc_id!r} is empty or occurs twice; get the pool again"
            )
        seen.add(passage.doc_id)
        yield passage


def _rows(path: Path, kind: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield each row's place in words and its values in the order of `HARD_COLUMNS`, a batch in
    memory at a time.
    """
    import pyarrow.parquet as pq

    columns, number = HARD_COLUMNS[kind], 0
    try:
        with pq.ParquetFile(path) as file:
            if missing := [name for name in columns if name not in file.schema_arrow.names]:
                raise InputError(
                    f"{path} lacks {', '.join(missing)}; it has"
                    f" {', '.join(file.schema_arrow.names)}"
                )
            for batch in file.iter_batches(CHUNK, columns=list(columns)):
                for row in batch.to_pylist():
                    number += 1
                    values = tuple(row[name] for name in columns)
                    texts = values[:2] if kind == "qrels" else values
                    if not all(isinstance(value, str) for value in texts) or not values[0]:
                        raise InputError(
                            f"{path}, row {number}: {texts!r} are no texts, or the id is empty; get"
                            " the pool again"
                        )
                    yield f"{path}, row {number}", values
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{path} is no complete Parquet file ({str(error).splitlines()[0]}); get the pool again"
        ) from error


def _task(
    name: str,
    lang: str,
    topics: dict[str, str],
    passages: Iterator[Passage],
    judgements: dict[tuple[str, str], int],
    folder: Path,
) -> RetrievalTask:
    query_ids = list(topics)
    return RetrievalTask(
        name,
        queries=pa.table(
            {
                "query_id": query_ids,
                "pair_id": query_ids,
                "lang": [lang] * len(topics),
                "text": list(topics.values()),
                "group": query_ids,
            },
            schema=QUERY_SCHEMA,
        ),
        passages=_passage_table(lang, passages, folder),
        qrels=pa.table(
            {
                "query_id": [query_id for query_id, _ in judgements],
                "doc_id": [doc_id for _, doc_id in judgements],
                "relevance": list(judgements.values()),
            },
            schema=QREL_SCHEMA,
        ),
    )


def stream_passages(paths: Iterable[Path]) -> Iterator[Passage]:
    """Yield the passages of corpus files in order, one line in memory at a time.

    Refused, with file and line: gzip data that breaks off or fails its checksum, a line that is no
    object with the three texts, a passage without title and text, and a docid that occurred before,
    in whichever file. None of these is skipped, as a pool that lacks passages gives better figures.
    Only the docids are kept, about 100 bytes each.
    """
    seen: set[str] = set()
    for path in paths:
        number = 0
        try:
            with gzip.open(path, "rb") as file:
                for number, line in enumerate(file, 1):
                    passage = _passage(line, f"{path}, line {number}")
                    if passage.doc_id in seen:
                        raise InputError(
                            f"{path}, line {number}: docid {passage.doc_id!r} occurs twice; get the"
                            " corpus again"
                        )
                    seen.add(passage.doc_id)
                    yield passage
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(
                f"{path}: broken behind line {number} ({error}); delete it and get the corpus again"
            ) from error


def read_topics(path: Path) -> dict[str, str]:
    """Read a TSV of topic id and question, in its order."""
    topics: dict[str, str] = {}
    for where, line in _lines(path):
        topic, tab, text = line.partition("\t")
        if not (topic.strip() and tab and text.strip()):
            raise InputError(
                f"{where}: {line[:60]!r} is no topic id, tab and question; get the topics again"
            )
        if topic in topics:
            raise InputError(f"{where}: topic {topic!r} occurs twice; get the topics again")
        topics[topic] = text.strip()
    return topics


def read_qrels(path: Path) -> dict[tuple[str, str], int]:
    """Read TREC judgements as (topic id, docid) -> relevance, which is 0 or 1 in MIRACL."""
    judgements: dict[tuple[str, str], int] = {}
    for where, line in _lines(path):
        fields = line.split()
        if len(fields) != 4 or fields[3] not in ("0", "1"):
            raise InputError(
                f"{where}: {line[:60]!r} is no topic id, Q0, docid and relevance of 0 or 1; get the"
                " qrels again"
            )
        key = (fields[0], fields[2])
        if key in judgements:
            raise InputError(
                f"{where}: docid {key[1]!r} is judged twice for topic {key[0]!r}; get the qrels"
                " again"
            )
        judgements[key] = int(fields[3])
    return judgements


def _passage(line: bytes, where: str) -> Passage:
    try:
        record = json.loads(line)
        passage = Passage(*(record[name] for name in ("docid", "title", "text")))
        if not all(isinstance(value, str) for value in passage):
            raise TypeError("one of the three is no text")
    except (ValueError, KeyError, TypeError) as error:  # ValueError: neither JSON nor UTF-8
        raise InputError(
            f"{where}: no object with docid, title and text ({type(error).__name__}: {error}); get"
            " the corpus again"
        ) from error
    if not passage.doc_id or not passage.full_text:
        raise InputError(
            f"{where}: docid {passage.doc_id!r} has an empty id or passage; get the corpus again"
        )
    return passage


def _passage_table(lang: str, passages: Iterator[Passage], folder: Path) -> pa.Table:
    """Return the passages; more than `IN_MEMORY` bytes of them lie in a mapped file of `folder`
    that never has a name.
    """
    batches, size, end = _batches(lang, passages), 0, False
    kept: list[pa.RecordBatch] = []
    while size <= IN_MEMORY and not end:
        batch = next(batches, None)
        end = batch is None
        kept += [] if batch is None else [batch]
        size += 0 if batch is None else batch.nbytes
    if end or not os.access(folder, os.W_OK):
        return pa.Table.from_batches([*kept, *batches], schema=PASSAGE_SCHEMA)
    with tempfile.TemporaryFile(dir=folder) as file:
        with pa.ipc.new_file(file, PASSAGE_SCHEMA) as writer:
            while kept:
                writer.write_batch(kept.pop(0))
            for batch in batches:
                writer.write_batch(batch)
        file.flush()
        return pa.ipc.open_file(
            pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        ).read_all()


def _batches(lang: str, passages: Iterator[Passage]) -> Iterator[pa.RecordBatch]:
    while chunk := list(islice(passages, CHUNK)):
        columns = {
            "doc_id": [passage.doc_id for passage in chunk],
            "lang": [lang] * len(chunk),
            "text": [passage.full_text for passage in chunk],
        }
        yield pa.RecordBatch.from_pydict(columns, schema=PASSAGE_SCHEMA)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each line of a text file with its place in words."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            try:
                yield where, line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{where}: no UTF-8 ({error.reason} at byte {error.start}); get the file again"
                ) from error
