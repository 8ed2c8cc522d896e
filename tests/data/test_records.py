"""The two types refuse what they must and survive a round trip through their files; files appear
whole or not at all.
"""

from pathlib import Path

import pyarrow as pa
import pytest
from toy import toy_pairs, toy_task

from xir_lib.data.readers import join
from xir_lib.data.records import NEGATIVES, PAIR_SCHEMA, PairTable, RetrievalTask
from xir_lib.errors import InputError
from xir_lib.paths import atomic_path

ROW = {
    "pair_id": "a",
    "lang": "en",
    "query": "q",
    "passage_id": "p",
    "passage": "text",
    "group": "g",
}


def table(*changes: dict[str, str | None]) -> pa.Table:
    return pa.Table.from_pylist([ROW | change for change in changes], schema=PAIR_SCHEMA)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (table({}, {}), "2 rows for pair_id='a', lang='en'; one is allowed"),
        (table({"query": "  "}), "empty query for pair_id 'a'"),
        (table({"passage": ""}), "empty passage for pair_id 'a'"),
        (
            table({"query": None, "passage": None, "passage_id": None}),
            "neither query nor passage in 'en'",
        ),
        (table({"lang": None}), "row 0 has no lang; drop the row"),
        (table({"pair_id": None}), "row 0 has no pair_id; drop the row"),
        (table({"group": None}), "row 0 has no group; drop the row"),
        (table({}).drop_columns("group"), "expected pair_id string, lang string"),
    ],
)
def test_bad_pairs(rows: pa.Table, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        PairTable(rows)
    assert "\n" not in str(error.value)


def with_negatives(*lists: list[str | None] | None) -> pa.Table:
    rows = [ROW | {"pair_id": f"a{i}", "negatives": texts} for i, texts in enumerate(lists)]
    return pa.Table.from_pylist(rows, schema=PAIR_SCHEMA.append(NEGATIVES))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (with_negatives(["x"], None, ["y", " "]), "an empty negative for pair_id 'a2', lang 'en'"),
        (with_negatives(["x"], [], [None]), "an empty negative for pair_id 'a2'"),
        (
            with_negatives(None, ["x", "text"]),
            "its own passage among its negatives for pair_id 'a1'",
        ),
        (
            with_negatives(["x"], ["text"]).slice(1),
            "its own passage among its negatives for pair_id 'a1'",
        ),
        (with_negatives(["x"]).select([*range(5), 6, 5]), "expected pair_id string, lang string"),
        (
            table({}).append_column("negatives", pa.array(["x"])),
            "expected pair_id string, lang string",
        ),
    ],
)
def test_bad_negatives(rows: pa.Table, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        PairTable(rows)
    assert "\n" not in str(error.value)


def test_negatives_come_back_from_a_file_and_a_row_may_have_none(tmp_path: Path) -> None:
    rows = with_negatives(["x", "y"], None, [])
    without_passage = pa.Table.from_pylist(
        [ROW | {"pair_id": "b", "passage": None, "negatives": ["z"]}], schema=rows.schema
    )
    pairs = PairTable(pa.concat_tables([rows, without_passage]))
    pairs.save(tmp_path / "pairs.arrow")
    loaded = PairTable.load(tmp_path / "pairs.arrow")
    assert loaded.table.equals(pairs.table)
    assert loaded.select(pair_ids=["a0", "b"]).table["negatives"].to_pylist() == [["x", "y"], ["z"]]


def test_bad_tasks() -> None:
    task = toy_task()
    with pytest.raises(InputError, match=r"query 'ai-xx' and 0 more have no relevant passage"):
        qrels = task.qrels.filter(pa.compute.not_equal(task.qrels["query_id"], "ai-xx"))
        RetrievalTask("t", task.queries, task.passages, qrels)
    with pytest.raises(InputError, match="judged doc_id 'ai-xx' is not among its texts"):
        RetrievalTask("t", task.queries, task.passages.slice(1), task.qrels)
    with pytest.raises(InputError, match="toy qrels: columns query_id string, doc_id string; exp"):
        RetrievalTask("toy", task.queries, task.passages, task.qrels.drop_columns("relevance"))
    with pytest.raises(InputError, match="60 queries and 0 passages; both must be > 0"):
        RetrievalTask("t", task.queries, task.passages.slice(0, 0), task.qrels)


def test_a_language_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="unknown language qq; this data has xx, yy, zz"):
        toy_pairs().select(languages=["xx", "qq"])


def test_selection_and_counts() -> None:
    part = toy_pairs().select(pair_ids=["ai", "bk"], languages=["zz", "xx"])
    assert (len(part), part.pair_ids, part.languages) == (4, ["ai", "bk"], ["xx", "zz"])


def test_round_trip(tmp_path: Path) -> None:
    toy_pairs().save(tmp_path / "pairs.arrow")
    assert PairTable.load(tmp_path / "pairs.arrow").table.equals(toy_pairs().table)
    toy_task().save(tmp_path / "toy")
    loaded = RetrievalTask.load(tmp_path / "toy")
    assert loaded.name == "toy"
    assert all(
        getattr(loaded, part).equals(getattr(toy_task(), part))
        for part in ("queries", "passages", "qrels")
    )
    with pytest.raises(InputError, match="does not exist; run the data step first"):
        PairTable.load(tmp_path / "none.arrow")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_first_of_two_folders_stays(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with atomic_path(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / "f").write_text(text)
    assert (tmp_path / "folder" / "f").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_several_data_sets_in_one_table() -> None:
    hard = [["Kein Uhu."], None]
    rows = [
        {
            "pair_id": "1",
            "lang": "de",
            "query": "Was?",
            "passage_id": "p",
            "passage": "Ein Uhu.",
            "group": "g",
        },
        {
            "pair_id": "2",
            "lang": "de",
            "query": "Wer?",
            "passage_id": None,
            "passage": None,
            "group": "g",
        },
    ]
    plain = PairTable(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA))
    harder = PairTable(plain.table.append_column(NEGATIVES, pa.array(hard, NEGATIVES.type)))
    joined = join({"faq": plain, "news": harder})
    assert [
        (row["pair_id"], row["passage_id"], row["group"], row["dataset"])
        for row in joined.table.to_pylist()
    ] == [
        ("faq/1", "faq/p", "faq/g", "faq"),
        ("faq/2", None, "faq/g", "faq"),
        ("news/1", "news/p", "news/g", "news"),
        ("news/2", None, "news/g", "news"),
    ]
    assert joined.table["negatives"].to_pylist() == [None, None, *hard]
    parts = joined.datasets()
    assert list(parts) == ["faq", "news"] and [len(part) for part in parts.values()] == [2, 2]
    assert plain.datasets() == {"": plain}
    with pytest.raises(InputError, match="row 2 returns to data set 'faq'; sort by data set"):
        PairTable(joined.table.take([0, 2, 1])).datasets()
