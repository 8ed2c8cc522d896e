"""Load MIRACL v1.0 (Zhang et al. 2023), the full corpora of its 18 languages: Wikipedia passages,
monolingual retrieval.

Upstream's files: a corpus of `docs-N.jsonl.gz` (docid, title, text), topics as TSV, judgements in
TREC's format, binary and of pooled passages. Judgements of the tests A and B were not published,
and German and Yoruba have no training topics: what is judged here is `dev`. The name of a task,
`miracl-yo`, means the full corpus. `miracl-yo-hard` is mteb's pool of hard negatives, per topic the
first 250 of BM25, multilingual-e5-large and e5-mistral-instruct together: smaller, easier, and
never comparable with the full corpus.

The corpus is streamed, so that text is never whole in memory as Python strings; whatever is wrong
is refused with file and line, never skipped, as a pool that lacks passages gives better figures.
Does not know how anything is embedded or scored.
"""

import mmap
import os
import tempfile
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import pyarrow as pa

from xir_lib.data.catalogue import dataset, file_of
from xir_lib.data.records import PASSAGE_SCHEMA, QREL_SCHEMA, QUERY_SCHEMA, RetrievalTask
from xir_lib.data.rows import batches_of, lines, needed, records, table_of
from xir_lib.errors import InputError

LANGUAGES = (
    "ar", "bn", "de", "en", "es", "fa", "fi", "fr", "hi",
    "id", "ja", "ko", "ru", "sw", "te", "th", "yo", "zh",
)  # fmt: skip
TASKS = tuple(
    f"miracl-{lang}{variant}" for variant in ("", "-hard", "-untitled") for lang in LANGUAGES
)
IN_MEMORY = 1 << 28  # bytes of passages; a larger corpus lies in a file
AGAIN = "get the data set again"

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


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


def required_files(lang: str, folder: Path | None = None) -> list[Path]:
    """Return the corpus files of a language, then topics and judgements; says how to get one that
    is missing.
    """
    return _files(f"miracl-{lang}", lang, folder)


def load_task(lang: str, *, titles: bool = True, folder: Path | None = None) -> RetrievalTask:
    """Return a language's full corpus with the topics and judgements of dev as a task of one pool.

    Without `titles` a passage is its text alone, or its title if it has no text, and the task is
    `miracl-LANG-untitled`. `folder` is the language's own; default: `miracl-v1.0-LANG` in the data
    folder. Ids are upstream's; a topic is its own `pair_id` and its own `group`, since topics are
    independent of each other. The judged passages that are not relevant stay among the judgements,
    with relevance 0. A corpus of more than `IN_MEMORY` bytes lies in a nameless file in its folder,
    as large as its unpacked files, from which passages are read as they are needed; in memory, if
    the folder cannot be written to. Ids are in memory while they are checked.
    """
    *corpus, topics, qrels = required_files(lang, folder)
    passages = stream_passages(corpus)
    name = f"miracl-{lang}" if titles else f"miracl-{lang}-untitled"
    if not titles:
        passages = (each._replace(title="") if each.text.strip() else each for each in passages)
    return RetrievalTask(
        name,
        _queries(lang, _topics(topics)),
        _passage_table(lang, passages, qrels.parents[1]),
        _qrels(_judgements(qrels)),
    )


def load_hard_task(lang: str, *, folder: Path | None = None) -> RetrievalTask:
    """Return the topics that mteb kept of a language, with the pool of hard negatives, as
    `miracl-LANG-hard`.

    Ids are those of `load_task`. `folder` is by default `miracl-LANG-hard` in the data folder.
    """
    name = f"miracl-{lang}-hard"
    corpus, queries, qrels = _files(name, lang, folder)
    rule = f"a row has an id and a text; {AGAIN}"
    topics = (
        (place, needed(record, "_id", place, rule), needed(record, "text", place, rule))
        for place, record in records(queries, ("_id", "text"))
    )
    columns = ("query-id", "corpus-id", "score")
    judged = (
        (place, *(needed(record, key, place, rule) for key in columns[:2]), record["score"])
        for place, record in records(qrels, columns)
    )
    return RetrievalTask(
        name,
        _queries(lang, topics),
        _passage_table(lang, stream_passages([corpus], "_id"), corpus.parents[1]),
        _qrels(judged),
    )


def stream_passages(paths: Iterable[Path], id_column: str = "docid") -> Iterator[Passage]:
    """Yield the passages of corpus files in order, one line in memory at a time.

    Refused, with file and line: a record without the three texts, a passage without title and text,
    and an id that occurred before, in whichever file. Only the ids are kept, about 100 bytes each.
    """
    columns = (id_column, "title", "text")

    def entries() -> Iterator[tuple[str, str, Passage]]:
        for path in paths:
            for place, record in records(path, columns):
                values = [record.get(column) for column in columns]
                if not all(isinstance(value, str) for value in values):
                    raise InputError(f"{place}: {', '.join(columns)} are not all texts; {AGAIN}")
                passage = Passage(*values)  # type: ignore[arg-type]
                if not passage.doc_id or not passage.full_text:
                    what = f"{id_column} {passage.doc_id!r} has an empty id or passage"
                    raise InputError(f"{place}: {what}; {AGAIN}")
                yield place, passage.doc_id, passage

    return (passage for _, passage in _once(entries(), id_column))


def _files(name: str, lang: str, folder: Path | None) -> list[Path]:
    if lang not in LANGUAGES:
        raise InputError(f"MIRACL has no language {lang!r}; it has {', '.join(LANGUAGES)}")
    return [file_of(name, file.path, folder) for file in dataset(name).files]


def _topics(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield place, topic id and question of upstream's TSV, which has no header."""
    for place, line in lines(path):
        topic, _, text = (part.strip() for part in line.partition("\t"))
        if not topic or not text:
            raise InputError(f"{place}: {line[:60]!r} is no topic id, tab and question; {AGAIN}")
        yield place, topic, text


def _judgements(path: Path) -> Iterator[tuple[str, str, str, float]]:
    """Yield place, topic id, docid and relevance of TREC's format."""
    for place, line in lines(path):
        fields = line.split()
        if len(fields) != 4 or not fields[3].isdigit():
            what = "topic id, Q0, docid and relevance"
            raise InputError(f"{place}: {line[:60]!r} is no {what}; {AGAIN}")
        yield place, fields[0], fields[2], int(fields[3])


def _queries(lang: str, topics: Iterable[tuple[str, str, str]]) -> pa.Table:
    rows = ((topic, topic, lang, text, topic) for topic, text in _once(topics, "topic"))
    return table_of(rows, QUERY_SCHEMA)


def _qrels(judged: Iterable[tuple[str, str, str, float]]) -> pa.Table:
    """Return the judgements; relevance is 0 or 1 in MIRACL."""

    def entries() -> Iterator[tuple[str, tuple[str, str], int]]:
        for place, topic, doc_id, relevance in judged:
            if relevance not in (0, 1):
                what = f"{doc_id!r} for topic {topic!r} is judged as {relevance!r}, not 0 or 1"
                raise InputError(f"{place}: {what}; {AGAIN}")
            yield place, (topic, doc_id), int(relevance)

    rows = ((*pair, relevance) for pair, relevance in _once(entries(), "judgement"))
    return table_of(rows, QREL_SCHEMA)


def _once(entries: Iterable[tuple[str, Key, Value]], what: str) -> Iterator[tuple[Key, Value]]:
    """Drop the places of entries (place, key, value), and refuse a key that was there before."""
    seen: set[Key] = set()
    for place, key, value in entries:
        if key in seen:
            raise InputError(f"{place}: {what} {key!r} occurs twice; {AGAIN}")
        seen.add(key)
        yield key, value


def _passage_table(lang: str, passages: Iterable[Passage], folder: Path) -> pa.Table:
    """Return the passages; more than `IN_MEMORY` bytes of them lie in a mapped file of `folder`
    that never has a name.
    """
    rows = ((passage.doc_id, lang, passage.full_text) for passage in passages)
    batches = batches_of(rows, PASSAGE_SCHEMA)
    kept: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        kept.append(batch)
        size += batch.nbytes
        if size > IN_MEMORY and os.access(folder, os.W_OK):
            break
    else:  # all of them are here
        return pa.Table.from_batches(kept, schema=PASSAGE_SCHEMA)
    with tempfile.TemporaryFile(dir=folder) as file:
        with pa.ipc.new_file(file, PASSAGE_SCHEMA) as writer:
            while kept:
                writer.write_batch(kept.pop(0))
            for batch in batches:
                writer.write_batch(batch)
        file.flush()
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return pa.ipc.open_file(pa.py_buffer(mapped)).read_all()
