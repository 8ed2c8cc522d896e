"""Runs and judgements against pytrec_eval and ir_measures, which read the same files."""

import re
from pathlib import Path

import ir_measures
import pandas as pd
import pyarrow as pa
import pytest
import pytrec_eval
from toy import judge, toy_task

from xir_lib.data.records import RetrievalTask
from xir_lib.encoders.encoder import Encoder
from xir_lib.errors import InputError
from xir_lib.evaluation import trec
from xir_lib.evaluation.evaluate import evaluate
from xir_lib.evaluation.systems import Listed


def test_run_and_qrels_are_all_that_trec_s_tools_need(encoder: Encoder, tmp_path: Path) -> None:
    result = judge(encoder, toy_task(), tmp_path, trec_run=60)
    with (tmp_path / "run.trec").open() as run, (tmp_path / "qrels.trec").open() as qrels:
        evaluator = pytrec_eval.RelevanceEvaluator(
            pytrec_eval.parse_qrel(qrels), {"map", "recip_rank", "ndcg_cut_10"}
        )
        oracle = pd.DataFrame(evaluator.evaluate(pytrec_eval.parse_run(run))).T
    assert len(oracle) == 60
    for measure, name in (("map", "mAP"), ("ndcg_cut_10", "nDCG@10")):
        assert result["settings"]["multilingual"][name] == pytest.approx(
            oracle[measure].mean(), abs=1e-9
        )
    names = {"AP": "mAP", "nDCG@10": "nDCG@10", "R@10": "R@10", "RR@10": "MRR@10"}
    read = (
        ir_measures.read_trec_qrels(str(tmp_path / "qrels.trec")),
        ir_measures.read_trec_run(str(tmp_path / "run.trec")),
    )
    measured = ir_measures.calc_aggregate(
        [ir_measures.parse_measure(name) for name in names], *map(list, read)
    )
    assert {names[str(measure)]: value for measure, value in measured.items()} == pytest.approx(
        {name: result["settings"]["multilingual"][name] for name in names.values()}, abs=1e-9
    )
    judge(encoder, toy_task(), tmp_path)
    assert (
        not (tmp_path / "run.trec").exists() and not (tmp_path / "qrels.trec").exists()
    )  # of another call
    task = toy_task()
    ids = pa.array([f"a {name}" for name in task.passages["doc_id"].to_pylist()])
    judged = pa.array([f"a {name}" for name in task.qrels["doc_id"].to_pylist()])
    blank = RetrievalTask(
        "toy",
        task.queries,
        task.passages.set_column(0, "doc_id", ids),
        task.qrels.set_column(1, "doc_id", judged),
    )
    assert judge(encoder, blank, tmp_path)["settings"] == result["settings"]
    with pytest.raises(InputError, match="doc_id 'a ai-xx' holds white space"):
        judge(encoder, blank, tmp_path, trec_run=5)


def test_a_run_is_scored_as_the_model_that_wrote_it(encoder: Encoder, tmp_path: Path) -> None:
    task = toy_task()
    plain = judge(encoder, task, tmp_path / "model", trec_run=60)
    run = trec.read_run(tmp_path / "model" / "run.trec", task)
    ranked = evaluate(Listed(run, task), tmp_path / "run", trec_run=60)
    for key in ("settings", "micro", "bias", "counts", "recall_ceilings", "robustness"):
        assert ranked[key] == plain[key], key
    assert (ranked["model"], ranked["config"]["run"]["fewest_passages"]) == ("run.trec", 60)
    assert "prompts" not in ranked["config"]
    columns = [
        [line.split()[:4] for line in (tmp_path / name / "run.trec").open()]
        for name in ("model", "run")
    ]
    assert columns[0] == columns[1]


def test_what_a_run_does_not_list_is_tied_behind_what_it_lists(tmp_path: Path) -> None:
    task = toy_task()
    docs, first = task.passages["doc_id"].to_pylist(), task.queries["query_id"].to_pylist()[0]
    listed = [docs[7], docs[3], docs[11]]  # in no order; the score decides, not the rank
    lines = [
        f"{query} Q0 {doc} 9 {score} any\n"
        for query in task.queries["query_id"].to_pylist()
        for doc, score in zip(listed, (0.5, -2.0, 0.25), strict=True)
    ]
    (tmp_path / "cut.trec").write_text("".join(lines))
    run = trec.read_run(tmp_path / "cut.trec", task)
    assert run.key()["fewest_passages"] == 3
    evaluate(Listed(run, task), tmp_path / "out", trec_run=60)
    order = [
        line.split()[2]
        for line in (tmp_path / "out" / "run.trec").open()
        if line.startswith(f"{first} ")
    ]
    behind = sorted(set(docs) - set(listed), reverse=True)  # as trec_eval breaks ties
    assert order == [docs[7], docs[11], docs[3], *behind]


BROKEN_RUN = {
    "q Q0 d 1": "4 columns; a run has six",
    "nobody Q0 DOC 1 0.5 t": "query 'nobody' is not in toy",
    "QUERY Q0 nothing 1 0.5 t": "passage 'nothing' is not in toy",
    "QUERY Q0 DOC 1 nan t": "the score 'nan' is no finite number",
    "QUERY Q0 DOC 1 1e99 t": "the score '1e99' is no finite number",
    "QUERY Q0 DOC 1 high t": "the score 'high' is no finite number",
    "QUERY Q0 DOC 1 0.5 t\nQUERY Q0 DOC 2 0.4 t": "passage 'DOC' is there twice for query 'QUERY'",
    "QUERY Q0 DOC 1 0.5 t": "ranks nothing for 59 of 60 queries",
    "": "ranks nothing for 60 of 60 queries",
}


@pytest.mark.parametrize("text", BROKEN_RUN)
def test_a_broken_line_of_a_run_is_named(tmp_path: Path, text: str) -> None:
    task, message = toy_task(), BROKEN_RUN[text]
    for name, column in (("QUERY", task.queries["query_id"]), ("DOC", task.passages["doc_id"])):
        text, message = (
            text.replace(name, column[5].as_py()),
            message.replace(name, column[5].as_py()),
        )
    (tmp_path / "bad.trec").write_text(text)
    where = "" if "ranks nothing" in message else f", line {1 + text.count(chr(10))}:"
    with pytest.raises(
        InputError, match=rf"^{re.escape(f'{tmp_path}/bad.trec{where} {message}')}[^\n]*$"
    ):
        trec.read_run(tmp_path / "bad.trec", task)
