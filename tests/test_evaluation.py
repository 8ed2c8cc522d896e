"""An evaluation agrees with sentence-transformers' own encoding and a literal ranking, and repeats
itself from its cache.
"""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import ir_measures
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import pytrec_eval
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import StaticEmbedding
from test_cli import xir
from tiny import build_tiny
from tokenizers import Tokenizer, models, pre_tokenizers
from toy import IDS, LANGS, toy_task

from xir_lib.data.records import RetrievalTask
from xir_lib.encoders.encoder import Encoder
from xir_lib.errors import InputError
from xir_lib.evaluation import evaluate as evaluation
from xir_lib.evaluation import trec
from xir_lib.evaluation.evaluate import evaluate, fit_curve, tokens_per_word
from xir_lib.repair.fit import remove_language
from xir_lib.repair.maps import LEXICAL, parse_rival


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    torch.set_num_threads(1)
    return Encoder(
        str(build_tiny(tmp_path_factory.mktemp("encoder"))), cache=tmp_path_factory.mktemp("cache")
    )


SIDES = (("queries", "query: ", "query_id"), ("passages", "passage: ", "doc_id"))


def literal_scores(
    encoder: Encoder, rival: str, fit: str = "foreign"
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
        if rival.startswith("centring"):
            vector = vector - texts.mean(axis=0)
        elif rival.startswith("lir-"):
            axes = np.linalg.svd(texts)[2][: int(rival[4])]
            vector = vector - sum((vector @ axis) * axis for axis in axes)
        return vector / np.linalg.norm(vector)

    run = {}
    for q in own["queries"]:
        scores = {
            d: float(without_language("queries", q, q) @ without_language("passages", d, q))
            for d in own["passages"]
        }
        run[q] = literal_merge(scores, rival.split("+")[-1])
    return run


def literal_merge(scores: dict[str, float], method: str) -> dict[str, float]:
    if method not in ("round-robin", "z-score", "minus-top10"):
        return scores
    pools = {
        lang: sorted((d for d in scores if d.endswith(lang)), key=scores.__getitem__, reverse=True)
        for lang in LANGS
    }
    if method == "round-robin":
        order = sorted(LANGS, key=lambda lang: -scores[pools[lang][0]])
        return {
            d: -float(pools[lang].index(d) + order.index(lang) / 10)
            for lang in LANGS
            for d in pools[lang]
        }
    level = {lang: np.array([scores[d] for d in pool]) for lang, pool in pools.items()}
    if method == "z-score":
        return {d: (scores[d] - level[d[-2:]].mean()) / level[d[-2:]].std() for d in scores}
    return {d: scores[d] - level[d[-2:]][:10].mean() for d in scores}


@pytest.mark.parametrize(
    ("rival", "fit"),
    [
        *(
            (rival, "foreign")
            for rival in (
                "none",
                "centring",
                "lir-1",
                "lir-3",
                "round-robin",
                "z-score",
                "minus-top10",
            )
        ),
        *(
            ("centring", "corpus"),
            ("lir-2", "corpus"),
            ("centring", "cross-fit"),
            ("lir-2", "cross-fit"),
        ),
        *(
            ("centring+round-robin", "foreign"),
            ("centring+z-score", "cross-fit"),
            ("lir-1+minus-top10", "corpus"),
        ),
    ],
)
def test_the_numbers_are_those_of_a_literal_ranking(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rival: str, fit: str
) -> None:
    monkeypatch.setattr(
        encoder, "precision", "float32"
    )  # as the literal ranking has it, on any processor
    task = toy_task()
    fit_on = [toy_task("other", IDS[1::2])] if fit != "cross-fit" else []
    result = evaluate(
        encoder, task, tmp_path / "out", rival=rival, fit=fit, fit_on=fit_on, trec_run=60
    )
    qrels: dict[str, dict[str, int]] = {}
    for row in task.qrels.to_pylist():
        qrels.setdefault(row["query_id"], {})[row["doc_id"]] = 1
    run = literal_scores(encoder, rival, fit)
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
    result = evaluate(encoder, toy_task(), tmp_path, trec_run=5)
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


def test_tokens_per_word_by_the_tokenizer_itself(encoder: Encoder) -> None:
    task = toy_task()
    texts = task.passages["text"].to_pylist()
    texts[0] = "a b" + "c" * 40  # in xx
    long = [
        text.replace(" ", "") * 5 if lang == "zz" else text
        for text, lang in zip(texts, task.passages["lang"].to_pylist(), strict=True)
    ]
    changed = task.passages.set_column(2, "text", pa.array(long))
    found = tokens_per_word(encoder, RetrievalTask("toy", task.queries, changed, task.qrels))
    assert found["zz"] is None  # one "word" of 20 letters and more a passage
    for lang in ("xx", "yy"):
        own = [
            text
            for text, one in zip(long, task.passages["lang"].to_pylist(), strict=True)
            if one == lang
        ]
        pieces = [piece for text in own for piece in encoder.model.tokenizer.tokenize(text)]
        assert found[lang] == pytest.approx(len(pieces) / sum(text.count(" ") + 1 for text in own))


def test_embeddings_are_reused_and_numbers_repeat(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(encoder, toy_task(), tmp_path / "a")
    monkeypatch.setattr(
        "xir_lib.encoders.encode.encode", lambda *_, **__: pytest.fail("encoded again")
    )
    evaluate(encoder, toy_task(), tmp_path / "b")
    for name in ("metrics.json", "per_query.parquet", "group_sums.parquet"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_shards_give_the_same_evaluation(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, folder = toy_task(), tmp_path / "vectors"
    result = evaluate(encoder, task, tmp_path / "sharded", trec_run=60, in_shards=folder)
    evaluate(encoder, task, tmp_path / "plain", trec_run=60)
    assert result["config"].pop("passage_vectors") == "float16"
    runs = {}
    for name in ("sharded", "plain"):
        with (tmp_path / name / "run.trec").open() as file:
            runs[name] = pytrec_eval.parse_run(file)
    for query, scores in runs["plain"].items():
        assert runs["sharded"][query] == pytest.approx(scores, abs=1e-3)
    # the run has the whole pool, so trec_eval finds the same ranks in it; float16 may swap near
    # ties of the other run
    qrels = {q: {f"{q[:-2]}{lang}": 1 for lang in LANGS} for q in runs["sharded"]}
    oracle = pytrec_eval.RelevanceEvaluator(qrels, {"map"}).evaluate(runs["sharded"])
    assert result["settings"]["multilingual"]["mAP"] == pytest.approx(
        np.mean([v["map"] for v in oracle.values()]), abs=1e-6
    )
    own = {
        q: {d: s for d, s in scores.items() if d[-2:] == q[-2:]}
        for q, scores in runs["sharded"].items()
    }
    oracle = pytrec_eval.RelevanceEvaluator({q: {q: 1} for q in own}, {"map"}).evaluate(own)
    assert result["settings"]["monolingual"]["mAP"] == pytest.approx(
        np.mean([v["map"] for v in oracle.values()]), abs=1e-6
    )
    first = {
        q: sorted(scores, key=scores.__getitem__)[-10:] for q, scores in runs["sharded"].items()
    }
    share = np.mean([sum(d[-2:] == q[-2:] for d in docs) / 10 for q, docs in first.items()])
    assert result["bias"]["language_share"]["own"]["mean"] == pytest.approx(share, abs=1e-6)
    (stored,) = folder.glob("*.npy")
    assert np.load(stored).dtype == np.float16
    monkeypatch.setattr("xir_lib.encoders.encode.encode", lambda *_, **__: 1 / 0)
    evaluate(
        encoder, task, tmp_path / "again", in_shards=folder
    )  # nothing is encoded a second time
    with pytest.raises(
        InputError, match="rival 'round-robin' needs all vectors in memory; leave out"
    ):
        evaluate(encoder, task, tmp_path / "merged", rival="round-robin", in_shards=folder)
    assert not (tmp_path / "merged").exists()


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
    result = evaluate(encoder, one, tmp_path)
    alone = evaluate(encoder, whole, tmp_path / "whole")
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
        assert evaluate(encoder, toy_task(name), tmp_path / name)["config"]["context"] == expected


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
    key = evaluate(encoder, toy_task(), tmp_path, rival="centring", fit_on=[other], fit_texts=7)[
        "config"
    ]
    seven = {lang: {"task": "other", "texts": 7} for lang in LANGS}
    assert key["rival_fit"] == {"fit": "foreign", "queries": seven, "passages": seven}
    key = evaluate(encoder, toy_task(), tmp_path, rival="centring", fit="corpus", fit_on=[other])[
        "config"
    ]
    own = {lang: {"task": "toy", "texts": 20} for lang in LANGS}
    assert key["rival_fit"] == {
        "fit": "corpus",
        "queries": {k: {**v, "task": "other"} for k, v in own.items()},
        "passages": own,
    }
    key = evaluate(encoder, toy_task(), tmp_path, rival="centring", fit="cross-fit")["config"][
        "rival_fit"
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
    vectors = encoder.encode_task(task)
    groups = np.array(task.queries["group"].to_pylist())
    before, _ = remove_language(encoder, task, vectors, 0, "cross-fit", [])
    changed = vectors._replace(queries=vectors.queries.copy())
    changed.queries[0] = -changed.queries[0]
    after, _ = remove_language(encoder, task, changed, 0, "cross-fit", [])
    assert sorted(np.concatenate([fold.rows for fold in before])) == list(
        range(60)
    )  # every query once
    for one, other in zip(before, after, strict=True):
        assert (one.rows == other.rows).all()
        assert not set(groups[one.rows]) & set(np.delete(groups, one.rows))  # no group is split
        same = (one.queries == other.queries).all(axis=1)
        assert (
            (one.rows[~same] == [0]).all()
            if 0 in one.rows
            else not same[vectors.query_langs[one.rows] == "xx"].any()
        )
    changed = vectors._replace(passages=vectors.passages.copy())
    changed.passages[0] = -changed.passages[0]  # the first query's answer
    after, _ = remove_language(encoder, task, changed, 0, "cross-fit", [])
    for one, other in zip(before, after, strict=True):
        moved = ~(one.passages == other.passages).all(axis=1)
        assert moved.sum() == (1 if 0 in one.rows else 20)  # itself, or all of its language


def test_merging_leaves_the_single_pools_as_they_are(encoder: Encoder, tmp_path: Path) -> None:
    plain = evaluate(encoder, toy_task(), tmp_path / "none")
    for rival in ("round-robin", "z-score", "minus-top10"):
        merged = evaluate(encoder, toy_task(), tmp_path / rival, rival=rival)
        for setting in ("monolingual", "cross-lingual"):
            assert merged["settings"][setting] == plain["settings"][setting]
        assert merged["settings"]["multilingual"] != plain["settings"]["multilingual"]
        assert (
            merged["config"]["merge"]["method"] == rival
            and "multilingual setting alone" in merged["config"]["merge"]["changes"]
        )
        one, other = (
            pd.read_parquet(tmp_path / name / "per_query.parquet") for name in ("none", rival)
        )
        pd.testing.assert_series_equal(one["pool"], other["pool"])
        pd.testing.assert_series_equal(one["query_id"], other["query_id"])


@pytest.mark.parametrize("rival", LEXICAL)
def test_bm25_needs_no_vectors(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rival: str
) -> None:
    monkeypatch.setattr(Encoder, "encode", lambda *_: pytest.fail("encoded"))
    result = evaluate(encoder, toy_task(), tmp_path, rival=rival, trec_run=60)
    assert (result["model"], result["config"]["rival"]) == (
        encoder.name if rival == "bm25-pieces" else rival,
        rival,
    )
    assert result["config"]["bm25"].items() >= {"k1": 0.9, "b": 0.4, "variant": "lucene"}.items()
    assert ("weights_sha256" in result["config"]) == (
        rival == "bm25-pieces"
    )  # the tokenizer is part of that
    assert result["config"]["rival_fit"] is None
    if rival == "bm25":
        # An answer has both letters of its id and, in the query's language, the language's: it is
        # first there. Elsewhere it still shares the letters that no other passage shares both of.
        assert (
            result["settings"]["monolingual"]["mAP"]
            == result["settings"]["cross-lingual"]["mAP"]
            == 1
        )
    with (tmp_path / "run.trec").open() as file:
        run = pytrec_eval.parse_run(file)
    qrels = {q: {f"{q[:-2]}{lang}": 1 for lang in LANGS} for q in run}
    oracle = pytrec_eval.RelevanceEvaluator(qrels, {"map"}).evaluate(run)
    mean = np.mean([value["map"] for value in oracle.values()])
    assert result["settings"]["multilingual"]["mAP"] == pytest.approx(mean, abs=1e-9)


def test_the_curve_ends_where_the_evaluations_are(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, other = toy_task(), toy_task("other", IDS[1::2])
    ends = {
        texts: evaluate(encoder, task, tmp_path, rival=rival, fit_on=[other])["settings"]
        for texts, rival in ((0, "none"), (500, "lir-1"))
    }
    once = evaluate(encoder, task, tmp_path, rival="lir-1", fit_on=[other], fit_texts=5)["settings"]
    monkeypatch.setattr(
        "xir_lib.encoders.encode.encode", lambda *_, **__: pytest.fail("encoded again")
    )
    curve = fit_curve(encoder, task, [other], [500, 5], rival="lir-1", draws=4)
    pd.testing.assert_frame_equal(
        curve, fit_curve(encoder, task, [other], [5, 500], rival="lir-1", draws=4)
    )
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
    single = fit_curve(encoder, task, [other], [5], rival="lir-1", draws=1)
    found = single.query("texts == 5").set_index(["setting", "measure"])["mean"]
    assert all(
        found[setting, name] == pytest.approx(v, abs=1e-6)
        for setting in once
        for name, v in once[setting].items()
    )
    with pytest.raises(InputError, match="'z-score' has no curve; use centring or lir-R"):
        fit_curve(encoder, task, [other], [5], rival="z-score")
    with pytest.raises(InputError, match=r"at least 1, got \[0\] and 5"):
        fit_curve(encoder, task, [other], [0])


def test_the_curve_reads_grades_as_the_evaluation_does(encoder: Encoder, tmp_path: Path) -> None:
    task, other = toy_task(), toy_task("other", IDS[1::2])
    grades = pa.array([1 + row % 3 for row in range(task.qrels.num_rows)], pa.int8())
    graded = replace(
        task, qrels=task.qrels.set_column(2, task.qrels.schema.field("relevance"), grades)
    )
    whole = evaluate(encoder, graded, tmp_path)["settings"]["multilingual"]["nDCG@10"]
    curve = fit_curve(encoder, graded, [other], [5], draws=1)
    start = curve.query("texts == 0 and setting == 'multilingual' and measure == 'nDCG@10'")[
        "mean"
    ].item()
    assert start == pytest.approx(whole, abs=1e-6)
    assert (
        abs(start - evaluate(encoder, task, tmp_path)["settings"]["multilingual"]["nDCG@10"]) > 1e-3
    )  # they count


def test_a_model_of_static_embeddings_is_measured_without_pieces_per_word(tmp_path: Path) -> None:
    words = sorted(
        {word for text in toy_task().passages["text"].to_pylist() for word in text.split()}
    )
    tokenizer = Tokenizer(
        models.WordLevel(
            {"[UNK]": 0, **{word: place for place, word in enumerate(words, 1)}}, unk_token="[UNK]"
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    vectors = torch.randn(len(words) + 1, 8, generator=torch.Generator().manual_seed(0))
    SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_weights=vectors)], device="cpu"
    ).save(str(tmp_path / "m"))
    static = Encoder(str(tmp_path / "m"))
    result = evaluate(static, toy_task(), tmp_path / "out")
    assert (result["tokens_per_word"], result["config"]["max_seq_length"]) == ({}, None)
    assert (
        result["settings"]["multilingual"]["mAP"] > 0.3
    )  # a question and its passages share their letters
    with pytest.raises(InputError, match="tokenizers tokenizer gives BM25 no pieces; use bm25"):
        evaluate(static, toy_task(), tmp_path / "out", rival="bm25-pieces")


def test_unknown_rivals_and_fits(encoder: Encoder, tmp_path: Path) -> None:
    other = toy_task("other", IDS[1::2])
    for arguments, message in (
        ({"rival": "centering"}, "unknown rival 'centering'; use none, centring, lir-1"),
        ({"rival": "centring", "fit": "own"}, "unknown fit 'own'; use foreign, corpus, cross-fit"),
        (
            {"rival": "centring", "fit": "corpus"},
            r"no text for the means of xx, yy, zz \(queries\)",
        ),
        (
            {"rival": "lir-1", "fit": "cross-fit", "fit_on": [other]},
            "cross-fit takes its texts from the task itself",
        ),
        (
            {"rival": "centring", "fit": "corpus", "fit_on": [toy_task()]},
            "cannot be fitted on the queries that are scored",
        ),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(encoder, toy_task(), tmp_path, **arguments)
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
        evaluation.check_rival(
            RetrievalTask("toy", uneven, task.passages, qrels),
            parse_rival("centring"),
            "cross-fit",
            (),
        )
    with pytest.raises(
        InputError, match="cross-fit needs a group for every query, two at least; toy lacks them"
    ):
        evaluate(encoder, toy_task(ids=IDS[:5]), tmp_path, rival="centring", fit="cross-fit")
    assert not list(tmp_path.iterdir())


def test_several_rivals_and_fits_in_one_command(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    encoder: Encoder,
    tmp_path: Path,
) -> None:
    toy_task().save(tmp_path / "toy")
    toy_task("other", IDS[1::2]).save(tmp_path / "other")
    out = tmp_path / "out"
    for stale in (
        "lir-7",
        "centring-cross-fit",
        "mlqa-r",
        "none",
    ):  # two results of rivals, two that are something else
        (out / stale).mkdir(parents=True)
        (out / stale / "metrics.json").write_text("{}")
    (out / "lir-7" / "thesis.txt").touch()  # of somebody
    common = [
        "evaluate",
        "--model",
        encoder.name,
        "--task",
        tmp_path / "toy",
        "--cache",
        encoder.cache,
        "--out",
        out,
    ]
    rivals = [
        "--rival",
        "centring",
        "--rival",
        "bm25",
        "--rival",
        "lir-1+z-score",
        "--rival",
        "none",
    ]
    fits = ["--fit", "corpus", "--fit", "foreign", "--fit-on", tmp_path / "other"]
    assert (
        xir(monkeypatch, *common, *rivals, *fits, "--fit-curve", 3, "--fit-curve", 9, "--json") == 0
    )
    captured = capsys.readouterr()
    results = json.loads(captured.out)
    folders = ["", "centring-corpus", "centring", "bm25", "lir-1+z-score-corpus", "lir-1+z-score"]
    assert [
        json.loads((out / folder / "metrics.json").read_text()) for folder in folders
    ] == results
    assert {path.name for path in out.iterdir() if path.is_dir()} == {
        *folders[1:],
        "lir-7",
        "mlqa-r",
        "none",
    }
    assert [path.name for path in (out / "lir-7").iterdir()] == ["thesis.txt"]
    curve = pd.read_csv(out / "fit_curve.csv")
    assert set(curve["texts"]) == {0, 3, 9} and set(curve["rival"]) == {"centring"}
    assert xir(monkeypatch, *common, "--rival", "lir-1", "--fit", "cross-fit") == 0
    printed = capsys.readouterr().out
    assert "rival lir-1-cross-fit" in printed
    assert (
        "R@100 is 1 whatever the ranking in pools of no more passages: xx (20), yy (20), zz (20)"
        in printed
    )
    assert {path.name for path in out.iterdir() if path.is_dir()} == {
        "lir-1-cross-fit",
        "lir-7",
        "mlqa-r",
        "none",
    }
    assert not (out / "fit_curve.csv").exists()
    for wrong, message in (
        (
            ["--rival", "z-score", "--fit-curve", 5],
            "--fit-curve is for the rivals centring and lir-R",
        ),
        (["--fit", "guess"], "unknown fit 'guess'"),
        (["--rival", "bm26"], "unknown rival 'bm26'; use none, centring"),
        (
            ["--rival", "lir-16", "--fit", "cross-fit"],
            "lir-16 on vectors of 16 dimensions; use lir-1 to lir-15",
        ),
    ):
        before = (out / "metrics.json").stat()
        assert xir(monkeypatch, *common, *wrong) == 2
        error = [
            line
            for line in capsys.readouterr().err.splitlines()
            if line and "Loading weights" not in line
        ]
        assert message in error[-1] and len(error) == 1
        assert (out / "metrics.json").stat() == before  # refused before anything is scored again


def test_a_failed_evaluation_leaves_no_metrics(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_run_and_qrels_are_all_that_trec_s_tools_need(encoder: Encoder, tmp_path: Path) -> None:
    result = evaluate(encoder, toy_task(), tmp_path, trec_run=60)
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
    evaluate(encoder, toy_task(), tmp_path)
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
    assert evaluate(encoder, blank, tmp_path)["settings"] == result["settings"]
    with pytest.raises(InputError, match="doc_id 'a ai-xx' holds white space"):
        evaluate(encoder, blank, tmp_path, trec_run=5)


def test_a_run_is_scored_as_the_model_that_wrote_it(encoder: Encoder, tmp_path: Path) -> None:
    task = toy_task()
    plain = evaluate(encoder, task, tmp_path / "model", trec_run=60)
    run = trec.read_run(tmp_path / "model" / "run.trec", task)
    ranked = evaluate(run, task, tmp_path / "run", trec_run=60)
    for key in ("settings", "micro", "bias", "counts", "recall_ceilings", "robustness"):
        assert ranked[key] == plain[key], key
    assert (ranked["model"], ranked["config"]["run"]["fewest_passages"]) == ("run.trec", 60)
    assert "prompts" not in ranked["config"]
    columns = [
        [line.split()[:4] for line in (tmp_path / name / "run.trec").open()]
        for name in ("model", "run")
    ]
    assert columns[0] == columns[1]
    with pytest.raises(
        InputError, match=r"^run.trec is a ranking and has no vectors; leave out the rival"
    ):
        evaluate(run, task, tmp_path / "run", rival="round-robin")


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
    evaluate(run, task, tmp_path / "out", trec_run=60)
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


@pytest.mark.parametrize("damage", ["cut", "other vectors"])
def test_a_broken_cache_is_filled_again(
    encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    ours = Encoder(encoder.name, cache=tmp_path / "cache")
    first = evaluate(ours, toy_task(), tmp_path / "out")
    paths = list((tmp_path / "cache").glob("*.npy"))
    good = {path: path.read_bytes() for path in paths}
    for path in paths:
        if damage == "cut":
            path.write_bytes(good[path][:50])
        else:
            np.save(path, np.ones((3, 4), np.float32))
    assert evaluate(ours, toy_task(), tmp_path / "out") == first
    assert {path: path.read_bytes() for path in paths} == good
    assert caplog.text.count("does not hold the vectors of its texts") == len(paths) == 6
