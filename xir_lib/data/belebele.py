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

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xir_lib.data.catalogue import file_of
from xir_lib.data.parallel import task_from_rows
from xir_lib.data.records import PAIR_SCHEMA, PairTable, RetrievalTask
from xir_lib.data.rows import needed, records, table_of
from xir_lib.data.splits import split_by_group
from xir_lib.errors import InputError

# upstream's code, by the code of the other data sets (ISO 639-1, or 639-2 where there is none)
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
# words of an English question that needs the passage in front of the reader
POINTING = ("passage", "following")
SPLITS = ("train", "test")
# never change: models trained on the one part are judged on the other
TEST_SHARE, SPLIT_SEED = 0.5, 0

Key = tuple[str, int]  # link of the passage, number of the question
AGAIN = "get the data set again"


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
    rows = load_pairs(languages, split=split, folder=folder).table.to_pylist()
    passages = {row["passage_id"]: (row["lang"], row["passage"]) for row in rows}
    if not pointing:
        asked = _standalone(folder)
        rows = [row for row in rows if row["pair_id"] in asked]
    name = f"belebele{'' if pointing else '-standalone'}{'' if split is None else f'-{split}'}"
    return task_from_rows(name, rows, ((key, *rest) for key, rest in passages.items()))


def load_pairs(
    languages: Sequence[str] | None = None, *, split: str | None = None, folder: Path | None = None
) -> PairTable:
    """Return the questions with their passages as parallel pairs, complete in every language.

    `split` is `train` or `test`: a passage with all its questions goes to one side, in all
    languages alike, by a hash of its link (about half of the passages each); None is both. Two
    questions share a passage in most cases, and then its `passage_id`.
    """
    if split not in (None, *SPLITS):
        known = ", ".join(SPLITS)
        raise InputError(f"belebele: unknown split {split!r}; use {known}, or none for both")
    wanted = sorted(set(LANGUAGES if languages is None else languages))
    if not wanted or set(wanted) - set(LANGUAGES):
        raise InputError(
            f"belebele: languages {wanted} asked for; there are {', '.join(LANGUAGES)}"
        )
    english = _read("en", folder)  # says which questions and passages there are
    links = sorted({link for link, _ in english})
    place = {link: f"{number:03d}" for number, link in enumerate(links)}
    rows: list[tuple[str, ...]] = []
    for lang in wanted:
        entries = english if lang == "en" else _read(lang, folder)
        if other := sorted(english.keys() ^ entries.keys()):
            raise InputError(
                f"belebele: {len(other)} questions are not in both {file_name('en')} and"
                f" {file_name(lang)}, {other[0]} for one; get the data set again"
            )
        for (link, number), (question, passage) in sorted(entries.items()):
            passage_id = f"{place[link]}-{lang}"
            rows.append((f"{place[link]}-{number}", lang, question, passage_id, passage, link))
    pairs = PairTable(table_of(rows, PAIR_SCHEMA))
    if split is None:
        return pairs
    return split_by_group(pairs, TEST_SHARE, SPLIT_SEED)[SPLITS.index(split)]


def _standalone(folder: Path | None) -> set[str]:
    """Return the ids whose English question does not point at the passage."""
    rows = load_pairs(["en"], folder=folder).table.to_pylist()
    return {
        row["pair_id"] for row in rows if not any(word in row["query"].lower() for word in POINTING)
    }


def _read(lang: str, folder: Path | None) -> dict[Key, tuple[str, str]]:
    """Return question and passage of one language's file by link and number; the order of its
    lines, and whether numbers are written as strings, differ between files.
    """
    entries: dict[Key, tuple[str, str]] = {}
    passage_of: dict[str, str] = {}
    for place, record in records(file_of("belebele", file_name(lang), folder)):
        link, question, passage = (
            needed(record, column, place, "a record needs link, question and flores_passage")
            for column in ("link", "question", "flores_passage")
        )
        number = str(record.get("question_number"))
        if not number.isdigit():
            raise InputError(f"{place}: question_number {number!r}; it must be a whole number")
        if (link, int(number)) in entries:
            raise InputError(f"{place}: question {number} on {link} occurs twice; {AGAIN}")
        if passage_of.setdefault(link, passage) != passage:
            raise InputError(f"{place}: another passage for {link} than before; {AGAIN}")
        entries[link, int(number)] = question, passage
    return entries
