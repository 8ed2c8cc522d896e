"""Precision is chosen by measured rates, the choice is kept, and a pin goes before it."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from test_cli import xir
from tiny import build_tiny
from toy import IDS, toy_pairs, toy_task

from xir_lib.encoders import precision
from xir_lib.encoders.precision import choose, shape_of
from xir_lib.record import difference
from xir_lib.training.held_out import held_out_loss, held_out_ranking
from xir_lib.training.run import train
from xir_lib.training.settings import TrainSettings

REAL_MEASURE = precision.measure  # before the session's fixture takes its place
SETTINGS = TrainSettings(
    strategy="x-y", steps=2, batch_size=8, learning_rate=1e-3, temperature=0.1, max_seq_length=16
)


class Machine:
    """A processor of given rates, with a cache of its own; counts what is measured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.rates: precision.Rates = {"float32": 100.0, "bfloat16": 121.0}
        self.shapes: list[tuple[int, ...]] = []
        self.name, self.folder = "a processor", folder
        monkeypatch.setattr(precision, "measure", self.measure)
        monkeypatch.setattr(precision, "processor", lambda: self.name)
        monkeypatch.setattr(precision, "cache_dir", lambda: self.folder)
        self.restart()

    def measure(self, *shape: int) -> precision.Rates:
        self.shapes.append(shape)
        return self.rates

    def restart(self) -> None:
        """Forget what this process knows."""
        precision._kept_rates.cache_clear()

    def choose(self) -> str:
        """Choose as a new process would."""
        self.restart()
        return choose("auto", torch.nn.Linear(8, 4)).precision


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return Machine(monkeypatch, tmp_path / "cache")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_tiny(tmp_path_factory.mktemp("encoder")))


@pytest.mark.parametrize(
    ("rate", "expected"), [(50, "float32"), (119, "float32"), (121, "bfloat16")]
)
def test_bfloat16_has_to_be_clearly_faster(machine: Machine, rate: float, expected: str) -> None:
    machine.rates = {"float32": 100.0, "bfloat16": rate}
    assert machine.choose() == expected
    assert machine.shapes == [(4, 8)]


@pytest.mark.parametrize(("best", "expected"), [(0.84, "float32"), (0.82, "bfloat16")])
def test_rates_are_the_best_of_several_in_turns(
    monkeypatch: pytest.MonkeyPatch, best: float, expected: str
) -> None:
    # float32, bfloat16, float32, ...: the first of each warms up, and a stall is no rate
    taken = [0.1, 0.1, 1.0, best, 9.0, 9.0, 1.1, 2.0, 5.0, 5.0, 5.0, 5.0]
    ends = list(itertools.accumulate(1e-5 * seconds for seconds in taken))
    starts = [0.0, *ends]
    clock = itertools.chain.from_iterable(zip(starts, ends, strict=False))
    monkeypatch.setattr(precision, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    rates = REAL_MEASURE(16, 32)
    assert rates["float32"] == pytest.approx(4 * 1024 * 16 * 32 / 1e-5 / 1e9, rel=1e-3)
    assert precision.faster(rates) == expected
    assert torch.equal(torch.random.get_rng_state(), before) and torch.get_num_threads() == threads


def test_the_rates_are_kept_until_something_that_made_them_changes(machine: Machine) -> None:
    assert machine.choose() == "bfloat16"
    machine.rates = {"float32": 100.0, "bfloat16": 10.0}  # as a busy moment could measure
    assert machine.choose() == "bfloat16" and len(machine.shapes) == 1
    machine.name = "another processor"
    assert machine.choose() == "float32" and len(machine.shapes) == 2
    machine.name = "a processor"
    assert machine.choose() == "bfloat16" and len(machine.shapes) == 2


@pytest.mark.parametrize(
    "content", ["", '{"gflops": {"float32": 1', "[]", '{"gflops": {"float32": NaN, "bfloat16": 1}}']
)
def test_damaged_rates_are_measured_anew(machine: Machine, content: str) -> None:
    machine.choose()
    (path,) = machine.folder.glob("precision/*.json")
    path.write_text(content)
    assert machine.choose() == "bfloat16" and len(machine.shapes) == 2
    assert json.loads(path.read_text())["gflops"] == machine.rates


def test_a_cache_that_cannot_be_written_is_no_failure(machine: Machine) -> None:
    machine.folder.write_text("a file is in the way")
    assert machine.choose() == "bfloat16"
    assert choose("auto", torch.nn.Linear(8, 4)).precision == "bfloat16"
    assert len(machine.shapes) == 1  # once per process


def test_shapes_are_those_of_the_layers(encoder: str) -> None:
    assert shape_of(SentenceTransformer(encoder, device="cpu")) == (16, 32)
    assert shape_of(torch.nn.Embedding(9, 4)) == precision.USUAL  # as in StaticEmbedding


def test_a_pin_goes_before_the_rates_and_is_recorded(
    machine: Machine, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_task().save(tmp_path / "toy")
    common = ["--model", encoder, "--task", tmp_path / "toy"]
    for asked, used in ((None, "bfloat16"), ("float32", "float32"), ("bfloat16", "bfloat16")):
        options = ["--precision", asked] if asked else []
        for command in ("evaluate", "bias"):
            out = tmp_path / f"{command}-{asked}"
            assert xir(monkeypatch, command, *common, "--out", out, *options) == 0
            config = json.loads((out / "metrics.json").read_text())["config"]
            assert config["precision"] == config["environment"]["precision"] == used
            assert config["environment"].get("probe_gflops") == (None if asked else machine.rates)
    assert (
        xir(monkeypatch, "evaluate", *common, "--out", tmp_path / "o", "--precision", "float16")
        == 2
    )


@pytest.mark.parametrize(("asked", "used"), [("auto", "bfloat16"), ("float32", "float32")])
def test_a_run_trains_and_judges_in_one_precision(
    machine: Machine, encoder: str, tmp_path: Path, asked: str, used: str
) -> None:
    settings = SETTINGS.model_copy(update={"precision": asked})
    held_out = toy_pairs(IDS[:8])
    run = train(encoder, toy_pairs(IDS[8:]), settings, tmp_path / "m", held_out=held_out)
    assert run["settings"]["precision"] == asked and run["environment"]["precision"] == used
    assert run["environment"].get("probe_gflops") == (machine.rates if asked == "auto" else None)
    model = SentenceTransformer(encoder, device="cpu")
    model.max_seq_length = 16
    pinned = SETTINGS.model_copy(update={"precision": used})
    prompts = ("query: ", "passage: ")
    assert run["held_out_loss"]["before"] == held_out_loss(model, held_out, pinned, prompts)
    other = {"float32": "bfloat16", "bfloat16": "float32"}[used]
    changed = SETTINGS.model_copy(update={"precision": other})
    assert run["held_out_loss"]["before"] != held_out_loss(model, held_out, changed, prompts)
    assert run["held_out_ranking"]["before"] == held_out_ranking(model, held_out, prompts, used)  # type: ignore[arg-type]


def test_a_run_of_an_earlier_version_is_the_same_run() -> None:
    here: dict[str, Any] = {"encoder": "e", "settings": {"seed": 1, "precision": "auto"}}
    assert not difference({"encoder": "e", "settings": {"seed": 1}}, here)
    pinned = {"encoder": "e", "settings": {"seed": 1, "precision": "float32"}}
    assert difference(here, pinned) == "precision auto there, float32 here"
    known = here | {"computed_in": "bfloat16"}
    old = {"encoder": "e", "settings": {"seed": 1}, "precision": "bfloat16"}  # a checkpoint's
    assert not difference(old, known)
    assert (
        difference(old | {"precision": "float32"}, known)
        == "computed_in float32 there, bfloat16 here"
    )
