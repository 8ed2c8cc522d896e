"""Read users' own training pairs into a `PairTable`, and say where a file is wrong.

One record is one id in one language (the long format):

    {"pair_id": "17", "lang": "de", "query": "Wer fliegt?", "passage": "Eulen fliegen."}

`pair_id` and `lang` are needed, and a `query`, a `passage` or both. Optional: `passage_id` (equal
for ids that share the passage), `group` (the unit that splits keep whole; `pair_id` if not given)
and `negatives` (a list of texts in `lang`). An absent key, a JSON null and an empty TSV cell are
the same: not given. Other columns are named in one warning and left out. Records are checked one by
one, since a message must name the place. Knows no model, no sampler and no published data set.
"""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from xir_lib.data import beir
from xir_lib.data.records import DATASET, NEGATIVES, PAIR_SCHEMA, PairTable
from xir_lib.data.rows import (
    BLOCK,
    Record,
    Records,
    is_readable,
    needed,
    of_batches,
    records,
    table_of,
    text_of,
)
from xir_lib.errors import InputError
from xir_lib.paths import require

if TYPE_CHECKING:
    import datasets

log = logging.getLogger(__name__)

READ = ".jsonl, .jsonl.gz, .parquet, .tsv, .tsv.gz, .arrow (a saved PairTable) and BEIR folders"
RULE = "a record needs pair_id, lang and a query, a passage or both"
_SCHEMA = PAIR_SCHEMA.append(NEGATIVES)
_NUMBER = pa.field("number", pa.int64())  # of the record's line or row, while it is checked
# fmt: off
_TWO_LETTERS = (  # CLDR's codes of languages; longer ones would take `text_len` for one
    "aa|ab|ae|af|ak|am|an|ar|as|av|ay|az|ba|be|bg|bi|bm|bn|bo|br|bs|ca|ce|ch|co|cr|cs|cu|cv|cy|da|"
    "de|dv|dz|ee|el|en|eo|es|et|eu|fa|ff|fi|fj|fo|fr|fy|ga|gd|gl|gn|gu|gv|ha|he|hi|ho|hr|ht|hu|hy|"
    "hz|ia|id|ie|ig|ii|ik|io|is|it|iu|ja|jv|ka|kg|ki|kj|kk|kl|km|kn|ko|kr|ks|ku|kv|kw|ky|la|lb|lg|"
    "li|ln|lo|lt|lu|lv|mg|mh|mi|mk|ml|mn|mr|ms|mt|my|na|nb|nd|ne|ng|nl|nn|no|nr|nv|ny|oc|oj|om|or|"
    "os|pa|pi|pl|ps|pt|qu|rm|rn|ro|ru|rw|sa|sc|sd|se|sg|sh|si|sk|sl|sm|sn|so|sq|sr|ss|st|su|sv|sw|"
    "ta|te|tg|th|ti|tk|tl|tn|to|tr|ts|tt|tw|ty|ug|uk|ur|uz|ve|vi|vo|wa|wo|xh|yi|yo|za|zh|zu"
)
# fmt: on
# One language in the name of a column, as in `query_de`, `query_zh-Hans` or `query_arb_Arab`;
# `query_id` is an id, not Indonesian.
_WIDE = re.compile(
    r"(query|question|passage|text)[-_](?!id$)"
    rf"(({_TWO_LETTERS})([-_]\w+)?|[a-z]{{3}}_[A-Z][a-z]{{3}})"
)


def load_pairs(path: str | Path, *, lang: str | None = None) -> PairTable:
    """Read training pairs from a file, by its suffix, or from a BEIR folder (`beir.pair_records`).

    Args:
        path: what to read, one of `READ`.
        lang: the language of records that name none; BEIR's files have no such field, unless
            someone added `lang`.

    Raises:
        InputError: whatever is wrong, with the file and the line.
    """
    path = Path(path)
    require(path, f"readable are {READ}")
    if path.is_dir():
        return _table(beir.pair_records(path, lang), str(path / "corpus.jsonl"), lang)
    if path.suffix.lower() == ".arrow":
        return _saved(path)
    if not is_readable(path):
        raise InputError(f"{path} is of no known kind; readable are {READ}")
    columns = ["pair_id"] if lang or path.suffix == ".parquet" else ["pair_id", "lang"]
    return _table(records(path, columns), str(path), lang)


def join(tables: Mapping[str, PairTable]) -> PairTable:
    """Put several data sets into one table with a column `dataset`, from which a training draws
    batches of one data set.

    Ids, passage ids and groups get the data set's name in front, as in `faq/7`, so none is taken
    for another's. A data set without negatives has none where another one has some.
    """
    parts = []
    for name, pairs in tables.items():
        table = pairs.table
        for column in ("pair_id", "passage_id", "group"):
            named = pc.binary_join_element_wise(pa.scalar(name), table[column], "/")
            table = table.set_column(table.schema.get_field_index(column), column, named)
        parts.append(table.append_column(DATASET, pa.repeat(name, len(table))))
    together = pa.concat_tables(parts, promote_options="default")
    others = [name for name in together.column_names if name != DATASET.name]
    return PairTable(together.select([*others, DATASET.name]))


def from_dataset(dataset: "datasets.Dataset", **names: str) -> PairTable:
    """Read one split of a Hugging Face data set in the long format.

    Args:
        dataset: the split.
        names: the names of its columns, where they are not `pair_id`, `lang`, `query`, `passage`,
            `passage_id`, `group` and `negatives`: `query="question"`. A name that was given must be
            there; of the default ones, `pair_id`, `lang` and `query` or `passage` must.

    >>> from datasets import Dataset
    >>> columns = {"pair_id": ["1"], "lang": ["de"], "question": ["Wer fliegt?"]}
    >>> from_dataset(Dataset.from_dict(columns), query="question").table["query"].to_pylist()
    ['Wer fliegt?']
    """
    if isinstance(dataset, dict):  # a DatasetDict is one
        raise InputError(
            f"a dictionary of splits arrived, {', '.join(map(str, dataset))}; pass one of them"
        )
    if unknown := names.keys() - set(_SCHEMA.names):
        raise TypeError(f"from_dataset() takes {', '.join(_SCHEMA.names)}, not {min(unknown)!r}")
    theirs = {ours: names.get(ours, ours) for ours in _SCHEMA.names}
    there = {ours: name for ours, name in theirs.items() if name in dataset.column_names}
    missing = [theirs[ours] for ours in ("pair_id", "lang", *names) if ours not in there]
    if not {"query", "passage"} & there.keys():
        missing += [theirs["query"], theirs["passage"]]
    if missing:
        raise InputError(
            f"the data set has no column {', '.join(dict.fromkeys(missing))}; it has"
            f" {', '.join(dataset.column_names)}: name them, as in from_dataset(...,"
            " query='question')"
        )
    taken = list(dict.fromkeys(there.values()))
    batches = dataset.select_columns(taken).with_format("arrow").iter(batch_size=BLOCK)
    renamed = (pa.table({ours: batch[name] for ours, name in there.items()}) for batch in batches)
    extra = set(dataset.column_names) - set(taken)
    return _table(of_batches(renamed, "data set"), "data set", extra=extra)


def _saved(path: Path) -> PairTable:
    try:
        pairs = PairTable.load(path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if not len(pairs):
        raise InputError(f"{path} holds no pairs; save a table that has some")
    return pairs


def _table(
    found: Records, source: str, lang: str | None = None, extra: Iterable[str] = ()
) -> PairTable:
    """Check and collect records; `extra` are columns of the source that they lack."""
    known, unknown = frozenset(_SCHEMA.names), set[str]()

    def rows() -> Iterator[list[Any]]:
        for place, record in found:
            if new := {*record, *extra} - known - unknown:
                unknown.update(new)
                _refuse_wide(unknown, record, place)
            yield [*_row(record, lang, place), int(place.rpartition(" ")[2])]

    table = table_of(rows(), _SCHEMA.append(_NUMBER), whole=False)
    if not table.num_rows:
        raise InputError(f"{source} holds no pairs; one record is an id in a language: {RULE}")
    if unknown:
        log.warning(
            "%s: columns %s are not used; known are %s",
            source, ", ".join(sorted(unknown)), ", ".join(_SCHEMA.names),
        )  # fmt: skip
    _refuse_repeats(table, source)
    without = table["negatives"].null_count == len(table)
    return PairTable(table.drop_columns([_NUMBER.name, *(["negatives"] if without else [])]))


def _row(record: Record, lang: str | None, place: str) -> list[Any]:
    """Return the record's values in the order of `_SCHEMA`."""
    pair_id = needed(record, "pair_id", place, RULE)
    own_lang = text_of(record, "lang", place) or lang or needed(record, "lang", place, RULE)
    query, passage_id, passage, group = (
        text_of(record, column, place) for column in ("query", "passage_id", "passage", "group")
    )
    if query is None and passage is None:
        raise InputError(f"{place}: neither query nor passage; give one or drop the record")
    if passage is None and passage_id is not None:
        raise InputError(
            f"{place}: passage_id {passage_id!r} without a passage; give both or neither"
        )
    negatives = record.get("negatives")
    if negatives is not None:
        _check_negatives(negatives, passage, place)
    return [pair_id, own_lang, query, passage_id, passage, group or pair_id, negatives]


def _check_negatives(texts: Any, passage: str | None, place: str) -> None:
    if not isinstance(texts, list):
        raise InputError(
            f"{place}: negatives is a {type(texts).__name__}; a list of texts is needed"
        )
    for number, text in enumerate(texts, 1):
        text_of({"a negative": text}, "a negative", place)
        if text is None or text == passage:
            what = "null" if text is None else "the passage itself"
            raise InputError(f"{place}: negative {number} of {len(texts)} is {what}; leave it out")


def _refuse_wide(columns: Iterable[str], record: Record, place: str) -> None:
    """Refuse columns that tell of the wide format: several of one stem with a language, or one in
    the place of what is read.
    """
    matches = {column: _WIDE.fullmatch(column) for column in sorted(columns)}
    stems = {name: found[1] for name, found in matches.items() if found}
    several = len({*stems.values()}) < len(stems)
    if stems and (several or not {"query", "passage"} <= record.keys()):
        raise InputError(
            f"{place}: column {next(iter(stems))} holds one language; write a record for each, as"
            ' in {"pair_id": "17", "lang": "de", "query": "...", "passage": "..."}'
        )


def _refuse_repeats(table: pa.Table, source: str) -> None:
    """Refuse an id that is twice in a language, with both places."""
    keys = ["pair_id", "lang"]
    keyed = table.select([*keys, _NUMBER.name])
    counts = keyed.group_by(keys, use_threads=False).aggregate([("number", "count")])
    for row in counts.filter(pc.greater(counts["number_count"], 1)).slice(0, 1).to_pylist():
        same = pc.and_(*(pc.equal(keyed[key], row[key]) for key in keys))
        first, second = keyed.filter(same)["number"].to_pylist()[:2]
        unit = "row" if source == "data set" or source.endswith(".parquet") else "line"
        raise InputError(
            f"{source} {unit} {second}: pair_id {row['pair_id']!r} in {row['lang']!r} again, as in"
            f" {unit} {first}; one record for each id and language"
        )
