"""One training run: InfoNCE over batches that a strategy orders, inside sentence-transformers' own trainer.

Follows section 2 of arXiv 2408.10536 with the standard in-batch loss: every other passage of the batch is a
negative and the temperature is explicit. During training the vocabulary is trimmed to the tokens the pairs
use; the finished model has the complete vocabulary again and is an ordinary SentenceTransformer folder with a
`run.json` that names everything that made it. Knows no evaluation task.
"""

import ctypes
import gc
import hashlib
import json
import logging
import math
import os
import platform
import re
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, field_validator

from xir_lib.corpora.records import PairTable
from xir_lib.errors import InputError
from xir_lib.paths import atomic_path
from xir_lib.samplers import PairIndex, Strategy, StrategyBatchSampler

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

log = logging.getLogger(__name__)


class TrainSettings(BaseModel):
    """What decides the weights, besides the encoder and the pairs. Unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    strategy: str = Field(description="x-x-mono, x-x, x-y or hybrid-ALPHA")
    seed: int = 0
    steps: int = Field(gt=0, description="optimiser steps")
    batch_size: int = Field(gt=1, description="pairs per batch")
    learning_rate: float = Field(gt=0)
    temperature: float = Field(gt=0, description="cosines are divided by it before the softmax")
    warmup_share: float = Field(0.1, ge=0, le=1, description="share of the steps with a rising learning rate")
    weight_decay: float = Field(0.01, ge=0)
    max_seq_length: int = Field(gt=3, description="tokens kept of a query or passage, prefix included")

    @field_validator("strategy")
    @classmethod
    def _known_strategy(cls, value: str) -> str:
        parse_strategy(value)
        return value


def parse_strategy(name: str) -> tuple[Strategy, float]:
    """Return the batch strategy and the alpha that a run's name stands for: `hybrid-0.5` -> (hybrid, 0.5).

    Alpha has no meaning for the pure strategies and is 1 for them.
    """
    pure = [strategy.value for strategy in Strategy if strategy is not Strategy.HYBRID]
    if name in pure:
        return Strategy(name), 1.0
    if match := re.fullmatch(r"hybrid-(\d*\.?\d+)", name):
        if not 0 <= (alpha := float(match[1])) <= 1:
            raise InputError(f"alpha must be in [0, 1], got {match[1]} in strategy {name!r}")
        return Strategy.HYBRID, alpha
    raise InputError(f"unknown strategy {name!r}; use {', '.join(pure)} or hybrid-ALPHA such as hybrid-0.5")


def make_sampler(index: PairIndex, settings: TrainSettings) -> StrategyBatchSampler:
    """Return the sampler of a run: one epoch of exactly `steps` batches."""
    strategy, alpha = parse_strategy(settings.strategy)
    return StrategyBatchSampler(
        index,
        strategy=strategy,
        batch_size=settings.batch_size,
        alpha=alpha,
        seed=settings.seed,
        num_batches=settings.steps,
    )


def train(
    encoder: str,
    pairs: PairTable,
    settings: TrainSettings,
    out: Path,
    *,
    held_out: PairTable | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train `encoder` on `pairs` and write the model with its `run.json` to `out`; return the run's record.

    A finished `out` of the same encoder, pairs and settings is kept; another run's folder is refused, or replaced
    if `overwrite` is set. A lock beside the folder keeps two processes apart. `held_out` pairs give the in-batch
    loss before and after, one figure for same-language and one for cross-language batches.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    identity = {"encoder": encoder, "pairs_sha256": table_digest(pairs), "settings": settings.model_dump()}
    with FileLock(out.parent / f".{out.name}.lock"):
        if out.exists():
            run = read_run(out)
            if {key: run.get(key) for key in identity} == identity:
                log.info("%s is finished already", out)
                return run
            if not overwrite:
                raise InputError(f"{out} holds another run ({run.get('settings')}); remove it or choose another folder")
            shutil.rmtree(out)
        return _train(encoder, pairs, settings, out, held_out, identity)


def _train(
    encoder: str, pairs: PairTable, settings: TrainSettings, out: Path, held_out: PairTable | None, identity: dict[str, Any]
) -> dict[str, Any]:
    from xir_lib.encoders import open_encoder, prompts_of, restore_vocabulary, save_encoder, trim_vocabulary

    started = time.monotonic()
    sampler = make_sampler(PairIndex.from_table(pairs), settings)
    model = open_encoder(encoder, max_seq_length=settings.max_seq_length)
    prompts = prompts_of(model, encoder)
    kept = trim_vocabulary(model, _texts(pairs, held_out))
    _give_back_memory()
    before = held_out_loss(model, held_out, settings, prompts) if held_out else None
    curve = _fit(model, pairs, sampler, settings, prompts)
    _give_back_memory()
    after = held_out_loss(model, held_out, settings, prompts) if held_out else None
    full = open_encoder(encoder)
    restore_vocabulary(model, full)
    model.max_seq_length = full.max_seq_length  # the shorter one was a setting of the training, not of the model
    with atomic_path(out) as temporary:
        save_encoder(model, temporary)
        run = {
            **identity,
            "pairs": {"rows": len(pairs), "ids": len(pairs.pair_ids), "languages": pairs.languages},
            "realised": realised_languages(sampler, pairs),
            "loss": curve,
            "held_out_loss": {"before": before, "after": after} if held_out else None,
            "vocabulary_trained": len(kept),
            "seconds": round(time.monotonic() - started, 1),
            "environment": environment(),
        }
        write_json(temporary / "run.json", run)
    return run


def _fit(
    model: "SentenceTransformer",
    pairs: PairTable,
    sampler: StrategyBatchSampler,
    settings: TrainSettings,
    prompts: tuple[str, str],
) -> list[list[float]]:
    """Train in place with sentence-transformers' trainer; return [step, mean loss since the last entry] pairs."""
    import torch
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

    from xir_lib.encoders import computes_in_bfloat16
    from xir_lib.losses import SortedBatchLoss
    from xir_lib.training_data import PairDataset, batch_sampler_factory

    with TemporaryDirectory() as scratch:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=scratch,
            max_steps=settings.steps,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            warmup_steps=math.ceil(settings.warmup_share * settings.steps),
            bf16=computes_in_bfloat16(model.device.type),
            use_cpu=not torch.cuda.is_available(),
            seed=settings.seed,
            prompts=dict(zip(("query", "passage"), prompts, strict=True)),
            batch_sampler=batch_sampler_factory(sampler),
            logging_steps=max(1, settings.steps // 20),
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to="none",
            dataloader_pin_memory=torch.cuda.is_available(),
            disable_tqdm=False,
        )
        trainer = SentenceTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=PairDataset.from_pairs(pairs),
            loss=SortedBatchLoss(model, scale=1 / settings.temperature),
        )
        trainer.train()
    model.zero_grad(set_to_none=True)
    curve = [[entry["step"], entry["loss"]] for entry in trainer.state.log_history if "loss" in entry]
    for step, loss in curve:
        if not math.isfinite(loss):
            raise InputError(f"the loss is not finite by step {step}; lower the learning rate or raise the temperature")
    return curve


def held_out_loss(
    model: "SentenceTransformer", pairs: PairTable, settings: TrainSettings, prompts: tuple[str, str], batches: int = 8
) -> dict[str, float]:
    """Return the mean InfoNCE loss on fixed held-out batches, per kind of batch, at the run's temperature.

    The batches depend on the pairs alone (seed 0), so runs can be compared; the batch is at most 16 pairs, as
    held-out sets are small.
    """
    from xir_lib.encoders import encode

    index = PairIndex.from_table(pairs)
    losses = {}
    for strategy in (Strategy.X_X_MONO, Strategy.X_Y):
        sampler = StrategyBatchSampler(
            index, strategy=strategy, batch_size=min(16, settings.batch_size), alpha=0.5, seed=0, num_batches=batches
        )
        rows = np.array(list(sampler))  # (batches, batch, 2)
        queries = encode(model, pairs.table["query"].take(rows[..., 0].ravel()), prompt=prompts[0])
        passages = encode(model, pairs.table["passage"].take(rows[..., 1].ravel()), prompt=prompts[1])
        shape = (*rows.shape[:2], -1)
        logits = np.einsum("bqd,bpd->bqp", queries.reshape(shape), passages.reshape(shape)) / settings.temperature
        logits -= logits.max(axis=2, keepdims=True)
        own = np.diagonal(logits, axis1=1, axis2=2)
        losses[strategy.value] = round(float((np.log(np.exp(logits).sum(axis=2)) - own).mean()), 6)
    return losses


def realised_languages(sampler: StrategyBatchSampler, pairs: PairTable) -> dict[str, dict[str, int]]:
    """Count the pairs that the sampler hands out: by kind of batch, by query language, by passage language."""
    langs = pairs.table["lang"].to_numpy(zero_copy_only=False)
    rows = np.array(list(sampler))  # (batches, batch, 2)
    names = {"query_lang": langs[rows[..., 0].ravel()], "doc_lang": langs[rows[..., 1].ravel()]}
    counts = {
        key: dict(zip(*(part.tolist() for part in np.unique(value, return_counts=True)), strict=True))
        for key, value in names.items()
    }
    same = int((names["query_lang"] == names["doc_lang"]).sum())
    return {"pairs": {"same-language": same, "cross-language": rows.shape[0] * rows.shape[1] - same}, **counts}


def read_run(folder: Path) -> dict[str, Any]:
    """Return the `run.json` of a model folder; a folder without one is refused."""
    path = Path(folder) / "run.json"
    if not path.exists():
        raise InputError(f"{folder} has no run.json, so it is not a run of xir; remove it or choose another folder")
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON with a final newline, atomically; NaN is refused."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def table_digest(pairs: PairTable) -> str:
    """Return the sha256 of the table's content, whatever its chunks."""
    digest = hashlib.sha256()
    for column in pairs.table.column_names:
        for value in pairs.table[column].to_pylist():
            digest.update(b"\0" if value is None else value.encode() + b"\1")
    return digest.hexdigest()


def environment() -> dict[str, Any]:
    """Return device, threads and the versions of what computes, for `run.json` and `metrics.json`."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else f"CPU, {os.cpu_count()} cores ({platform.machine()})",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("xir-lib", "torch", "sentence-transformers", "transformers", "numpy")},
    }


def _give_back_memory() -> None:
    """Free what only cycles hold (the trainer and its optimiser), and return it to the system, as glibc does not by itself.

    Measured on the demo: 2.3 GB before, 1.1 GB after the training steps.
    """
    gc.collect()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _texts(*tables: PairTable | None) -> list[str]:
    return [
        text for table in tables if table for column in ("query", "passage") for text in table.table[column].to_pylist() if text
    ]
