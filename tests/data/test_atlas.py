"""Atlas-QA against facts that everyone can look up, and against the promises of its docstring."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml

from xir_lib.data import atlas
from xir_lib.errors import InputError


def told(pair_id: str, lang: str) -> atlas.Row:
    return next(row for row in atlas._rows(lang) if row.pair_id == pair_id)


# The oracle is general knowledge, spelled as the language's newspapers spell it.
@pytest.mark.parametrize(
    ("pair_id", "lang", "answer"),
    [
        ("KE.currency", "en", "Kenyan Shilling"),
        ("KE.currency", "sw", "Shilingi ya Kenya"),
        ("KE.currency", "th", "ชิลลิงเคนยา"),
        ("KE.currency", "ar", "شلن كينيي"),
        ("KE.currency", "zh", "肯尼亚先令"),
        ("KE.languages", "ko", "영어 및 스와힐리어"),
        (
            "KE.languages",
            "yo",
            "Èdè Gẹ̀ẹ́sì àti Èdè Swahili",
        ),  # with the blank that CLDR's own list pattern lacks
        ("KE.continent", "sw", "Afrika"),
        ("JP.capital", "ja", "東京"),
        ("EG.capital", "ar", "القاهرة"),
        ("EG.capital", "de", "Kairo"),
        ("IR.capital", "fa", "تهران"),
        ("DE.capital", "el", "Βερολίνο"),
        ("PT.neighbours", "ru", "Испания"),
        ("PT.neighbours", "fi", "Espanja"),
        ("BD.neighbours", "bn", "ভারত এবং মায়ানমার"),
        ("CH.calling_code", "te", "+41"),
        ("ET.languages", "am", "አማርኛ እና እንግሊዝኛ"),
    ],
)
def test_known_facts(pair_id: str, lang: str, answer: str) -> None:
    row = told(pair_id, lang)
    assert row.answer == answer
    assert answer in row.passage
    assert answer not in row.question


# 51,393,010 people in GeoNames; groups of two after the first three digits in India, a no-break
# blank in Russia.
@pytest.mark.parametrize(
    ("lang", "number"),
    [
        ("en", "51,393,010"),
        ("de", "51.393.010"),
        ("hi", "5,13,93,010"),
        ("bn", "৫,১৩,৯৩,০১০"),
        ("fa", "۵۱٬۳۹۳٬۰۱۰"),
        ("ru", "51\u00a0393\u00a0010"),
        ("fr", "51\u202f393\u202f010"),
    ],
)
def test_number_formats(lang: str, number: str) -> None:
    assert told("KE.population", lang).answer == number


def test_report_holds_what_the_issue_asks_for() -> None:
    found = atlas.report()
    assert found["problems"] == []
    assert len(atlas.LANGUAGES) == 23
    assert len(found["relations"]) >= 6
    assert found["ids"] >= 1200
    assert found["splits"]["test"] >= 320
    assert 120 <= found["splits"]["dev"] <= 180
    assert found["splits"]["train"] >= 700
    for lang, counts in found["languages"].items():
        assert counts["ids"] == found["ids"]  # every id in every language
        assert counts["latin_passages"] <= 20, lang  # under 1.5 % of the ids
    for lang in ("en", "de", "ar", "hi", "bn", "te", "th", "zh", "ru"):
        assert found["languages"][lang]["untranslated"] == {}


def test_untranslated_names_are_counted() -> None:
    # CLDR 48 names the Yao of Malawi and the Hiri Motu of Papua New Guinea in English but not in
    # Yoruba.
    assert ("language", "Yao") in told("MW.languages", "yo").untranslated
    assert "Yao" in told("MW.languages", "yo").passage
    assert told("MW.languages", "de").untranslated == ()
    assert any(
        kind == "currency in part" and "CFA" in name
        for kind, name in told("SN.currency", "ko").untranslated
    )


def test_a_fact_without_names_is_left_out_in_every_language() -> None:
    # CLDR 48 knows the Zimbabwe Gold of 2024 in English only: 22 of 23 languages lack it, more than
    # a quarter.
    assert "ZW.currency" in atlas.report(["en"])["left_out"]
    assert all(row.pair_id != "ZW.currency" for row in atlas._rows("en"))


def test_check_finds_planted_faults() -> None:
    good = told("KE.currency", "ru")
    assert atlas.check([good]) == []
    planted = {
        "another script": replace(
            good, question=f"Which валюта: {good.country}?"
        ),  # a template in the wrong script
        "has a brace": replace(good, question=f"{good.country}: {{a}}?"),
        "is empty": replace(good, passage=" "),
        "lacks the answer": replace(good, passage=f"{good.country}: рубль."),
        "does not name": replace(good, question="Какая валюта?"),
    }
    for words, row in planted.items():
        assert any(words in problem for problem in atlas.check([row])), words
    twin = replace(good, pair_id="UG.currency")
    assert any("same question" in problem for problem in atlas.check([good, twin]))
    alone = replace(told("UG.currency", "de"))
    assert any(
        "no row in ru" in problem
        for problem in atlas.check([good, alone, told("KE.currency", "de")])
    )


def test_a_wrong_template_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    templates = yaml.safe_load(yaml.safe_dump(atlas._templates(), allow_unicode=True))
    templates["templates"]["th"]["area"]["p"] = ["The area of {c} is {a}."] * 2
    monkeypatch.setattr(atlas, "_templates", lambda: templates)
    fact = next(fact for fact in atlas._facts()[0] if fact.pair_id == "KE.area")
    assert any("another script" in problem for problem in atlas.check([atlas._tell(fact, "th")]))


def test_every_language_has_the_same_number_of_phrasings_and_at_least_two_questions() -> None:
    templates = atlas._templates()["templates"]
    assert tuple(templates) == atlas.LANGUAGES
    for lang, relations in templates.items():
        for relation in atlas.RELATIONS:
            questions, passages = relations[relation]["q"], relations[relation]["p"]
            assert len(set(questions)) == len(templates["en"][relation]["q"]) >= 2, (lang, relation)
            assert len(set(passages)) == len(templates["en"][relation]["p"]) >= 1, (lang, relation)
            assert all(
                question.count("{c}") == 1 and "{a}" not in question for question in questions
            )
            assert all(passage.count("{c}") == passage.count("{a}") == 1 for passage in passages)
            assert not set(questions) & set(passages)


def test_both_phrasings_are_used_and_independent() -> None:
    # Two fair coins over about 190 countries: each of the four combinations within 25 +- 12 % (4
    # standard deviations).
    seen = [
        (row.question.startswith("How large"), row.passage.startswith("The territory"))
        for row in atlas._rows("en")
        if row.pair_id.endswith(".area")
    ]
    for combination in {(q, p) for q in (True, False) for p in (True, False)}:
        assert 0.13 <= seen.count(combination) / len(seen) <= 0.37


def test_splits_are_disjoint_by_country_and_cover_every_id() -> None:
    tables = {split: atlas.load_pairs(split, ["en"]).table for split in atlas.SPLITS}
    groups = {split: set(table["group"].to_pylist()) for split, table in tables.items()}
    assert not groups["train"] & groups["test"]
    assert not groups["train"] & groups["dev"]
    assert not groups["dev"] & groups["test"]
    assert sum(table.num_rows for table in tables.values()) == atlas.report(["en"])["ids"]


def test_pairs_are_parallel() -> None:
    pairs = atlas.load_pairs("dev", ["sw", "te"])
    assert pairs.languages == ["sw", "te"]
    assert len(pairs) == 2 * len(pairs.pair_ids)
    assert pairs.table["query"].null_count == pairs.table["passage"].null_count == 0
    assert pairs.table["passage_id"].to_pylist() == pairs.table["pair_id"].to_pylist()
    assert set(pairs.pair_ids) == set(
        atlas.load_pairs("dev", ["km"]).pair_ids
    )  # ids do not depend on the languages asked for


def test_task_judges_the_own_fact_in_every_language() -> None:
    task = atlas.load_task("test", ["en", "zh"])
    n = task.queries.num_rows // 2
    assert task.name == "atlas-qa"
    assert task.passages.num_rows == 2 * n
    assert task.qrels.num_rows == 4 * n  # 2 query languages x 2 passage languages
    for judgement in task.qrels.to_pylist():
        assert judgement["query_id"].rpartition("-")[0] == judgement["doc_id"].rpartition("-")[0]
    wide = atlas.load_task("test", ["en", "zh"], pool="all")
    assert wide.passages.num_rows == 2 * atlas.report(["en"])["ids"]
    assert wide.queries.equals(task.queries)
    assert wide.qrels.equals(task.qrels)


def test_two_processes_with_different_hash_seeds_agree() -> None:
    code = (
        "import hashlib; from xir_lib.data import atlas; t = atlas.load_pairs('train', ['en',"
        " 'yo']).table.to_pylist(); print(hashlib.sha256(repr(t).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: atlas.load_pairs("train", ["en", "xx"]),
            "unknown language xx; atlas-qa has en, de",
        ),
        (lambda: atlas.load_pairs("train", []), "no language given"),
        (lambda: atlas.load_pairs("valid"), "unknown split 'valid'; atlas-qa has train, dev, test"),
        (lambda: atlas.load_task(pool="world"), "pool 'world' is unknown; choose split or all"),
    ],
)
def test_bad_input_is_named(call: object, words: str) -> None:
    with pytest.raises(InputError) as caught:
        call()  # type: ignore[operator]
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_sizes_that_the_readme_states() -> None:
    assert [
        len(atlas.load_pairs(split, ["en"]).pair_ids) for split in ("train", "dev", "test")
    ] == [917, 157, 369]
