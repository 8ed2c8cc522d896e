"""sentence-transformers' trainer with small checkpoints, a loss that is watched, and early
stopping.

`RunTrainer` adds to the stock trainer what `training` promises: a checkpoint holds the weights of
the model *as it is in memory* (its vocabulary is trimmed, which the stock way back, opening the
folder as a model, would undo), and a loss that is not finite stops at its step. Two callbacks
choose the moments of checkpoints and of stopping. Optimiser, schedule, random states and the
skipping of batches are the stock trainer's, which reads its own files with `weights_only=True`.
Knows no strategy and no file names but those inside a checkpoint. Imports torch: import it inside
functions.
"""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file, save_model
from sentence_transformers import SentenceTransformerTrainer
from transformers import TrainerCallback

from xir_lib.errors import InputError

SECONDS_BETWEEN = 300.0  # what a kill costs at most, unless checkpoints are dear
# the training between two checkpoints takes at least so many times the writing of one: 2.4 %
TIMES_COST = 40.0

Weights = dict[str, torch.Tensor]


class NotFiniteError(InputError):
    """Training went to NaN or infinity, and would again."""


class CheckpointCallback(TrainerCallback):
    """Ask for a checkpoint every so many steps, or ("auto") by the clock.

    By the clock means after 5 minutes, or after 40 times what the last checkpoint took if that is
    more: the cost stays below 3 % whatever the model and the disk, and a run of a few minutes
    writes none. The moment has no influence on the weights. Where training ends there is none: the
    model itself is written next.
    """

    def __init__(self, every: int | Literal["auto"]) -> None:
        self.every = every
        self.since = time.monotonic()
        self.cost = 0.0  # seconds

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.since = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a checkpoint if it is time."""
        if self.every == "auto":
            due = time.monotonic() - self.since >= max(SECONDS_BETWEEN, TIMES_COST * self.cost)
        else:
            due = state.global_step % self.every == 0
        if due and not control.should_training_stop:
            control.should_save = True
            self.since = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note what the checkpoint took."""
        self.cost = time.monotonic() - self.since
        self.since = time.monotonic()


class EarlyStoppingCallback(TrainerCallback):
    """Measure every `every` steps and after the last, keep the best weights, stop after `patience`
    measurements without a best.

    transformers' callback of this name needs a whole checkpoint per measurement and evaluates with
    its own loop; here `measure` is any function of the present model, and the best weights are kept
    in memory (and in checkpoints). `curve` holds [step, value] pairs; of equal values the first is
    the best.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        measure: Callable[[], float],
        *,
        higher_is_better: bool,
        every: int,
        patience: int,
    ) -> None:
        self.model, self.measure, self.every, self.patience = model, measure, every, patience
        self.sign = 1 if higher_is_better else -1
        self.curve: list[tuple[int, float]] = []
        self.best: Weights = {}

    @property
    def best_step(self) -> int:
        """Return the step of the best value so far."""
        return max(self.curve, key=lambda entry: self.sign * entry[1])[0]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure if it is time, and stop if nothing has improved for too long."""
        step = state.global_step
        if step % self.every and step < state.max_steps:
            return
        self.curve.append((step, self.measure()))
        if self.best_step == step:
            self.best = {
                name: tensor.detach().cpu().clone()
                for name, tensor in self.model.state_dict().items()
            }
        elif sum(at > self.best_step for at, _ in self.curve) >= self.patience:
            control.should_training_stop = True


class RunTrainer(SentenceTransformerTrainer):
    """The stock trainer for one run; `losses` has the loss of every step so far, those before a
    resumption included.

    `ids_of_batch` returns the pair ids of a batch by its number from 0, for the message about a
    loss that is not finite. `started` (of `time.monotonic`) moves back, on resuming, by the seconds
    that the run had taken at the checkpoint. `stopping` is also to be among the `callbacks`, before
    the one for checkpoints, which then hold its latest value.
    """

    def __init__(
        self,
        *,
        ids_of_batch: Callable[[int], list[str]],
        started: float,
        stopping: EarlyStoppingCallback | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.ids_of_batch, self.started, self.stopping = ids_of_batch, started, stopping
        self.losses: list[float] = []

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Do the stock step, and stop before the optimiser's if the loss is not finite."""
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        value = loss.item()
        if not math.isfinite(value):
            ids = ", ".join(self.ids_of_batch(self.state.global_step))
            raise NotFiniteError(
                f"the loss is not finite ({value}) at step {self.state.global_step + 1}, whose"
                f" batch holds the pair ids {ids}; look at their texts, lower the learning rate or"
                " raise the temperature"
            )
        self.losses.append(value)
        return loss

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write the weights in memory and the progress; the stock way writes a whole model with its
        card and a pickle.
        """
        folder = Path(str(output_dir or self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(folder / "model.safetensors"))
        progress: dict[str, Any] = {
            "seconds": time.monotonic() - self.started,
            "losses": self.losses,
        }
        if self.stopping is not None:
            progress["curve"] = self.stopping.curve
            if self.stopping.best:
                save_file(self.stopping.best, folder / "best.safetensors")
        (folder / "progress.json").write_text(json.dumps(progress), encoding="utf-8")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Put a checkpoint's weights into the open model; the stock way opens the folder, and would
        grow a pooler anew.
        """
        folder = Path(resume_from_checkpoint)
        weights = _weights_for(self.model, folder / "model.safetensors")
        self.model.load_state_dict(weights, strict=False)  # tied tensors are there once
        progress = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
        self.started -= progress["seconds"]
        self.losses = progress["losses"]
        if self.stopping is not None:
            self.stopping.curve = [(step, value) for step, value in progress["curve"]]
            if self.stopping.curve:
                self.stopping.best = _weights_for(self.model, folder / "best.safetensors")


def _weights_for(model: torch.nn.Module, path: Path) -> Weights:
    """Read weights; refuse names, shapes and types that are not the model's (loading would convert
    types silently).
    """
    tensors, own = load_file(path), model.state_dict()
    for name, tensor in tensors.items():
        if name not in own or (tensor.shape, tensor.dtype) != (own[name].shape, own[name].dtype):
            expected = (
                f"{own[name].dtype} {tuple(own[name].shape)}" if name in own else "no such tensor"
            )
            raise InputError(
                f"{path}: {name} is {tensor.dtype} {tuple(tensor.shape)}, the model has {expected};"
                f" remove {path.parent.parent} and start again"
            )
    return tensors
