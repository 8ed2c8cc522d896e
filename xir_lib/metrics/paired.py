"""The sums of two systems on the same queries, as matrices that `significance` resamples.

The input is that of `significance.compare`; whatever the two tables do not share is refused in one
line that names it.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xir_lib.errors import InputError

Matrix = NDArray[np.float64]
KEYS = ["seed", "group", "query_lang", "pool"]


def difference_matrices(
    sums_a: pd.DataFrame, sums_b: pd.DataFrame, setting: str, measure: str
) -> tuple[Matrix, Matrix]:
    """Return n, (groups, cells), and total_a - total_b, (seeds, groups, cells), each axis in sorted
    order.
    """
    trained = next(
        (list(sums["seed"].unique()) for sums in (sums_a, sums_b) if "seed" in sums), [0]
    )
    tables = [_chosen(sums, setting, measure, trained) for sums in (sums_a, sums_b)]
    (layer, seeds), (row, groups), (lang, langs), (pool, pools) = (
        _numbered(*(table[key] for table in tables)) for key in KEYS
    )
    if len(groups) < 2:
        raise InputError(
            f"{setting} {measure} has one group, {groups[0]!r}; resampling by group needs at least"
            " 2, better 20"
        )
    cell, column = np.unique(lang * len(pools) + pool, return_inverse=True)
    cells = [f"{langs[i // len(pools)]} queries in pool {pools[i % len(pools)]}" for i in cell]
    system = np.repeat([0, 1], list(map(len, tables)))

    shape = (2, len(seeds), len(groups), len(cells))
    where = np.ravel_multi_index((system, layer, row, column), shape)
    for again in np.flatnonzero(pd.Index(where).duplicated())[:1]:
        raise InputError(
            f"group {groups[row[again]]!r}, {cells[column[again]]}: two rows of"
            f" {'ab'[system[again]]}; number the trainings of a strategy in a column seed"
        )
    n, total = np.zeros((2, *shape))
    n.flat[where] = np.concatenate([table["n"] for table in tables])
    total.flat[where] = np.concatenate([table["total"] for table in tables])
    if not np.isfinite(total).all():
        raise InputError(
            f"{setting} {measure} has a sum that is no number; leave out queries without a value"
            " before summing"
        )
    for of, seed, group, at in np.argwhere(n != n[0, 0])[:1]:
        names = [f" with seed {seeds[i]}" if len(seeds) > 1 else "" for i in (0, seed)]
        raise InputError(
            f"group {groups[group]!r}, {cells[at]}: {n[0, 0, group, at]:.0f} of a{names[0]},"
            f" {n[of, seed, group, at]:.0f} of {'ab'[of]}{names[1]}; give the same queries and"
            " seeds"
        )
    return n[0, 0], total[0] - total[1]


def _numbered(a: pd.Series, b: pd.Series) -> tuple[NDArray[np.intp], NDArray[np.object_]]:
    """Return a number for every value of the two columns, one behind the other, and what it stands
    for, in sorted order.

    A column is read by its own categories, if it has them: to hash the string of every row took
    longer than to resample.
    """
    (codes_a, known_a), (codes_b, known_b) = pd.factorize(a), pd.factorize(b)
    for codes in (codes_a, codes_b):
        if missing := np.count_nonzero(codes < 0):
            raise InputError(
                f"{missing} rows have no {a.name}; every sum needs its {', '.join(KEYS)}"
            )
    known = [np.asarray(values, dtype=object) for values in (known_a, known_b)]
    number, names = pd.factorize(np.concatenate(known), sort=True)
    of_a, of_b = np.split(number, [len(known_a)])
    return np.concatenate([of_a[codes_a], of_b[codes_b]]), names


def _chosen(sums: pd.DataFrame, setting: str, measure: str, seeds: list[Any]) -> pd.DataFrame:
    """Return the rows of one setting and measure, repeated for each seed if they have none."""
    there = (sums["setting"] == setting) & (sums["measure"] == measure)
    chosen = sums.loc[there, [name for name in (*KEYS, "n", "total") if name in sums]]
    if chosen.empty:
        found = zip(sums["setting"], sums["measure"], strict=True)
        known = dict.fromkeys(f"{one} {other}" for one, other in found)
        raise InputError(
            f"no values of {setting} {measure}; the table has {', '.join(known) or 'no rows'}"
        )
    if "seed" not in chosen:
        chosen = pd.concat([chosen.assign(seed=seed) for seed in seeds])
    return chosen
