"""The settings of a training run, what a strategy's name stands for, and the sampler that both
give.

Settings decide the weights, so they are part of a run's identity. Knows no model and no trainer.
"""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from xir_lib.data.records import PairTable
from xir_lib.data.splits import draw_ids, one_language_per_id
from xir_lib.encoders.precision import Asked
from xir_lib.errors import InputError
from xir_lib.samplers.mixture import MixtureBatchSampler
from xir_lib.samplers.strategies import PairIndex, Strategy, StrategyBatchSampler

Measure = Literal["loss", "multilingual mAP"]


class EarlyStopping(BaseModel):
    """When to stop before the last step, judged on the held-out pairs; the best weights are kept.

    Off in comparisons of strategies, which get equal steps. `loss` is the mean of the held-out
    losses of `held_out.held_out_loss` (same- and cross-language batches alike), `multilingual mAP`
    that of `held_out_ranking`. The schedule of the learning rate still aims at the last step.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    measure: Measure = "loss"
    every: int = Field(gt=0, description="steps between two measurements")
    patience: int = Field(
        gt=0, description="measurements without a new best after which training stops"
    )


class TrainSettings(BaseModel):
    """What decides the weights, besides the encoder and the pairs. Unknown names are refused, and
    so are NaN and infinity.

    `weight_decay` is AdamW's and reaches every row of the trimmed embedding table in every step,
    used in it or not. The rows of pieces that neither the pairs nor the held-out pairs contain are
    not in that table, so they are not decayed and come out as they went in; with the complete
    vocabulary they would shrink. `recompute` runs the encoder a second time for the gradients
    instead of keeping its activations (`losses.SortedBatchLoss`): equal values, a third more time,
    and memory that does not grow with the batch. `query_kl` reads every query in a second language
    as well (`losses.ParallelQueryLoss`), and `one_language_per_id` leaves nothing parallel
    (`splits.one_language_per_id`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    strategy: str = Field(
        description=(
            "x-x-mono, x-x, x-y, x-y-pair, en-en (or another pivot, es-es), hybrid-ALPHA or"
            " hybrid-row-ALPHA"
        )
    )
    language_draw: Literal["uniform", "size"] = Field(
        "uniform", description="how a batch of one language (pair) draws it"
    )
    dataset_draw: Literal["size", "equal"] | Annotated[float, Field(gt=0)] = Field(
        "size",
        description=(
            "how a batch draws its data set, where there are several; a number is a temperature"
        ),
    )
    negatives: int = Field(
        0,
        ge=0,
        description="hard negatives per pair, the first of its list; a pair with fewer is left out",
    )
    ids: int | None = Field(
        None, gt=1, description="train on so many of the ids, drawn by the seed"
    )
    languages: list[str] | None = Field(
        None, min_length=1, description="train on these of the languages; none: on all"
    )
    one_language_per_id: bool = Field(
        False, description="keep every id in one language; a control without parallel data"
    )
    seed: int = Field(0, ge=0, lt=2**32)
    steps: int = Field(gt=0, description="optimiser steps")
    batch_size: int = Field(gt=1, description="pairs per batch")
    recompute: bool = Field(
        False, description="run the encoder again for the gradients; saves memory, costs time"
    )
    learning_rate: float = Field(gt=0)
    temperature: float = Field(gt=0, description="cosines are divided by it before the softmax")
    query_kl: float = Field(
        0.0, ge=0, description="weight of the KL divergence between the scores of parallel queries"
    )
    warmup_share: float = Field(
        0.1, ge=0, le=1, description="share of the steps with a rising learning rate"
    )
    weight_decay: float = Field(0.01, ge=0)
    max_seq_length: int = Field(
        gt=3, description="tokens kept of a query or passage, prefix included"
    )
    prompts: list[str] | None = Field(
        None,
        min_length=2,
        max_length=2,
        description="before a query and before a passage; none: the encoder's own",
    )
    early_stopping: EarlyStopping | None = None
    precision: Asked = Field("auto", description="float32, bfloat16 autocast, or the faster here")

    @field_validator("strategy")
    @classmethod
    def _known_strategy(cls, value: str) -> str:
        parse_strategy(value)
        return value

    @model_validator(mode="after")
    def _something_parallel(self) -> "TrainSettings":
        if self.one_language_per_id and self.query_kl:
            raise InputError(
                "query_kl compares parallel queries and one_language_per_id leaves none; leave one"
                " of them out"
            )
        return self


def trained_on(pairs: PairTable, settings: TrainSettings) -> PairTable:
    """Return the part of the pairs that a run with these settings draws from."""
    if settings.ids is not None:
        pairs = draw_ids(pairs, settings.ids, settings.seed)
    if settings.languages is not None:
        pairs = pairs.select(languages=settings.languages)
    return one_language_per_id(pairs, settings.seed) if settings.one_language_per_id else pairs


def parse_strategy(name: str) -> tuple[Strategy, float]:
    """Return the batch strategy and the alpha that a run's name stands for: `hybrid-0.5` ->
    (hybrid, 0.5).

    Alpha has no meaning for the pure strategies and is 1 for them. `es-es` is `en-en` with another
    pivot (`pivot_of`).
    """
    mixtures = (Strategy.HYBRID, Strategy.HYBRID_ROW)
    pure = [strategy.value for strategy in Strategy if strategy not in mixtures]
    if name in pure:
        return Strategy(name), 1.0
    if re.fullmatch(r"([a-z]{2,3})-\1", name):
        return Strategy.EN_EN, 1.0
    if match := re.fullmatch(r"(hybrid|hybrid-row)-(\d*\.?\d+)", name):
        if not 0 <= (alpha := float(match[2])) <= 1:
            raise InputError(f"alpha must be in [0, 1], got {match[2]} in strategy {name!r}")
        return Strategy(match[1]), alpha
    raise InputError(
        f"unknown strategy {name!r}; use {', '.join(pure)} (or another pivot, such as es-es), "
        "hybrid-ALPHA or hybrid-row-ALPHA such as hybrid-0.5"
    )


def pivot_of(name: str) -> str:
    """Return the language of `en-en`, `es-es` and the like; `en` for the strategies that have no
    pivot.
    """
    return name.split("-")[0] if parse_strategy(name)[0] is Strategy.EN_EN else "en"


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
        language_draw=settings.language_draw,
        pivot=pivot_of(settings.strategy),
    )


def batches_of(
    pairs: PairTable, settings: TrainSettings
) -> StrategyBatchSampler | MixtureBatchSampler:
    """Return the sampler of a run on these pairs; of several data sets every batch comes from one.

    One of several data sets that has one language, as some of the paper's have, gives `x-x-mono`
    batches, the only ones that it can; the sampler's report names them. That is this project's
    reading: the paper does not say what it did with them.
    """
    samplers = {}
    tables = pairs.datasets()
    for name, table in tables.items():
        alone = len(tables) > 1 and len(table.languages) == 1
        own = (
            settings.model_copy(update={"strategy": Strategy.X_X_MONO.value}) if alone else settings
        )
        try:
            samplers[name] = make_sampler(
                PairIndex.from_table(table, negatives=settings.negatives), own
            )
        except InputError as error:
            raise InputError(f"data set {name}: {error}" if name else str(error)) from error
    if len(samplers) == 1:
        return next(iter(samplers.values()))
    return MixtureBatchSampler(
        samplers, dataset_draw=settings.dataset_draw, seed=settings.seed, num_batches=settings.steps
    )
