"""Settings and names of strategies."""

import pytest
from pydantic import ValidationError
from toy import IDS, SETTINGS, toy_pairs

from xir_lib.data.records import table_digest
from xir_lib.errors import InputError, explain
from xir_lib.samplers.strategies import Strategy
from xir_lib.training.settings import (
    TrainSettings,
    parse_strategy,
    pivot_of,
)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0, -1])
def test_a_learning_rate_that_is_no_number_is_named_in_one_line(value: float) -> None:
    with pytest.raises(ValidationError) as caught:
        TrainSettings(**SETTINGS | {"learning_rate": value})
    line = explain(caught.value)  # as the command line prints it
    assert line.startswith("learning_rate: ") and str(value) in line and "\n" not in line


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x-y", (Strategy.X_Y, 1.0)),
        ("hybrid-0.25", (Strategy.HYBRID, 0.25)),
        ("hybrid-1", (Strategy.HYBRID, 1.0)),
        ("x-y-pair", (Strategy.X_Y_PAIR, 1.0)),
        ("hybrid-row-.5", (Strategy.HYBRID_ROW, 0.5)),
        ("en-en", (Strategy.EN_EN, 1.0)),
        ("es-es", (Strategy.EN_EN, 1.0)),
    ],
)
def test_names_of_runs(name: str, expected: tuple[Strategy, float]) -> None:
    assert parse_strategy(name) == expected
    assert pivot_of(name) == ("es" if name == "es-es" else "en")


@pytest.mark.parametrize(
    "name", ["hybrid", "hybrid-", "hybrid-x", "hybrid--1", "hybrid-row", "y-y", "en-es", ""]
)
def test_unknown_names_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(
        InputError, match=r"x-x-mono, x-y, x-x, .*en-en, .*hybrid-ALPHA or hybrid-row-ALPHA"
    ):
        parse_strategy(name)


def test_alpha_outside_its_range() -> None:
    with pytest.raises(InputError, match=r"alpha must be in \[0, 1\], got 1.4"):
        parse_strategy("hybrid-1.4")


def test_the_digest_sees_every_text() -> None:
    assert table_digest(toy_pairs()) == table_digest(toy_pairs())
    assert table_digest(toy_pairs()) != table_digest(toy_pairs(IDS[1:]))
