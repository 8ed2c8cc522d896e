"""Encoders are opened by name, with their own prompts, or refused in one line."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tiny import TEXTS

from xir_lib.encoders.encode import encode, prompts_of
from xir_lib.encoders.open import open_encoder, untrained_copy
from xir_lib.errors import InputError


def test_untrained_copy_is_new_repeatable_and_leaves_the_generator_alone(
    tiny: SentenceTransformer,
) -> None:
    state = torch.get_rng_state()
    one, same, other = untrained_copy(tiny, 1), untrained_copy(tiny, 1), untrained_copy(tiny, 2)
    assert torch.equal(torch.get_rng_state(), state)
    vectors = [encode(model, TEXTS, prompt="") for model in (tiny, one, same, other)]
    np.testing.assert_array_equal(vectors[1], vectors[2])
    assert not np.allclose(vectors[1], vectors[3], atol=1e-3)
    assert not np.allclose(vectors[1], vectors[0], atol=1e-3)
    assert one[0].model.pooler is None
    # BERT draws from N(0, 0.02); over 46 x 16 draws the standard error of the spread is 0.0005, a
    # quarter of the margin.
    assert abs(one[0].model.embeddings.word_embeddings.weight.std().item() - 0.02) < 0.002


def test_names_that_cannot_be_opened(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XIR_OFFLINE", "1")
    with pytest.raises(
        InputError, match=r"^cannot open encoder 'nobody/nothing': XIR_OFFLINE is set and [^\n]+$"
    ):
        open_encoder("nobody/nothing")
    with pytest.raises(InputError, match=r"^no model folder '\./nowhere/at/all'; [^\n]+$"):
        open_encoder("./nowhere/at/all")
    with pytest.raises(InputError, match=r"^unknown bundled encoder 'labse'"):
        open_encoder("bundled:labse")
    with pytest.raises(InputError, match=r"^max_seq_length must be in \[1, 32\] for .*, got 64$"):
        open_encoder(str(tiny_folder), max_seq_length=64)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"^cannot open encoder [^\n]+$"):
        open_encoder(str(tmp_path / "empty"))


def test_pickled_weights_are_refused(
    tiny: SentenceTransformer, tiny_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_folder, tmp_path / "pickled")
    torch.save(tiny[0].model.state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"^cannot open encoder .*safetensors"):
        open_encoder(str(tmp_path / "pickled"))


def test_max_seq_length_cuts(tiny_folder: Path) -> None:
    short = open_encoder(str(tiny_folder), max_seq_length=4)  # <s>, two pieces, </s>
    vectors = encode(short, ["ab c", "ab k"], prompt="")
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "own", "expected"),
    [
        ("intfloat/multilingual-e5-large", {}, ("query: ", "passage: ")),
        ("intfloat/e5-base-v2", {}, ("query: ", "passage: ")),
        ("./multilingual-e5-small/", {}, ("query: ", "passage: ")),  # as a shell completes it
        ("intfloat/multilingual-e5-large-instruct", {}, ("", "")),
        ("BAAI/bge-m3", {}, ("", "")),
        ("x/y", {"query": "Q ", "document": "D "}, ("Q ", "D ")),
        (
            "intfloat/multilingual-e5-small",
            {"query": "Q ", "passage": "P ", "document": "D "},
            ("Q ", "D "),
        ),
        ("x/y", {"passage": "P ", "corpus": "C "}, ("", "P ")),
        ("x/y", {"query": "Q ", "corpus": "C "}, ("Q ", "C ")),
    ],
)
def test_prompts(
    tiny: SentenceTransformer, name: str, own: dict[str, str], expected: tuple[str, str]
) -> None:
    tiny.prompts = {"query": "", "document": ""} | own
    assert prompts_of(tiny, name) == expected
    if own.get("document"):  # oracle: what sentence-transformers puts before the texts
        oracle = tiny.encode_query(TEXTS), tiny.encode_document(TEXTS)
        for prompt, vectors in zip(expected, oracle, strict=True):
            np.testing.assert_allclose(
                encode(tiny, TEXTS, prompt=prompt, precision="float32"), vectors, atol=1e-5
            )


def test_a_default_prompt_stands_before_what_has_no_prompt_of_its_own(
    tiny: SentenceTransformer,
) -> None:
    tiny.prompts, tiny.default_prompt_name = {"query": "Q ", "sts": "S "}, "sts"
    assert prompts_of(tiny) == ("Q ", "S ")
    np.testing.assert_allclose(
        encode(tiny, TEXTS, prompt="S ", precision="float32"),
        tiny.encode_document(TEXTS),
        atol=1e-5,
    )
