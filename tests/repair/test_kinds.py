"""Names of repairs: today's, those that were removed, and both spellings of a result's key."""

import pytest

from xir_lib.errors import InputError
from xir_lib.repair.kinds import KINDS, Kind, kind_of, parse_kind
from xir_lib.repair.repair import Repair


def test_names_are_taken_apart() -> None:
    assert parse_kind("none") == Kind("none")
    assert parse_kind("centring") == Kind("centring", "centring")
    assert parse_kind("lir-12") == Kind("lir-12", "lir-12")
    assert parse_kind("minus-top10") == Kind("minus-top10", merge="minus-top10")
    both = Kind("centring+round-robin", "centring", "round-robin")
    assert parse_kind("centring+round-robin") == both
    assert parse_kind("bm25-pieces") == Kind("bm25-pieces", lexical=True)
    wrong = ("", "+", "lir", "lir-0", "lir-01", "centring+", "+z-score", "z-score+centring")
    for name in (*wrong, "bm25+z-score", "none+z-score", "lir-1\n", "round-robin+centring"):
        with pytest.raises(InputError, match=r"unknown repair .*; use none, centring,"):
            parse_kind(name)


@pytest.mark.parametrize("name", ["lir-2", "z-score", "centring+minus-top10", "lir-1+round-robin"])
def test_removed_repairs_can_be_read_and_not_made(name: str) -> None:
    assert parse_kind(name).removed
    with pytest.raises(InputError, match="was removed and can only be read; use none, centring"):
        Repair(name)


def test_what_can_be_made_is_not_removed() -> None:
    assert [Repair(kind).kind for kind in KINDS] == list(KINDS)
    assert not any(parse_kind(kind).removed for kind in (*KINDS, "bm25"))
    with pytest.raises(InputError, match="bm25 is a system, no repair; use --model bm25"):
        Repair("bm25")


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"rival": "lir-2", "rival_fit": {}}, "lir-2"),
        ({"repair": "centring"}, "centring"),
        ({"rival": "bm25-folded", "bm25": {"k1": 0.9}}, "bm25-folded"),
        ({"repair": "none", "bm25": {"name": "bm25-folded"}}, "bm25-folded"),
    ],
)
def test_results_of_any_time_say_what_they_are(config: dict[str, object], name: str) -> None:
    assert kind_of(config).name == name
