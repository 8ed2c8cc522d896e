"""An open encoder with its prompts and a cache of its vectors."""

import contextlib
import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from xir_lib.data.records import RetrievalTask
from xir_lib.encoders.precision import Asked, choose
from xir_lib.paths import atomic_path

log = logging.getLogger(__name__)


if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from xir_lib.encoders.encode import Role
    from xir_lib.encoders.tokens import Tokens


CACHED_TEXTS = 4096  # in one file of the cache: what a killed run encodes again


class Embeddings(NamedTuple):
    """The vectors of a task under one model: unit rows, (n, dim) float32, and the rows'
    languages.
    """

    queries: np.ndarray
    query_langs: np.ndarray
    passages: np.ndarray
    passage_langs: np.ndarray


class Encoder:
    """An open model with its prefixes and, if `cache` is given, a folder of embeddings keyed by
    content.

    `name` is what `open_encoder` takes; `untrained:NAME` is that architecture with freshly drawn
    weights (seed 0). `precision` is what texts are encoded in, "auto" the faster
    (`precision.choose`).
    """

    def __init__(self, name: str, *, cache: Path | None = None, precision: Asked = "auto") -> None:
        from xir_lib.encoders.encode import prompts_of
        from xir_lib.encoders.open import open_encoder, untrained_copy

        self.name = name
        base = name.removeprefix("untrained:")
        self.model: SentenceTransformer = open_encoder(base)
        if base != name:
            self.model = untrained_copy(self.model, seed=0)
        self.prompts = prompts_of(self.model, base)
        self.cache = cache
        self.precision, self.rates = choose(precision, self.model)
        self.fingerprint = _fingerprint(self.model)
        self.reader: str | None = None  # `reader_digest`, when it is first needed

    def encode(self, texts: list[str], role: "Role", progress: str) -> np.ndarray:
        """Return the unit vectors of `texts`, queries or documents, (n, dim) float32, from the
        cache if they are there.
        """
        from xir_lib.encoders.encode import ROLES, encode, is_routed

        prompt = self.prompts[ROLES.index(role)]
        if self.cache is None:
            return encode(
                self.model,
                texts,
                prompt=prompt,
                role=role,
                precision=self.precision,
                progress=progress,
            )
        if len(texts) > CACHED_TEXTS:
            starts = range(0, len(texts), CACHED_TEXTS)
            names = (f"{progress} from {start:,} of {len(texts):,}" for start in starts)
            pieces = (texts[start : start + CACHED_TEXTS] for start in starts)
            return np.concatenate(
                [self.encode(piece, role, name) for piece, name in zip(pieces, names, strict=True)]
            )
        digest = hashlib.sha256(
            f"{self.fingerprint}|{prompt}|{self.model.max_seq_length}|{self.precision}".encode()
        )
        if is_routed(self.model):
            digest.update(role.encode())
        for text in texts:
            digest.update(b"\0" + text.encode())
        path = self.cache / f"{digest.hexdigest()[:24]}.npy"
        if path.exists():
            with contextlib.suppress(ValueError, EOFError, OSError):
                stored = np.load(path, allow_pickle=False)
                if stored.shape == (len(texts), self.model.get_embedding_dimension()):
                    return stored
            log.warning("%s does not hold the vectors of its texts; they are computed again", path)
        tokens = self._tokens(texts, prompt, role)
        vectors = encode(
            self.model,
            texts,
            prompt=prompt,
            role=role,
            precision=self.precision,
            progress=progress,
            tokens=tokens,
        )
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, vectors)
        return vectors

    def _tokens(self, texts: list[str], prompt: str, role: "Role") -> "Tokens | None":
        """Return the tokens of texts, from the cache if a model that reads alike was here; None
        leaves them to `encode`.
        """
        from xir_lib.encoders.encode import is_routed, reading
        from xir_lib.encoders.tokens import load_tokens, reader_digest, save_tokens, tokenise

        if (
            self.cache is None
            or is_routed(self.model)
            or not getattr(self.model.tokenizer, "backend_tokenizer", None)
        ):
            return None
        self.reader = self.reader or reader_digest(self.model)
        read = reading(self.model, prompt, role)
        digest = hashlib.sha256(f"{self.reader}|{sorted(read.items())}".encode())
        for text in texts:
            digest.update(b"\0" + text.encode())
        path = self.cache / "tokens" / f"{digest.hexdigest()[:24]}.npz"
        tokens = load_tokens(path)
        if tokens is None and (tokens := tokenise(self.model, texts, **read)) is not None:
            save_tokens(path, tokens)
        return tokens

    def encode_table(self, table: pa.Table, role: "Role", name: str) -> np.ndarray:
        """Return the vectors of a table's `text` column, in its order; one cache entry per
        language.
        """
        langs = table["lang"].to_numpy(zero_copy_only=False)
        vectors = np.empty((table.num_rows, self.model.get_embedding_dimension() or 0), np.float32)
        for lang in np.unique(langs):
            rows = np.flatnonzero(langs == lang)
            vectors[rows] = self.encode(
                table["text"].take(rows).to_pylist(), role, f"{name} {lang}"
            )
        return vectors

    def encode_task(self, task: RetrievalTask) -> Embeddings:
        """Return the embeddings of all queries and passages of a task."""
        return Embeddings(
            self.encode_table(task.queries, "query", f"{task.name} queries"),
            task.queries["lang"].to_numpy(zero_copy_only=False),
            self.encode_table(task.passages, "document", f"{task.name} passages"),
            task.passages["lang"].to_numpy(zero_copy_only=False),
        )


def encoder_key(encoder: Encoder) -> dict[str, Any]:
    """Return what of the encoder belongs to a result's key."""
    return {
        "prompts": list(encoder.prompts),
        "max_seq_length": (
            encoder.model.max_seq_length if np.isfinite(encoder.model.max_seq_length or 0) else None
        ),
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
        digest.update(
            tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        )  # no copy of the table
    tokenizer = getattr(model.tokenizer, "backend_tokenizer", None)
    digest.update(tokenizer.to_str().encode() if tokenizer else repr(model.tokenizer).encode())
    return digest.hexdigest()
