"""The shifts of `tests/benchmarks/rounding.py`, and which passages it keeps."""

import sys
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from toy import toy_task

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import rounding

from xir_lib import bundled
from xir_lib.corpora.records import RetrievalTask


def test_a_shift_is_at_most_half_a_step_and_of_rounding_s_size() -> None:
    blocks = np.zeros(400, bundled._BLOCK)
    blocks["scale"] = np.where(np.arange(400) % 2, -0.5, 0.125)
    drawn = rounding.shifts(blocks.view("u1"), np.random.default_rng(0)).reshape(400, 32)
    for first, step in ((0, 0.125), (1, 0.5)):
        mine = drawn[first::2]
        assert np.abs(mine).max() <= step / 2
        assert np.isclose((mine**2).mean(), step**2 / 12, rtol=0.05)  # the variance of a uniform draw
        assert abs(mine.mean()) < 0.02 * step


def test_all_judged_passages_are_kept_and_so_many_others() -> None:
    task = toy_task()
    half = task.qrels.slice(0, task.qrels.num_rows // 2)
    asked = task.queries.filter(pc.is_in(task.queries["query_id"], half["query_id"].combine_chunks()))
    task = RetrievalTask(task.name, asked, task.passages, half)
    judged = set(half["doc_id"].to_pylist())
    assert 0 < len(judged) < task.passages.num_rows - 2
    for size in (0, len(judged), len(judged) + 2):
        kept = set(rounding.fewer_passages(task, size, seed=0).passages["doc_id"].to_pylist())
        assert judged <= kept
        assert len(kept) == max(size, len(judged))
