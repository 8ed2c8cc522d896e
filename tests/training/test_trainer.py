"""When the trainer stops and when it writes a checkpoint."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from toy import IDS, SETTINGS, toy_pairs

from xir_lib.training import trainer
from xir_lib.training.settings import (
    EarlyStopping,
)

Trains = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("measure", ["loss", "multilingual mAP"])
def test_early_stopping_keeps_the_best_weights(trains: Trains, measure: str) -> None:
    held_out = {"held_out": toy_pairs(IDS[:8])}
    hasty = EarlyStopping(measure=measure, every=3, patience=2)
    run = trains("m", toy_pairs(IDS[8:]), given=held_out, learning_rate=0.1, early_stopping=hasty)
    curve, steps = run["early_stopping"]["curve"], run["steps_trained"]
    assert [step for step, _ in curve] == list(range(3, steps + 1, 3))
    assert steps < SETTINGS["steps"]
    values = [value if measure == "loss" else -value for _, value in curve]
    best = values.index(min(values))
    assert best == len(values) - 3  # two measurements without a better one came after it
    assert run["early_stopping"]["best_step"] == curve[best][0]
    after = {
        "loss": np.mean(list(run["held_out_loss"]["after"].values())),
        "multilingual mAP": run["held_out_ranking"]["after"]["multilingual mAP"],
    }
    assert after[measure] == pytest.approx(
        curve[best][1], abs=1e-5
    )  # measured anew on the weights that were kept
    assert sum(run["realised"]["query_lang"].values()) == steps * 8


def test_the_last_step_is_measured_too(trains: Trains) -> None:
    held_out = {"held_out": toy_pairs(IDS[:8])}
    patient = EarlyStopping(every=3, patience=9)
    run = trains("m", toy_pairs(IDS[8:]), given=held_out, steps=5, early_stopping=patient)
    assert [step for step, _ in run["early_stopping"]["curve"]] == [3, 5]


def test_checkpoints_by_the_clock_cost_little(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(trainer.time, "monotonic", lambda: now)
    callback = trainer.CheckpointCallback("auto")
    callback.on_train_begin(None, None, None)
    made = []
    for step in range(1, 196):  # of 20 seconds; a checkpoint takes 30
        now += 20
        control = SimpleNamespace(should_save=False, should_training_stop=step == 195)
        callback.on_step_end(None, SimpleNamespace(global_step=step), control)
        if control.should_save:
            made.append(step)
            now += 30
            callback.on_save(None, None, control)
    # The first after 300 s, the others after 40 * 30 s; none at 195, where training ends.
    assert made == [15, 75, 135]
