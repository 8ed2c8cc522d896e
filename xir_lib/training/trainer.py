"""sentence-transformers' trainer with small checkpoints, a watched loss and held-out stopping.

`RunTrainer` adds to the stock trainer what `run` promises. A checkpoint holds the weights of the
model *as it is in memory*: its vocabulary is trimmed, which the stock way back, opening the folder
as a model, would undo. A loss that is not finite stops at its step. Early stopping is
transformers' own callback; only the measurement is ours, and the best weights stay in memory, since
the stock way keeps a whole checkpoint, optimiser included, for every new best. Optimiser, schedule,
random states and the skipping of batches are the stock trainer's. Knows no strategy and no file
names but those inside a checkpoint. Imports torch: import it inside functions.
"""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from sentence_transformers import (
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from transformers import EarlyStoppingCallback, TrainerCallback

from xir_lib.samplers.dataset import batch_sampler_factory
from xir_lib.training.checkpoints import Every, NotFiniteError
from xir_lib.training.settings import Batches, TrainSettings

SECONDS_BETWEEN = 300.0  # what a kill costs at most, unless checkpoints are dear
# the training between two checkpoints takes at least so many times the writing of one: 2.4 %
TIMES_COST = 40.0


class _StopWithoutNewBest(EarlyStoppingCallback):
    """transformers' callback, without its warning that nobody keeps the best weights."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Say nothing: `RunTrainer` keeps them."""


class CheckpointCallback(TrainerCallback):
    """Ask for a checkpoint every so many steps, or ("auto") by the clock.

    By the clock means after 5 minutes, or after 40 times what the last checkpoint took if that is
    more: the cost stays below 3 % whatever the model and the disk, and a run of a few minutes
    writes none. The moment has no influence on the weights.

    >>> from types import SimpleNamespace as Now
    >>> control = Now(should_save=False, should_training_stop=False)
    >>> CheckpointCallback(every=4).on_step_end(None, Now(global_step=8), control)
    >>> control.should_save
    True
    """

    def __init__(self, every: Every) -> None:
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
        if due and not control.should_training_stop:  # else the model itself is written next
            control.should_save = True
            self.since = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note what the checkpoint took, and a measurement in the same step with it."""
        self.cost = time.monotonic() - self.since
        self.since = time.monotonic()


class RunTrainer(SentenceTransformerTrainer):
    """The stock trainer for one run.

    `measure` judges the present model, where the arguments say that the trainer evaluates.
    `ids_of_batch` returns the pair ids of a batch by its number from 0, for the message about a
    loss that is not finite. `started` (of `time.monotonic`) moves back, on resuming, by the seconds
    that the run had taken at the checkpoint.

    `losses` has the loss of every step so far, those before a resumption included, `curve` the
    [step, value] of every measurement and `best` the weights at the best of them, the first of
    equals::

        trainer = RunTrainer(model=model, args=arguments_for(...), train_dataset=pairs, loss=loss,
                             measure=measure, ids_of_batch=ids, started=time.monotonic())
        trainer.train(resume_from_checkpoint=newest)
    """

    def __init__(
        self,
        *,
        measure: Callable[[], float],
        ids_of_batch: Callable[[int], list[str]],
        started: float,
        **arguments: Any,
    ) -> None:
        # An empty list of evaluators is enough for a trainer that is to evaluate and has no data.
        super().__init__(evaluator=[], **arguments)
        self.measure, self.ids_of_batch, self.started = measure, ids_of_batch, started
        self.losses: list[float] = []
        self.best: dict[str, torch.Tensor] = {}

    @property
    def curve(self) -> list[list[Any]]:
        """Return [step, value] of every held-out measurement; the trainer's state keeps them."""
        log = self.state.log_history
        return [[line["step"], line["eval_held_out"]] for line in log if "eval_held_out" in line]

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

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure; the stock loop would start a data loader, which draws from the random state."""
        metrics = {"eval_held_out": self.measure()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Compare as the stock trainer does, and keep the weights of a new best."""
        better: bool = super()._determine_best_metric(metrics, trial)
        if better:
            self.state.best_global_step = self.state.global_step
            own = self.model.state_dict()
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in own.items()}
        return better

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint, but none of a run that has just stopped: it would train on."""
        if not self.control.should_training_stop:
            super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write the weights in memory and the progress, not a whole model with its card."""
        folder = Path(str(output_dir or self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(folder / "model.safetensors"))
        if self.best:
            save_file(self.best, folder / "best.safetensors")
        progress = {"seconds": time.monotonic() - self.started, "losses": self.losses}
        (folder / "progress.json").write_text(json.dumps(progress), encoding="utf-8")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Put the weights into the open model; the stock way would grow a pooler anew."""
        folder = Path(resume_from_checkpoint)
        load_model(self.model, folder / "model.safetensors")
        if (best := folder / "best.safetensors").exists():
            self.best = load_file(best)
        progress = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
        self.started -= progress["seconds"]
        self.losses = progress["losses"]


def arguments_for(
    settings: TrainSettings, prompts: tuple[str, str], sampler: Batches, folder: Path
) -> SentenceTransformerTrainingArguments:
    """Return the stock trainer's arguments; `folder` is that of the checkpoints."""
    columns = {"query": prompts[0], "passage": prompts[1]}
    columns |= {f"negative_{number + 1}": prompts[1] for number in range(settings.negatives)}
    if settings.query_kl:
        columns["parallel_query"] = prompts[0]
    stopping: dict[str, Any] = {}
    if stop := settings.early_stopping:
        stopping = {
            "eval_strategy": "steps",
            "eval_steps": stop.every,
            "metric_for_best_model": "held_out",
            "greater_is_better": stop.measure != "loss",
            "restore_callback_states_from_checkpoint": True,  # its patience goes on
        }
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=math.ceil(settings.warmup_share * settings.steps),
        bf16=settings.precision == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        seed=settings.seed,
        prompts=columns,
        batch_sampler=batch_sampler_factory(sampler),
        logging_steps=max(1, settings.steps // 20),
        logging_nan_inf_filter=False,
        save_strategy="no",  # the callback chooses the moments
        save_total_limit=1,
        report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=False,
        **stopping,
    )
    # Of several GPUs one: the sampler's batch is one loss, not a part of it.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def callbacks_for(settings: TrainSettings, every: Every) -> list[TrainerCallback]:
    """Return the callbacks for early stopping and for checkpoints, where they are asked for."""
    stop = settings.early_stopping
    stopping = [_StopWithoutNewBest(stop.patience)] if stop else []
    return [*stopping, *([CheckpointCallback(every)] if every else [])]
