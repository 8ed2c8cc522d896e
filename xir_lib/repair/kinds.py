"""The names of repairs, as commands, profiles and results spell them.

A repair changes what a finished encoder retrieves and costs no training. Two can be had, alone or
one behind the other as `centring+round-robin`:

* `centring` takes each language's mean out of the vectors (`maps`, `fit`);
* `round-robin` merges the rankings of the single languages (`merge`).

Committed results hold names of repairs that were removed, since they add nothing to these two
(`lir-R`, `z-score`, `minus-top10`), and of BM25, which is a system and no repair. Results called
a repair a *rival* once, and both spellings are read.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from xir_lib.errors import InputError

CENTRING, ROUND_ROBIN = "centring", "round-robin"
KINDS = ("none", CENTRING, ROUND_ROBIN, f"{CENTRING}+{ROUND_ROBIN}")
LEXICAL = ("bm25", "bm25-pieces", "bm25-folded", "bm25-spaces")
_MERGES = "round-robin|z-score|minus-top10"
_NAME = re.compile(
    rf"(?P<shift>centring|lir-[1-9][0-9]*)(?:\+(?P<merge>{_MERGES}))?|(?P<alone>{_MERGES})"
)


class Kind(NamedTuple):
    """A name taken apart; `none` has none of the parts.

    >>> parse_kind("lir-2+z-score")
    Kind(name='lir-2+z-score', shift='lir-2', merge='z-score', lexical=False)
    >>> parse_kind("lir-2").removed, parse_kind("centring").removed
    (True, False)
    """

    name: str
    shift: str | None = None  # what is taken out of the vectors
    merge: str | None = None  # how the rankings of the languages are merged
    lexical: bool = False  # BM25

    @property
    def removed(self) -> bool:
        """Whether it can only be read, not made."""
        return not self.lexical and self.name not in KINDS


def parse_kind(name: str) -> Kind:
    """Take a repair's name apart, removed ones included; an unknown one is refused."""
    if name in LEXICAL:
        return Kind(name, lexical=True)
    if name == "none":
        return Kind(name)
    found = _NAME.fullmatch(name)
    if not found:
        raise InputError(f"unknown repair {name!r}; use {', '.join(KINDS)}")
    return Kind(name, found["shift"], found["merge"] or found["alone"])


def is_kind(name: str) -> bool:
    """Say whether `parse_kind` knows this name."""
    try:
        parse_kind(name)
    except InputError:
        return False
    return True


def result_folder(name: str, fit: str) -> str:
    """Return the folder of a repair inside that of the plain evaluation: its name and its fit.

    The fit `foreign` is not named, nor is one where nothing is fitted.

    >>> result_folder("centring", "foreign"), result_folder("bm25", "corpus")
    ('centring', 'bm25')
    >>> result_folder("none", "corpus"), result_folder("centring+z-score", "corpus")
    ('', 'centring+z-score-corpus')
    """
    if name == "none":
        return ""
    return f"{name}-{fit}" if parse_kind(name).shift and fit != "foreign" else name


def kind_of(config: Mapping[str, Any]) -> Kind:
    """Return what a result's `config` says was ranked by, in the spelling of any time.

    >>> kind_of({"rival": "bm25"}) == kind_of({"repair": "none", "bm25": {"name": "bm25"}})
    True
    """
    lexical: str | None = config.get("bm25", {}).get("name")
    return parse_kind(lexical or config.get("repair") or config["rival"])
