"""The whole study on a tiny encoder: from data to report, killed and started again, the same
numbers every time.
"""

import base64
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from tiny import build_tiny

from xir_lib.data import miracl
from xir_lib.errors import InputError
from xir_lib.paths import REPO
from xir_lib.study import graph, miracl_tables
from xir_lib.study.profile import load_study


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("profile")
    profile = yaml.safe_load((REPO / "params" / "demo.yaml").read_text())
    languages = ["en", "sw"]
    profile |= {
        "profile": "tiny",
        "encoder": str(build_tiny(folder)),
        "untrained": False,
        "resamples": 200,
    }
    profile["data"]["languages"] = languages
    profile["train"] |= {"steps": 3, "batch_size": 8, "learning_rate": 1e-3, "max_seq_length": 32}
    profile["evaluations"][0] |= {"languages": languages, "fit_texts": 20}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(profile))
    return path


def start(params: Path, build: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "xir_lib",
        "study",
        "--params",
        str(params),
        "--build",
        str(build),
    ]
    # To a file: orphans of a killed start go on writing, and a pipe that nobody reads would stop
    # them.
    with log_of(build).open("w") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def log_of(build: Path) -> Path:
    return build.parent / f"{build.name}.log"


def finish(params: Path, build: Path) -> None:
    wait_for_the_end(start(params, build), build)


def wait_for_the_end(process: subprocess.Popen[bytes], build: Path) -> None:
    process.wait(timeout=540)
    assert process.returncode == 0, log_of(build).read_text()[-3000:]


def numbers(build: Path) -> tuple[list[Any], list[Any], pd.DataFrame]:
    """Return everything that the study measured, without times and folders."""
    results = build / "results"
    evaluations = json.loads((results / "evaluations.json").read_text())
    kept = [
        {key: e[key] for key in ("run", "task", "rival", "settings", "bias", "counts")}
        for e in evaluations
    ]
    hashes = [e["config"]["weights_sha256"] for e in evaluations]
    runs = [
        {key: run[key] for key in ("settings", "loss", "held_out_loss", "realised")}
        for run in json.loads((results / "runs.json").read_text())
    ]
    return kept, [hashes, runs], pd.read_parquet(results / "group_sums.parquet")


@pytest.mark.slow
def test_from_data_to_report_and_the_same_after_a_kill(
    params: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    uninterrupted = start(
        params, whole
    )  # beside the other, since one of them alone leaves a core idle
    request.addfinalizer(
        lambda: uninterrupted.poll() is None and os.killpg(uninterrupted.pid, signal.SIGKILL)
    )

    # Kill everything at once in the middle of the first training, then only the leaders later, so
    # that orphans go on.
    process = start(params, killed)
    wait_for(lambda: list((killed / "models").glob(".*.lock")), process)
    assert not list((killed / "models").glob("[!.]*/run.json"))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process = start(params, killed)
    wait_for(lambda: list((killed / "models").glob("[!.]*/run.json")), process)
    process.kill()
    process.wait()
    time.sleep(1)
    wait_until_free(killed)
    finish(params, killed)
    wait_for_the_end(uninterrupted, whole)
    page = (whole / "report" / "index.html").read_text()
    assert (
        page.index('class="answer"')
        < page.index("<img")
        < page.index("<table")
        < page.index("The notebooks")
    )
    assert (
        len(list((whole / "report").glob("*.html"))) == 9
    )  # the index, 01, three runs of 02, 03, 04, 05 and 07

    for one, other in zip(numbers(whole), numbers(killed), strict=True):
        if isinstance(one, pd.DataFrame):
            pd.testing.assert_frame_equal(one, other)
        else:
            assert one == other

    stamps = {path: path.stat().st_mtime_ns for path in whole.rglob("*.html")}
    finish(params, whole)
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}

    # A changed number of resamples concerns no model and no ranking.
    models = {
        path: path.stat().st_mtime_ns
        for path in [*whole.glob("models/*/run.json"), *whole.glob("evaluations/*/*/metrics.json")]
    }
    changed = params.with_name("changed.yaml")
    changed.write_text(
        params.read_text().replace("resamples: 200", "resamples: 300") + "corpora: [miracl-sw]\n"
    )
    write_corpus(tmp_path / "data" / miracl.folder_name("sw"))
    monkeypatch.setenv("XIR_DATA", str(tmp_path / "data"))
    finish(changed, whole)
    assert models == {path: path.stat().st_mtime_ns for path in models}
    assert stamps != {path: path.stat().st_mtime_ns for path in stamps}

    # A corpus of one language is judged besides, and published beside other profiles' models.
    study = load_study(changed)
    assert {path.parts[-3] for path in whole.glob("corpora/*/miracl-sw/metrics.json")} == {
        *study.runs
    }
    graph._publish_corpus(study, whole / "corpora", "miracl-sw", tmp_path / "miracl-sw")
    names = {f"tiny-{run}" for run in study.runs if run != "none"}
    assert {path.name for path in (tmp_path / "miracl-sw").iterdir()} == names
    for name in names:
        published = json.loads((tmp_path / "miracl-sw" / name / "metrics.json").read_text())
        assert (published["task"], published["model"]) == ("miracl-sw", name)
    topics = miracl_tables.read_topics(tmp_path / "miracl-sw")
    assert set(topics["topic"]) == {"1", "2", "3"}
    assert set(topics["system"]) == {
        f"{name.removesuffix('-s0')}{fix}" for name in names for fix in ("", "/centring")
    }


def test_missing_foreign_passages_are_told_before_anything_is_trained(
    params: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed = params.with_name("mixed.yaml")
    mixed.write_text(params.read_text() + "corpora: [miracl-sw]\nmixed: true\n")
    write_corpus(tmp_path / "data" / miracl.folder_name("sw"))
    monkeypatch.setenv("XIR_DATA", str(tmp_path / "data"))
    with pytest.raises(InputError, match="xir data get belebele"):
        graph.run_graph(mixed, build=tmp_path / "build")
    assert not (tmp_path / "build").exists()


def test_a_profile_without_anything_to_compare_is_refused_before_it_runs(
    params: Path, tmp_path: Path
) -> None:
    alone = params.with_name("alone.yaml")
    alone.write_text(
        yaml.safe_dump(yaml.safe_load(params.read_text()) | {"strategies": ["hybrid-0.5"]})
    )
    with pytest.raises(InputError, match=r"the profile trains hybrid-0.5; .* `xir train`"):
        graph.run_graph(alone, build=tmp_path / "build")
    assert not (tmp_path / "build").exists()


def write_corpus(folder: Path) -> None:
    """Write a Swahili corpus of three passages in MIRACL's layout, each the answer to one topic."""
    lines = [
        {"docid": f"{n}#0", "title": "", "text": text}
        for n, text in enumerate(("moja", "mbili", "tatu"), 1)
    ]
    topics = "".join(f"{n}\tnini {n}?\n" for n in (1, 2, 3))
    qrels = "".join(f"{n} Q0 {n}#0 1\n" for n in (1, 2, 3))
    for name, content in (
        (
            "corpus/docs-0.jsonl.gz",
            gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()),
        ),
        ("topics/topics.miracl-v1.0-sw-dev.tsv", topics.encode()),
        ("qrels/qrels.miracl-v1.0-sw-dev.tsv", qrels.encode()),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def wait_for(condition: Any, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, (
            f"it ended with exit code {process.returncode} before the step came"
        )
        time.sleep(0.1)
    raise AssertionError("the step did not come")


def wait_until_free(build: Path) -> None:
    """Wait for the orphaned graph to let go of its lock; a start before that is refused with exit
    code 2.
    """
    import fcntl

    for _ in range(3000):
        with (build / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(0.1)
    raise AssertionError("the lock was never released")


def test_a_profile_s_precision_reaches_every_command(
    params: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "data" / miracl.folder_name("sw"))
    profile = yaml.safe_load(params.read_text()) | {
        "corpora": ["miracl-sw"],
        "precision": "float32",
    }
    profile["train"]["precision"] = "bfloat16"
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(graph.SNAKEFILE), "--dry-run"]
    for pinned in (True, False):
        if not pinned:
            del profile["precision"], profile["train"]["precision"]
        (tmp_path / "p.yaml").write_text(yaml.safe_dump(profile))
        config = ["--config", f"params={tmp_path / 'p.yaml'}", f"build={tmp_path / 'b'}"]
        options = ["--directory", str(tmp_path), "--cores", "1", "--printshellcmds", *config]
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
        lines = (done.stdout + done.stderr).splitlines()
        judging = [line for line in lines if " -m xir_lib evaluate " in line]
        assert len(judging) > 2 and all(
            ("--precision float32" in line) == pinned for line in judging
        )
        training = [
            line.split(" -b ")[1].split()[0]
            for line in lines
            if "02_train_strategy.ipynb" in line and " -b " in line
        ]
        given = {yaml.safe_load(base64.b64decode(one))["precision"] for one in training}
        assert given == {"bfloat16" if pinned else "auto"}
