"""Count, group and split tables of pairs, so that what hangs together is never parted.

A group is the unit that a split keeps whole (style.md, training and test data): splitting MLQA id
by id would put one passage on both sides, splitting by connected component cannot. Knows no data
set.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xir_lib.data.records import DATASET, PairTable
from xir_lib.errors import InputError

log = logging.getLogger(__name__)


def components(ids: Sequence[str], things: Sequence[str]) -> dict[str, str]:
    """Map every id to the name of its connected component: the smallest id in it.

    `ids[k]` has `things[k]`, a passage or an article; two ids that have a thing in common, or are
    joined by a chain of such ids, are in one component. The name does not depend on the order of
    the input.

    >>> components(["c", "b", "b", "a"], ["x", "x", "y", "z"])
    {'a': 'a', 'b': 'b', 'c': 'b'}
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names, rows = np.unique(np.asarray(ids, dtype=object), return_inverse=True)  # names ascend
    nodes, columns = np.unique(np.asarray(things, dtype=object), return_inverse=True)
    size = len(names) + len(nodes)
    edges = coo_array(
        (np.ones(len(rows), np.int8), (rows, columns + len(names))), shape=(size, size)
    )
    _, labels = connected_components(edges, directed=False)
    _, first = np.unique(labels[: len(names)], return_index=True)
    smallest = {int(labels[k]): str(names[k]) for k in first}
    return {str(name): smallest[int(label)] for name, label in zip(names, labels, strict=False)}


def split_by_group(
    pairs: PairTable, held_out_share: float, seed: int
) -> tuple[PairTable, PairTable]:
    """Return (train, held out); a group goes whole to one side, held out with probability
    `held_out_share`.

    A group is held out if the SHA-256 of seed and group, read as a fraction, is below the share.
    The fate of a group thus depends on nothing else: not on the order of the rows nor on which
    other groups are there, so a subset of a table (such as `mlqa.core`) is split like the whole.
    The price is that the realised share only comes near the one asked for; count it. A split with
    an empty side is refused.
    """
    if not 0 < held_out_share < 1:
        raise InputError(f"held_out_share must be in (0, 1), got {held_out_share}")
    groups = pairs.table["group"].unique()
    held_out = pa.array(
        [name for name in groups.to_pylist() if _fraction(name, seed) < held_out_share], pa.string()
    )
    if len(held_out) in (0, len(groups)):
        raise InputError(
            f"held_out_share {held_out_share} with seed {seed} holds out {len(held_out)} of"
            f" {len(groups)} groups; take another share or more groups"
        )
    mask = pc.is_in(pairs.table["group"], held_out)
    return PairTable(pairs.table.filter(pc.invert(mask))), PairTable(pairs.table.filter(mask))


def draw_ids(pairs: PairTable, count: int, seed: int) -> PairTable:
    """Keep `count` of the ids, in all their languages. Of one seed's draws the smaller is part of
    the larger.
    """
    if count > (there := len(names := sorted(pairs.pair_ids))):
        raise InputError(f"ids must be at most {there}, which is what the pairs have, got {count}")
    order = np.random.default_rng(seed).permutation(names)
    return pairs.select(pair_ids=order[:count].tolist())


def one_language_per_id(pairs: PairTable, seed: int) -> PairTable:
    """Keep every id in one language, so that no question and no passage is there in two.

    Ids that share a passage, or are joined by a chain of such ids, get the same language: in an
    order drawn from `seed` these components take, of the languages in which all their ids have
    query and passage, the one that has fewest ids of their data set so far. An id whose component
    has no such language is left out, with a warning.
    """
    table = pairs.table
    sources = (
        table[DATASET.name].to_pylist() if DATASET.name in table.column_names else [""] * len(table)
    )
    source = dict(zip(table["pair_id"].to_pylist(), sources, strict=True))
    both = table.filter(pc.and_(pc.is_valid(table["query"]), pc.is_valid(table["passage"])))
    held = table.filter(pc.is_valid(table["passage"]))
    passages = pc.coalesce(
        held["passage_id"], held["passage"]
    )  # one without an id is known by its text
    component = components(held["pair_id"].to_pylist(), passages.to_pylist())
    ids: dict[str, set[str]] = {}
    for name, of in component.items():
        ids.setdefault(of, set()).add(name)
    offered: dict[str, Counter[str]] = {}
    for name, lang in zip(both["pair_id"].to_pylist(), both["lang"].to_pylist(), strict=True):
        offered.setdefault(component[name], Counter())[lang] += 1
    taken: Counter[tuple[str, str]] = Counter()
    chosen: dict[str, str] = {}
    for of in np.random.default_rng(seed).permutation(sorted(offered)).tolist():
        common = [lang for lang, count in sorted(offered[of].items()) if count == len(ids[of])]
        if common:
            dataset = source[of]  # a component has the name of one of its ids
            chosen[of] = min(common, key=lambda lang: taken[dataset, lang])
            taken[dataset, chosen[of]] += len(ids[of])
    keep = [
        chosen.get(component.get(name, "")) == lang
        for name, lang in zip(table["pair_id"].to_pylist(), table["lang"].to_pylist(), strict=True)
    ]
    kept = PairTable(table.filter(pa.array(keep, pa.bool_())))
    if left_out := len(pairs.pair_ids) - len(kept.pair_ids):
        log.warning(
            "%d of %d ids are left out: no language has all that hangs together with them",
            left_out,
            len(pairs.pair_ids),
        )
    return kept


def pair_counts(pairs: PairTable) -> dict[str, Any]:
    """Count what a table offers for training.

    `queries`, `passages` and `distinct_passages` are per language; `same_language_pairs` are
    (query, passage) of one id in one language, `cross_language_pairs` those of one id in two, each
    direction counted.
    """
    has_query = pc.is_valid(pairs.table["query"])
    passages = pc.coalesce(
        pairs.table["passage_id"], pairs.table["passage"]
    )  # one without an id is known by its text
    has_passage = pc.is_valid(pairs.table["passage"])
    flags = pa.table(
        {
            "pair_id": pairs.table["pair_id"],
            "query": has_query.cast(pa.int64()),
            "passage": has_passage.cast(pa.int64()),
            "both": pc.and_(has_query, has_passage).cast(pa.int64()),
        }
    )
    per_id = flags.group_by("pair_id").aggregate(
        [("query", "sum"), ("passage", "sum"), ("both", "sum")]
    )
    same = pc.sum(per_id["both_sum"]).as_py() or 0
    every = pc.sum(pc.multiply(per_id["query_sum"], per_id["passage_sum"])).as_py() or 0
    counted = pairs.table.append_column("named", passages)
    by_lang = counted.group_by("lang").aggregate(
        [
            ("query", "count"),
            ("passage", "count"),
            ("named", "count_distinct", pc.CountOptions(mode="only_valid")),
        ]
    )
    rows = by_lang.sort_by("lang").to_pylist()
    columns = {
        "queries": "query_count",
        "passages": "passage_count",
        "distinct_passages": "named_count_distinct",
    }
    return {
        "ids": per_id.num_rows,
        "groups": len(pairs.table["group"].unique()),
        **{
            name: {row["lang"]: row[column] for row in rows if row[column]}
            for name, column in columns.items()
        },
        "same_language_pairs": same,
        "cross_language_pairs": every - same,
    }


def _fraction(group: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}\n{group}".encode()).digest()
    return float(int.from_bytes(digest[:8], "big") / 2**64)
