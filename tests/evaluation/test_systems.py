"""Every system's ranking is the one that trec_eval finds in its run."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import pytrec_eval
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers
from toy import LANGS, judge, toy_task

from xir_lib.data.records import RetrievalTask
from xir_lib.encoders.encoder import Encoder
from xir_lib.errors import InputError
from xir_lib.evaluation.bm25 import Index
from xir_lib.evaluation.evaluate import evaluate
from xir_lib.evaluation.plan import lexical_parts
from xir_lib.evaluation.sharded import Sharded
from xir_lib.evaluation.systems import Dense, Lexical, Merged, repaired, tokens_per_word
from xir_lib.metrics import ranks
from xir_lib.repair.kinds import LEXICAL
from xir_lib.repair.repair import Repair


def test_shards_give_the_same_evaluation(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, folder = toy_task(), tmp_path / "vectors"
    result = evaluate(Sharded(encoder, task, folder), tmp_path / "sharded", trec_run=60)
    judge(encoder, task, tmp_path / "plain", trec_run=60)
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
    monkeypatch.setattr("xir_lib.evaluation.shards._write", lambda *_: pytest.fail("encoded"))
    again = evaluate(Sharded(encoder, task, folder), tmp_path / "again")
    assert again["settings"] == result["settings"]


@pytest.mark.parametrize("kind", LEXICAL)
def test_bm25_needs_no_vectors(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(Encoder, "encode", lambda *_: pytest.fail("encoded"))
    pieces = kind == "bm25-pieces"
    system = Lexical(kind, toy_task(), encoder if pieces else None)
    result = evaluate(system, tmp_path, trec_run=60)
    config = result["config"]
    assert (result["model"], config["repair"], config["repair_fit"]) == (kind, "none", None)
    known = {"name": kind, "k1": 0.9, "b": 0.4, "variant": "lucene"}
    assert config["bm25"].items() >= known.items()
    assert ("weights_sha256" in config) == pieces  # the tokenizer is part of that
    if kind == "bm25":
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


def test_bm25_counts_every_pool_by_itself() -> None:
    task = toy_task()
    queries, passages = (
        [text.split() for text in table["text"].to_pylist()]
        for table in (task.queries, task.passages)
    )
    system, judged = Lexical("bm25", task), task.judged()
    whole = Index(passages, [slice(None)]).scores(queries)
    np.testing.assert_array_equal(system.best(60)[1], -np.sort(-whole, axis=1))
    apart = np.concatenate([block.scores() for block in system.blocks(judged, pooled=False)])
    for pool in judged.pools:
        own = [passages[row] for row in judged.columns[pool]]
        np.testing.assert_array_equal(apart[:, pool], Index(own, [slice(None)]).scores(queries))
        assert (apart[:, pool] != whole[:, judged.columns[pool]]).any()


def test_merging_leaves_the_single_pools_as_they_are_and_ranks_nothing_again(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems = repaired(encoder, toy_task(), [Repair("round-robin"), Repair("round-robin")])
    assert list(systems) == ["", "round-robin"]
    plain = evaluate(systems[""], tmp_path)
    monkeypatch.setattr(ranks, "_rank_block", lambda *_: pytest.fail("ranked again"))
    merged = evaluate(systems["round-robin"], tmp_path / "round-robin")
    for setting in ("monolingual", "cross-lingual"):
        assert merged["settings"][setting] == plain["settings"][setting]
    assert merged["settings"]["multilingual"] != plain["settings"]["multilingual"]
    assert merged["config"]["merge"]["method"] == merged["config"]["repair"] == "round-robin"
    one, other = (
        pd.read_parquet(folder / "per_query.parquet")
        for folder in (tmp_path, tmp_path / "round-robin")
    )
    for name in ("pool", "query_id"):
        pd.testing.assert_series_equal(one[name], other[name])


def test_a_pool_of_some_passages_is_ranked_as_a_task_of_its_own(encoder: Encoder) -> None:
    task = toy_task()
    names = np.array(task.passages["doc_id"].to_pylist())
    rows = np.random.default_rng(0).permutation(
        [row for row, name in enumerate(names) if not name.endswith("zz")]
    )
    kept = pc.is_in(task.qrels["doc_id"], pa.array(names[rows]))
    pool = RetrievalTask("pool", task.queries, task.passages.take(rows), task.qrels.filter(kept))
    for whole, alone in (
        (Dense(encoder, task), Dense(encoder, pool)),
        (Merged(Dense(encoder, task)), Merged(Dense(encoder, pool))),
        (Lexical("bm25", task), Lexical("bm25", pool)),
    ):
        assert whole.ranks.apart.n_queries == 60  # ranked before: nothing of it must stay
        inside = whole.within(pool, rows)
        for found, expected in zip(inside.ranks, alone.ranks, strict=True):
            assert found.outranked_by.tolist() == expected.outranked_by.tolist()
        assert (inside.best(7)[0] == alone.best(7)[0]).all()


def test_names_of_bm25() -> None:
    assert lexical_parts("bm25-pieces:a/b:c") == ("bm25-pieces", "a/b:c")
    assert lexical_parts("bundled:multilingual-e5-small") is None
    for wrong, message in (
        ("bm25-pieces", "name it: bm25-pieces:ENCODER"),
        ("bm25:x", "bm25 needs no encoder, got 'bm25:x'; use bm25"),
    ):
        with pytest.raises(InputError, match=message):
            lexical_parts(wrong)


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
    result = judge(static, toy_task(), tmp_path / "out")
    assert (result["tokens_per_word"], result["config"]["max_seq_length"]) == ({}, None)
    assert (
        result["settings"]["multilingual"]["mAP"] > 0.3
    )  # a question and its passages share their letters
    with pytest.raises(InputError, match="tokenizers tokenizer gives BM25 no pieces; use bm25"):
        evaluate(Lexical("bm25-pieces", toy_task(), static), tmp_path / "out")


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
