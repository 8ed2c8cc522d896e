"""Compare evaluations: differences with intervals, p and verdict in one table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from xir_lib.errors import InputError
from xir_lib.metrics.bias import RANK_DISTANCE
from xir_lib.metrics.measures import SETTINGS, group_sums
from xir_lib.metrics.significance import Comparison, compare, design_effect, holm, verdict
from xir_lib.paths import atomic_path, require

MARGIN = 0.01  # mAP; a smaller difference does not matter; declared before any run
COMPARED = [*((setting, "mAP") for setting in SETTINGS), ("multilingual", RANK_DISTANCE)]
Folders = Sequence[tuple[Path, Path]]  # of a and of b


def comparison_table(
    keys: list[dict[str, Any]], results: list[Comparison], *, family: bool, margin: float = MARGIN
) -> pd.DataFrame:
    """Put comparisons behind their keys, which name the `measure`.

    Columns: difference (a minus b), low, high (95 %), p, p_non_inferior (a to b, at `margin`; mAP
    only), mde (minimum detectable effect), seeds, groups; if the rows are a declared `family`,
    p_holm; verdict, by p_holm where there is one.
    """
    p_values = [result.p for result in results]
    rows = []
    for key, result, p in zip(keys, results, holm(p_values) if family else p_values, strict=True):
        lower_is_better = key["measure"] == RANK_DISTANCE
        bound = None if lower_is_better else margin
        row = {name: getattr(result, name) for name in ("difference", "low", "high", "p")}
        row["p_non_inferior"] = None if bound is None else result.p_non_inferior(bound)
        row |= {"mde": result.mde, "seeds": len(result.per_seed), "groups": result.n_groups}
        row |= {"p_holm": p} if family else {}
        row["verdict"] = verdict(result, margin=bound, p=p, lower_is_better=lower_is_better)
        rows.append(key | row)
    return pd.DataFrame(rows)


def compare_evaluations(
    folders: Folders, *, n_resamples: int, seed: int, margin: float = MARGIN
) -> pd.DataFrame:
    """Compare output folders of `xir evaluate` in every setting, a minus b; the rows are one family
    (Holm).

    Several (a, b) are as many trainings of both systems, each with a seed of its own; an encoder
    that is not trained stands in each of them. Intervals and p-values then cover seeds as well.

    Besides `comparison_table`: `margin` and `p_equivalent`, that of two one-sided tests at it (mAP
    only); `design_effect`, by how much the variance grows because the questions of a group are not
    independent (a question with all its translations counts as one); and for a task that names
    paragraphs the interval over them, `paragraph_low` and `paragraph_high`: a sensitivity check,
    too narrow where paragraphs of a group are alike. A setting that either task lacks is left out:
    one language has the monolingual one alone.
    """
    sides = [*zip(*folders, strict=True)]  # all a, all b
    what_to_do = "name a folder that xir evaluate wrote"
    sums = [_over_seeds(side, "group_sums.parquet", what_to_do) for side in sides]
    per_query = [_over_seeds(side, "per_query.parquet", "evaluate again") for side in sides]
    _check_one_pool(folders)
    there = [set(zip(table["setting"], table["measure"], strict=True)) for table in sums]
    compared = [cell for cell in COMPARED if all(cell in cells for cells in there)]
    if not compared:
        raise InputError(
            f"{sides[0][0]} and {sides[1][0]} have no setting in common; evaluate both on one task"
        )

    def by(systems: list[pd.DataFrame], resamples: int) -> list[Comparison]:
        return [
            compare(*systems, setting=setting, measure=measure, n_resamples=resamples, seed=seed)
            for setting, measure in compared
        ]

    found = by(sums, n_resamples)
    single = by([_sums_by(table, "pair_id") for table in per_query], min(n_resamples, 1000))
    keys = [{"setting": setting, "measure": measure} for setting, measure in compared]
    table = comparison_table(keys, found, family=True, margin=margin)
    if len(folders) == 1:
        table = table.drop(columns="seeds")
    bounded = table["measure"] != RANK_DISTANCE
    table["margin"] = bounded.map({True: margin, False: float("nan")})
    equivalent = pd.Series([result.p_equivalent(margin) for result in found])
    table["p_equivalent"] = equivalent.where(bounded)
    table["design_effect"] = list(map(design_effect, found, single))
    if all("paragraph" in values for values in per_query):
        finer = by([_sums_by(values, "paragraph") for values in per_query], n_resamples)
        table["paragraph_low"] = [result.low for result in finer]
        table["paragraph_high"] = [result.high for result in finer]
    return table


def _check_one_pool(folders: Folders) -> None:
    """Refuse evaluations whose task, queries or passages differ."""
    pools = {}
    for folder in (Path(one) for pair in folders for one in pair):
        path = require(folder / "metrics.json", "evaluate again")
        told = json.loads(path.read_text(encoding="utf-8"))
        counts = told["counts"]
        pool = f"{counts['queries']:,} queries, {counts['passages']:,} passages"
        pools[f"task {told['task']}, {pool}"] = folder
    if len(pools) > 1:
        named = " and ".join(f"{folder} ({pool})" for pool, folder in pools.items())
        raise InputError(f"{named} are not of one pool; evaluate all on the same task")


def _over_seeds(side: Sequence[Path], name: str, what_to_do: str) -> pd.DataFrame:
    """Return a table of every folder of one system below each other; of several with a column
    seed.
    """
    tables = []
    for folder in side:
        path = require(Path(folder) / name, what_to_do)
        try:
            tables.append(pd.read_parquet(path))
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"{path} cannot be read as Parquet, it may be cut off; evaluate again"
            ) from error
    if len(tables) == 1:
        return tables[0]
    return pd.concat([table.assign(seed=k) for k, table in enumerate(tables)])


def _sums_by(per_query: pd.DataFrame, unit: str) -> pd.DataFrame:
    """Return the sums, of every seed, with another column, question or paragraph, in the place of
    the group.
    """
    wanted = per_query[per_query["measure"].isin({measure for _, measure in COMPARED})]
    return sums_by_seed(wanted.assign(group=wanted[unit]))


def sums_by_seed(per_query: pd.DataFrame) -> pd.DataFrame:
    """Return `measures.group_sums`, those of every seed below each other if there is a column
    `seed`: `significance`'s input.
    """
    if "seed" not in per_query:
        return group_sums(per_query)
    parts = per_query.groupby("seed")
    return pd.concat([group_sums(part).assign(seed=seed) for seed, part in parts])


def save_table(table: pd.DataFrame, folder: str | Path, name: str) -> None:
    """Write `NAME.csv`, atomically; an empty `folder` writes nothing."""
    if str(folder):
        with atomic_path(Path(folder) / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
