"""What centring is fitted on, and how many texts that needs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from toy import IDS, LANGS, judge, toy_task

from xir_lib.data.records import RetrievalTask
from xir_lib.encoders.encoder import Encoder
from xir_lib.errors import InputError
from xir_lib.evaluation.fit_curve import fit_curve
from xir_lib.repair.fit import Shifted, centred
from xir_lib.repair.repair import Repair


def test_means_need_other_text_in_every_language(encoder: Encoder, tmp_path: Path) -> None:
    for same in (toy_task(), toy_task("copy under another name")):
        with pytest.raises(InputError, match="cannot be fitted on the queries that are scored"):
            judge(encoder, toy_task(), tmp_path, kind="centring", fit_on=[same])
    with pytest.raises(InputError, match="no text for the means of xx, yy, zz"):
        judge(encoder, toy_task(), tmp_path, kind="centring")
    assert not list(tmp_path.iterdir())


def test_the_fit_is_in_the_key_and_its_size_is_kept(encoder: Encoder, tmp_path: Path) -> None:
    other = toy_task("other", IDS[1::2])
    key = judge(encoder, toy_task(), tmp_path, kind="centring", fit_on=[other], fit_texts=7)[
        "config"
    ]
    seven = {lang: {"task": "other", "texts": 7} for lang in LANGS}
    assert key["repair_fit"] == {"fit": "foreign", "queries": seven, "passages": seven}
    key = judge(encoder, toy_task(), tmp_path, kind="centring", fit="corpus", fit_on=[other])[
        "config"
    ]
    own = {lang: {"task": "toy", "texts": 20} for lang in LANGS}
    assert key["repair_fit"] == {
        "fit": "corpus",
        "queries": {k: {**v, "task": "other"} for k, v in own.items()},
        "passages": own,
    }
    key = judge(encoder, toy_task(), tmp_path, kind="centring", fit="cross-fit")["config"][
        "repair_fit"
    ]
    # 20 ids of 8 groups in 5 folds; a group has 3 or 2 ids, so a fold of two groups has at least 4
    # and at most 6.
    assert key["folds"] == 5
    assert {v["task"] for v in key["queries"].values()} == {"toy"}
    assert (
        all(20 - 6 <= v["texts"] <= 20 - 4 for v in key["queries"].values())
        and key["queries"] == key["passages"]
    )


def test_no_query_is_scored_with_a_mean_that_holds_it(encoder: Encoder) -> None:
    # Another vector for one query must leave all that its fold is scored with as it was, and move
    # all other folds.
    task = toy_task()
    before, _ = centred(encoder, task, "cross-fit", [])
    groups = np.array(task.queries["group"].to_pylist())
    assert sorted(np.concatenate([fold.rows for fold in before])) == list(range(60))
    for one in before:
        assert not set(groups[one.rows]) & set(np.delete(groups, one.rows))  # no group is split

    def changed(column: int) -> list[Shifted]:
        """Fit again with the opposite vector for the first query, or for its answer."""
        real, sides = Encoder.encode_table, iter((0, 1))

        def other(self: Encoder, *arguments: Any) -> np.ndarray:
            vectors = real(self, *arguments)
            if next(sides) == column:
                vectors[0] = -vectors[0]
            return vectors

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Encoder, "encode_table", other)
            return centred(encoder, task, "cross-fit", [])[0]

    langs = np.array(task.queries["lang"].to_pylist())
    for one, other in zip(before, changed(0), strict=True):
        same = (one.queries == other.queries).all(axis=1)
        if 0 in one.rows:
            assert (one.rows[~same] == [0]).all()
        else:
            assert not same[langs[one.rows] == "xx"].any()
    for one, other in zip(before, changed(1), strict=True):
        moved = ~(one.passages == other.passages).all(axis=1)
        assert moved.sum() == (1 if 0 in one.rows else 20)  # itself, or all of its language


def test_unknown_repairs_and_fits(encoder: Encoder, tmp_path: Path) -> None:
    other = toy_task("other", IDS[1::2])
    for arguments, message in (
        ({"kind": "centering"}, "unknown repair 'centering'; use none, centring, round-robin"),
        ({"kind": "centring", "fit": "own"}, "unknown fit 'own'; use foreign, corpus, cross-fit"),
        (
            {"kind": "centring", "fit": "corpus"},
            r"no text for the means of xx, yy, zz \(queries\)",
        ),
        (
            {"kind": "centring", "fit": "cross-fit", "fit_on": [other]},
            "cross-fit takes its texts from the task itself",
        ),
        (
            {"kind": "centring", "fit": "corpus", "fit_on": [toy_task()]},
            "cannot be fitted on the queries that are scored",
        ),
    ):
        with pytest.raises(InputError, match=message):
            judge(encoder, toy_task(), tmp_path, **arguments)
    task = toy_task()
    groups = ["a" if name.startswith("a") else "b" for name in task.queries["pair_id"].to_pylist()]
    uneven = task.queries.set_column(
        task.queries.schema.get_field_index("group"), "group", pa.array(groups)
    )
    only = pc.or_(
        pc.equal(uneven["group"], "a"), pc.equal(uneven["lang"], "xx")
    )  # zz and yy are asked in group a alone
    uneven = uneven.filter(only)
    qrels = task.qrels.filter(pc.is_in(task.qrels["query_id"], uneven["query_id"].combine_chunks()))
    with pytest.raises(
        InputError,
        match=r"^cross-fit leaves a fold of toy without any query in yy, zz; use another fit$",
    ):
        Repair("centring", "cross-fit").check(RetrievalTask("toy", uneven, task.passages, qrels))
    with pytest.raises(
        InputError, match="cross-fit needs a group for every query, two at least; toy lacks them"
    ):
        judge(encoder, toy_task(ids=IDS[:5]), tmp_path, kind="centring", fit="cross-fit")
    assert not list(tmp_path.iterdir())


def test_the_curve_ends_where_the_evaluations_are(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, other = toy_task(), toy_task("other", IDS[1::2])
    ends = {
        texts: judge(encoder, task, tmp_path, kind=rival, fit_on=[other])["settings"]
        for texts, rival in ((0, "none"), (500, "centring"))
    }
    once = judge(encoder, task, tmp_path, kind="centring", fit_on=[other], fit_texts=5)["settings"]
    monkeypatch.setattr(
        "xir_lib.encoders.encode.encode", lambda *_, **__: pytest.fail("encoded again")
    )
    curve = fit_curve(encoder, task, [other], [500, 5], draws=4)
    pd.testing.assert_frame_equal(curve, fit_curve(encoder, task, [other], [5, 500], draws=4))
    assert curve.groupby("texts")[["fewest", "draws"]].first().to_dict() == {
        "fewest": {0: 0, 5: 5, 500: 20},
        "draws": {0: 1, 5: 4, 500: 1},
    }
    for row in curve.itertuples():
        if row.texts in ends:
            assert (
                row.mean
                == row.lowest
                == row.highest
                == pytest.approx(ends[row.texts][row.setting][row.measure], abs=1e-6)
            )
        else:
            assert row.lowest <= row.mean <= row.highest
    five = curve.query("texts == 5 and setting == 'multilingual' and measure == 'mAP'").iloc[0]
    assert five["lowest"] < five["highest"] and five["sd"] > 0
    # The first draw is what `fit_texts` takes.
    single = fit_curve(encoder, task, [other], [5], draws=1)
    found = single.query("texts == 5").set_index(["setting", "measure"])["mean"]
    assert all(
        found[setting, name] == pytest.approx(v, abs=1e-6)
        for setting in once
        for name, v in once[setting].items()
    )
    with pytest.raises(InputError, match=r"at least 1, got \[0\] and 5"):
        fit_curve(encoder, task, [other], [0])


def test_the_curve_reads_grades_as_the_evaluation_does(encoder: Encoder, tmp_path: Path) -> None:
    task, other = toy_task(), toy_task("other", IDS[1::2])
    grades = pa.array([1 + row % 3 for row in range(task.qrels.num_rows)], pa.int8())
    graded = replace(
        task, qrels=task.qrels.set_column(2, task.qrels.schema.field("relevance"), grades)
    )
    whole = judge(encoder, graded, tmp_path)["settings"]["multilingual"]["nDCG@10"]
    curve = fit_curve(encoder, graded, [other], [5], draws=1)
    start = curve.query("texts == 0 and setting == 'multilingual' and measure == 'nDCG@10'")[
        "mean"
    ].item()
    assert start == pytest.approx(whole, abs=1e-6)
    assert (
        abs(start - judge(encoder, task, tmp_path)["settings"]["multilingual"]["nDCG@10"]) > 1e-3
    )  # they count
