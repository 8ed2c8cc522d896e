"""What a training run takes, before it runs: tokens, FLOPs, GPU hours and memory.

For the paper's own configuration (section 4.1 of arXiv 2408.10536), which is too large to run here.
Reads an encoder's configuration and tokenizer, never its weights: parameters are counted on a model
that is built without memory. Knows no data set, no strategy and nothing about how fast a real
machine is; `UTILISATION` is an assumption.
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field, model_validator

from xir_lib.data.records import PairTable
from xir_lib.data.splits import pair_counts
from xir_lib.encoders.encode import prompts_of
from xir_lib.encoders.open import place_of, why_not
from xir_lib.errors import InputError
from xir_lib.training.settings import TrainSettings, batches_of, trained_on

PEAK = {"A100": 312e12, "H100": 989e12}  # dense bfloat16 FLOP/s; NVIDIA's data sheets, SXM boards
UTILISATION = 0.3  # share of that peak which training reaches, an assumption
OPTIMISER_BYTES = 16  # a parameter's float32 value and gradient and AdamW's two moments
# The paper's encoders, for where there is no network (Conneau et al. 2020, Feng et al. 2022). What
# is not named is as in BERT base, transformers' default.
PUBLISHED: dict[str, dict[str, Any]] = {
    "FacebookAI/xlm-roberta-base": {
        "model_type": "xlm-roberta",
        "vocab_size": 250_002,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
    },
    "sentence-transformers/LaBSE": {"model_type": "bert", "vocab_size": 501_153},
}


def estimate(
    config: Any,
    *,
    batch_size: int,
    steps: int,
    query_tokens: float,
    passage_tokens: float,
    queries: int = 1,
    passages: int = 1,
) -> dict[str, Any]:
    """Return what `steps` steps of `batch_size` pairs take for an encoder of this transformers
    configuration (`open_config`).

    A text of T tokens costs 6 N T + 12 L h T^2 FLOPs, forward and backward: N parameters outside
    the embeddings (Kaplan et al. 2020, section 2.1: 2 N forward, twice that backward, look-ups are
    free), L layers, h wide. The second term is attention without a causal mask (Chowdhery et al.
    2022, appendix B). The mean length stands for every text, so the spread of T is left out, as are
    padding, in-batch scores, modules after pooling and the optimiser. With recomputed activations
    (gradient checkpointing, cached loss) add a third.

    Tokens are means per text, prefix and special tokens included. A pair has two `queries` where
    each is read in a second language; its `passages` are one and the hard negatives. `gpu_hours` is
    by device of `PEAK`, `optimiser_gb` counts 1e9 bytes of weights, gradients and AdamW's moments
    in float32; activations come on top.
    """
    embeddings, other = parameters(config)
    pairs = batch_size * steps
    lengths = [query_tokens] * queries + [passage_tokens] * passages
    width = 12 * config.num_hidden_layers * config.hidden_size
    flops = sum(pairs * (6 * other * length + width * length**2) for length in lengths)
    return {
        "steps": steps,
        "pairs": pairs,
        "tokens": round(pairs * sum(lengths)),
        "parameters": {"embeddings": embeddings, "other": other},
        "flops": flops,
        "utilisation": UTILISATION,
        "gpu_hours": {name: flops / (peak * UTILISATION) / 3600 for name, peak in PEAK.items()},
        "optimiser_gb": (embeddings + other) * OPTIMISER_BYTES / 1e9,
    }


def parameters(config: Any) -> tuple[int, int]:
    """Count an encoder's parameters (in embedding tables, elsewhere).

    The model is built on torch's meta device, which holds shapes alone, so this holds for any
    architecture that transformers knows. A pooler is not counted: `open_encoder` drops it.
    """
    import torch
    from transformers import AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(config)
    tables = [part for part in model.modules() if isinstance(part, torch.nn.Embedding)]
    embeddings = sum(table.weight.numel() for table in tables)
    named = model.named_parameters()
    whole = sum(value.numel() for name, value in named if not name.startswith("pooler."))
    return embeddings, whole - embeddings


def open_config(encoder: str) -> tuple[Any, str]:
    """Return an encoder's transformers configuration, and where it comes from, in words.

    A folder and `bundled:NAME` are read from disk, a hub id from the Hub or its cache
    (`XIR_OFFLINE=1`: the cache alone). Where that fails, the paper's two encoders are known by
    their published sizes.
    """
    from transformers import AutoConfig

    place, local = place_of(encoder)
    try:
        return (
            AutoConfig.from_pretrained(place, local_files_only=local, trust_remote_code=False),
            f"configuration of {encoder}",
        )
    except (OSError, ValueError) as error:
        if sizes := PUBLISHED.get(encoder):
            return (
                AutoConfig.for_model(**sizes),
                f"published sizes of {encoder}, its configuration is not at hand",
            )
        reason = why_not(error, place)
        raise InputError(f"cannot read the configuration of {encoder!r}: {reason}") from error


def token_means(
    encoder: str, pairs: PairTable, max_seq_length: int, prompts: list[str] | None = None
) -> tuple[float, float]:
    """Return the mean tokens per query and per passage of 500 random rows, cut at
    `max_seq_length`.

    Without `prompts` they are those of the encoder's folder, as in training; seed 0, so that a
    table has one answer.
    """
    from sentence_transformers.util import load_file_path
    from transformers import AutoTokenizer

    place, local = place_of(encoder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            place, local_files_only=local, trust_remote_code=False
        )
        saved = load_file_path(place, "config_sentence_transformers.json", local_files_only=local)
    except (OSError, ValueError) as error:
        reason = why_not(error, place)
        raise InputError(f"cannot read the tokenizer of {encoder!r}: {reason}") from error
    told = json.loads(Path(saved).read_text(encoding="utf-8")) if saved else {}
    unopened: Any = SimpleNamespace(
        prompts=told.get("prompts", {}), default_prompt_name=told.get("default_prompt_name")
    )
    query, passage = prompts or prompts_of(unopened, encoder)

    def mean(column: str, prompt: str) -> float:
        texts = pairs.table[column].drop_null()
        rows = np.random.default_rng(0).permutation(len(texts))[:500]
        chosen = [prompt + text for text in texts.take(rows).to_pylist()]
        ids = tokenizer(chosen, truncation=True, max_length=max_seq_length)["input_ids"]
        return float(np.mean([len(row) for row in ids]))

    return mean("query", query), mean("passage", passage)


class MixedSet(BaseModel, extra="forbid", frozen=True):
    """One data set of a mixture.

    >>> MixedSet(name="mMARCO", pairs=39_780_811, languages=["en", "de"]).pairs
    39780811
    """

    name: str
    pairs: int = Field(gt=0)  # per language
    languages: list[str] = Field(min_length=1)


class Mixture(BaseModel, extra="forbid", frozen=True):
    """The paper's training data by its sizes. Only mMARCO has a loader here, so this can be
    estimated, not trained on.

    >>> sizes = [MixedSet(name=name, pairs=10, languages=["en"]) for name in ("one", "other")]
    >>> Mixture(source="mixture", datasets=sizes, query_tokens=12, passage_tokens=80).pairs
    20
    """

    source: Literal["mixture"]
    datasets: list[MixedSet] = Field(min_length=2)
    query_tokens: float = Field(gt=0)  # mean per query, prefix and special tokens included
    passage_tokens: float = Field(gt=0)

    @model_validator(mode="after")
    def _distinct(self) -> "Mixture":
        names = [dataset.name for dataset in self.datasets]
        if len(set(names)) < len(names):
            raise InputError(f"datasets holds a name twice: {', '.join(names)}; name each once")
        return self

    @property
    def pairs(self) -> int:
        """Return the pairs of all data sets, each counted once for all its languages."""
        return sum(dataset.pairs for dataset in self.datasets)


def preview(
    encoder: str,
    settings: TrainSettings,
    data: PairTable | Mixture,
    held_out: PairTable | None = None,
) -> dict[str, Any]:
    """Return what `xir train` would do, as JSON values: settings, sizes of the data, the sampler's
    report and the cost.

    Of pairs that are here the tokens are measured on 500 rows; a mixture states them. The cost is
    that of the run, of 1,000 steps and of an epoch, each id once. No weights are read and nothing
    is written.
    """
    config, source = open_config(encoder)
    sampler = None
    if isinstance(data, Mixture):
        ids, tokens = data.pairs, (data.query_tokens, data.passage_tokens)
        sizes = [
            {**member.model_dump(), "share_of_batches": member.pairs / data.pairs}
            for member in data.datasets
        ]
    else:
        data = trained_on(data, settings)
        sampler = batches_of(data, settings).report()
        ids = len(data.pair_ids)
        tokens = token_means(encoder, data, settings.max_seq_length, settings.prompts)
        several = {f"of them {name}": table for name, table in data.datasets().items() if name}
        tables = {"train": data, **several, **({"held out": held_out} if held_out else {})}
        sizes = [{"name": name, **pair_counts(table)} for name, table in tables.items()]
    steps = {
        "this run": settings.steps,
        "1,000 steps": 1000,
        "one epoch": max(1, ids // settings.batch_size),
    }
    lengths: dict[str, Any] = dict(zip(("query_tokens", "passage_tokens"), tokens, strict=True))
    read = {"queries": 2 if settings.query_kl else 1, "passages": 1 + settings.negatives, **lengths}
    return {
        "encoder": encoder,
        "architecture": source,
        "settings": settings.model_dump(),
        "data": sizes,
        "sampler": sampler,
        "tokens": {**lengths, "measured": not isinstance(data, Mixture)},
        "cost": {
            name: estimate(config, batch_size=settings.batch_size, steps=count, **read)
            for name, count in steps.items()
        },
    }
