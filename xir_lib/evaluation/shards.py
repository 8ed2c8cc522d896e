"""Embeddings of a large corpus on disk, as float16 files that are named after their content.

A corpus that does not fit in memory (MIRACL, mMARCO: section 3 of arXiv 2408.10536) is encoded
shard by shard, so a killed run goes on at the next shard and an edited text costs one shard.
`shard_search` reads the files block by block, memory-mapped. Evaluation on the study's small pools
does not pass through here and stays float32.

This module knows no data set and no measure; it sees texts only while they are encoded. Not done: a
GPU, an approximate index, and keeping shards whose texts only moved (a text put in or taken out
encodes everything behind it again).
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xir_lib.errors import InputError
from xir_lib.metrics.scores import FloatArray, Scores
from xir_lib.paths import atomic_path, require

if TYPE_CHECKING:
    from xir_lib.encoders.encoder import Encoder

log = logging.getLogger(__name__)

SHARD_ROWS = 65_536  # texts encoded at a time: what a killed run repeats
# passages in float32 at a time: 100 MB at 384 dimensions; smaller blocks spend more on selecting
BLOCK_ROWS = 65_536
MANIFEST = "shards.json"
SUFFIX = ".float16.npy"
_TEXTS = 8192  # texts taken out of Arrow at a time


@dataclass(frozen=True)
class Shards:
    """Unit vectors in float16 files, in corpus order; iterating maps one file at a time.

    >>> shards = Shards((Path("a.npy"), Path("b.npy")), (65_536, 1), dim=384)
    >>> len(shards)
    65537
    """

    files: tuple[Path, ...]
    rows: tuple[int, ...]  # of each file
    dim: int

    def __post_init__(self) -> None:
        """Refuse a corpus without shards and a shard without rows."""
        if not self.rows or min(self.rows) < 1:
            raise InputError(
                f"shards have {list(self.rows)} rows; give at least one shard, and every shard"
                " a row"
            )

    @classmethod
    def load(cls, folder: Path) -> "Shards":
        """Open what `encode_corpus` finished in `folder`: there its list of shards lies."""
        path = require(Path(folder) / MANIFEST, "encode the corpus into this folder first")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            files = tuple(path.parent / entry["file"] for entry in content["shards"])
            shards = cls(files, tuple(entry["rows"] for entry in content["shards"]), content["dim"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is broken ({error}); encode the corpus again") from error
        for file, rows in zip(shards.files, shards.rows, strict=True):
            if _shape(file) != (rows, shards.dim):
                raise InputError(
                    f"{file} is missing or is not ({rows}, {shards.dim}) float16; encode the corpus"
                    " again"
                )
        return shards

    def __len__(self) -> int:
        """Return the number of vectors."""
        return sum(self.rows)

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.float16]]]:
        """Yield each shard's first row number in the corpus and its vectors, (rows, dim)."""
        for file, offset in zip(self.files, accumulate(self.rows, initial=0), strict=False):
            yield offset, np.load(file, mmap_mode="r", allow_pickle=False)

    def blocks(self) -> Iterator[tuple[int, Scores]]:
        """Yield first row numbers and at most `BLOCK_ROWS` vectors, valid until the next ones."""
        # One buffer, since new memory costs page faults.
        buffer = np.empty((min(BLOCK_ROWS, max(self.rows)), self.dim), dtype=np.float32)
        for offset, shard in self:
            for start in range(0, len(shard), BLOCK_ROWS):
                part = shard[start : start + BLOCK_ROWS]
                buffer[: len(part)] = part
                yield offset + start, buffer[: len(part)]


def encode_corpus(
    encoder: "Encoder", texts: Iterable[pa.Array], folder: Path, *, shard_rows: int = SHARD_ROWS
) -> Shards:
    """Encode chunks of a column of texts into shards in `folder`.

    A shard's name is the hash of its texts and the encoder's passage prompt, fingerprint, maximum
    length and precision. A shard that is there is not encoded again; one that no longer belongs is
    removed at the end, so a folder holds one corpus and has one writer at a time. The list of
    shards is written last. In memory are the texts and float32 vectors of one shard. Give an
    encoder without `cache`, or the vectors are kept twice.

    Raises `InputError` for a null text (its number counts from 0 over the whole corpus), no text at
    all, `shard_rows` below 1, and vectors that are not of length 1 (`Encoder.encode` makes no
    others).
    """
    if shard_rows < 1:
        raise InputError(f"shard_rows must be at least 1, got {shard_rows}")
    folder = Path(folder)
    key = {
        "fingerprint": encoder.fingerprint,
        "prompt": encoder.prompts[1],
        "max_seq_length": encoder.model.max_seq_length,
        "precision": encoder.precision,
    }
    found: list[tuple[Path, int]] = []  # file and rows of each shard
    dim = 0
    remaining = _texts(texts)
    while part := list(islice(remaining, shard_rows)):
        if None in part:
            number = sum(rows for _, rows in found) + part.index(None)
            raise InputError(f"text number {number} is null; drop it or give a text")
        known = [text for text in part if text is not None]  # all; mypy does not see it
        path = folder / f"{_digest(key, known)}{SUFFIX}"
        shape = _shape(path)
        if shape is None or shape[0] != len(part):
            shape = _write(path, encoder.encode(known, "document", f"shard {len(found)}"))
        else:
            log.info("%s: shard %d is there, %d texts", folder, len(found), len(part))
        found.append((path, len(part)))
        dim = shape[1]
    if not found:
        raise InputError("no text to encode; give at least one")
    shards = Shards(tuple(path for path, _ in found), tuple(rows for _, rows in found), dim)
    entries = [{"file": path.name, "rows": rows} for path, rows in found]
    content = {"dim": dim, "key": key, "shards": entries}
    with atomic_path(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    written = {*folder.glob(f"*{SUFFIX}"), *folder.glob(f".*{SUFFIX}.*.tmp")}  # .tmp: of a kill
    for stale in written - set(shards.files):
        stale.unlink()
    return shards


def _texts(chunks: Iterable[pa.Array]) -> Iterator[str | None]:
    for chunk in chunks:
        for start in range(0, len(chunk), _TEXTS):
            yield from chunk.slice(start, _TEXTS).to_pylist()


def _digest(key: Mapping[str, object], texts: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode())
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()[:32]


def _write(path: Path, vectors: FloatArray) -> tuple[int, int]:
    # True for NaN as well; no temporary matrix.
    off = ~(np.abs(np.einsum("ij,ij->i", vectors, vectors) - 1) < 1e-2)
    if off.any():
        raise InputError(
            f"vector {int(np.argmax(off))} of {len(off)} in a shard is not of length 1; normalise"
            " the embeddings"
        )
    with atomic_path(path) as temporary:
        shape = vectors.shape
        file = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
        file[:] = vectors  # rounded on the way: no second matrix
        file.flush()
        del file
    return vectors.shape


def _shape(path: Path) -> tuple[int, int] | None:
    """Return the shape of a whole float16 matrix on disk; None for anything else, if cut."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return array.shape if array.ndim == 2 and array.dtype == np.float16 else None
