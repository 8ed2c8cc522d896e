"""The lock, pyproject.toml and environment.yml say the same."""

import re
import subprocess
import sys
import tomllib

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from xir_lib.paths import REPO

PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
LINES = [
    line
    for line in (REPO / "requirements.lock").read_text().splitlines()
    if line and not line.startswith("#")
]
PINS = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in LINES}


def test_every_line_of_the_lock_is_a_pin_and_torch_is_first() -> None:
    assert all(re.fullmatch(r"[\w.-]+==[\w.!+-]+", line) for line in LINES)
    assert LINES[0].startswith("torch==")
    assert len(PINS) == len(LINES)


def test_the_lock_satisfies_every_range() -> None:
    ranges = [
        *PROJECT["dependencies"],
        *(line for extra in PROJECT["optional-dependencies"].values() for line in extra),
    ]
    for text in ranges:
        requirement = Requirement(text)
        pin = PINS.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{text} is not in requirements.lock"
        assert requirement.specifier.contains(pin, prereleases=True), (
            f"{text}, but the lock has {pin}"
        )


def test_conda_users_get_the_same_pins_and_python() -> None:
    dependencies = yaml.safe_load((REPO / "environment.yml").read_text())["dependencies"]
    python = next(
        line for line in dependencies if isinstance(line, str) and line.startswith("python")
    )
    assert python.removeprefix("python").startswith(PROJECT["requires-python"])
    assert {"pip": ["-r requirements.lock"]} in dependencies


def test_importing_results_loads_no_heavy_library() -> None:
    heavy = {"torch", "transformers", "datasets", "matplotlib", "snakemake"}
    code = (
        "import sys, xir_lib.study.report, xir_lib.study.plots, xir_lib.study.claims;"
        f"print(sorted({heavy} & sys.modules.keys()))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_the_version_is_one() -> None:
    import xir_lib

    citation = yaml.safe_load((REPO / "CITATION.cff").read_text())
    assert xir_lib.__version__ == PROJECT["version"] == citation["version"]
