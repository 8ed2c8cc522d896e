"""The README's code as it stands: Python blocks and commands run unedited, on tiny stand-ins.

A stand-in is a file under the name that the README uses: a model in the place of a hub id,
questions in the place of a download, and a `make` and an `xir` that note what shell blocks call.
"""

import json
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from tiny import build_tiny
from toy import IDS, toy_pairs
from toy_files import paragraph, write_squad
from typer.testing import CliRunner

from xir_lib.cli import UsageError, app
from xir_lib.data.lareqa import LANGUAGES
from xir_lib.paths import REPO
from xir_lib.study.variations import profile_path

README = (REPO / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.M | re.S)
PYTHON = [code for kind, code in BLOCKS if kind == "python"]
SHELL = [code for _, code in BLOCKS if re.search(r"^(make|\.venv/bin/xir) ", code, flags=re.M)]
SPANS = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", README, flags=re.M | re.S))
STUB = """#!/bin/sh
for word in {name} "$@"; do printf '%s\\t' "$word"; done >> {calls}
echo >> {calls}
"""


def called_by(blocks: list[str], folder: Path) -> list[list[str]]:
    """Run shell blocks where `make` and `.venv/bin/xir` only note their words; return the calls."""
    calls = folder / "calls"
    for name, program in (("make", folder / "bin" / "make"), ("xir", folder / ".venv/bin/xir")):
        program.parent.mkdir(parents=True)
        program.write_text(STUB.format(name=name, calls=calls))
        program.chmod(0o755)
    for block in blocks:
        where = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "HOME": str(folder)}
        subprocess.run(["bash", "-euc", block], cwd=folder, env=where, check=True)
    return [line.rstrip("\t").split("\t") for line in calls.read_text().splitlines()]


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    return called_by(SHELL, tmp_path_factory.mktemp("shell"))


def dry(target: list[str]) -> list[list[str]]:
    """Return the calls of `xir` that `make` would make."""
    english = os.environ | {"LC_ALL": "C"}
    done = subprocess.run(
        ["make", "-n", *target], cwd=REPO, env=english, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Nothing to be done" not in done.stdout  # a folder is no target
    profile = next((word.split("=")[1] for word in target if word.startswith("PROFILE=")), "demo")
    told = re.findall(r"^\.venv/bin/(xir .*)$", done.stdout, flags=re.M)
    return [shlex.split(line.replace("$PROFILE", profile)) for line in told]


def commands(command: Any) -> list[Any]:
    """Return a command and all below it."""
    below = getattr(command, "commands", {}).values()
    return [command, *(each for one in below for each in commands(one))]


def parse(words: list[str]) -> dict[str, Any]:
    """Let typer read a command line without running it; return the options."""
    command, (_, *rest) = typer.main.get_command(app), words
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    return command.make_context(words[0], rest).params


def test_every_block_is_run_here() -> None:
    (tree,) = [code for kind, code in BLOCKS if code not in (*PYTHON, *SHELL)]
    assert tree.startswith("Makefile Snakefile")
    assert PYTHON and SHELL


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return build_tiny(tmp_path_factory.mktemp("encoder"), length=128)  # the default of `xir train`


def test_the_python_blocks_run(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one namespace, with the two names that the README says are given."""
    monkeypatch.chdir(tmp_path)
    model = SentenceTransformer(str(tiny), device="cpu")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    columns = ["pair_id", "lang", "query", "passage"]
    names: dict[str, Any] = {"model": model, "dataset": Dataset(toy_pairs().table.select(columns))}
    for block in PYTHON:
        exec(compile(block, "README.md", "exec"), names)
    found = {f"eval_{name}" for name in names["evaluator"](model)}
    assert found == set(re.findall(r"eval_atlas_[\w-]+", README))
    after = model.state_dict()
    assert any(not torch.equal(before[name], after[name].cpu()) for name in before)


def test_the_commands_of_the_blocks_run(
    calls: list[list[str]], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XIR_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(tiny, "intfloat/multilingual-e5-small")
    for lang in LANGUAGES["xquad-r"]:
        articles = [
            [paragraph(f"{name}. c {name}.", [[0, 4], [5, 11]], (name, f"{name} a", 0))]
            for name in IDS[:8]  # of three characters each
        ]
        write_squad(tmp_path / "data" / "xquad-r" / f"{lang}.json", *articles)
    rows = toy_pairs().table.select(["pair_id", "lang", "query", "passage"]).to_pylist()
    Path("my_pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = [words for name, *words in calls if name == "xir" and words[0] != "data"]  # no download
    assert [words[0] for words in run] == ["evaluate", "bias", "train"]
    for words in run:
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, (words, done.output, done.exception)
    made = ["build/mine/metrics.json", "build/bias/card.html", "fixed/run.json"]
    assert [path for path in made if not Path(path).is_file()] == []
    SentenceTransformer("fixed")


def test_every_command_and_option_exists(calls: list[list[str]]) -> None:
    inline = [span.removeprefix(".venv/bin/") for span in SPANS]
    spans = [shlex.split(span) for span in inline if re.match(r"xir \w", span)]
    by_make = [words for name, *target in calls if name == "make" for words in dry(target)]
    told = [words for words in (*calls, *spans, *by_make) if words[0] == "xir"]
    assert len(told) > 12 and len(by_make) > 1
    for words in told:
        try:
            options = parse(words)
        except UsageError as error:
            # a mention in prose may leave out what the command needs
            assert words in spans and type(error).__name__ == "MissingParameter", (words, error)
        else:
            assert (REPO / profile_path(options.get("params") or "demo")).exists(), words
    parts = [part for each in commands(typer.main.get_command(app)) for part in each.params]
    named = {name for span in SPANS for name in re.findall(r"(?<!\S)--[a-z-]+", span)}
    assert named and named <= {name for part in parts for name in part.opts}


def test_every_module_and_name_exists() -> None:
    for name in set(re.findall(r"\bxir_lib(?:\.[a-zA-Z]\w*)+", README)):
        pkgutil.resolve_name(name)
    paths = re.findall(r"`((?:xir_lib|params)/[\w/.]+)`", README)
    assert paths and [path for path in paths if not (REPO / path).exists()] == []
