"""Load Belebele (Bandarkar et al. 2024) as passage retrieval between English and eleven African
languages.

900 questions on 488 passages, each in every language: fully parallel, so that every ordered pair of
languages, and every strategy, is asked the same. The query is the question, what is relevant is its
passage in *every* loaded language; the answers of the multiple choice are not looked at. Upstream
has 122 languages under the same file names; the twelve here are those that the study has.
Belebele's questions were written for readers who have the passage before them: 528 of them point at
it ("according to the passage", "which of the following"), so results are given without those too.
Does not know how anything is embedded or scored.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from xir_lib.data.records import (
    PAIR_SCHEMA,
    PASSAGE_SCHEMA,
    QREL_SCHEMA,
    QUERY_SCHEMA,
    PairTable,
    RetrievalTask,
)
from xir_lib.data.splits import split_by_group
from xir_lib.errors import InputError
from xir_lib.paths import data_dir, require

# upstream's code, by the code that the other data sets have (ISO 639-1, or 639-2 where there is
# none)
LANGUAGES = {
    "af": "afr_Latn",
    "am": "amh_Ethi",
    "bm": "bam_Latn",
    "en": "eng_Latn",
    "ig": "ibo_Latn",
    "nso": "nso_Latn",
    "sn": "sna_Latn",
    "st": "sot_Latn",
    "tn": "tsn_Latn",
    "ts": "tso_Latn",
    "xh": "xho_Latn",
    "zu": "zul_Latn",
}
TASKS: dict[str, dict[str, Any]] = {  # name of a task: what `load_task` takes
    "belebele": {},
    "belebele-standalone": {"pointing": False},
    "belebele-train": {"split": "train"},
    "belebele-test": {"split": "test"},
    "belebele-standalone-test": {"pointing": False, "split": "test"},
}
POINTING = (
    "passage",
    "following",
)  # words of an English question that needs the passage in front of the reader
SPLITS = ("train", "test")
TEST_SHARE, SPLIT_SEED = (
    0.5,
    0,
)  # never change: models trained on the one part are judged on the other

Key = tuple[str, int]  # link of the passage, number of the question


class _Entry(NamedTuple):
    question: str
    passage: str


def file_name(lang: str) -> str:
    """Return the name of a language's file, upstream's without its folder `data/`."""
    return f"{LANGUAGES[lang]}.jsonl"


def load_task(
    languages: Sequence[str] | None = None,
    *,
    pointing: bool = True,
    split: str | None = None,
    folder: Path | None = None,
) -> RetrievalTask:
    """Return Belebele as a task: per language 488 passages and 900 queries.

    Args:
        languages: codes of `LANGUAGES`; None: all twelve.
        pointing: False leaves the questions out that point at the passage (in every language, by
        the English text): 372 stay.
        split: `train` or `test` keeps that part of `load_pairs`' split, **passages included**: what
            was trained on is no distractor either. The pool is then smaller, so the figures do not
            compare with those of the whole.
        folder: of the files; default: `belebele` in the data folder.

    The pool holds the passages of the left-out questions too: with and without them the pool is the
    same. `pair_id` is the passage's place (by link, from 0) and the question's number, as in
    `007-2`, `query_id` adds the language; `doc_id` is the passage's place and the language, so that
    ties do not favour a language. `group` is the link of the passage, by which statistics are done.

    The name is that of `TASKS`. Raises `InputError` for files that are missing, malformed or not
    parallel.
    """
    table = _pairs(languages, folder, split).table
    rows = table.to_pylist()
    passages = {
        row["passage_id"]: {
            "doc_id": row["passage_id"],
            "lang": row["lang"],
            "text": row["passage"],
        }
        for row in rows
    }
    if not pointing:
        asked = _standalone(folder)
        rows = [row for row in rows if row["pair_id"] in asked]
    there = table["lang"].unique().to_pylist()
    judged = [(row, f"{_place(row['pair_id'])}-{lang}") for row in rows for lang in there]
    return RetrievalTask(
        f"belebele{'' if pointing else '-standalone'}{'' if split is None else f'-{split}'}",
        queries=pa.table(
            {
                "query_id": [_query_id(row) for row in rows],
                **{column: [row[column] for row in rows] for column in ("pair_id", "lang")},
                "text": [row["query"] for row in rows],
                "group": [row["group"] for row in rows],
            },
            schema=QUERY_SCHEMA,
        ),
        passages=pa.Table.from_pylist(list(passages.values()), schema=PASSAGE_SCHEMA),
        qrels=pa.table(
            {
                "query_id": [_query_id(row) for row, _ in judged],
                "doc_id": [doc_id for _, doc_id in judged],
                "relevance": [1] * len(judged),
            },
            schema=QREL_SCHEMA,
        ),
    )


def load_pairs(
    languages: Sequence[str] | None = None, *, split: str | None = None, folder: Path | None = None
) -> PairTable:
    """Return the questions with their passages as parallel pairs, complete in every language.

    `split` is `train` or `test`: a passage with all its questions goes to one side, in all
    languages alike, by a hash of its link (about half of the passages each); None is both. Two
    questions share a passage in most cases, and then its `passage_id`.
    """
    return _pairs(languages, folder, split)


def _pairs(languages: Sequence[str] | None, folder: Path | None, split: str | None) -> PairTable:
    if split not in (None, *SPLITS):
        raise InputError(
            f"belebele: unknown split {split!r}; use {', '.join(SPLITS)}, or none for both"
        )
    wanted = sorted(set(LANGUAGES if languages is None else languages))
    if not wanted or set(wanted) - set(LANGUAGES):
        raise InputError(
            f"belebele: languages {wanted} asked for; there are {', '.join(LANGUAGES)}"
        )
    english = _read("en", folder)
    place = {
        link: f"{number:03d}" for number, link in enumerate(sorted({link for link, _ in english}))
    }
    rows = []
    for lang in wanted:
        entries = english if lang == "en" else _read(lang, folder)
        if other := sorted(english.keys() ^ entries.keys()):
            raise InputError(
                f"belebele: {len(other)} questions are not in both {file_name('en')} and"
                f" {file_name(lang)}, {other[0]} for one; get the data set again"
            )
        rows += [
            {
                "pair_id": f"{place[link]}-{number}",
                "lang": lang,
                "query": entries[link, number].question,
                "passage_id": f"{place[link]}-{lang}",
                "passage": entries[link, number].passage,
                "group": link,
            }
            for link, number in sorted(entries)
        ]
    pairs = PairTable(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA))
    return (
        pairs
        if split is None
        else split_by_group(pairs, TEST_SHARE, SPLIT_SEED)[SPLITS.index(split)]
    )


def _standalone(folder: Path | None) -> set[str]:
    """Return the ids whose English question does not point at the passage."""
    table = _pairs(["en"], folder, None).table
    return {
        pair_id
        for pair_id, text in zip(
            table["pair_id"].to_pylist(), table["query"].to_pylist(), strict=True
        )
        if not any(word in text.lower() for word in POINTING)
    }


def _read(lang: str, folder: Path | None) -> dict[Key, _Entry]:
    """Read one language's file; the order of its lines, and whether numbers are written as strings,
    differ between files.
    """
    path = (data_dir() / "belebele" if folder is None else Path(folder)) / file_name(lang)
    require(
        path, "`xir data get belebele` downloads it, or set XIR_DATA to the folder above belebele"
    )
    entries: dict[Key, _Entry] = {}
    passage_of: dict[str, str] = {}
    for number, key, entry in _entries(path):
        if key in entries:
            raise InputError(
                f"{path}, line {number}: question {key[1]} on {key[0]} occurs twice; get the data"
                " set again"
            )
        if passage_of.setdefault(key[0], entry.passage) != entry.passage:
            raise InputError(
                f"{path}, line {number}: another passage for {key[0]} than before; get the data set"
                " again"
            )
        entries[key] = entry
    return entries


def _entries(path: Path) -> Iterator[tuple[int, Key, _Entry]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
                link, question, passage = (
                    record[name] for name in ("link", "question", "flores_passage")
                )
                if not all(
                    isinstance(text, str) and text.strip() for text in (link, question, passage)
                ):
                    raise ValueError("empty text")
                yield number, (link, int(record["question_number"])), _Entry(question, passage)
            except (ValueError, KeyError, TypeError) as error:  # ValueError: neither JSON nor UTF-8
                raise InputError(
                    f"{path}, line {number}: no object with link, question_number, question and"
                    f" flores_passage ({type(error).__name__}: {error}); get the data set again"
                ) from error


def _place(pair_id: str) -> str:
    return pair_id.split("-")[0]


def _query_id(row: dict[str, str]) -> str:
    return f"{row['pair_id']}-{row['lang']}"
