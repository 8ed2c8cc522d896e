"""Pools in which foreign passages take the place of unjudged ones, built literally."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from xir_lib.data.records import (
    PASSAGE_SCHEMA,
    QREL_SCHEMA,
    QUERY_SCHEMA,
    RetrievalTask,
)
from xir_lib.errors import InputError
from xir_lib.metrics import measures as metrics
from xir_lib.metrics.ranks import relevant_ranks
from xir_lib.metrics.scores import vector_blocks
from xir_lib.study.mixed_pools import intruders, mixed_pool, mixed_rows


def passages(lang: str, n: int) -> pa.Table:
    rows = [{"doc_id": f"{k}-{lang}", "lang": lang, "text": f"{lang} {k}"} for k in range(n)]
    return pa.Table.from_pylist(rows, schema=PASSAGE_SCHEMA)


def yoruba(n: int = 60, judged: int = 8) -> RetrievalTask:
    """Queries 0 to 3; query q has one relevant passage, 2 q, and one judged irrelevant, 2 q + 1."""
    queries = [
        {"query_id": str(q), "pair_id": str(q), "lang": "yo", "text": "?", "group": str(q)}
        for q in range(judged // 2)
    ]
    qrels = [
        {"query_id": str(k // 2), "doc_id": f"{k}-yo", "relevance": 1 - k % 2}
        for k in range(judged)
    ]
    return RetrievalTask(
        "toy-yo",
        pa.Table.from_pylist(queries, schema=QUERY_SCHEMA),
        passages("yo", n),
        pa.Table.from_pylist(qrels, schema=QREL_SCHEMA),
    )


FOREIGN = pa.concat_tables([passages("de", 40), passages("zh", 40), passages("ar", 5)])


def chosen(
    share: float, draw: int = 0, task: RetrievalTask | None = None, foreign: pa.Table = FOREIGN
) -> list[str]:
    task = yoruba() if task is None else task
    ids = pa.concat_tables([task.passages, foreign])["doc_id"].to_pylist()
    return [ids[row] for row in mixed_rows(task, foreign, share, 48, draw=draw)]


def counts(ids: list[str]) -> dict[str, int]:
    langs = [name.split("-")[1] for name in ids]
    return {lang: langs.count(lang) for lang in sorted(set(langs))}


def test_pool_keeps_its_size_and_its_judged_passages() -> None:
    judged = {f"{k}-yo" for k in range(8)}
    # 48 - 8 = 40 places: 0, 10, 30 and 40 are foreign; ar has only 5, which de and zh make up for
    expected = {
        0.0: {"yo": 48},
        0.25: {"ar": 4, "de": 3, "yo": 38, "zh": 3},
        0.75: {"ar": 5, "de": 13, "yo": 18, "zh": 12},
        1.0: {"ar": 5, "de": 18, "yo": 8, "zh": 17},
    }
    for share, found in expected.items():
        ids = chosen(share)
        assert counts(ids) == found and len(set(ids)) == 48
        assert judged <= set(ids)


def test_draws_are_nested_differ_and_do_not_hang_on_the_order_of_tables() -> None:
    for draw in range(3):
        pools = [set(chosen(share, draw)) for share in (0, 0.25, 0.5, 0.75, 0.9)]
        for less, more in pairwise(pools):
            own, foreign = ({name for name in less - more}, {name for name in more - less})
            assert own and all(
                name.endswith("-yo") for name in own
            )  # what left is own, what came is foreign
            assert foreign and not any(name.endswith("-yo") for name in foreign)
    assert set(chosen(0.5, 0)) != set(chosen(0.5, 1))
    backwards = yoruba()
    backwards = RetrievalTask(
        "toy-yo",
        backwards.queries,
        backwards.passages.take(list(range(60))[::-1]),
        backwards.qrels.take([7, 2, 1, 0, 3, 4, 5, 6]),
    )
    assert set(chosen(0.5, 1, backwards, FOREIGN.take(list(range(85))[::-1]))) == set(
        chosen(0.5, 1)
    )


def score(
    pool: RetrievalTask, vectors: dict[str, NDArray], asked: NDArray
) -> tuple[dict[str, float], pd.DataFrame]:
    """Return nDCG@10 per setting, and the intruders."""
    docs = np.array([vectors[name] for name in pool.passages["doc_id"].to_pylist()])
    judged = pool.judged()
    ranks = relevant_ranks(vector_blocks(asked, docs, judged), judged, top=10)
    settings = metrics.macro(
        metrics.score_settings(ranks, pool.queries.to_pandas(), pool.languages, ["nDCG@10"])
    )
    return {name: values["nDCG@10"] for name, values in settings.items()}, intruders(
        ranks, pool.languages
    )


def mixed(task: RetrievalTask, foreign: pa.Table, share: float, size: int) -> RetrievalTask:
    union = RetrievalTask(
        "both", task.queries, pa.concat_tables([task.passages, foreign]), task.qrels
    )
    return mixed_pool(union, mixed_rows(task, foreign, share, size, draw=0), "mixed")


@pytest.mark.parametrize("kind", ["worse", "better"])
def test_foreign_passages_that_are_all_worse_or_all_better(kind: str) -> None:
    task, rng = yoruba(), np.random.default_rng(3)
    asked = np.hstack([rng.normal(size=(4, 5)), np.ones((4, 1))])
    height = {"worse": -100.0, "better": 100.0}[kind]
    vectors = {name: np.r_[rng.normal(size=5), 0.0] for name in task.passages["doc_id"].to_pylist()}
    vectors |= {
        f"{2 * q}-yo": np.r_[asked[q, :5] + rng.normal(size=5), 0.0] for q in range(4)
    }  # found, if not always first
    vectors |= {name: np.r_[rng.normal(size=5), height] for name in FOREIGN["doc_id"].to_pylist()}
    for share in (0.25, 0.9):
        pool = mixed(task, FOREIGN, share, 48)
        assert pool.passages.num_rows == 48
        found, languages = score(pool, vectors, asked)
        own = float(languages.set_index("doc_lang").loc["yo", "share"])
        foreign = languages[languages["doc_lang"] != "yo"]
        if kind == "worse":  # the first ten are the control's, if it has as many
            assert found["multilingual"] == found["monolingual"] > 0 and own == 1
            assert (foreign["queries"] == 0).all()
        else:  # ten foreign ones at least come first
            assert found["multilingual"] == 0 < found["monolingual"] and own == 0
            assert foreign["share"].sum() == pytest.approx(1) and foreign["queries"].max() == 1
        rows = mixed_rows(task, FOREIGN, share, 48, draw=0)
        alone = RetrievalTask(  # the control built literally
            "own", task.queries, task.passages.take(rows[rows < 60]), task.qrels
        )
        assert score(alone, vectors, asked)[0]["monolingual"] == found["monolingual"]


def test_exchangeable_foreign_passages_take_their_share_of_the_pool() -> None:
    """Vectors drawn alike in all languages: 200 queries x 10 places, a binomial share's standard
    deviation is near .01.
    """
    rng = np.random.default_rng(4)
    task = yoruba(1500, 400)
    foreign = pa.concat_tables([passages("de", 600), passages("zh", 600)])
    names = [*task.passages["doc_id"].to_pylist(), *foreign["doc_id"].to_pylist()]
    vectors = dict(zip(names, rng.normal(size=(len(names), 40)), strict=True))
    _, languages = score(mixed(task, foreign, 0.75, 1600), vectors, rng.normal(size=(200, 40)))
    found = languages.set_index("doc_lang")
    assert found["pool_share"].to_dict() == {
        "de": 450 / 1600,
        "yo": 700 / 1600,
        "zh": 450 / 1600,
    }  # .75 of 1,200 places
    assert np.abs(found["share"] - found["pool_share"]).max() < 0.04
    assert found["share"].sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("foreign", "share", "size", "says"),
    [
        (FOREIGN, 1.2, 48, r"share must be in \[0, 1\], got 1.2"),
        (FOREIGN, 0.5, 7, "a pool of 7 cannot hold the 8 judged passages of toy-yo"),
        (FOREIGN, 0.0, 61, "53 unjudged passages are needed, there are 52"),
        (FOREIGN, 1.0, 94, "86 foreign passages are needed, there are 85"),
        (passages("yo", 3), 0.5, 48, "foreign passages in yo, a language of toy-yo"),
        (
            FOREIGN.drop_columns(["text"]),
            0.5,
            48,
            "columns doc_id, lang; doc_id, lang and text are needed",
        ),
    ],
)
def test_impossible_pools_are_refused(
    foreign: pa.Table, share: float, size: int, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        mixed_rows(yoruba(), foreign, share, size, draw=0)
