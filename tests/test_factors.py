"""Runs that differ in one thing: differences by hand on made-up scores, and what is committed."""

import numpy as np
import pandas as pd
import pytest
import test_study
from test_designs import with_fix
from test_study import ALL_EQUAL, PAPER_LIKE, level

from xir_lib.errors import InputError
from xir_lib.study import factors
from xir_lib.study.results import Results


def test_what_alpha_does_by_hand() -> None:
    plain = PAPER_LIKE | {"hybrid-0.25": level(0.76, 0.66, 0.52)}
    results = with_fix(plain, dict.fromkeys(plain, level(0.8, 0.6, 0.5)))
    study = results.study.model_copy(
        update={"strategies": ["x-x-mono", "hybrid-0.25", "hybrid-0.5", "x-y"]}
    )
    mixes = [{"same-language": same, "cross-language": 100 - same} for same in (100, 20, 55, 0)]
    runs = [
        {**results.runs[0], "realised": {"pairs": mix}} for mix in mixes
    ]  # in the order of the strategies
    table = factors.alphas(results._replace(study=study, runs=runs))
    assert (
        len(table) == 2 * 3 * 4
    )  # against each end the others, in three settings and the fixed one
    multi = table[(table["setting"] == "multilingual") & (table["free fix"] == "none")]
    against = multi.set_index(["minus", "alpha"])["difference"].to_dict()
    above_x_y = {("x-y", 0.25): -0.03, ("x-y", 0.5): 0.01, ("x-y", 1.0): -0.05}
    assert against == pytest.approx(
        above_x_y
        | {("x-x-mono", a): above_x_y["x-y", a or 1.0] + 0.05 for a in (0.25, 0.5)}
        | {("x-x-mono", 0.0): 0.05}
    )
    told = factors.alpha_answers(table)
    assert told[0].endswith("drawn: 0 (0.00), 0.25 (0.20), 0.5 (0.55), 1 (1.00).")
    assert (
        told[3]
        == "atlas-qa, multilingual: 0.550, 0.520, 0.560, 0.500; of the better end's lead 40%, 120%"
        " kept between them; above both ends: 0.5 (by 0.010)."
    )
    assert told[4].endswith("0.500, 0.500, 0.500, 0.500; above both ends: none.")


def test_what_a_variant_adds_by_hand() -> None:
    plain = PAPER_LIKE | {"disjoint": level(0.7, 0.6, 0.48, 60)}
    results = with_fix(plain, ALL_EQUAL | {"disjoint": ALL_EQUAL["none"]})
    variants = {"disjoint": {"strategy": "x-x-mono", "one_language_per_id": True}}
    study = results.study.model_copy(
        update={"strategies": ["x-x-mono", "x-y", "hybrid-0.5", "disjoint"], "variants": variants}
    )
    results = results._replace(study=study)
    table = factors.controls(results).set_index("minus")
    assert table["variant"].unique().tolist() == ["disjoint"]
    first = {name: cell.split(" ")[0] for name, cell in table["multilingual"].items()}
    assert first == {"none": "+.080", "x-x-mono": "-.020", "hybrid-0.5": "-.080"}
    assert factors.control_answers(results) == [
        "atlas-qa, multilingual mAP: none 0.400, disjoint 0.480, x-x-mono 0.500, x-y 0.550,"
        " hybrid-0.5 0.560. Of x-x-mono's gain over none: disjoint 80%."
    ]


def test_a_profile_without_the_ends_or_without_variants_is_refused() -> None:
    results = with_fix(PAPER_LIKE, ALL_EQUAL)
    with pytest.raises(InputError, match="profile one has no variants"):
        factors.controls(results)
    with pytest.raises(InputError, match="profile one lacks x-y, an end of alpha"):
        factors.alphas(
            results._replace(
                study=results.study.model_copy(update={"strategies": ["x-x-mono", "hybrid-0.5"]})
            )
        )


FOUR = {
    "none": level(0.8, 0.6, 0.3),
    "x-x-mono": level(0.8, 0.6, 0.40),
    "x-x": level(0.8, 0.6, 0.35),
    "x-y-pair": level(0.8, 0.6, 0.48),
    "x-y": level(0.8, 0.6, 0.45),
    "hybrid-0.5": level(0.8, 0.6, 0.44),
    "hybrid-row-0.5": level(0.8, 0.6, 0.42),
}


def test_what_pairs_and_batches_change_by_hand() -> None:
    results = with_fix(FOUR, dict.fromkeys(FOUR, level(0.8, 0.6, 0.5)))
    with pytest.raises(
        InputError, match=r"profile one lacks hybrid-row-0\.5, x-x, x-y-pair; name one that has"
    ):
        factors.cells(results)
    results = results._replace(
        study=results.study.model_copy(
            update={"strategies": [name for name in FOUR if name != "none"]}
        )
    )
    table = factors.cells(results)
    changed = dict(
        zip(table["changed"], (cell.split(" ")[0] for cell in table["multilingual"]), strict=True)
    )
    assert list(changed.values()) == ["-.050", "-.030", "+.080", "+.100", "-.020"]
    assert set(table[f"multilingual, both with {factors.FIX}"].str.split(" ").str[0]) == {"+.000"}
    assert factors.cell_answers(results) == [
        "atlas-qa, multilingual mAP: none 0.300, x-x-mono 0.400, x-x 0.350, x-y-pair 0.480, x-y"
        " 0.450, hybrid-0.5 0.440, hybrid-row-0.5 0.420. Changed by mixed batches, pairs of one"
        " language -0.050; mixed batches, pairs of two -0.030; pairs of two, batches of one"
        " language (pair) +0.080; pairs of two, mixed batches +0.100; mixture within the batch"
        " -0.020."
    ]


def test_what_few_ids_change_by_hand() -> None:
    few = {
        "x-x-mono-8": level(0.8, 0.6, 0.45),
        "x-y-8": level(0.8, 0.6, 0.5),
        "hybrid-0.5-8": level(0.8, 0.6, 0.53),
    }
    results = with_fix(PAPER_LIKE | few, dict.fromkeys(PAPER_LIKE | few, level(0.8, 0.6, 0.5)))
    with pytest.raises(InputError, match="profile one has no variant with few ids"):
        factors.fewer_ids(results)
    variants = {name: {"strategy": name.removesuffix("-8"), "ids": 8} for name in few}
    results = results._replace(study=results.study.model_copy(update={"variants": variants}))
    changed = {"as it is": (results, ""), "8 ids": (results, "-8")}
    table = factors.factors(changed).set_index(["profile", "b", "free fix", "setting"])[
        "difference"
    ]
    assert table["as it is", "x-x-mono", "none", "multilingual"] == pytest.approx(0.06)
    assert table["8 ids", "x-x-mono", "none", "multilingual"] == pytest.approx(0.08)
    assert table["8 ids", "x-y", "none", "multilingual"] == pytest.approx(0.03)
    assert table["8 ids", "x-y", factors.FIX, "multilingual"] == pytest.approx(0)
    levels = factors.factor_levels(changed).set_index(["changed", "free fix"])
    assert levels.loc[("8 ids", "none"), ["none", "x-x-mono", "x-y", "hybrid-0.5"]].tolist() == [
        0.4,
        0.45,
        0.5,
        0.53,
    ]
    fewer = (
        factors.fewer_ids(results)
        .set_index(["strategy", "minus"])["multilingual"]
        .str.split(" ")
        .str[0]
    )
    assert fewer["x-x-mono-8", "none"] == "+.050"
    assert fewer["x-x-mono-8", "x-x-mono"] == "-.050"
    assert fewer["hybrid-0.5-8", "hybrid-0.5"] == "-.030"


def test_languages_that_a_variant_leaves_out_stand_apart_by_hand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    four = ("en", "sw", "yo", "zu")
    monkeypatch.setattr(test_study, "LANGS", four)
    pools = {
        "monolingual": [(lang, lang) for lang in four],
        "multilingual": [(lang, "all") for lang in four],
    }
    monkeypatch.setattr(
        test_study,
        "POOLS",
        pools | {"cross-lingual": [(a, b) for a in four for b in four if a != b]},
    )
    fewer = {f"{name}-l2": PAPER_LIKE[name] for name in ("x-x-mono", "x-y", "hybrid-0.5")}
    results = with_fix(PAPER_LIKE | fewer, dict.fromkeys(PAPER_LIKE | fewer, level(0.8, 0.6, 0.5)))
    variants = {
        name: {"strategy": name.removesuffix("-l2"), "languages": ["en", "sw"]} for name in fewer
    }
    data = results.study.data.model_copy(update={"languages": [*four]})
    sums = results.group_sums
    gain = 0.04 * (sums["query_lang"].isin(["yo", "zu"]) & (sums["strategy"] == "hybrid-0.5-l2"))
    results = results._replace(
        study=results.study.model_copy(update={"data": data, "variants": variants}),
        group_sums=sums.assign(total=sums["total"] + sums["n"] * gain),
    )
    table = factors.factors({"as it is": (results, ""), "2 of 4": (results, "-l2")}).query(
        "`free fix` == 'none' and b == 'x-y'"
    )
    found = table[table["setting"] == "multilingual"].set_index(["profile", "languages"])[
        "difference"
    ]
    assert found.to_dict() == pytest.approx(
        {
            ("as it is", "all"): 0.01,
            ("2 of 4", "all"): 0.03,
            ("2 of 4", "trained"): 0.01,
            ("2 of 4", "unseen"): 0.05,
        }
    )


def test_one_strategy_on_two_training_texts_by_hand() -> None:
    theirs = PAPER_LIKE["x-y"]
    changed = {"cross-lingual": 0.04, "multilingual": -0.03, "rank distance": 7}
    mine = theirs | {name: theirs[name] + change for name, change in changed.items()}
    one = with_fix(PAPER_LIKE | {"x-y": mine}, dict.fromkeys(PAPER_LIKE, level(0.8, 0.6, 0.5)))
    other = with_fix(PAPER_LIKE, dict.fromkeys(PAPER_LIKE, level(0.8, 0.6, 0.48)), profile="two")
    table = factors.against(one, other).set_index("strategy")
    assert table.columns[-2:].tolist() == [
        f"multilingual, both with {factors.FIX}",
        "rank distance",
    ]
    told = {
        name: [value.split(" ")[0] for value in row]
        for name, row in zip(table.index, table.to_numpy(), strict=True)
    }
    assert told == {
        "x-x-mono": ["atlas-qa", "+.000", "+.000", "+.000", "+.020", "+0"],
        "x-y": ["atlas-qa", "+.000", "+.040", "-.030", "+.020", "+7"],
        "hybrid-0.5": ["atlas-qa", "+.000", "+.000", "+.000", "+.020", "+0"],
    }
    task = other.study.evaluations[0].model_copy(update={"task": "another"})
    with pytest.raises(InputError, match="profiles one and two share no task, strategy or seed"):
        factors.against(
            one, other._replace(study=other.study.model_copy(update={"evaluations": [task]}))
        )


def test_what_other_text_does_to_the_hybrids_lead_by_hand() -> None:
    # x-y gains .04 across languages and loses .03 in the pool of all, where the hybrid gains .01;
    # with the fix all gain .02.
    changed = {
        "x-y": {"cross-lingual": 0.04, "multilingual": -0.03, "rank distance": 7},
        "hybrid-0.5": {"multilingual": 0.01},
    }
    mine = {
        name: {of: PAPER_LIKE[name][of] + change for of, change in by.items()}
        for name, by in changed.items()
    }
    plain = PAPER_LIKE | {name: PAPER_LIKE[name] | changes for name, changes in mine.items()}
    one = with_fix(plain, dict.fromkeys(PAPER_LIKE, level(0.8, 0.6, 0.5)))
    other = with_fix(PAPER_LIKE, dict.fromkeys(PAPER_LIKE, level(0.8, 0.6, 0.48)), profile="two")
    table = factors.moved(one, other).set_index("strategy")
    told = {
        name: [value.split(" ")[0] for value in row]
        for name, row in zip(table.index, table.to_numpy(), strict=True)
    }
    assert told == {
        "hybrid-0.5 minus x-x-mono": ["atlas-qa", "+.000", "+.000", "+.010", "+.000", "+0"],
        "hybrid-0.5 minus x-y": ["atlas-qa", "+.000", "-.040", "+.040", "+.000", "-7"],
    }


def test_the_interval_of_a_moved_lead_is_that_of_four_systems() -> None:
    """Groups of which the lead differs by chance: an interval by a literal bootstrap of the four
    systems' means.
    """
    one, other = with_fix(PAPER_LIKE, ALL_EQUAL), with_fix(PAPER_LIKE, ALL_EQUAL, profile="two")
    drawn = np.random.default_rng(0)

    def with_noise(results: Results) -> Results:
        sums = results.group_sums
        return results._replace(
            group_sums=sums.assign(
                total=sums["total"] + sums["n"] * drawn.normal(0, 0.02, len(sums))
            )
        )

    one, other = with_noise(one), with_noise(other)
    (told,) = factors.moved(one, other).query("strategy == 'hybrid-0.5 minus x-y'")["multilingual"]
    found = [
        float(number) for number in told.replace("[", "").replace("]", "").replace(",", "").split()
    ]
    keep = (
        "setting == 'multilingual' and measure == 'mAP' and rival == 'none' and strategy == @name"
    )
    means = {}
    for which, results in (("one", one), ("other", other)):
        for name in ("hybrid-0.5", "x-y"):
            part = results.group_sums.query(keep)
            wide = part.assign(mean=part["total"]).pivot_table(
                index="group", columns="query_lang", values=["mean", "n"]
            )
            means[which, name] = wide["mean"].to_numpy(), wide["n"].to_numpy()
    groups = len(means["one", "x-y"][0])
    resamples = drawn.integers(0, groups, (2000, groups))

    def lead(which: str, rows: np.ndarray) -> float:
        mean = {
            name: (means[which, name][0][rows].sum(0) / means[which, name][1][rows].sum(0)).mean()
            for name in ("hybrid-0.5", "x-y")
        }
        return float(mean["hybrid-0.5"] - mean["x-y"])

    by_hand = [lead("one", rows) - lead("other", rows) for rows in (np.arange(groups), *resamples)]
    assert found[0] == pytest.approx(by_hand[0], abs=6e-4)
    assert found[1:] == pytest.approx(np.quantile(by_hand[1:], [0.025, 0.975]), abs=2e-3)


@pytest.mark.parametrize(("setting", "other"), [("temperature", 0.05), ("steps", 600)])
def test_what_is_chosen_on_held_out_pairs_by_hand(setting: str, other: float) -> None:
    more = {
        "x-x-mono-t.05": level(0.8, 0.6, 0.4),
        "x-y-t.05": level(0.9, 0.7, 0.4),
        "hybrid-0.5-t.05": level(0.8, 0.65, 0.56),
    }
    # With the fix all are equal on the held-out pairs, so that each strategy keeps its first
    # settings, not its best without.
    with_the_fix = dict.fromkeys(PAPER_LIKE | more, level(0.8, 0.6, 0.5)) | {
        "hybrid-0.5-t.05": level(0.8, 0.6, 0.9)
    }
    judged = with_fix(PAPER_LIKE | more, with_the_fix)
    with pytest.raises(InputError, match="profile one has no task held-out"):
        factors.grid(judged)
    # On the held-out pairs the hybrid's other setting is better (.67 on average, not .65), the
    # others' are worse.
    held_out = with_fix(
        {
            **PAPER_LIKE,
            "hybrid-0.5": level(0.80, 0.65, 0.50),
            "hybrid-0.5-t.05": level(0.79, 0.65, 0.57),
            "x-x-mono-t.05": level(0.80, 0.60, 0.40),
            "x-y": level(0.75, 0.65, 0.55),
            "x-y-t.05": level(0.90, 0.60, 0.40),
        },
        ALL_EQUAL | dict.fromkeys(more, ALL_EQUAL["none"]),
    )
    chosen_by = [{**one, "task": "held-out"} for one in held_out.evaluations]
    variants = {name: {"strategy": name.removesuffix("-t.05"), setting: other} for name in more}
    tasks = [
        judged.study.evaluations[0].model_copy(update={"task": "held-out"}),
        *judged.study.evaluations,
    ]
    names = ["x-x-mono", "x-y", "hybrid-0.5", *more]
    study = judged.study.model_copy(
        update={"variants": variants, "strategies": names, "evaluations": tasks}
    )
    sums = pd.concat(
        [judged.group_sums, held_out.group_sums.assign(task="held-out")], ignore_index=True
    )
    results = judged._replace(
        study=study, group_sums=sums, evaluations=judged.evaluations + chosen_by
    )
    found = factors.grid(results)
    table = found.set_index("run")
    means = {"x-x-mono": 1.9 / 3, "x-y": 1.95 / 3, "hybrid-0.5": 0.65}
    means |= {"x-x-mono-t.05": 0.6, "x-y-t.05": 1.9 / 3, "hybrid-0.5-t.05": 0.67}
    assert table["mean"].to_dict() == pytest.approx(means, abs=1e-3)
    assert table.index[table["chosen"]].tolist() == ["x-x-mono", "x-y", "hybrid-0.5-t.05"]
    assert table.loc["hybrid-0.5-t.05", ["strategy", setting]].tolist() == ["hybrid-0.5", other]
    first, *_, last = factors.grid_answers(results, found, factors.grid_effects(results))
    plain = getattr(study.settings("x-y", 0), setting)
    chosen = f"x-x-mono {plain}, x-y {plain}, hybrid-0.5 {other}"
    assert first.startswith(f"Chosen on held-out pairs, {setting}: {chosen}. With {factors.FIX}:")
    assert last.startswith("atlas-qa, monolingual mAP") and f" at {other}" in last
    fixed = (
        factors.tuned(results)
        .set_index("minus")[f"multilingual, both with {factors.FIX}"]
        .str.split(" ")
        .str[0]
    )
    assert fixed.to_dict() == {"x-x-mono": "+.000", "x-y": "+.000", "none": "+.000"}
    told = factors.tuned(results).set_index("minus")["multilingual"].str.split(" ").str[0]
    assert told.to_dict() == {
        "x-x-mono": "+.060",
        "x-y": "+.010",
        "none": "+.160",
    }  # on the task that judges


def test_two_machines_beside_each_other() -> None:
    one, other = (
        with_fix(PAPER_LIKE, ALL_EQUAL),
        with_fix(PAPER_LIKE | {"x-y": level(0.7, 0.6, 0.5)}, ALL_EQUAL, profile="two"),
    )
    table = factors.across(one, other).set_index(["strategy", "setting"])
    assert len(table) == 4 * 3
    assert table["difference"].abs().sum() == pytest.approx(
        table.loc["x-y", "difference"].abs().sum()
    )
    assert table.loc[
        ("x-y", "multilingual"), ["one", "two", "difference"]
    ].tolist() == pytest.approx([0.55, 0.5, -0.05])
