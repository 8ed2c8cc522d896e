"""Where the hybrid pays: what several profiles found, side by side.

Profiles differ in several things at once (training text, languages, amount), so this shows how far an answer carries over and
not which of these things decides; nothing is adjusted over profiles.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from xir_lib.errors import InputError
from xir_lib.metrics import SETTINGS
from xir_lib.samplers import Strategy
from xir_lib.significance import A_BETTER, B_BETTER, EQUIVALENT, compare
from xir_lib.study import Results, load_results
from xir_lib.tables import (
    HYBRID,
    MARGIN,
    PURE,
    comparison_table,
    comparisons,
    differences,
    free_fixes,
    group_sums,
    label,
    scores,
    tasks_of,
    trained_languages,
    trained_runs,
    within,
)
from xir_lib.train_settings import parse_strategy

PROFILES = ("parallel", "small", "low_resource", "atlas")  # judged on real questions; the demo is not
LADDER, CONTROLS = "alpha", "controls"  # the profiles of `alphas` and of `controls`, both on design P
FIX = "centring+round-robin"  # what the figure's last panel has on both sides


def read_designs(folder: Path, profiles: Sequence[str] = PROFILES) -> list[Results]:
    """Return the published results of these profiles, in this order; `folder` is `figures` of the repository."""
    if not profiles:
        raise InputError(f"no profile named; name folders of {folder}, such as {PROFILES[0]}")
    return [load_results(Path(folder) / name / "results") for name in profiles]


def design_table(designs: Sequence[Results]) -> pd.DataFrame:
    """Return what each profile trained on and how: profile, trained on, ids, languages, steps, batch, seeds, judged on."""
    rows = []
    for results in designs:
        run = results.runs[0]
        rows.append(
            {
                "profile": results.study.profile,
                "trained on": results.study.data.source,
                "ids": run["pairs"]["ids"],
                "languages": len(run["pairs"]["languages"]),
                "steps": run["settings"]["steps"],
                "batch": run["settings"]["batch_size"],
                "seeds": len(results.study.seeds),
                "judged on": ", ".join(tasks_of(results)),
            }
        )
    return pd.DataFrame(rows)


def effects(designs: Sequence[Results]) -> pd.DataFrame:
    """Return the hybrid minus each pure strategy in mAP, per profile, task and setting.

    Columns: profile, task, languages (`all` of the task, or those `trained` on or `unseen` where there are two of either), free
    fix (on both sides; with `FIX` the multilingual setting alone), b, setting, measure, then those of `comparison_table`.
    Nothing is adjusted.
    """
    keys, found = [], []
    for results in designs:
        n, seed = results.study.resamples, results.study.report_seed
        for task in tasks_of(results):
            for fix in ("none", FIX):
                sums = {name: group_sums(results, task, name, fix) for name in (HYBRID, *PURE)}
                splits = language_splits(results, sums[HYBRID]["query_lang"].unique().tolist())
                for split, languages in splits.items():
                    for other in PURE:
                        for setting in SETTINGS if fix == "none" else SETTINGS[-1:]:
                            pair = [within(sums[name], languages) for name in (HYBRID, other)]
                            found.append(compare(*pair, setting=setting, measure="mAP", n_resamples=n, seed=seed))
                            key = {"profile": results.study.profile, "task": task, "languages": split, "free fix": fix}
                            keys.append({**key, "b": other, "setting": setting, "measure": "mAP"})
    return comparison_table(keys, found, family=False)


def language_splits(results: Results, languages: Sequence[str]) -> dict[str, list[str]]:
    """Return `all` languages of a task, and if there are two of either those trained on and those unseen."""
    trained = trained_languages(results)
    parts = {"trained": [lang for lang in languages if lang in trained]}
    parts["unseen"] = [lang for lang in languages if lang not in trained]
    return {"all": list(languages), **(parts if min(map(len, parts.values())) > 1 else {})}


def shortfall(designs: Sequence[Results], *, language_known: bool) -> pd.DataFrame:
    """Return how far every repair stays below the best one: a choice that is seldom the best may never be far from it.

    A repair is a strategy or `none`, and, if the language of every text is known, each of them with each free fix that all
    profiles have. Columns: repair, then per setting the mean and the largest difference in mAP over profiles and tasks
    (`SETTING mean`, `SETTING worst`). Of a merge the settings of one language are those of its vectors.
    """
    shared = [fix for fix in free_fixes(designs[0]) if all(fix in free_fixes(results) for results in designs)]
    fixes = ["none", *shared] if language_known else ["none"]
    frames = []
    for results in designs:
        table = scores(results)
        wanted = table["task"].isin(tasks_of(results)) & (table["measure"] == "mAP") & table["rival"].isin(fixes)
        frames.append(table[wanted & table["strategy"].isin(["none", *PURE, HYBRID])].assign(profile=results.study.profile))
    together = pd.concat(frames)
    names = zip(together["strategy"], together["rival"], strict=True)
    together["repair"] = [label(strategy, fix) for strategy, fix in names]
    wide = together.pivot(index=["profile", "task", "setting"], columns="repair", values="value")
    below = wide.rsub(wide.max(axis=1), axis=0).groupby("setting")
    parts = {"mean": below.mean(), "worst": below.max()}
    table = pd.DataFrame({f"{setting} {name}": part.loc[setting] for setting in SETTINGS for name, part in parts.items()})
    order = [label(strategy, fix) for fix in fixes for strategy in ("none", *PURE, HYBRID)]
    return table.loc[order].rename_axis("repair").reset_index()


def alphas(results: Results) -> pd.DataFrame:
    """Return what the share of monolingual batches does, from none (`x-y`, alpha 0) to all (`x-x-mono`, alpha 1).

    Columns: strategy, alpha, share (of same-language pairs in the batches that were drawn), minus (each pure strategy), task,
    free fix (`FIX`, on both sides, in the multilingual setting alone), setting, mAP (the strategy's), then those of
    `comparison_table`; nothing is adjusted.
    """
    known = [name for name in results.study.strategies if name not in results.study.variants]
    ladder = {name: _alpha(name) for name in known if name in PURE or parse_strategy(name)[0] is Strategy.HYBRID}
    if missing := [name for name in PURE if name not in ladder]:
        raise InputError(f"profile {results.study.profile} lacks {', '.join(missing)}, an end of alpha; name one that has both")
    mixes = [(name, run["realised"]["pairs"]) for name, run in trained_runs(results) if name in ladder]
    drawn = pd.DataFrame([{"strategy": name, "share": mix["same-language"] / sum(mix.values())} for name, mix in mixes])
    share = drawn.groupby("strategy")["share"].mean()
    fixes = ["none", *([FIX] if FIX in results.study.rivals else [])]
    table = scores(results)
    level = table[table["measure"] == "mAP"].set_index(["task", "strategy", "rival", "setting"])["value"]
    frames = []
    for name in sorted(ladder, key=lambda name: ladder[name]):
        for minus in PURE:
            for fix in fixes:
                if name == minus:
                    continue
                found = comparisons(results, [(name, fix, minus, fix)]).drop(columns=["a", "b"])
                found = found[found["measure"] == "mAP"]
                at = [level[task, name, fix, setting] for task, setting in zip(found["task"], found["setting"], strict=True)]
                found.insert(0, "mAP", at)
                key = {"strategy": name, "alpha": ladder[name], "share": share[name], "minus": minus, "free fix": fix}
                frames.append(pd.DataFrame(key, index=found.index).join(found))
    first = ["strategy", "alpha", "share", "minus", "task", "free fix", "setting", "measure", "mAP"]
    together = pd.concat(frames, ignore_index=True)
    return together[[*first, *together.columns.difference(first, sort=False)]]


def _alpha(strategy: str) -> float:
    return 0.0 if strategy == "x-y" else parse_strategy(strategy)[1]


def alpha_answers(table: pd.DataFrame) -> list[str]:
    """Say how mAP goes with alpha, per task and setting; `table` is `alphas`.

    Where one pure strategy leads the other by more than the margin: which share of that lead each mixture keeps, 100 % being
    the better end and 0 % the other one. And which mixtures are above both ends by their intervals, by how much at least.
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
    """Return every variant of a profile minus the encoder as it is, `x-x-mono` and the hybrid, as `tables.differences` does."""
    if not results.study.variants:
        raise InputError(f"profile {results.study.profile} has no variants; name one that has, such as {CONTROLS}")
    parts = [differences(results, name, ["none", "x-x-mono", HYBRID]) for name in results.study.variants]
    frames = [part.assign(variant=name) for name, part in zip(results.study.variants, parts, strict=True)]
    table = pd.concat(frames, ignore_index=True)
    return table[["task", "variant", *table.columns.difference(["task", "variant"], sort=False)]]


def control_answers(results: Results) -> list[str]:
    """Say per task the multilingual mAP of everything trained, and the share of `x-x-mono`'s gain that each variant has."""
    table = scores(results).query("rival == 'none' and setting == 'multilingual' and measure == 'mAP'")
    sentences = []
    for task, part in table.groupby("task", sort=False):
        level = part.set_index("strategy")["value"].drop("untrained", errors="ignore").sort_values()
        gain = level["x-x-mono"] - level["none"]
        variants = [name for name in level.index if name in results.study.variants]
        shares = [f"{name} {(level[name] - level['none']) / gain:.0%}" for name in variants]
        sentences.append(
            f"{task}, multilingual mAP: {', '.join(f'{name} {value:.3f}' for name, value in level.items())}. "
            f"Of x-x-mono's gain over none: {', '.join(shares)}."
        )
    return sentences


def averages(folder: Path, results: Results) -> pd.DataFrame:
    """Return models of averaged weights minus the hybrid of the same seeds and minus the untouched encoder.

    `folder` has what `xir evaluate` wrote, NAME-sSEED/TASK; `results` are those of the profile that trained what was averaged.
    Columns: average, task, minus, free fix (`FIX` on both sides, in the multilingual setting), setting, measure, mAP (the
    average's), then those of `comparison_table`; nothing is adjusted.
    """
    frames, levels = [], []
    for plain in sorted(Path(folder).glob("*-s*/*/metrics.json")):
        average, trained = plain.parts[-3].rsplit("-s", 1)
        for fix in ("none", FIX):
            run = plain.parent / ("" if fix == "none" else FIX)
            key = {"average": average, "task": plain.parts[-2], "free fix": fix}
            frames.append(pd.read_parquet(run / "group_sums.parquet").assign(**key, seed=int(trained)))
            settings = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["settings"]
            levels += [{**key, "setting": setting, "mAP": settings[setting]["mAP"]} for setting in SETTINGS]
    by = ["average", "task", "free fix"]
    means = pd.DataFrame(levels).groupby([*by, "setting"])["mAP"].mean()
    keys: list[dict[str, Any]] = []
    found = []
    for names, mine in pd.concat(frames).groupby(by, sort=False):
        average, task, fix = map(str, names)
        for minus in (HYBRID, "none"):
            other = group_sums(results, task, minus, fix)
            if minus == HYBRID:
                other = other[other["seed"].isin(mine["seed"].unique())]
            for setting in SETTINGS if fix == "none" else SETTINGS[-1:]:
                n, seed = results.study.resamples, results.study.report_seed
                found.append(compare(mine, other, setting=setting, measure="mAP", n_resamples=n, seed=seed))
                key = {"average": average, "task": task, "minus": minus, "free fix": fix, "setting": setting, "measure": "mAP"}
                keys.append({**key, "mAP": float(means[average, task, fix, setting])})
    return comparison_table(keys, found, family=False)


def answers(designs: Sequence[Results], table: pd.DataFrame) -> list[str]:
    """Return the answer in sentences; `table` is `effects`. Every number is computed here."""
    whole = table[table["languages"] == "all"]
    sentences = []
    for (fix, setting), part in whole.groupby(["free fix", "setting"], sort=False):
        where = str(setting) if fix == "none" else f"{setting}, both sides with {fix}"
        against = [_counted(part[part["b"] == other], other) for other in PURE]
        tasks = len(part) // len(PURE)
        sentences.append(f"{where.capitalize()}, {tasks} task{'s' if tasks > 1 else ''}: hybrid {'; '.join(against)}.")
    for known in (False, True):
        short = shortfall(designs, language_known=known).set_index("repair")
        worst = short[[f"{setting} worst" for setting in SETTINGS]].max(axis=1)
        best = str(worst.idxmin())
        means = ", ".join(f"{setting} {short[f'{setting} mean'][best]:.3f}" for setting in SETTINGS)
        who = "If the language of every text is known" if known else "If the language of a text is not known"
        sentences.append(
            f"{who}, {best} is the safest choice: at most {worst[best]:.3f} mAP below the best repair in any task and setting "
            f"({means} on average)."
        )
    return sentences


def _counted(part: pd.DataFrame, other: str) -> str:
    words = {"above": A_BETTER, "below": B_BETTER, f"within {MARGIN}": EQUIVALENT}
    counts = {word: int((part["verdict"] == verdict).sum()) for word, verdict in words.items()}
    counts["undecided"] = len(part) - sum(counts.values())
    return f"against {other} " + ", ".join(f"{word} in {count}" for word, count in counts.items() if count)
