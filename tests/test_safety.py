"""Nothing is removed that is not ours, and what is replaced is there, whole, at any moment. All in
copies of a clone.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from test_cli import xir
from toy import toy_pairs, toy_task

from xir_lib.data.tasks import load_task
from xir_lib.errors import InputError
from xir_lib.paths import REPO, named
from xir_lib.study import graph
from xir_lib.study import profile as study
from xir_lib.study.profile import load_study
from xir_lib.study.steps import evaluation_folders, prepare

DEMO = yaml.safe_load((REPO / "params" / "demo.yaml").read_text())
HOSTILE = [
    "..",
    ".",
    "",
    "ABSOLUTE",
    "a/b",
    "../x",
    "~",
    "a..b",
    "con\0",
    "é",
    "A",
    "-a",
    "x" * 65,
    " a",
    "a ",
    "a\n",
]
TAKEN = [path.name for path in (REPO / "figures").iterdir() if not (path / "results").is_dir()]
COMMANDS = {
    "study": ["study", "--dry-run", "--build"],
    "publish": ["publish", "--build"],
    "publish --from-results": ["publish", "--from-results"],
    "step collect": ["step", "collect", "--build"],
}
Tree = dict[str, bytes]


def tree(folder: Path) -> Tree:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a clone with a history, the demo's published folder and another one."""
    clone = tmp_path / "clone"
    shutil.copytree(REPO / "figures" / "demo", clone / "figures" / "demo")
    shutil.copytree(REPO / "figures" / "claims", clone / "figures" / "claims")
    shutil.copy(REPO / "README.md", clone)
    (clone / ".git").mkdir()
    (clone / ".git" / "HEAD").write_text("ref")
    (clone / "build").mkdir()
    for name in ("MIRACL", "MIXED", "DESIGNS"):
        monkeypatch.setattr(graph, name, clone / "figures" / getattr(graph, name).name)
    monkeypatch.setattr(graph, "REPO", clone)
    monkeypatch.setattr(graph, "BLOCKS", {})
    return clone


def finish(build: Path) -> Path:
    """Write what the steps of the demo before `collect` leave, and what those after it do, without
    any mark.
    """
    results, profile = REPO / "figures" / "demo" / "results", study.Study(**DEMO)
    found = {
        name: json.loads((results / f"{name}.json").read_text()) for name in ("runs", "evaluations")
    }
    sums = pd.read_parquet(results / "group_sums.parquet")
    folders = evaluation_folders(profile, build)
    for one in found["evaluations"]:
        key = {name: one[name] for name in ("run", "task", "rival")}
        folder = folders[one["run"], one["task"], one["rival"]]
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps(one))
        mine = sums.loc[(sums[list(key)] == pd.Series(key)).all(axis=1)].drop(
            columns=[*key, "strategy"]
        )
        mine.to_parquet(folder / "group_sums.parquet")
    trained = [run for run in profile.runs if run not in ("none", "untrained")]
    for run, record in zip(trained, found["runs"], strict=True):
        (build / "models" / run).mkdir(parents=True)
        (build / "models" / run / "run.json").write_text(json.dumps(record))
    (build / "data").mkdir()
    shutil.copy(results / "overlap.json", build / "data")
    shutil.copytree(results, build / "results")
    (build / "results" / "thesis.txt").write_text("of somebody")
    shutil.copytree(results.parent, build / "figures", ignore=shutil.ignore_patterns("results"))
    (build / "report").mkdir()
    (build / "report" / "index.html").touch()
    return build


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_profile_that_names_no_folder_of_its_own_is_refused(
    name: str,
    command: str,
    clone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    absolute = tmp_path / "absolute"
    shutil.copytree(REPO / "figures" / "demo", absolute)
    params = tmp_path / "params.yaml"
    profile = str(absolute) if name == "ABSOLUTE" else name
    params.write_text(yaml.safe_dump(DEMO | {"profile": profile}))
    build = finish(tmp_path / "build") if command == "publish" else tmp_path / "build"
    before = tree(tmp_path)
    arguments = [*COMMANDS[command], *([build] if COMMANDS[command][-1] == "--build" else [])]
    assert xir(monkeypatch, *arguments, "--params", params) == 2
    error = capsys.readouterr().err
    assert "cannot name a folder; use a-z" in error and error.count("\n") == 1
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", [*TAKEN, "miracl-sw", "mixed-sw"])
def test_a_profile_cannot_have_the_name_of_another_folder_of_figures(name: str) -> None:
    with pytest.raises(ValueError, match="is a folder of figures/ that is no profile's"):
        study.Study(**DEMO | {"profile": name})


def test_the_committed_profiles_have_good_names() -> None:
    paths = sorted((REPO / "params").rglob("*.yaml"))
    assert len(paths) > 20
    assert {load_study(path).profile for path in paths} == {path.stem for path in paths}


@pytest.mark.parametrize("command", ["study", "publish", "step collect", "step report"])
def test_a_build_folder_of_somebody_else_is_left_alone(
    command: str,
    clone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    build, before = finish(tmp_path / "project"), tree(tmp_path)
    arguments = COMMANDS.get(command, [*command.split(), "--build"])
    assert xir(monkeypatch, *arguments, build, "--params", REPO / "params" / "demo.yaml") == 2
    error = capsys.readouterr().err
    assert "is there and xir did not make it, so it stays" in error and error.count("\n") == 1
    assert tree(tmp_path) == before


def test_a_folder_in_figures_that_publish_did_not_make_is_left_alone(
    clone: Path, tmp_path: Path
) -> None:
    build, target = finish(tmp_path / "build"), clone / "figures" / "demo"
    (build / ".xir").touch()
    shutil.rmtree(target / "results")
    before = tree(clone)
    with pytest.raises(InputError, match="xir did not make it"):
        graph.publish(REPO / "params" / "demo.yaml", build=build)
    assert tree(clone) == before


def test_results_of_another_profile_are_not_published(clone: Path, tmp_path: Path) -> None:
    build, params = finish(tmp_path / "build"), tmp_path / "other.yaml"
    (build / ".xir").touch()
    params.write_text(yaml.safe_dump(DEMO | {"profile": "other"}))
    with pytest.raises(
        InputError, match="holds the results of profile demo; give the build folder of other"
    ):
        graph.publish(params, build=build)
    assert not (clone / "figures" / "other").exists()


@pytest.mark.parametrize(
    "marks", [[".xir"], [".lock", "profile.yaml", ".snakemake/"]], ids=["now", "before marks"]
)
def test_collect_replaces_results_and_removes_figures_in_its_own_build_folder(
    marks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = finish(tmp_path / "build")
    for name in marks:
        (build / name).mkdir() if name.endswith("/") else (build / name).touch()
    others = {
        name: text
        for name, text in tree(build).items()
        if name.split("/")[0] not in ("results", "figures")
    }
    xir(monkeypatch, *COMMANDS["step collect"], build, "--params", REPO / "params" / "demo.yaml")
    after = tree(build)
    assert {name for name in after if name not in others} == {
        f"results/{name}"
        for name in (
            "study.json",
            "runs.json",
            "evaluations.json",
            "overlap.json",
            "group_sums.parquet",
        )
    }
    assert others.items() <= after.items()


def test_a_task_folder_with_anything_else_in_it_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "xir_lib.study.steps.load_training", lambda data: (toy_pairs(), toy_pairs())
    )
    monkeypatch.setattr("xir_lib.study.steps.load_task", lambda name, languages: toy_task(name))
    demo = study.Study(**DEMO)
    prepare(demo, tmp_path)
    prepare(demo, tmp_path)  # its own may be
    task = tmp_path / "tasks" / demo.evaluations[0].task
    (task / "thesis.txt").touch()
    with pytest.raises(InputError, match="xir did not make it"):
        prepare(demo, tmp_path)
    assert (task / "thesis.txt").exists()


def publish_model(folder: Path) -> Path:
    """Write a corpus's results of one model, and an older publication of them; return the latter's
    folder.
    """
    demo = study.Study(**DEMO)
    run = demo.runs[-1]
    source, target = folder / "built" / run / "miracl-yo", folder / "figures" / f"demo-{run}"
    for place, value, names in ((source, "new", "abcd"), (target, "old", "abef")):
        (place / "deep").mkdir(parents=True)
        (place / "metrics.json").write_text(json.dumps({"model": target.name, "value": value}))
        for name in names:
            (place / "deep" / name).write_text(value)
    return target


def publish_corpus(target: Path) -> None:
    folder = target.parent.parent
    graph._publish_corpus(study.Study(**DEMO), folder / "built", "miracl-yo", target.parent)


def killed_before(number: int, action: Callable[[], Any]) -> bool:
    """Run `action` in a child that dies before its `number`-th change of the file system; say
    whether it did.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    calls = 0

    def hook(event: str, arguments: Any) -> None:
        nonlocal calls
        writing = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writing or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir"):
            calls += 1
            if calls == number:
                os._exit(9)

    try:
        sys.addaudithook(hook)
        action()
        os._exit(0)
    finally:
        os._exit(1)


def test_a_kill_at_any_moment_leaves_the_old_or_the_new_folder_whole(tmp_path: Path) -> None:
    def fresh(name: str) -> Path:
        return publish_model(tmp_path / name)

    target = fresh("whole")
    old = tree(target)
    publish_corpus(target)
    new = tree(target)
    assert new != old and list(target.parent.iterdir()) == [target]
    for number in range(1, 1000):
        target = fresh(str(number))
        if not killed_before(number, lambda place=target: publish_corpus(place)):
            break
        aside = target.with_name(f".{target.name}.xir-aside")
        assert tree(target if target.exists() else aside) in (
            old,
            new,
        ), f"killed before change {number}"
        assert killed_before(
            2, lambda place=target: publish_corpus(place)
        )  # again, early in the repair
        assert tree(target if target.exists() else aside) in (
            old,
            new,
        ), f"killed twice after change {number}"
        publish_corpus(target)
        assert tree(target) == new and not aside.exists()
    assert number > 20  # the old folder alone has eleven names to remove
    assert tree(target) == new


@pytest.mark.parametrize("number", [1, 2])
def test_a_rename_that_fails_leaves_the_old_folder(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, calls, rename = publish_model(tmp_path), count(1), Path.rename
    before = tree(target.parent)

    def failing(path: Path, onto: Path) -> Path:
        if next(calls) == number:
            raise OSError("no space")
        return rename(path, onto)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="no space"):
        publish_corpus(target)
    assert tree(target.parent) == before


def test_folders_that_hide_their_name_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy" / "inside").mkdir(parents=True)
    toy_task().save(tmp_path / "saved")
    for file in (tmp_path / "saved").iterdir():
        file.rename(tmp_path / "toy" / file.name)
    for folder, name in (("toy", "."), ("toy/inside", "..")):
        monkeypatch.chdir(tmp_path / folder)
        assert load_task(name).name == "toy"  # a folder of shards is called after it
    with pytest.raises(InputError, match="/ names no folder of its own; give the folder's name"):
        named("/")


def test_what_a_kill_set_aside_is_published_again(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = clone / "figures" / "demo"
    before = tree(target)
    target.rename(target.with_name(".demo.xir-aside"))  # a kill between the two renames
    monkeypatch.setattr(graph, "READERS", ["no_such_notebook"])
    with pytest.raises(InputError, match="notebook no_such_notebook stopped"):
        graph.republish(REPO / "params" / "demo.yaml")
    assert tree(target) == before
    assert not list((clone / "build").iterdir())


def test_what_was_put_in_the_place_of_the_old_folder_meanwhile_stays(tmp_path: Path) -> None:
    target = publish_model(tmp_path)
    aside = target.with_name(f".{target.name}.xir-aside")
    target.rename(aside)
    target.mkdir()
    (target / "thesis.txt").touch()
    with pytest.raises(InputError, match="xir did not make it"):
        publish_corpus(target)
    assert (target / "thesis.txt").exists() and (aside / "metrics.json").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("target", ["study", "figures"])
@pytest.mark.parametrize(
    "name",
    ["..", "a b", "$(shell touch x)", "$$(touch x)", "`touch x`", '"; touch x; "', "$HOME", "'"],
)
def test_make_hands_a_profile_on_as_it_is(name: str, target: str, tmp_path: Path) -> None:
    shutil.copy(REPO / "Makefile", tmp_path)
    (tmp_path / "requirements.lock").touch()
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (tmp_path / ".venv" / ".installed").touch()
    (binaries / "xir").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > arguments\n')
    (binaries / "xir").chmod(0o755)
    subprocess.run(
        ["make", target, f"PROFILE={name}"], cwd=tmp_path, check=True, capture_output=True
    )
    assert name in (tmp_path / "arguments").read_text().splitlines()
    assert not (tmp_path / "x").exists()
