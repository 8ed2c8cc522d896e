"""An evaluation agrees with sentence-transformers' own encoding and a literal ranking, and repeats itself from its cache."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import pytrec_eval
import torch
from sentence_transformers import SentenceTransformer
from test_encoders import build_tiny
from toy import IDS, LANGS, toy_task

from xir_lib import evaluation
from xir_lib.errors import InputError
from xir_lib.evaluation import Encoder, evaluate


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    torch.set_num_threads(1)
    return Encoder(str(build_tiny(tmp_path_factory.mktemp("encoder"))), cache=tmp_path_factory.mktemp("cache"))


def literal_scores(encoder: Encoder, centred: bool) -> dict[str, dict[str, float]]:
    """Score every passage for every query with sentence-transformers alone; centre on the toy's other half if asked."""
    model, task, other = SentenceTransformer(encoder.name, device="cpu"), toy_task(), toy_task("other", IDS[1::2])
    vectors = {}
    for side, prompt, key in (("queries", "query: ", "query_id"), ("passages", "passage: ", "doc_id")):
        rows, source = getattr(task, side).to_pylist(), getattr(other, side).to_pylist()
        found = dict(zip([r[key] for r in rows], model.encode([prompt + r["text"] for r in rows]), strict=True))
        if centred:
            means = {
                lang: model.encode([prompt + r["text"] for r in source if r["lang"] == lang]).mean(axis=0) for lang in LANGS
            }
            found = {r[key]: found[r[key]] - means[r["lang"]] for r in rows}
            found = {name: vector / np.linalg.norm(vector) for name, vector in found.items()}
        vectors[side] = found
    return {q: {d: float(v @ w) for d, w in vectors["passages"].items()} for q, v in vectors["queries"].items()}


@pytest.mark.parametrize("rival", ["none", "centring"])
def test_the_numbers_are_those_of_a_literal_ranking(encoder: Encoder, tmp_path: Path, rival: str) -> None:
    task = toy_task()
    result = evaluate(encoder, task, tmp_path / "out", rival=rival, fit_on=[toy_task("other", IDS[1::2])])
    qrels: dict[str, dict[str, int]] = {}
    for row in task.qrels.to_pylist():
        qrels.setdefault(row["query_id"], {})[row["doc_id"]] = 1
    run = literal_scores(encoder, rival == "centring")
    oracle = pd.DataFrame(pytrec_eval.RelevanceEvaluator(qrels, {"map", "recall_1", "recall_10"}).evaluate(run)).T
    for measure, name in (("map", "mAP"), ("recall_1", "R@1"), ("recall_10", "R@10")):
        assert result["settings"]["multilingual"][name] == pytest.approx(oracle[measure].mean(), abs=1e-5)
    own = {q: {d: s for d, s in scores.items() if d[-2:] == q[-2:]} for q, scores in run.items()}
    mono = pytrec_eval.RelevanceEvaluator({q: {q: 1} for q in qrels}, {"map"}).evaluate(own)  # a query's answer has its id
    assert result["settings"]["monolingual"]["mAP"] == pytest.approx(np.mean([v["map"] for v in mono.values()]), abs=1e-5)


def test_files_follow_the_contract(encoder: Encoder, tmp_path: Path) -> None:
    result = evaluate(encoder, toy_task(), tmp_path, trec_run=5)
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written == json.loads(json.dumps(result))
    assert set(written["settings"]) == {"monolingual", "cross-lingual", "multilingual"}
    assert {"mean", "median", "per_language", "ideal", "random"} <= written["bias"]["rank_distance"].keys()
    assert (written["counts"]["queries"], written["counts"]["passages"]) == (60, 60)
    table = pd.read_parquet(tmp_path / "per_query.parquet")
    assert {"query_id", "query_lang", "pool", "measure", "value"} <= set(table.columns)
    assert table.groupby("measure", observed=True).size().to_dict() == {
        "mAP": 240,
        "R@1": 240,
        "R@10": 240,
        "rank distance": 60,
    }
    with (tmp_path / "run.trec").open() as file:
        run = pytrec_eval.parse_run(file)
    assert len(run) == 60
    assert {len(docs) for docs in run.values()} == {5}


def test_embeddings_are_reused_and_numbers_repeat(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate(encoder, toy_task(), tmp_path / "a")
    monkeypatch.setattr("xir_lib.encoders.encode", lambda *_, **__: pytest.fail("encoded again"))
    evaluate(encoder, toy_task(), tmp_path / "b")
    for name in ("metrics.json", "per_query.parquet", "group_sums.parquet"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_other_weights_are_encoded_again(encoder: Encoder, tmp_path: Path) -> None:
    untrained = Encoder(f"untrained:{encoder.name}", cache=encoder.cache)
    assert untrained.fingerprint != encoder.fingerprint
    one, two = (evaluate(e, toy_task(), tmp_path / "x")["settings"] for e in (encoder, untrained))
    assert one != two


def test_means_need_other_text_in_every_language(encoder: Encoder, tmp_path: Path) -> None:
    for same in (toy_task(), toy_task("copy under another name")):
        with pytest.raises(InputError, match="cannot be fitted on the queries that are scored"):
            evaluate(encoder, toy_task(), tmp_path, rival="centring", fit_on=[same])
    with pytest.raises(InputError, match="no text for the means of xx, yy, zz"):
        evaluate(encoder, toy_task(), tmp_path, rival="centring")
    assert not list(tmp_path.iterdir())


def test_the_fit_is_in_the_key_and_its_size_is_kept(encoder: Encoder, tmp_path: Path) -> None:
    other = toy_task("other", IDS[1::2])
    key = evaluate(encoder, toy_task(), tmp_path, rival="centring", fit_on=[other], fit_texts=7)["config"]
    assert key["rival_fit"] == {lang: {"task": "other", "queries": 7, "passages": 7} for lang in LANGS}


def test_a_failed_evaluation_leaves_no_metrics(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation.metrics, "group_sums", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate(encoder, toy_task(), tmp_path)
    assert not (tmp_path / "metrics.json").exists()


def test_a_broken_second_evaluation_does_not_leave_the_first_one_s_numbers(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(encoder, toy_task(), tmp_path, trec_run=3)
    monkeypatch.setattr(evaluation.metrics, "group_sums", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate(encoder, toy_task(), tmp_path)
    assert not (tmp_path / "metrics.json").exists()
    assert not (tmp_path / "run.trec").exists()


def test_pooling_is_part_of_the_key(encoder: Encoder, tmp_path: Path) -> None:
    # Same weights, other pooling: the folder's embeddings must not be taken for each other.
    import shutil

    other = shutil.copytree(encoder.name, tmp_path / "other")
    path = next(other.glob("1_*/config.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pooling_mode": "cls"}))
    assert Encoder(str(other)).fingerprint != encoder.fingerprint
