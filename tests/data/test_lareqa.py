"""XQuAD-R and MLQA-R against published counts (with XIR_DATA) and small files made by hand."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_files import paragraph, write_squad

from xir_lib.data import lareqa, mlqa
from xir_lib.data.splits import (
    pair_counts,
)
from xir_lib.data.tasks import load_task
from xir_lib.errors import InputError

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


# Positions counted by hand. English: "Owls fly." is 0..9 (the full stop is character 8), "Bats
# hang." is 10..20.
EN = "Owls fly. Bats hang."
# Arabic: "تطير." is 5 letters with its stop, 0..5; "تنام" 6..10.
AR = "تطير. تنام"
# Chinese has no space between sentences: 0..4 and 4..8 meet.
ZH = "鸮会飞。蝠倒挂。"


@pytest.fixture
def lareqa_folder(tmp_path: Path) -> Path:
    """Three languages; q1 and q2 share an English article, q3 is in none with them; articles come
    in other orders.
    """
    write_squad(
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
    write_squad(
        tmp_path / "ar.json",
        [paragraph("واحد", [[0, 4]], ("q3", "كم؟", 0))],
        # the ready-made sentences are off by one: they must not be used
        [paragraph(AR, [[0, 5], [6, 10]], ("q1", "ماذا؟", 0), sentences=["", "تطير."])],
    )
    # both questions are answered by the second sentence, whose span begins where the first one's
    # ends
    write_squad(
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
    write_squad(
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
    write_squad(lareqa_folder / "en.json", [paragraph(EN, [[0, 9], [10, 20]], ("q1", "?", 9))])
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
        ("mlqa-r", None, r"de\.json does not exist; `xir data get mlqa-r`"),
    ],
)
def test_lareqa_refuses(
    lareqa_folder: Path, name: str, languages: list[str] | None, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        lareqa.load_task(name, languages, lareqa_folder)


@pytest.mark.parametrize(
    ("load", "file"),
    [
        (lambda: lareqa.load_task("xquad-r"), r"xquad-r/ar\.json .*`xir data get xquad-r`"),
        (lambda: lareqa.load_paragraphs("mlqa-r"), r"mlqa-r/ar\.json .*`xir data get mlqa-r`"),
        (mlqa.load_pairs, r"test-context-de-question-ar\.json .*`xir data get mlqa-v1`"),
    ],
)
def test_a_missing_file_says_what_would_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Callable[[], object], file: str
) -> None:
    monkeypatch.setenv("XIR_DATA", str(tmp_path))
    with pytest.raises(InputError, match=rf"{file} downloads it, or set XIR_DATA"):
        load()


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


def test_paragraphs_are_whole(lareqa_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lareqa.LANGUAGES, "mlqa-r", ("ar", "en", "zh"))
    found = lareqa.load_paragraphs("mlqa-r", lareqa_folder).to_pylist()
    assert [tuple(row.values()) for row in found] == [
        ("mlqa-r-000-00-ar", "ar", "واحد"),
        ("mlqa-r-001-00-ar", "ar", AR),
        ("mlqa-r-000-00-en", "en", EN),
        ("mlqa-r-001-00-en", "en", "One. One."),
        ("mlqa-r-000-00-zh", "zh", ZH),
    ]


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


@pytest.mark.parametrize("name", PARAGRAPHS)
def test_paragraphs_lie_within_articles(real: Path, name: str) -> None:
    queries = lareqa.load_task(name, folder=real / name).queries
    units = {
        (row["group"], row["paragraph"])
        for row in queries.select(["group", "paragraph"]).to_pylist()
    }
    assert len(units) == len({paragraph for _, paragraph in units}) == PARAGRAPHS[name]
