"""Load XQuAD-R and MLQA-R (LAReQA, Roy et al. 2020): every sentence of every paragraph is a
candidate.

Follows section 3.1 of LAReQA and the evaluation of the paper: identity is (language, paragraph,
sentence position), nothing is de-duplicated by text, and a question is answered by one sentence in
each language that has its id. Does not know how anything is embedded or scored, nor which pool a
query meets.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from xir_lib.data import squad
from xir_lib.data.catalogue import file_of, folder_of
from xir_lib.data.parallel import task_from_rows
from xir_lib.data.records import PAIR_SCHEMA, PASSAGE_SCHEMA, PairTable, RetrievalTask
from xir_lib.data.rows import table_of
from xir_lib.data.splits import components
from xir_lib.errors import InputError

LANGUAGES = {
    "xquad-r": ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh"),
    "mlqa-r": ("ar", "de", "en", "es", "hi", "vi", "zh"),
}
SPLITS = ("train", "test")
TASKS = ("xquad-r", "xquad-r-test", "mlqa-r")
CONTEXT = "-context"
# the same with sentences that are embedded with their paragraph
WITH_CONTEXT = tuple(f"{name}{CONTEXT}" for name in TASKS)
# of XQuAD-R's 48; never change: models trained on the others are judged on these
TEST_ARTICLES = 16

_Passage = tuple[str, str, str, str]  # doc_id, language, sentence, paragraph


def load_task(
    name: str,
    languages: Sequence[str] | None = None,
    folder: Path | None = None,
    *,
    split: str | None = None,
    context: bool = False,
) -> RetrievalTask:
    """Return `xquad-r` or `mlqa-r` as a task: 13,014 or 20,534 sentences, 13,090 or 4,199 queries.

    `doc_id` is article, paragraph and sentence position (from 0, in that language's file) and the
    language, as in `003-01-04-de`: it starts with the position so that breaking ties by id does not
    favour a language. The positions of articles and paragraphs agree across languages in XQuAD-R
    and do not in MLQA-R. `query_id` is `{pair_id}-{lang}`. A query's relevant passages are the
    answering sentence of its id in *every* loaded language that has the id, its own included: 11 on
    XQuAD-R, 4 (820 ids), 3 (263) or 2 (65) on MLQA-R.

    `group` is the article: the connected component of ids that share an article in any language,
    since the articles of MLQA-R carry no common name. There are 48 and 520, and no component holds
    two articles of a language. `paragraph` is the same of paragraphs.

    `split` keeps that part of `load_pairs`' split, **passages included**, and is in the task's
    name. With `context`, in the name too, a passage is the sentence and behind it its whole
    paragraph, which LAReQA's own encoders read as well; the places, ids and judgements are the
    same.
    """
    passages, answered = _read(name, languages, folder, split)
    texts = (
        (doc_id, lang, f"{text} {paragraph}" if context else text)
        for doc_id, lang, text, paragraph in passages
    )
    full = f"{name}{f'-{split}' if split else ''}{CONTEXT if context else ''}"
    return task_from_rows(full, answered, texts)


def load_pairs(
    name: str,
    languages: Sequence[str] | None = None,
    folder: Path | None = None,
    *,
    split: str | None = None,
) -> PairTable:
    """Return the same questions with their answering sentences as training pairs.

    `passage_id` is the sentence's `doc_id`, so ids that one sentence answers in a language share it
    there. `split`, `train` or `test`, keeps the questions of 32 or 16 whole articles of XQuAD-R,
    the same in every language: the 16 whose groups have the smallest hashes are the test part.
    """
    _, answered = _read(name, languages, folder, split)
    return PairTable(pa.Table.from_pylist(answered, schema=PAIR_SCHEMA))  # `paragraph` stays out


def load_paragraphs(name: str, folder: Path | None = None) -> pa.Table:
    """Return the whole paragraphs as passages (`PASSAGE_SCHEMA`): of XQuAD-R 240 in each of 11
    languages.
    """
    rows = (
        (f"{name}-{paragraph.article:03d}-{paragraph.number:02d}-{lang}", lang, paragraph.context)
        for lang in LANGUAGES[name]
        for paragraph in squad.read(file_of(name, f"{lang}.json", folder), sentences=False)
    )
    return table_of(rows, PASSAGE_SCHEMA)


def _read(
    name: str, languages: Sequence[str] | None, folder: Path | None, split: str | None
) -> tuple[list[_Passage], list[dict[str, str]]]:
    """Return passages and answered questions of the languages, in the order of language and file.

    Every file there is is read, so that `group` does not depend on the languages asked for.
    """
    if split is not None and (name != "xquad-r" or split not in SPLITS):
        raise InputError(
            f"{name}: unknown split {split!r}; xquad-r has {' and '.join(SPLITS)}, the others have"
            " none"
        )
    if name not in LANGUAGES:
        raise InputError(f"unknown data set {name!r}; known: {', '.join(sorted(LANGUAGES))}")
    known = LANGUAGES[name]
    wanted = set(known if languages is None else languages)
    if not wanted or wanted - set(known):
        raise InputError(
            f"{name}: languages {sorted(wanted)} asked for; there are {', '.join(known)}"
        )
    passages: list[_Passage] = []
    answered: list[dict[str, str]] = []
    asked: list[tuple[str, str, str]] = []  # id, article and paragraph of every question
    own = folder_of(name) if folder is None else Path(folder)
    for lang in known:
        if lang not in wanted and not (own / f"{lang}.json").exists():
            continue
        for paragraph in squad.read(file_of(name, f"{lang}.json", own), sentences=True):
            article = f"{paragraph.article:03d}"
            place = f"{article}-{paragraph.number:02d}"
            asked += [
                (each.pair_id, f"{article}-{lang}", f"{place}-{lang}")
                for each in paragraph.questions
            ]
            if lang not in wanted:
                continue
            texts = {
                f"{place}-{position:02d}-{lang}": text
                for position, text in enumerate(paragraph.sentences)
            }
            passages += [(key, lang, text, paragraph.context) for key, text in texts.items()]
            for question in paragraph.questions:
                doc_id = f"{place}-{question.sentence:02d}-{lang}"
                answered.append(
                    {
                        "pair_id": question.pair_id,
                        "lang": lang,
                        "query": question.text,
                        "passage_id": doc_id,
                        "passage": texts[doc_id],
                    }
                )
    ids, articles, paragraphs = ([values[k] for values in asked] for k in range(3))
    group_of, paragraph_of = components(ids, articles), components(ids, paragraphs)
    for row in answered:
        row |= {"group": group_of[row["pair_id"]], "paragraph": paragraph_of[row["pair_id"]]}
    if split is None:
        return passages, answered
    return _part(passages, answered, split, set(group_of.values()))


def _part(
    passages: list[_Passage], answered: list[dict[str, str]], split: str, groups: set[str]
) -> tuple[list[_Passage], list[dict[str, str]]]:
    """Keep one side's articles; in XQuAD-R an article has the same position in every language, and
    `doc_id` begins with it.
    """
    by_hash = sorted(groups, key=lambda group: hashlib.sha256(group.encode()).hexdigest())
    kept = set(by_hash[:TEST_ARTICLES] if split == "test" else by_hash[TEST_ARTICLES:])
    answered = [row for row in answered if row["group"] in kept]
    articles = {row["passage_id"].split("-")[0] for row in answered}
    return [row for row in passages if row[0].split("-")[0] in articles], answered
