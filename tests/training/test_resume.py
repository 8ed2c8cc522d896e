"""Runs that are killed with SIGKILL and started again end with the weights of the uninterrupted
run, bit for bit.

Every run is a process of its own, forked from one server that has imported torch, so that a start
costs no imports. Dropout is on: a run that forgot the random state would end elsewhere, which the
control shows.
"""

import gc
import json
import multiprocessing
import os
import pkgutil
import random
import shutil
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file
from tiny import build_tiny
from toy import IDS, toy_pairs

from xir_lib.errors import InputError
from xir_lib.training.checkpoints import open_checkpoints, remove_checkpoints
from xir_lib.training.run import train
from xir_lib.training.settings import EarlyStopping, TrainSettings

STEPS, EVERY = 24, 4  # five checkpoints, after steps 4 to 20
SETTINGS = TrainSettings(
    strategy="hybrid-0.5",
    seed=1,
    steps=STEPS,
    batch_size=8,
    learning_rate=3e-3,
    temperature=0.1,
    max_seq_length=16,
)
STOPPING = SETTINGS.model_copy(
    update={"learning_rate": 0.1, "early_stopping": EarlyStopping(every=EVERY, patience=2)}
)
RANDOM = random.Random(2408)
SAVE_MODEL = "xir_lib.encoders.open.save_encoder"
STEP = "xir_lib.training.trainer.RunTrainer.training_step"
KILLED_AT = sorted(
    RANDOM.sample(range(EVERY + 1, STEPS + 1), 5)
)  # five random steps, each behind a checkpoint
KILLS: list[
    tuple[str, int]
] = [  # at the start or, where it writes a file, in the middle of the n-th call
    *((STEP, step) for step in KILLED_AT),
    (STEP, 2),  # before the first checkpoint
    ("xir_lib.training.trainer.save_model", RANDOM.randint(1, 5)),
    (
        "torch.save",
        RANDOM.randint(1, 15),
    ),  # optimiser, schedule and random state of each checkpoint
    ("transformers.trainer_callback.TrainerState.save_to_json", RANDOM.randint(1, 5)),
]


def run(encoder: str, out: Path, settings: TrainSettings, kill: tuple[str, int] | None) -> None:
    """Train in this process; with `kill` it kills itself."""
    torch.set_num_threads(1)
    gc.freeze()  # of the preloaded modules, which every collection would walk
    if kill is not None:
        target, number = kill
        original, calls = pkgutil.resolve_name(target), count(1)

        def fatal(*args: Any, **kwargs: Any) -> Any:
            if next(calls) < number:
                return original(*args, **kwargs)
            if "save" in target:
                original(*args, **kwargs)
            if "save" in target and (path := Path(args[1])).is_file():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            os.kill(os.getpid(), signal.SIGKILL)

        patch(target, fatal).start()
    train(
        encoder,
        toy_pairs(IDS[8:]),
        settings,
        out,
        held_out=toy_pairs(IDS[:8]),
        checkpoint_steps=EVERY,
    )


class Runs:
    """Starts runs; each returns its exit code, -9 for a killed one."""

    def __init__(self, encoder: str) -> None:
        self.encoder = encoder
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(
            [
                "sentence_transformers",
                "xir_lib.training.trainer",
                "xir_lib.training.run",
                "test_resume",
            ]
        )

    def __call__(
        self, out: Path, settings: TrainSettings = SETTINGS, kill: tuple[str, int] | None = None
    ) -> int | None:
        process = self.context.Process(target=run, args=(self.encoder, out, settings, kill))
        process.start()
        process.join(120)
        return process.exitcode


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    yield Runs(str(build_tiny(tmp_path_factory.mktemp("encoder"))))


@pytest.fixture(scope="module")
def whole(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "model"
    assert runs(out) == 0
    return out


def same_weights(one: Path, other: Path) -> bool:
    first, second = (load_file(path / "model.safetensors") for path in (one, other))
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def record(out: Path) -> dict[str, Any]:
    return json.loads((out / "run.json").read_text())


@pytest.mark.parametrize(
    "kill", KILLS, ids=[f"{target.rsplit('.')[-1]}-{number}" for target, number in KILLS]
)
def test_a_killed_run_ends_as_if_nothing_had_happened(
    runs: Runs, whole: Path, tmp_path: Path, kill: tuple[str, int]
) -> None:
    out = tmp_path / "model"
    assert runs(out, kill=kill) == -signal.SIGKILL
    assert not out.exists()
    assert runs(out) == 0
    assert same_weights(out, whole)
    ours, theirs = record(out), record(whole)
    assert {name: ours[name] for name in ("loss", "held_out_loss", "realised")} == {
        name: theirs[name] for name in ("loss", "held_out_loss", "realised")
    }
    assert theirs["resumed_at_steps"] == []
    if kill[0] == STEP:
        last = (kill[1] - 1) // EVERY * EVERY
        assert ours["resumed_at_steps"] == ([last] if last else [])
    assert all(step % EVERY == 0 for step in ours["resumed_at_steps"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model.lock", "model"]


def test_one_run_killed_five_times(runs: Runs, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    save_state = "transformers.trainer_callback.TrainerState.save_to_json"
    for kill in (
        (STEP, 6),
        ("torch.save", 2),
        (save_state, 2),
        (STEP, 5),
        (SAVE_MODEL, 1),
    ):
        assert runs(out, kill=kill) == -signal.SIGKILL
    assert runs(out) == 0
    assert same_weights(out, whole)
    # Steps 1 to 5 and a checkpoint at 4; the one at 8 breaks; 8 is made and the one at 12 breaks; 4
    # more steps make 12; from 12 to the export, with a last checkpoint at 20.
    assert record(out)["resumed_at_steps"] == [4, 4, 8, 12, 20]


def test_control_without_the_random_state_the_weights_differ(
    runs: Runs, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    assert runs(out, kill=(STEP, 10)) == -signal.SIGKILL
    (tmp_path / ".model.checkpoint" / "checkpoint-8" / "rng_state.pth").unlink()
    assert runs(out) == 0
    assert record(out)["resumed_at_steps"] == [8]
    assert not same_weights(out, whole)


def test_parallel_queries_are_the_same_after_a_kill(
    runs: Runs, whole: Path, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"query_kl": 1.0, "recompute": True})
    one, other = tmp_path / "one", tmp_path / "other"
    assert runs(one, settings) == 0
    assert runs(other, settings, (STEP, 15)) == -signal.SIGKILL
    assert runs(other, settings) == 0
    assert record(other)["resumed_at_steps"] and same_weights(one, other)
    assert not same_weights(one, whole)


@pytest.fixture(scope="module")
def stopped(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stopped") / "model"
    assert runs(out, STOPPING) == 0
    assert record(out)["steps_trained"] < STEPS  # else this would test nothing
    return out


@pytest.mark.parametrize("killed_in", [STEP, SAVE_MODEL])
def test_early_stopping_goes_on_from_its_curve(
    runs: Runs, stopped: Path, tmp_path: Path, killed_in: str
) -> None:
    """Also where a checkpoint is due at the very step that stops: it would train on."""
    out = tmp_path / "model"
    last = record(stopped)["steps_trained"]
    assert runs(out, STOPPING, (killed_in, last if killed_in == STEP else 1)) == -signal.SIGKILL
    assert runs(out, STOPPING) == 0
    assert record(out)["resumed_at_steps"] == [last - EVERY]
    assert record(out)["early_stopping"] == record(stopped)["early_stopping"]
    assert same_weights(out, stopped)


@pytest.fixture(scope="module")
def killed_run(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    assert runs(folder / "model", kill=(STEP, 6)) == -signal.SIGKILL
    return folder


@pytest.fixture
def killed(killed_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(killed_run, tmp_path, dirs_exist_ok=True)
    return tmp_path / "model"


def test_checkpoints_of_another_run_are_refused_in_one_line(runs: Runs, killed: Path) -> None:
    other = SETTINGS.model_copy(update={"seed": 2})
    folder = killed.parent / ".model.checkpoint"
    with pytest.raises(
        InputError, match=r"holds a checkpoint of another run \(seed 1 there, 2 here\); [^\n]+$"
    ):
        train(runs.encoder, toy_pairs(IDS[8:]), other, killed, held_out=toy_pairs(IDS[:8]))
    with pytest.raises(
        InputError,
        match=(
            r"another run \(pairs_sha256 \w+ there, \w+ here; held_out_sha256 \w+ there, None"
            r" here\)"
        ),
    ):
        train(runs.encoder, toy_pairs(), SETTINGS, killed)
    assert (folder / "checkpoint-4").is_dir()
    run = train(
        runs.encoder, toy_pairs(), other.model_copy(update={"steps": 2}), killed, overwrite=True
    )
    assert run["resumed_at_steps"] == []
    assert not folder.exists()


def test_a_finished_run_leaves_the_checkpoints_of_another_one(runs: Runs, killed: Path) -> None:
    other = SETTINGS.model_copy(update={"seed": 2, "steps": 2})
    finished = train(runs.encoder, toy_pairs(), other, killed.with_name("other"))
    killed.with_name("other").rename(killed)  # where the checkpoints of a killed run are waiting
    assert train(runs.encoder, toy_pairs(), other, killed) == finished
    assert (killed.parent / ".model.checkpoint" / "checkpoint-4").is_dir()


def test_a_checkpoint_of_a_machine_with_another_precision_is_refused_in_one_line(
    runs: Runs, killed: Path
) -> None:
    record = killed.parent / ".model.checkpoint" / "run.json"
    identity = json.loads(record.read_text())
    here = identity.pop("computed_in")
    there = {"float32": "bfloat16", "bfloat16": "float32"}[here]
    for spelling in ("computed_in", "precision"):  # the latter by earlier versions
        record.write_text(json.dumps(identity | {spelling: there}))
        message = (
            rf"a checkpoint of another run \(computed_in {there} there, {here} here\); [^\n]+$"
        )
        with pytest.raises(InputError, match=message):
            train(runs.encoder, toy_pairs(IDS[8:]), SETTINGS, killed, held_out=toy_pairs(IDS[:8]))


def test_a_checkpoint_of_an_earlier_version_goes_on(runs: Runs, killed: Path, whole: Path) -> None:
    record = killed.parent / ".model.checkpoint" / "run.json"
    identity = json.loads(record.read_text())
    identity["precision"] = identity.pop("computed_in")
    del identity["settings"]["precision"]
    record.write_text(json.dumps(identity))
    assert runs(killed) == 0
    assert json.loads((killed / "run.json").read_text())["resumed_at_steps"] == [4]
    assert same_weights(killed, whole)


def test_only_complete_checkpoints_count(tmp_path: Path) -> None:
    folder, identity = tmp_path / ".m.checkpoint", {"encoder": "e", "settings": {"seed": 1}}
    assert open_checkpoints(folder, identity, every=None).newest is None
    for step, state in ((8, '{"global_step": 8}'), (12, '{"global_st'), (16, None)):
        (folder / f"checkpoint-{step}").mkdir()
        if state:
            (folder / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    opened = open_checkpoints(folder, identity, every=None)
    assert (opened.newest, opened.resumed_at_steps) == (folder / "checkpoint-8", [8])
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-8", "run.json"]
    remove_checkpoints(folder)
    folder.mkdir()  # a kill between the removal of the content and of the folder
    assert open_checkpoints(folder, identity, every=None).newest is None
    (folder / "run.json").unlink()
    (folder / "thesis.txt").write_text("")
    with pytest.raises(InputError, match="is in the way and holds no run of xir"):
        open_checkpoints(folder, identity, every=None, overwrite=True)
    (folder / "chapters").mkdir()
    remove_checkpoints(folder)  # as for a model that is finished
    assert {path.name for path in folder.iterdir()} == {"thesis.txt", "chapters"}
