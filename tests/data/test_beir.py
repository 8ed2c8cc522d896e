"""A user's BEIR folder becomes the task it was written from, and what is wrong in it is named with
its line.
"""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from toy import toy_task
from toy_files import Rows, beir_parts, write_beir

from xir_lib.data import beir, rows
from xir_lib.data.readers import load_pairs
from xir_lib.data.tasks import load_task
from xir_lib.errors import InputError


def test_a_task_comes_back_as_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "BLOCK", 7)  # 60 records in several blocks, the last not full
    folder = write_beir(tmp_path / "toy", *beir_parts())
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
            write_beir(
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


SCORE = "a header, then query-id, corpus-id and a whole score"
BROKEN: list[tuple[str, int, Any, str]] = [
    ("corpus.jsonl", 3, '{"_id": "x", "lang"', "not JSON"),
    ("corpus.jsonl", 3, '["x"]', "a JSON list; write one object a line"),
    ("corpus.jsonl", 3, {"lang": None}, "no lang; a record needs _id, lang and text"),
    ("corpus.jsonl", 3, {"_id": None}, "no _id; a record of a BEIR folder has _id and text"),
    ("corpus.jsonl", 3, {"text": " "}, "text is empty"),
    ("corpus.jsonl", 3, {"lang": "中文"}, "lang '中文' is no language code"),
    ("corpus.jsonl", 3, {"_id": 7}, "_id is of type int, 7"),
    ("corpus.jsonl", 3, {"_id": "a b"}, "_id 'a b' holds white space"),
    ("corpus.jsonl", 4, {"_id": "ai-xx"}, "'ai-xx' again, as in line 1"),
    ("queries.jsonl", 2, {"_id": "ai-xx"}, "'ai-xx' again, as in line 1"),
    ("queries.jsonl", 2, {"text": None}, "no text"),
    ("qrels/test.tsv", 5, "ai-xx\tnowhere\t1", "id 'nowhere' is not in corpus.jsonl"),
    ("qrels/test.tsv", 5, "nobody\tai-xx\t1", "id 'nobody' is not in queries.jsonl"),
    ("qrels/test.tsv", 5, "ai-xx\tai-xx\t1", "'ai-xx\\tai-xx' again, as in line 2"),
    ("qrels/test.tsv", 5, "ai-xx ai-xx 1", f"'ai-xx ai-xx 1'; {SCORE}"),
    ("qrels/test.tsv", 5, "ai-xx\tai-xx\t0.5", rf"'ai-xx\tai-xx\t0.5'; {SCORE}"),
    ("qrels/test.tsv", 5, "ai-xx\tai-xx\t200", rf"'ai-xx\tai-xx\t200'; {SCORE}"),
    ("qrels/test.tsv", 1, "ai-xx\tai-xx\t1", rf"'ai-xx\tai-xx\t1'; {SCORE}"),
    ("qrels/test.tsv", 2, "ai-xx\tai-xx\t0", "query 'ai-xx' has no relevant passage in test.tsv"),
]


@pytest.mark.parametrize(("file", "line", "wrong", "message"), BROKEN)
def test_errors_name_the_line(
    tmp_path: Path, file: str, line: int, wrong: Any, message: str
) -> None:
    folder = write_beir(tmp_path / "bad", *beir_parts())
    lines = (folder / file).read_text().split("\n")
    whole = {"_id": "x", "lang": "xx", "text": "a"}
    lines[line - 1] = json.dumps(whole | wrong) if isinstance(wrong, dict) else wrong
    if "no relevant" in message:  # the query stands elsewhere: take its other judgements away
        file, line = "queries.jsonl", 1
        lines[2:] = [text for text in lines[2:] if not text.startswith("ai-xx\t")]
        (folder / "qrels/test.tsv").write_text("\n".join(lines))
    else:
        (folder / file).write_text("\n".join(lines))
    with pytest.raises(InputError) as error:
        beir.load_task(folder)
    assert str(error.value).startswith(f"{folder / file} line {line}: {message}")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (0, "corpus.jsonl holds no record"),
        (1, "queries.jsonl holds no record"),
        (2, "qrels/test.tsv holds no judgement"),
    ],
)
def test_what_is_empty_or_missing(tmp_path: Path, part: int, message: str) -> None:
    changed: list[Any] = list(beir_parts())
    changed[part] = changed[part][:1] if part == 2 else []
    folder = write_beir(tmp_path / "a", *changed)
    with pytest.raises(InputError, match=message):
        beir.load_task(folder)
    (folder / "qrels" / "test.tsv").unlink()
    with pytest.raises(InputError, match=r"is no BEIR folder, it lacks qrels/test.tsv"):
        beir.load_task(folder)


# ---- training pairs
# ----------------------------------------------------------------------


def training(
    folder: Path, qrels: list[str] | None = None, queries: Rows | None = None, corpus: Any = None
) -> Path:
    """q1: d2 is judged 2, d1 and d3 are 1; q2: d3 and d1 are 1, d3 first; q3 has nothing relevant;
    q4 is not judged.
    """
    default = ["q1\td1\t1", "q1\td2\t2", "q1\td3\t1", "q2\td3\t1", "q2\td1\t1", "q3\td1\t0"]
    documents = [
        {"_id": "d1", "title": "Eulen", "text": "fliegen.", "metadata": {}},
        {"_id": "d2", "title": "", "text": "Fledermäuse hängen."},
        {"_id": "d3", "text": "Bären laufen."},
    ]
    asked = queries or [{"_id": f"q{n}", "text": f"Frage {n}"} for n in (1, 2, 3, 4)]
    judged = ["query-id\tcorpus-id\tscore", *(default if qrels is None else qrels)]
    write_beir(folder, corpus or documents, asked, judged)
    (folder / "qrels" / "test.tsv").rename(folder / "qrels" / "train.tsv")
    return folder


def test_the_best_judged_passages_are_pairs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        table = load_pairs(training(tmp_path), lang="de").table
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("q1", "de", "Frage 1", "d2", "Fledermäuse hängen.", "q1"),
        ("q2", "de", "Frage 2", "d3", "Bären laufen.", "q2"),
    ]
    # five judgements above 0, two queries
    assert "3 relevant passages beside the best of a query are left out" in caplog.text


def test_a_pair_of_two_languages_is_two_rows_and_titles_are_joined(tmp_path: Path) -> None:
    queries = [{"_id": "q1", "text": "谁？", "lang": "zh"}]
    rows = load_pairs(training(tmp_path, ["q1\td1\t1"], queries), lang="de").table.to_pylist()
    assert [(row["pair_id"], row["lang"], row["query"], row["passage"]) for row in rows] == [
        ("q1", "zh", "谁？", None),
        ("q1", "de", None, "Eulen fliegen."),
    ]


ONE = ["q1\td1\t1"]
AGAIN = [{"_id": "d0", "text": "x"}, {"_id": "d1", "text": "x"}, {"_id": "d1", "text": "y"}]
TWICE = [{"_id": "q1", "text": "a"}, {"_id": "q2", "text": "b"}, {"_id": "q1", "text": "c"}]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"qrels": ["q1\td9\t1"]}, "corpus.jsonl lacks passage 'd9', which"),
        ({"qrels": ["q9\td1\t1"]}, "queries.jsonl lacks query 'q9', which"),
        ({"qrels": ["q1\td1\t0"]}, "qrels/train.tsv judges no passage relevant"),
        ({"qrels": [*ONE, "q1\td1"]}, f"qrels/train.tsv line 3: 'q1\\td1'; {SCORE}"),
        (
            {"qrels": [*ONE, "q2\td1\t1", *ONE]},
            "qrels/train.tsv line 4: 'q1\\td1' again, as in line 2",
        ),
        (
            {"qrels": ONE, "corpus": AGAIN},
            "corpus.jsonl line 3: pair_id 'q1' in 'de' again, as in line 2",
        ),
        ({"qrels": ONE, "corpus": [{"_id": "d1", "text": " "}]}, "corpus.jsonl line 1: passage is"),
        ({"queries": TWICE}, "queries.jsonl line 3: 'q1' again, as in line 1"),
        ({"queries": [{"_id": "q1", "text": ""}]}, "queries.jsonl line 1: text is empty"),
    ],
)
def test_bad_pairs_of_a_folder(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    folder = training(tmp_path / "beir", **given)
    with pytest.raises(InputError) as error:
        load_pairs(folder, lang="de")
    assert str(error.value).startswith(f"{folder}/{message}")


def test_pairs_without_a_language_or_a_file(tmp_path: Path) -> None:
    folder = training(tmp_path / "beir")
    with pytest.raises(InputError, match=r"queries\.jsonl line 1: no lang; BEIR names none; say"):
        load_pairs(folder)
    (folder / "corpus.jsonl").unlink()
    with pytest.raises(InputError, match=r"is no BEIR folder, it lacks corpus\.jsonl"):
        load_pairs(folder)
