"""Read a user's own BEIR folder, as a retrieval task or as training pairs, and say where a file is
wrong.

The layout is that of Thakur et al. (2021), with two or three keys more:

    corpus.jsonl     {"_id": "17b", "lang": "de", "title": "Eulen", "text": "Eulen fliegen nachts."}
    queries.jsonl    {"_id": "17q", "lang": "sw", "text": "Nani?", "pair_id": "17", "group": "owls"}
    qrels/test.tsv   query-id <tab> corpus-id <tab> score, after a header

Title and text are joined by a space. `pair_id` is equal for the translations of one question,
`group` for the questions that resampling keeps together (an article); without them every question
is its own, and a group is a `pair_id`. A task is **parallel**, and has a language bias that can be
measured, if a query's relevant passages are one in each of several languages: judge the
translations too.

Ties are broken by passage id: let ids not begin with their language, or ties favour one. Knows no
model and no setting.
"""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from xir_lib.data.records import PASSAGE_SCHEMA, QREL_SCHEMA, QUERY_SCHEMA, RetrievalTask
from xir_lib.data.rows import Record, Records, lines, needed, records, table_of, text_of
from xir_lib.errors import InputError

log = logging.getLogger(__name__)

RULE = "a record needs _id, lang and text"
NO_LANG = "BEIR names none; say which, as in load_pairs(folder, lang='en')"
_SCORES = range(-128, 128)  # what the qrels' 8 bits hold


def is_beir(folder: Path) -> bool:
    """Say whether a folder is laid out as BEIR's are."""
    return (Path(folder) / "corpus.jsonl").is_file()


def load_task(folder: Path, split: str = "test") -> RetrievalTask:
    """Return the task of a BEIR folder and one split of its judgements; its name is the folder's.

    Queries that the split does not judge belong to another split: they are left out and counted in
    a warning.

    Raises:
        InputError: with file and line: no JSON, a missing or empty field, an id twice or with white
            space (a TREC run could not hold it), a judgement twice or of an unknown id, a score
            that is no whole number, a query without a relevant passage; with the file: no record at
            all.
    """
    corpus, queries, qrels = _files(Path(folder), split)
    line_of_doc: dict[str, int] = {}
    line_of_query: dict[str, int] = {}
    passages = _texts(corpus, line_of_doc, PASSAGE_SCHEMA)
    asked = _texts(queries, line_of_query, QUERY_SCHEMA)
    judged: list[tuple[str, str, int]] = []
    answered: dict[str, bool] = {}
    for place, query_id, doc_id, score in _judgements(qrels):
        for name, known, file in (
            (query_id, line_of_query, queries), (doc_id, line_of_doc, corpus),
        ):  # fmt: skip
            if name not in known:
                raise InputError(
                    f"{place}: id {name!r} is not in {file.name}; take them from the same data set"
                )
        judged.append((query_id, doc_id, score))
        answered[query_id] = answered.get(query_id, False) or score > 0
    for query_id, found in answered.items():
        if not found:
            raise InputError(
                f"{queries} line {line_of_query[query_id]}: query {query_id!r} has no relevant"
                f" passage in {qrels.name}; judge one above 0 or drop the query's judgements"
            )
    if left := len(line_of_query) - len(answered):
        log.warning("%s: %d queries that %s does not judge are left out", queries, left, qrels.name)
        asked = asked.filter(pa.array([name in answered for name in asked["query_id"].to_pylist()]))
    name = Path(folder).resolve().name
    return RetrievalTask(name, asked, passages, table_of(judged, QREL_SCHEMA))


def pair_records(folder: Path, lang: str | None) -> Records:
    """Yield the records of training pairs (`readers`) of a folder with `qrels/train.tsv`, at their
    places in the corpus and in its order.

    A query's id is its `pair_id`, a document's its `passage_id`. If a query has several relevant
    documents, the one judged best is kept, the first in the file among equals, and the others are
    counted and left out: as two ids with one question they could meet in a batch, where each
    passage would be the other's negative. A document that was left out can still meet the query if
    it is the best of another one. If query and document are in different languages, the pair is one
    row for each. Only the judged queries are held in memory.
    """
    corpus, queries, qrels = _files(folder, "train")
    best = _best_judged(qrels)
    texts: dict[str, dict[str, str]] = {}  # of the judged queries
    line_of: dict[str, int] = {}
    for place, query_id, record in _entries(queries):
        if query_id in best:
            _refuse_again(line_of, query_id, place)
            own_lang = text_of(record, "lang", place) or lang
            texts[query_id] = {
                "pair_id": query_id,
                "lang": own_lang or needed(record, "lang", place, NO_LANG),
                "query": needed(record, "text", place, "a query has _id and text"),
            }
    asked: dict[str, list[str]] = {}  # query ids by passage id
    for query_id, passage_id in best.items():
        if query_id not in texts:
            raise InputError(f"{queries} lacks query {query_id!r}, which {qrels} judges")
        asked.setdefault(passage_id, []).append(query_id)
    lacking = dict.fromkeys(asked)
    for place, passage_id, record in _entries(corpus):
        for query_id in asked.get(passage_id, ()):
            own_lang = text_of(record, "lang", place) or lang
            passage = {
                "pair_id": query_id,
                "lang": own_lang or needed(record, "lang", place, NO_LANG),
                "passage_id": passage_id,
                "passage": title_and_text(record, place),
            }
            if texts[query_id]["lang"] == passage["lang"]:
                yield place, {**texts[query_id], **passage}
            else:
                yield place, texts[query_id]
                yield place, passage
        lacking.pop(passage_id, None)
    for passage_id in lacking:
        raise InputError(f"{corpus} lacks passage {passage_id!r}, which {qrels} judges")


def title_and_text(record: Record, place: str) -> str:
    """Return what a document has of title and text, joined by a space; empty if neither is more
    than white space.
    """
    given = (part for part in ("title", "text") if str(record.get(part) or "").strip())
    return " ".join(text_of(record, part, place) or "" for part in given)


def _files(folder: Path, split: str) -> list[Path]:
    names = ("corpus.jsonl", "queries.jsonl", f"qrels/{split}.tsv")
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise InputError(f"{folder} is no BEIR folder, it lacks {', '.join(missing)}")
    return [folder / name for name in names]


def _texts(path: Path, line_of: dict[str, int], schema: pa.Schema) -> pa.Table:
    """Read the corpus or the queries, by their schema, and note the line of every id."""

    def rows() -> Iterator[list[Any]]:
        for place, name, record in _entries(path):
            _refuse_again(line_of, name, place)
            if re.search(r"\s", name):
                raise InputError(
                    f"{place}: _id {name!r} holds white space, which ends an id in TREC's files;"
                    " write it without"
                )
            lang = needed(record, "lang", place, RULE)
            if not re.fullmatch(r"[A-Za-z0-9_-]+", lang):
                raise InputError(
                    f"{place}: lang {lang!r} is no language code; write letters, digits and -,"
                    " such as zh"
                )
            if schema is PASSAGE_SCHEMA:
                full = title_and_text(record, place)
                yield [name, lang, full or needed(record, "text", place, RULE)]
            else:
                pair_id = text_of(record, "pair_id", place) or name
                text = needed(record, "text", place, RULE)
                yield [name, pair_id, lang, text, text_of(record, "group", place) or pair_id]

    table = table_of(rows(), schema, whole=False)
    if not table.num_rows:
        raise InputError(
            f"{path} holds no record; write one JSON object a line with _id, lang and text"
        )
    return table


def _entries(path: Path) -> Iterator[tuple[str, str, Record]]:
    """Yield place, id and record."""
    for place, record in records(path):
        yield (
            place,
            needed(record, "_id", place, "a record of a BEIR folder has _id and text"),
            record,
        )


def _judgements(qrels: Path) -> Iterator[tuple[str, str, str, int]]:
    """Yield place, query id, passage id and score; a pair is judged once."""
    line_of: dict[str, int] = {}
    rule = "a header, then query-id, corpus-id and a whole score with tabs between"
    header = True
    for place, line in lines(qrels):
        fields = line.split("\t")
        score = int(fields[2]) if len(fields) == 3 and re.fullmatch(r"-?\d+", fields[2]) else None
        if header != (score is None) or (score is not None and score not in _SCORES):
            raise InputError(f"{place}: {line!r:.60}; {rule}")
        header = False
        if score is not None:
            _refuse_again(line_of, "\t".join(fields[:2]), place)
            yield place, fields[0], fields[1], score
    if not line_of:
        raise InputError(f"{qrels} holds no judgement; {rule}")


def _best_judged(qrels: Path) -> dict[str, str]:
    """Return the best judged passage id of every query; the other relevant ones are counted in a
    warning.
    """
    best: dict[str, tuple[int, str]] = {}
    relevant = 0
    for _, query_id, passage_id, score in _judgements(qrels):
        relevant += score > 0
        if score > 0 and (query_id not in best or score > best[query_id][0]):
            best[query_id] = score, passage_id
    if not best:
        raise InputError(f"{qrels} judges no passage relevant; a score above 0 does")
    if relevant > len(best):
        log.warning(
            "%s: %d relevant passages beside the best of a query are left out",
            qrels, relevant - len(best),
        )  # fmt: skip
    return {query_id: passage_id for query_id, (_, passage_id) in best.items()}


def _refuse_again(line_of: dict[str, int], name: str, place: str) -> None:
    """Note the line of a name, and refuse one that was there before."""
    line = int(place.rpartition(" ")[2])
    if (first := line_of.setdefault(name, line)) != line:
        raise InputError(f"{place}: {name!r} again, as in line {first}; give it once")
