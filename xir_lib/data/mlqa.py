"""Load part of the MLQA v1 test set (Lewis et al. 2020) as parallel question and passage pairs for
training.

Sixteen of upstream's 49 files, those of different languages with passages in German, Spanish,
Vietnamese and Chinese: MLQA-R, which is judged on, comes from MLQA's development set. Answers and
titles are not looked at, so the whole upstream files and copies stripped of them load as the same
table. Knows no sampler and no split.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from xir_lib.data import squad
from xir_lib.data.catalogue import file_of
from xir_lib.data.records import PAIR_SCHEMA, PASSAGE_SCHEMA, PairTable
from xir_lib.data.rows import table_of
from xir_lib.data.splits import components
from xir_lib.errors import InputError

QUERY_LANGS = {  # of the files with this passage language
    "de": ("ar", "es", "hi", "vi", "zh"),
    "es": ("ar", "de", "hi", "vi", "zh"),
    "vi": ("de",),
    "zh": ("ar", "de", "es", "hi", "vi"),
}
CORE_LANGUAGES = ("de", "es", "vi", "zh")

Key = tuple[str, str]  # id and language


def file_name(doc_lang: str, query_lang: str) -> str:
    """Return upstream's name of the file with these passages and questions, inside the data set's
    folder.
    """
    return f"test/test-context-{doc_lang}-question-{query_lang}.json"


def load_pairs(folder: Path | None = None) -> PairTable:
    """Merge the sixteen files by question id into one table, in the order of id and language.

    9,677 ids with 22,724 questions in six languages and 16,256 passages in four (distinct: 14,580).
    Several ids share one passage: equal text in a language is one `passage_id`, a digest of the
    text and the language. `group` is the connected component of ids that share a passage in any
    language (8,499 of them).
    """
    queries: dict[Key, str] = {}
    passages: dict[Key, str] = {}
    for doc_lang, query_langs in QUERY_LANGS.items():
        for query_lang in query_langs:
            path = file_of("mlqa-v1", file_name(doc_lang, query_lang), folder)
            for paragraph in squad.read(path, sentences=False):
                for question in paragraph.questions:
                    _put(queries, (question.pair_id, query_lang), question.text, path)
                    _put(passages, (question.pair_id, doc_lang), paragraph.context, path)
    passage_ids = {
        key: f"{hashlib.sha256(text.encode()).hexdigest()[:16]}-{key[1]}"
        for key, text in passages.items()
    }
    group_of = components([pair_id for pair_id, _ in passage_ids], list(passage_ids.values()))
    rows = (
        (*key, queries.get(key), passage_ids.get(key), passages.get(key), group_of[key[0]])
        for key in sorted(queries.keys() | passages.keys())
    )
    return PairTable(table_of(rows, PAIR_SCHEMA))


def load_paragraphs(folder: Path | None = None) -> pa.Table:
    """Return the distinct passages of `load_pairs` (`PASSAGE_SCHEMA`): 14,580 in four languages."""
    names = ["passage_id", "lang", "passage"]
    held = load_pairs(folder).table.select(names).drop_null()
    distinct = held.group_by(names, use_threads=False).aggregate([])
    return distinct.select(names).rename_columns(PASSAGE_SCHEMA.names).cast(PASSAGE_SCHEMA)


def core(
    pairs: PairTable,
    languages: Sequence[str] = CORE_LANGUAGES,
    query_langs: Sequence[str] | None = None,
) -> PairTable:
    """Keep the ids that have both a question and a passage in at least two of `languages`.

    Only these can serve the same-language and the cross-language strategy alike: 5,328 of the 9,677
    ids of MLQA, the others have no language with both. The questions of a core id in *all*
    languages stay (Arabic and Hindi too), which gives 11,907 same-language and 22,700
    cross-language pairs; `query_langs` names those to keep instead: with the four core languages
    16,580 cross-language pairs are left, and as many same-language ones.
    """
    table = pairs.table
    there = pairs.select(languages=list(languages)).table
    usable = there.filter(pc.and_(pc.is_valid(there["query"]), pc.is_valid(there["passage_id"])))
    counts = usable.group_by("pair_id").aggregate([("lang", "count")])
    ids = counts.filter(pc.greater_equal(counts["lang_count"], 2))["pair_id"].combine_chunks()
    table = table.filter(pc.is_in(table["pair_id"], ids))
    if query_langs is not None:
        if unknown := sorted(set(query_langs) - set(pairs.languages)):
            raise InputError(
                f"unknown language {', '.join(unknown)}; these pairs have"
                f" {', '.join(pairs.languages)}"
            )
        keep = pc.is_in(table["lang"], pa.array(query_langs, pa.string()))
        queries = pc.if_else(keep, table["query"], None)
        place = table.schema.get_field_index("query")
        table = table.set_column(place, PAIR_SCHEMA.field("query"), queries)
        table = table.filter(pc.or_(pc.is_valid(table["query"]), pc.is_valid(table["passage_id"])))
    return PairTable(table)


def _put(texts: dict[Key, str], key: Key, text: str, path: Path) -> None:
    if texts.setdefault(key, text) != text:
        raise InputError(
            f"{path}: the text of id {key[0]!r} ({key[1]}) differs from an earlier file's; get the"
            " data set again"
        )
