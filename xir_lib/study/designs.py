"""Where the hybrid pays: what several profiles found, side by side.

Profiles differ in several things at once (training text, languages, amount), so this shows how far
an answer carries over and not which of these things decides; nothing is adjusted over profiles.
"""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from xir_lib.errors import InputError
from xir_lib.evaluation.compare import MARGIN, comparison_table
from xir_lib.metrics.measures import SETTINGS
from xir_lib.metrics.significance import A_BETTER, B_BETTER, EQUIVALENT, compare
from xir_lib.study.results import Results, load_results
from xir_lib.study.tables import (
    HYBRID,
    PURE,
    free_fixes,
    group_sums,
    label,
    scores,
    tasks_of,
    trained_languages,
    within,
)

PROFILES = (
    "parallel",
    "matched",
    "low_resource",
    "atlas",
)  # judged on real questions; not the demo, no pilot, no replica
FIX = "centring+round-robin"  # what the figure's last panel has on both sides


def read_designs(folder: Path, profiles: Sequence[str] = PROFILES) -> list[Results]:
    """Return the published results of these profiles, in this order; `folder` is `figures` of the
    repository.
    """
    if not profiles:
        raise InputError(f"no profile named; name folders of {folder}, such as {PROFILES[0]}")
    return [load_results(Path(folder) / name / "results") for name in profiles]


def design_table(designs: Sequence[Results]) -> pd.DataFrame:
    """Return what each profile trained on and how: profile, trained on, ids, languages, steps,
    batch, seeds, judged on.
    """
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

    Columns: profile, task, languages (`all` of the task, or those `trained` on or `unseen` where
    there are two of either), free fix (on both sides; with `FIX` the multilingual setting alone),
    b, setting, measure, then those of `comparison_table`. Nothing is adjusted.
    """
    return pd.concat(
        [hybrid_minus_pure(results, results.study.profile) for results in designs],
        ignore_index=True,
    )


def hybrid_minus_pure(results: Results, called: str, suffix: str = "") -> pd.DataFrame:
    """Return the rows of `effects` for one profile, `called` so; `suffix` chooses the variants
    HYBRID + suffix and so on.
    """
    keys, found = [], []
    n, seed = results.study.resamples, results.study.report_seed
    for task in tasks_of(results):
        for fix in ("none", FIX):
            sums = {
                name: group_sums(results, task, f"{name}{suffix}", fix) for name in (HYBRID, *PURE)
            }
            trained = trained_languages(results, f"{HYBRID}{suffix}")
            splits = language_splits(trained, sums[HYBRID]["query_lang"].unique().tolist())
            for split, languages in splits.items():
                for other in PURE:
                    for setting in SETTINGS if fix == "none" else SETTINGS[-1:]:
                        pair = [within(sums[name], languages) for name in (HYBRID, other)]
                        found.append(
                            compare(*pair, setting=setting, measure="mAP", n_resamples=n, seed=seed)
                        )
                        key = {"profile": called, "task": task, "languages": split, "free fix": fix}
                        keys.append({**key, "b": other, "setting": setting, "measure": "mAP"})
    return comparison_table(keys, found, family=False)


def language_splits(trained: Collection[str], languages: Sequence[str]) -> dict[str, list[str]]:
    """Return `all` languages of a task, and if there are two of either those trained on and those
    unseen.
    """
    parts = {"trained": [lang for lang in languages if lang in trained]}
    parts["unseen"] = [lang for lang in languages if lang not in trained]
    return {"all": list(languages), **(parts if min(map(len, parts.values())) > 1 else {})}


def shortfall(designs: Sequence[Results], *, language_known: bool) -> pd.DataFrame:
    """Return how far every repair stays below the best one: a choice that is seldom the best may
    never be far from it.

    A repair is a strategy or `none`, and, if the language of every text is known, each of them with
    each free fix that all profiles have. Columns: repair, then per setting the mean and the largest
    difference in mAP over profiles and tasks (`SETTING mean`, `SETTING worst`). Of a merge the
    settings of one language are those of its vectors.
    """
    shared = [
        fix
        for fix in free_fixes(designs[0])
        if all(fix in free_fixes(results) for results in designs)
    ]
    fixes = ["none", *shared] if language_known else ["none"]
    frames = []
    for results in designs:
        table = scores(results)
        wanted = (
            table["task"].isin(tasks_of(results))
            & (table["measure"] == "mAP")
            & table["rival"].isin(fixes)
        )
        frames.append(
            table[wanted & table["strategy"].isin(["none", *PURE, HYBRID])].assign(
                profile=results.study.profile
            )
        )
    together = pd.concat(frames)
    names = zip(together["strategy"], together["rival"], strict=True)
    together["repair"] = [label(strategy, fix) for strategy, fix in names]
    wide = together.pivot(index=["profile", "task", "setting"], columns="repair", values="value")
    below = wide.rsub(wide.max(axis=1), axis=0).groupby("setting")
    parts = {"mean": below.mean(), "worst": below.max()}
    table = pd.DataFrame(
        {
            f"{setting} {name}": part.loc[setting]
            for setting in SETTINGS
            for name, part in parts.items()
        }
    )
    order = [label(strategy, fix) for fix in fixes for strategy in ("none", *PURE, HYBRID)]
    return table.loc[order].rename_axis("repair").reset_index()


def beside(folder: Path, results: Results, minus: Sequence[str]) -> pd.DataFrame:
    """Return models that no profile trained, each minus strategies of a profile in the same seeds.

    `folder` has what `xir evaluate` wrote, NAME-sSEED/TASK; `results` are those of the profile that
    has the strategies `minus`. Columns: model, task, minus, free fix (`FIX` on both sides, in the
    multilingual setting), setting, measure, mAP (the model's), then those of `comparison_table`;
    nothing is adjusted.
    """
    frames, levels = [], []
    for plain in sorted(Path(folder).glob("*-s*/*/metrics.json")):
        name, trained = plain.parts[-3].rsplit("-s", 1)
        for fix in ("none", FIX):
            run = plain.parent / ("" if fix == "none" else FIX)
            key = {"model": name, "task": plain.parts[-2], "free fix": fix}
            frames.append(
                pd.read_parquet(run / "group_sums.parquet").assign(**key, seed=int(trained))
            )
            settings = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["settings"]
            levels += [
                {**key, "setting": setting, "mAP": settings[setting]["mAP"]} for setting in SETTINGS
            ]
    by = ["model", "task", "free fix"]
    means = pd.DataFrame(levels).groupby([*by, "setting"])["mAP"].mean()
    keys: list[dict[str, Any]] = []
    found = []
    for names, mine in pd.concat(frames).groupby(by, sort=False):
        model, task, fix = map(str, names)
        for strategy in minus:
            other = group_sums(results, task, strategy, fix)
            if strategy != "none":
                other = other[other["seed"].isin(mine["seed"].unique())]
            for setting in SETTINGS if fix == "none" else SETTINGS[-1:]:
                n, seed = results.study.resamples, results.study.report_seed
                found.append(
                    compare(mine, other, setting=setting, measure="mAP", n_resamples=n, seed=seed)
                )
                key = {
                    "model": model,
                    "task": task,
                    "minus": strategy,
                    "free fix": fix,
                    "setting": setting,
                    "measure": "mAP",
                }
                keys.append({**key, "mAP": float(means[model, task, fix, setting])})
    return comparison_table(keys, found, family=False)


def answers(designs: Sequence[Results], table: pd.DataFrame) -> list[str]:
    """Return the answer in sentences; `table` is `effects`. Every number is computed here."""
    whole = table[table["languages"] == "all"]
    sentences = []
    for (fix, setting), part in whole.groupby(["free fix", "setting"], sort=False):
        where = str(setting) if fix == "none" else f"{setting}, both sides with {fix}"
        against = [_counted(part[part["b"] == other], other) for other in PURE]
        tasks = len(part) // len(PURE)
        sentences.append(
            f"{where.capitalize()}, {tasks} task{'s' if tasks > 1 else ''}: hybrid"
            f" {'; '.join(against)}."
        )
    for known in (False, True):
        short = shortfall(designs, language_known=known).set_index("repair")
        worst = short[[f"{setting} worst" for setting in SETTINGS]].max(axis=1)
        best = str(worst.idxmin())
        means = ", ".join(f"{setting} {short[f'{setting} mean'][best]:.3f}" for setting in SETTINGS)
        who = (
            "If the language of every text is known"
            if known
            else "If the language of a text is not known"
        )
        sentences.append(
            f"{who}, {best} is the safest choice: at most {worst[best]:.3f} mAP below the best"
            f" repair in any task and setting ({means} on average)."
        )
    return sentences


def _counted(part: pd.DataFrame, other: str) -> str:
    words = {"above": A_BETTER, "below": B_BETTER, f"within {MARGIN}": EQUIVALENT}
    counts = {word: int((part["verdict"] == verdict).sum()) for word, verdict in words.items()}
    counts["undecided"] = len(part) - sum(counts.values())
    return f"against {other} " + ", ".join(
        f"{word} in {count}" for word, count in counts.items() if count
    )
