"""One command evaluates several repairs."""

import json
from pathlib import Path

import pandas as pd
import pytest
from test_cli import xir
from toy import IDS, toy_task

from xir_lib.encoders.encoder import Encoder


def test_several_repairs_and_fits_in_one_command(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    encoder: Encoder,
    tmp_path: Path,
) -> None:
    toy_task().save(tmp_path / "toy")
    toy_task("other", IDS[1::2]).save(tmp_path / "other")
    out = tmp_path / "out"
    for stale in (
        "lir-7",
        "centring-cross-fit",
        "mlqa-r",
        "none",
    ):  # two results of repairs, two that are something else
        (out / stale).mkdir(parents=True)
        (out / stale / "metrics.json").write_text("{}")
    (out / "lir-7" / "thesis.txt").touch()  # of somebody
    common = [
        "evaluate",
        "--model",
        encoder.name,
        "--task",
        tmp_path / "toy",
        "--cache",
        encoder.cache,
        "--out",
        out,
    ]
    repairs = ["--repair", "centring", "--rival", "bm25", "--repair", "round-robin"]
    repairs += ["--rival", "none"]
    fits = ["--fit", "corpus", "--fit", "foreign", "--fit-on", tmp_path / "other"]
    assert (
        xir(monkeypatch, *common, *repairs, *fits, "--fit-curve", 3, "--fit-curve", 9, "--json")
        == 0
    )
    captured = capsys.readouterr()
    results = json.loads(captured.out)
    folders = ["", "centring-corpus", "centring", "round-robin", "bm25"]
    assert [
        json.loads((out / folder / "metrics.json").read_text()) for folder in folders
    ] == results
    assert {path.name for path in out.iterdir() if path.is_dir()} == {
        *folders[1:],
        "lir-7",
        "mlqa-r",
        "none",
    }
    assert [path.name for path in (out / "lir-7").iterdir()] == ["thesis.txt"]
    curve = pd.read_csv(out / "fit_curve.csv")
    assert set(curve["texts"]) == {0, 3, 9} and set(curve["rival"]) == {"centring"}
    assert xir(monkeypatch, *common, "--rival", "centring", "--fit", "cross-fit") == 0
    printed = capsys.readouterr().out
    assert "repair centring-cross-fit" in printed
    assert (
        "R@100 is 1 whatever the ranking in pools of no more passages: xx (20), yy (20), zz (20)"
        in printed
    )
    assert {path.name for path in out.iterdir() if path.is_dir()} == {
        "centring-cross-fit",
        "lir-7",
        "mlqa-r",
        "none",
    }
    assert not (out / "fit_curve.csv").exists()
    for wrong, message in (
        (["--repair", "round-robin", "--fit-curve", 5], "--fit-curve is for the repair centring"),
        (["--fit", "guess"], "unknown fit 'guess'"),
        (["--repair", "bm26"], "unknown repair 'bm26'; use none, centring"),
        (["--repair", "bm25"], "bm25 is a system, no repair; use --model bm25"),
        (["--repair", "lir-1"], "repair 'lir-1' was removed and can only be read; use none,"),
        (["--rival", "centring+z-score"], "repair 'centring+z-score' was removed"),
        (
            ["--repair", "round-robin", "--shards", tmp_path / "shards"],
            "--repair round-robin needs all vectors in memory; leave out --shards",
        ),
    ):
        before = (out / "metrics.json").stat()
        assert xir(monkeypatch, *common, *wrong) == 2
        error = [
            line
            for line in capsys.readouterr().err.splitlines()
            if line and "Loading weights" not in line
        ]
        assert message in error[-1] and len(error) == 1
        assert (out / "metrics.json").stat() == before  # refused before anything is scored again


def test_bm25_is_a_model(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    encoder: Encoder,
    tmp_path: Path,
) -> None:
    toy_task().save(tmp_path / "toy")
    common = ["evaluate", "--task", tmp_path / "toy", "--model"]
    for model in ("bm25-folded", f"bm25-pieces:{encoder.name}"):
        assert xir(monkeypatch, *common, model, "--out", tmp_path / "out", "--json") == 0
        found = json.loads(capsys.readouterr().out)
        kind = model.split(":")[0]
        assert (found["model"], found["config"]["bm25"]["name"]) == (kind, kind)
        beside = [*common, encoder.name, "--out", tmp_path / kind, "--rival", kind]
        assert xir(monkeypatch, *beside) == 0
        values = [
            pd.read_parquet(folder / "per_query.parquet")
            for folder in (tmp_path / "out", tmp_path / kind / kind)
        ]
        pd.testing.assert_frame_equal(*values)
        capsys.readouterr()
    assert xir(monkeypatch, *common, "bm25", "--out", tmp_path, "--repair", "centring") == 2
    assert "--repair needs a model's vectors" in capsys.readouterr().err
