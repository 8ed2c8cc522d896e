"""The settings of a training, what a strategy's name stands for, and the sampler that both give.

Settings decide the weights, so they are part of a run's identity. Knows no model and no trainer.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from xir_lib.data.records import PairTable
from xir_lib.data.splits import draw_ids, one_language_per_id
from xir_lib.encoders.precision import Asked
from xir_lib.errors import InputError, explain
from xir_lib.samplers.mixture import MixtureBatchSampler
from xir_lib.samplers.strategies import PairIndex, Strategy, StrategyBatchSampler

Batches = StrategyBatchSampler | MixtureBatchSampler
Temperature = Annotated[float, Field(gt=0)]


class EarlyStopping(BaseModel, extra="forbid", frozen=True):
    """When to stop before the last step, judged on the held-out pairs; the best weights are kept.

    Off in comparisons of strategies, which get equal steps. `loss` is the mean of
    `held_out.held_out_loss` (same- and cross-language batches alike), `multilingual mAP` that of
    `held_out_ranking`. The schedule of the learning rate still aims at the last step.

    >>> EarlyStopping(every=50, patience=3)
    EarlyStopping(measure='loss', every=50, patience=3)
    """

    measure: Literal["loss", "multilingual mAP"] = "loss"
    every: int = Field(gt=0)  # steps between two measurements
    patience: int = Field(gt=0)  # measurements without a new best after which training stops


class TrainSettings(BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """What decides the weights, besides the encoder and the pairs. Unknown names are refused, and
    so are NaN and infinity.

    `weight_decay` is AdamW's and reaches every row of the trimmed embedding table in every step,
    used in it or not. The rows of pieces that neither the pairs nor the held-out pairs contain are
    not in that table, so they come out as they went in; with the complete vocabulary they would
    shrink.

    >>> settings = TrainSettings(strategy="hybrid-0.5", steps=1000, batch_size=64,
    ...     learning_rate=2e-5, temperature=0.02, max_seq_length=128)
    >>> settings.language_draw, settings.weight_decay
    ('uniform', 0.01)
    """

    strategy: str  # x-x-mono, x-x, x-y, x-y-pair, en-en (es-es ...), hybrid-0.5, hybrid-row-0.5
    language_draw: Literal["uniform", "size"] = "uniform"  # of a batch's language (pair)
    # of a batch's data set, where there are several; a number is a temperature
    dataset_draw: Literal["size", "equal"] | Temperature = "size"
    negatives: int = Field(0, ge=0)  # hard ones per pair, the first of its list; fewer: left out
    ids: int | None = Field(None, gt=1)  # train on so many of the ids, drawn by the seed
    languages: list[str] | None = Field(None, min_length=1)  # train on these alone
    one_language_per_id: bool = False  # a control without parallel data
    seed: int = Field(0, ge=0, lt=2**32)
    steps: int = Field(gt=0)  # of the optimiser
    batch_size: int = Field(gt=1)  # pairs
    recompute: bool = False  # run the encoder again for the gradients: `loss.SortedBatchLoss`
    learning_rate: float = Field(gt=0)
    temperature: float = Field(gt=0)  # cosines are divided by it before the softmax
    query_kl: float = Field(0.0, ge=0)  # weight of `loss.ParallelQueryLoss`'s divergence
    warmup_share: float = Field(0.1, ge=0, le=1)  # of the steps, with a rising learning rate
    weight_decay: float = Field(0.01, ge=0)
    max_seq_length: int = Field(gt=3)  # tokens of a query or passage, prefix included
    # before a query and before a passage; none: the encoder's own
    prompts: list[str] | None = Field(None, min_length=2, max_length=2)
    early_stopping: EarlyStopping | None = None
    precision: Asked = "auto"  # float32, bfloat16 autocast, or the faster here

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
        if self.early_stopping and self.early_stopping.every > self.steps:
            raise InputError(
                f"early_stopping measures every {self.early_stopping.every} steps and the run has"
                f" {self.steps}; lower it"
            )
        return self

    @classmethod
    def checked(cls, **values: Any) -> "TrainSettings":
        """Return settings of a user's values; a wrong one is refused in one line."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise InputError(f"training: {explain(error)}") from error


def parse_strategy(name: str) -> tuple[Strategy, float]:
    """Return the batch strategy and the alpha that a run's name stands for.

    Alpha has no meaning for the pure strategies and is 1 for them. `es-es` is `en-en` with another
    pivot (`pivot_of`).

    >>> parse_strategy("hybrid-0.5")
    (<Strategy.HYBRID: 'hybrid'>, 0.5)
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
    """Return the language of `en-en`, `es-es` and the like; `en` for strategies without a pivot."""
    return name.split("-")[0] if parse_strategy(name)[0] is Strategy.EN_EN else "en"


def trained_on(pairs: PairTable, settings: TrainSettings) -> PairTable:
    """Return the part of the pairs that a run with these settings draws from."""
    if settings.ids is not None:
        pairs = draw_ids(pairs, settings.ids, settings.seed)
    if settings.languages is not None:
        pairs = pairs.select(languages=settings.languages)
    return one_language_per_id(pairs, settings.seed) if settings.one_language_per_id else pairs


def texts_of(*tables: PairTable | None, negatives: int) -> Iterator[str]:
    """Yield every text that a run reads, with the first `negatives` of a list."""
    for table in (part.table for part in tables if part):
        for block in table.to_batches(max_chunksize=1 << 16):
            for column in ("query", "passage"):
                yield from filter(None, block[column].to_pylist())
            if negatives and "negatives" in table.column_names:
                for texts in block["negatives"].to_pylist():
                    yield from (texts or ())[:negatives]


def make_sampler(index: PairIndex, settings: TrainSettings) -> StrategyBatchSampler:
    """Return the sampler of a run on one data set: one epoch of exactly `steps` batches."""
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


def batches_of(pairs: PairTable, settings: TrainSettings) -> Batches:
    """Return the sampler of a run on these pairs; of several data sets every batch comes from one.

    One of several data sets that has one language, as some of the paper's have, gives `x-x-mono`
    batches, the only ones that it can. That is this project's reading: the paper does not say what
    it did with them.
    """
    samplers, tables = {}, pairs.datasets()
    mono = settings.model_copy(update={"strategy": Strategy.X_X_MONO.value})
    for name, table in tables.items():
        alone = len(tables) > 1 and len(table.languages) == 1
        try:
            index = PairIndex.from_table(table, negatives=settings.negatives)
            samplers[name] = make_sampler(index, mono if alone else settings)
        except InputError as error:
            raise InputError(f"data set {name}: {error}" if name else str(error)) from error
    if len(samplers) == 1:
        return next(iter(samplers.values()))
    return MixtureBatchSampler(
        samplers, dataset_draw=settings.dataset_draw, seed=settings.seed, num_batches=settings.steps
    )


def realised_languages(sampler: Batches, batches: int) -> dict[str, dict[str, int]]:
    """Count the pairs of the first `batches` batches: by kind of pair, by query and passage
    language, and by data set.
    """
    plan = sampler.describe()
    plan = plan[plan["batch"] < batches]
    same = plan["query_lang"] == plan["doc_lang"]
    plan = plan.assign(kind=np.where(same, "same-language", "cross-language"))
    counts = {
        name: {str(key): int(count) for key, count in plan.groupby(name)["pairs"].sum().items()}
        for name in ("kind", "query_lang", "doc_lang", "dataset")
        if name in plan
    }
    return {"pairs": {"same-language": 0, "cross-language": 0} | counts.pop("kind"), **counts}
