"""Tables of MIRACL evaluations: by hand on made-up folders, and the committed Yoruba results against their own metrics."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from xir_lib import miracl_tables
from xir_lib.errors import InputError
from xir_lib.paths import REPO
from xir_lib.report import curve_block, fill_readme, miracl_block
from xir_lib.rivals import LEXICAL

COMMITTED = REPO / "figures" / "miracl-yo"


def write(folder: Path, values: dict[str, float], task: str = "miracl-yo", rival: str = "none") -> None:
    """Write what an evaluation leaves: every measure of a topic has the same value, and one setting more than is read."""
    folder.mkdir(parents=True)
    rows = [
        {"query_id": topic, "setting": setting, "measure": measure, "value": value + 0.5 * (setting == "multilingual")}
        for topic, value in values.items()
        for measure in ("mAP", *miracl_tables.MEASURES)
        for setting in ("monolingual", "multilingual")
    ]
    pd.DataFrame(rows).astype({"query_id": "category"}).to_parquet(folder / "per_query.parquet")
    (folder / "metrics.json").write_text(json.dumps({"task": task, "config": {"rival": rival}}))


def test_means_and_differences_by_topic(tmp_path: Path) -> None:
    write(tmp_path / "none", {"a": 0.2, "b": 0.4, "c": 0.0})
    write(tmp_path / "none" / "centring", {"a": 0.3, "b": 0.5, "c": 0.1}, rival="centring")  # a tenth more on each
    write(tmp_path / "none" / "bm25", {"a": 1.0, "b": 0.0, "c": 0.2}, rival="bm25")
    topics = miracl_tables.read_topics(tmp_path)
    assert len(topics) == 3 * 3 * 3 and set(topics["task"]) == {"miracl-yo"}
    table = miracl_tables.system_table(topics).set_index("system")
    assert list(table.index) == ["none", "none/centring", "bm25"]  # the baseline and its fixes, then the others
    assert table["nDCG@10"].to_dict() == pytest.approx({"bm25": 0.4, "none": 0.2, "none/centring": 0.3})
    assert (table["topics"] == 3).all() and table.loc["none", ["low", "minus none"]].isna().all()
    constant = table.loc["none/centring"]
    assert (constant["minus none"], constant["low"], constant["high"]) == pytest.approx((0.1, 0.1, 0.1))
    assert constant["detectable"] == pytest.approx(0, abs=1e-9)
    mixed = table.loc["bm25"]  # differences .8, -.4 and .2; the widest resamples are three times one of them
    assert mixed["minus none"] == pytest.approx(0.2) and (mixed["low"], mixed["high"]) == pytest.approx((-0.4, 0.8))


def test_trained_models_are_held_against_each_other(tmp_path: Path) -> None:
    write(tmp_path / "none", {"a": 0.2, "b": 0.4, "c": 0.0})
    write(tmp_path / "none" / "bm25", {"a": 1.0, "b": 0.0, "c": 0.2}, rival="bm25")
    assert miracl_tables.pair_table(miracl_tables.read_topics(tmp_path)).empty
    write(tmp_path / "y", {"a": 0.5, "b": 0.5, "c": 0.2})
    write(tmp_path / "y" / "centring", {"a": 0.9, "b": 0.9, "c": 0.9}, rival="centring")
    write(tmp_path / "x", {"a": 0.6, "b": 0.6, "c": 0.3})
    table = miracl_tables.pair_table(miracl_tables.read_topics(tmp_path))
    assert table[["a", "b"]].to_numpy().tolist() == [["x", "y"]]
    assert table[["difference", "low", "high"]].iloc[0].tolist() == pytest.approx([0.1, 0.1, 0.1])


def test_another_variant_of_the_corpus_is_held_against_the_first(tmp_path: Path) -> None:
    for name, level in (("none", 0.2), ("only", 0.1)):
        write(tmp_path / "with" / name, {"a": level, "b": level + 0.2})
    write(tmp_path / "without" / "none", {"a": 0.1, "b": 0.3}, task="miracl-yo-untitled")
    table = miracl_tables.variant_table(*(miracl_tables.read_topics(tmp_path / name) for name in ("with", "without")))
    assert table["system"].tolist() == ["none"]
    row = table.iloc[0]
    assert (row["nDCG@10, miracl-yo"], row["nDCG@10, miracl-yo-untitled"]) == pytest.approx((0.3, 0.2))
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
    write(tmp_path / "two", {"a": 0.1}, task="miracl-sw")
    with pytest.raises(InputError, match="evaluations of miracl-sw, miracl-yo; give one"):
        miracl_tables.read_topics(tmp_path)


def test_published_figures_are_those_of_one_language() -> None:
    table = miracl_tables.published("yo").set_index("system")
    assert table.loc["multilingual-e5-small", ["nDCG@10", "R@100"]].tolist() == [0.453, 0.778]
    assert set(table["zero_shot"]) == {"yes", "no"} and miracl_tables.published("xx").empty


def test_the_committed_topics_give_the_committed_means() -> None:
    table = miracl_tables.system_table(miracl_tables.read_topics(COMMITTED)).set_index("system")
    found = [path.parent.relative_to(COMMITTED).as_posix() for path in COMMITTED.rglob("metrics.json")]
    folders = {name.removeprefix("none/") if name.removeprefix("none/") in LEXICAL else name: name for name in found}
    assert set(table.index) == set(folders) >= {"none", "none/centring", *LEXICAL}
    assert table.index[:2].tolist() == ["none", "none/centring"]  # what the others are held against comes first
    for system, row in table.iterrows():
        metrics = json.loads((COMMITTED / folders[str(system)] / "metrics.json").read_text(encoding="utf-8"))
        assert row["topics"] == metrics["counts"]["queries"] == 119 and metrics["counts"]["passages"] == 49_043
        for measure in miracl_tables.MEASURES:
            assert row[measure] == pytest.approx(metrics["settings"]["monolingual"][measure], abs=1e-9)


def test_the_page_s_numbers_are_those_of_the_committed_topics() -> None:
    text = (COMMITTED / "README.md").read_text(encoding="utf-8")
    assert fill_readme(text, "miracl-yo", {"tables": miracl_block(COMMITTED)}) == text
    assert fill_readme(text, "miracl-yo", {"tables": "other"}) != text


def test_the_page_s_curve_is_that_of_the_committed_files() -> None:
    text = (REPO / "figures" / "fit_curve" / "README.md").read_text(encoding="utf-8")
    block = curve_block(REPO / "figures" / "fit_curve")
    assert fill_readme(text, "fit_curve", {"tables": block}) == text != fill_readme(text, "fit_curve", {"tables": "other"})
    row = pd.read_csv(REPO / "figures" / "fit_curve" / "xquad-r" / "fit_curve.csv")
    row = row.query("texts == 100 and measure == 'mAP' and setting == 'multilingual'").iloc[0]
    assert row["lowest"] <= row["mean"] <= row["highest"] and f"| {row['mean']:.3f} |" in block
    metrics = json.loads((REPO / "figures" / "fit_curve" / "xquad-r" / "metrics.json").read_text(encoding="utf-8"))
    start = pd.read_csv(REPO / "figures" / "fit_curve" / "xquad-r" / "fit_curve.csv").query("texts == 0 and measure == 'mAP'")
    for setting, value in start.set_index("setting")["mean"].items():
        assert value == pytest.approx(metrics["settings"][setting]["mAP"], abs=1e-9)
