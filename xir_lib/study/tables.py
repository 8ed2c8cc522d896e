"""Tables out of collected results: every one a function of what `study.collect` wrote, none typed
in.

No model is needed. An interval and the p-value beside it cover groups of questions and, where a
strategy was trained several times, its seeds (`significance`).
"""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from xir_lib.errors import InputError
from xir_lib.evaluation.compare import COMPARED, comparison_table
from xir_lib.metrics.bias import RANK_DISTANCE
from xir_lib.metrics.bounds import random_average_precision
from xir_lib.metrics.measures import CELL, SETTINGS
from xir_lib.metrics.significance import compare
from xir_lib.repair.kinds import parse_kind
from xir_lib.study.profile import HELD_OUT, Study
from xir_lib.study.results import Results
from xir_lib.training.cost import Mixture

PAPER_NAMES = {"xquad-r": "XQuAD-R", "mlqa-r": "MLQA-R"}
PAPER_STRATEGIES = {"x-x-mono": "x_x_mono", "x-y": "x_y", "hybrid-0.5": "hybrid"}
HYBRID = "hybrid-0.5"
PURE = ("x-x-mono", "x-y")


def scores(results: Results) -> pd.DataFrame:
    """Return one row per (task, strategy, rival, setting, measure): value, and lowest and highest
    over seeds.
    """
    rows = [
        {
            "task": e["task"],
            "strategy": e["strategy"],
            "rival": e["rival"],
            "setting": setting,
            "measure": measure,
            "value": value,
        }
        for e in results.evaluations
        for setting, measures in [
            *e["settings"].items(),
            ("multilingual", {RANK_DISTANCE: e["bias"]["rank_distance"]["mean"]}),
        ]
        for measure, value in measures.items()
    ]
    keys = ["task", "strategy", "rival", "setting", "measure"]
    grouped = pd.DataFrame(rows).groupby(keys, sort=False)["value"]
    return grouped.agg(value="mean", low="min", high="max", seeds="count").reset_index()


def main_table(results: Results, task: str) -> pd.DataFrame:
    """Return the study's table for one task: strategy and free fix in rows, the three settings and
    the bias in columns.
    """
    table = scores(results).query("task == @task and strategy != 'untrained'")
    wanted = [(setting, "mAP") for setting in SETTINGS] + [
        ("multilingual", "R@10"),
        ("multilingual", RANK_DISTANCE),
    ]
    wide = table.pivot_table(
        index=["strategy", "rival"],
        columns=["setting", "measure"],
        values="value",
        observed=True,
        sort=False,
    )
    wide = wide[wanted]
    wide.columns = [
        *(f"{setting} mAP" for setting in SETTINGS),
        "multilingual R@10",
        "rank distance",
    ]
    return wide.reset_index().rename(columns={"rival": "free fix"})


def group_sums(results: Results, task: str, strategy: str, rival: str) -> pd.DataFrame:
    """Return the sums per group of a strategy, with a column `seed` if it was trained."""
    sums = results.group_sums
    mine = sums[(sums["task"] == task) & (sums["strategy"] == strategy) & (sums["rival"] == rival)]
    if mine.empty:
        raise InputError(
            f"no results of {strategy!r} with rival {rival!r} on {task!r}; run the profile that has"
            " them"
        )
    if strategy in results.study.strategies:
        seeds = {
            run: int(run.rsplit("-s", 1)[1]) for run in mine["run"].unique()
        }  # a run at a time, not a row
        mine = mine.assign(seed=mine["run"].map(seeds).astype(int))
    return mine


def within(sums: pd.DataFrame, languages: Sequence[str]) -> pd.DataFrame:
    """Return the sums of the queries in these languages, over pools of one of them or of all
    languages.
    """
    return sums[sums["query_lang"].isin(languages) & sums["pool"].isin([*languages, "all"])]


def tasks_of(results: Results) -> list[str]:
    """Return the tasks that judge a profile: not a part of another one, not the held-out pairs."""
    tasks = [evaluation.task for evaluation in results.study.evaluations]
    return [task for task in tasks if "standalone" not in task and task != HELD_OUT]


def trained_languages(results: Results, strategy: str | None = None) -> set[str]:
    """Return the languages of the training pairs; a mixture, which is never trained on, has none.

    With a strategy or variant, those that its batches draw.
    """
    data = results.study.data
    if isinstance(data, Mixture):
        return set()
    drawn = results.study.settings(strategy, results.study.seeds[0]).languages if strategy else None
    return {*(drawn or data.languages)}


def trained_runs(results: Results) -> list[tuple[str, dict[str, Any]]]:
    """Return the record of every trained model behind the name of its strategy or variant."""
    names = [
        run.rsplit("-s", 1)[0] for run in results.study.runs if run not in ("none", "untrained")
    ]
    return list(zip(names, results.runs, strict=True))


def free_fixes(results: Results) -> list[str]:
    """Return what costs no training and leaves the encoder in use: the rivals but `none` and
    BM25.
    """
    return [
        rival for rival in results.study.rivals if rival != "none" and not parse_kind(rival).lexical
    ]


def interval_scope(results: Results) -> str:
    """Say what the intervals of a profile cover."""
    seeds = len(results.study.seeds)
    return (
        f"groups of questions and {seeds} training seeds"
        if seeds > 1
        else "groups of questions, one training seed"
    )


def scope_by_row(seeds: Iterable[int], units: str) -> str:
    """Say what the 95 % intervals of a table cover that has systems of several numbers of `seeds`;
    `units` are its groups.

    >>> scope_by_row([0, 1], "topics")
    'The 95 % intervals cover topics alone: no model was measured with a second training seed.'
    >>> scope_by_row([0, 1, 3], "topics")[:77]
    'The 95 % intervals cover topics and training seeds where `seeds` is 2 or more'
    """
    if max(seeds, default=0) > 1:
        return (
            f"The 95 % intervals cover {units} and training seeds where `seeds` is 2 or more, and"
            f" {units} alone elsewhere."
        )
    return (
        f"The 95 % intervals cover {units} alone: no model was measured with a second training"
        " seed."
    )


def trainings(folders: Iterable[str]) -> dict[str, tuple[str, int | None]]:
    """Return the system and the seed of every folder: `x-s0` and `x-s1` are trainings of `x`,
    `x-s0/fix` one of `x/fix`.

    A folder without such a number is a system of its own, with the seed None. Refused are two
    folders of one system and seed, and numbered ones beside an unnumbered one: whether it is a
    training like the others, nobody could tell.

    >>> trainings(["none", "low_resource-x-y-s2/centring"])
    {'none': ('none', None), 'low_resource-x-y-s2/centring': ('low_resource-x-y/centring', 2)}
    """
    found: dict[str, tuple[str, int | None]] = {}
    of: dict[str, dict[int | None, str]] = {}
    for folder in folders:
        first, slash, rest = folder.partition("/")
        name = re.fullmatch(r"(.+)-s(\d+)", first)
        system, seed = (f"{name[1]}{slash}{rest}", int(name[2])) if name else (folder, None)
        others = of.setdefault(system, {})
        if seed in others or (others and (seed is None or None in others)):
            there = others.get(seed, next(iter(others.values())))
            raise InputError(
                f"{there} and {folder} are both of {system}; give each training a number of its"
                " own, as -s0"
            )
        others[seed] = folder
        found[folder] = system, seed
    return found


def comparisons(
    results: Results, pairs: Sequence[tuple[str, str, str, str]], *, family: bool = False
) -> pd.DataFrame:
    """Compare (strategy a, rival a, strategy b, rival b) on every task: mAP in the settings, and
    rank distance.

    A `family` leaves out the tasks that a profile calls exploratory. A merged ranking is compared
    in the multilingual setting alone, as it changes no other.

    Columns: task, a, b, setting, measure, then those of `comparison_table`. Positive is better for
    mAP, negative for rank distance.
    """
    keys, found = [], []
    for evaluation in results.study.evaluations:
        if family and evaluation.exploratory:
            continue
        for a, rival_a, b, rival_b in pairs:
            sums = [
                group_sums(results, evaluation.task, *name) for name in ((a, rival_a), (b, rival_b))
            ]
            for setting, measure in COMPARED:
                if setting != "multilingual" and (merges(rival_a) or merges(rival_b)):
                    continue
                n, seed = results.study.resamples, results.study.report_seed
                found.append(
                    compare(*sums, setting=setting, measure=measure, n_resamples=n, seed=seed)
                )
                names = {"task": evaluation.task, "a": label(a, rival_a), "b": label(b, rival_b)}
                keys.append({**names, "setting": setting, "measure": measure})
    return comparison_table(keys, found, family=family)


def primary_family(results: Results) -> pd.DataFrame:
    """Compare hybrid with the two pure strategies: the declared family, with Holm-adjusted
    p-values, on the declared tasks.
    """
    return comparisons(results, hybrid_and_pure(results.study), family=True)


def against_pure(results: Results) -> pd.DataFrame:
    """Compare hybrid with the two pure strategies on every task, the exploratory ones included; p
    unadjusted.
    """
    return comparisons(results, hybrid_and_pure(results.study))


def hybrid_and_pure(study: Study) -> list[tuple[str, str, str, str]]:
    """Return what a study's pages compare, as `comparisons` takes it; a profile without it is
    refused.
    """
    others = [name for name in PURE if name in study.strategies]
    if HYBRID not in study.strategies or not others:
        raise InputError(
            f"the profile trains {', '.join(study.strategies)}; a study compares {HYBRID} with"
            f" {' or '.join(PURE)}: add them, or train one model with `xir train`"
        )
    return [(HYBRID, "none", other, "none") for other in others]


def against_none(results: Results) -> pd.DataFrame:
    """Compare every trained strategy, and every free fix, with the off-the-shelf encoder;
    exploratory, p unadjusted.
    """
    strategies = results.study.strategies
    pairs = [(strategy, "none", "none", "none") for strategy in strategies]
    for rival in results.study.rivals:
        if rival != "none":
            pairs += [
                ("none", rival, "none", "none"),
                *((strategy, rival, "none", rival) for strategy in strategies),
            ]
    return comparisons(results, pairs)


def repairs(results: Results) -> pd.DataFrame:
    """Compare the free fixes of the encoder as it is with each other; exploratory, p unadjusted,
    the pool of all languages.

    What takes more than the mean out of the vectors with centring, and every other merge with round
    robin on the same vectors.
    """
    found = {name: parse_kind(name) for name in results.study.rivals if name != "none"}
    pairs = []
    for name, rival in found.items():
        first = name.split("+")[0]
        plain = (
            f"{first}+round-robin" if "+" in name else "round-robin" if rival.merge else "centring"
        )
        if name != plain and plain in found and not rival.lexical:
            pairs.append(("none", name, "none", plain))
    table = comparisons(results, pairs)
    if table.empty:
        return table
    table = table[(table["setting"] == SETTINGS[-1]) & (table["measure"] == "mAP")]
    return table[["task", "a", "b", "difference", "low", "high", "p", "verdict"]]


def decision_table(results: Results) -> pd.DataFrame:
    """Return what a user can do about an encoder, and what it does: nothing, every free fix, every
    strategy, both together.

    Columns: repair, `language known of` (which texts, when searching), minutes (of training, mean
    over seeds, on the machine of the runs), then per task the difference in mAP from the encoder as
    it is: `TASK multi`, and with its 95 % interval `TASK mono`. A merge changes no pool of one
    language, so what stands there is of the rival before the merge, nothing if the profile lacks
    it. BM25 is no repair.
    """
    tasks = [evaluation.task for evaluation in results.study.evaluations]
    minutes = pd.DataFrame(
        [{"strategy": name, "minutes": run["seconds"] / 60} for name, run in trained_runs(results)]
    )
    strategies = results.study.strategies
    repairs = [("none", fix) for fix in ("none", *free_fixes(results))] + [
        (strategy, "none") for strategy in strategies
    ]
    repairs += [(strategy, fix) for fix in free_fixes(results) for strategy in strategies]
    table = scores(results).query("setting == 'multilingual' and measure == 'mAP'")
    values = table.set_index(["task", "strategy", "rival"])["value"]
    rows = []
    for strategy, fix in repairs:
        _, shift, merge, _ = parse_kind(fix)
        trained = minutes.query("strategy == @strategy")["minutes"]
        row: dict[str, Any] = {
            "repair": fix if strategy == "none" else label(strategy, fix),
            "language known of": ("all texts" if shift else "passages" if merge else "none"),
            "minutes": f"{trained.mean():.0f}" if len(trained) else "0",
        }
        gains = {task: values[task, strategy, fix] - values[task, "none", "none"] for task in tasks}
        row |= {f"{task} multi": f"{gain:+.3f}".replace("0.", ".") for task, gain in gains.items()}
        unmerged = fix.removesuffix(f"+{merge}") if shift else "none"
        row |= {f"{task} mono": _change(results, task, strategy, unmerged) for task in tasks}
        rows.append(row)
    return pd.DataFrame(rows)


def advantage(results: Results) -> pd.DataFrame:
    """Return the hybrid minus every other strategy and minus the encoder as it is, as `differences`
    does.
    """
    others = [*(name for name in results.study.strategies if name != HYBRID), "none"]
    return differences(results, HYBRID, others).rename(columns={"minus": "hybrid minus"})


def differences(results: Results, strategy: str, others: Sequence[str]) -> pd.DataFrame:
    """Return a strategy minus others, and what is left of it with a merge.

    Columns: task, minus, then differences with their 95 % interval: mAP in the three settings,
    multilingual mAP with each free fix that merges rankings on both sides, rank distance. A row
    that subtracts `none` says what training adds.
    """
    fixes = [fix for fix in free_fixes(results) if merges(fix)]
    rows = []
    plain = comparisons(results, [(strategy, "none", other, "none") for other in others])
    fixed = (
        comparisons(results, [(strategy, fix, other, fix) for fix in fixes for other in others])
        if fixes
        else plain[:0]
    )
    for evaluation in results.study.evaluations:
        for other in others:
            row: dict[str, Any] = {"task": evaluation.task, "minus": other}
            for column, table, b in (
                ("", plain, other),
                *((f", both with {fix}", fixed, label(other, fix)) for fix in fixes),
            ):
                mine = table[(table["task"] == evaluation.task) & (table["b"] == b)]
                for found in mine.itertuples():
                    if found.measure == "mAP" and (not column or found.setting == "multilingual"):
                        row[f"{found.setting}{column}"] = _interval(found).replace("0.", ".")
            mine = plain[
                (plain["task"] == evaluation.task)
                & (plain["b"] == other)
                & (plain["measure"] == RANK_DISTANCE)
            ]
            found = next(mine.itertuples())
            row[RANK_DISTANCE] = f"{found.difference:+,.0f} [{found.low:+,.0f}, {found.high:+,.0f}]"
            rows.append(row)
    return pd.DataFrame(rows)


def _change(results: Results, task: str, strategy: str, rival: str) -> str:
    """Return the difference in monolingual mAP from the encoder as it is, with its interval."""
    if (strategy, rival) == ("none", "none"):
        return "0"
    if rival not in results.study.rivals:
        return ""
    sums = [group_sums(results, task, *name) for name in ((strategy, rival), ("none", "none"))]
    n, seed = results.study.resamples, results.study.report_seed
    return _interval(
        compare(*sums, setting="monolingual", measure="mAP", n_resamples=n, seed=seed)
    ).replace("0.", ".")


def _interval(found: Any) -> str:
    return f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def by_setting(table: pd.DataFrame) -> pd.DataFrame:
    """Put the mAP rows of `comparisons` side by side: task, strategy, against, and per setting
    `difference [low, high]`.

    Merging orders the languages of the multilingual pool and changes no pool of one language; these
    cells are empty.
    """
    table = table[table["measure"] == "mAP"].copy()
    table["text"] = [_interval(row) for row in table.itertuples()]
    table = table.rename(columns={"a": "strategy", "b": "against"})
    keys = ["task", "strategy", "against"]
    order = pd.MultiIndex.from_frame(table[keys].drop_duplicates())
    wide = (
        table.pivot(index=keys, columns="setting", values="text")
        .loc[order, list(SETTINGS)]
        .fillna("")
    )
    return wide.rename_axis(columns=None).reset_index()


def merges(rival: str) -> bool:
    """Say whether a free fix merges the rankings of single languages, which changes the
    multilingual setting alone.
    """
    return parse_kind(rival).merge is not None


def label(strategy: str, rival: str) -> str:
    """Return the name of a strategy with a free fix, as tables and legends show it."""
    return strategy if rival == "none" else f"{strategy} + {rival}"


@cache
def published() -> pd.DataFrame:
    """Return the paper's printed results (columns table, dataset, encoder, metric, setting,
    query_lang, then strategies).
    """
    return pd.read_csv(Path(__file__).with_name("published_results.csv"))


def cell_means(results: Results, task: str, rival: str = "none") -> pd.DataFrame:
    """Return the mean over queries of each (strategy, setting, query_lang, pool, measure), averaged
    over seeds.
    """
    sums = results.group_sums
    mine = sums[
        (sums["task"] == task) & (sums["rival"] == rival) & (sums["strategy"] != "untrained")
    ]
    totals = mine.groupby(["strategy", *CELL, "measure"], observed=True, sort=False)[
        ["n", "total"]
    ].sum()
    return (totals["total"] / totals["n"]).rename("value").reset_index()


def pair_cells(results: Results, task: str) -> pd.DataFrame:
    """Return mAP by (strategy, query_lang, pool) over the pools of one language."""
    table = cell_means(results, task)
    chosen = table[(table["measure"] == "mAP") & (table["setting"] != "multilingual")]
    return chosen[["strategy", "query_lang", "pool", "value"]].reset_index(drop=True)


def language_cells(results: Results, task: str, setting: str, measure: str) -> pd.DataFrame:
    """Return one measure by (strategy, query_lang) in the monolingual or the multilingual
    setting.
    """
    table = cell_means(results, task)
    chosen = table[(table["measure"] == measure) & (table["setting"] == setting)]
    return chosen[["strategy", "query_lang", "value"]].reset_index(drop=True)


def bias_bounds(results: Results, task: str) -> dict[str, float]:
    """Return the rank distance of an ideal and of a random ranking, and of one with the query's
    language before all others.
    """
    distance = next(e for e in results.evaluations if e["task"] == task)["bias"]["rank_distance"]
    names = {"ideal": "ideal", "same language\nfirst": "same_language_first", "random": "random"}
    return {label: distance[name] for label, name in names.items()}


def bias_table(results: Results) -> pd.DataFrame:
    """Return per task, strategy and free fix: rank distance (mean, median) and same-language
    preference, with their bounds.
    """
    rows = []
    for evaluation in results.evaluations:
        distance, preference = (
            evaluation["bias"]["rank_distance"],
            evaluation["bias"]["same_language_preference"],
        )
        numbers = {
            "rank distance": distance["mean"],
            "median": distance["median"],
            "ideal": distance["ideal"],
            "random": distance["random"],
            "same language first": distance["same_language_first"],
            "own language first": preference["mean"],
            "no preference": preference["no_preference"],
        }
        rows.append(
            {
                "task": evaluation["task"],
                "strategy": label(evaluation["strategy"], evaluation["rival"]),
                **numbers,
            }
        )
    return pd.DataFrame(rows).groupby(["task", "strategy"], sort=False).mean().reset_index()


def preference_cells(results: Results, task: str) -> tuple[pd.DataFrame, float]:
    """Return the same-language preference by (strategy, query_lang), averaged over seeds, and its
    value without preference.
    """
    chosen = [
        e
        for e in results.evaluations
        if e["task"] == task and e["rival"] == "none" and e["strategy"] != "untrained"
    ]
    rows = [
        {"strategy": e["strategy"], "query_lang": lang, "value": value}
        for e in chosen
        for lang, value in e["bias"]["same_language_preference"]["per_language"].items()
    ]
    table = (
        pd.DataFrame(rows)
        .groupby(["strategy", "query_lang"], sort=False)["value"]
        .mean()
        .reset_index()
    )
    return table, chosen[0]["bias"]["same_language_preference"]["no_preference"]


def card_cells(results: Results, task: str, measure: str) -> pd.DataFrame:
    """Return a part of the bias cards by (strategy, query_lang, pool), averaged over seeds, without
    free fixes.

    `measure` is `language_share` (of the top k, the pool being the passage's language) or
    `one_target` (mAP if only the answer in the pool's language is kept).
    """
    part = {"language_share": "share", "one_target": "cells"}[measure]
    rows = [
        {"strategy": e["strategy"], "query_lang": query_lang, "pool": doc_lang, "value": value}
        for e in results.evaluations
        if e["task"] == task and e["rival"] == "none" and e["strategy"] != "untrained"
        for query_lang, row in e["bias"][measure][part].items()
        for doc_lang, value in row.items()
    ]
    keys = ["strategy", "query_lang", "pool"]
    return pd.DataFrame(rows).groupby(keys, sort=False)["value"].mean().reset_index()


def distance_cells(results: Results, task: str) -> pd.DataFrame:
    """Return the rank distance by (strategy, query_lang), averaged over seeds: mean as value, 5 and
    95 % quantile as low, high.

    The quantiles are of the queries, no interval of the mean; results of older evaluations have
    none.
    """
    table = language_cells(results, task, "multilingual", RANK_DISTANCE)
    rows = [
        {"strategy": e["strategy"], "query_lang": lang, "low": low, "high": quantiles["0.95"][lang]}
        for e in results.evaluations
        if e["task"] == task
        and e["rival"] == "none"
        and (quantiles := e["bias"]["rank_distance"].get("quantiles"))
        for lang, low in quantiles["0.05"].items()
    ]
    if not rows:
        return table
    keys = ["strategy", "query_lang"]
    return table.merge(
        pd.DataFrame(rows).groupby(keys)[["low", "high"]].mean().reset_index(), on=keys
    )


def sanity_checks(results: Results) -> pd.DataFrame:
    """Return checks of the whole pipeline that can fail: check, value, bound, passed.

    Across languages an untrained encoder ranks about as a random one does (in one language equal
    words give it away: it is a random projection of a bag of pieces); a trained strategy is not the
    encoder it started from; the monolingual task leaves room above the off-the-shelf encoder; no
    mean leaves [0, 1].
    """
    table = scores(results)
    maps = (
        table[table["measure"] == "mAP"]
        .set_index(["task", "strategy", "rival", "setting"])["value"]
        .sort_index()
    )
    rows: list[dict[str, Any]] = []
    for evaluation in results.study.evaluations:
        task = evaluation.task
        none = maps[task, "none", "none"]
        if results.study.untrained:
            random = expected_random(results, task)
            value, bound = (
                maps[task, "untrained", "none", "cross-lingual"],
                2 * random["cross-lingual"],
            )
            rows.append(
                _check(
                    task,
                    "untrained cross-lingual mAP, at most twice random",
                    value,
                    bound,
                    value <= bound,
                )
            )
        for strategy in results.study.strategies:
            gap = max(
                abs(maps[task, strategy, "none", setting] - none[setting]) for setting in SETTINGS
            )
            rows.append(_check(task, f"{strategy} differs from none", gap, 1e-4, gap > 1e-4))
        rows.append(
            _check(
                task,
                "none monolingual mAP leaves room",
                none["monolingual"],
                0.95,
                none["monolingual"] < 0.95,
            )
        )
    rows.append(
        _check("all", "every mAP lies in [0, 1]", maps.max(), 1.0, bool(maps.between(0, 1).all()))
    )
    return pd.DataFrame(rows)


def expected_random(results: Results, task: str) -> dict[str, float]:
    """Return the mAP that a random ranking expects in the pool of one language (mean) and of all of
    them.
    """
    evaluation = next(e for e in results.evaluations if e["task"] == task)
    passages, languages = evaluation["counts"]["passages"], len(evaluation["counts"]["languages"])
    relevant = round(evaluation["bias"]["rank_distance"]["ideal"]) + 1
    single = random_average_precision(passages // languages, 1)
    return {
        "monolingual": single,
        "cross-lingual": single,
        "multilingual": random_average_precision(passages, relevant),
    }


def _check(task: str, check: str, value: float, bound: float, passed: bool) -> dict[str, Any]:
    return {"task": task, "check": check, "value": value, "bound": bound, "passed": passed}
