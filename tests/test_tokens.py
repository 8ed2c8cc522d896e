"""Texts tokenised once give the batches that the model's own `preprocess` gives, and models that
read alike share them.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tiny import TEXTS, build_tiny

from xir_lib.encoders import tokens
from xir_lib.encoders.encoder import Encoder
from xir_lib.encoders.open import open_encoder, untrained_copy


@pytest.fixture
def model(tmp_path: Path) -> SentenceTransformer:
    return open_encoder(str(build_tiny(tmp_path)))


@pytest.mark.parametrize("side", ["right", "left"])
def test_padded_rows_are_the_models_own_batch(
    model: SentenceTransformer, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_CHUNK", 2)  # so that the rows of a batch come from several
    model.tokenizer.padding_side = side
    read = tokens.tokenise(model, TEXTS, prompt="query: ")
    assert read is not None
    for rows in ([4, 0, 2], [1], [3, 3]):
        expected = model.preprocess([TEXTS[row] for row in rows], prompt="query: ")
        found = tokens.padded(read, np.array(rows))
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert (
                torch.equal(found[key], value) if torch.is_tensor(value) else found[key] == value
            ), key


def test_a_file_of_tokens_is_read_back_and_a_broken_one_is_none(
    model: SentenceTransformer, tmp_path: Path
) -> None:
    read, path = tokens.tokenise(model, TEXTS, prompt=""), tmp_path / "kept" / "tokens.npz"
    assert read is not None and tokens.load_tokens(path) is None
    tokens.save_tokens(path, read)
    again = tokens.load_tokens(path)
    assert again is not None
    assert (again.padding, again.left, again.rest) == (read.padding, read.left, read.rest)
    np.testing.assert_array_equal(again.lengths, read.lengths)
    for name, column in read.columns.items():
        np.testing.assert_array_equal(again.columns[name], column)
    path.write_bytes(path.read_bytes()[:-200])
    assert tokens.load_tokens(path) is None


def test_models_that_read_alike_share_their_tokens_and_others_do_not(
    model: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    untrained_copy(model, seed=1).save(str(tmp_path / "sister"), create_model_card=False)
    called = []
    real = tokens.tokenise
    monkeypatch.setattr(
        tokens, "tokenise", lambda *given, **named: called.append(given[0]) or real(*given, **named)
    )
    one, sister, short = (
        Encoder(str(tmp_path / name), cache=tmp_path / "cache")
        for name in ("tiny", "sister", "tiny")
    )
    short.model.max_seq_length = 5
    vectors = [encoder.encode(TEXTS, "query", "texts") for encoder in (one, sister, short)]
    assert called == [one.model, short.model]
    for encoder, found in zip((one, sister, short), vectors, strict=True):
        expected = encoder.model.encode(
            ["query: " + text for text in TEXTS], normalize_embeddings=True
        )
        np.testing.assert_allclose(found, expected, atol=0.02)  # in bfloat16 where there is
    assert np.abs(vectors[0] - vectors[1]).max() > 0.1
