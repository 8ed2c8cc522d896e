"""MLQA against published counts (with XIR_DATA) and small files worked out by hand."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from toy_files import write_squad

from xir_lib.data import lareqa, mlqa, squad
from xir_lib.data.records import PAIR_SCHEMA, PairTable
from xir_lib.data.splits import (
    pair_counts,
    split_by_group,
)
from xir_lib.data.tasks import load_paragraphs
from xir_lib.errors import InputError


def mlqa_paragraph(context: str, *questions: tuple[str, str]) -> dict[str, Any]:
    return {
        "context": context,
        "qas": [{"id": key, "question": text, "answers": []} for key, text in questions],
    }


@pytest.fixture
def mlqa_folder(tmp_path: Path) -> Path:
    """a: de and es both ways; b: shares the German passage of a; c: the Chinese one of b; d, e:
    alone, cross-lingual.
    """
    files: dict[tuple[str, str], list[dict[str, Any]]] = {
        ("de", "es"): [mlqa_paragraph("Eule", ("a", "¿búho?"))],
        ("es", "de"): [mlqa_paragraph("búho", ("a", "Eule?"))],
        ("de", "zh"): [mlqa_paragraph("Eule", ("b", "鸮？"))],
        ("zh", "de"): [mlqa_paragraph("鸮", ("b", "Wer?"), ("c", "Was?"))],
        ("zh", "ar"): [mlqa_paragraph("鸮", ("b", "من؟"))],
        ("es", "ar"): [mlqa_paragraph("solo", ("d", "أين؟"))],
        ("vi", "de"): [mlqa_paragraph("cú", ("e", "Vogel?"))],
    }
    for doc_lang, query_langs in mlqa.QUERY_LANGS.items():
        for query_lang in query_langs:
            write_squad(
                tmp_path / mlqa.file_name(doc_lang, query_lang),
                files.get((doc_lang, query_lang), []),
            )
    return tmp_path


def test_mlqa_files_merge_by_id(mlqa_folder: Path) -> None:
    pairs = mlqa.load_pairs(mlqa_folder)
    rows = {
        (row["pair_id"], row["lang"]): (row["query"], row["passage"], row["group"])
        for row in pairs.table.to_pylist()
    }
    assert rows == {
        ("a", "de"): ("Eule?", "Eule", "a"),
        ("a", "es"): ("¿búho?", "búho", "a"),
        ("b", "ar"): ("من؟", None, "a"),
        ("b", "de"): ("Wer?", "Eule", "a"),
        ("b", "zh"): ("鸮？", "鸮", "a"),
        ("c", "de"): ("Was?", None, "a"),  # joined to a through b
        ("c", "zh"): (None, "鸮", "a"),
        ("d", "ar"): ("أين؟", None, "d"),
        ("d", "es"): (None, "solo", "d"),
        ("e", "de"): ("Vogel?", None, "e"),
        ("e", "vi"): (None, "cú", "e"),
    }
    owls = {row["passage_id"] for row in pairs.table.to_pylist() if row["passage"] == "Eule"}
    assert len(owls) == 1
    assert pair_counts(pairs) == {
        "ids": 5,
        "groups": 3,
        "queries": {"ar": 2, "de": 4, "es": 1, "zh": 1},
        "passages": {"de": 2, "es": 2, "vi": 1, "zh": 2},
        "distinct_passages": {"de": 1, "es": 2, "vi": 1, "zh": 1},
        "same_language_pairs": 4,  # a: de es; b: de zh
        "cross_language_pairs": (
            9
        ),  # queries x passages less the same: a 2*2 - 2, b 3*2 - 2, c 1, d 1, e 1
    }
    unnamed = pairs.table.set_column(
        3, PAIR_SCHEMA.field("passage_id"), pa.nulls(len(pairs.table), pa.string())
    )
    assert pair_counts(PairTable(unnamed)) == pair_counts(
        pairs
    )  # then a passage is known by its text


def test_paragraphs_are_whole_and_once(mlqa_folder: Path) -> None:
    found = [(row["lang"], row["text"]) for row in mlqa.load_paragraphs(mlqa_folder).to_pylist()]
    assert sorted(found) == [
        ("de", "Eule"),
        ("es", "búho"),
        ("es", "solo"),
        ("vi", "cú"),
        ("zh", "鸮"),
    ]


def test_core_keeps_ids_with_both_in_two_languages(mlqa_folder: Path) -> None:
    pairs = mlqa.load_pairs(mlqa_folder)
    core = mlqa.core(pairs)
    assert core.pair_ids == ["a", "b"]
    assert pair_counts(core)["queries"] == {
        "ar": 1,
        "de": 2,
        "es": 1,
        "zh": 1,
    }  # b's Arabic question stays
    narrow = mlqa.core(pairs, query_langs=["de", "zh"])
    assert pair_counts(narrow)["queries"] == {"de": 2, "zh": 1}
    assert pair_counts(narrow)["passages"] == {"de": 2, "es": 1, "zh": 1}  # passages are left alone
    assert mlqa.core(pairs, ["de", "es"]).pair_ids == ["a"]
    with pytest.raises(InputError, match="unknown language sw; this data has ar, de, es, vi, zh"):
        mlqa.core(pairs, ["de", "sw"])


def test_same_id_with_another_text_is_refused(mlqa_folder: Path) -> None:
    write_squad(mlqa_folder / mlqa.file_name("zh", "es"), [mlqa_paragraph("鸮", ("a", "¿otra?"))])
    with pytest.raises(
        InputError, match=r"test-context-zh-question-es\.json: the text of id 'a' \(es\) differs"
    ):
        mlqa.load_pairs(mlqa_folder)


def test_mlqa_counts_of_the_readme(real: Path) -> None:
    pairs = mlqa.load_pairs(real / "mlqa-v1")
    assert pair_counts(pairs) == {
        "ids": 9677,
        "groups": 8499,
        "queries": {"ar": 4252, "de": 3821, "es": 3283, "hi": 3875, "vi": 4365, "zh": 3128},
        "passages": {"de": 4414, "es": 5156, "vi": 1675, "zh": 5011},
        "distinct_passages": {"de": 3963, "es": 4671, "vi": 1508, "zh": 4438},
        "same_language_pairs": 11_907,
        "cross_language_pairs": 29_997,
    }
    core = mlqa.core(pairs)
    counts = pair_counts(core)
    assert (counts["ids"], counts["same_language_pairs"], counts["cross_language_pairs"]) == (
        5328,
        11_907,
        22_700,
    )
    assert len(set(pairs.pair_ids) - set(core.pair_ids)) == 4349
    by_id: dict[str, set[str]] = {}
    for row in pairs.table.to_pylist():
        by_id.setdefault(row["pair_id"], set()).update(
            [row["passage_id"]] if row["passage_id"] else []
        )
    users = Counter(passage for passages in by_id.values() for passage in passages)
    assert (
        sum(any(users[passage] > 1 for passage in passages) for passages in by_id.values()) == 2157
    )  # would leak


def test_foreign_paragraphs_for_mixed_pools(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XIR_DATA", str(real))
    found = load_paragraphs(["xquad-contexts", "mlqa-contexts"])
    assert found.num_rows == 240 * 11 + 14_580 == len(found["doc_id"].unique())
    assert (
        Counter(found["lang"].to_pylist())["vi"] == 240 + 1508
        and "yo" not in found["lang"].to_pylist()
    )


def test_splitting_the_core_is_splitting_the_whole(real: Path) -> None:
    pairs = mlqa.load_pairs(real / "mlqa-v1")
    train, held_out = split_by_group(pairs, 0.1, seed=3)
    core_train, core_held_out = split_by_group(mlqa.core(pairs), 0.1, seed=3)
    assert set(core_held_out.pair_ids) <= set(held_out.pair_ids) and set(
        core_train.pair_ids
    ) <= set(train.pair_ids)
    passages = [set(side.table["passage_id"].drop_null().to_pylist()) for side in (train, held_out)]
    assert not passages[0] & passages[1]


def test_no_paragraph_of_the_training_data_is_in_the_test_data(real: Path) -> None:
    training = set(mlqa.load_pairs(real / "mlqa-v1").table["passage"].drop_null().to_pylist())
    paragraphs = [
        paragraph.context
        for name, languages in lareqa.LANGUAGES.items()
        for lang in languages
        for paragraph in squad.read(real / name / f"{lang}.json", sentences=False)
    ]
    assert (
        len(paragraphs) == 11 * 240 + 3646
    )  # 439 ar + 456 de + 978 en + 454 es + 425 hi + 451 vi + 443 zh
    assert not training & set(paragraphs)
