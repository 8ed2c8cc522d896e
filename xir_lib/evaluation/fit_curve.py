"""How many texts per language a foreign fit of centring needs (`repair.fit`)."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from xir_lib.data.records import RetrievalTask
from xir_lib.encoders.encoder import Encoder
from xir_lib.errors import InputError
from xir_lib.evaluation.evaluate import values
from xir_lib.evaluation.systems import Ranks
from xir_lib.metrics import measures as metrics
from xir_lib.metrics.ranks import relevant_ranks
from xir_lib.metrics.scores import vector_blocks
from xir_lib.paths import atomic_path
from xir_lib.repair.fit import Texts, foreign_texts, own_texts, shift
from xir_lib.repair.kinds import CENTRING
from xir_lib.repair.repair import Repair

DRAWS = 5  # samples of the same size
SIDES = ("queries", "passages")


def fit_curve(
    encoder: Encoder,
    task: RetrievalTask,
    fit_on: Sequence[RetrievalTask],
    counts: Sequence[int],
    *,
    draws: int = DRAWS,
) -> pd.DataFrame:
    """Centre with `draws` samples of every count of texts per language and side, and score each.

    The vectors are computed once. A language that has fewer texts gives all of them, and a count
    that no language exceeds is drawn once.

    Returns one row per (texts, setting, measure): rival (the repair, under its old name in this
    file), texts (0 for the vectors as they are), fewest (the least that a language or side really
    gave), draws, and over the draws the mean, sd (NaN for one draw), lowest and highest macro
    value. The spread is that of the sample of texts, not of queries or of seeds; it also falls as a
    count nears what there is, where the samples overlap.
    """
    if not counts or min(counts) < 1 or draws < 1:
        raise InputError(
            f"a curve needs counts of texts and draws of at least 1, got {list(counts)} and {draws}"
        )
    Repair(CENTRING, fit_on=tuple(fit_on)).check(task)
    asked, answers = (own_texts(encoder, task, side) for side in SIDES)
    every = [foreign_texts(encoder, task, side, fit_on) for side in SIDES]
    largest = max(count["texts"] for texts in every for count in texts.counts().values())
    rows: list[tuple[int, int, str, str, float]] = []
    for count in sorted({0, *counts}):
        for draw in range(draws if 0 < count < largest else 1):
            texts = [one.sample(count, draw) for one in every] if count else []
            found = _settings(task, asked, answers, texts)
            used = [language["texts"] for one in texts for language in one.counts().values()]
            rows += [
                (count, min(used, default=0), setting, measure, value)
                for setting, means in found.items()
                for measure, value in means.items()
            ]
    keys = ["texts", "fewest", "setting", "measure"]
    table = pd.DataFrame(rows, columns=[*keys, "value"])
    table["rival"] = CENTRING
    return (
        table.groupby(["rival", *keys], sort=False)["value"]
        .agg(draws="count", mean="mean", sd="std", lowest="min", highest="max")
        .reset_index()
    )


def write_fit_curve(
    path: Path,
    encoder: Encoder,
    task: RetrievalTask,
    fit_on: Sequence[RetrievalTask],
    counts: Sequence[int],
) -> None:
    """Write a `fit_curve` as CSV."""
    table = fit_curve(encoder, task, fit_on, counts)
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)


def _settings(
    task: RetrievalTask, asked: Texts, answers: Texts, texts: list[Texts]
) -> dict[str, dict[str, float]]:
    """Return the macro values of the vectors centred by these texts, or as they are."""
    queries, passages = asked.vectors, answers.vectors
    if texts:
        _, queries, passages = shift(asked, answers, *texts)
    judged = task.judged()
    ranks = relevant_ranks(vector_blocks(queries, passages, judged), judged)
    return metrics.macro(values(Ranks(ranks, ranks), task))
