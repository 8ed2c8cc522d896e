"""What several profiles share is trained once on a lent machine, and is put back into all of
them.
"""

import io
import json
import sys
import tarfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import lease
import pytest


def stage(folder: Path, schedule: list[list[object]]) -> Path:
    names = {str(name): "replica" for name, _ in schedule}
    for file, content in (
        ("schedule", schedule),
        ("pairs", names),
        ("extra", {"yoruba": ["replica"], "mixed": [["replica", "x-y", 1]]}),
    ):
        (folder / f"{file}.json").write_text(json.dumps(content))
    return folder


def test_models_that_profiles_share_are_one_job_with_the_tasks_of_all(tmp_path: Path) -> None:
    found = lease.jobs(stage(tmp_path, [["replica", [0, 1]], ["grid", [0]]]))
    models = [job for job in found if job["kind"] == "model"]
    assert len(models) == 3 * 2 + 15  # the grid's plain cells are design P's models of seed 0
    first = models[0]
    assert first["to"] == ["replica/evaluations/x-x-mono-s0", "grid/evaluations/x-x-mono-s0"]
    assert [given["task"] for given in first["tasks"]] == [
        "mlqa-r",
        "xquad-r-test",
        "belebele",
        "held-out",
    ]
    assert first["yoruba"] == ["yoruba/replica-x-x-mono-s0"] and "mixed" not in first
    assert [job["mixed"] for job in models if "mixed" in job] == ["mixed/replica-x-y-s1"]
    assert {job["settings"]["seed"] for job in models[:3]} == {
        0
    }  # a seed's strategies stand together
    untouched = [job for job in found if job["kind"] == "none"]
    assert [job["yoruba"] for job in untouched if "yoruba" in job] == [["yoruba/none"]]
    shared = {job["tasks"][0]["task"]: job["to"] for job in untouched if job["to"]}
    assert shared["mlqa-r"] == ["replica/evaluations/none", "grid/evaluations/none"]
    assert shared["held-out"] == ["grid/evaluations/none"]


def test_only_finished_folders_are_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "SCRATCH", tmp_path)
    for place in ("a/evaluations/none/mlqa-r", "a/evaluations/none/mlqa-r/centring"):
        made = tmp_path / "making" / place
        made.mkdir(parents=True)
        (made / "metrics.json").write_text(place)
        if not place.endswith("centring"):
            lease.put(made)
    lease.pack(tmp_path, set(), last=True)
    with tarfile.open(tmp_path / "part-0.tar.xz") as archive:
        assert archive.getnames() == ["a/evaluations/none/mlqa-r/metrics.json"]


def test_results_are_put_into_every_profile(tmp_path: Path) -> None:
    files = {
        "a/models/x-s0/run.json": "{}",
        "a/evaluations/x-s0/mlqa-r/metrics.json": "1",
        "yoruba/a-x-s0/metrics.json": "2",
    }
    with tarfile.open(tmp_path / "part-0.tar.xz", "w:xz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content.encode()))
    places = ["a/evaluations/x-s0", "b/evaluations/x-s0"]
    line = {"places": places, "tasks": ["mlqa-r"], "yoruba": ["yoruba/a-x-s0", "yoruba/b-x-s0"]}
    (tmp_path / "log.jsonl").write_text(json.dumps(line) + "\n")
    lease.unpack(tmp_path, tmp_path / "build")
    for name, content in files.items():
        other = (
            name.replace("yoruba/a", "yoruba/b") if name.startswith("yoruba") else "b" + name[1:]
        )
        assert (
            (tmp_path / "build" / name).read_text()
            == (tmp_path / "build" / other).read_text()
            == content
        )
