"""Trimming changes no vector, restoring gives the whole table back."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Normalize, Pooling, Transformer
from tiny import TEXTS, build_tiny
from transformers import BertConfig, BertModel, BertTokenizer

from xir_lib.encoders.encode import encode
from xir_lib.encoders.open import open_encoder, save_encoder
from xir_lib.encoders.vocabulary import restore_vocabulary, trim_vocabulary
from xir_lib.errors import InputError


def test_trimming_the_real_encoder_changes_no_vector(
    real: SentenceTransformer, pairs: list[tuple[str, str]]
) -> None:
    texts = [text for pair in pairs for text in pair] + [
        "Tōkyō ～ 🜀🜁 №5 ẹ̀kọ́ e\u0301té",
        "<mask> </s>",
    ]
    trimmed = copy.deepcopy(real)
    kept = trim_vocabulary(trimmed, texts)
    assert len(kept) < 400
    assert kept[:4].tolist() == [0, 1, 2, 3]
    for prompt in ("", "query: ", "passage: "):
        ids = real.tokenizer([prompt + text for text in texts]).input_ids
        small = trimmed.tokenizer([prompt + text for text in texts]).input_ids
        assert [kept[row].tolist() for row in small] == ids
    whole, part = (
        encode(model, texts, prompt="query: ", precision="float32") for model in (real, trimmed)
    )
    np.testing.assert_allclose(part, whole, rtol=0, atol=1e-6)


def test_trimming_keeps_ids_in_order_and_the_worst_piece(tiny: SentenceTransformer) -> None:
    before = tiny.tokenizer.get_vocab()
    vectors = {
        prompt: encode(tiny, TEXTS, prompt=prompt) for prompt in ("", "query: ", "passage: ")
    }
    kept = trim_vocabulary(tiny, iter(TEXTS))
    after = tiny.tokenizer.get_vocab()
    # By hand: the specials; zzz scores lowest; ▁ab (-4.0) beats ▁ a b (-8.6) and ▁de beats ▁ d e;
    # the rest goes by letters.
    expected = {
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        "zzz",
        "▁",
        "a",
        "b",
        "c",
        "d",
        "e",
        "▁ab",
        "▁de",
        "query:",
        "passage:",
    }
    assert set(after) == expected
    assert kept.tolist() == sorted(before[piece] for piece in after)
    assert all(before[piece] == kept[number] for piece, number in after.items())
    assert tiny[0].model.embeddings.word_embeddings.weight.shape == (len(kept), 16)
    assert tiny[0].model.config.vocab_size == len(kept)
    assert (
        tiny[0].model.config.pad_token_id
        == tiny[0].model.embeddings.word_embeddings.padding_idx
        == after["<pad>"]
        == 1
    )
    for prompt, expected_vectors in vectors.items():
        np.testing.assert_allclose(
            encode(tiny, TEXTS, prompt=prompt), expected_vectors, rtol=0, atol=1e-6
        )


def build_word_pieces(folder: Path) -> Path:
    """Save a random BERT with a WordPiece vocabulary in which `ab` hides that `abc` could be `a
    ##bc`.
    """
    tokens = [
        "unused",
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "a",
        "ab",
        "##bc",
        "x",
        "##d",
        "y",
        "q",
        "##y",
        ":",
    ]
    vocab = {token: number for number, token in enumerate(tokens)}
    BertTokenizer(vocab=vocab, do_lower_case=True, model_max_length=32).save_pretrained(
        folder / "bert"
    )
    torch.manual_seed(1)
    small = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    BertModel(
        BertConfig(vocab_size=len(tokens), max_position_embeddings=32, pad_token_id=1, **small)
    ).save_pretrained(folder / "bert")
    modules = [Transformer(str(folder / "bert")), Pooling(16, "cls"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(
        str(folder / "words"), create_model_card=False
    )
    return folder / "words"


def test_word_pieces_are_trimmed_and_restored_without_a_change(tmp_path: Path) -> None:
    texts = [
        "ABC",
        "a xbc",
        "xd: q",
    ]  # ABC is unknown, since ab is its longest start and ##c is no piece
    model, full = (open_encoder(str(build_word_pieces(tmp_path / name))) for name in "ab")
    before = model.tokenizer.get_vocab()
    pieces = [model.tokenizer.tokenize(text) for text in texts]
    assert pieces == [["[UNK]"], ["a", "x", "##bc"], ["x", "##d", ":", "q"]]
    vectors = encode(model, texts, prompt="")
    kept = trim_vocabulary(model, iter(texts))
    assert [
        model.tokenizer.tokenize(text) for text in texts
    ] == pieces  # without ab the first would be a ##bc
    after = model.tokenizer.get_vocab()
    assert set(before) - set(after) == {"unused", "y", "##y"}
    assert all(before[piece] == kept[number] for piece, number in after.items())
    np.testing.assert_allclose(encode(model, texts, prompt=""), vectors, rtol=0, atol=1e-6)
    assert model[0].model.config.pad_token_id == after["[PAD]"]
    restore_vocabulary(model, full)
    assert model.tokenizer.get_vocab() == before
    np.testing.assert_allclose(encode(model, texts, prompt=""), vectors, rtol=0, atol=1e-6)


def test_restoring_gives_every_row_back_and_keeps_the_trained_ones(
    tiny: SentenceTransformer, tmp_path: Path
) -> None:
    full = copy.deepcopy(tiny)
    original = full[0].model.embeddings.word_embeddings.weight.detach().clone()
    kept = trim_vocabulary(tiny, TEXTS)
    save_encoder(tiny, tmp_path / "trimmed")  # as a checkpoint would
    tiny = open_encoder(str(tmp_path / "trimmed"))
    with torch.no_grad():
        tiny[0].model.embeddings.word_embeddings.weight += 1
    trained = encode(tiny, TEXTS, prompt="query: ")
    restore_vocabulary(tiny, full)
    table = tiny[0].model.embeddings.word_embeddings.weight.detach()
    rest = np.setdiff1d(np.arange(len(original)), kept)
    assert torch.equal(table[kept], original[kept] + 1)
    assert torch.equal(table[rest], original[rest])
    assert tiny.tokenizer.get_vocab() == full.tokenizer.get_vocab()
    save_encoder(tiny, tmp_path / "restored")
    again = SentenceTransformer(str(tmp_path / "restored"), device="cpu", local_files_only=True)
    np.testing.assert_allclose(encode(again, TEXTS, prompt="query: "), trained, rtol=0, atol=1e-6)
    assert again[0].model.pooler is None
    with pytest.raises(InputError, match="exists already"):
        save_encoder(tiny, tmp_path / "restored")


def test_restoring_from_another_encoder_is_refused(
    tiny: SentenceTransformer, tmp_path: Path
) -> None:
    other = open_encoder(str(build_tiny(tmp_path, letters="rstuv")))
    trim_vocabulary(tiny, TEXTS)
    with pytest.raises(InputError, match="are not in the full vocabulary"):
        restore_vocabulary(tiny, other)
