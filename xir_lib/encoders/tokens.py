"""Texts as a transformer reads them: tokenised once, kept without padding, padded by the batch.

On a GPU the tokenizer takes longer than the model, and all models that were trained from one
encoder read alike: their evaluations share one file of tokens per text (`Encoder`).
Knows no weights and no task.
"""

import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from xir_lib.paths import atomic_path

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_CHUNK = 4096  # texts tokenised at a time


class Tokens(NamedTuple):
    """The inputs of many texts; each column holds the texts end to end."""

    lengths: np.ndarray  # (texts,) tokens of each
    columns: dict[str, np.ndarray]  # (tokens of all,) int32 per input, such as input_ids
    padding: dict[str, int]  # per input what stands where a text has ended
    left: bool  # padding stands before the text
    rest: dict[str, Any]  # what every batch has besides, such as the length of the prompt


def tokenise(model: "SentenceTransformer", texts: Sequence[str], **reading: str) -> Tokens | None:
    """Read texts once, cut as the model cuts them; None of a model whose inputs are not a token
    mask and things of its shape.

    `reading` is what `SentenceTransformer.preprocess` is told besides: the prompt, and the route of
    a `Router`. Nothing here depends on the weights: models of one `reader_digest` read alike.
    """
    lengths: list[np.ndarray] = []
    columns: dict[str, list[np.ndarray]] = {}
    padding: dict[str, int] = {}
    rest: dict[str, Any] = {}
    for start in range(0, len(texts), _CHUNK):
        found = model.preprocess(list(texts[start : start + _CHUNK]), **reading)
        if (mask := found.get("attention_mask")) is None:
            return None
        real = mask.numpy().astype(bool)  # (texts, tokens)
        lengths.append(real.sum(axis=1))
        for key, value in found.items():
            shape = getattr(value, "shape", None)
            if shape is None:
                rest[key] = value
                continue
            if shape != mask.shape:
                return None  # an input of another kind
            inputs = value.numpy()
            columns.setdefault(key, []).append(inputs[real].astype(np.int32))
            if not real.all():
                padding[key] = int(inputs[~real][0])
    return Tokens(
        np.concatenate(lengths) if lengths else np.zeros(0, dtype=np.int64),
        {key: np.concatenate(parts) for key, parts in columns.items()},
        padding,
        getattr(model.tokenizer, "padding_side", "right") == "left",
        rest,
    )


def padded(tokens: Tokens, rows: np.ndarray) -> dict[str, Any]:
    """Return the inputs of some of the texts as `preprocess` would: (rows, longest of them) int64,
    and the rest.
    """
    import torch

    lengths = tokens.lengths[rows]
    place = np.arange(lengths.max()) < lengths[:, None]  # (rows, longest)
    if tokens.left:
        place = place[:, ::-1]
    ends = np.cumsum(tokens.lengths)[rows]
    source = np.concatenate(
        [np.arange(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    )
    batch: dict[str, Any] = {}
    for key, column in tokens.columns.items():
        inputs = np.full(place.shape, tokens.padding.get(key, 0), dtype=np.int64)
        inputs[place] = column[source]
        batch[key] = torch.from_numpy(inputs)
    return batch | tokens.rest


def reader_digest(model: "SentenceTransformer") -> str:
    """Return a digest of what decides `tokenise` besides the texts: the tokenizer and the model's
    `max_seq_length`.
    """
    state = json.loads(model.tokenizer.backend_tokenizer.to_str())
    state |= {
        "truncation": None,
        "padding": None,
        "max_seq_length": model.max_seq_length,
    }  # the first two are as last used
    state |= {
        name: getattr(model.tokenizer, name, None)
        for name in ("padding_side", "pad_token_id", "model_input_names")
    }
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def save_tokens(path: Path, tokens: Tokens) -> None:
    """Write tokens as one file of arrays, whole or not at all."""
    about = json.dumps({"padding": tokens.padding, "left": tokens.left, "rest": tokens.rest})
    columns: dict[str, Any] = {f"column_{name}": column for name, column in tokens.columns.items()}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, about=np.array(about), lengths=tokens.lengths, **columns)


def load_tokens(path: Path) -> Tokens | None:
    """Read what `save_tokens` wrote; None if there is no such file, or none that can be read."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            columns = {
                name.removeprefix("column_"): stored[name]
                for name in stored.files
                if name.startswith("column_")
            }
            return Tokens(stored["lengths"], columns, **json.loads(str(stored["about"])))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
