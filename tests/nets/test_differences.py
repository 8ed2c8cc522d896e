"""Every published difference of every profile, as it was before the code was moved.

`differences.parquet` holds, per profile and task: each model and repair minus the encoder as it is,
minus that encoder with the same repair, and the hybrid minus every other model, both with the same
repair: in mAP and, over all languages, in rank distance. `python tests/nets/test_differences.py`
computes all of it again and says what moved; with a file's name behind it, it writes the frame
there. That takes an hour, so the tests take a row in fifty.
"""

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from seam import SETTINGS, compare, load_results

REPO = Path(__file__).resolve().parents[2]
STORED = Path(__file__).with_name("differences.parquet")
KEYS = ["profile", "task", "a", "repair_a", "b", "repair_b", "setting", "measure"]
COMPARED = [*((setting, "mAP") for setting in SETTINGS), (SETTINGS[-1], "rank distance")]
HYBRID = "hybrid-0.5"
EVERY = 50  # rows from one that a test computes to the next
PROFILES = sorted(
    {path.parent.name for path in REPO.glob("figures/*/results")}
    | {path.name for path in REPO.glob("results/*")}
)


@cache
def results_of(profile: str) -> Any:
    """Return a profile's committed results; they are looked for where they lie today."""
    found = [REPO / "results" / profile, REPO / "figures" / profile / "results"]
    return load_results(next(folder for folder in found if folder.is_dir()))


def pairs_of(results: Any) -> Iterator[tuple[str, str, str, str]]:
    """Yield model a, its repair, model b, its repair."""
    models = results.study.strategies
    repairs = results.group_sums["rival"].unique().tolist()
    for repair in repairs:
        if repair != "none":
            yield "none", repair, "none", "none"
        for model in models:
            yield model, repair, "none", "none"
            if repair != "none":
                yield model, repair, "none", repair
        for model in models:
            if HYBRID in models and model != HYBRID:
                yield HYBRID, repair, model, repair


def keys(profile: str) -> Iterator[tuple[str, ...]]:
    """Yield the key of every difference of a profile for which it has both sides."""
    results = results_of(profile)
    sums = results.group_sums
    there = set(
        sums[["task", "strategy", "rival", "setting", "measure"]]
        .drop_duplicates()
        .itertuples(index=False, name=None)
    )
    for task in sums["task"].unique():
        for a, repair_a, b, repair_b in pairs_of(results):
            for setting, measure in COMPARED:
                if {
                    (task, a, repair_a, setting, measure),
                    (task, b, repair_b, setting, measure),
                } <= there:
                    yield profile, task, a, repair_a, b, repair_b, setting, measure


def system(profile: str, task: str, model: str, repair: str) -> pd.DataFrame:
    """Return the sums per group of one model, with its seeds if it was trained."""
    results = results_of(profile)
    sums = results.group_sums
    mine = sums[(sums["task"] == task) & (sums["strategy"] == model) & (sums["rival"] == repair)]
    if model in results.study.strategies:
        mine = mine.assign(seed=[int(run.rsplit("-s", 1)[1]) for run in mine["run"]])
    return mine


def computed(key: tuple[str, ...]) -> dict[str, Any]:
    """Return one row of the stored frame, computed."""
    profile, task, a, repair_a, b, repair_b, setting, measure = key
    sides = system(profile, task, a, repair_a), system(profile, task, b, repair_b)
    study = results_of(profile).study
    found = compare(
        *sides,
        setting=setting,
        measure=measure,
        n_resamples=study.resamples,
        seed=study.report_seed,
    )
    return dict(zip(KEYS, key, strict=True)) | {
        name: getattr(found, name) for name in ("difference", "low", "high", "p")
    }


def moved(stored: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that differ: mAP by more than 1e-6, rank distances by more than 1e-6 of
    themselves, p by 1e-6.
    """
    both = stored.merge(found, on=KEYS, how="outer", suffixes=("", " now"), indicator="where")
    far = both["where"] != "both"
    relative = both["measure"] == "rank distance"
    for name in ("difference", "low", "high", "p"):
        allowed = 1e-6 * both[name].abs().where(relative & (name != "p"), 1).clip(lower=1e-6)
        far |= ~((both[name] - both[f"{name} now"]).abs() <= allowed)
    return both[far]


def test_the_frame_has_every_difference_that_the_committed_results_can_give() -> None:
    stored = pd.read_parquet(STORED)
    known = set(stored[KEYS].itertuples(index=False, name=None))
    assert len(stored) == len(known) > 4000
    for profile in ("parallel", "low_resource", "fixes"):
        assert {key for key in known if key[0] == profile} == set(keys(profile))


@pytest.mark.parametrize("profile", PROFILES)
def test_published_differences_come_out_as_they_did(profile: str) -> None:
    stored = pd.read_parquet(STORED)
    sample = stored[stored["profile"] == profile].iloc[::EVERY]
    assert len(sample) > 1
    found = pd.DataFrame([computed(key) for key in sample[KEYS].itertuples(index=False, name=None)])
    assert moved(sample, found).empty
    nudged = found.assign(difference=found["difference"] + 3e-6)
    assert len(moved(sample, nudged)) >= (sample["measure"] == "mAP").sum()  # the check can fail


if __name__ == "__main__":
    frames = []
    for name in PROFILES:
        frames.append(pd.DataFrame([computed(key) for key in keys(name)]))
        results_of.cache_clear()
        print(name, len(frames[-1]), flush=True)
    everything = pd.concat(frames, ignore_index=True)
    if len(sys.argv) > 1:
        everything.to_parquet(sys.argv[1], index=False, compression="brotli")
    else:
        print(moved(pd.read_parquet(STORED), everything).to_string())
