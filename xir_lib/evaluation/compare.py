"""Compare evaluations: differences with intervals, p and verdict in one table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from xir_lib.errors import InputError
from xir_lib.metrics import measures as metrics
from xir_lib.metrics.bias import RANK_DISTANCE
from xir_lib.metrics.measures import SETTINGS
from xir_lib.metrics.significance import Comparison, compare, design_effect, holm, verdict
from xir_lib.paths import atomic_path, require

MARGIN = 0.01  # mAP; a smaller difference does not matter; declared before any run


COMPARED = [*((setting, "mAP") for setting in SETTINGS), ("multilingual", RANK_DISTANCE)]


def comparison_table(
    keys: list[dict[str, Any]], results: list[Comparison], *, family: bool, margin: float = MARGIN
) -> pd.DataFrame:
    """Put comparisons behind their keys, which name the `measure`.

    Columns: difference (a minus b), low, high (95 %), p, p_non_inferior (a to b, at `margin`; mAP
    only), mde (minimum detectable effect), seeds, groups; if the rows are a declared `family`,
    p_holm; verdict, by p_holm where there is one.
    """
    adjusted = (
        holm([result.p for result in results]) if family else [result.p for result in results]
    )
    rows: list[dict[str, Any]] = []
    for key, result, p in zip(keys, results, adjusted, strict=True):
        lower_is_better = key["measure"] == RANK_DISTANCE
        bound = None if lower_is_better else margin
        row = {name: getattr(result, name) for name in ("difference", "low", "high", "p")}
        row["p_non_inferior"] = None if bound is None else result.p_non_inferior(bound)
        row |= {"mde": result.mde, "seeds": len(result.per_seed), "groups": result.n_groups}
        row |= {"p_holm": p} if family else {}
        rows.append(
            {
                **key,
                **row,
                "verdict": verdict(result, margin=bound, p=p, lower_is_better=lower_is_better),
            }
        )
    return pd.DataFrame(rows)


def save_table(table: pd.DataFrame, folder: str | Path, name: str) -> None:
    """Write `NAME.csv`, atomically; an empty `folder` writes nothing."""
    if str(folder):
        with atomic_path(Path(folder) / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


def compare_evaluations(
    folders: Sequence[tuple[Path, Path]], *, n_resamples: int, seed: int, margin: float = MARGIN
) -> pd.DataFrame:
    """Compare output folders of `xir evaluate` in every setting, a minus b; the rows are one family
    (Holm).

    Several (a, b) are as many trainings of both systems, each with a seed of its own; an encoder
    that is not trained stands in each of them. Intervals and p-values then cover seeds as well.

    Besides `comparison_table`: `design_effect`, by how much the variance grows because the
    questions of a group are not independent (a question with all its translations counts as one),
    and for a task that names paragraphs the interval over them, `paragraph_low` and
    `paragraph_high`: a sensitivity check, too narrow where paragraphs of a group are alike.
    `p_equivalent` is that of two one-sided tests at `margin` (mAP only). A setting that either task
    lacks is left out: one language has the monolingual one alone.
    """
    sides = [*zip(*folders, strict=True)]  # all a, all b
    sums = [
        _over_seeds(side, "group_sums.parquet", "name a folder that xir evaluate wrote")
        for side in sides
    ]
    per_query = [_over_seeds(side, "per_query.parquet", "evaluate again") for side in sides]
    pools = {}
    for folder in map(Path, (one for pair in folders for one in pair)):
        told = json.loads(
            require(folder / "metrics.json", "evaluate again").read_text(encoding="utf-8")
        )
        pools[
            f"task {told['task']}, {told['counts']['queries']:,} queries,"
            f" {told['counts']['passages']:,} passages"
        ] = folder
    if len(pools) > 1:
        named = " and ".join(f"{folder} ({pool})" for pool, folder in pools.items())
        raise InputError(f"{named} are not of one pool; evaluate all on the same task")
    there = [
        set(table[["setting", "measure"]].itertuples(index=False, name=None)) for table in sums
    ]
    compared = [cell for cell in COMPARED if all(cell in cells for cells in there)]
    if not compared:
        raise InputError(
            f"{sides[0][0]} and {sides[1][0]} have no setting in common; evaluate both on one task"
        )
    single = [_sums_by(table, "pair_id") for table in per_query]
    finer = [_sums_by(table, "paragraph") for table in per_query if "paragraph" in table]
    keys, found, effects, intervals = [], [], [], []
    for setting, measure in compared:
        keys.append({"setting": setting, "measure": measure})
        found.append(
            compare(*sums, setting=setting, measure=measure, n_resamples=n_resamples, seed=seed)
        )
        alone = compare(
            *single, setting=setting, measure=measure, n_resamples=min(n_resamples, 1000), seed=seed
        )
        effects.append(design_effect(found[-1], alone))
        if len(finer) == 2:
            check = compare(
                *finer, setting=setting, measure=measure, n_resamples=n_resamples, seed=seed
            )
            intervals.append({"paragraph_low": check.low, "paragraph_high": check.high})
    table = comparison_table(keys, found, family=True, margin=margin)
    table = table.drop(columns="seeds") if len(folders) == 1 else table
    bounded = [measure != RANK_DISTANCE for _, measure in compared]
    equivalent = [
        result.p_equivalent(margin) if yes else float("nan")
        for result, yes in zip(found, bounded, strict=True)
    ]
    table = table.assign(
        margin=[margin if yes else float("nan") for yes in bounded], p_equivalent=equivalent
    )
    return table.assign(design_effect=effects).join(pd.DataFrame(intervals))


def _over_seeds(side: Sequence[Path], name: str, what_to_do: str) -> pd.DataFrame:
    """Return a table of every folder of one system below each other; of several with a column
    seed.
    """
    tables = [_read_values(Path(folder) / name, what_to_do) for folder in side]
    return (
        tables[0]
        if len(tables) == 1
        else pd.concat([table.assign(seed=k) for k, table in enumerate(tables)])
    )


def _read_values(path: Path, what_to_do: str) -> pd.DataFrame:
    try:
        return pd.read_parquet(require(path, what_to_do))
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path} cannot be read as Parquet, it may be cut off; evaluate again"
        ) from error


def _sums_by(per_query: pd.DataFrame, unit: str) -> pd.DataFrame:
    """Return the sums, of every seed, with another column, question or paragraph, in the place of
    the group.
    """
    wanted = per_query[per_query["measure"].isin({measure for _, measure in COMPARED})]
    wanted = wanted.assign(group=wanted[unit])
    return sums_by_seed(wanted)


def sums_by_seed(per_query: pd.DataFrame) -> pd.DataFrame:
    """Return `metrics.group_sums`, those of every seed below each other if there is a column
    `seed`: `significance`'s input.
    """
    if "seed" not in per_query:
        return metrics.group_sums(per_query)
    return pd.concat(
        [metrics.group_sums(part).assign(seed=seed) for seed, part in per_query.groupby("seed")]
    )
