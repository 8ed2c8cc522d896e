"""A user's BEIR folder becomes the task it was written from, and what is wrong in it is named with
its line.
"""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from toy import toy_task

from xir_lib.data import beir
from xir_lib.data.tasks import load_task
from xir_lib.errors import InputError

Rows = list[dict[str, Any]]


def parts() -> tuple[Rows, Rows, list[str]]:
    """The toy task in the words of a BEIR folder."""
    task = toy_task()
    corpus = [
        {"_id": r["doc_id"], "lang": r["lang"], "text": r["text"]}
        for r in task.passages.to_pylist()
    ]
    queries = [{"_id": r.pop("query_id"), **r} for r in task.queries.to_pylist()]
    qrels = [
        "query-id\tcorpus-id\tscore",
        *(f"{r['query_id']}\t{r['doc_id']}\t1" for r in task.qrels.to_pylist()),
    ]
    return corpus, queries, qrels


def write(folder: Path, corpus: Rows, queries: Rows, qrels: list[str]) -> Path:
    (folder / "qrels").mkdir(parents=True)
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )
    (folder / "qrels" / "test.tsv").write_text("\n".join(qrels) + "\n", encoding="utf-8")
    return folder


def test_a_task_comes_back_as_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beir, "_BLOCK", 7)  # 60 records in several blocks, the last not full
    folder = write(tmp_path / "toy", *parts())
    task, expected = load_task(str(folder)), toy_task()
    assert task.name == "toy"
    for part in ("queries", "passages", "qrels"):
        assert getattr(task, part).to_pylist() == getattr(expected, part).to_pylist()


def test_titles_own_groups_and_queries_of_another_split(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = [
        {"_id": "d1", "lang": "th", "title": "นกฮูก", "text": "บินกลางคืน", "metadata": {}},
        {"_id": "d2", "lang": "sw", "title": "", "text": "Bundi"},
        {"_id": "d3", "lang": "sw", "title": "Popo", "text": ""},  # BEIR has many of these
        {"_id": "d4", "lang": "sw", "title": " ", "text": "Kuku"},
    ]
    queries = [
        {"_id": "q1", "lang": "th", "text": "?"},
        {"_id": "q2", "lang": "sw", "text": "Nani?", "pair_id": "p"},
    ]
    with caplog.at_level(logging.WARNING):
        task = beir.load_task(
            write(
                tmp_path / "own",
                corpus,
                queries,
                ["query-id\tcorpus-id\tscore", "q2\td1\t2", "q2\td2\t0"],
            )
        )
    assert "queries.jsonl: 1 queries that test.tsv does not judge are left out" in caplog.text
    assert task.passages["text"].to_pylist() == ["นกฮูก บินกลางคืน", "Bundi", "Popo", "Kuku"]
    assert task.queries.to_pylist() == [
        {"query_id": "q2", "pair_id": "p", "lang": "sw", "text": "Nani?", "group": "p"}
    ]
    assert task.qrels["relevance"].to_pylist() == [2, 0]


BROKEN: list[tuple[str, int, Any, str]] = [
    ("corpus.jsonl", 3, '{"_id": "x", "lang"', r"corpus.jsonl line 3: not JSON"),
    ("corpus.jsonl", 3, '["x"]', r"corpus.jsonl line 3: a JSON list; write one object a line"),
    (
        "corpus.jsonl",
        3,
        '{"_id": "x", "text": "a"}',
        r"corpus.jsonl line 3: no lang; a record needs _id, lang and text",
    ),
    (
        "corpus.jsonl",
        3,
        '{"_id": "x", "lang": "xx", "text": " "}',
        r"corpus.jsonl line 3: text is empty",
    ),
    (
        "corpus.jsonl",
        3,
        '{"_id": "x", "lang": "中文", "text": "a"}',
        r"corpus.jsonl line 3: lang '中文' is no language code",
    ),
    (
        "corpus.jsonl",
        3,
        '{"_id": 7, "lang": "xx", "text": "a"}',
        r"corpus.jsonl line 3: _id is of type int, 7",
    ),
    (
        "corpus.jsonl",
        3,
        '{"_id": "a b", "lang": "xx", "text": "a"}',
        r"corpus.jsonl line 3: _id 'a b' holds white space",
    ),
    (
        "corpus.jsonl",
        4,
        '{"_id": "ai-xx", "lang": "xx", "text": "a"}',
        r"corpus.jsonl line 4: _id 'ai-xx' again, as in line 1",
    ),
    (
        "queries.jsonl",
        2,
        '{"_id": "ai-xx", "lang": "x", "text": "a"}',
        r"queries.jsonl line 2: _id .ai-xx. again, as in",
    ),
    ("queries.jsonl", 2, '{"_id": "q", "lang": "xx"}', r"queries.jsonl line 2: no text"),
    (
        "qrels/test.tsv",
        5,
        "ai-xx\tnowhere\t1",
        r"test.tsv line 5: id 'nowhere' is not in corpus.jsonl",
    ),
    (
        "qrels/test.tsv",
        5,
        "nobody\tai-xx\t1",
        r"test.tsv line 5: id 'nobody' is not in queries.jsonl",
    ),
    (
        "qrels/test.tsv",
        5,
        "ai-xx\tai-xx\t1",
        r"test.tsv line 5: judges 'ai-xx', 'ai-xx' again, as line 2; once each",
    ),
    (
        "qrels/test.tsv",
        5,
        "ai-xx ai-xx 1",
        r"test.tsv line 5: 'ai-xx ai-xx 1'; a header, then query-id",
    ),
    ("qrels/test.tsv", 5, "ai-xx\tai-xx\t0.5", r"test.tsv line 5: .*a whole score"),
    ("qrels/test.tsv", 5, "ai-xx\tai-xx\t200", r"test.tsv line 5: .*a whole score"),
    ("qrels/test.tsv", 1, "ai-xx\tai-xx\t1", r"test.tsv line 1: .*a header, then"),
]


@pytest.mark.parametrize(("file", "line", "text", "message"), BROKEN)
def test_errors_name_the_line(
    tmp_path: Path, file: str, line: int, text: str, message: str
) -> None:
    path = write(tmp_path / "bad", *parts()) / file
    lines = path.read_text().split("\n")
    lines[line - 1] = text
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=message) as error:
        beir.load_task(tmp_path / "bad")
    assert "\n" not in str(error.value)


def test_what_is_missing_or_empty(tmp_path: Path) -> None:
    corpus, queries, qrels = parts()
    for name, changed, message in (
        ("a", ([], queries, qrels), "corpus.jsonl holds no record"),
        ("b", (corpus, [], qrels), "queries.jsonl holds no record"),
        ("c", (corpus, queries, qrels[:1]), "test.tsv holds no judgement"),
        (
            "d",
            (corpus, queries, [qrels[0], "ai-yy\tai-xx\t0", *qrels[7:]]),
            "line 2: query 'ai-yy' has no relevant passage",
        ),
    ):
        with pytest.raises(InputError, match=message):
            beir.load_task(write(tmp_path / name, *changed))
    (tmp_path / "a" / "qrels" / "test.tsv").unlink()
    with pytest.raises(InputError, match=r"lacks qrels/test.tsv"):
        beir.load_task(tmp_path / "a")
