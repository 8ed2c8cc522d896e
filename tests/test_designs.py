"""Several profiles side by side: differences and shortfalls by hand, and the committed page against
the committed results.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import test_study
from test_study import ALL_EQUAL, PAPER_LIKE, level, made_up

from xir_lib.errors import InputError
from xir_lib.study import designs
from xir_lib.study.graph import AVERAGES, STOCK
from xir_lib.study.results import Results, load_results


def with_fix(
    levels: dict[str, dict[str, float]], fixed: dict[str, dict[str, float]], profile: str = "one"
) -> Results:
    """Results without and with the free fix; of the three languages two were trained on."""
    plain, other = made_up(levels), made_up(fixed)
    sums = pd.concat(
        [plain.group_sums, other.group_sums.assign(rival=designs.FIX)], ignore_index=True
    )
    evaluations = plain.evaluations + [{**one, "rival": designs.FIX} for one in other.evaluations]
    data = plain.study.data.model_copy(update={"languages": ["en", "sw"]})
    study = plain.study.model_copy(
        update={"data": data, "profile": profile, "rivals": ["none", designs.FIX]}
    )
    return plain._replace(study=study, group_sums=sums, evaluations=evaluations)


def test_the_hybrid_minus_the_others_by_hand() -> None:
    table = designs.effects([with_fix(PAPER_LIKE, ALL_EQUAL)]).set_index(
        ["free fix", "b", "setting"]
    )
    assert table["languages"].unique().tolist() == ["all"]  # one unseen language is no pair
    assert table["difference"].to_dict() == pytest.approx(
        {
            ("none", "x-x-mono", "monolingual"): 0.001,
            ("none", "x-x-mono", "cross-lingual"): 0.051,
            ("none", "x-x-mono", "multilingual"): 0.06,
            ("none", "x-y", "monolingual"): 0.051,
            ("none", "x-y", "cross-lingual"): 0.001,
            ("none", "x-y", "multilingual"): 0.01,
            (designs.FIX, "x-x-mono", "multilingual"): 0,
            (designs.FIX, "x-y", "multilingual"): 0,
        }
    )
    told = designs.answers([with_fix(PAPER_LIKE, ALL_EQUAL)], table.reset_index())
    assert (
        told[0]
        == "Monolingual, 1 task: hybrid against x-x-mono above in 1; against x-y above in 1."
    )
    assert told[3].endswith(
        "hybrid against x-x-mono within 0.01 in 1; against x-y within 0.01 in 1."
    )


def test_languages_trained_on_and_unseen_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
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
    results = with_fix(PAPER_LIKE, ALL_EQUAL)
    sums = results.group_sums
    gain = 0.03 * (sums["query_lang"].isin(["yo", "zu"]) & (sums["strategy"] == "hybrid-0.5"))
    gain = gain.where(~sums["pool"].isin(["en", "sw"]), 3 * gain)  # from yo to en is neither
    table = designs.effects(
        [results._replace(group_sums=sums.assign(total=sums["total"] + sums["n"] * gain))]
    )
    chosen = table[(table["setting"] == "cross-lingual") & (table["b"] == "x-y")].set_index(
        "languages"
    )["difference"]
    everywhere = (2 * 0.03 + 4 * 0.09) / 12
    assert chosen.to_dict() == pytest.approx(
        {"all": 0.001 + everywhere, "trained": 0.001, "unseen": 0.001 + 0.03}
    )
    assert designs.language_splits({"en", "sw"}, ["en", "sw", "yo"]) == {"all": ["en", "sw", "yo"]}


def levels(none: float, mono: float, x_y: float, hybrid: float) -> dict[str, dict[str, float]]:
    """Monolingual levels as given, the others the same for all."""
    return {
        name: level(value, 0.6, 0.5)
        for name, value in zip(PAPER_LIKE, (none, mono, x_y, hybrid), strict=True)
    }


def test_how_far_a_repair_stays_below_the_best_by_hand() -> None:
    one = with_fix(levels(none=0.5, mono=0.8, x_y=0.7, hybrid=0.75), levels(0.9, 0.9, 0.9, 0.9))
    two = with_fix(
        levels(none=0.6, mono=0.5, x_y=0.5, hybrid=0.55), levels(0.4, 0.4, 0.4, 0.4), profile="two"
    )
    short = designs.shortfall([one, two], language_known=False).set_index("repair")
    assert short["monolingual mean"].to_dict() == pytest.approx(
        {"none": 0.15, "x-x-mono": 0.05, "x-y": 0.1, "hybrid-0.5": 0.05}
    )
    assert short["monolingual worst"].to_dict() == pytest.approx(
        {"none": 0.3, "x-x-mono": 0.1, "x-y": 0.1, "hybrid-0.5": 0.05}
    )
    known = designs.shortfall([one, two], language_known=True).set_index("repair")
    assert len(known) == 8
    assert known.loc[f"x-y + {designs.FIX}", "monolingual mean"] == pytest.approx((0 + 0.2) / 2)
    assert known.loc["x-y", "monolingual worst"] == pytest.approx(
        0.2
    )  # the best of task one has the fix
    told = designs.answers([one, two], designs.effects([one, two]))
    assert told[-2].startswith(
        "If the language of a text is not known, hybrid-0.5 is the safest choice: at most 0.050 mAP"
        " below"
    )


def test_no_profile_is_refused() -> None:
    with pytest.raises(InputError, match="no profile named"):
        designs.read_designs(Path("figures"), [])
    with pytest.raises(InputError, match="make study"):
        designs.read_designs(Path("figures"), ["nowhere"])


@pytest.mark.parametrize(
    ("folder", "profile", "minus", "models"),
    [
        (AVERAGES, "parallel", ("hybrid-0.5", "none"), 2),
        (STOCK, "two_by_two", ("x-x", "x-x-mono", "none"), 1),
    ],
)
def test_committed_models_of_no_profile_are_those_of_their_files(
    folder: Path, profile: str, minus: tuple[str, ...], models: int
) -> None:
    results = load_results(folder.parent / profile / "results")
    table = designs.beside(folder, results, minus)
    assert len(table) == models * 2 * len(minus) * 4  # two tasks; three settings and the fixed one
    level = {(e["run"], e["task"], e["rival"]): e["settings"] for e in results.evaluations}
    for row in table.to_dict("records"):  # the printed means differ by what the sums per group say
        strategy = row["minus"]
        runs = (
            ["none"]
            if strategy == "none"
            else [f"{strategy}-s{seed}" for seed in range(row["seeds"])]
        )
        other = np.mean(
            [level[run, row["task"], row["free fix"]][row["setting"]]["mAP"] for run in runs]
        )
        assert row["mAP"] - other == pytest.approx(row["difference"], abs=1e-9)
