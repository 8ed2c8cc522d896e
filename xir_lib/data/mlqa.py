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
from xir_lib.data.records import PAIR_SCHEMA, PASSAGE_SCHEMA, PairTable
from xir_lib.data.splits import components
from xir_lib.errors import InputError
from xir_lib.paths import data_dir, require

QUERY_LANGS = {  # of the files with this passage language
    "de": ("ar", "es", "hi", "vi", "zh"),
    "es": ("ar", "de", "hi", "vi", "zh"),
    "vi": ("de",),
    "zh": ("ar", "de", "es", "hi", "vi"),
}
CORE_LANGUAGES = ("de", "es", "vi", "zh")


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
    folder = data_dir() / "mlqa-v1" if folder is None else Path(folder)
    queries: dict[tuple[str, str], str] = {}
    passages: dict[tuple[str, str], str] = {}
    for doc_lang, query_langs in QUERY_LANGS.items():
        for query_lang in query_langs:
            path = folder / file_name(doc_lang, query_lang)
            require(
                path,
                "`xir data get mlqa-v1` downloads it, or set XIR_DATA to the folder above mlqa-v1",
            )
            for paragraph in squad.read(path, sentences=False):
                for question in paragraph.questions:
                    _put(queries, (question.pair_id, query_lang), question.text, "question", path)
                    _put(passages, (question.pair_id, doc_lang), paragraph.context, "passage", path)
    keys = sorted(queries.keys() | passages.keys())
    passage_ids = {key: _passage_id(text, key[1]) for key, text in passages.items()}
    group_of = components([pair_id for pair_id, _ in passage_ids], list(passage_ids.values()))
    columns = {
        "pair_id": [pair_id for pair_id, _ in keys],
        "lang": [lang for _, lang in keys],
        "query": [queries.get(key) for key in keys],
        "passage_id": [passage_ids.get(key) for key in keys],
        "passage": [passages.get(key) for key in keys],
        "group": [group_of[pair_id] for pair_id, _ in keys],
    }
    return PairTable(pa.table(columns, schema=PAIR_SCHEMA))


def load_paragraphs(folder: Path | None = None) -> pa.Table:
    """Return the distinct passages of `load_pairs` (`PASSAGE_SCHEMA`): 14,580 in four languages."""
    held = load_pairs(folder).table.select(["passage_id", "lang", "passage"]).drop_null()
    distinct = held.group_by(["passage_id", "lang", "passage"], use_threads=False).aggregate(
        []
    )  # in order of appearance
    return (
        distinct.select(["passage_id", "lang", "passage"])
        .rename_columns(PASSAGE_SCHEMA.names)
        .cast(PASSAGE_SCHEMA)
    )


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
    _refuse_unknown(languages, pairs.languages)
    table = pairs.table
    both = pc.and_(pc.is_valid(table["query"]), pc.is_valid(table["passage_id"]))
    usable = table.filter(pc.and_(both, pc.is_in(table["lang"], pa.array(languages, pa.string()))))
    counts = usable.group_by("pair_id").aggregate([("lang", "count")])
    ids = counts.filter(pc.greater_equal(counts["lang_count"], 2))["pair_id"].combine_chunks()
    table = table.filter(pc.is_in(table["pair_id"], ids))
    if query_langs is not None:
        _refuse_unknown(query_langs, pairs.languages)
        keep = pc.is_in(table["lang"], pa.array(query_langs, pa.string()))
        position = table.schema.get_field_index("query")
        table = table.set_column(
            position, PAIR_SCHEMA.field("query"), pc.if_else(keep, table["query"], None)
        )
        table = table.filter(pc.or_(pc.is_valid(table["query"]), pc.is_valid(table["passage_id"])))
    return PairTable(table)


def _put(
    texts: dict[tuple[str, str], str], key: tuple[str, str], text: str, what: str, path: Path
) -> None:
    if texts.setdefault(key, text) != text:
        raise InputError(
            f"{path}: {what} of id {key[0]!r} ({key[1]}) differs from an earlier file's; get the"
            " data set again"
        )


def _passage_id(text: str, lang: str) -> str:
    return f"{hashlib.sha256(text.encode()).hexdigest()[:16]}-{lang}"


def _refuse_unknown(languages: Sequence[str], known: Sequence[str]) -> None:
    if unknown := sorted(set(languages) - set(known)):
        raise InputError(
            f"unknown language {', '.join(unknown)}; these pairs have {', '.join(known)}"
        )
