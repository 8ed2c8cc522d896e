"""What a profile's runs left: read once, the source of every table."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from xir_lib.paths import require
from xir_lib.study.profile import Study


class Results(NamedTuple):
    """What `collect` gathered: one record per model, one per evaluation, the sums per group, and
    `overlap.overlap` per task.
    """

    study: Study
    runs: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    group_sums: pd.DataFrame
    overlap: dict[str, dict[str, int]]


def load_results(folder: Path) -> Results:
    """Read what `collect` wrote."""
    folder = require(Path(folder), "run `make study` first, or name a folder under figures/")
    read = {
        name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("study", "runs", "evaluations", "overlap")
    }
    sums = pd.read_parquet(folder / "group_sums.parquet")
    return Results(Study(**read["study"]), read["runs"], read["evaluations"], sums, read["overlap"])
