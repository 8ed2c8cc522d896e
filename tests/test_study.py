"""Profiles, collected results, findings and the ledger, on results whose right answer is known by construction."""

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml

from xir_lib import claims, report, tables
from xir_lib.errors import InputError
from xir_lib.paths import REPO
from xir_lib.study import Results, Study, load_results, load_study
from xir_lib.training import TrainSettings

LANGS = ("en", "sw", "yo")
POOLS = {"monolingual": [(lang, lang) for lang in LANGS], "multilingual": [(lang, "all") for lang in LANGS]}
POOLS["cross-lingual"] = [(a, b) for a in LANGS for b in LANGS if a != b]


def profile(**change: Any) -> dict[str, Any]:
    return yaml.safe_load((REPO / "params" / "demo.yaml").read_text()) | change


def made_up(levels: dict[str, dict[str, float]], groups: int = 40) -> Results:
    """Results with these mAP levels and rank distances per strategy, the same noise per group for all strategies."""
    noise = np.random.default_rng(0).normal(0, 0.02, groups)
    rows, evaluations = [], []
    for strategy, level in levels.items():
        run = strategy if strategy == "none" else f"{strategy}-s0"
        for setting, pools in POOLS.items():
            for query_lang, pool in pools:
                for group in range(groups):
                    values = {"mAP": level[setting] + noise[group]}
                    if setting == "multilingual":
                        values["rank distance"] = level["rank distance"] + 100 * noise[group]
                    for measure, value in values.items():
                        key = {"run": run, "strategy": strategy, "task": "atlas-qa", "rival": "none", "group": f"g{group}"}
                        cell = {"setting": setting, "query_lang": query_lang, "pool": pool, "measure": measure}
                        rows.append({**key, **cell, "n": 5, "total": 5 * value})
        settings = {setting: dict.fromkeys(("mAP", "R@1", "R@10"), level[setting]) for setting in POOLS}
        bias = {
            "rank_distance": {"mean": level["rank distance"], "median": 1.0, "ideal": 2.0, "random": 300.0},
            "same_language_preference": {"mean": 0.5, "no_preference": 1 / 3, "per_language": dict.fromkeys(LANGS, 0.5)},
        }
        counts = {"queries": 600, "passages": 600, "languages": list(LANGS)}
        key = {"run": run, "strategy": strategy, "task": "atlas-qa", "rival": "none"}
        evaluations.append({**key, "settings": settings, "bias": bias, "counts": counts})
    study = Study(**profile(resamples=500, rivals=["none"], untrained=False))
    mix = {"same-language": 640, "cross-language": 640}
    runs = [{"settings": {"strategy": "hybrid-0.5", "seed": 0, "steps": 40}, "realised": {"pairs": mix}}]
    return Results(study, runs, evaluations, pd.DataFrame(rows))


def level(mono: float, cross: float, multi: float, distance: float = 50.0) -> dict[str, float]:
    return {"monolingual": mono, "cross-lingual": cross, "multilingual": multi, "rank distance": distance}


PAPER_LIKE = {
    "none": level(0.7, 0.5, 0.4, 90),
    "x-x-mono": level(0.80, 0.60, 0.50, 80),
    "x-y": level(0.75, 0.65, 0.55, 60),
    "hybrid-0.5": level(0.801, 0.651, 0.56, 50),
}
ALL_EQUAL = dict.fromkeys(PAPER_LIKE, level(0.8, 0.6, 0.5))


def test_every_profile_loads_and_names_only_what_exists() -> None:
    for path in (REPO / "params").glob("*.yaml"):
        assert load_study(path).profile == path.stem


def test_notebook_parameters_are_the_profile_s_names() -> None:
    notebook = nbformat.read(REPO / "notebooks" / "02_train_strategy.ipynb", as_version=4)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    names = set(re.findall(r"^(\w+) = ", cell.source, flags=re.M))
    assert names - {"encoder", "pairs_file", "held_out_file", "out"} == set(TrainSettings.model_fields)
    assert all("#" in line for line in cell.source.splitlines())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strategies": ["hybrid-2"]}, r"alpha must be in \[0, 1\], got 2"),
        ({"strategies": ["mono"]}, "unknown strategy 'mono'"),
        ({"evaluations": [{"task": "squad"}]}, "unknown task 'squad'"),
        ({"seed": 3}, "seed: Extra inputs are not permitted"),
        ({"train": {"steps": 0}}, "steps"),
        ({"train": profile()["train"] | {"lr": 1}}, "lr: Extra inputs"),
        ({"resamples": "many"}, "resamples: .*got 'many'"),
        ({"strategies": []}, "strategies: .*at least 1"),
        ({"seeds": [1, 1]}, "seeds holds a name twice: 1, 1"),
        ({"train": profile()["train"] | {"seed": 1}}, "train holds seed"),
        ({"rivals": ["centring"]}, "rivals lacks none"),
        ({"evaluations": [{"task": "atlas-qa"}]}, "centring on atlas-qa needs fit_on"),
        ({"evaluations": [{"task": "xquad-r", "fit_on": ["xquad-r"]}]}, "fit_on of xquad-r holds 'xquad-r'"),
        ({3: "x"}, "3"),
    ],
)
def test_a_wrong_profile_is_refused_in_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(profile() | change))
    with pytest.raises(InputError, match=message) as error:
        load_study(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["- a\n", "a: [", ""])
def test_a_file_that_is_no_profile(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(InputError, match=r"p\.yaml"):
        load_study(tmp_path / "p.yaml")


def test_a_null_result_comes_first() -> None:
    assert report.findings(made_up(ALL_EQUAL))[0].startswith("No difference between hybrid batches and the pure strategies")


def test_clear_differences_are_counted_with_their_side() -> None:
    # Against x-x-mono: cross, multi and rank distance favour hybrid, mono by .001; against x-y all four. The noise is
    # shared, so every difference is exact and none of the 8 intervals holds 0.
    first = report.findings(made_up(PAPER_LIKE))[0]
    assert "Of 8 comparisons" in first
    assert "0 do not exclude 0, 8 favour the hybrid and 0 the pure strategy" in first
    reverse = PAPER_LIKE | {"hybrid-0.5": level(0.1, 0.1, 0.1, 100)}
    assert "0 favour the hybrid and 8 the pure strategy" in report.findings(made_up(reverse))[0]


def test_the_ledger_judges_both_ways() -> None:
    def verdicts(levels: dict[str, dict[str, float]]) -> dict[str, str]:
        table = claims.ledger(made_up(levels))
        assert table[table["claim"] == "7"]["verdict"].str.endswith(" (1 seed only)").all()
        return table.groupby("claim")["verdict"].first().str.removesuffix(" (1 seed only)").to_dict()

    paper = verdicts(PAPER_LIKE)
    assert [paper[n] for n in ("1", "6", "7", "9", "11")] == [claims.SUPPORTED] * 5
    worse = verdicts(PAPER_LIKE | {"hybrid-0.5": level(0.7, 0.6, 0.4, 95)})
    assert [worse[n] for n in ("7", "9", "11")] == [claims.CONTRADICTED] * 3
    equal = verdicts(ALL_EQUAL)
    assert [equal[n] for n in ("6", "7", "9")] == [claims.OPEN] * 3
    assert equal["11"] == claims.SUPPORTED  # equal within the margin is "comparable"


def test_sanity_checks_can_fail() -> None:
    assert tables.sanity_checks(made_up(PAPER_LIKE))["passed"].all()
    failing = tables.sanity_checks(made_up(ALL_EQUAL | {"none": level(0.96, 0.6, 0.5)}))
    assert not failing.set_index("check").loc["none monolingual mAP leaves room", "passed"]
    untrained = made_up(PAPER_LIKE | {"untrained": level(0.3, 0.3, 0.3)})
    untrained = untrained._replace(study=untrained.study.model_copy(update={"untrained": True}))
    assert not tables.sanity_checks(untrained)["passed"].all()
    same = tables.sanity_checks(made_up(ALL_EQUAL))
    assert not same.set_index("check").loc["x-y differs from none", "passed"]


def test_our_table_stands_beside_the_printed_one() -> None:
    # Table 3 of the paper: XLM-R, hybrid, multilingual mAP .5927 on XQuAD-R.
    results = made_up(PAPER_LIKE)
    study = results.study.model_copy(
        update={"evaluations": [results.study.evaluations[0].model_copy(update={"task": "xquad-r"})]}
    )
    for evaluation in results.evaluations:
        evaluation["task"] = "xquad-r"
    table = tables.beside_paper(results._replace(study=study)).set_index(["strategy", "setting", "measure"])
    row = table.loc["hybrid-0.5", "multilingual", "mAP"]
    assert (row["paper (XLM-R)"], row["paper (LaBSE)"], row["ours (mE5-small)"]) == (0.5927, 0.6817, 0.56)


def test_a_result_without_a_run_of_each_strategy_still_has_a_ledger() -> None:
    results = made_up({name: value for name, value in PAPER_LIKE.items() if name != "x-y"})
    study = results.study.model_copy(update={"strategies": ["x-x-mono", "hybrid-0.5"]})
    table = claims.ledger(results._replace(study=study)).set_index("claim")
    assert set(table.loc["6", "verdict"]) == {f"{claims.OPEN} (1 seed only)"}
    assert set(table.loc["6", "tested"]) == {"needs a run of x-y"}


def test_published_figures_can_be_rebuilt_from_their_folder(tmp_path: Path) -> None:
    folders = [path.parent for path in (REPO / "figures").glob("*/results")]
    for folder in folders:
        results = load_results(folder / "results")
        rebuilt = {
            "03_strategies": tables.scores(results).query("measure == 'mAP' and strategy != 'untrained'"),
            "03_family": tables.primary_family(results),
            "07_ledger": claims.ledger(results),
        }
        for name, table in rebuilt.items():
            tables.save_table(table, tmp_path, name)
            assert (tmp_path / f"{name}.csv").read_text() == (folder / f"{name}.csv").read_text(), name
        files = {path.name for path in (folder / "results").iterdir()}
        assert {"study.json", "runs.json", "evaluations.json", "group_sums.parquet"} <= files
        for png in folder.glob("*.png"):
            assert png.with_suffix(".csv").exists(), png
        for run in json.loads((folder / "results" / "runs.json").read_text()):
            assert {"encoder", "pairs_sha256", "settings", "environment", "realised"} <= run.keys()


def test_every_number_of_the_readme_s_blocks_is_that_of_the_committed_results() -> None:
    text = (REPO / "README.md").read_text()
    for profile in re.findall(r"<!-- (\w+) findings -->", text):
        if not (REPO / "figures" / profile).exists():
            assert f"<!-- {profile} findings -->\n<!-- end -->" in text  # no numbers without their results
            continue
        blocks = report.readme_blocks(load_results(REPO / "figures" / profile / "results"))
        assert report.fill_readme(text, profile, blocks) == text
        assert report.fill_readme(text, profile, {"findings": "other"}) != text
