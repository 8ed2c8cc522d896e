"""The shifts of `tests/benchmarks/rounding.py`, which passages it keeps, and how `joins.py` joins
them.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from toy import toy_task

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import joins
import rounding

from xir_lib.data.miracl import Passage
from xir_lib.data.records import RetrievalTask
from xir_lib.encoders import bundled
from xir_lib.paths import REPO


def test_a_shift_is_at_most_half_a_step_and_of_rounding_s_size() -> None:
    blocks = np.zeros(400, bundled._BLOCK)
    blocks["scale"] = np.where(np.arange(400) % 2, -0.5, 0.125)
    drawn = rounding.shifts(blocks.view("u1"), np.random.default_rng(0)).reshape(400, 32)
    for first, step in ((0, 0.125), (1, 0.5)):
        mine = drawn[first::2]
        assert np.abs(mine).max() <= step / 2
        assert np.isclose(
            (mine**2).mean(), step**2 / 12, rtol=0.05
        )  # the variance of a uniform draw
        assert abs(mine.mean()) < 0.02 * step


def test_all_judged_passages_are_kept_and_so_many_others() -> None:
    task = toy_task()
    half = task.qrels.slice(0, task.qrels.num_rows // 2)
    asked = task.queries.filter(
        pc.is_in(task.queries["query_id"], half["query_id"].combine_chunks())
    )
    task = RetrievalTask(task.name, asked, task.passages, half)
    judged = set(half["doc_id"].to_pylist())
    assert 0 < len(judged) < task.passages.num_rows - 2
    for size in (0, len(judged), len(judged) + 2):
        kept = set(rounding.fewer_passages(task, size, seed=0).passages["doc_id"].to_pylist())
        assert judged <= kept
        assert len(kept) == max(size, len(judged))


def test_titles_are_joined_as_named() -> None:
    task = toy_task()
    names = task.passages["doc_id"].to_pylist()
    passages = {name: Passage(name, "Àdán", f"ẹyẹ {number}") for number, name in enumerate(names)}
    passages[names[0]] = Passage(names[0], "Àdán", "")
    found = {
        name: joins.joined(task, passages, join).passages["text"].to_pylist()
        for name, join in joins.JOINS.items()
    }
    assert {name: texts[1] for name, texts in found.items()} == {
        "none": "Àdán ẹyẹ 1",
        "line-break": "Àdán\nẹyẹ 1",
        "full-stop": "Àdán. ẹyẹ 1",
        "colon": "Àdán: ẹyẹ 1",
        "untitled": "ẹyẹ 1",
    }
    assert found["untitled"][0] == found["none"][0] == "Àdán"  # no text: the title alone


def test_the_page_says_what_the_joins_gave() -> None:
    folder = REPO / "figures" / "miracl-yo"
    told = json.loads((folder / "joins.json").read_text(encoding="utf-8"))
    systems = {row["system"]: row for row in told["systems"]}

    def gain(name: str) -> str:
        return "{} [{}, {}]".format(
            *(
                f"{systems[name][key]:.3f}".replace("0.", ".")
                for key in ("minus none", "low", "high")
            )
        )

    page = " ".join((folder / "README.md").read_text(encoding="utf-8").split())
    assert f"a colon gives {gain('colon')} nDCG@10 more, a full stop {gain('full-stop')}." in page
    assert (
        told["passages whose pieces differ from the blank's"]["line-break"] == 0
        and "line-break" not in systems
    )
    assert f"{told['passages']:,} of the passages" in page
