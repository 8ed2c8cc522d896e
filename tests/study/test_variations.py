"""Profiles by name, what a variation takes from its base, and a grid written out."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from xir_lib.cli import app
from xir_lib.errors import InputError
from xir_lib.paths import REPO
from xir_lib.study import variations
from xir_lib.study.profile import Study, load_study
from xir_lib.study.variations import profile_path

PUBLISHED = sorted(path.parents[1].name for path in REPO.glob("figures/*/results/study.json"))
DEMO = yaml.safe_load((REPO / "params" / "demo.yaml").read_text())


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of profiles: `whole`, `based` on it, and a variation of each kind of name."""
    folder = tmp_path / "params"
    (folder / "variations").mkdir(parents=True)
    monkeypatch.setattr(variations, "PARAMS", folder)
    write(folder / "whole.yaml", **DEMO | {"profile": "whole"})
    write(folder / "based.yaml", profile="based", base="whole")
    write(folder / "variations" / "varied.yaml", profile="varied", base="whole")
    return folder


def write(path: Path, **values: Any) -> Path:
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_profile_still_says_what_it_was_run_with(name: str) -> None:
    kept = Study(**json.loads((REPO / "figures" / name / "results" / "study.json").read_text()))
    later = {"corpora", "mixed"} if name == "low_resource" else set()  # asked for after its runs
    assert load_study(name).model_dump(exclude=later) == kept.model_dump(exclude=later)


def test_a_variation_replaces_whole_keys_of_its_base_and_has_a_name_of_its_own(
    params: Path,
) -> None:
    demo = DEMO["train"]
    settings = {name: value for name, value in demo.items() if name != "recompute"} | {"steps": 3}
    assert settings.keys() < demo.keys()  # what is left out is not the base's
    path = write(
        params / "variations" / "brief.yaml", profile="brief", base="whole", train=settings
    )
    study = load_study(path)
    assert study == load_study("whole").model_copy(update={"profile": "brief", "train": settings})
    write(path, base="whole", train=settings)
    with pytest.raises(InputError, match=r"brief\.yaml: profile: Field required"):
        load_study(path)


def test_repairs_of_a_variation_replace_the_rivals_of_its_base(params: Path) -> None:
    path = params / "variations" / "plain.yaml"
    assert load_study(write(path, profile="plain", base="whole", repairs=["none"])).rivals == [
        "none"
    ]


def test_a_grid_is_every_strategy_with_every_choice_of_settings(params: Path) -> None:
    slow, cold = {"learning_rate": 5.0e-6}, {"temperature": 0.01}
    grid = {"strategies": ["x-y", "x-x"], "times": [{"slow": slow}, {"t.01": cold}]}
    study = load_study(write(params / "g.yaml", profile="g", base="whole", grid=grid))
    written = {
        "x-y-t.01": {"strategy": "x-y"} | cold,
        "x-x-t.01": {"strategy": "x-x"} | cold,
        "x-y-slow": {"strategy": "x-y"} | slow,
        "x-x-slow": {"strategy": "x-x"} | slow,
        "x-y-slow-t.01": {"strategy": "x-y"} | slow | cold,
        "x-x-slow-t.01": {"strategy": "x-x"} | slow | cold,
    }
    assert study.variants == written
    assert study.strategies == ["x-y", "x-x", *written]


ONE = {"strategies": ["x-y"], "times": [{"b16": {"batch_size": 16}}]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": "nobody"}, "unknown base 'nobody'; use based, whole"),
        ({"base": "varied"}, "unknown base 'varied'; use based, whole"),
        ({"base": "../params/whole"}, "unknown base '../params/whole'; use"),
        ({"base": ["whole"]}, "unknown base"),
        ({"base": "based"}, "base 'based' has a base itself"),
        ({"grid": ONE, "strategies": ["x-y"]}, "grid beside strategies, which it writes out"),
        ({"grid": ONE | {"times": []}}, "grid: times: .*at least 1"),
        ({"grid": ONE | {"times": [{64: {"ids": 64}}]}}, "grid: times.*valid string, got '64'"),
        ({"grid": ONE | {"times": [{"": {"ids": 64}}]}}, "grid: times.*at least 1 character"),
        (
            {"grid": ONE | {"times": [*ONE["times"]] * 2}},
            "strategies holds a name twice: x-y, x-y-b",
        ),
        ({"grid": ONE | {"seeds": [0]}}, "grid: seeds: Extra inputs"),
        ({"grid": ["x-y"]}, "grid: value: "),
    ],
)
def test_a_wrong_variation_is_refused_in_one_line(
    params: Path, change: dict[str, Any], message: str
) -> None:
    path = write(params / "variations" / "p.yaml", **{"profile": "p", "base": "whole"} | change)
    with pytest.raises(InputError, match=message) as error:
        load_study(path)
    assert "\n" not in str(error.value) and "p.yaml" in str(error.value)


def test_a_profile_is_found_by_its_name_or_its_file(params: Path) -> None:
    assert profile_path("whole") == params / "whole.yaml"
    assert profile_path(Path("varied")) == params / "variations" / "varied.yaml"
    write(params / "variations" / "whole.yaml", profile="other")
    assert profile_path("whole") == params / "whole.yaml"
    for file in ("whole.yaml", "whole.yml", "./whole", "variations/varied"):
        assert profile_path(file) == Path(file)


@pytest.mark.parametrize("name", ["nobody", "", "..", "a b", "$HOME", "x" * 5000, "a\nb", "~"])
@pytest.mark.parametrize("command", ["study", "publish", "train"])
def test_a_name_that_is_no_profile_s_is_refused_in_one_line(
    name: str, command: str, params: Path
) -> None:
    done = CliRunner().invoke(
        app, [command, "--params", name, *["--dry-run"][: command != "publish"]]
    )
    assert isinstance(done.exception, InputError), done.output
    assert "use based, varied, whole, or a file" in str(done.exception)
    assert "\n" not in str(done.exception) and len(str(done.exception)) < 250
