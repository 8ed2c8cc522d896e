"""Search and ranks in shards against a literal sort, against Faiss and against `retrieval`; what a
second run encodes.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import judged_of, vector_ranks

from xir_lib.errors import InputError
from xir_lib.evaluation import shard_search
from xir_lib.evaluation import shards as stored_shards
from xir_lib.evaluation.shard_search import ranks_in_shards, search_shards
from xir_lib.evaluation.shards import Shards, encode_corpus
from xir_lib.metrics.scores import tie_order

# Unit vectors that float16 holds exactly: products with whole numbers are exact in float32, in any
# order.
EXACT = np.concatenate(
    [np.eye(4), -np.eye(4), np.array(list(product([0.5, -0.5], repeat=4)))]
).astype(np.float32)


def write(folder: Path, vectors: np.ndarray, rows: list[int]) -> Shards:
    """Put vectors on disk in shards of these sizes, without an encoder."""
    files = []
    for number, part in enumerate(np.split(vectors, np.cumsum(rows)[:-1])):
        files.append(folder / f"{number}.npy")
        np.save(files[-1], part.astype(np.float16))
    return Shards(tuple(files), tuple(rows), vectors.shape[1])


def literal(scores: np.ndarray, doc_ids: list[str], k: int) -> list[int]:
    return sorted(range(len(doc_ids)), key=lambda d: (scores[d], doc_ids[d]), reverse=True)[:k]


@st.composite
def corpora(draw):
    """Few distinct vectors, so that most scores tie within and across shards; sizes from one row
    up; small blocks.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    distinct = rng.choice(EXACT, draw(st.integers(1, 6)))
    if draw(st.booleans()):  # any direction: sums that float32 rounds; oracles compute in float64
        distinct = rng.standard_normal((len(distinct), 7))
        distinct = (distinct / np.linalg.norm(distinct, axis=1, keepdims=True)).astype(np.float16)
    docs = rng.choice(distinct, sum(rows)).astype(np.float32)
    queries = rng.integers(-3, 4, (draw(st.integers(1, 7)), docs.shape[1])).astype(np.float32)
    queries[~queries.any(axis=1)] = 1
    return queries, docs, rows, [f"{i:x}" for i in rng.permutation(len(docs))]


blocks = st.sampled_from([(1, 1), (3, 2), (65_536, 128)])  # passages and queries at a time


@settings(deadline=None)
@given(corpora(), blocks, st.integers(1, 70))
def test_search_equals_one_literal_sort(corpus, sizes, k):
    queries, docs, rows, doc_ids = corpus
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(stored_shards, "BLOCK_ROWS", sizes[0])
        patch.setattr(shard_search, "QUERIES", sizes[1])
        found, scores = search_shards(
            write(Path(folder), docs, rows), queries, k, tie_order(doc_ids)
        )
    assert (
        found.shape == scores.shape == (len(queries), min(k, len(docs)))
    )  # at most 54 passages: often fewer than k
    expected = (queries.astype(np.float64) @ docs.astype(np.float64).T).astype(np.float32)
    for q in range(len(queries)):
        assert found[q].tolist() == literal(expected[q], doc_ids, k)
        assert scores[q].tolist() == expected[q, found[q]].tolist()


@settings(deadline=None)
@given(corpora(), blocks, st.integers(0, 2**32 - 1))
def test_ranks_equal_those_of_the_unsharded_ranking(corpus, sizes, seed):
    queries, docs, rows, doc_ids = corpus
    rng = np.random.default_rng(seed)
    langs = rng.permutation(np.concatenate([[0], rng.integers(0, 2, len(docs) - 1)]))
    langs = np.unique(langs, return_inverse=True)[1]
    judged = [
        (q, d)
        for q in range(len(queries))
        for d in rng.choice(len(docs), rng.integers(1, len(docs) + 1), replace=False)
    ]
    query_index, doc_index = np.array(judged)[rng.permutation(len(judged))].T
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(stored_shards, "BLOCK_ROWS", sizes[0])
        patch.setattr(shard_search, "QUERIES", sizes[1])
        ranks = ranks_in_shards(
            write(Path(folder), docs, rows),
            queries,
            judged_of(langs, query_index, doc_index, tie_order(doc_ids)),
        )
    expected = (queries.astype(np.float64) @ docs.astype(np.float64).T).astype(np.float32)
    orders = [literal(row, doc_ids, len(docs)) for row in expected]
    assert ranks.in_all()[1].tolist() == [
        orders[q].index(d) + 1 for q, d in judged_pairs(query_index, doc_index)
    ]
    if docs.shape[1] == 4:  # exact in float32 too
        plain = vector_ranks(queries, docs, langs, query_index, doc_index, tie_order(doc_ids))
        assert ranks.outranked_by.tolist() == plain.outranked_by.tolist()
        assert ranks.doc_lang.tolist() == plain.doc_lang.tolist()
        assert ranks.pool_sizes.tolist() == plain.pool_sizes.tolist()
        assert ranks.n_relevant.tolist() == plain.n_relevant.tolist()


def judged_pairs(query_index: np.ndarray, doc_index: np.ndarray) -> list[tuple[int, int]]:
    return list(zip(query_index.tolist(), doc_index.tolist(), strict=True))


def test_order_among_near_ties_is_that_of_exact_arithmetic(tmp_path: Path) -> None:
    """Passages that differ by one float16 step in a few places: a float32 product alone gets most
    of the order wrong.
    """
    rng = np.random.default_rng(2)
    base = rng.standard_normal(384)
    base = (base / np.linalg.norm(base)).astype(np.float16)
    docs = np.tile(base, (500, 1))
    places = rng.integers(0, 384, (500, 3))
    up = np.nextafter(np.take_along_axis(docs, places, 1), np.float16(2))
    np.put_along_axis(docs, places, up, 1)
    query = rng.standard_normal(384).astype(np.float32)
    query[np.abs(query) > 0.05] *= (
        1e-3  # most steps change the score by less than float32 sums are exact to
    )
    query[:8] = 5  # while the score itself is large
    doc_ids = [f"{i:03d}" for i in range(500)]
    exact = np.array(
        [math.fsum(float(a) * float(b) for a, b in zip(query, doc, strict=True)) for doc in docs],
        np.float32,
    )
    single = query @ docs.astype(np.float32).T
    assert literal(single, doc_ids, 500) != literal(
        exact, doc_ids, 500
    )  # else this test shows nothing
    shards = write(tmp_path, docs, [200, 200, 100])
    found, scores = search_shards(shards, query[None], 300, tie_order(doc_ids))
    assert found[0].tolist() == literal(exact, doc_ids, 300)
    assert scores[0].tolist() == exact[found[0]].tolist()
    ranks = ranks_in_shards(
        shards,
        query[None],
        judged_of(np.zeros(500, int), np.zeros(300, int), found[0], tie_order(doc_ids)),
    )
    assert ranks.in_all()[1].tolist() == list(range(1, 301))


def test_search_agrees_with_faiss_and_does_not_depend_on_the_cut(tmp_path: Path) -> None:
    import faiss

    rng = np.random.default_rng(4)
    docs = rng.standard_normal((700, 48))
    docs = (docs / np.linalg.norm(docs, axis=1, keepdims=True)).astype(np.float16)
    docs[rng.integers(0, 700, 300)] = docs[rng.integers(0, 700, 300)]  # duplicates across shards
    queries = rng.standard_normal((30, 48)).astype(np.float32)
    ties = tie_order([f"{i:04d}" for i in rng.permutation(700)])
    results = []
    for number, rows in enumerate(([700], [1, 699], [100] * 7, [350, 1, 349])):
        folder = tmp_path / str(number)
        folder.mkdir()
        results.append(search_shards(write(folder, docs, rows), queries, 50, ties))
    for found, scores in results[1:]:
        assert (found == results[0][0]).all()
        assert (scores == results[0][1]).all()
    index = faiss.IndexFlatIP(48)
    index.add(docs.astype(np.float32))
    np.testing.assert_allclose(results[0][1], index.search(queries, 50)[0], atol=1e-5)


class Reading:
    """An encoder whose vectors are the numbers in the texts, and which remembers what it was
    given.
    """

    fingerprint, precision = "reads", "float32"

    def __init__(self, fail_at: str | None = None) -> None:
        self.model = SimpleNamespace(max_seq_length=32)
        self.prompts = ("query: ", "passage: ")
        self.seen: list[list[str]] = []
        self.fail_at = fail_at

    def encode(self, texts: list[str], role: str, progress: str) -> np.ndarray:
        if self.fail_at in texts:
            raise KeyboardInterrupt
        self.seen.append(texts)
        return np.array(
            [[float(number) for number in text.split()] for text in texts], dtype=np.float32
        )


TEXTS = ["1 0", "0 1", "0.6 0.8", "-1 0", "0.8 0.6", "0 -1", "-0.6 0.8"]


def run(encoder: Any, folder: Path, texts: list[str | None] = TEXTS, shard_rows: int = 2) -> Shards:
    return encode_corpus(encoder, [pa.array(texts)], folder, shard_rows=shard_rows)


def test_corpus_is_stored_in_order_and_streams_alike(tmp_path: Path) -> None:
    encoder = Reading()
    shards = run(encoder, tmp_path / "column")
    assert encoder.seen == [TEXTS[:2], TEXTS[2:4], TEXTS[4:6], TEXTS[6:]]
    assert [(offset, rows.dtype.name, rows.shape) for offset, rows in shards] == [
        (0, "float16", (2, 2)),
        (2, "float16", (2, 2)),
        (4, "float16", (2, 2)),
        (6, "float16", (1, 2)),
    ]
    assert all(isinstance(rows, np.memmap) for _, rows in shards)
    stored = np.concatenate([rows for _, rows in shards])
    # .6 and .8 lie in [.5, 1), where float16 steps by 2**-11: off by half a step at most
    assert (
        np.abs(stored - np.array([[float(x) for x in text.split()] for text in TEXTS])).max()
        <= 2**-12
    )
    assert len(shards) == 7

    batches = (pa.array([text]) for text in TEXTS)
    streamed = encode_corpus(Reading(), batches, tmp_path / "stream", shard_rows=2)
    assert [file.name for file in streamed.files] == [file.name for file in shards.files]
    assert (np.concatenate([rows for _, rows in streamed]) == stored).all()
    assert Shards.load(tmp_path / "stream") == streamed


def test_a_killed_run_goes_on_at_the_next_shard(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Reading(fail_at=TEXTS[4]), tmp_path)
    with pytest.raises(InputError, match=r"shards\.json does not exist; encode the corpus"):
        Shards.load(tmp_path)
    leftover = tmp_path / ".0123.float16.npy.89abcdef.tmp"
    leftover.touch()
    encoder = Reading()
    run(encoder, tmp_path)
    assert encoder.seen == [TEXTS[4:6], TEXTS[6:]]
    assert not leftover.exists()


def test_what_changes_is_encoded_again_and_nothing_else(tmp_path: Path) -> None:
    first = run(Reading(), tmp_path)
    (tmp_path / "notes.npy").touch()
    unchanged = Reading()
    assert run(unchanged, tmp_path) == first
    assert unchanged.seen == []

    edited = [
        *TEXTS[:3],
        "0 1",
        *TEXTS[4:],
        "1 0",
    ]  # one text of the second shard; one more text in the last
    encoder = Reading()
    second = run(encoder, tmp_path, edited)
    assert encoder.seen == [edited[2:4], edited[6:]]
    assert {path.name for path in tmp_path.iterdir()} == {
        *(file.name for file in second.files),
        "shards.json",
        "notes.npy",
    }


@pytest.mark.parametrize("changed", ["fingerprint", "prompt", "max_seq_length", "precision"])
def test_the_encoder_is_part_of_the_hash(tmp_path: Path, changed: str) -> None:
    run(Reading(), tmp_path)
    encoder = Reading()
    if changed == "max_seq_length":
        encoder.model.max_seq_length = 16
    elif changed == "prompt":
        encoder.prompts = ("query: ", "document: ")
    else:
        setattr(encoder, changed, "other")
    run(encoder, tmp_path)
    assert len(encoder.seen) == 4


def test_where_a_text_ends_is_part_of_the_hash(tmp_path: Path) -> None:
    run(Reading(), tmp_path, ["1 0", "0 1"])
    encoder = Reading()
    encoder.encode = lambda texts, role, progress: np.eye(2, dtype=np.float32)  # type: ignore[method-assign]
    assert (
        run(encoder, tmp_path, ["1 00", " 1"]).files != run(encoder, tmp_path, ["1 0", "0 1"]).files
    )


def test_a_cut_file_is_refused_and_encoded_again(tmp_path: Path) -> None:
    shards = run(Reading(), tmp_path)
    content = shards.files[1].read_bytes()
    shards.files[1].write_bytes(content[:-1])
    with pytest.raises(
        InputError, match=r"missing or is not \(2, 2\) float16; encode the corpus again"
    ):
        Shards.load(tmp_path)
    encoder = Reading()
    run(encoder, tmp_path)
    assert encoder.seen == [TEXTS[2:4]]
    assert shards.files[1].read_bytes() == content


def test_equal_shards_share_a_file(tmp_path: Path) -> None:
    shards = run(Reading(), tmp_path, ["1 0", "0 1"] * 2)
    assert len(list(tmp_path.glob("*.npy"))) == 1
    assert search_shards(shards, np.array([[1, 0]]), 4, tie_order(list("abcd")))[0].tolist() == [
        [2, 0, 3, 1]
    ]


def test_the_study_s_encoder_gives_the_vectors_of_its_own_encode(tmp_path: Path) -> None:
    from tiny import build_tiny

    from xir_lib.encoders.encoder import Encoder

    encoder = Encoder(str(build_tiny(tmp_path)))
    texts = ["ab", "c de", "ab ab c", "e d c b a", "p"]
    shards = run(encoder, tmp_path / "shards", texts, shard_rows=3)
    stored = np.concatenate([rows for _, rows in shards]).astype(np.float32)
    vectors = encoder.encode(texts, "document", "texts")
    # Each product of unit vectors' components is off by 2**-11 of itself at most, so their sum is,
    # too (Cauchy-Schwarz).
    assert np.abs(vectors @ stored.T - vectors @ vectors.T).max() <= 2**-11
    assert (search_shards(shards, vectors, 1, np.arange(5))[0][:, 0] == np.arange(5)).all()


@pytest.mark.parametrize(
    ("texts", "shard_rows", "message"),
    [
        ([], 2, "no text to encode"),
        (["1 0", "0 1", "1 0", None], 2, "text number 3 is null"),
        (["1 0", "0 1", "1 0", "0 0"], 2, "vector 1 of 2 in a shard is not of length 1"),
        (["1 0", "nan 1"], 2, "vector 1 of 2 in a shard is not of length 1"),
        (["1 0"], 0, "shard_rows must be at least 1, got 0"),
    ],
)
def test_a_bad_corpus_is_named(
    tmp_path: Path, texts: list[str | None], shard_rows: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        encode_corpus(Reading(), [pa.array(texts, pa.string())], tmp_path, shard_rows=shard_rows)  # type: ignore[arg-type]
    assert not (tmp_path / "shards.json").exists()


def test_bad_shards_and_searches_are_named(tmp_path: Path) -> None:
    for rows in ((), (2, 0)):
        with pytest.raises(InputError, match="at least one shard, and every shard a row"):
            Shards(tuple(tmp_path / str(n) for n in rows), rows, 2)
    shards = run(Reading(), tmp_path)
    query, ties = np.array([[1.0, 0]]), np.arange(7)
    for bad, message in (
        ((np.ones((1, 3)), 1, ties), "queries have 3 dimensions, passages 2"),
        ((query * np.nan, 1, ties), "query embedding in row 0 holds NaN"),
        ((query, 0, ties), "k must be at least 1, got 0"),
        ((query, 1, ties[:-1]), r"tie order has shape \(6,\)"),
    ):
        with pytest.raises(InputError, match=message):
            search_shards(shards, *bad)
    for content in ("{", '{"dim": 2}', "[]"):
        (tmp_path / "shards.json").write_text(content)
        with pytest.raises(InputError, match=r"shards\.json is broken"):
            Shards.load(tmp_path)


TOGETHER = """
import numpy as np
{imports}
from pathlib import Path
from xir_lib.evaluation.shard_search import search_shards
from xir_lib.evaluation.shards import Shards
vectors = np.tile(np.eye(64, dtype=np.float16), (40, 1))
np.save("{file}", vectors)
shards = Shards((Path("{file}"),), (2560,), 64)
for _ in range(3):
    assert float((torch.ones(500, 500) @ torch.ones(500, 500)).sum()) == 500**3
    rows, scores = search_shards(shards, np.eye(64, dtype=np.float32), 40, np.arange(2560))
    assert (scores == 1).all() and (rows % 64 == np.arange(64)[:, None]).all()
print(torch.get_num_threads(), faiss.omp_get_max_threads())
"""


@pytest.mark.parametrize("imports", ["import torch, faiss", "import faiss, torch"])
def test_faiss_and_torch_live_in_one_process(tmp_path: Path, imports: str) -> None:
    """Each brings an OpenMP library: threads of both, in turn, in either order of import; a
    deadlock is the time limit.
    """
    program = TOGETHER.format(imports=imports, file=tmp_path / "0.npy")
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        timeout=120,
        check=True,
        capture_output=True,
    )
    assert done.stdout.split() == [b"2", b"2"]


def test_the_benchmark_runs() -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "search_scale.py"
    command = [
        sys.executable,
        str(script),
        "--vectors",
        "2000",
        "--shard-rows",
        "100",
        "--k",
        "10",
        "150",
    ]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert report["write"]["bytes"] == 20 * (
        128 + 100 * 384 * 2
    )  # 20 files, 128 bytes of header each
    for k in (10, 150):
        search = report[f"k={k}"]["search"]
        assert (search["places"], search["rows_differing"], search["scores_differing"]) == (
            100 * k,
            0,
            0,
        )
    assert 0 < report["write"]["largest_score_difference_of_float16"] < 2**-11
