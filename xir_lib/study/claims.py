"""The ledger: claims of arXiv 2408.10536 as tests on collected results; every verdict is computed.

A directed claim is *contradicted* if one of its differences is equivalent to 0 (the 90 % interval
within `tables.MARGIN`: an advantage too small to matter is none, however certain), or lies on the
other side of 0: the 95 % interval, and Holm's p over all tests of the ledger below .05. It is
*supported* if all lie so on the claimed side. Else it is *not decidable here*, and `mde` says what
effect a single test would have found. "Comparable" is non-inferiority with the same margin.
Findings of equivalence, and of inferiority by more than the margin, are those of single tests, not
adjusted. Claims that a profile has no material for say what is missing.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from xir_lib.errors import InputError
from xir_lib.evaluation.compare import MARGIN
from xir_lib.metrics.bias import RANK_DISTANCE
from xir_lib.metrics.measures import SETTINGS
from xir_lib.metrics.significance import (
    A_BETTER,
    ALPHA,
    B_BETTER,
    EQUIVALENT,
    NON_INFERIOR,
    NOT_DECIDABLE,
    Comparison,
    compare,
    holm,
)
from xir_lib.metrics.significance import verdict as decided
from xir_lib.paths import require
from xir_lib.study.profile import HELD_OUT, Evaluation
from xir_lib.study.results import Results
from xir_lib.study.tables import (
    HYBRID,
    PAPER_NAMES,
    PAPER_STRATEGIES,
    PURE,
    cell_means,
    comparisons,
    free_fixes,
    group_sums,
    label,
    merges,
    primary_family,
    published,
    scores,
    trained_languages,
    trained_runs,
    within,
)

ENOUGH_SEEDS = 3  # below it a verdict speaks of checkpoints, not of strategies, and says so
SUPPORTED, CONTRADICTED, OPEN = "supported", "contradicted", "not decidable here"

# claim number -> (text, [(strategy a, strategy b, setting, measure, bound)]); a minus b should
# exceed the bound, or stay below it for rank distance.
DIRECTED: dict[str, tuple[str, list[tuple[str, str, str, str, float]]]] = {
    "6": (
        (
            'x-x-mono is better monolingually, x-y cross-lingually ("only", as a comparison of the'
            " two)"
        ),
        [
            ("x-x-mono", "x-y", "monolingual", "mAP", 0.0),
            ("x-y", "x-x-mono", "cross-lingual", "mAP", 0.0),
        ],
    ),
    "7": (
        "hybrid is best in the multilingual setting",
        [
            (HYBRID, "x-x-mono", "multilingual", "mAP", 0.0),
            (HYBRID, "x-y", "multilingual", "mAP", 0.0),
        ],
    ),
    "9": (
        "hybrid has less language bias than x-x-mono",
        [(HYBRID, "x-x-mono", "multilingual", RANK_DISTANCE, 0.0)],
    ),
    "10": (
        "hybrid carries over to languages unseen in training",
        [
            (HYBRID, "none", "cross-lingual", "mAP", 0.0),
            (HYBRID, "none", "multilingual", "mAP", 0.0),
            (HYBRID, "x-x-mono", "multilingual", "mAP", 0.0),
        ],
    ),
    "11": (
        f"hybrid matches or beats each specialist (margin {MARGIN} mAP)",
        [
            (HYBRID, "x-x-mono", "monolingual", "mAP", -MARGIN),
            (HYBRID, "x-y", "cross-lingual", "mAP", -MARGIN),
        ],
    ),
}
UNSEEN = "10"  # tested on query languages, and pools of one language, that no run trained on
WORSE = "worse by more than the margin"
NEEDS = {"8": ("6 and 7 hold for both encoders", "XLM-R and LaBSE, which are not on this machine")}
OTHER_PROFILES = (
    "Other texts, amounts of data, languages, shares of monolingual batches, temperatures and a"
    " weaker start: figures/when_hybrid, notebook 06. It takes runs with other encoders."
)
OTHER_LOSS = (
    "A training with another loss, the divergence between the scores of parallel queries:"
    " figures/controls."
)
WITHOUT_TRANSLATIONS = (
    "A training in one language, and one in which every id has one language, separate translation"
    " from fine-tuning: figures/controls."
)
LEDGERS = (
    "parallel",
    "matched",
    "low_resource",
)  # published profiles of five seeds, a training set each
NO_MATERIAL = "not in this profile"
UNITS = {
    "1": "trainings",
    "3": "tasks",
    "4": "profiles",
}  # what a claim about the set-up was looked up in
COLUMNS = [
    "claim",
    "text",
    "task",
    "tested",
    "paper",
    "measured",
    "low",
    "high",
    "p_holm",
    "mde",
    "finding",
    "verdict",
]


def ledger(results: Results) -> pd.DataFrame:
    """Return one row per claim, task and difference.

    Columns: claim, text, task, tested (of a rank distance with the share of what is subtracted,
    without an interval), paper (its difference with XLM-R), measured, low, high (95 %), p_holm (of
    what is claimed: a difference, or non-inferiority), mde (minimum detectable effect), finding (of
    this difference, as `significance.verdict` names it), verdict (of the claim on this task).
    """
    seeds = len(results.study.seeds)
    caution = "" if seeds >= ENOUGH_SEEDS else f" ({seeds} seed{'s' if seeds > 1 else ''} only)"
    table = scores(results).query("measure == @RANK_DISTANCE and rival == 'none'")
    levels = table.set_index(["task", "strategy"])["value"]
    rows: list[dict[str, Any]] = []
    found: list[tuple[Comparison, float] | None] = []
    for number, (text, tests) in DIRECTED.items():
        for evaluation in _judging(results):
            for a, b, setting, measure, bound in tests:
                row: dict[str, Any] = {"claim": number, "text": text, "task": evaluation.task}
                try:
                    compared = _compare(
                        results, evaluation.task, a, b, setting, measure, unseen=number == UNSEEN
                    )
                except InputError as error:
                    found.append(None)
                    rows.append({**row, "tested": f"needs {error}", "side": OPEN})
                    continue
                found.append((compared, bound))
                where = ", unseen languages" if number == UNSEEN else ""
                where += (
                    f" ({compared.difference / levels[evaluation.task, b]:+.0%})"
                    if measure == RANK_DISTANCE
                    else ""
                )
                tested = {
                    "tested": f"{a} minus {b}, {setting} {measure}{where}",
                    "measured": compared.difference,
                }
                printed = (
                    None if number == UNSEEN else _printed(evaluation.task, a, b, setting, measure)
                )
                numbers = {
                    "low": compared.low,
                    "high": compared.high,
                    "mde": compared.mde,
                    "measure": measure,
                }
                rows.append({**row, **tested, "paper": printed, **numbers})
    adjusted = iter(
        holm([c.p_non_inferior(MARGIN) if bound else c.p for c, bound in filter(None, found)])
    )
    for row, one in zip(rows, found, strict=True):
        if one:
            row["p_holm"] = next(adjusted)
            row |= _judged(one[0], row["p_holm"], one[1], row["measure"])
    table = pd.DataFrame(rows).drop_duplicates(["claim", "task", "tested"])
    sides = table.groupby(["claim", "task"])["side"].agg(lambda side: _together(side.tolist()))
    table["verdict"] = [
        sides[claim, task] + caution
        for claim, task in zip(table["claim"], table["task"], strict=True)
    ]
    table = pd.concat([facts(results), table]).reindex(columns=COLUMNS)
    return table.iloc[table["claim"].astype(int).argsort(kind="stable")].reset_index(drop=True)


def _judging(results: Results) -> list[Evaluation]:
    """Return the evaluations that judge; held-out pairs choose settings."""
    return [evaluation for evaluation in results.study.evaluations if evaluation.task != HELD_OUT]


def facts(results: Results) -> pd.DataFrame:
    """Return the claims about the set-up, checked against what the runs recorded."""
    rows: list[dict[str, Any]] = []
    for name, run in trained_runs(results):
        if name == HYBRID:
            mix = run["realised"]["pairs"]
            share = mix["same-language"] / sum(mix.values())
            batches = run["settings"]["steps"]
            side = (
                abs(share - 0.5) <= 2.58 * (0.25 / batches) ** 0.5
            )  # binomial, 99 %: a batch is of one kind
            text = "hybrid mixes same- and cross-language batches in balance (our set-up)"
            rows.append(
                {
                    "claim": "1",
                    "text": text,
                    "task": f"seed {run['settings']['seed']}",
                    "tested": "share of same-language pairs",
                    "measured": share,
                    "verdict": SUPPORTED if side else OPEN,
                }
            )
    whole = {
        evaluation.task for evaluation in results.study.evaluations if evaluation.languages is None
    }
    counts = {
        e["task"]: len(e["counts"]["languages"]) for e in results.evaluations if e["task"] in whole
    }
    for task, expected in (("xquad-r", 11), ("mlqa-r", 7)):
        verdict = (
            OPEN if task not in counts else SUPPORTED if counts[task] == expected else CONTRADICTED
        )
        rows.append(
            {
                "claim": "3",
                "text": f"{PAPER_NAMES[task]} has {expected} parallel languages",
                "task": task,
                "tested": "languages with passages",
                "measured": counts.get(task),
                "paper": expected,
                "verdict": verdict,
            }
        )
    measured = {
        measure
        for e in results.evaluations
        for measures in e["settings"].values()
        for measure in measures
    }
    rows.append(
        {
            "claim": "4",
            "text": "the measure is mAP (and recall) (our set-up)",
            "task": "all",
            "tested": ", ".join(sorted(measured)),
            "verdict": SUPPORTED if {"mAP", "R@1", "R@10"} <= measured else CONTRADICTED,
        }
    )
    tasks = {"xquad-r", "mlqa-r", "miracl"}
    missing = ", ".join(
        sorted(tasks - counts.keys() - ({"miracl"} if results.study.corpora else set()))
    )
    rows.append(
        {
            "claim": "2",
            "text": "evaluated on XQuAD-R, MLQA-R and MIRACL",
            "task": "all",
            "tested": f"not in this profile: {missing}" if missing else "all there",
            "verdict": OPEN if missing else SUPPORTED,
        }
    )
    rows += _disjoint(results)
    rows += [
        {"claim": n, "text": text, "task": "all", "tested": f"needs {needs}", "verdict": OPEN}
        for n, (text, needs) in NEEDS.items()
    ]
    return pd.DataFrame(rows)


def _disjoint(results: Results) -> list[dict[str, Any]]:
    """Return claim 5 per task: supported if the queries near training texts are too few to move mAP
    by the margin.
    """
    claim = {"claim": "5", "text": "training and evaluation data are disjoint"}
    judged = {task: counts for task, counts in results.overlap.items() if task != HELD_OUT}
    if not judged:
        return [
            {
                **claim,
                "task": "all",
                "tested": "needs the search for near-duplicates",
                "verdict": OPEN,
            }
        ]
    rows: list[dict[str, Any]] = []
    for task, counts in judged.items():
        if not counts["compared"]:
            rows.append(
                {
                    **claim,
                    "task": task,
                    "tested": "no language in common: nothing to compare",
                    "verdict": OPEN,
                }
            )
            continue
        compared, verbatim = counts["compared"], counts["inside_passage"]
        share, inside = counts["touched"] / compared, verbatim / compared
        verdict = CONTRADICTED if inside > MARGIN else SUPPORTED if share <= MARGIN else OPEN
        finding = (
            f"{counts['touched']} of {compared} queries; a relevant passage verbatim: {verbatim}"
        )
        tested = "share of the queries compared that have a near-duplicate in training"
        rows.append(
            {
                **claim,
                "task": task,
                "tested": tested,
                "measured": share,
                "finding": finding,
                "verdict": verdict,
            }
        )
    return rows


def _compare(
    results: Results, task: str, a: str, b: str, setting: str, measure: str, *, unseen: bool
) -> Comparison:
    """Compare two strategies without free fixes; `unseen`: on the languages that were not trained
    on.
    """
    if missing := [name for name in (a, b) if name not in ("none", *results.study.strategies)]:
        raise InputError(f"a run of {', '.join(missing)}")
    sums = [group_sums(results, task, name, "none") for name in (a, b)]
    if unseen:
        languages = {*sums[0]["query_lang"]} - trained_languages(results)
        if len(languages) < 2:
            raise InputError("a task with two languages that were not trained on")
        sums = [within(one, sorted(languages)) for one in sums]
    n, seed = results.study.resamples, results.study.report_seed
    return compare(*sums, setting=setting, measure=measure, n_resamples=n, seed=seed)


def _judged(result: Comparison, p: float, bound: float, measure: str) -> dict[str, str]:
    """Say what a difference shows, and on which side of the claim it lies; `p` is adjusted."""
    if bound:
        finding = NON_INFERIOR if p < ALPHA else WORSE if result.high < bound else NOT_DECIDABLE
        return {
            "finding": finding,
            "side": {NON_INFERIOR: SUPPORTED, WORSE: CONTRADICTED}.get(finding, OPEN),
        }
    lower_is_better = measure == RANK_DISTANCE
    if not lower_is_better and result.p_equivalent(MARGIN) < ALPHA:
        finding = EQUIVALENT
    else:
        finding = decided(
            result, margin=None if lower_is_better else MARGIN, p=p, lower_is_better=lower_is_better
        )
    sides = {A_BETTER: SUPPORTED, B_BETTER: CONTRADICTED, EQUIVALENT: CONTRADICTED}
    return {"finding": finding, "side": sides.get(finding, OPEN)}


def _printed(task: str, a: str, b: str, setting: str, measure: str) -> float | None:
    """Return the difference that the paper's means with XLM-R give, or nothing for a task it does
    not have.
    """
    if task not in PAPER_NAMES:
        return None
    table = published()
    mean = (
        (table["dataset"] == PAPER_NAMES[task])
        & (table["query_lang"] == "mean")
        & (table["encoder"] == "XLM-R")
    )
    row = table[mean & (table["setting"] == setting) & (table["metric"] == measure)].iloc[0]
    return float(row[PAPER_STRATEGIES[a]] - row[PAPER_STRATEGIES[b]])


def _together(sides: list[str]) -> str:
    return CONTRADICTED if CONTRADICTED in sides else OPEN if OPEN in sides else SUPPORTED


def read_ledgers(folder: Path) -> pd.DataFrame:
    """Return the rows of the published ledgers of `LEDGERS` in `folder`, with their profile; p is
    adjusted within each.
    """
    tables = []
    for name in LEDGERS:
        path = require(
            Path(folder) / name / "07_ledger.csv",
            f"publish the profile: make figures PROFILE={name}",
        )
        tables.append(pd.read_csv(path, dtype={"claim": str}).assign(profile=name))
    return pd.concat(tables, ignore_index=True)


def verdicts(ledgers: pd.DataFrame) -> pd.DataFrame:
    """Return a row per claim about strategies: claim, text, and the verdict in a column `PROFILE:
    TASK` for each of them.

    A claim of several differences that is not supported names those which are not as claimed, by
    what is subtracted. `NO_MATERIAL` stands where a profile has no run or task for the claim.
    """
    tested = ledgers[ledgers["claim"].isin(DIRECTED)].assign(
        where=lambda table: table["profile"] + ": " + table["task"]
    )
    cells: dict[str, dict[str, str]] = {}
    for (number, where), part in tested.groupby(["claim", "where"], sort=False):
        claim = str(number)
        if not part["measured"].notna().any():
            continue
        as_claimed = part["finding"].isin([NON_INFERIOR if DIRECTED[claim][1][0][-1] else A_BETTER])
        against = part.loc[~as_claimed, "tested"].str.extract(r" minus ([^,]+),")[0]
        failing = f" (against {', '.join(against)})" if len(part) > 1 and len(against) else ""
        cells.setdefault(str(where), {})[claim] = part["verdict"].iloc[0] + failing
    texts = pd.DataFrame(
        [(claim, text) for claim, (text, _) in DIRECTED.items()], columns=["claim", "text"]
    )
    for where in tested["where"].unique():
        texts[where] = [cells.get(where, {}).get(claim, NO_MATERIAL) for claim in texts["claim"]]
    return texts


def set_up(ledgers: pd.DataFrame, miracl: list[str]) -> pd.DataFrame:
    """Return a row per claim about the set-up, over all profiles: claim, text, found, verdict.

    Args:
        ledgers: of `read_ledgers`.
        miracl: languages of MIRACL's corpora that were judged, on pages of their own.
    """
    printed = published().query("dataset.str.startswith('MIRACL')")["query_lang"].unique()
    rows = []
    for claim, part in ledgers[~ledgers["claim"].isin(DIRECTED)].groupby("claim", sort=False):
        measured = part[part["measured"].notna()] if part["measured"].notna().any() else part
        verdict = _together(measured["verdict"].tolist())
        found = (
            f"{(measured['verdict'] == SUPPORTED).sum()} of {len(measured)}"
            f" {UNITS.get(str(claim), '')}".strip()
        )
        if claim == "2":
            whole = {
                task
                for task in PAPER_NAMES
                if ledgers.query("claim == '3' and task == @task")["measured"].notna().any()
            }
            shared = [lang for lang in miracl if lang in printed]
            found = (
                f"whole: {', '.join(sorted(whole)) or 'none'}; MIRACL in"
                f" {', '.join(miracl) or 'no language'}"
            )
            found += "" if shared else ", none of the paper's languages"
            verdict = SUPPORTED if whole == {*PAPER_NAMES} and shared else OPEN
        elif claim == "5":
            share = 100 * measured["measured"]
            found = (
                f"{share.min():.1f} to {share.max():.1f} % of the questions have a near-duplicate"
                " in training, "
            )
            found += f"{len(share)} tests"
            found += (
                f"; {len(part) - len(share)} without a language in common"
                if len(share) < len(part)
                else ""
            )
        elif claim in NEEDS:
            found = f"needs {NEEDS[str(claim)][1]}"
        rows.append(
            {
                "claim": claim,
                "text": "; ".join(part["text"].unique()),
                "found": found,
                "verdict": verdict,
            }
        )
    return pd.DataFrame(rows).sort_values("claim", key=lambda c: c.astype(int), ignore_index=True)


def referee_questions(results: Results) -> pd.DataFrame:
    """Return what the paper's referees asked and what this profile answers, or lacks: columns
    question, answer.
    """
    study, run = results.study, results.runs[0]
    others = [name for name in study.strategies if name in PURE]
    fixed = [
        (HYBRID, own, "none", fix)
        for fix in free_fixes(results)
        if merges(fix)
        for own in ("none", fix)
    ]
    without = [
        name for name in study.variants if name in ("one-language", "disjoint")
    ]  # of the profile `controls`
    losses = [
        name for name, changes in study.variants.items() if "query_kl" in changes
    ]  # of the profile `controls`
    methods = [*fixed, *((HYBRID, "none", name, "none") for name in losses)]
    pairs = [
        *((HYBRID, "none", other, "none") for other in others),
        *((name, "none", "none", "none") for name in (*others, *without)),
        *methods,
    ]
    family = primary_family(results)
    adjusted = family.set_index(["task", "a", "b", "setting", "measure"])["verdict"]
    found = comparisons(results, pairs).query(
        "setting == 'multilingual' and measure == 'mAP' and task != @HELD_OUT"
    )

    def shown(a: str, b: str) -> str:
        texts = []
        for row in found[(found["a"] == a) & (found["b"] == b)].itertuples():
            verdict = adjusted.get((row.task, a, b, row.setting, row.measure))
            told = (
                f"{verdict}, Holm-adjusted over {len(family)}"
                if verdict
                else f"{row.verdict}, a single test"
            )
            texts.append(
                f"{row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}] ({row.task}: {told})"
            )
        return ", ".join(texts).replace("0.", ".")

    found_without = [f"{name} gains {shown(name, 'none')}" for name in without]
    controls = (
        f"Without translations: {'; '.join(found_without)}." if without else WITHOUT_TRANSLATIONS
    )
    compared = [
        f"multilingual mAP, {label(a, own)} minus {label(b, rival)}:"
        f" {shown(label(a, own), label(b, rival))}"
        for a, own, b, rival in methods
    ] + ([] if fixed else ["Free fixes: it takes a profile that has some"])
    answers = {
        "Are gains of .000 to .006 significant?": "; ".join(
            f"multilingual mAP, hybrid minus {other}: {shown(HYBRID, other)}" for other in others
        ),
        "When does it help?": (
            f"Measured: {study.encoder}, {run['pairs']['ids']:,} ids in"
            f" {len(run['pairs']['languages'])} languages, {', '.join(study.strategies)},"
            f" {run['settings']['steps']} steps. {OTHER_PROFILES}"
        ),
        "How does it compare with other methods?": (
            f"{'; '.join(compared)}." + ("" if losses else f" {OTHER_LOSS}")
        ),
        "Do the gains come from translated data rather than from the batches?": (
            f"The same translations in batches of one language gain {shown('x-x-mono', 'none')} in"
            f" multilingual mAP; half cross-lingual batches add {shown(HYBRID, 'x-x-mono')}."
            f" {controls}"
            if "x-x-mono" in others
            else "It takes a run of x-x-mono."
        ),
        "Does it carry over to tasks other than question answering?": (
            f"Not measured: {', '.join(evaluation.task for evaluation in _judging(results))} all"
            " ask questions. It takes a test set of another task with parallel texts, such as"
            " titles and articles; `xir evaluate` reads any."
        ),
        "In how many languages and settings does it win?": "; ".join(
            _wins(results, e.task, others) for e in _judging(results)
        ),
    }
    return pd.DataFrame(
        [{"question": question, "answer": answer} for question, answer in answers.items()]
    )


def _wins(results: Results, task: str, others: list[str]) -> str:
    """Count the cells, a query language and a pool each, in which the hybrid's mAP is above that of
    all the others.
    """
    cells = cell_means(results, task).query("measure == 'mAP'")
    wide = cells.pivot_table(
        index=["setting", "query_lang", "pool"], columns="strategy", values="value", observed=True
    )
    above = (wide[HYBRID] > wide[others].max(axis=1)).groupby("setting", observed=True)
    counts = [
        f"{above.sum()[setting]} of {above.size()[setting]} {setting}" for setting in SETTINGS
    ]
    return f"{task}, mAP above both pure strategies: {', '.join(counts)}"
