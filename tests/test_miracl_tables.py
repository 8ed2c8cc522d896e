"""Tables of MIRACL evaluations: by hand on made-up folders, and the committed Yoruba results
against their own metrics.
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from xir_lib.errors import InputError
from xir_lib.metrics import measures as metrics
from xir_lib.metrics.significance import Comparison, compare
from xir_lib.paths import REPO
from xir_lib.repair.kinds import LEXICAL
from xir_lib.study import miracl_tables
from xir_lib.study.report import curve_block, fill_readme, miracl_block

COMMITTED = REPO / "figures" / "miracl-yo"


def write(
    folder: Path,
    values: dict[str, float],
    task: str = "miracl-yo",
    rival: str = "none",
    cut: int = 512,
) -> None:
    """Write what an evaluation leaves: every measure of a topic has the same value, and one setting
    more than is read.
    """
    folder.mkdir(parents=True)
    rows = [
        {
            "query_id": topic,
            "setting": setting,
            "measure": measure,
            "value": value + 0.5 * (setting == "multilingual"),
        }
        for topic, value in values.items()
        for measure in ("mAP", *miracl_tables.MEASURES)
        for setting in ("monolingual", "multilingual")
    ]
    pd.DataFrame(rows).astype({"query_id": "category"}).to_parquet(folder / "per_query.parquet")
    config = {"rival": rival, "precision": "float32", "environment": {"device": "a machine"}}
    config |= {} if rival.startswith("bm25") else {"max_seq_length": cut}
    (folder / "metrics.json").write_text(json.dumps({"task": task, "config": config}))


def test_means_and_differences_by_topic(tmp_path: Path) -> None:
    write(tmp_path / "none", {"a": 0.2, "b": 0.4, "c": 0.0})
    write(
        tmp_path / "none" / "centring", {"a": 0.3, "b": 0.5, "c": 0.1}, rival="centring"
    )  # a tenth more on each
    write(tmp_path / "none" / "bm25", {"a": 1.0, "b": 0.0, "c": 0.2}, rival="bm25")
    topics = miracl_tables.read_topics(tmp_path)
    assert len(topics) == 3 * 3 * 3 and set(topics["task"]) == {"miracl-yo"}
    table = miracl_tables.system_table(topics).set_index("system")
    assert list(table.index) == [
        "none",
        "none/centring",
        "bm25",
    ]  # the baseline and its fixes, then the others
    assert table["nDCG@10"].to_dict() == pytest.approx(
        {"bm25": 0.4, "none": 0.2, "none/centring": 0.3}
    )
    assert (table["topics"] == 3).all() and table.loc["none", ["low", "minus none"]].isna().all()
    constant = table.loc["none/centring"]
    assert (constant["minus none"], constant["low"], constant["high"]) == pytest.approx(
        (0.1, 0.1, 0.1)
    )
    assert constant["detectable"] == float("inf")  # of three topics: p cannot fall below 2 / 2^3
    mixed = table.loc[
        "bm25"
    ]  # differences .8, -.4 and .2; the widest resamples are three times one of them
    assert mixed["minus none"] == pytest.approx(0.2) and (
        mixed["low"],
        mixed["high"],
    ) == pytest.approx((-0.4, 0.8))


NONE = {"a": 0.2, "b": 0.4, "c": 0.0}


def plus(more: float, values: dict[str, float] = NONE) -> dict[str, float]:
    return {topic: value + more for topic, value in values.items()}


def told(found: Comparison) -> list[float]:
    return [found.difference, found.low, found.high, found.mde]


def direct(a: list[dict[str, float]], b: list[dict[str, float]]) -> Comparison:
    """Compare as `significance` is called by hand: a row per topic, and with several seeds a column
    of them.
    """

    def sums(runs: list[dict[str, float]]) -> pd.DataFrame:
        keys = {
            "setting": "monolingual",
            "query_lang": "yo",
            "pool": "yo",
            "measure": "nDCG@10",
            "n": 1,
        }
        tables = [
            pd.DataFrame({"group": list(run), "total": list(run.values()), **keys}) for run in runs
        ]
        return (
            tables[0]
            if len(runs) == 1
            else pd.concat([one.assign(seed=k) for k, one in enumerate(tables)])
        )

    return compare(
        sums(a),
        sums(b),
        setting="monolingual",
        measure="nDCG@10",
        n_resamples=miracl_tables.RESAMPLES,
    )


def test_trainings_of_one_system_are_read_over_their_seeds(tmp_path: Path) -> None:
    write(tmp_path / "none", NONE)
    for seed, gain in enumerate(
        (0.1, 0.2, 0.3)
    ):  # every topic gains the same: the seeds are all that varies
        write(tmp_path / f"atlas-x-y-s{seed}", plus(gain))
        write(tmp_path / f"atlas-x-y-s{seed}" / "centring", plus(gain + 0.1), rival="centring")
    topics = miracl_tables.read_topics(tmp_path)
    assert topics.groupby("system")["seed"].nunique().to_dict() == {
        "none": 0,
        "atlas-x-y": 3,
        "atlas-x-y/centring": 3,
    }
    table = miracl_tables.system_table(topics).set_index("system")
    assert table["seeds"].to_dict() == {"none": 0, "atlas-x-y": 3, "atlas-x-y/centring": 3}
    assert (table["topics"] == 3).all() and table.loc["none", ["lowest", "highest"]].isna().all()
    row = table.loc["atlas-x-y"]
    assert row[["nDCG@10", "lowest", "highest", "R@100", "MRR@10"]].tolist() == pytest.approx(
        [0.4, 0.3, 0.5, 0.4, 0.4]
    )
    # Student's interval of three numbers, by the textbook; the bootstrap's error is simulated
    half = stats.t.ppf(0.975, 2) * np.std([0.1, 0.2, 0.3], ddof=1) / np.sqrt(3)
    assert row[["minus none", "low", "high"]].tolist() == pytest.approx(
        [0.2, 0.2 - half, 0.2 + half], rel=0.05
    )
    assert table.loc["atlas-x-y/centring", "minus none"] == pytest.approx(0.3)


def test_several_seeds_are_what_significance_says_of_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [f"t{k:02}" for k in range(20)]
    runs = {
        name: [dict(zip(names, rng.random(20), strict=True)) for _ in range(3)]
        for name in ("hybrid-0.5", "x-x-mono", "x-y")
    }
    none = dict(zip(names, rng.random(20), strict=True))
    write(tmp_path / "none", none)
    for name, seeds in runs.items():
        for seed, values in enumerate(seeds):
            write(tmp_path / f"low_resource-{name}-s{seed}", values)
    topics = miracl_tables.read_topics(tmp_path)
    systems = miracl_tables.system_table(topics).set_index("system")
    for name, seeds in runs.items():
        row = systems.loc[f"low_resource-{name}", ["minus none", "low", "high", "detectable"]]
        assert row.tolist() == pytest.approx(told(direct(seeds, [none])))
    pairs = miracl_tables.pair_table(topics)
    assert pairs[["profile", "seeds"]].drop_duplicates().to_numpy().tolist() == [
        ["low_resource", 3]
    ]
    assert pairs[["a", "b"]].to_numpy().tolist() == [
        ["hybrid-0.5", "x-x-mono"],
        ["hybrid-0.5", "x-y"],
        ["x-x-mono", "x-y"],
    ]
    for row in pairs.to_dict("records"):
        expected = told(direct(runs[row["a"]], runs[row["b"]]))
        assert [row[name] for name in ("difference", "low", "high", "detectable")] == pytest.approx(
            expected
        )


def test_one_seed_is_what_it_was_without_a_number(tmp_path: Path) -> None:
    trained = {"a": 0.9, "b": 0.5, "c": 0.3}
    for place, name in (("numbered", "x-s7"), ("plain", "x")):
        write(tmp_path / place / "none", NONE)
        write(tmp_path / place / name, trained)
    one, other = (
        miracl_tables.system_table(miracl_tables.read_topics(tmp_path / place)).set_index("system")
        for place in ("numbered", "plain")
    )
    columns = ["nDCG@10", "R@100", "MRR@10", "minus none", "low", "high", "detectable"]
    assert one.loc["x", columns].tolist() == other.loc["x", columns].tolist()
    assert one.loc["x", columns[3:]].tolist() == pytest.approx(told(direct([trained], [NONE])))
    assert one.loc["x", ["seeds", "lowest", "highest"]].tolist() == pytest.approx(
        [1, 17 / 30, 17 / 30]
    )
    assert other.loc["x", "seeds"] == 0


def test_strategies_of_one_profile_are_held_against_each_other_in_the_same_seeds(
    tmp_path: Path,
) -> None:
    write(tmp_path / "none", NONE)
    write(tmp_path / "none" / "bm25-folded", {"a": 1.0, "b": 0.0, "c": 0.2}, rival="bm25-folded")
    write(tmp_path / "two-x-y-s0", plus(0.3))
    assert miracl_tables.pair_table(miracl_tables.read_topics(tmp_path)).empty
    write(tmp_path / "one-x-x-mono-s0", plus(0.5))  # of another profile
    for seed, gain in enumerate((0.4, 0.5, 0.0)):
        write(tmp_path / f"two-hybrid-0.5-s{seed}", plus(gain))
        write(tmp_path / f"two-hybrid-0.5-s{seed}" / "centring", plus(0.9), rival="centring")
    write(tmp_path / "two-x-y-s1", plus(0.4))  # x-y lacks the third seed
    table = miracl_tables.pair_table(miracl_tables.read_topics(tmp_path))
    assert table[["profile", "a", "b", "seeds"]].to_numpy().tolist() == [
        ["two", "hybrid-0.5", "x-y", 2]
    ]
    assert table[["difference", "low", "high"]].iloc[0].tolist() == pytest.approx([0.1, 0.1, 0.1])
    write(tmp_path / "two-x-x-mono-s5", NONE)
    with pytest.raises(
        InputError, match=r"two-hybrid-0\.5 and two-x-x-mono have no seed in common"
    ):
        miracl_tables.pair_table(miracl_tables.read_topics(tmp_path))


def test_one_strategy_is_held_against_itself_on_other_training_text(tmp_path: Path) -> None:
    write(tmp_path / "none", NONE)
    write(tmp_path / "one-x-y-s0", plus(0.3))
    assert miracl_tables.training_table(miracl_tables.read_topics(tmp_path)).empty
    for seed, gain in enumerate((0.1, 0.2)):
        write(tmp_path / f"two_more-x-y-s{seed}", plus(gain))
        write(tmp_path / f"two_more-hybrid-0.5-s{seed}", plus(0.4))
    table = miracl_tables.training_table(miracl_tables.read_topics(tmp_path))
    assert table[["strategy", "a", "b", "seeds"]].to_numpy().tolist() == [
        ["x-y", "one", "two_more", 1]
    ]
    assert table[["difference", "low", "high"]].iloc[0].tolist() == pytest.approx([0.2, 0.2, 0.2])


def test_a_free_fix_is_held_against_the_system_without_it(tmp_path: Path) -> None:
    write(tmp_path / "none", NONE)
    write(tmp_path / "none" / "centring", plus(-0.1), rival="centring")
    for seed, gain in enumerate((0.1, 0.3)):
        write(tmp_path / f"p-x-y-s{seed}", plus(gain))
        write(tmp_path / f"p-x-y-s{seed}" / "centring", plus(gain + 0.05), rival="centring")
    write(tmp_path / "none" / "bm25", NONE, rival="bm25")
    table = miracl_tables.fix_table(miracl_tables.read_topics(tmp_path)).set_index(
        ["system", "free fix"]
    )
    assert table.index.tolist() == [("none", "centring"), ("p-x-y", "centring")]
    assert table["difference"].tolist() == pytest.approx([-0.1, 0.05]) and table[
        "seeds"
    ].tolist() == [0, 2]
    assert miracl_tables.machines(tmp_path) == "a machine, float32: none, p-x-y"


def test_texts_cut_at_another_length_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "none", NONE)
    write(tmp_path / "none" / "bm25", NONE, rival="bm25")
    write(tmp_path / "short", NONE, cut=96)
    with pytest.raises(
        InputError, match="holds evaluations of texts cut at 96, 512 tokens; give one length's"
    ):
        miracl_tables.read_topics(tmp_path)


def test_sums_stand_for_the_values_of_single_topics(tmp_path: Path) -> None:
    for name, gain in (("none", 0.0), ("x-s0", 0.1), ("x-s1", 0.3)):
        write(tmp_path / name, plus(gain))
    expected = miracl_tables.read_topics(tmp_path)
    path = tmp_path / "x-s1"
    values = pd.read_parquet(path / "per_query.parquet")
    values = values.assign(group=values["query_id"], query_lang="yo", pool="yo")
    (path / "per_query.parquet").unlink()
    with pytest.raises(InputError, match=r"group_sums\.parquet"):
        miracl_tables.read_topics(tmp_path)
    metrics.group_sums(values).to_parquet(path / "group_sums.parquet")
    keys = ["system", "seed", "topic", "measure"]
    pd.testing.assert_frame_equal(
        miracl_tables.read_topics(tmp_path).sort_values(keys, ignore_index=True),
        expected.sort_values(keys, ignore_index=True),
    )
    metrics.group_sums(values[values["measure"] == "mAP"]).to_parquet(path / "group_sums.parquet")
    with pytest.raises(InputError, match="x-s1 has no nDCG@10, R@100, MRR@10 of single topics"):
        miracl_tables.read_topics(tmp_path)
    metrics.group_sums(values.assign(group="all")).to_parquet(path / "group_sums.parquet")
    with pytest.raises(InputError, match="holds groups of several topics"):
        miracl_tables.read_topics(tmp_path)


def test_the_page_says_what_its_intervals_cover(tmp_path: Path) -> None:
    write(tmp_path / "none", NONE)
    write(tmp_path / "atlas-x-y-s0", plus(0.1))
    alone = (
        "The 95 % intervals cover topics alone: no model was measured with a second training"
        " seed.\n\n|"
    )
    assert miracl_block(tmp_path).startswith(alone)
    write(tmp_path / "atlas-x-y-s1", plus(0.2))
    write(tmp_path / "none" / "bm25", NONE, rival="bm25")
    assert miracl_tables.system_table(miracl_tables.read_topics(tmp_path))["system"].tolist() == [
        "none",
        "bm25",
        "atlas-x-y",
    ]
    block = miracl_block(tmp_path)
    assert block.startswith(
        "The 95 % intervals cover topics and training seeds where `seeds` is 2 or more, and topics"
        " alone"
    )
    assert "| atlas-x-y | 2 | 3 | 0.350 | 0.300 | 0.400 |" in block


def test_another_variant_of_the_corpus_is_held_against_the_first(tmp_path: Path) -> None:
    for name, level in (("none", 0.2), ("only", 0.1)):
        write(tmp_path / "with" / name, {"a": level, "b": level + 0.2})
    write(tmp_path / "without" / "none", {"a": 0.1, "b": 0.3}, task="miracl-yo-untitled")
    table = miracl_tables.variant_table(
        *(miracl_tables.read_topics(tmp_path / name) for name in ("with", "without"))
    )
    assert table["system"].tolist() == ["none"]
    row = table.iloc[0]
    assert (row["nDCG@10, miracl-yo"], row["nDCG@10, miracl-yo-untitled"]) == pytest.approx(
        (0.3, 0.2)
    )
    assert (row["difference"], row["low"], row["high"]) == pytest.approx((-0.1, -0.1, -0.1))


def test_what_cannot_be_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no metrics\.json; `xir evaluate"):
        miracl_tables.read_topics(tmp_path)
    write(tmp_path / "one", {"a": 0.1})
    with pytest.raises(InputError, match="no system 'none'; there are one"):
        miracl_tables.system_table(miracl_tables.read_topics(tmp_path))
    for place in ("one/bm25", "two/bm25"):
        write(tmp_path / "twice" / place, {"a": 0.1}, rival="bm25")
    with pytest.raises(InputError, match="holds bm25 twice"):
        miracl_tables.read_topics(tmp_path / "twice")
    shutil.rmtree(tmp_path / "twice")
    for first, second in (
        ("x", "x-s0"),
        ("x-s0", "x-s00"),
    ):  # a training or another system? the same seed?
        for name in (first, second):
            write(tmp_path / "both" / name, {"a": 0.1})
        with pytest.raises(
            InputError, match=f"{first} and {second} are both of x; give each training a number"
        ):
            miracl_tables.read_topics(tmp_path / "both")
        shutil.rmtree(tmp_path / "both")
    write(tmp_path / "two", {"a": 0.1}, task="miracl-sw")
    with pytest.raises(InputError, match="evaluations of miracl-sw, miracl-yo; give one"):
        miracl_tables.read_topics(tmp_path)


def test_published_figures_are_those_of_one_language() -> None:
    table = miracl_tables.published("yo").set_index("system")
    assert table.loc["multilingual-e5-small", ["nDCG@10", "R@100"]].tolist() == [0.453, 0.778]
    assert set(table["zero_shot"]) == {"yes", "no"} and miracl_tables.published("xx").empty


def test_the_committed_topics_give_the_committed_means() -> None:
    table = miracl_tables.system_table(miracl_tables.read_topics(COMMITTED)).set_index("system")
    found = [
        path.parent.relative_to(COMMITTED).as_posix() for path in COMMITTED.rglob("metrics.json")
    ]
    folders: dict[str, list[str]] = {}
    for name in found:
        short = name.removeprefix("none/")
        folders.setdefault(
            short if short in LEXICAL else re.sub(r"-s\d+(?=/|$)", "", name), []
        ).append(name)
    assert set(table.index) == set(folders) >= {"none", "none/centring", *LEXICAL}
    assert table.index[:2].tolist() == [
        "none",
        "none/centring",
    ]  # what the others are held against comes first
    for system, row in table.iterrows():
        paths = [COMMITTED / name / "metrics.json" for name in folders[str(system)]]
        evaluated = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        for one in evaluated:
            assert (
                row["topics"] == one["counts"]["queries"] == 119
                and one["counts"]["passages"] == 49_043
            )
        for measure in miracl_tables.MEASURES:
            values = [one["settings"]["monolingual"][measure] for one in evaluated]
            assert row[measure] == pytest.approx(np.mean(values), abs=1e-9)
            if measure == miracl_tables.MAIN and row["seeds"]:
                assert row[["seeds", "lowest", "highest"]].tolist() == pytest.approx(
                    [len(values), min(values), max(values)]
                )


def test_the_page_s_numbers_are_those_of_the_committed_topics() -> None:
    text = (COMMITTED / "README.md").read_text(encoding="utf-8")
    assert fill_readme(text, "miracl-yo", {"tables": miracl_block(COMMITTED)}) == text
    assert fill_readme(text, "miracl-yo", {"tables": "other"}) != text


def test_the_page_s_curve_is_that_of_the_committed_files() -> None:
    text = (REPO / "figures" / "fit_curve" / "README.md").read_text(encoding="utf-8")
    block = curve_block(REPO / "figures" / "fit_curve")
    assert (
        fill_readme(text, "fit_curve", {"tables": block})
        == text
        != fill_readme(text, "fit_curve", {"tables": "other"})
    )
    row = pd.read_csv(REPO / "figures" / "fit_curve" / "xquad-r" / "fit_curve.csv")
    row = row.query("texts == 100 and measure == 'mAP' and setting == 'multilingual'").iloc[0]
    assert row["lowest"] <= row["mean"] <= row["highest"] and f"| {row['mean']:.3f} |" in block
    metrics = json.loads(
        (REPO / "figures" / "fit_curve" / "xquad-r" / "metrics.json").read_text(encoding="utf-8")
    )
    start = pd.read_csv(REPO / "figures" / "fit_curve" / "xquad-r" / "fit_curve.csv").query(
        "texts == 0 and measure == 'mAP'"
    )
    for setting, value in start.set_index("setting")["mean"].items():
        assert value == pytest.approx(metrics["settings"][setting]["mAP"], abs=1e-9)
