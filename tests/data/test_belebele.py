"""Belebele against the counts of data/README.md, against the raw files, and against small files
worked out by hand.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from xir_lib.data import belebele
from xir_lib.errors import InputError
from xir_lib.paths import REPO
from xir_lib.study.profile import load_study
from xir_lib.study.sources import load_training


def entry(link: str, number: int | str, passage: str, question: str) -> dict[str, Any]:
    return {
        "link": link,
        "question_number": number,
        "flores_passage": passage,
        "question": question,
        "mc_answer1": "x",
    }


ENGLISH = [
    entry("https://b", 1, "Bats hang.", "What do bats do?"),
    entry("https://b", 2, "Bats hang.", "According to the Passage, who hangs?"),
    entry("https://a", 1, "Owls fly.", "Which of the following flies?"),
]
# other order, numbers as strings; nothing in Zulu points, and yet the English wording decides
ZULU = [
    entry("https://a", "1", "Izikhova", "Yini endizayo?"),
    entry("https://b", "2", "Amalulwane", "Ngubani?"),
    entry("https://b", "1", "Amalulwane", "Enzani?"),
]


def write(folder: Path, lang: str, entries: list[dict[str, Any]]) -> Path:
    path = folder / belebele.file_name(lang)
    path.write_text("".join(json.dumps(one) + "\n" for one in entries), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "en", ENGLISH)
    write(tmp_path, "zu", ZULU)
    return tmp_path


def test_languages_are_joined_on_link_and_number(folder: Path) -> None:
    task = belebele.load_task(["zu", "en"], folder=folder)
    assert task.passages.to_pylist() == [
        {"doc_id": "000-en", "lang": "en", "text": "Owls fly."},
        {"doc_id": "001-en", "lang": "en", "text": "Bats hang."},
        {"doc_id": "000-zu", "lang": "zu", "text": "Izikhova"},
        {"doc_id": "001-zu", "lang": "zu", "text": "Amalulwane"},
    ]
    assert [
        (row["query_id"], row["text"], row["group"])
        for row in task.queries.to_pylist()
        if row["lang"] == "zu"
    ] == [
        ("000-1-zu", "Yini endizayo?", "https://a"),
        ("001-1-zu", "Enzani?", "https://b"),
        ("001-2-zu", "Ngubani?", "https://b"),
    ]
    judged = {(row["query_id"], row["doc_id"]) for row in task.qrels.to_pylist()}
    assert judged == {
        (f"{q}-{a}", f"{q[:3]}-{b}")
        for q in ("000-1", "001-1", "001-2")
        for a in ("en", "zu")
        for b in ("en", "zu")
    }


def test_pointing_is_decided_by_the_english_question_and_the_pool_stays(folder: Path) -> None:
    task = belebele.load_task(
        ["zu"], pointing=False, folder=folder
    )  # English is read though it was not asked for
    assert task.name == "belebele-standalone" and task.languages == ["zu"]
    assert task.queries["query_id"].to_pylist() == ["001-1-zu"]
    assert task.passages["doc_id"].to_pylist() == ["000-zu", "001-zu"]


@pytest.mark.parametrize(
    ("lang", "entries", "says"),
    [
        ("zu", ZULU[:2], r"1 questions are not in both eng_Latn\.jsonl and zul_Latn\.jsonl"),
        ("zu", [*ZULU, ZULU[0]], r"zul_Latn\.jsonl line 4: question 1 on https://a occurs twice"),
        (
            "zu",
            [{**ZULU[2], "flores_passage": "okunye"}, *ZULU[:2]],
            r"line 3: another passage for https://b",
        ),
        ("en", [{**ENGLISH[0], "question": " "}], r"eng_Latn\.jsonl line 1: question is empty"),
        (
            "en",
            [{**ENGLISH[0], "question_number": "two"}],
            r"eng_Latn\.jsonl line 1: question_number 'two'",
        ),
        ("en", [{"link": "https://a"}], r"line 1: no question; a record needs link, question and"),
    ],
)
def test_bad_files_are_refused_in_one_line(
    folder: Path, lang: str, entries: list[dict[str, Any]], says: str
) -> None:
    write(folder, lang, entries)
    with pytest.raises(InputError, match=says) as caught:
        belebele.load_task(["en", "zu"], folder=folder)
    assert "\n" not in str(caught.value)


def test_bad_requests_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"languages \['yo'\] asked for; there are af, am"):
        belebele.load_task(["yo"], folder=folder)
    with pytest.raises(InputError, match="unknown split 'dev'; use train, test, or none"):
        belebele.load_pairs(split="dev", folder=folder)
    with pytest.raises(
        InputError, match=r"afr_Latn\.jsonl does not exist; `xir data get belebele`"
    ):
        belebele.load_pairs(["af"], folder=folder)


def test_counts_of_the_readme(real: Path) -> None:
    task = belebele.load_task(folder=real / "belebele")
    assert Counter(task.queries["lang"].to_pylist()) == dict.fromkeys(belebele.LANGUAGES, 900)
    assert Counter(task.passages["lang"].to_pylist()) == dict.fromkeys(belebele.LANGUAGES, 488)
    assert (len(belebele.LANGUAGES), task.passages.num_rows) == (12, 5856)
    assert (
        len(task.queries["group"].unique()) == 488 and len(task.queries["pair_id"].unique()) == 900
    )
    assert task.qrels.num_rows == 900 * 12 * 12  # every language asks, every language answers
    standalone = belebele.load_task(folder=real / "belebele", pointing=False)
    assert Counter(standalone.queries["lang"].to_pylist()) == dict.fromkeys(
        belebele.LANGUAGES, 900 - 528
    )
    assert standalone.passages.equals(task.passages)


def test_judgements_agree_with_the_raw_files(real: Path) -> None:
    """By text: the passage that a file has beside a question is the one judged relevant, in its own
    and in another language.
    """
    task = belebele.load_task(["en", "am", "zu"], folder=real / "belebele")
    text = dict(
        zip(task.passages["doc_id"].to_pylist(), task.passages["text"].to_pylist(), strict=True)
    )
    query = {row["query_id"]: (row["lang"], row["text"]) for row in task.queries.to_pylist()}
    ours = {
        (*query[row["query_id"]], row["doc_id"][-2:], text[row["doc_id"]])
        for row in task.qrels.to_pylist()
    }
    raw: dict[str, dict[tuple[str, int], dict[str, Any]]] = {}
    for lang in ("en", "am", "zu"):
        entries = [
            json.loads(line)
            for line in (real / "belebele" / belebele.file_name(lang)).open(encoding="utf-8")
        ]
        raw[lang] = {(one["link"], int(one["question_number"])): one for one in entries}
    assert ours == {
        (a, raw[a][key]["question"], b, raw[b][key]["flores_passage"])
        for a in raw
        for b in raw
        for key in raw["en"]
    }


def test_split_parts_passages_in_all_languages_alike(real: Path) -> None:
    train, test = (
        belebele.load_pairs(folder=real / "belebele", split=split) for split in belebele.SPLITS
    )
    sides = [set(part.table["group"].to_pylist()) for part in (train, test)]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 488
    texts = [set(part.table["passage"].to_pylist()) for part in (train, test)]
    assert not texts[0] & texts[1]
    assert (
        len(train) % 12 == 0 and len(train) + len(test) == 900 * 12
    )  # whole ids: every strategy sees the same ones
    assert abs(len(sides[1]) - 244) < 55  # binomial(488, .5): standard deviation 11; five of them
    task = belebele.load_task(folder=real / "belebele", split="test")
    assert task.name == "belebele-test"
    assert set(task.queries["group"].to_pylist()) == sides[1]
    assert set(task.passages["text"].to_pylist()) == texts[1]  # no trained passage is in the pool
    narrow = belebele.load_pairs(["ig", "zu"], folder=real / "belebele", split="test")
    assert set(narrow.table["group"].to_pylist()) == sides[1]


def test_task_names_are_those_of_the_table(real: Path) -> None:
    for name, options in belebele.TASKS.items():
        assert belebele.load_task(["en", "sn"], folder=real / "belebele", **options).name == name


def test_a_profile_trains_on_the_training_part(real: Path) -> None:
    study = load_study(REPO / "params" / "low_resource.yaml")
    train, held_out = load_training(study.data)
    groups = [set(part.table["group"].to_pylist()) for part in (train, held_out)]
    assert groups[0] and groups[1] and not groups[0] & groups[1]
    assert groups[0] | groups[1] == set(
        belebele.load_pairs(folder=real / "belebele", split="train").table["group"].to_pylist()
    )
    assert {evaluation.task for evaluation in study.evaluations} <= {
        "belebele-test",
        "belebele-standalone-test",
    }
    with pytest.raises(
        InputError, match="holds out 0 of"
    ):  # the part is what seed 0 has not held out
        load_training(study.data.model_copy(update={"split_seed": 0}))
