"""The generator of Atlas-QA makes the shipped table, and its checks see planted faults."""

from dataclasses import replace
from importlib.metadata import version

import pytest
import yaml

from xir_lib.data.atlas import LANGUAGES, TABLE
from xir_lib.data.atlas import report as shipped_report

for package, made_with in shipped_report()["made_with"].items():
    pytest.importorskip(package, reason=f"the generator needs {package}, of the extra dev")
    if version(package) != made_with:
        pytest.skip(
            f"the table is {package} {made_with}'s, {version(package)} is installed",
            allow_module_level=True,
        )

import atlas  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402


def told(pair_id: str, lang: str) -> atlas.Row:
    return next(row for row in atlas._rows(lang) if row.pair_id == pair_id)


def test_the_shipped_table_is_what_the_generator_makes() -> None:
    made, shipped = atlas.table(), pq.read_table(TABLE)
    assert made.num_rows == 23 * 1443
    assert made.equals(shipped)
    assert made.schema.metadata == shipped.schema.metadata  # the report


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
    assert tuple(templates) == LANGUAGES
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
