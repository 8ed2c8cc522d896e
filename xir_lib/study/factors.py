"""What decides: runs on design P that differ in one thing from the plain strategies.

`alphas`: the share of monolingual batches. `controls`: parallel text, and a loss of its own.
`cells`: of what a strategy is made. `factors`: how much data, how good a start. `grid` and `tuned`:
learning rate, temperature and steps, chosen for each strategy on held-out pairs. `against` and
`moved`: other training text. `across` and `turned`: the same runs on two machines. Those four take
the seeds that two profiles share, the others are of one seed; nothing but `turned` is adjusted.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xir_lib.errors import InputError
from xir_lib.evaluation.compare import COMPARED, MARGIN, comparison_table
from xir_lib.metrics.measures import SETTINGS
from xir_lib.metrics.significance import A_BETTER, B_BETTER, compare
from xir_lib.samplers.strategies import Strategy
from xir_lib.study.designs import FIX, hybrid_minus_pure
from xir_lib.study.profile import HELD_OUT
from xir_lib.study.results import Results, load_results
from xir_lib.study.tables import (
    HYBRID,
    PURE,
    comparisons,
    differences,
    free_fixes,
    group_sums,
    merges,
    primary_family,
    scores,
    tasks_of,
    trained_languages,
    trained_runs,
)
from xir_lib.training.settings import parse_strategy

LADDER, CONTROLS, CELLS, GRID = (
    "alpha",
    "controls",
    "two_by_two",
    "grid",
)  # the profiles of the functions so called
STEPS = "more_steps"  # a second grid, of the number of steps
FEW, ONE, MORE = (
    "few_ids",
    "one_at_a_time",
    "one_at_a_time_more",
)  # of `being_parallel`; of most of `FACTORS`
AGAIN = ("parallel", "replica")  # the same runs, on a CPU and on a GPU
ADDED = ("mlqa_atlas", "matched")  # with and without made-up text beside the real one
NEAR = ("apart", "matched")  # without and with the training text that is near to the tests
FACTORS = {  # what was changed: the profile, and what its variants' names end in
    "as it is": (CELLS, ""),
    "64 ids of 708": (FEW, "-64"),
    "240 ids of 708": (MORE, "-240"),
    "first six layers": ("first_six", ""),
    "3 of 11 languages": (ONE, "-l3"),
    "6 of 11 languages": (MORE, "-l6"),
    "batches of 16": (ONE, "-b16"),
    "batches of 100": (MORE, "-b100"),
    "600 steps": (STEPS, "-600"),
    "temperature .05": (GRID, "-t.05"),
    "temperature .01": (GRID, "-t.01"),
}
CHOSEN = [
    "learning rate",
    "temperature",
    "steps",
]  # the settings that held-out pairs choose, where a profile has several
CONTRASTS = [  # what is changed: strategy, minus
    ("mixed batches, pairs of one language", "x-x", "x-x-mono"),
    ("mixed batches, pairs of two", "x-y", "x-y-pair"),
    ("pairs of two, batches of one language (pair)", "x-y-pair", "x-x-mono"),
    ("pairs of two, mixed batches", "x-y", "x-x"),
    ("mixture within the batch", "hybrid-row-0.5", HYBRID),
]


def alphas(results: Results) -> pd.DataFrame:
    """Return what the share of monolingual batches does, from none (`x-y`, alpha 0) to all
    (`x-x-mono`, alpha 1).

    Columns: strategy, alpha, share (of same-language pairs in the batches that were drawn), minus
    (each pure strategy), task, free fix (`FIX`, on both sides, in the multilingual setting alone),
    setting, mAP (the strategy's), then those of `comparison_table`; nothing is adjusted.
    """
    known = [name for name in results.study.strategies if name not in results.study.variants]
    ladder = {
        name: _alpha(name)
        for name in known
        if name in PURE or parse_strategy(name)[0] is Strategy.HYBRID
    }
    if missing := [name for name in PURE if name not in ladder]:
        raise InputError(
            f"profile {results.study.profile} lacks {', '.join(missing)}, an end of alpha; name one"
            " that has both"
        )
    mixes = [
        (name, run["realised"]["pairs"]) for name, run in trained_runs(results) if name in ladder
    ]
    drawn = pd.DataFrame(
        [
            {"strategy": name, "share": mix["same-language"] / sum(mix.values())}
            for name, mix in mixes
        ]
    )
    share = drawn.groupby("strategy")["share"].mean()
    fixes = ["none", *([FIX] if FIX in results.study.rivals else [])]
    table = scores(results)
    level = table[table["measure"] == "mAP"].set_index(["task", "strategy", "rival", "setting"])[
        "value"
    ]
    frames = []
    for name in sorted(ladder, key=lambda name: ladder[name]):
        for minus in PURE:
            for fix in fixes:
                if name == minus:
                    continue
                found = comparisons(results, [(name, fix, minus, fix)]).drop(columns=["a", "b"])
                found = found[found["measure"] == "mAP"]
                at = [
                    level[task, name, fix, setting]
                    for task, setting in zip(found["task"], found["setting"], strict=True)
                ]
                found.insert(0, "mAP", at)
                key = {
                    "strategy": name,
                    "alpha": ladder[name],
                    "share": share[name],
                    "minus": minus,
                    "free fix": fix,
                }
                frames.append(pd.DataFrame(key, index=found.index).join(found))
    first = ["strategy", "alpha", "share", "minus", "task", "free fix", "setting", "measure", "mAP"]
    together = pd.concat(frames, ignore_index=True)
    return together[[*first, *together.columns.difference(first, sort=False)]]


def _alpha(strategy: str) -> float:
    return 0.0 if strategy == "x-y" else parse_strategy(strategy)[1]


def alpha_answers(table: pd.DataFrame) -> list[str]:
    """Say how mAP goes with alpha, per task and setting; `table` is `alphas`.

    Where one pure strategy leads the other by more than the margin: which share of that lead each
    mixture keeps, 100 % being the better end and 0 % the other one. And which mixtures are above
    both ends by their intervals, by how much at least.
    """
    drawn = table.groupby("alpha")["share"].first()
    pairs = ", ".join(f"{alpha:g} ({share:.2f})" for alpha, share in drawn.items())
    sentences = [f"mAP by alpha, in brackets the monolingual share that was drawn: {pairs}."]
    for names, part in table.groupby(["free fix", "setting", "task"], sort=False):
        fix, setting, task = map(str, names)
        points = part.groupby("alpha")["mAP"].first()
        low, high = sorted((points[0.0], points[1.0]))
        lead = high - low > MARGIN
        kept, above = [], []
        for alpha in points.index.drop([0.0, 1.0]).tolist():
            both = part[part["alpha"] == alpha]
            if lead:
                kept.append(f"{(points[alpha] - low) / (high - low):.0%}")
            if both["verdict"].eq(A_BETTER).all():
                above.append(f"{alpha:g} (by {both['difference'].min():.3f})")
        where = setting if fix == "none" else f"{setting}, with {fix}"
        sentences.append(
            f"{task}, {where}: {', '.join(f'{value:.3f}' for value in points)}; "
            + (f"of the better end's lead {', '.join(kept)} kept between them; " if lead else "")
            + f"above both ends: {', '.join(above) or 'none'}."
        )
    return sentences


def controls(results: Results) -> pd.DataFrame:
    """Return every variant of a profile minus the encoder as it is, `x-x-mono` and the hybrid, as
    `tables.differences` does.
    """
    if not results.study.variants:
        raise InputError(
            f"profile {results.study.profile} has no variants; name one that has, such as"
            f" {CONTROLS}"
        )
    parts = [
        differences(results, name, ["none", "x-x-mono", HYBRID]) for name in results.study.variants
    ]
    frames = [
        part.assign(variant=name) for name, part in zip(results.study.variants, parts, strict=True)
    ]
    table = pd.concat(frames, ignore_index=True)
    return table[["task", "variant", *table.columns.difference(["task", "variant"], sort=False)]]


def control_answers(results: Results) -> list[str]:
    """Say per task the multilingual mAP of everything trained, and the share of `x-x-mono`'s gain
    that each variant has.
    """
    sentences = []
    for task, part in _multilingual(results).groupby("task", sort=False):
        level = part.set_index("strategy")["value"].sort_values()
        gain = level["x-x-mono"] - level["none"]
        variants = [name for name in level.index if name in results.study.variants]
        shares = [f"{name} {(level[name] - level['none']) / gain:.0%}" for name in variants]
        sentences.append(
            f"{task}, multilingual mAP:"
            f" {', '.join(f'{name} {value:.3f}' for name, value in level.items())}. Of x-x-mono's"
            f" gain over none: {', '.join(shares)}."
        )
    return sentences


def cells(results: Results) -> pd.DataFrame:
    """Return what each of the two things that make a strategy changes: a row per contrast and task.

    The things are the pairs (of one language or of two) and the batch (of one language or language
    pair, or mixed), and a mixture within batches instead of between them. Columns: changed, task,
    strategy, minus, then those of `differences`.
    """
    if missing := {name for _, *pair in CONTRASTS for name in pair} - set(results.study.strategies):
        raise InputError(
            f"profile {results.study.profile} lacks {', '.join(sorted(missing))}; name one that"
            f" has, such as {CELLS}"
        )
    parts = [
        differences(results, strategy, [minus]).assign(changed=changed, strategy=strategy)
        for changed, strategy, minus in CONTRASTS
    ]
    table = pd.concat(parts, ignore_index=True)
    first = ["changed", "task", "strategy", "minus"]
    return table[[*first, *table.columns.difference(first, sort=False)]]


def cell_answers(results: Results) -> list[str]:
    """Say the multilingual mAP of every cell, and what each thing changes by itself."""
    sentences = []
    for task, part in _multilingual(results).groupby("task", sort=False):
        level = part.set_index("strategy")["value"]
        shown = [
            name
            for name in ("none", "x-x-mono", "x-x", "x-y-pair", "x-y", HYBRID, "hybrid-row-0.5")
            if name in level
        ]
        changes = [
            f"{changed} {level[strategy] - level[minus]:+.3f}"
            for changed, strategy, minus in CONTRASTS
        ]
        sentences.append(
            f"{task}, multilingual mAP: {', '.join(f'{name} {level[name]:.3f}' for name in shown)}."
            f" Changed by {'; '.join(changes)}."
        )
    return sentences


def read_factors(folder: Path) -> dict[str, tuple[Results, str]]:
    """Return results and suffix behind every name of `FACTORS`; `folder` is `figures` of the
    repository.
    """
    return {
        changed: (load_results(Path(folder) / name / "results"), suffix)
        for changed, (name, suffix) in FACTORS.items()
    }


def factors(chosen: Mapping[str, tuple[Results, str]]) -> pd.DataFrame:
    """Return the hybrid minus each pure strategy for everything that was changed; columns of
    `designs.effects`.

    Where some of the profile's languages were trained on, those and the others stand apart as well.
    """
    parts = []
    for changed, (results, suffix) in chosen.items():
        part = hybrid_minus_pure(results, changed, suffix)
        fewer = trained_languages(results, f"{HYBRID}{suffix}") < trained_languages(results)
        parts.append(part if fewer else part[part["languages"] == "all"])
    return pd.concat(parts, ignore_index=True)


def factor_levels(chosen: Mapping[str, tuple[Results, str]]) -> pd.DataFrame:
    """Return the multilingual mAP behind `factors`, plain and with `FIX`: changed, task, free fix,
    none, each strategy.
    """
    rows = []
    for changed, (results, suffix) in chosen.items():
        for fix in ("none", FIX):
            table = _multilingual(results, fix).set_index(["task", "strategy"])["value"]
            for task in tasks_of(results):
                values = {name: table[task, f"{name}{suffix}"] for name in (*PURE, HYBRID)}
                rows.append(
                    {
                        "changed": changed,
                        "task": task,
                        "free fix": fix,
                        "none": table[task, "none"],
                        **values,
                    }
                )
    return pd.DataFrame(rows)


def fewer_ids(results: Results) -> pd.DataFrame:
    """Return every variant with few ids minus the encoder as it is and minus the same strategy on
    all ids.

    Columns: task, strategy, minus, then those of `differences`.
    """
    variants = {
        name: changes["strategy"]
        for name, changes in results.study.variants.items()
        if "ids" in changes
    }
    if not variants:
        raise InputError(
            f"profile {results.study.profile} has no variant with few ids; name one that has, such"
            " as few_ids"
        )
    parts = [
        differences(results, name, ["none", plain]).assign(strategy=name)
        for name, plain in variants.items()
    ]
    table = pd.concat(parts, ignore_index=True)
    return table[["task", "strategy", *table.columns.difference(["task", "strategy"], sort=False)]]


def being_parallel(few: Results, apart: Results) -> pd.DataFrame:
    """Return `x-x-mono` on few ids minus `disjoint`: as many texts, read as often, in parallel and
    not.

    `few` has the variant x-x-mono-64, `apart` (of `CONTROLS`) has `disjoint`. Columns: task,
    setting, measure, then those of `comparison_table`.
    """
    keys, found = [], []
    for task in tasks_of(few):
        sums = (
            group_sums(few, task, "x-x-mono-64", "none"),
            group_sums(apart, task, "disjoint", "none"),
        )
        for setting, measure in COMPARED:
            n, seed = few.study.resamples, few.study.report_seed
            found.append(compare(*sums, setting=setting, measure=measure, n_resamples=n, seed=seed))
            keys.append({"task": task, "setting": setting, "measure": measure})
    return comparison_table(keys, found, family=False)


def grid(results: Results, fix: str = "none") -> pd.DataFrame:
    """Return every run of a grid of settings with its mAP on the held-out pairs, and the best run
    of each strategy.

    Columns: strategy, run (its name in the profile), those settings of `CHOSEN` of which the
    profile has several, mAP in each setting and their mean, all with the free fix `fix`, chosen
    (whether that mean is the highest of the strategy).
    """
    table = scores(results)
    held_out = table[
        (table["task"] == HELD_OUT) & (table["rival"] == fix) & (table["measure"] == "mAP")
    ]
    if held_out.empty:
        raise InputError(
            f"profile {results.study.profile} has no task {HELD_OUT}; name one that has, such as"
            f" {GRID}"
        )
    wide = held_out.pivot(index="strategy", columns="setting", values="value")[list(SETTINGS)]
    rows = []
    for name in results.study.strategies:
        used = results.study.settings(name, results.study.seeds[0])
        chosen = (used.learning_rate, used.temperature, used.steps)
        rows.append((used.strategy, name, *chosen, *wide.loc[name], wide.loc[name].mean()))
    found = pd.DataFrame(rows, columns=["strategy", "run", *CHOSEN, *SETTINGS, "mean"])
    found = found.drop(columns=[setting for setting in CHOSEN if found[setting].nunique() == 1])
    return found.assign(chosen=found.index.isin(found.groupby("strategy")["mean"].idxmax()))


def tuned(results: Results) -> pd.DataFrame:
    """Return the hybrid minus the pure strategies and the encoder as it is, each at the settings
    that `grid` chose for it.

    Columns of `differences`, on the tasks that judge; `minus` has strategies. A column with a free
    fix on both sides has the settings that are best with that fix, since what is best without one
    need not be.
    """
    tables = {}
    for fix in ("none", *filter(merges, free_fixes(results))):
        found = grid(results, fix)
        best = found[found["chosen"]].set_index("strategy")["run"]
        table = differences(results, best[HYBRID], [*best[list(PURE)], "none"])
        table["minus"] = table["minus"].replace({run: strategy for strategy, run in best.items()})
        tables[fix] = table[table["task"].isin(tasks_of(results))].reset_index(drop=True)
    plain = tables.pop("none")
    fixed = {f"multilingual, both with {fix}": table for fix, table in tables.items()}
    return plain.assign(**{column: table[column] for column, table in fixed.items()})


def grid_effects(results: Results) -> pd.DataFrame:
    """Return the hybrid minus each pure strategy in every cell of a grid; columns of
    `designs.effects`, `profile` the cell.
    """
    frames = []
    found = grid(results)
    for cell in found[found["strategy"] == HYBRID].to_dict("records"):
        title = ", ".join(
            f"{setting.removeprefix('learning ')} {cell[setting]:g}"
            for setting in CHOSEN
            if setting in cell
        )
        frames.append(hybrid_minus_pure(results, title, cell["run"].removeprefix(HYBRID)))
    table = pd.concat(frames, ignore_index=True)
    return table[table["languages"] == "all"].reset_index(drop=True)


def grid_answers(results: Results, found: pd.DataFrame, effects: pd.DataFrame) -> list[str]:
    """Say what was chosen for whom, how often the hybrid leads, and what each cell does within a
    language.

    `found` is `grid`, `effects` is `grid_effects`.
    """
    settings = [setting for setting in CHOSEN if setting in found.columns]
    sentences = [f"Chosen on held-out pairs, {' and '.join(settings)}: {_chosen_settings(found)}."]
    if FIX in results.study.rivals:
        sentences[0] += f" With {FIX}: {_chosen_settings(grid(results, FIX))}."
    whole = effects[effects["free fix"] == "none"]
    for setting, part in whole.groupby("setting", sort=False):
        counted = []
        for other in PURE:
            signs = part[part["b"] == other]["verdict"]
            above, below = (int((signs == verdict).sum()) for verdict in (A_BETTER, B_BETTER))
            counted.append(f"{other} above in {above}, below in {below} of {len(signs)}")
        sentences.append(
            f"{str(setting).capitalize()}, cells and tasks: hybrid against"
            f" {'; against '.join(counted)}."
        )
    table = scores(results).query(
        "measure == 'mAP' and rival == 'none' and setting == 'monolingual'"
    )
    level = table.set_index(["task", "strategy"])["value"]
    for task in tasks_of(results):
        change = found.assign(
            change=[level[task, run] - level[task, "none"] for run in found["run"]]
        )
        cells = change.groupby(settings)["change"].mean().reset_index().to_dict("records")
        told = [f"{one['change']:+.3f} at {_at(one)}" for one in cells]
        sentences.append(
            f"{task}, monolingual mAP against the untouched encoder, mean of the strategies:"
            f" {', '.join(told)}."
        )
    return sentences


def _chosen_settings(found: pd.DataFrame) -> str:
    return ", ".join(
        f"{one['strategy']} {_at(one)}" for one in found[found["chosen"]].to_dict("records")
    )


def _at(cell: Mapping[Any, Any]) -> str:
    return " and ".join(f"{cell[setting]:g}" for setting in CHOSEN if setting in cell)


def across(one: Results, other: Results) -> pd.DataFrame:
    """Return the mAP of what two profiles both have, with its difference: the same settings and
    seeds on two machines.

    Columns: task, strategy, setting, the two profiles' names, difference. Seeds that only one has
    are left out.
    """
    one, other = _same_seeds(one, other)
    keys = ["task", "strategy", "rival", "setting", "measure"]
    both = scores(one).merge(scores(other), on=keys, suffixes=("", " other"))
    both = both[(both["measure"] == "mAP") & (both["rival"] == "none")]
    table = both[["task", "strategy", "setting"]].copy()
    table[one.study.profile], table[other.study.profile] = both["value"], both["value other"]
    table["difference"] = both["value other"] - both["value"]
    return table.reset_index(drop=True)


def against(one: Results, other: Results) -> pd.DataFrame:
    """Return every strategy of one profile minus the same strategy of another one, on the tasks and
    in the seeds of both.

    Columns: task, strategy, then those of `differences` but `minus`.
    """
    one, other = _same_seeds(one, other)
    tasks = [
        evaluation
        for evaluation in one.study.evaluations
        if evaluation.task in {*tasks_of(one)} & {*tasks_of(other)}
    ]
    strategies = [name for name in one.study.strategies if name in other.study.strategies]
    if not tasks or not strategies or not one.study.seeds:
        names = f"{one.study.profile} and {other.study.profile}"
        raise InputError(
            f"profiles {names} share no task, strategy or seed; name two that do, such as"
            f" {' and '.join(ADDED)}"
        )
    renamed = {name: f"{name} of the other" for name in strategies}
    theirs = other.group_sums[other.group_sums["strategy"].isin(strategies)]
    theirs = theirs.assign(strategy=theirs["strategy"].astype(str).map(renamed))
    study = one.study.model_copy(
        update={"evaluations": tasks, "strategies": [*one.study.strategies, *renamed.values()]}
    )
    both = one._replace(
        study=study, group_sums=pd.concat([one.group_sums, theirs], ignore_index=True)
    )
    parts = [differences(both, name, [renamed[name]]).assign(strategy=name) for name in strategies]
    table = (
        pd.concat(parts, ignore_index=True)
        .drop(columns="minus")
        .sort_values("task", kind="stable", ignore_index=True)
    )
    return table[["task", "strategy", *table.columns.difference(["task", "strategy"], sort=False)]]


def moved(one: Results, other: Results) -> pd.DataFrame:
    """Return the hybrid's lead over each pure strategy in one profile minus the same lead in
    another one.

    On the tasks and in the seeds of both; columns of `against`. A sum per group is the hybrid's
    minus the other's, so that the interval is that of the difference between the two leads, which
    share their queries.
    """
    return against(*(_leads(results) for results in _same_seeds(one, other)))


def near_questions(several: Sequence[Results]) -> pd.DataFrame:
    """Return how many questions of a task have a near-duplicate in a profile's training text, where
    they can be compared.

    Columns: profile, task, near, questions.
    """
    counts = [
        (results.study.profile, task, told)
        for results in several
        for task, told in results.overlap.items()
    ]
    rows = [
        (profile, task, told["touched"], told["queries"])
        for profile, task, told in counts
        if told["compared"]
    ]
    return pd.DataFrame(rows, columns=["profile", "task", "near", "questions"])


def _leads(results: Results) -> Results:
    """Return results with the strategies "hybrid-0.5 minus x-y" and so on, whose sums are
    differences.
    """
    unnamed = [
        name for name in results.group_sums.columns if name not in ("strategy", "n", "total")
    ]
    sums = {
        name: (
            results.group_sums[results.group_sums["strategy"] == name]
            .drop(columns="strategy")
            .assign(run=lambda part: part["run"].astype(str).str.rsplit("-s", n=1).str[1])
        )
        for name in (*PURE, HYBRID)
    }
    parts = []
    for name in PURE:
        both = sums[HYBRID].merge(
            sums[name], on=unnamed, suffixes=("", " other"), validate="one_to_one"
        )
        lead = f"{HYBRID} minus {name}"
        both = both.assign(
            total=both["total"] - both["total other"], strategy=lead, run=f"{lead}-s" + both["run"]
        )
        parts.append(both[[*unnamed, "strategy", "n", "total"]])
    study = results.study.model_copy(
        update={"strategies": [f"{HYBRID} minus {name}" for name in PURE]}
    )
    return results._replace(study=study, group_sums=pd.concat(parts, ignore_index=True))


def turned(one: Results, other: Results) -> str:
    """Say how the declared family's differences of one profile come out in the other one, in the
    seeds that both have.
    """
    one, other = _same_seeds(one, other)
    keys = ["task", "b", "setting", "measure"]
    both = primary_family(one).merge(primary_family(other), on=keys, suffixes=("", " other"))
    gap = (both["difference other"] - both["difference"])[both["measure"] == "mAP"].abs().max()
    turned = int((np.sign(both["difference"]) != np.sign(both["difference other"])).sum())
    decided = int(both[["verdict", "verdict other"]].isin([A_BETTER, B_BETTER]).all(axis=1).sum())
    inside = (
        (both["low"] <= both["difference other"]) & (both["difference other"] <= both["high"])
    ).sum()
    return (
        f"Of the {len(both)} declared differences, over the seeds that both have, {turned} change"
        f" their sign, {decided} are decided on both machines and {inside} lie inside the first"
        f" machine's 95 % interval; those in mAP differ by {gap:.3f} at most."
    )


def _same_seeds(*several: Results) -> list[Results]:
    """Return results with the seeds that all of them have; the sums per group and the untouched
    encoder included.
    """
    seeds = sorted(set.intersection(*({*results.study.seeds} for results in several)))
    kept = []
    for results in several:
        study = results.study.model_copy(update={"seeds": seeds})
        named = {*study.runs}
        sums = results.group_sums[results.group_sums["run"].isin(named)]
        evaluations = [one for one in results.evaluations if one["run"] in named]
        kept.append(results._replace(study=study, evaluations=evaluations, group_sums=sums))
    return kept


def _multilingual(results: Results, rival: str = "none") -> pd.DataFrame:
    table = scores(results)
    chosen = (
        (table["rival"] == rival)
        & (table["setting"] == "multilingual")
        & (table["measure"] == "mAP")
    )
    return table[chosen & (table["strategy"] != "untrained")]
