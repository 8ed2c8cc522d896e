"""One training run: InfoNCE over batches that a strategy orders, inside sentence-transformers' own
trainer.

Follows section 2 of arXiv 2408.10536 with the standard in-batch loss: every other passage of the
batch is a negative and the temperature is explicit. During training the vocabulary is trimmed to
the tokens the pairs use; the finished model has the complete vocabulary again and is an ordinary
SentenceTransformer folder with a `run.json` that names everything that made it and a model card. A
run may be killed at any moment: the same call goes on from its last checkpoint to the same weights.
`train` keeps runs apart; a `Run` is the training itself. Knows no evaluation task.
"""

import ctypes
import gc
import logging
import re
import shutil
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from filelock import FileLock

from xir_lib.data.records import PairTable, table_digest
from xir_lib.encoders.precision import choose
from xir_lib.errors import InputError
from xir_lib.paths import named, put_back, replace_folder
from xir_lib.record import difference, environment, is_run, read_run, weights_digest, write_json
from xir_lib.training.card import hub_name, model_card
from xir_lib.training.checkpoints import (
    Checkpoints,
    Every,
    NotFiniteError,
    open_checkpoints,
    remove_checkpoints,
)
from xir_lib.training.float32 import open_in_float32
from xir_lib.training.held_out import held_out_loss, held_out_ranking
from xir_lib.training.settings import (
    TrainSettings,
    batches_of,
    realised_languages,
    texts_of,
    trained_on,
)

log = logging.getLogger(__name__)


def train(
    encoder: str,
    pairs: PairTable,
    settings: TrainSettings,
    out: Path,
    *,
    held_out: PairTable | None = None,
    data_name: str | None = None,
    overwrite: bool = False,
    checkpoint_steps: Every = "auto",
) -> dict[str, Any]:
    """Train `encoder` on `pairs`, write the model with its `run.json` and card to `out`, and return
    the run's record.

    A finished `out` of the same encoder (if it is a folder, of the same weights), pairs, held-out
    pairs and settings is kept; another run's folder is refused, or replaced if `overwrite` is set.
    A lock beside the folder keeps two processes apart. `held_out` pairs give, before and after, the
    in-batch loss (one figure for same-language and one for cross-language batches) and a small
    ranking. `data_name` is what the card calls the pairs.

    While it trains, checkpoints are in `.NAME.checkpoint` beside `out`, every `checkpoint_steps`
    steps; "auto" is by the clock (`trainer.CheckpointCallback`: 5 minutes or more, below 3 % of the
    time), None is never. A run that was killed goes on from there when the same call is made again,
    with weights equal bit for bit on the CPU, given the same library versions and number of
    threads; `run.json` names the steps. Checkpoints of another run are refused or, with
    `overwrite`, removed; those of a finished one, or of one whose loss was not finite, are removed.
    With `overwrite` another run's model stays in `out` until the new one, whole, takes its place.

    Parameters are trained in float32 (a bfloat16 encoder is widened, which loses nothing); an
    encoder of mixed types is refused. All refusals are `InputError`s of one line.
    """
    out = named(out)
    for path in (out, *out.parents):
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file; name a folder for the model")
    if isinstance(checkpoint_steps, int) and checkpoint_steps < 1:
        raise InputError(
            f"checkpoint_steps must be at least 1, auto or none, got {checkpoint_steps}"
        )
    run = Run(encoder, pairs, settings, held_out)
    folder = out.parent / f".{out.name}.checkpoint"
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(out.parent / f".{out.name}.lock"):
        # 1. Put in order what kills left, and look whether the run is finished already.
        put_back(out, is_run)
        _remove_leftovers(out)
        if (finished := _finished(out, run.identity, overwrite)) is not None:
            remove_checkpoints(folder, of=run.identity)
            return finished
        # 2. Half a run in float32 and half in bfloat16 would be neither's: the precision counts.
        run.open()
        known = run.identity | {"computed_in": run.settings.precision}
        opened = open_checkpoints(folder, known, every=checkpoint_steps, overwrite=overwrite)
        # 3. Train.
        with opened as checkpoints:
            run.prepare()
            run.fit(checkpoints)
            run.judge()
            return run.write(out, data_name, checkpoints.resumed_at_steps)


class Run:
    """A training: `open`, `prepare`, `fit`, `judge` and `write`, in this order; `train` calls them.

    Making one refuses pairs that cannot be drawn from, and opens nothing::

        run = Run("bundled:multilingual-e5-small", pairs, settings)
        run.open()
        run.prepare()
        with open_checkpoints(folder, run.identity, every=None) as checkpoints:
            run.fit(checkpoints)
            run.judge()
            record = run.write(Path("model"))
    """

    def __init__(
        self,
        encoder: str,
        pairs: PairTable,
        settings: TrainSettings,
        held_out: PairTable | None = None,
    ) -> None:
        _check_held_out(pairs, held_out, settings)
        self.encoder, self.settings, self.held_out = encoder, settings, held_out
        self.pairs = trained_on(pairs, settings)
        self.sampler = batches_of(self.pairs, settings)
        self.judged: list[dict[str, Any]] = []  # loss and ranking, before and after
        self.early_stopping: dict[str, Any] | None = None
        self.identity = {
            "encoder": encoder,
            "encoder_sha256": weights_digest(Path(encoder).expanduser()),
            "pairs_sha256": table_digest(pairs),
            # its pieces are in the trimmed table, and decay
            "held_out_sha256": table_digest(held_out) if held_out else None,
            "settings": settings.model_dump(),
        }

    def open(self) -> None:
        """Open the encoder, and settle the precision where it was left to the machine."""
        self.model = open_in_float32(self.encoder, max_seq_length=self.settings.max_seq_length)
        chosen = choose(self.settings.precision, self.model)
        self.settings = self.settings.model_copy(update={"precision": chosen.precision})
        self.environment = environment(*chosen)

    def prepare(self) -> None:
        """Say what no batch holds, set the prompts, trim the vocabulary, judge the untrained."""
        from xir_lib.encoders.encode import prompts_of
        from xir_lib.encoders.vocabulary import trim_vocabulary

        self.started = time.monotonic()  # moves back by what earlier starts had used
        self.drawn = self.sampler.report()
        _warn_of_what_is_left_out(self.pairs, self.drawn, self.settings)
        query, passage = self.settings.prompts or prompts_of(self.model, self.encoder)
        self.prompts = query, passage
        # The trimming reads them with the texts, and they are saved with the model.
        self.model.prompts |= {"query": query, "passage": passage, "document": passage}
        texts = texts_of(self.pairs, self.held_out, negatives=self.settings.negatives)
        self.vocabulary = len(trim_vocabulary(self.model, texts))
        self.judge()

    def fit(self, checkpoints: Checkpoints) -> None:
        """Train in place, from the newest checkpoint on if there is one."""
        import torch

        from xir_lib.samplers.dataset import PairDataset
        from xir_lib.training.loss import loss_for
        from xir_lib.training.trainer import RunTrainer, arguments_for, callbacks_for

        settings, newest = self.settings, checkpoints.newest
        parallel_seed = settings.seed if settings.query_kl else None
        trainer = RunTrainer(
            model=self.model,
            args=arguments_for(settings, self.prompts, self.sampler, checkpoints.folder),
            train_dataset=PairDataset.from_pairs(self.pairs, settings.negatives, parallel_seed),
            loss=loss_for(self.model, settings),
            callbacks=callbacks_for(settings, checkpoints.every),
            measure=self._measure,
            ids_of_batch=self._ids_of_batch,
            started=self.started,
        )
        trainer.train(resume_from_checkpoint=str(newest) if newest else None)
        if trainer.best:
            self.model.load_state_dict(trainer.best)
            best = trainer.state.best_global_step
            self.early_stopping = {"curve": trainer.curve, "best_step": best}
        self.losses, self.started = trainer.losses, trainer.started
        if not all(torch.isfinite(parameter).all() for parameter in self.model.parameters()):
            raise NotFiniteError(
                f"weights are not finite after {len(self.losses)} steps; lower the learning rate"
            )
        self.model.zero_grad(set_to_none=True)

    def judge(self) -> None:
        """Note loss and ranking of the held-out pairs, if there are any, with the present model."""
        _give_back_memory()
        if self.held_out:
            self.judged.append({what: self._judged(what) for what in ("loss", "ranking")})

    def write(
        self, out: Path, data_name: str | None = None, resumed_at_steps: Sequence[int] = ()
    ) -> dict[str, Any]:
        """Give the model its whole vocabulary back, write it with its record and card, and return
        the record.
        """
        from xir_lib.encoders.open import save_encoder
        from xir_lib.encoders.vocabulary import restore_vocabulary

        full = open_in_float32(self.encoder)
        restore_vocabulary(self.model, full)
        # The shorter length was a setting of the training, not of the model.
        self.model.max_seq_length = full.max_seq_length
        with replace_folder(out, is_run) as temporary:
            save_encoder(self.model, temporary)
            run = self._record(data_name, resumed_at_steps)
            write_json(temporary / "run.json", run)
            (temporary / "README.md").write_text(model_card(run, out.name), encoding="utf-8")
        return run

    def _record(self, data_name: str | None, resumed_at_steps: Sequence[int]) -> dict[str, Any]:
        """Return what `run.json` holds."""
        steps, datasets = len(self.losses), self.pairs.datasets()
        every = max(1, self.settings.steps // 20)
        ends = [0, *range(every, steps, every), steps]
        return {
            **self.identity,
            "environment": self.environment,
            "base_model": hub_name(self.encoder),
            "prompts": list(self.prompts),
            "pairs": {
                "name": data_name,
                **_sizes(self.pairs),
                "languages": self.pairs.languages,
                "datasets": {name: _sizes(part) for name, part in datasets.items() if name},
            },
            "steps_trained": steps,
            "resumed_at_steps": list(resumed_at_steps),
            "sampler": self.drawn,
            "realised": realised_languages(self.sampler, steps),
            # [step, mean loss since the last entry]
            "loss": [[end, round(fmean(self.losses[at:end]), 6)] for at, end in pairwise(ends)],
            "early_stopping": self.early_stopping,
            "held_out_loss": self._before_and_after("loss"),
            "held_out_ranking": self._before_and_after("ranking"),
            "vocabulary_trained": self.vocabulary,
            "seconds": round(time.monotonic() - self.started, 1),
        }

    def _before_and_after(self, what: str) -> dict[str, Any] | None:
        before_and_after = zip(("before", "after"), self.judged, strict=False)
        return {when: found[what] for when, found in before_and_after} or None

    def _judged(self, what: str) -> dict[str, Any]:
        """Return the held-out "loss" or "ranking" of the present model."""
        assert self.held_out is not None
        if what == "loss":
            return held_out_loss(self.model, self.held_out, self.settings, self.prompts)
        precision = self.settings.precision
        return held_out_ranking(self.model, self.held_out, self.prompts, precision)

    def _measure(self) -> float:
        """Return what early stopping watches."""
        stop = self.settings.early_stopping
        if stop and stop.measure == "loss":
            return fmean(self._judged("loss").values())
        return float(self._judged("ranking")["multilingual mAP"])

    def _ids_of_batch(self, number: int) -> list[str]:
        rows = [query_row for query_row, _ in next(self.sampler.batches_from(number))]
        return self.pairs.table["pair_id"].take(rows).to_pylist()


def _check_held_out(pairs: PairTable, held_out: PairTable | None, settings: TrainSettings) -> None:
    if settings.early_stopping and not held_out:
        raise InputError(
            "early_stopping needs held-out pairs; give held_out or leave early_stopping out"
        )
    if held_out and (unknown := sorted(set(held_out.languages) - set(pairs.languages))):
        raise InputError(
            f"held_out has the languages {', '.join(unknown)}, which the pairs lack; they have"
            f" {', '.join(pairs.languages)}"
        )


def _finished(out: Path, identity: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """Return the record of this run if `out` holds it already; refuse another run's folder."""
    if not out.exists():
        return None
    run = read_run(out)
    if not (differs := difference(run, identity)):
        log.info("%s is finished already", out)
        return run
    if not overwrite:
        raise InputError(f"{out} holds another run ({differs}); remove it or choose another folder")
    return None


def _remove_leftovers(out: Path) -> None:
    """Remove what kills left of `atomic_path` for this model; the caller holds its lock."""
    aside = rf"{re.escape(out.name)}(\.checkpoint|\.xir-aside)?"
    for path in out.parent.iterdir():
        if re.fullmatch(rf"\.+{aside}(\.[0-9a-f]{{8}}\.tmp)+", path.name):
            shutil.rmtree(path)


def _warn_of_what_is_left_out(
    pairs: PairTable, drawn: dict[str, Any], settings: TrainSettings
) -> None:
    """Log what no batch can hold, by data set, and hard negatives that are not read."""
    for name, report in drawn.get("datasets", {"": drawn}).items():
        where = f"data set {name}: " if name else ""
        if never := report.get("never"):
            of = report["ids"]
            log.warning("%s%d of %d ids have no pair that this strategy draws", where, never, of)
        if languages := report.get("unreachable"):
            log.warning("%sno batch comes from %s: too few ids", where, ", ".join(languages))
        if short := report.get("without_negatives"):
            few = f"fewer than {settings.negatives} hard negatives"
            log.warning("%s%d passages are not drawn: %s", where, short, few)
    if "negatives" in pairs.table.column_names and not settings.negatives:
        log.warning(
            "the pairs have hard negatives that are not read; negatives=1 reads one per pair"
        )


def _give_back_memory() -> None:
    """Free what only cycles hold (the trainer and its optimiser), and return it to the system, as
    glibc does not by itself.
    """
    gc.collect()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _sizes(pairs: PairTable) -> dict[str, int]:
    return {"rows": len(pairs), "ids": len(pairs.pair_ids)}
