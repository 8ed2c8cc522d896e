"""Users' pairs: every kind of file gives the same table, and what is wrong is named with its file
and line.
"""

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xir_lib.data import rows
from xir_lib.data.readers import from_dataset, load_pairs
from xir_lib.data.records import PAIR_SCHEMA
from xir_lib.errors import InputError

# The whole table, written by hand: ids in three scripts, a row without a query, one without a
# passage.
COLUMNS = ("pair_id", "lang", "query", "passage_id", "passage", "group")
VALUES = [
    ("1", "de", "Wer fliegt?", "p", "Eulen fliegen.", "Vögel"),
    ("1", "ar", "من يطير؟", "p", "البوم يطير.", "Vögel"),
    ("二", "zh", "谁倒挂？", None, None, "二"),
    ("二", "th", None, None, "ค้างคาว 🦇", "二"),
]
ROWS: list[dict[str, Any]] = [dict(zip(COLUMNS, row, strict=True)) for row in VALUES]
NEGATIVES = [["Bären laufen.", "Fische schwimmen."], ["السمك يسبح."], None, []]
ONE = '{"pair_id": "1", "lang": "de", "query": "q"}'


def given(row: dict[str, Any]) -> dict[str, Any]:
    """What a user writes: no nulls, and no group where it is the id."""
    return {
        key: value
        for key, value in row.items()
        if value is not None and not (key == "group" and value == row["pair_id"])
    }


def write(path: Path, *lines: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines)
    )
    return path


def jsonl(path: Path, *records: dict[str, Any]) -> Path:
    return write(path, *(json.dumps(record, ensure_ascii=False) for record in records))


def tsv_lines() -> list[str]:
    return [
        "\t".join(PAIR_SCHEMA.names),
        *("\t".join(row[name] or "" for name in PAIR_SCHEMA.names) for row in ROWS),
    ]


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        load_pairs(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_kind_of_file_gives_the_same_table(tmp_path: Path) -> None:
    lines = jsonl(tmp_path / "a.jsonl", *map(given, ROWS))
    tsv = write(tmp_path / "a.tsv", *tsv_lines())
    for path in (lines, tsv):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet", row_group_size=3)
    load_pairs(lines).save(tmp_path / "a.arrow")
    for name in ("a.jsonl", "a.jsonl.gz", "a.tsv", "a.tsv.gz", "a.parquet", "a.arrow"):
        table = load_pairs(tmp_path / name).table
        assert table.to_pylist() == ROWS, name
        assert table.schema == PAIR_SCHEMA, name


def test_tables_longer_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "BLOCK", 3)  # 7 records are two blocks and a rest
    records = [{"pair_id": str(n), "lang": "en", "query": f"q{n}"} for n in range(7)]
    path = jsonl(tmp_path / "a.jsonl", *records)
    assert load_pairs(path).table["query"].to_pylist() == [f"q{n}" for n in range(7)]
    pq.write_table(
        pa.Table.from_pylist([*records[:6], {**records[6], "query": " "}]), tmp_path / "a.parquet"
    )
    assert refusal(tmp_path / "a.parquet").endswith(
        "a.parquet row 6: query is empty; give a text or leave it out"
    )


def test_windows_files(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(b"\xef\xbb\xbfpair_id\tlang\tquery\r\n\r\n1\tde\tEule\r\n")
    assert load_pairs(path).table["query"].to_pylist() == ["Eule"]


def test_negatives(tmp_path: Path) -> None:
    records = [
        given(row) | ({"negatives": texts} if texts is not None else {})
        for row, texts in zip(ROWS, NEGATIVES, strict=True)
    ]
    table = load_pairs(jsonl(tmp_path / "a.jsonl", *records)).table
    assert table["negatives"].to_pylist() == NEGATIVES
    assert table.schema.names == [*PAIR_SCHEMA.names, "negatives"]
    pq.write_table(table, tmp_path / "a.parquet")
    assert load_pairs(tmp_path / "a.parquet").table.equals(table)
    # without any, the column is left out
    assert (
        load_pairs(jsonl(tmp_path / "b.jsonl", given(ROWS[0]) | {"negatives": None})).table.schema
        == PAIR_SCHEMA
    )


def test_a_language_for_records_that_name_none(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "a.jsonl",
        {"pair_id": "1", "query": "q"},
        {"pair_id": "2", "lang": "de", "query": "q"},
    )
    assert load_pairs(path, lang="en").table["lang"].to_pylist() == ["en", "de"]
    assert "a.jsonl line 1: no lang; a record needs pair_id, lang" in refusal(path)
    tsv = write(tmp_path / "a.tsv", "pair_id\tquery", "1\tq")
    assert load_pairs(tsv, lang="en").languages == ["en"]


def test_other_columns_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = [
        {"pair_id": str(n), "lang": "en", "query": "q", "url": "u", "query_id": "7"}
        for n in range(3)
    ]
    with caplog.at_level(logging.WARNING):
        load_pairs(jsonl(tmp_path / "a.jsonl", *records))
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'a.jsonl'}: columns query_id, url are not used; "
        "known are pair_id, lang, query, passage_id, passage, group, negatives"
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pair_id": None, "query": "q"}, "no pair_id; a record needs pair_id, lang"),
        ({"lang": None, "query": "q"}, "no lang; a record needs pair_id, lang"),
        ({"pair_id": 2}, "pair_id is of type int, 2; write it as text"),
        ({"passage": ["a"]}, "passage is of type list, ['a']; write it as text"),
        ({"query": " \u3000"}, "query is empty; give a text"),
        ({"query": "a\ud800"}, "query has half a character at position 1"),
        ({}, "neither query nor passage; give one"),
        ({"query": "q", "passage_id": "p"}, "passage_id 'p' without a passage"),
        ({"query": "q", "negatives": "n"}, "negatives is a str; a list of texts"),
        ({"query": "q", "negatives": ["n", ""]}, "a negative is empty"),
        ({"query": "q", "negatives": ["n", None]}, "negative 2 of 2 is null"),
        ({"passage": "p", "negatives": ["p"]}, "negative 1 of 1 is the passage itself"),
        ({"query_en": "q", "query_de": "f"}, "column query_de holds one language; write a record"),
        ({"query": "q", "passage_arb_Arab": "p"}, "column passage_arb_Arab holds one language"),
        ('{"pair_id": "2", "lang": ', "not JSON (Expecting value, column 26)"),
        ('["2", "de"]', "a JSON list; write one object a line"),
        ("[" * 100_000, "not JSON (maximum recursion depth exceeded"),
        (b'{"pair_id": "2", "query": "\xff"}', "not UTF-8 at its byte 28; save the file as UTF-8"),
    ],
)
def test_a_bad_record_is_named_by_its_line(tmp_path: Path, fields: Any, message: str) -> None:
    bad = (
        json.dumps({"pair_id": "2", "lang": "de"} | fields) if isinstance(fields, dict) else fields
    )
    # the empty line 2 counts as a line
    text = refusal(write(tmp_path / "a.jsonl", ONE, "", bad))
    assert text.startswith(f"{tmp_path / 'a.jsonl'} line 3: {message}"), text


def test_a_repeated_id_is_named_with_both_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "BLOCK", 2)  # the two are in different blocks
    other = [f'{{"pair_id": "{n}", "lang": "de", "query": "q"}}' for n in (2, 3)]
    path = write(
        tmp_path / "a.jsonl", other[0], ONE, ONE.replace("de", "en"), "", other[1], ONE, ONE
    )
    assert (
        refusal(path)
        == f"{path} line 6: pair_id '1' in 'de' again, as in line 2; one record for each id and"
        " language"
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["pair_id\tquery", "1\tq"], "line 1: the header has no lang; it names the columns"),
        (["1\tde\tq"], "line 1: the header has no pair_id"),  # no header at all
        (["pair_id\tlang\tquery\tlang", "1\tde\tq\ten"], "line 1: the header has lang twice"),
        (
            ["pair_id\tlang\tquery\tnegatives", "1\tde\tq\tn"],
            "line 2: negatives is a str; a list of texts",
        ),
        (
            ["pair_id\tlang\tquery", "1\tde\tq", "2\tde\tq\tq"],
            "line 3: 4 fields, the header has 3; no tab may be in a text",
        ),
        (["pair_id\tlang\tquery", "1\tde\tq", "", "2\tde"], "line 4: 2 fields, the header has 3"),
        (["pair_id\tlang\tquery", "1\t\tq"], "line 2: no lang"),
        (
            ["pair_id\tlang\tquery\tpassage_de", "1\tde\tq\tp"],
            "line 2: column passage_de holds one language",
        ),
        (["pair_id\tlang\tquery"], "holds no pairs"),
    ],
)
def test_a_bad_tsv(tmp_path: Path, lines: list[str], message: str) -> None:
    text = refusal(write(tmp_path / "a.tsv", *lines))
    assert text.startswith(f"{tmp_path / 'a.tsv'} {message}"), text


def test_a_bad_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(path, "no parquet")
    assert refusal(path).startswith(f"{path} cannot be read as Parquet (")
    pq.write_table(
        pa.table({"pair_id": ["1", "2"], "lang": ["de", "de"], "query": ["q", None]}), path
    )
    assert refusal(path).startswith(f"{path} row 1: neither query nor passage")
    pq.write_table(pa.table({"pair_id": [1], "lang": ["de"], "query": ["q"]}), path)
    assert refusal(path).startswith(f"{path} row 0: pair_id is of type int")
    pq.write_table(pa.table({"pair_id": ["1"], "query_de": ["q"]}), path)
    assert refusal(path).startswith(f"{path} row 0: column query_de holds one language")
    # "no" is Norwegian as well
    more = {"passage_url": ["u"], "query_no": ["17"], "text_len": [3], "text_sha": ["f"]}
    pq.write_table(
        pa.table({"pair_id": ["1"], "lang": ["de"], "query": ["q"], "passage": ["p"], **more}), path
    )
    assert load_pairs(path).table["query"].to_pylist() == ["q"]  # named in a warning and left out
    raw = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")]
    )
    pq.write_table(pa.table({"pair_id": ["1"], "lang": ["de"], "query": raw}), path)
    assert refusal(path).startswith(f"{path} rows 0 to 0: not UTF-8")


def test_a_bad_arrow_file(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    pa.feather.write_feather(pa.table({"text": ["a"]}), path)
    assert refusal(path).startswith(
        f"{path}: pair table: columns text string; expected pair_id string"
    )
    pa.feather.write_feather(PAIR_SCHEMA.empty_table(), path)
    assert refusal(path) == f"{path} holds no pairs; save a table that has some"


def test_what_is_no_file_of_pairs(tmp_path: Path) -> None:
    kinds = (
        "readable are .jsonl, .jsonl.gz, .parquet, .tsv, .tsv.gz, .arrow (a saved PairTable) and"
        " BEIR folders"
    )
    assert refusal(tmp_path / "no.jsonl") == f"{tmp_path / 'no.jsonl'} does not exist; {kinds}"
    assert (
        refusal(write(tmp_path / "a.json", ONE))
        == f"{tmp_path / 'a.json'} is of no known kind; {kinds}"
    )
    for name in ("a.jsonl", "a.tsv"):
        assert refusal(write(tmp_path / name)).startswith(
            f"{tmp_path / name} holds no pairs; one record is"
        )
    whole = gzip.compress("\n".join([ONE] * 9).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(whole[:-8])  # broken off
    assert "a.jsonl.gz cannot be read after line" in refusal(tmp_path / "a.jsonl.gz")
    write(tmp_path / "a.jsonl.gz", ONE)
    assert "a.jsonl.gz cannot be read after line 0 (Not a gzipped file" in refusal(
        tmp_path / "a.jsonl.gz"
    )


# ---- a Hugging Face data set
# ----------------------------------------------------------------------


def test_a_dataset_with_other_names() -> None:
    columns = {
        "id": ["1", "1", "2"],
        "language": ["de", "th", "de"],
        "question": ["Wer?", "ใคร", None],
        "context": ["Eule", None, "Bär"],
        "url": ["u", "v", "w"],
    }
    data = datasets.Dataset.from_dict(columns).select([2, 0])  # not the order of the file beneath
    table = from_dataset(
        data, pair_id="id", lang="language", query="question", passage="context", group="url"
    ).table
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("2", "de", None, None, "Bär", "w"),
        ("1", "de", "Wer?", None, "Eule", "u"),
    ]
    assert table.column_names == list(COLUMNS)


def test_a_bad_dataset() -> None:
    data = datasets.Dataset.from_dict(
        {"pair_id": ["1", "1"], "lang": ["de", "de"], "question": ["q", "r"]}
    )
    for options, message in (
        (
            {},
            "the data set has no column query, passage; it has pair_id, lang, question: name them",
        ),
        ({"query": "question", "group": "topic"}, "the data set has no column topic; it has"),
        ({"query": "question"}, "data set row 1: pair_id '1' in 'de' again, as in row 0"),
    ):
        with pytest.raises(InputError, match=message):
            from_dataset(data, **options)
    with pytest.raises(InputError, match="a dictionary of splits arrived, train; pass one of them"):
        from_dataset(datasets.DatasetDict(train=data))
