"""An evaluation agrees with sentence-transformers' own encoding and a literal ranking, and repeats
itself from its cache.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pytest
import pytrec_eval
from sentence_transformers import SentenceTransformer
from toy import IDS, LANGS, judge, toy_task

from xir_lib.data.records import RetrievalTask
from xir_lib.encoders.encoder import Encoder
from xir_lib.evaluation import evaluate as evaluation

SIDES = (("queries", "query: ", "query_id"), ("passages", "passage: ", "doc_id"))


def literal_scores(
    encoder: Encoder, kind: str, fit: str = "foreign"
) -> dict[str, dict[str, float]]:
    """Score every passage for every query with sentence-transformers and numpy, one query and
    language at a time.
    """
    model, task, other = (
        SentenceTransformer(encoder.name, device="cpu"),
        toy_task(),
        toy_task("other", IDS[1::2]),
    )
    own, foreign = (
        {
            side: dict(
                zip(
                    [r[key] for r in rows],
                    model.encode([prompt + r["text"] for r in rows]),
                    strict=True,
                )
            )
            for side, prompt, key in SIDES
            for rows in (getattr(t, side).to_pylist(),)
        }
        for t in (task, other)
    )
    groups = sorted(
        {name[0] for name in own["queries"]},
        key=lambda name: hashlib.sha256(name.encode()).hexdigest(),
    )

    def fitted_on(side: str, lang: str, query: str) -> np.ndarray:
        """The texts whose mean is taken out when this query is scored."""
        if fit == "cross-fit":
            # groups are dealt to folds in the order of their hashes; ids begin with their group
            used = {g for i, g in enumerate(groups) if i % 5 != groups.index(query[0]) % 5}
            return np.array(
                [v for name, v in own[side].items() if name[0] in used and name.endswith(lang)]
            )
        source = own if (fit, side) == ("corpus", "passages") else foreign
        return np.array([v for name, v in source[side].items() if name.endswith(lang)])

    def without_language(side: str, name: str, query: str) -> np.ndarray:
        vector, texts = own[side][name], fitted_on(side, name[-2:], query)
        if kind.startswith("centring"):
            vector = vector - texts.mean(axis=0)
        return vector / np.linalg.norm(vector)

    run = {}
    for q in own["queries"]:
        scores = {
            d: float(without_language("queries", q, q) @ without_language("passages", d, q))
            for d in own["passages"]
        }
        run[q] = literal_round_robin(scores) if "round-robin" in kind else scores
    return run


def literal_round_robin(scores: dict[str, float]) -> dict[str, float]:
    pools = {
        lang: sorted((d for d in scores if d.endswith(lang)), key=scores.__getitem__, reverse=True)
        for lang in LANGS
    }
    order = sorted(LANGS, key=lambda lang: -scores[pools[lang][0]])
    return {
        d: -float(pools[lang].index(d) + order.index(lang) / 10)
        for lang in LANGS
        for d in pools[lang]
    }


@pytest.mark.parametrize(
    ("kind", "fit"),
    [
        ("none", "foreign"),
        ("round-robin", "foreign"),
        *(("centring", fit) for fit in ("foreign", "corpus", "cross-fit")),
        *(("centring+round-robin", fit) for fit in ("foreign", "cross-fit")),
    ],
)
def test_the_numbers_are_those_of_a_literal_ranking(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, fit: str
) -> None:
    monkeypatch.setattr(
        encoder, "precision", "float32"
    )  # as the literal ranking has it, on any processor
    task = toy_task()
    fit_on = [toy_task("other", IDS[1::2])] if fit != "cross-fit" else []
    result = judge(encoder, task, tmp_path / "out", kind=kind, fit=fit, fit_on=fit_on, trec_run=60)
    qrels: dict[str, dict[str, int]] = {}
    for row in task.qrels.to_pylist():
        qrels.setdefault(row["query_id"], {})[row["doc_id"]] = 1
    run = literal_scores(encoder, kind, fit)
    with (tmp_path / "out" / "run.trec").open() as file:  # of full depth: it has the same ranking
        written = pytrec_eval.parse_run(file)
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, {"map", "recall_1", "recall_10"})
    for ranking in (run, written):
        oracle = pd.DataFrame(evaluator.evaluate(ranking)).T
        for measure, name in (("map", "mAP"), ("recall_1", "R@1"), ("recall_10", "R@10")):
            assert result["settings"]["multilingual"][name] == pytest.approx(
                oracle[measure].mean(), abs=1e-5
            )
    own = {q: {d: s for d, s in scores.items() if d[-2:] == q[-2:]} for q, scores in run.items()}
    mono = pytrec_eval.RelevanceEvaluator({q: {q: 1} for q in qrels}, {"map"}).evaluate(
        own
    )  # a query's answer has its id
    assert result["settings"]["monolingual"]["mAP"] == pytest.approx(
        np.mean([v["map"] for v in mono.values()]), abs=1e-5
    )


def test_files_follow_the_contract(encoder: Encoder, tmp_path: Path) -> None:
    result = judge(encoder, toy_task(), tmp_path, trec_run=5)
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written == json.loads(json.dumps(result))
    robust = {row["statistic"]: row for row in written["robustness"]["summary"]}
    assert (
        robust["mean"]["pairs"] == 6
        and robust["worst"]["keep"] <= robust["p10"]["keep"] <= robust["mean"]["keep"]
    )
    assert robust["mean"]["alone"] == pytest.approx(
        written["settings"]["cross-lingual"]["mAP"], abs=1e-9
    )
    assert len(written["robustness"]["cells"]) == 9
    assert set(written["settings"]) == {"monolingual", "cross-lingual", "multilingual"}
    assert {"mean", "median", "per_language", "ideal", "random"} <= written["bias"][
        "rank_distance"
    ].keys()
    assert (written["counts"]["queries"], written["counts"]["passages"]) == (60, 60)
    table = pd.read_parquet(tmp_path / "per_query.parquet")
    assert {"query_id", "query_lang", "pool", "measure", "value"} <= set(table.columns)
    assert table.groupby("measure", observed=True).size().to_dict() == {
        "mAP": 240,
        "R@1": 240,
        "R@10": 240,
        "nDCG@10": 240,
        "MRR@10": 240,
        "R@100": 240,
        "rank distance": 60,
    }
    with (tmp_path / "run.trec").open() as file:
        run = pytrec_eval.parse_run(file)
    assert len(run) == 60
    assert {len(docs) for docs in run.values()} == {5}


def test_a_task_of_one_language_has_one_setting_and_says_what_it_cannot_have(
    encoder: Encoder, tmp_path: Path
) -> None:
    whole = toy_task()
    one = RetrievalTask(
        "one",
        *(table.filter(pc.equal(table["lang"], "xx")) for table in (whole.queries, whole.passages)),
        whole.qrels.filter(
            pc.and_(
                *(pc.ends_with(whole.qrels[column], "-xx") for column in ("query_id", "doc_id"))
            )
        ),
    )
    result = judge(encoder, one, tmp_path)
    alone = judge(encoder, whole, tmp_path / "whole")
    assert list(result["settings"]) == ["monolingual"]
    assert "rank_distance" in result["bias"]["refused"]
    assert (
        result["robustness"]["cells"] == [] and "two languages" in result["robustness"]["refused"]
    )
    cells = pd.read_parquet(tmp_path / "whole" / "per_query.parquet").query(
        "setting == 'monolingual' and query_lang == 'xx'"
    )
    own = cells[cells["measure"] == "mAP"]["value"].mean()  # the same pool as in the parallel task
    assert result["settings"]["monolingual"]["mAP"] == pytest.approx(own, abs=1e-9)
    assert alone["robustness"]["cells"]


def test_the_paragraph_around_a_passage_is_in_the_key(encoder: Encoder, tmp_path: Path) -> None:
    for name, expected in (
        ("xquad-r", "none"),
        ("mlqa-r-context", "paragraph"),
        ("my-context", "none"),
    ):
        assert judge(encoder, toy_task(name), tmp_path / name)["config"]["context"] == expected


def test_a_failed_evaluation_leaves_no_metrics(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation.metrics, "group_sums", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        judge(encoder, toy_task(), tmp_path)
    assert not (tmp_path / "metrics.json").exists()


def test_a_broken_second_evaluation_does_not_leave_the_first_one_s_numbers(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(encoder, toy_task(), tmp_path, trec_run=3)
    monkeypatch.setattr(evaluation.metrics, "group_sums", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        judge(encoder, toy_task(), tmp_path)
    assert not (tmp_path / "metrics.json").exists()
    assert not (tmp_path / "run.trec").exists()
