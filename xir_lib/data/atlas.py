"""Atlas-QA: parallel questions and passages about countries, made by this project, in 23 languages.

One country is one article of single-fact sentences; a question asks for one fact. Every id is told
in every language with the same phrasing index, so the table is parallel by construction. The
wordings of question and passage differ, and the passages of a country (and those of its neighbours,
which name it) compete. The facts are those of GeoNames at the time; they are no reference on the
world.

The table is shipped, so that the name means the same data whatever else is installed. It was made
by `tools/atlas.py`, which says how; `ATLAS_NOTICE.md` says whose facts and names it holds, and
under which licences. Knows no model and no measure.
"""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xir_lib.data.parallel import task_from_rows
from xir_lib.data.records import PAIR_SCHEMA, PairTable, RetrievalTask
from xir_lib.errors import InputError

# By priority: a study that wants fewer takes a prefix.
# fmt: off
LANGUAGES: tuple[str, ...] = (
    "en", "de", "es", "fr", "ar", "fa", "hi", "bn", "te", "sw", "yo", "th", "zh", "ru",
    "el", "tr", "vi", "fi", "id", "ja", "ko", "am", "km",
)
# fmt: on
SPLITS = ("train", "dev", "test")
# `PAIR_SCHEMA` and `split`; language by language, each in the same order of ids. The report is in
# the metadata.
TABLE = Path(__file__).with_name("atlas.parquet")
REPORT = b"report"


def load_pairs(split: str, languages: Sequence[str] | None = None) -> PairTable:
    """Return the questions and passages of a split, one row per (pair_id, lang), no gaps.

    `split` is "train", "dev" or "test"; no country is in two of them. Raises `InputError` for an
    unknown split or language.

    >>> pairs = load_pairs("dev", ["sw", "en"])
    >>> len(pairs.pair_ids), len(pairs)
    (157, 314)
    """
    chosen = _languages(languages)
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}; atlas-qa has {', '.join(SPLITS)}")
    rows = _table().filter(pc.field("split") == split).select(PAIR_SCHEMA.names)
    told = [rows.filter(pc.field("lang") == lang) for lang in chosen]  # in the order asked for
    return PairTable(pa.concat_tables(told).combine_chunks())


def load_task(split: str = "test", languages: Sequence[str] | None = None) -> RetrievalTask:
    """Return a split as a retrieval task: a query's relevant passages are its fact's, in every
    language; the pool holds the passages of the split's countries.

    Raises `InputError` for an unknown split or language.
    """
    pairs = load_pairs(split, languages).table.to_pylist()
    rows = [row | {"passage_id": f"{row['pair_id']}-{row['lang']}"} for row in pairs]
    passages = ((row["passage_id"], row["lang"], row["passage"]) for row in rows)
    return task_from_rows("atlas-qa" if split == "test" else f"atlas-qa-{split}", rows, passages)


def report(languages: Sequence[str] | None = None) -> dict[str, Any]:
    """Return what was counted and checked when the table was made; plain values, ready for JSON.

    Keys: `ids`; `splits` and `relations` (ids in each); `left_out` (ids dropped for missing names);
    `languages` -> code -> `ids`, `untranslated` (names in Latin letters that should not be, by
    kind) and `latin_passages` (passages that hold one); `problems`, none; `made_with`, the versions
    of the two packages that gave facts and names.
    """
    made = json.loads(pq.read_schema(TABLE).metadata[REPORT])
    return made | {"languages": {lang: made["languages"][lang] for lang in _languages(languages)}}


@cache
def _table() -> pa.Table:
    return pq.read_table(TABLE).replace_schema_metadata(None)


def _languages(languages: Sequence[str] | None) -> tuple[str, ...]:
    if languages is None:
        return LANGUAGES
    if unknown := sorted(set(languages) - set(LANGUAGES)):
        raise InputError(
            f"unknown language {', '.join(unknown)}; atlas-qa has {', '.join(LANGUAGES)}"
        )
    if not languages:
        raise InputError(f"no language given; atlas-qa has {', '.join(LANGUAGES)}")
    return tuple(dict.fromkeys(languages))
