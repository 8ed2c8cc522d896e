"""Encoding agrees with sentence-transformers, whatever the batches, the threads and the cache."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.models import StaticEmbedding
from tiny import LETTERS, TEXTS, build_tiny
from tokenizers import Tokenizer, models, pre_tokenizers

from xir_lib.encoders import encoder
from xir_lib.encoders.encode import _batches, encode
from xir_lib.encoders.encoder import Encoder
from xir_lib.encoders.open import open_encoder
from xir_lib.encoders.vocabulary import trim_vocabulary
from xir_lib.errors import InputError

Pairs = list[tuple[str, str]]


def test_translation_pairs_rank_first(real: SentenceTransformer, pairs: Pairs) -> None:
    queries = encode(real, [query for query, _ in pairs], prompt="query: ", precision="float32")
    passages = encode(
        real, [passage for _, passage in pairs], prompt="passage: ", precision="float32"
    )
    assert (queries @ passages.T).argmax(axis=1).tolist() == list(range(len(pairs)))


def test_real_encoder_agrees_with_sentence_transformers(
    real: SentenceTransformer, pairs: Pairs
) -> None:
    texts = [text for pair in pairs for text in pair]
    ours = encode(real, texts, prompt="passage: ", precision="float32")
    np.testing.assert_allclose(
        ours, real.encode(texts, prompt="passage: ", batch_size=5), rtol=0, atol=1e-5
    )
    half = encode(real, texts[:4], prompt="passage: ", precision="bfloat16")
    assert (ours[:4] * half).sum(axis=1).min() >= 0.999
    assert not np.array_equal(ours[:4], half)


def test_encode_keeps_order_whatever_the_batches(tiny: SentenceTransformer) -> None:
    texts = TEXTS * 3 + ["", LETTERS * 9]  # the last is cut at 32 tokens
    expected = tiny.encode(texts, prompt="query: ", batch_size=1)
    for budget in (1, 40, 100_000):
        ours = encode(tiny, texts, prompt="query: ", batch_tokens=budget, precision="float32")
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)
    column = pa.chunked_array([texts[:4], texts[4:]])
    np.testing.assert_allclose(
        encode(tiny, column, prompt="query: ", precision="float32"), expected, rtol=0, atol=1e-5
    )
    assert encode(tiny, [], prompt="").shape == (0, 16)


def test_threads_change_neither_the_vectors_nor_their_own_number(tiny: SentenceTransformer) -> None:
    before, texts = (
        torch.get_num_threads(),
        [f"{a} {b}" * (1 + i % 3) for i, (a, b) in enumerate(pairwise("abcdefgh" * 5))],
    )
    found = {}
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found[threads] = encode(tiny, texts, prompt="", batch_tokens=16)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(found[3], found[1], atol=1e-6)
    np.testing.assert_allclose(
        found[3][7], encode(tiny, [texts[7]], prompt="")[0], atol=1e-6
    )  # rows are at their places


def test_a_text_without_direction_is_named(tiny: SentenceTransformer) -> None:
    with torch.no_grad():  # one letter's row is broken; only the text that holds it suffers
        tiny[0].model.embeddings.word_embeddings.weight[
            tiny.tokenizer.convert_tokens_to_ids("p")
        ] = torch.nan
    with pytest.raises(
        InputError, match=r"^text number 2 of 4 has no usable vector \(zero or not finite\): 'p b'$"
    ):
        encode(tiny, ["a", "b", "p b", "c"], prompt="")
    with pytest.raises(InputError, match=r"^text number 1 of 2 is null; [^\n]+$"):
        encode(tiny, pa.chunked_array([["a", None]]), prompt="")


def test_a_model_with_two_encoders_reads_each_text_with_its_own(tmp_path: Path) -> None:
    folders = [build_tiny(tmp_path / "one"), build_tiny(tmp_path / "two")]
    asking, answering = (SentenceTransformer(str(folder), device="cpu") for folder in folders)
    with torch.no_grad():
        for weights in answering[0].model.encoder.parameters():
            weights.mul_(1.5)
    router = Router.for_query_document(list(asking), list(answering))
    SentenceTransformer(
        modules=[router], device="cpu", prompts={"query": "query: ", "document": "passage: "}
    ).save(str(tmp_path / "routed"))
    routed, texts = open_encoder(str(tmp_path / "routed")), TEXTS[:3]
    queries = encode(routed, texts, prompt="query: ", role="query", precision="float32")
    passages = encode(routed, texts, prompt="passage: ", precision="float32")
    np.testing.assert_allclose(queries, routed.encode_query(texts, batch_size=1), atol=1e-5)
    np.testing.assert_allclose(passages, routed.encode_document(texts, batch_size=1), atol=1e-5)
    np.testing.assert_allclose(queries, asking.encode(texts, prompt="query: "), atol=1e-5)
    assert (
        np.abs(queries - encode(routed, texts, prompt="query: ", precision="float32")).max() > 1e-3
    )  # the other one reads it differently
    own = Encoder(str(tmp_path / "routed"), cache=tmp_path / "cache")
    for expected, role in ((queries, "query"), (passages, "document"), (queries, "query")):
        np.testing.assert_allclose(
            own.encode(texts, role, "texts"), expected, atol=0.02
        )  # in bfloat16 where there is
    with pytest.raises(InputError, match="with modules of their own"):
        trim_vocabulary(routed, texts)


@pytest.mark.parametrize("side", ["right", "left"])
def test_batches_are_the_models_own_within_the_budget(tiny: SentenceTransformer, side: str) -> None:
    tiny.tokenizer.padding_side = side
    seen, widths = [], []
    for rows, inputs in _batches(tiny, TEXTS, {"prompt": "query: "}, budget=20):
        expected = tiny.preprocess([TEXTS[row] for row in rows], prompt="query: ")
        assert inputs.keys() == expected.keys()
        for key, value in expected.items():
            same = (
                torch.equal(inputs[key], value) if torch.is_tensor(value) else inputs[key] == value
            )
            assert same, key
        assert expected["input_ids"].numel() <= 20
        widths.append(expected["input_ids"].shape[1])
        seen += rows.tolist()
    assert sorted(seen) == list(range(len(TEXTS)))
    assert len(widths) > 1 and widths == sorted(widths, reverse=True)


def test_inputs_of_another_shape_are_read_by_the_batch(
    tiny: SentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tiny.preprocess

    def with_sizes(texts: list[str], **read: str) -> dict[str, Any]:
        return own(texts, **read) | {"sizes": torch.tensor([len(text) for text in texts])}

    monkeypatch.setattr(tiny, "preprocess", with_sizes)
    for rows, inputs in _batches(tiny, TEXTS, {"prompt": ""}, budget=8):
        assert inputs["sizes"].tolist() == [len(TEXTS[row]) for row in rows]


def test_a_model_without_a_mask_of_its_tokens_is_encoded_too() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    static = SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_weights=np.eye(3))], device="cpu"
    )
    texts = ["a", "b b b", "a b", "b"]  # a row of the table a word, averaged
    found = encode(static, texts, prompt="", batch_tokens=4)
    np.testing.assert_allclose(found, static.encode(texts, normalize_embeddings=True), atol=1e-6)
    np.testing.assert_allclose(found[2], [0.5**0.5, 0.5**0.5, 0], atol=1e-6)


def test_texts_of_several_chunks_come_back_in_order(
    tiny: SentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = encode(tiny, TEXTS, prompt="")
    monkeypatch.setattr("xir_lib.encoders.encode.CHUNK", 2)
    np.testing.assert_allclose(encode(tiny, TEXTS, prompt=""), whole, atol=1e-6)


def test_a_killed_encoding_goes_on_where_it_was(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "CACHED_TEXTS", 2)
    own, done = Encoder(str(tiny_folder), cache=tmp_path), []

    def third_fails(model: SentenceTransformer, given: list[str], **arguments: Any) -> np.ndarray:
        done.append(len(given))
        if len(done) == 3:
            raise KeyboardInterrupt
        return encode(model, given, **arguments)

    monkeypatch.setattr(encoder.encoding, "encode", third_fails)
    with pytest.raises(KeyboardInterrupt):
        own.encode(TEXTS, "document", "texts")
    found = own.encode(TEXTS, "document", "texts")
    np.testing.assert_allclose(found, encode(own.model, TEXTS, prompt="passage: "), atol=1e-6)
    assert done == [2, 2, 1, 1]


def test_only_what_encodes_alike_shares_vectors(tiny_folder: Path, tmp_path: Path) -> None:
    one, short, other = (
        Encoder(name, cache=tmp_path / "cache")
        for name in (str(tiny_folder), str(tiny_folder), f"untrained:{tiny_folder}")
    )
    short.model.max_seq_length = 5
    for own, files in ((one, 1), (one, 1), (short, 2), (other, 3)):
        expected = own.model.encode(["query: " + text for text in TEXTS])
        np.testing.assert_allclose(own.encode(TEXTS, "query", "texts"), expected, atol=1e-5)
        assert len(list((tmp_path / "cache").iterdir())) == files
    assert one.encode([], "query", "no texts").shape == (0, 16)


@pytest.mark.parametrize("shape", [None, (2, 16)])
def test_a_damaged_file_of_the_cache_is_made_again(
    tiny_folder: Path, tmp_path: Path, shape: tuple[int, int] | None
) -> None:
    own = Encoder(str(tiny_folder), cache=tmp_path)
    vectors = own.encode(TEXTS, "query", "texts")
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    if shape:
        np.save(path, np.ones(shape, np.float32))
    else:
        path.write_bytes(whole[:-20])
    np.testing.assert_array_equal(own.encode(TEXTS, "query", "texts"), vectors)
    assert path.read_bytes() == whole
