"""An open encoder with its prompts, its precision and a cache of its vectors: what is evaluated.

A vector depends on the text, the prompt before it and what `_fingerprint` digests; so the cache
needs no names and is never out of date, and any number of tasks and models may share one folder.
"""

import contextlib
import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from xir_lib.data.records import RetrievalTask
from xir_lib.encoders import encode as encoding
from xir_lib.encoders.encode import ROLES, Role, is_routed, prompts_of
from xir_lib.encoders.open import open_encoder, untrained_copy
from xir_lib.encoders.precision import Asked, choose
from xir_lib.paths import atomic_path

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

log = logging.getLogger(__name__)

CACHED_TEXTS = 4096  # in one file of the cache: what a killed run encodes again


class Encoder:
    """An open model with its prompts and, if `cache` is given, a folder that keeps its vectors.

    `name` is what `open_encoder` takes; `untrained:NAME` is that architecture with freshly drawn
    weights (seed 0). `precision` is what texts are encoded in, "auto" the faster
    (`precision.choose`).

        encoder = Encoder("bundled:multilingual-e5-small", cache=Path("embeddings"))
        queries = encoder.encode(["Where is Cairo?"], "query", "my queries")  # (1, 384)
        passages = encoder.encode(["القاهرة هي عاصمة مصر."], "document", "my passages")
        cosines = queries @ passages.T
    """

    def __init__(self, name: str, *, cache: Path | None = None, precision: Asked = "auto") -> None:
        self.name = name
        base = name.removeprefix("untrained:")
        self.model: SentenceTransformer = open_encoder(base)
        if base != name:
            self.model = untrained_copy(self.model, seed=0)
        self.prompts = prompts_of(self.model, base)
        self.cache = cache
        self.precision, self.rates = choose(precision, self.model)
        self.fingerprint = _fingerprint(self.model)

    def encode(self, texts: list[str], role: Role, progress: str) -> np.ndarray:
        """Return the unit vectors of `texts`, queries or documents, (n, dim) float32, from the
        cache if they are there.
        """
        if self.cache is None:
            return self._encode(texts, role, progress)
        return np.concatenate(
            [
                self._cached(self.cache, texts[start : start + CACHED_TEXTS], role, progress)
                for start in range(0, max(1, len(texts)), CACHED_TEXTS)
            ]
        )

    def encode_table(self, table: pa.Table, role: Role, name: str) -> np.ndarray:
        """Return the vectors of a table's `text` column, in its order; one cache entry per
        language.
        """
        langs = table["lang"].to_numpy(zero_copy_only=False)
        vectors = np.empty((table.num_rows, self.model.get_embedding_dimension() or 0), np.float32)
        for lang in np.unique(langs):
            rows = np.flatnonzero(langs == lang)
            texts = table["text"].take(rows).to_pylist()
            vectors[rows] = self.encode(texts, role, f"{name} {lang}")
        return vectors

    def _encode(self, texts: list[str], role: Role, progress: str) -> np.ndarray:
        return encoding.encode(
            self.model,
            texts,
            prompt=self.prompts[ROLES.index(role)],
            role=role,
            precision=self.precision,
            progress=progress,
        )

    def _cached(self, cache: Path, texts: list[str], role: Role, progress: str) -> np.ndarray:
        """Return what `_encode` does, from the file that is named by all that it depends on."""
        key = [
            self.fingerprint,
            self.prompts[ROLES.index(role)],
            role if is_routed(self.model) else None,
            self.model.max_seq_length,
            self.precision,
            texts,
        ]
        path = cache / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]}.npy"
        if path.exists():
            with contextlib.suppress(ValueError, EOFError, OSError):
                stored = np.load(path, allow_pickle=False)
                if stored.shape == (len(texts), self.model.get_embedding_dimension()):
                    return stored
            log.warning("%s does not hold the vectors of its texts; they are computed again", path)
        vectors = self._encode(texts, role, progress)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, vectors)
        return vectors

    def encode_task(self, task: RetrievalTask) -> "Embeddings":
        """Return the embeddings of all queries and passages of a task."""
        return Embeddings(
            self.encode_table(task.queries, "query", f"{task.name} queries"),
            task.queries["lang"].to_numpy(zero_copy_only=False),
            self.encode_table(task.passages, "document", f"{task.name} passages"),
            task.passages["lang"].to_numpy(zero_copy_only=False),
        )


def encoder_key(encoder: Encoder) -> dict[str, Any]:
    """Return what of the encoder belongs to a result's key."""
    limit = encoder.model.max_seq_length
    return {
        "prompts": list(encoder.prompts),
        "max_seq_length": limit if np.isfinite(limit or 0) else None,
        "precision": encoder.precision,
        "normalised": True,
        "weights_sha256": encoder.fingerprint,
    }


def _fingerprint(model: "SentenceTransformer") -> str:
    """Return the sha256 of modules, weights and tokenizer: what the embeddings depend on besides
    text and prompt.
    """
    import torch

    digest = hashlib.sha256()
    modules: list[Any] = list(model.children())
    for module in modules:
        config: dict[str, Any] = getattr(module, "get_config_dict", dict)()
        digest.update(f"{type(module).__name__} {sorted(config.items())}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())  # no copy of the table
    tokenizer = getattr(model.tokenizer, "backend_tokenizer", None)
    digest.update(tokenizer.to_str().encode() if tokenizer else repr(model.tokenizer).encode())
    return digest.hexdigest()


class Embeddings(NamedTuple):
    """The vectors of a task under one model: unit rows, (n, dim) float32, and the rows'
    languages.
    """

    queries: np.ndarray
    query_langs: np.ndarray
    passages: np.ndarray
    passage_langs: np.ndarray
