"""A user's own pairs: read, split and given settings without a profile."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from xir_lib.data.readers import join
from xir_lib.data.records import PairTable
from xir_lib.data.splits import split_by_group
from xir_lib.errors import InputError, explain
from xir_lib.samplers.strategies import PairIndex, Strategy, StrategyBatchSampler
from xir_lib.training.settings import (
    TrainSettings,
)

log = logging.getLogger(__name__)


OWN_PAIRS: dict[
    str, Any
] = {  # settings for pairs without a profile; as in params/small.yaml, steps are one pass
    "strategy": "hybrid-0.5",
    "seed": 0,
    "batch_size": 32,
    "learning_rate": 2e-5,
    "temperature": 0.02,
    "max_seq_length": 128,  # what the shortest of the common multilingual encoders can read
}


def _settings(**values: Any) -> TrainSettings:
    try:
        return TrainSettings(**values)
    except ValidationError as error:
        raise InputError(f"training: {explain(error)}") from error


def load_own(paths: Sequence[Path], lang: str | None = None) -> tuple[PairTable, PairTable | None]:
    """Return a user's pairs to train on, and a tenth of them held out by group; several files are a
    data set each.

    A language with too few held-out ids for a batch is not judged. Pairs too few to give held-out
    batches of every kind are all trained on, with a warning: a held-out loss is a courtesy and no
    reason to refuse a training.
    """
    from xir_lib.data.readers import load_pairs

    tables = [load_pairs(path, lang=lang) for path in paths]
    names = [Path(path).name.split(".")[0] for path in paths]
    if len(set(names)) < len(names):
        raise InputError(
            f"two data sets have one name: {', '.join(names)}; give the files different ones"
        )
    pairs = tables[0] if len(tables) == 1 else join(dict(zip(names, tables, strict=True)))
    grouped = _grouped_by_passage(pairs)
    try:
        train, held_out = split_by_group(grouped, 0.1, 0)
        index = PairIndex.from_table(held_out)
        offered = (index.has_query & index.servable()).sum(axis=0)  # ids of each language
        judged = [
            name
            for name, ids in zip(index.languages, offered, strict=True)
            if name in train.languages and not 0 < ids < 16
        ]
        if not judged:
            raise InputError(
                f"the tenth has {', '.join(map(str, offered))} ids in its languages, 16 are needed"
                " in one"
            )
        held_out = held_out.select(languages=judged)
        index = PairIndex.from_table(held_out)
        for strategy in (Strategy.X_X_MONO, Strategy.X_Y)[
            : len(index.languages)
        ]:  # as in `held_out.held_out_loss`
            StrategyBatchSampler(
                index, strategy=strategy, batch_size=16, seed=0, num_batches=8
            ).plan()
        return train, held_out
    except InputError as error:
        log.warning(
            "%s: all pairs are trained on and none held out (%s)", ", ".join(map(str, paths)), error
        )
        return pairs, None


def _grouped_by_passage(pairs: PairTable) -> PairTable:
    """Join the groups that share a passage's text, so that none stands on both sides of a split."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    table, passage = pairs.table, PairIndex.from_table(pairs).passage
    names, groups = (
        table[name].combine_chunks().dictionary_encode() for name in ("pair_id", "group")
    )
    id_of_row, group_of_row = names.indices.to_numpy(), groups.indices.to_numpy()
    having = np.nonzero(passage >= 0)[0]  # the ids, in order of appearance as in `names`
    ids = np.concatenate([id_of_row, having])
    things = np.concatenate([group_of_row, len(groups.dictionary) + passage[passage >= 0]])
    size = len(names.dictionary)
    edges = coo_array(
        (np.ones(len(ids), bool), (ids, size + things)), shape=(size + int(things.max()) + 1,) * 2
    )
    labels = connected_components(edges, directed=False)[1][:size]
    ascending = pc.sort_indices(names.dictionary).to_numpy()
    smallest = ascending[
        np.unique(labels[ascending], return_index=True)[1]
    ]  # (components,) the id that names it
    place = np.searchsorted(np.unique(labels), labels[id_of_row])
    named = names.dictionary.take(pa.array(smallest[place]))
    return PairTable(table.set_column(table.schema.get_field_index("group"), "group", named))


def own_settings(pairs: PairTable, **given: Any) -> TrainSettings:
    """Return the settings for a user's pairs without a profile: `OWN_PAIRS` and one pass over the
    ids, unless given.
    """
    settings = _settings(**{**OWN_PAIRS, "steps": 1, **given})
    if "steps" in given:
        return settings
    return settings.model_copy(update={"steps": max(1, len(pairs.pair_ids) // settings.batch_size)})


def with_early_stopping(settings: TrainSettings, measure: str) -> TrainSettings:
    """Return the settings with early stopping by `measure`: 20 measurements, and the end after 3
    without a new best.
    """
    stopping = {"measure": measure, "every": max(1, settings.steps // 20), "patience": 3}
    return _settings(**{**settings.model_dump(), "early_stopping": stopping})
