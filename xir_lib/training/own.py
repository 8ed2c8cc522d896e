"""A user's own pairs: read, split and given settings without a profile."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xir_lib.data.readers import join, load_pairs
from xir_lib.data.records import PairTable
from xir_lib.data.splits import split_by_group
from xir_lib.errors import InputError
from xir_lib.samplers.strategies import PairIndex
from xir_lib.training.held_out import BATCH, held_out_batches
from xir_lib.training.settings import TrainSettings

log = logging.getLogger(__name__)

# Settings for pairs without a profile; as in params/small.yaml, steps are one pass.
OWN_PAIRS: dict[str, Any] = {
    "strategy": "hybrid-0.5",
    "seed": 0,
    "batch_size": 32,
    "learning_rate": 2e-5,
    "temperature": 0.02,
    "max_seq_length": 128,  # what the shortest of the common multilingual encoders can read
}


def load_own(paths: Sequence[Path], lang: str | None = None) -> tuple[PairTable, PairTable | None]:
    """Return a user's pairs to train on, and a tenth of them held out by group; several files are a
    data set each.

    A language with too few held-out ids for a batch is not judged. Pairs too few to give held-out
    batches of every kind are all trained on, with a warning: a held-out loss is a courtesy and no
    reason to refuse a training.
    """
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
        judged = held_out.select(languages=_judged_languages(train, held_out))
        held_out_batches(judged)
        return train, judged
    except InputError as error:
        files = ", ".join(map(str, paths))
        log.warning("%s: all pairs are trained on and none held out (%s)", files, error)
        return pairs, None


def own_settings(pairs: PairTable, **given: Any) -> TrainSettings:
    """Return the settings for a user's pairs without a profile: `OWN_PAIRS` and one pass over the
    ids, unless given.
    """
    settings = TrainSettings.checked(**{**OWN_PAIRS, "steps": 1, **given})
    if "steps" in given:
        return settings
    return settings.model_copy(update={"steps": max(1, len(pairs.pair_ids) // settings.batch_size)})


def with_early_stopping(settings: TrainSettings, measure: str) -> TrainSettings:
    """Return the settings with early stopping by `measure`: 20 measurements, and the end after 3
    without a new best.
    """
    stopping = {"measure": measure, "every": max(1, settings.steps // 20), "patience": 3}
    return TrainSettings.checked(**{**settings.model_dump(), "early_stopping": stopping})


def _judged_languages(train: PairTable, held_out: PairTable) -> list[str]:
    """Return the languages that are trained on and have a batch of held-out ids, or none at all."""
    index = PairIndex.from_table(held_out)
    offered = (index.has_query & index.servable()).sum(axis=0)  # ids of each language
    counts = dict(zip(index.languages, offered, strict=True))
    judged = [name for name, n in counts.items() if name in train.languages and not 0 < n < BATCH]
    if not judged:
        raise InputError(
            f"the tenth has {', '.join(map(str, offered))} ids in its languages, {BATCH} are needed"
            " in one"
        )
    return judged


def _grouped_by_passage(pairs: PairTable) -> PairTable:
    """Join the groups that share a passage's text, so that none stands on both sides of a split."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # 1. A graph of ids, groups and passages: an id hangs on its groups and on its passages.
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
    labels = connected_components(edges, directed=False)[1][:size]  # of each id
    # 2. A component has the name of its smallest id.
    ascending = pc.sort_indices(names.dictionary).to_numpy()
    _, first, place = np.unique(labels[ascending], return_index=True, return_inverse=True)
    smallest = np.empty(size, np.int64)
    smallest[ascending] = ascending[first][place]
    named = names.dictionary.take(pa.array(smallest[id_of_row]))
    return PairTable(table.set_column(table.schema.get_field_index("group"), "group", named))
