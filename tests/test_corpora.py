"""Loaders against the counts of data/README.md (with XIR_DATA) and against small files worked out
by hand.
"""

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from toy import toy_pairs

from xir_lib.data import lareqa, mlqa, squad
from xir_lib.data.records import PAIR_SCHEMA, PairTable
from xir_lib.data.splits import (
    components,
    draw_ids,
    one_language_per_id,
    pair_counts,
    split_by_group,
)
from xir_lib.data.tasks import load_paragraphs, load_task
from xir_lib.errors import InputError
from xir_lib.paths import REPO
from xir_lib.samplers.strategies import PairIndex, StrategyBatchSampler
from xir_lib.study.profile import load_study
from xir_lib.study.sources import load_training
from xir_lib.training.settings import TrainSettings, parse_strategy, trained_on

# README.md of the data folder: questions and candidates of each file
QUESTIONS = {
    "xquad-r": dict.fromkeys(
        ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh"), 1190
    ),
    "mlqa-r": {"ar": 517, "de": 512, "en": 1148, "es": 500, "hi": 507, "vi": 511, "zh": 504},
}
CANDIDATES = {
    "xquad-r": {
        "ar": 1222,
        "de": 1276,
        "el": 1234,
        "en": 1180,
        "es": 1215,
        "hi": 1244,
        "ru": 1219,
        "th": 852,
        "tr": 1167,
        "vi": 1209,
        "zh": 1196,
    },
    "mlqa-r": {"ar": 2545, "de": 2362, "en": 6264, "es": 1787, "hi": 2426, "vi": 2828, "zh": 2322},
}
VERSIONS = {
    "xquad-r": {11: 1190},
    "mlqa-r": {4: 820, 3: 263, 2: 65},
}  # relevant sentences: number of ids
POOL = {"xquad-r": 13_014, "mlqa-r": 20_534}
PARAGRAPHS = {
    "xquad-r": 240,
    "mlqa-r": 933,
}  # field.md for XQuAD-R; both by a union-find over (question, file, paragraph)
ARTICLES = {
    "xquad-r": 48,
    "mlqa-r": 520,
}  # field.md for XQuAD-R; MLQA-R: the articles of en.json, which has every id


@pytest.fixture
def real() -> Path:
    folder = Path(os.environ.get("XIR_DATA", "/nowhere"))
    if not all((folder / name).is_dir() for name in ("xquad-r", "mlqa-r", "mlqa-v1")):
        pytest.skip("XIR_DATA names no folder with xquad-r, mlqa-r and mlqa-v1")
    return folder


# ---- hand-made LAReQA files
# ----------------------------------------------------------------------

# Positions counted by hand. English: "Owls fly." is 0..9 (the full stop is character 8), "Bats
# hang." is 10..20.
EN = "Owls fly. Bats hang."
# Arabic: "تطير." is 5 letters with its stop, 0..5; "تنام" 6..10.
AR = "تطير. تنام"
# Chinese has no space between sentences: 0..4 and 4..8 meet.
ZH = "鸮会飞。蝠倒挂。"


def paragraph(
    context: str, breaks: list[list[int]], *questions: tuple[str, str, int], sentences: Any = None
) -> dict[str, Any]:
    made = [context[start:end] for start, end in breaks] if sentences is None else sentences
    qas = [
        {"id": key, "question": text, "answers": [{"text": "", "answer_start": start}]}
        for key, text, start in questions
    ]
    return {"context": context, "sentence_breaks": breaks, "sentences": made, "qas": qas}


def write(path: Path, *articles: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {
        "data": [
            {"title": f"title {n}", "paragraphs": paragraphs}
            for n, paragraphs in enumerate(articles)
        ]
    }
    path.write_text(json.dumps(data), encoding="utf-8")


@pytest.fixture
def lareqa_folder(tmp_path: Path) -> Path:
    """Three languages; q1 and q2 share an English article, q3 is in none with them; articles come
    in other orders.
    """
    write(
        tmp_path / "en.json",
        [
            paragraph(
                EN,
                [[0, 9], [10, 20]],
                ("q1", "What do owls do?", 5),
                ("q2", "What do bats do?", 10),
            )
        ],
        [paragraph("One. One.", [[0, 4], [5, 9]], ("q3", "How many?", 5))],
    )
    write(
        tmp_path / "ar.json",
        [paragraph("واحد", [[0, 4]], ("q3", "كم؟", 0))],
        # the ready-made sentences are off by one: they must not be used
        [paragraph(AR, [[0, 5], [6, 10]], ("q1", "ماذا؟", 0), sentences=["", "تطير."])],
    )
    # both questions are answered by the second sentence, whose span begins where the first one's
    # ends
    write(
        tmp_path / "zh.json",
        [paragraph(ZH, [[0, 4], [4, 8]], ("q2", "蝠做什么？", 4), ("q1", "谁？", 7))],
    )
    return tmp_path


LANGS = ["en", "zh", "ar"]


def test_every_sentence_is_a_candidate_and_identity_is_position(lareqa_folder: Path) -> None:
    task = lareqa.load_task("mlqa-r", LANGS, lareqa_folder)
    texts = {row["doc_id"]: row["text"] for row in task.passages.to_pylist()}
    assert texts == {
        "000-00-00-ar": "واحد",
        "001-00-00-ar": "تطير.",
        "001-00-01-ar": "تنام",
        "000-00-00-en": "Owls fly.",
        "000-00-01-en": "Bats hang.",
        "001-00-00-en": "One.",  # the same text twice: two candidates
        "001-00-01-en": "One.",
        "000-00-00-zh": "鸮会飞。",
        "000-00-01-zh": "蝠倒挂。",
    }
    assert task.languages == ["ar", "en", "zh"]


def test_context_changes_the_texts_alone(lareqa_folder: Path) -> None:
    task, whole = (
        lareqa.load_task("mlqa-r", LANGS, lareqa_folder, context=context)
        for context in (False, True)
    )
    assert whole.name == "mlqa-r-context"
    assert whole.queries == task.queries and whole.qrels == task.qrels
    assert whole.passages.drop_columns("text") == task.passages.drop_columns("text")
    assert (EN[:9], EN[10:]) == tuple(task.passages["text"].to_pylist()[3:5])
    assert [f"{EN[:9]} {EN}", f"{EN[10:]} {EN}"] == whole.passages["text"].to_pylist()[3:5]


def test_context_is_asked_for_by_name(
    lareqa_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mlqa-r-context` by hand; XQuAD-R's test articles are in the next test."""
    folder = tmp_path / "data" / "mlqa-r"
    shutil.copytree(lareqa_folder, folder, ignore=shutil.ignore_patterns("data"))
    monkeypatch.setenv("XIR_DATA", str(folder.parent))
    named = load_task("mlqa-r-context", LANGS)
    assert named.passages == lareqa.load_task("mlqa-r", LANGS, lareqa_folder, context=True).passages
    assert load_task("mlqa-r", LANGS).passages["text"] != named.passages["text"]


def test_context_and_test_articles_are_asked_for_by_name(real: Path) -> None:
    task, alone = (
        load_task(name, ["en", "th"]) for name in ("xquad-r-test-context", "xquad-r-test")
    )
    assert (
        task.name == "xquad-r-test-context" and task.passages["doc_id"] == alone.passages["doc_id"]
    )
    assert task.passages != alone.passages and len(task.queries["group"].unique()) == 16


def test_a_query_has_one_relevant_sentence_in_each_language_of_its_id(lareqa_folder: Path) -> None:
    task = lareqa.load_task("mlqa-r", LANGS, lareqa_folder)
    judged: dict[str, set[str]] = {}
    for row in task.qrels.to_pylist():
        assert row["relevance"] == 1
        judged.setdefault(row["query_id"], set()).add(row["doc_id"])
    q1 = {"000-00-00-en", "001-00-00-ar", "000-00-01-zh"}
    q2 = {
        "000-00-01-en",
        "000-00-01-zh",
    }  # answer_start 10 and 4 are the first characters of their sentences
    q3 = {"001-00-01-en", "000-00-00-ar"}
    assert judged == {
        "q1-en": q1,
        "q1-ar": q1,
        "q1-zh": q1,
        "q2-en": q2,
        "q2-zh": q2,
        "q3-en": q3,
        "q3-ar": q3,
    }


def test_articles_are_groups_across_languages(lareqa_folder: Path) -> None:
    task = lareqa.load_task("mlqa-r", LANGS, lareqa_folder)
    assert dict(
        zip(task.queries["query_id"].to_pylist(), task.queries["group"].to_pylist(), strict=True)
    ) == {
        "q1-en": "q1",
        "q1-ar": "q1",
        "q1-zh": "q1",
        "q2-en": "q1",
        "q2-zh": "q1",
        "q3-en": "q3",
        "q3-ar": "q3",
    }
    # in this Arabic file q2 stands alone; its group is still the one that the English article makes
    write(
        lareqa_folder / "ar.json",
        [paragraph("واحد", [[0, 4]], ("q3", "كم؟", 0))],
        [paragraph(AR, [[0, 5]], ("q2", "ماذا؟", 0))],
    )
    few = lareqa.load_task("mlqa-r", ["ar"], lareqa_folder)
    assert few.queries["pair_id"].to_pylist() == ["q3", "q2"]
    assert few.queries["group"].to_pylist() == ["q3", "q1"]
    assert few.qrels.num_rows == 2  # Arabic sentences only


def test_pairs_share_the_passage_id_of_a_shared_sentence(lareqa_folder: Path) -> None:
    pairs = lareqa.load_pairs("mlqa-r", LANGS, lareqa_folder)
    ids = {
        (row["pair_id"], row["lang"]): (row["passage_id"], row["passage"])
        for row in pairs.table.to_pylist()
    }
    assert ids["q1", "zh"] == ids["q2", "zh"] == ("000-00-01-zh", "蝠倒挂。")
    assert ids["q1", "en"] == ("000-00-00-en", "Owls fly.") and ids["q2", "en"] == (
        "000-00-01-en",
        "Bats hang.",
    )
    # q1 has 3 languages, q2 and q3 2: same-language 3 + 2 + 2, cross-language 3*2 + 2*1 + 2*1
    assert (
        pair_counts(pairs)["same_language_pairs"],
        pair_counts(pairs)["cross_language_pairs"],
    ) == (7, 10)


def test_an_answer_in_the_gap_between_sentences_is_refused(lareqa_folder: Path) -> None:
    write(lareqa_folder / "en.json", [paragraph(EN, [[0, 9], [10, 20]], ("q1", "?", 9))])
    with pytest.raises(
        InputError,
        match=(
            r"en\.json: article 0, paragraph 0, question 'q1': the answer starts at 9, .* no"
            r" sentence"
        ),
    ):
        lareqa.load_task("mlqa-r", LANGS, lareqa_folder)


@pytest.mark.parametrize(
    ("name", "languages", "says"),
    [
        ("squad", None, "unknown data set 'squad'; known: mlqa-r, xquad-r"),
        ("mlqa-r", ["en", "fr"], r"\['en', 'fr'\] asked for; there are ar, de, en, es, hi, vi, zh"),
        ("mlqa-r", [], "there are ar, de"),
        ("mlqa-r", None, r"lacks de\.json, es\.json, hi\.json, vi\.json; `xir data get mlqa-r`"),
    ],
)
def test_lareqa_refuses(
    lareqa_folder: Path, name: str, languages: list[str] | None, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        lareqa.load_task(name, languages, lareqa_folder)


def test_missing_folder_says_what_would_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XIR_DATA", str(tmp_path))
    with pytest.raises(
        InputError, match=r"xquad-r lacks ar\.json.*`xir data get xquad-r`.*XIR_DATA"
    ):
        lareqa.load_task("xquad-r")
    with pytest.raises(
        InputError,
        match=r"test-context-de-question-ar\.json does not exist; `xir data get mlqa-v1`.*XIR_DATA",
    ):
        mlqa.load_pairs()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"data": [', r"cannot be read as JSON \(Expecting value: line 1 column 11"),
        (b"\xff\xfe\x00garbage", "cannot be read as JSON"),
        (b"[]", "'data' is missing or not a list"),
        (b'{"data": [{}]}', "article 0: 'paragraphs' is missing"),
        (
            b'{"data": [{"paragraphs": [{"context": 3}]}]}',
            "article 0, paragraph 0: 'context' is missing or not a str",
        ),
        (
            b'{"data": [{"paragraphs": [{"context": "a", "qas": []}]}]}',
            "'sentence_breaks' is missing",
        ),
        (
            b'{"data": [{"paragraphs": [{"context": "a", "sentence_breaks": [[0, 2]]}]}]}',
            r"sentence break \[0, 2\].*1 characters",
        ),
        (
            (
                b'{"data": [{"paragraphs": [{"context": "a", "sentence_breaks": [[0, 1]],'
                b'"qas": [{"id": "q", "question": "?", "answers": []}]}]}]}'
            ),
            "question 'q': 'answer_start' is missing",
        ),
    ],
)
def test_malformed_files_are_named_with_the_place(
    lareqa_folder: Path, content: bytes, says: str
) -> None:
    (lareqa_folder / "zh.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"zh\.json.*{says}") as caught:
        lareqa.load_task("mlqa-r", LANGS, lareqa_folder)
    assert "\n" not in str(caught.value)


# ---- hand-made MLQA files
# ----------------------------------------------------------------------


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
            write(
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


def test_paragraphs_are_whole_and_once(
    mlqa_folder: Path, lareqa_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [(row["lang"], row["text"]) for row in mlqa.load_paragraphs(mlqa_folder).to_pylist()]
    assert sorted(found) == [
        ("de", "Eule"),
        ("es", "búho"),
        ("es", "solo"),
        ("vi", "cú"),
        ("zh", "鸮"),
    ]
    monkeypatch.setitem(lareqa.LANGUAGES, "mlqa-r", ("ar", "en", "zh"))
    assert lareqa.load_paragraphs("mlqa-r", lareqa_folder).to_pylist() == [
        {"doc_id": f"mlqa-r-{place}", "lang": place[-2:], "text": text}
        for place, text in (
            ("000-00-ar", "واحد"),
            ("001-00-ar", AR),
            ("000-00-en", EN),
            ("001-00-en", "One. One."),
            ("000-00-zh", ZH),
        )
    ]
    (lareqa_folder / "zh.json").unlink()
    with pytest.raises(InputError, match=r"lacks zh\.json; `xir data get mlqa-r`"):
        lareqa.load_paragraphs("mlqa-r", lareqa_folder)


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
    with pytest.raises(
        InputError, match="unknown language sw; these pairs have ar, de, es, vi, zh"
    ):
        mlqa.core(pairs, ["de", "sw"])


def test_same_id_with_another_text_is_refused(mlqa_folder: Path) -> None:
    write(mlqa_folder / mlqa.file_name("zh", "es"), [mlqa_paragraph("鸮", ("a", "¿otra?"))])
    with pytest.raises(
        InputError, match=r"test-context-zh-question-es\.json: question of id 'a' \(es\) differs"
    ):
        mlqa.load_pairs(mlqa_folder)


# ---- groups and splits
# ----------------------------------------------------------------------


def test_components_do_not_depend_on_order() -> None:
    ids, things = ["d", "c", "b", "b", "a", "e"], ["v", "x", "x", "y", "z", "v"]
    expected = {"a": "a", "b": "b", "c": "b", "d": "d", "e": "d"}
    assert components(ids, things) == expected
    assert components(ids[::-1], things[::-1]) == expected
    assert components(["x"], ["x"]) == {"x": "x"}  # an id and a thing of one name stay two nodes


def table(groups: int, ids_per_group: int = 2) -> PairTable:
    rows = [
        {
            "pair_id": f"{g}/{i}",
            "lang": lang,
            "query": "q",
            "passage_id": f"{g}-{lang}",
            "passage": "p",
            "group": f"g{g}",
        }
        for g in range(groups)
        for i in range(ids_per_group)
        for lang in ("yo", "th")
    ]
    return PairTable(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA))


def test_split_is_a_partition_by_group_near_the_share() -> None:
    pairs = table(2000)
    train, held_out = split_by_group(pairs, 0.2, seed=7)
    kept, out = set(train.table["group"].to_pylist()), set(held_out.table["group"].to_pylist())
    assert not kept & out and len(kept | out) == 2000
    assert len(train) + len(held_out) == len(pairs)
    # binomial(2000, .2): mean 400, standard deviation 17.9; five of them is a chance of 6e-7
    assert abs(len(out) - 400) < 90


def test_split_is_a_function_of_seed_and_group_alone() -> None:
    def out(pairs: PairTable, seed: int) -> set[str]:
        return set(split_by_group(pairs, 0.3, seed)[1].table["group"].to_pylist())

    pairs = table(200)
    part = PairTable(pairs.table.slice(100 * 4))  # groups 100 to 199, four rows each
    backwards = PairTable(pairs.table.take(list(range(len(pairs)))[::-1]))
    assert out(pairs, 1) == out(backwards, 1)
    assert out(part, 1) == {name for name in out(pairs, 1) if int(name[1:]) >= 100}
    assert out(pairs, 1) != out(pairs, 2)


def test_split_value_is_fixed_for_good() -> None:
    # printf '0\ng0' | sha256sum and so on give first digits e 1 b 9 c 8 5 c e 2: below one half are
    # 1, 5 and 2
    _, held_out = split_by_group(table(10), 0.5, seed=0)
    assert sorted(set(held_out.table["group"].to_pylist())) == ["g1", "g6", "g9"]


@pytest.mark.parametrize("share", [0, 1, 1.4, -0.1, float("nan")])
def test_split_refuses_a_share_outside_0_and_1(share: float) -> None:
    with pytest.raises(InputError, match=rf"held_out_share must be in \(0, 1\), got {share}"):
        split_by_group(table(10), share, 0)


def test_split_refuses_an_empty_side() -> None:
    with pytest.raises(InputError, match="holds out 0 of 1 groups"):
        split_by_group(table(1), 1e-9, 0)


# ---- the real files
# ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["xquad-r", "mlqa-r"])
def test_lareqa_counts_of_the_readme(real: Path, name: str) -> None:
    task = lareqa.load_task(name, folder=real / name)
    assert Counter(task.queries["lang"].to_pylist()) == QUESTIONS[name]
    assert Counter(task.passages["lang"].to_pylist()) == CANDIDATES[name]
    assert task.passages.num_rows == POOL[name]
    group_of: dict[str, set[str]] = {}
    for row in task.queries.to_pylist():
        group_of.setdefault(row["pair_id"], set()).add(row["group"])
    assert {len(groups) for groups in group_of.values()} == {1}
    assert len({min(groups) for groups in group_of.values()}) == ARTICLES[name]
    pair_id = dict(
        zip(task.queries["query_id"].to_pylist(), task.queries["pair_id"].to_pylist(), strict=True)
    )
    relevant: dict[str, Counter[str]] = {}
    for row in task.qrels.to_pylist():
        relevant.setdefault(row["query_id"], Counter())[row["doc_id"][-2:]] += 1
    assert all(
        set(counts.values()) == {1} for counts in relevant.values()
    )  # one sentence per language
    per_id = {pair_id[query_id]: len(counts) for query_id, counts in relevant.items()}
    assert Counter(per_id.values()) == VERSIONS[name]
    # every query of an id is judged against all its languages, k * k judgements an id
    assert task.qrels.num_rows == sum(k * k * n for k, n in VERSIONS[name].items())


def test_xquad_r_turkish_uses_the_breaks(real: Path) -> None:
    """The ready-made sentences differ from the breaks in one Turkish paragraph, and in no other of
    XQuAD-R.
    """
    passages = lareqa.load_task("xquad-r", folder=real / "xquad-r").passages
    texts = dict(zip(passages["doc_id"].to_pylist(), passages["text"].to_pylist(), strict=True))
    differing = []
    for lang in lareqa.LANGUAGES["xquad-r"]:
        for a, article in enumerate(
            json.loads((real / "xquad-r" / f"{lang}.json").read_bytes())["data"]
        ):
            for p, entry in enumerate(article["paragraphs"]):
                ours = [
                    texts[f"{a:03d}-{p:02d}-{s:02d}-{lang}"] for s in range(len(entry["sentences"]))
                ]
                assert all(text in entry["context"] for text in ours)
                if ours != entry["sentences"]:
                    differing.append((lang, a, p))
    assert len(differing) == 1 and differing[0][0] == "tr"


def test_xquad_r_is_split_by_article_with_its_pool(real: Path) -> None:
    train, test = (
        lareqa.load_pairs("xquad-r", folder=real / "xquad-r", split=split)
        for split in lareqa.SPLITS
    )
    whole = lareqa.load_task("xquad-r", folder=real / "xquad-r")
    groups = [set(part.table["group"].to_pylist()) for part in (train, test)]
    assert [len(side) for side in groups] == [32, 16] and not groups[0] & groups[1]
    assert len(train) + len(test) == 1190 * 11 and len(test) % 11 == 0  # whole ids
    task = lareqa.load_task("xquad-r", folder=real / "xquad-r", split="test")
    assert task.name == "xquad-r-test" and set(task.queries["group"].to_pylist()) == groups[1]
    # the pool is every sentence of these articles by the raw files, so none that is trained on
    articles = {name.split("-")[0] for name in task.passages["doc_id"].to_pylist()}
    assert len(articles) == 16
    trained = {name.split("-")[0] for name in train.table["passage_id"].to_pylist()}
    assert len(trained) == 32 and not trained & articles
    sentences = sum(
        len(entry["sentence_breaks"])
        for lang in lareqa.LANGUAGES["xquad-r"]
        for a, article in enumerate(
            json.loads((real / "xquad-r" / f"{lang}.json").read_bytes())["data"]
        )
        for entry in article["paragraphs"]
        if f"{a:03d}" in articles
    )
    assert task.passages.num_rows == sentences < whole.passages.num_rows
    for name in ("mlqa-r", "xquad-r"):
        with pytest.raises(InputError, match="xquad-r has train and test, the others have none"):
            lareqa.load_task(name, folder=real / name, split="dev")


def test_design_p_trains_on_no_article_that_it_judges(
    real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XIR_DATA", str(real))
    study = load_study(REPO / "params" / "parallel.yaml")
    train, held_out = load_training(study.data)
    judged = load_task("xquad-r-test")
    sides = [
        set(table["group"].to_pylist()) for table in (train.table, held_out.table, judged.queries)
    ]
    assert (
        not sides[0] & sides[1]
        and not (sides[0] | sides[1]) & sides[2]
        and len(set.union(*sides)) == 48
    )
    assert len(study.seeds) == 5 and study.evaluations[0].fit_on == ["xquad-r-test"]


def test_design_m_shows_every_strategy_the_same_ids_and_languages(
    real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XIR_DATA", str(real))

    def widest(profile: str) -> float:
        """The largest gap between strategies in the share of a query or passage language, over five
        seeds.
        """
        study = load_study(REPO / "params" / f"{profile}.yaml")
        train, _ = load_training(study.data)
        index, shares = PairIndex.from_table(train), []
        for strategy in study.strategies:
            kind, alpha = parse_strategy(strategy)
            options = {"strategy": kind, "alpha": alpha, "batch_size": 32, "num_batches": 150}
            options["language_draw"] = study.train.get("language_draw", "uniform")
            plan = pd.concat(
                StrategyBatchSampler(index, seed=seed, **options).describe() for seed in range(5)
            )
            for side in ("query_lang", "doc_lang"):
                shares.append(
                    (plan.groupby(side)["pairs"].sum() / plan["pairs"].sum()).rename(
                        f"{strategy} {side}"
                    )
                )
        return float(
            (pd.concat(shares, axis=1).max(axis=1) - pd.concat(shares, axis=1).min(axis=1)).max()
        )

    assert (
        widest("matched") < 0.04 < 0.08 < widest("small")
    )  # the pilot is not matched, and its page says so
    study = load_study(REPO / "params" / "matched.yaml")
    train, held_out = load_training(study.data)
    both = [
        row["query"] is not None and row["passage"] is not None for row in train.table.to_pylist()
    ]
    assert (
        all(both) and len(train.pair_ids) + len(held_out.pair_ids) == 5328 and len(study.seeds) == 5
    )


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


@pytest.mark.parametrize("name", PARAGRAPHS)
def test_paragraphs_lie_within_articles(real: Path, name: str) -> None:
    queries = lareqa.load_task(name, folder=real / name).queries
    units = {
        (row["group"], row["paragraph"])
        for row in queries.select(["group", "paragraph"]).to_pylist()
    }
    assert len(units) == len({paragraph for _, paragraph in units}) == PARAGRAPHS[name]


def test_fewer_ids_are_a_part_of_more_and_keep_their_languages() -> None:
    rows = [
        dict(zip(PAIR_SCHEMA.names, (f"q{n}", lang, "q?", f"p{n}", "p", "g"), strict=True))
        for n in range(30)
        for lang in "ab"
    ]
    pairs = PairTable(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA))
    few, more, other = (
        set(draw_ids(pairs, count, seed).pair_ids) for count, seed in ((5, 0), (12, 0), (12, 1))
    )
    assert few < more < set(pairs.pair_ids)
    assert more != other
    assert (len(few), len(more), len(draw_ids(pairs, 5, 0))) == (5, 12, 10)
    assert draw_ids(pairs, 30, 0).table.equals(pairs.table)
    with pytest.raises(InputError, match=r"^ids must be at most 30, [^\n]+, got 31$"):
        draw_ids(pairs, 31, 0)


def test_the_other_designs_on_mlqa_train_on_the_ids_that_they_name(
    real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XIR_DATA", str(real))

    def of(profile: str) -> tuple[PairTable, PairTable]:
        return load_training(load_study(REPO / "params" / f"{profile}.yaml").data)

    matched, matched_held_out = of("matched")
    everything = [set(side.pair_ids) for side in of("ragged")]
    assert len(everything[0] | everything[1]) == 9677 and not everything[0] & everything[1]
    assert everything[0] >= set(matched.pair_ids)  # a group's side depends on nothing else
    mixed, held_out = of("mlqa_atlas")
    parts = mixed.datasets()
    assert set(parts["mlqa"].pair_ids) == {f"mlqa/{name}" for name in matched.pair_ids}
    assert len(parts["atlas"].pair_ids) == 917 and len(parts["atlas"].languages) == 23
    assert set(held_out.pair_ids) == {f"mlqa/{name}" for name in matched_held_out.pair_ids}
    near = [set(matched.pair_ids[:7]), set(matched_held_out.pair_ids[:3])]
    monkeypatch.setattr(
        "xir_lib.study.sources.near_ids", lambda pairs, task: near[task.name == "mlqa-r"]
    )
    apart = of("apart")
    assert [set(side.pair_ids) for side in apart] == [
        set(side.pair_ids) - near[0] - near[1] for side in (matched, matched_held_out)
    ]


def test_a_training_draws_the_languages_that_it_names() -> None:
    pairs = toy_pairs()
    options = {
        "strategy": "x-y",
        "steps": 1,
        "batch_size": 4,
        "learning_rate": 1e-5,
        "temperature": 0.05,
        "max_seq_length": 8,
    }
    assert trained_on(pairs, TrainSettings(**options, languages=["zz", "xx"])).languages == [
        "xx",
        "zz",
    ]
    assert trained_on(pairs, TrainSettings(**options)).languages == pairs.languages
    with pytest.raises(InputError, match="qq"):
        trained_on(pairs, TrainSettings(**options, languages=["xx", "qq"]))


def test_one_language_per_id_leaves_nothing_parallel(caplog: pytest.LogCaptureFixture) -> None:
    languages = ["aa", "bb", "cc"]
    texts = [  # three ids of one passage, in three languages
        (f"q{n}", lang, f"{n} {lang}?", f"p{n // 3}", f"{n // 3} {lang}")
        for n in range(60)
        for lang in languages
    ]
    # two ids share a passage and have no language in common; one has its question and its passage
    # in different ones
    texts += [
        ("left", "aa", "l", "shared", "s"),
        ("right", "bb", "r", "shared", "s"),
        ("parted", "aa", "p", None, None),
        ("parted", "bb", None, "apart", "a"),
    ]
    rows = [dict(zip(PAIR_SCHEMA.names, (*row, "g"), strict=True)) for row in texts]
    pairs = PairTable(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA))
    kept = one_language_per_id(pairs, seed=0)
    assert set(kept.pair_ids) == {f"q{n}" for n in range(60)}
    frame = kept.table.to_pandas()
    assert frame.groupby("pair_id")["lang"].nunique().eq(1).all()
    assert frame.groupby("passage_id")["lang"].nunique().eq(1).all()
    counts = frame["lang"].value_counts()
    assert counts.max() - counts.min() <= 3  # ids of one passage
    assert "3 of 63 ids are left out" in caplog.text
    unnamed = pairs.table.set_column(
        3, PAIR_SCHEMA.field("passage_id"), pa.nulls(len(pairs.table), pa.string())
    )
    again = one_language_per_id(
        PairTable(unnamed), seed=0
    )  # passages are optional to name; here text and name agree
    assert set(again.pair_ids) == set(kept.pair_ids)
    assert again.table.to_pandas().groupby("pair_id")["lang"].nunique().eq(1).all()
    assert len(one_language_per_id(PairTable(pairs.table.slice(0, 0)), seed=0)) == 0
    assert one_language_per_id(pairs, seed=0).table.equals(kept.table)
    assert not one_language_per_id(pairs, seed=1).table.equals(kept.table)
