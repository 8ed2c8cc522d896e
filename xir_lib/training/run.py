"""One training run: InfoNCE over batches that a strategy orders, inside sentence-transformers' own
trainer.

Follows section 2 of arXiv 2408.10536 with the standard in-batch loss: every other passage of the
batch is a negative and the temperature is explicit. During training the vocabulary is trimmed to
the tokens the pairs use; the finished model has the complete vocabulary again and is an ordinary
SentenceTransformer folder with a `run.json` that names everything that made it and a model card. A
run may be killed at any moment: the same call goes on from its last checkpoint to the same weights.
Knows no evaluation task.
"""

import ctypes
import gc
import logging
import math
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from filelock import FileLock

from xir_lib.data.records import PairTable, table_digest
from xir_lib.encoders.precision import choose
from xir_lib.errors import InputError
from xir_lib.paths import named, put_back, replace_folder
from xir_lib.record import difference, environment, is_run, read_run, weights_digest, write_json
from xir_lib.samplers.mixture import MixtureBatchSampler
from xir_lib.samplers.strategies import StrategyBatchSampler
from xir_lib.training.checkpoints import Checkpoints, Every, open_checkpoints, remove_checkpoints
from xir_lib.training.held_out import held_out_loss, held_out_ranking
from xir_lib.training.settings import TrainSettings, batches_of, trained_on

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

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
    """Train `encoder` on `pairs` and write the model with its `run.json` and card to `out`; return
    the run's record.

    A finished `out` of the same encoder (if it is a folder, of the same weights), pairs and
    settings is kept; another run's folder is refused, or replaced if `overwrite` is set. A lock
    beside the folder keeps two processes apart. `held_out` pairs give, before and after, the
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
    _check_held_out(pairs, held_out, settings)
    if isinstance(checkpoint_steps, int) and checkpoint_steps < 1:
        raise InputError(
            f"checkpoint_steps must be at least 1, auto or none, got {checkpoint_steps}"
        )
    drawn_from = trained_on(pairs, settings)
    sampler = batches_of(
        drawn_from, settings
    )  # refuses what cannot be drawn, before anything is written
    out.parent.mkdir(parents=True, exist_ok=True)
    identity = {
        "encoder": encoder,
        "encoder_sha256": weights_digest(Path(encoder).expanduser()),
        "pairs_sha256": table_digest(pairs),
        "held_out_sha256": (
            table_digest(held_out) if held_out else None
        ),  # its pieces are in the trimmed table, and decay
        "settings": settings.model_dump(),
    }
    folder = out.parent / f".{out.name}.checkpoint"
    with FileLock(out.parent / f".{out.name}.lock"):
        put_back(out, is_run)
        _remove_leftovers(out)
        if out.exists():
            run = read_run(out)
            if not (differs := difference(run, identity)):
                log.info("%s is finished already", out)
                remove_checkpoints(folder)
                return run
            if not overwrite:
                raise InputError(
                    f"{out} holds another run ({differs}); remove it or choose another folder"
                )
        model = _open_in_float32(encoder, max_seq_length=settings.max_seq_length)
        chosen = choose(settings.precision, model)
        settings = settings.model_copy(update={"precision": chosen.precision})
        known = identity | {
            "computed_in": chosen.precision
        }  # half a run in each would be neither's
        checkpoints = open_checkpoints(folder, known, every=checkpoint_steps, overwrite=overwrite)
        record = identity | {"environment": environment(*chosen)}
        try:
            run = _train(
                model, drawn_from, sampler, settings, out, held_out, data_name, record, checkpoints
            )
        except BaseException:
            if not any(folder.glob("checkpoint-*")):
                checkpoints.remove()
            raise
        checkpoints.remove()
        return run


def _train(
    model: "SentenceTransformer",
    pairs: PairTable,
    sampler: "Batches",
    settings: TrainSettings,
    out: Path,
    held_out: PairTable | None,
    data_name: str | None,
    record: dict[str, Any],
    checkpoints: Checkpoints,
) -> dict[str, Any]:
    """Train the open `model` in the precision of `settings`, which is no longer "auto", and write
    it.

    Returns its record, which begins with `record`.
    """
    from xir_lib.encoders.encode import prompts_of
    from xir_lib.encoders.open import save_encoder
    from xir_lib.encoders.vocabulary import restore_vocabulary, trim_vocabulary
    from xir_lib.training.card import hub_name, model_card

    started, encoder = time.monotonic(), record["encoder"]
    drawn = sampler.report()
    _warn_of_what_is_left_out(pairs, drawn, settings)
    prompts = (
        (settings.prompts[0], settings.prompts[1])
        if settings.prompts
        else prompts_of(model, encoder)
    )
    model.prompts |= {
        "query": prompts[0],
        "passage": prompts[1],
        "document": prompts[1],
    }  # read by the trimming, saved
    kept = trim_vocabulary(model, _texts(pairs, held_out, negatives=settings.negatives))
    _give_back_memory()
    before = _judge(model, held_out, settings, prompts)
    fitted = _fit(model, pairs, sampler, settings, prompts, held_out, checkpoints, started)
    _give_back_memory()
    after = _judge(model, held_out, settings, prompts)
    full = _open_in_float32(encoder)
    restore_vocabulary(model, full)
    model.max_seq_length = (
        full.max_seq_length
    )  # the shorter one was a setting of the training, not of the model
    with replace_folder(out, is_run) as temporary:
        save_encoder(model, temporary)
        run = {
            **record,
            "base_model": hub_name(encoder),
            "prompts": list(prompts),
            "pairs": {
                "name": data_name,
                **_sizes(pairs),
                "languages": pairs.languages,
                "datasets": {name: _sizes(part) for name, part in pairs.datasets().items() if name},
            },
            "steps_trained": fitted.steps,
            "resumed_at_steps": checkpoints.resumed_at_steps,
            "sampler": drawn,
            "realised": realised_languages(sampler, fitted.steps),
            "loss": fitted.loss,
            "early_stopping": fitted.early_stopping,
            "held_out_loss": {"before": before[0], "after": after[0]} if before and after else None,
            "held_out_ranking": (
                {"before": before[1], "after": after[1]} if before and after else None
            ),
            "vocabulary_trained": len(kept),
            "seconds": round(time.monotonic() - fitted.started, 1),
        }
        write_json(temporary / "run.json", run)
        (temporary / "README.md").write_text(model_card(run, out.name), encoding="utf-8")
    return run


def _sizes(pairs: PairTable) -> dict[str, int]:
    return {"rows": len(pairs), "ids": len(pairs.pair_ids)}


def _warn_of_what_is_left_out(
    pairs: PairTable, drawn: dict[str, Any], settings: TrainSettings
) -> None:
    """Log what no batch can hold, by data set, and hard negatives that this training does not
    read.
    """
    for name, report in drawn.get("datasets", {"": drawn}).items():
        where = f"data set {name}: " if name else ""
        if report.get("never"):
            log.warning(
                "%s%d of %d ids have no pair that this strategy draws",
                where,
                report["never"],
                report["ids"],
            )
        if report.get("unreachable"):
            log.warning(
                "%sno batch comes from %s: too few ids", where, ", ".join(report["unreachable"])
            )
        if short := report.get("without_negatives"):
            log.warning(
                "%s%d passages are not drawn: fewer than %d hard negatives",
                where,
                short,
                settings.negatives,
            )
    if "negatives" in pairs.table.column_names and not settings.negatives:
        log.warning(
            "the pairs have hard negatives that are not read; negatives=1 reads one per pair"
        )


Batches = StrategyBatchSampler | MixtureBatchSampler


class _Fitted(NamedTuple):
    """What a training leaves besides the weights."""

    steps: int
    loss: list[list[float]]  # [step, mean loss since the last entry]
    early_stopping: dict[str, Any] | None
    started: float  # of `time.monotonic`, moved back by what earlier starts had used


def _fit(
    model: "SentenceTransformer",
    pairs: PairTable,
    sampler: Batches,
    settings: TrainSettings,
    prompts: tuple[str, str],
    held_out: PairTable | None,
    checkpoints: Checkpoints,
    started: float,
) -> _Fitted:
    """Train in place with sentence-transformers' trainer, from the newest checkpoint on if there is
    one.
    """
    import torch
    from sentence_transformers import SentenceTransformerTrainingArguments

    from xir_lib.samplers.dataset import PairDataset, batch_sampler_factory
    from xir_lib.training.loss import ParallelQueryLoss, SortedBatchLoss
    from xir_lib.training.trainer import (
        CheckpointCallback,
        EarlyStoppingCallback,
        NotFiniteError,
        RunTrainer,
    )

    stopping = None
    if (stop := settings.early_stopping) and held_out:
        measures = {
            "loss": lambda: fmean(held_out_loss(model, held_out, settings, prompts).values()),
            "multilingual mAP": lambda: held_out_ranking(
                model, held_out, prompts, settings.precision
            )["multilingual mAP"],
        }
        stopping = EarlyStoppingCallback(
            model,
            measures[stop.measure],
            higher_is_better=stop.measure != "loss",
            every=stop.every,
            patience=stop.patience,
        )
    saving = CheckpointCallback(checkpoints.every) if checkpoints.every else None
    every = max(1, settings.steps // 20)
    before = {"query": prompts[0], "passage": prompts[1]}
    before |= {f"negative_{number}": prompts[1] for number in range(1, settings.negatives + 1)}
    scale, again = 1 / settings.temperature, settings.recompute
    loss = SortedBatchLoss(model, scale=scale, recompute=again)
    if settings.query_kl:
        before["parallel_query"] = prompts[0]
        loss = ParallelQueryLoss(model, query_kl=settings.query_kl, scale=scale, recompute=again)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(checkpoints.folder),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=math.ceil(settings.warmup_share * settings.steps),
        bf16=settings.precision == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        seed=settings.seed,
        prompts=before,
        batch_sampler=batch_sampler_factory(sampler),
        logging_steps=every,
        logging_nan_inf_filter=False,
        save_strategy="no",  # the callback chooses the moments
        save_total_limit=1,
        report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=False,
    )
    arguments._n_gpu = min(
        arguments.n_gpu, 1
    )  # of several GPUs one: the sampler's batch is one loss, not a part of it
    trainer = RunTrainer(
        model=model,
        args=arguments,
        train_dataset=PairDataset.from_pairs(
            pairs, settings.negatives, settings.seed if settings.query_kl else None
        ),
        loss=loss,
        callbacks=[callback for callback in (stopping, saving) if callback],
        ids_of_batch=lambda number: _ids_of_batch(sampler, pairs, number),
        started=started,
        stopping=stopping,
    )
    try:
        trainer.train(
            resume_from_checkpoint=str(checkpoints.newest) if checkpoints.newest else None
        )
        if stopping:
            model.load_state_dict(stopping.best)
        if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
            raise NotFiniteError(
                f"weights are not finite after {len(trainer.losses)} steps; lower the learning rate"
            )
    except NotFiniteError:
        checkpoints.remove()  # the same call would come to the same end
        raise
    model.zero_grad(set_to_none=True)
    losses = trainer.losses
    ends = [*range(every, len(losses), every), len(losses)]
    curve = [[end, round(fmean(losses[start:end]), 6)] for start, end in pairwise([0, *ends])]
    stopped = (
        {"curve": [list(entry) for entry in stopping.curve], "best_step": stopping.best_step}
        if stopping
        else None
    )
    return _Fitted(len(losses), curve, stopped, trainer.started)


def _open_in_float32(encoder: str, max_seq_length: int | None = None) -> "SentenceTransformer":
    """Open an encoder with float32 parameters, in which small updates are not rounded away; refuse
    mixed types.

    sentence-transformers gives every module the type of the first, which would round a float32
    layer behind a bfloat16 transformer without a word. The types are therefore looked up in the
    safetensors files.
    """
    from huggingface_hub import try_to_load_from_cache
    from safetensors import safe_open

    from xir_lib.encoders.open import open_encoder

    model = open_encoder(encoder, max_seq_length=max_seq_length)
    folder = Path(encoder).expanduser()
    if not folder.is_dir() and not encoder.startswith(
        "bundled:"
    ):  # that one is made here, in float32
        cached = try_to_load_from_cache(encoder, "modules.json") or try_to_load_from_cache(
            encoder, "config.json"
        )
        folder = Path(cached).parent if isinstance(cached, str) else folder
    types: Counter[str] = Counter()
    for part in (folder, *folder.glob("[0-9]*_*")):
        for path in (*part.glob("model.safetensors"), *part.glob("model-*-of-*.safetensors")):
            with safe_open(path, framework="numpy") as file:
                types.update(file.get_slice(name).get_dtype() for name in file.keys())  # noqa: SIM118
    floats = {name: count for name, count in types.items() if name.startswith(("F", "BF"))}
    if len(floats) > 1:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(floats.items()))
        raise InputError(
            f"encoder {encoder!r} has tensors of mixed types ({counts}); save all of them in one,"
            " best in float32"
        )
    return model.float()


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


def _judge(
    model: "SentenceTransformer",
    held_out: PairTable | None,
    settings: TrainSettings,
    prompts: tuple[str, str],
) -> tuple[dict[str, float], dict[str, Any]] | None:
    if not held_out:
        return None
    return held_out_loss(model, held_out, settings, prompts), held_out_ranking(
        model, held_out, prompts, settings.precision
    )


def _ids_of_batch(sampler: Batches, pairs: PairTable, number: int) -> list[str]:
    rows = [query_row for query_row, _ in next(sampler.batches_from(number))]
    return pairs.table["pair_id"].take(rows).to_pylist()


def realised_languages(sampler: Batches, batches: int) -> dict[str, dict[str, int]]:
    """Count the pairs of the first `batches` batches: by kind of pair, by query and passage
    language, and by data set.
    """
    plan = sampler.describe()
    plan = plan[plan["batch"] < batches]
    kind = np.where(plan["query_lang"] == plan["doc_lang"], "same-language", "cross-language")
    counts = {
        name: {
            str(lang): int(count) for lang, count in plan["pairs"].groupby(plan[name]).sum().items()
        }
        for name in ("query_lang", "doc_lang", "dataset")
        if name in plan
    }
    kinds = {
        name: int(plan["pairs"][kind == name].sum()) for name in ("same-language", "cross-language")
    }
    return {"pairs": kinds, **counts}


def _remove_leftovers(out: Path) -> None:
    """Remove what kills left of `atomic_path` for this model; the caller holds its lock, so nobody
    is writing them.
    """
    stale = re.compile(
        rf"\.+{re.escape(out.name)}(\.checkpoint|\.xir-aside)?(\.[0-9a-f]{{8}}\.tmp)+"
    )
    for path in out.parent.iterdir():
        if stale.fullmatch(path.name):
            shutil.rmtree(path)


def _give_back_memory() -> None:
    """Free what only cycles hold (the trainer and its optimiser), and return it to the system, as
    glibc does not by itself.
    """
    gc.collect()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _texts(*tables: PairTable | None, negatives: int = 0) -> Iterator[str]:
    """Yield every text of the tables, with the first `negatives` of a list, a block of rows at a
    time.
    """
    for table in (part.table for part in tables if part):
        columns = [
            "query",
            "passage",
            *(["negatives"] if negatives and "negatives" in table.column_names else []),
        ]
        for block in table.select(columns).to_batches(max_chunksize=1 << 16):
            for text in chain(block["query"].to_pylist(), block["passage"].to_pylist()):
                if text:
                    yield text
            if "negatives" in columns:
                yield from (
                    text
                    for texts in block["negatives"].to_pylist()
                    for text in (texts or ())[:negatives]
                )
