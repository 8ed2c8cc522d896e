"""mMARCO's join against a set worked out by hand, a plain Python join, and the benchmark at its
smallest.
"""

import json
import logging
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from xir_lib.data import mmarco
from xir_lib.data.records import PAIR_SCHEMA, PairTable
from xir_lib.errors import InputError

# The collections are in different orders. In Hindi, passages 3 and 7 have the same text.
PASSAGES = {
    "english": {10: "Owls fly.", 3: "Bats hang.", 7: "Bears walk.", 12: "Fish swim."},
    "hindi": {3: "चमगादड़", 7: "चमगादड़", 10: "उल्लू उड़ते हैं।", 12: "मछली"},
}
QUERIES = {
    "english": {
        2: "who hangs",
        5: "who flies",
        8: "bats?",
        9: "who walks",
        77: "not in the triples",
    },
    "hindi": {9: "कौन चलता है", 8: "चमगादड़?", 5: "कौन उड़ता है", 2: "कौन लटकता है"},
}
# Query 5: passage 10 first, then 7, which is left out, then 10 again with another negative. Query
# 9: the negative of the first triple, 12, turns out to be relevant.
TRIPLES = [(5, 10, 3), (5, 7, 3), (2, 3, 10), (5, 10, 12), (8, 3, 7), (9, 7, 12), (9, 12, 3)]
# by passage id, then query id: (query, passage), English and Hindi negative
WANTED = [(2, 3, 10, 10), (8, 3, 7, None), (9, 7, None, None), (5, 10, 3, 3)]


def lines(texts: dict[int, str]) -> bytes:
    return "".join(f"{key}\t{text}\n" for key, text in texts.items()).encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "mmarco" / "data"
    for name in ("google/collections", "google/queries/train"):
        (data / name).mkdir(parents=True)
    for language in PASSAGES:
        (data / f"google/collections/{language}_collection.tsv").write_bytes(
            lines(PASSAGES[language])
        )
        (data / f"google/queries/train/{language}_queries.train.tsv").write_bytes(
            lines(QUERIES[language])
        )
    (data / "triples.train.ids.small.tsv").write_text(
        "".join(f"{q}\t{p}\t{n}\n" for q, p, n in TRIPLES)
    )
    return data.parent


def rows(lang: str, language: str) -> list[dict[str, Any]]:
    made = []
    for query, passage, *other in WANTED:
        negative = other[0 if lang == "en" else 1]
        made.append(
            {
                "pair_id": f"{query}-{passage}",
                "lang": lang,
                "query": QUERIES[language][query],
                "passage_id": str(passage),
                "passage": PASSAGES[language][passage],
                "group": str(query),
                "negatives": [] if negative is None else [PASSAGES[language][negative]],
            }
        )
    return made


@pytest.mark.parametrize("block", [1, 2, 1000])
def test_the_join(
    folder: Path, block: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("_ROWS", "_LINES"):
        monkeypatch.setattr(mmarco, name, block)
    monkeypatch.setattr(mmarco, "_BYTES", max(10, block))  # of triples: one line, or all
    with caplog.at_level(logging.INFO):
        out = mmarco.build(
            folder, folder.parent / "out" / "pairs.arrow", ["hi", "en", "hi"], negatives=True
        )
    with pa.memory_map(str(out)) as file:
        assert pa.ipc.open_file(file).read_all().to_pylist() == rows("en", "english") + rows(
            "hi", "hindi"
        )
    # (5, 10), (5, 7), (2, 3), (8, 3), (9, 7), (9, 12) are six pairs of four queries
    messages = [record.getMessage().split(": ", 1)[-1] for record in caplog.records]
    assert messages == [
        "7 triples give 4 pairs; 2 more relevant passages of their queries are left out",
        "1 of 4 pairs have no usable negative",
        "2 of 4 pairs have no usable negative",
    ]
    assert list(out.parent.iterdir()) == [out]


def test_it_is_a_pair_table(folder: Path) -> None:
    pairs = PairTable.load(mmarco.build(folder, folder / "pairs.arrow", ["en"]))
    assert pairs.table.schema == PAIR_SCHEMA
    assert pairs.table.to_pylist() == [
        {name: row[name] for name in PAIR_SCHEMA.names} for row in rows("en", "english")
    ]
    mmarco.build(folder, folder / "more.arrow", ["hi", "en"], negatives=True)
    assert PairTable.load(folder / "more.arrow").pair_ids == ["2-3", "8-3", "9-7", "5-10"]


def test_triples_of_many_blocks_against_plain_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule read out of `build`'s docstring, with dictionaries."""
    monkeypatch.setattr(mmarco, "_BYTES", 200)
    rng = random.Random(1)
    triples = [(rng.randrange(60), rng.randrange(5), rng.randrange(5)) for _ in range(2000)]
    path = tmp_path / "triples.tsv"
    path.write_text("".join(f"{q}\t{p}\t{n}\n" for q, p, n in triples))
    first: dict[int, tuple[int, int]] = {}
    relevant = set()
    for query, passage, other in triples:
        first.setdefault(query, (passage, other))
        relevant.add((query, passage))
    wanted = sorted((p, q, -1 if (q, n) in relevant else n) for q, (p, n) in first.items())
    assert [(p, q, n) for q, p, n in mmarco._pairs(path).tolist()] == wanted


def test_upstream_s_line_ends(folder: Path) -> None:
    """As upstream's loader: no white space at the end of a line; the last line may lack its end."""
    path = folder / "data/google/collections/english_collection.tsv"
    path.write_bytes(b"10\tOwls fly. \r\n3\t Bats hang.\t\n7\tBears walk.\n12\tFish swim.")
    table = PairTable.load(mmarco.build(folder, folder / "pairs.arrow", ["en"])).table
    assert table["passage"].to_pylist() == [
        " Bats hang.",
        " Bats hang.",
        "Bears walk.",
        "Owls fly.",
    ]


COLLECTION = "data/google/collections/english_collection.tsv"
QUERY_FILE = "data/google/queries/train/english_queries.train.tsv"


@pytest.mark.parametrize("block", [2, 1000])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            COLLECTION,
            lines(PASSAGES["english"]) + b"13 no tab\n",
            "line 5: '13 no tab\\n'; a line is a whole number, one tab",
        ),
        (COLLECTION, b"10\tOwls\tfly.\n", "line 1: '10\\tOwls\\tfly.\\n'; a line is"),
        (COLLECTION, b"1\ta\nx\ta\n", "line 2: 'x\\ta\\n'; a line is"),
        (COLLECTION, b"1\ta\n2\t \xe3\x80\x80\n", "line 2: '2\\t \\u3000\\n'; a line is"),
        (COLLECTION, b"1\ta\n\n", "line 2: '\\n'; a line is"),
        (COLLECTION, b"1\ta\n2\ta\n3\t\xff\n", "line 3: '3\\t\ufffd\\n'; a line is"),
        (
            COLLECTION,
            b"1\ta\n3\ta\n2\tb\n3\tc\n",
            "line 4: id 3 again; take the file from unicamp-dl/mmarco",
        ),
        (COLLECTION, b"3\ta\n3\tc\n", "line 2: id 3 again"),
        (
            COLLECTION,
            b"3\ta\n",
            "has no line for id 7 and 1 more that the triples name; take all files",
        ),
        (COLLECTION, b"", "has no line for id 3 and 2 more"),
        (QUERY_FILE, b"2\ta\n5\tb\n8\tc\n", "has no line for id 9 and 0 more"),
        (
            mmarco.TRIPLES,
            b"5\t10\t3\n5\t10\n",
            "line 2: Expected 3 columns, got 2: 5\t10; a line is three whole numbers",
        ),
        (
            mmarco.TRIPLES,
            b"5\t10\t3\n" * 9 + b"5\tx\t3\n",
            "line 10: CSV conversion error to int32: invalid value 'x'; a line is",
        ),
        (
            mmarco.TRIPLES,
            b"5\t10\t3\n" * 9 + b"5\t-10\t3\n",
            "line 10: a negative id; take the file",
        ),
        (
            mmarco.TRIPLES,
            b"5\t10\t9000000000\n",
            "line 1: CSV conversion error to int32: invalid value '9000000000'",
        ),
        (
            mmarco.TRIPLES,
            b"5\t10\t3\n\n",
            "line 2: CSV conversion error to int32: invalid value ''",
        ),
        (mmarco.TRIPLES, b"", ": Empty CSV file; a line is three whole numbers"),
    ],
)
def test_a_bad_file_is_named_with_its_line_and_leaves_nothing(
    folder: Path,
    name: str,
    content: bytes,
    message: str,
    block: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mmarco, "_LINES", block)
    monkeypatch.setattr(mmarco, "_BYTES", max(20, block))
    (folder / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        mmarco.build(folder, folder.parent / "out" / "pairs.arrow", ["en"])
    assert str(error.value).removeprefix(str(folder / name)).lstrip().startswith(message)
    assert "\n" not in str(error.value)
    assert not list(folder.parent.glob("out/*"))


def test_languages_and_files_that_are_not_there(folder: Path) -> None:
    with pytest.raises(
        InputError, match="mMARCO languages en, tr asked for; there are ar, de, en, es"
    ):
        mmarco.build(folder, folder / "pairs.arrow", ["tr", "en"])
    with pytest.raises(InputError, match="mMARCO languages none asked for"):
        mmarco.build(folder, folder / "pairs.arrow", [])
    (folder / COLLECTION).unlink()
    with pytest.raises(
        InputError,
        match="lacks 1 of mMARCO's files; `hf download unicamp-dl/mmarco .* " + COLLECTION,
    ):
        mmarco.build(folder, folder / "pairs.arrow", ["en"])


def test_the_benchmark_runs() -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "mmarco_memory.py"
    command = [sys.executable, str(script), "--passages", "2000"]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    # 2000 triples over 300 queries: a query is drawn at least once with probability 1 -
    # (299/300)**2000 = .9987
    assert report["rows"] % 3 == 0
    assert 3 * 290 <= report["rows"] <= 3 * 300
    assert report["build"]["peak_rss"] > report["build"]["start_rss"] > 0
