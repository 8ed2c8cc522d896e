"""The ledger: claims of arXiv 2408.10536 as tests on collected results; every verdict is computed.

A directed claim is *supported* if the 95 % interval of each of its differences lies on the claimed side of 0, *contradicted*
if one lies wholly on the other side, else *not decidable here*. "Comparable" is non-inferiority (one-sided, .05) with
`tables.MARGIN`. Claims that a profile has no material for say what is missing.
"""

from typing import Any

import pandas as pd

from xir_lib.bias import RANK_DISTANCE
from xir_lib.significance import ALPHA
from xir_lib.study import Results
from xir_lib.tables import HYBRID, MARGIN, PAPER_NAMES, PAPER_STRATEGIES, comparisons, published

ENOUGH_SEEDS = 3  # below it a verdict speaks of checkpoints, not of strategies, and says so
SUPPORTED, CONTRADICTED, OPEN = "supported", "contradicted", "not decidable here"

# claim number -> (text, [(strategy a, strategy b, setting, measure, bound)]); a minus b should exceed the bound, or stay
# below it for rank distance.
DIRECTED: dict[str, tuple[str, list[tuple[str, str, str, str, float]]]] = {
    "6": (
        "x-x-mono is better monolingually, x-y cross-lingually",
        [("x-x-mono", "x-y", "monolingual", "mAP", 0.0), ("x-y", "x-x-mono", "cross-lingual", "mAP", 0.0)],
    ),
    "7": (
        "hybrid is best in the multilingual setting",
        [(HYBRID, "x-x-mono", "multilingual", "mAP", 0.0), (HYBRID, "x-y", "multilingual", "mAP", 0.0)],
    ),
    "9": ("hybrid has less language bias than x-x-mono", [(HYBRID, "x-x-mono", "multilingual", RANK_DISTANCE, 0.0)]),
    "11": (
        f"hybrid matches or beats each specialist (margin {MARGIN} mAP)",
        [(HYBRID, "x-x-mono", "monolingual", "mAP", -MARGIN), (HYBRID, "x-y", "cross-lingual", "mAP", -MARGIN)],
    ),
}
NEEDS = {
    "5": (
        "training and evaluation data are disjoint",
        "a near-duplicate search over training and test texts, with the full study",
    ),
    "8": ("6 and 7 hold for both encoders", "XLM-R and LaBSE, which are not on this machine"),
    "10": ("it carries over to languages unseen in training", "a test per unseen language, with the full study"),
}


def ledger(results: Results) -> pd.DataFrame:
    """Return one row per claim and task: claim, text, task, difference tested, paper, measured, low, high, p, verdict."""
    rows = []
    seeds = len(results.study.seeds)
    caution = "" if seeds >= ENOUGH_SEEDS else f" ({seeds} seed{'s' if seeds > 1 else ''} only)"
    pairs = dict.fromkeys((a, "none", b, "none") for _, tests in DIRECTED.values() for a, b, *_ in tests)
    compared = comparisons(results, [pair for pair in pairs if {pair[0], pair[2]} <= {*results.study.strategies}])
    for number, (text, tests) in DIRECTED.items():
        for evaluation in results.study.evaluations:
            parts = [_test(compared, results.study.strategies, evaluation.task, *test) for test in tests]
            verdict = _together([part["side"] for part in parts]) + caution
            rows += [{"claim": number, "text": text, "task": evaluation.task, **part, "verdict": verdict} for part in parts]
    table = pd.DataFrame(rows).drop(columns="side")
    return pd.concat([facts(results), table], ignore_index=True)


def facts(results: Results) -> pd.DataFrame:
    """Return the claims about the set-up, checked against what the runs recorded."""
    rows: list[dict[str, Any]] = []
    for run in results.runs:
        if run["settings"]["strategy"] == HYBRID:
            mix = run["realised"]["pairs"]
            share = mix["same-language"] / sum(mix.values())
            batches = run["settings"]["steps"]
            side = abs(share - 0.5) <= 2.58 * (0.25 / batches) ** 0.5  # binomial, 99 %: a batch is of one kind
            text = "hybrid mixes same- and cross-language batches in balance"
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
    whole = {evaluation.task for evaluation in results.study.evaluations if evaluation.languages is None}
    counts = {e["task"]: len(e["counts"]["languages"]) for e in results.evaluations if e["task"] in whole}
    for task, expected in (("xquad-r", 11), ("mlqa-r", 7)):
        verdict = OPEN if task not in counts else SUPPORTED if counts[task] == expected else CONTRADICTED
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
    measured = {measure for e in results.evaluations for measures in e["settings"].values() for measure in measures}
    rows.append(
        {
            "claim": "4",
            "text": "the measure is mAP (and recall)",
            "task": "all",
            "tested": ", ".join(sorted(measured)),
            "verdict": SUPPORTED if {"mAP", "R@1", "R@10"} <= measured else CONTRADICTED,
        }
    )
    tasks = {"xquad-r", "mlqa-r", "miracl"}
    missing = ", ".join(sorted(tasks - counts.keys()))
    rows.append(
        {
            "claim": "2",
            "text": "evaluated on XQuAD-R, MLQA-R and MIRACL",
            "task": "all",
            "tested": f"not in this profile: {missing}" if missing else "all there",
            "verdict": OPEN if missing else SUPPORTED,
        }
    )
    rows += [
        {"claim": n, "text": text, "task": "all", "tested": f"needs {needs}", "verdict": OPEN}
        for n, (text, needs) in NEEDS.items()
    ]
    table = pd.DataFrame(rows)
    return table.iloc[table["claim"].astype(int).argsort(kind="stable")]


def _test(
    compared: pd.DataFrame, trained: list[str], task: str, a: str, b: str, setting: str, measure: str, bound: float
) -> dict[str, Any]:
    if missing := [name for name in (a, b) if name not in trained]:
        return {"tested": f"needs a run of {', '.join(missing)}", "side": OPEN}
    rows = compared[(compared["a"] == a) & (compared["b"] == b)]
    row = rows[(rows["task"] == task) & (rows["setting"] == setting) & (rows["measure"] == measure)].iloc[0]
    low, high = (row["low"], row["high"]) if measure == "mAP" else (-row["high"], -row["low"])
    holds = low > 0 if bound == 0 else row["p_non_inferior"] < ALPHA
    side = SUPPORTED if holds else CONTRADICTED if high < bound else OPEN
    tested = f"{a} minus {b}, {setting} {measure}"
    numbers = {key: row[key] for key in ("low", "high", "p")}
    return {
        "tested": tested,
        "paper": _printed(task, a, b, setting, measure),
        "measured": row["difference"],
        **numbers,
        "side": side,
    }


def _printed(task: str, a: str, b: str, setting: str, measure: str) -> float | None:
    """Return the difference that the paper's means with XLM-R give, or nothing for a task it does not have."""
    if task not in PAPER_NAMES:
        return None
    table = published()
    mean = (table["dataset"] == PAPER_NAMES[task]) & (table["query_lang"] == "mean") & (table["encoder"] == "XLM-R")
    row = table[mean & (table["setting"] == setting) & (table["metric"] == measure)].iloc[0]
    return float(row[PAPER_STRATEGIES[a]] - row[PAPER_STRATEGIES[b]])


def _together(sides: list[str]) -> str:
    return CONTRADICTED if CONTRADICTED in sides else OPEN if OPEN in sides else SUPPORTED
