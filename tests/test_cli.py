"""The command line: the contracts scripts rely on, and one line with exit code 2 for bad input."""

import json
import sys
from pathlib import Path

import pytest
from test_encoders import build_tiny
from toy import IDS, toy_task

from xir_lib.cli import main
from xir_lib.paths import REPO

DEMO = str(REPO / "params" / "demo.yaml")


def xir(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["xir", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "--model", "nowhere/", "--task", "atlas-qa", "--out", "o"], "nowhere"),
        (["evaluate", "--model", "m", "--task", "xquad", "--out", "o"], "unknown task 'xquad'; use xquad-r"),
        (["evaluate", "--model", "m", "--task", "atlas-qa", "--language", "qq", "--out", "o"], "qq"),
        (["evaluate", "--model", "m", "--task", "atlas-qa", "--rival", "magic", "--out", "o"], "unknown rival 'magic'"),
        (["evaluate", "--model", "m", "--task", "atlas-qa", "--rival", "centring", "--out", "o"], "--fit-on"),
        (["evaluate", "--model", "m", "--task", "atlas-qa"], "Missing option '--out'"),
        (["train", "--params", "none.yaml", "--out", "o"], "none.yaml does not exist"),
        (["train", "--params", DEMO, "--out", "o", "--strategy", "hybrid-7"], "alpha must be in [0, 1], got 7"),
        (["compare", "a", "b"], "a/group_sums.parquet does not exist"),
        (["study", "--params", DEMO, "--speed", "9"], "No such option: --speed"),
        (["data", "get", "wikipedia"], "unknown data set 'wikipedia'; known"),
        (["data", "verify", "wikipedia"], "unknown data set"),
        (["data", "build", "--out", "o", "--language", "tlh"], "tlh"),
        (["fly"], "No such command 'fly'"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert xir(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("xir: ")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_evaluate_and_compare(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = build_tiny(tmp_path / "encoder")
    toy_task().save(tmp_path / "toy")
    toy_task("other", IDS[1::2]).save(tmp_path / "other")
    common = ["evaluate", "--model", model, "--task", tmp_path / "toy", "--cache", tmp_path / "cache"]
    centring = ["--rival", "centring", "--fit-on", tmp_path / "other"]
    capsys.readouterr()
    assert xir(monkeypatch, *common, *centring, "--out", tmp_path / "out", "--json") == 0
    plain, centred = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == plain
    assert json.loads((tmp_path / "out" / "centring" / "metrics.json").read_text()) == centred
    assert xir(monkeypatch, "compare", tmp_path / "out" / "centring", tmp_path / "out", "--json", "--resamples", 200) == 0
    rows = json.loads(capsys.readouterr().out)
    for row in rows:
        if row["measure"] == "mAP":
            gap = centred["settings"][row["setting"]]["mAP"] - plain["settings"][row["setting"]]["mAP"]
            assert row["difference"] == pytest.approx(gap, abs=1e-6)
            assert row["low"] <= row["difference"] <= row["high"]
    assert xir(monkeypatch, *common, "--out", tmp_path / "out2") == 0
    assert "rank distance" in capsys.readouterr().out


def test_data_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setenv("XIR_DATA", str(tmp_path))
    assert xir(monkeypatch, "data", "list", "--json") == 0
    listed = {row["name"]: row["status"] for row in json.loads(capsys.readouterr().out)}
    assert listed == {"xquad-r": "missing", "mlqa-r": "missing", "mlqa-v1": "missing"}
    assert xir(monkeypatch, "data", "verify", "xquad-r") == 2
    monkeypatch.setenv("XIR_OFFLINE", "1")
    assert xir(monkeypatch, "data", "get", "xquad-r") == 2
    assert "XIR_OFFLINE is set" in capsys.readouterr().err
    assert xir(monkeypatch, "data", "build", "--out", tmp_path / "atlas", "--language", "sw", "--language", "en") == 0
    first = json.loads((tmp_path / "atlas" / "train.jsonl").read_text().splitlines()[0])
    assert {"pair_id", "lang", "query", "passage"} <= first.keys()


def test_help_everywhere(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        ["data", "list"],
        ["data", "get"],
        ["data", "verify"],
        ["data", "build"],
        ["train"],
        ["evaluate"],
        ["compare"],
        ["study"],
        ["publish"],
    ):
        assert xir(monkeypatch, *command, "--help") == 0
        assert "Usage" in capsys.readouterr().out
