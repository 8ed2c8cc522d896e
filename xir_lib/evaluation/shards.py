"""Embeddings of a large corpus on disk, and exact search in them with the memory of one shard.

A corpus that does not fit in memory (MIRACL, mMARCO: section 3 of arXiv 2408.10536) is encoded
shard by shard into float16 files that are named after their content, so a killed run goes on at the
next shard and an edited text costs one shard. Search and ranks read them block by block,
memory-mapped. Evaluation on the study's small pools does not pass through here and stays float32
(`retrieval.py`).

A score is the dot product of the float32 query and the stored float16 passage, computed in float64
and rounded once to float32; ties are those of `retrieval`. It depends neither on how the corpus is
cut nor on the BLAS library, so equal vectors tie wherever they lie. The float32 product of a block
only proposes candidates: whatever lies within its error bound of the k-th best score is computed
again. Rounding to float16 itself moves the score of two unit vectors by about 2**-11 (4.9e-4) at
most, and in practice by far less (tests/benchmarks/search_scale.py prints the largest difference it
saw).

The product is NumPy's and Faiss selects from it, in threads. Faiss's own product (`knn`,
`IndexFlatIP`) is slower: 1.15.1 leaves BLAS aside below 128,000 query values (its pull requests
5022 and 5109); both are timed in `tests/benchmarks/results/search_scale.json`.

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
from numpy.typing import ArrayLike, NDArray

from xir_lib.errors import InputError
from xir_lib.metrics import ranks as retrieval
from xir_lib.metrics.ranks import FloatArray, IntArray, RelevantRanks
from xir_lib.paths import atomic_path, require

if TYPE_CHECKING:
    from xir_lib.encoders.encoder import Encoder

log = logging.getLogger(__name__)

SHARD_ROWS = 65_536  # texts encoded at a time: what a killed run repeats
# passages in float32 at a time: 100 MB at 384 dimensions; smaller blocks spend more on selecting
BLOCK_ROWS = 65_536
QUERIES = 128  # queries whose scores with one block are held: 34 MB
MANIFEST = "shards.json"
SUFFIX = ".float16.npy"
_TEXTS = 8192  # texts taken out of Arrow at a time
_RESCORED = 4096  # candidates computed in float64 at a time

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Shards:
    """Unit vectors in float16 files, in corpus order; iterating maps one file at a time into
    memory.
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
        """Open what `encode_corpus` finished in `folder`; a folder without its list of shards is
        not finished.
        """
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
        """Yield each shard's first row number in the corpus and its vectors, (rows, dim),
        memory-mapped.
        """
        for file, offset in zip(self.files, accumulate(self.rows, initial=0), strict=False):
            yield offset, np.load(file, mmap_mode="r", allow_pickle=False)

    def blocks(self) -> Iterator[tuple[int, Vectors]]:
        """Yield first row numbers and at most `BLOCK_ROWS` vectors in float32, valid until the next
        are asked for.
        """
        buffer = np.empty(
            (min(BLOCK_ROWS, max(self.rows)), self.dim), dtype=np.float32
        )  # new memory costs page faults
        for offset, shard in self:
            for start in range(0, len(shard), BLOCK_ROWS):
                part = shard[start : start + BLOCK_ROWS]
                buffer[: len(part)] = part
                yield offset + start, buffer[: len(part)]


def encode_corpus(
    encoder: "Encoder",
    texts: pa.ChunkedArray | Iterable[pa.RecordBatch],
    folder: Path,
    *,
    shard_rows: int = SHARD_ROWS,
) -> Shards:
    """Encode a column of texts, or the `text` column of a stream of batches, into shards in
    `folder`.

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
    files: list[Path] = []
    rows: list[int] = []
    shape: tuple[int, int] | None = None
    remaining = _texts(texts)
    while part := list(islice(remaining, shard_rows)):
        if None in part:
            raise InputError(
                f"text number {sum(rows) + part.index(None)} is null; drop it or give a text"
            )
        known = [
            text for text in part if text is not None
        ]  # all of them: mypy does not see the check above
        path = folder / f"{_digest(key, known)}{SUFFIX}"
        shape = _shape(path)
        if shape is None or shape[0] != len(part):
            shape = _write(path, encoder.encode(known, "document", f"shard {len(files)}"))
        else:
            log.info("%s: shard %d is there, %d texts", folder, len(files), len(part))
        files.append(path)
        rows.append(len(part))
    if shape is None:
        raise InputError("no text to encode; give at least one")
    shards = Shards(tuple(files), tuple(rows), shape[1])
    entries = [{"file": file.name, "rows": count} for file, count in zip(files, rows, strict=True)]
    with atomic_path(folder / MANIFEST) as temporary:
        temporary.write_text(
            json.dumps({"dim": shards.dim, "key": key, "shards": entries}, indent=1),
            encoding="utf-8",
        )
    for stale in {*folder.glob(f"*{SUFFIX}"), *folder.glob(f".*{SUFFIX}.*.tmp")} - set(
        files
    ):  # .tmp: of a killed run
        stale.unlink()
    return shards


def search_shards(
    shards: Shards, query_emb: FloatArray, k: int, ties: ArrayLike
) -> tuple[NDArray[np.int64], Vectors]:
    """Return the corpus rows and scores of each query's k best passages, best first, (n_queries, k)
    each.

    Exact, with scores and ties as the module says; `ties` is the corpus's `retrieval.tie_order`,
    (n_docs,). A k beyond the corpus gives all of it, (n_queries, n_docs): no row number stands for
    nothing. Raises `InputError` for bad query vectors, another dimension, a tie order of another
    length and a k below 1.
    """
    try:
        import faiss
    except ImportError as missing:
        raise InputError(
            "search in shards needs the package faiss-cpu; pip install 'xir-lib[search]'"
        ) from missing

    queries, position, error = _prepared(shards, query_emb, ties)
    if k < 1:
        raise InputError(f"k must be at least 1, got {k}")
    k = min(k, len(shards))
    rows = np.zeros((len(queries), k), dtype=np.int64)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    for offset, block in shards.blocks():
        depth = min(
            k, len(block)
        )  # Faiss would pad what is missing with row -1, which NumPy takes for the last one
        for start in range(0, len(queries), QUERIES):
            asked = slice(start, start + QUERIES)
            product = queries[asked] @ block.T  # (QUERIES, rows of the block)
            best, where = faiss.kmax(product, depth)  # best first
            kth = scores[asked, -1].astype(np.float64)  # -inf until there are k
            if depth == k:
                kth = np.maximum(kth, best[:, -1] - error[asked])
            floor = kth - error[asked]
            for i in np.flatnonzero(best[:, 0] >= floor):
                inside = best[i] >= floor[i]
                found = where[i, inside]
                if inside.all() and depth < len(
                    block
                ):  # Faiss's list may end among scores that are as good
                    found = np.flatnonzero(product[i] >= floor[i])
                _merge(
                    rows[start + i],
                    scores[start + i],
                    offset + found,
                    _score(queries[start + i], block, found),
                    position,
                )
    return rows, scores


def ranks_in_shards(
    shards: Shards,
    query_emb: FloatArray,
    doc_langs: ArrayLike,
    query_index: ArrayLike,
    doc_index: ArrayLike,
    ties: ArrayLike,
) -> RelevantRanks:
    """Count, per judgement and passage language, the passages that outrank the relevant one:
    `retrieval.relevant_ranks`.

    Arguments, errors and result are those of that function, without grades and language counts of
    the top; the scores are this module's. The corpus is read twice, first for the scores of the
    relevant passages.
    """
    queries, position, error = _prepared(shards, query_emb, ties)
    langs, rel_query, rel_doc = (
        np.asarray(doc_langs),
        np.asarray(query_index),
        np.asarray(doc_index),
    )
    pool_sizes = retrieval._check_codes(langs, len(shards))
    retrieval._check_judgements(rel_query, rel_doc, len(queries), len(shards))

    value = np.empty(len(rel_query), dtype=np.float32)
    for offset, shard in shards:
        for j in np.flatnonzero((rel_doc >= offset) & (rel_doc < offset + len(shard))):
            value[j] = _score(queries[rel_query[j]], shard, rel_doc[j : j + 1] - offset)[0]

    outranked_by = np.zeros((len(rel_query), len(pool_sizes)), dtype=np.int32)
    by_query = np.argsort(rel_query, kind="stable")
    for offset, block in shards.blocks():
        block_langs, block_position = (
            langs[offset : offset + len(block)],
            position[offset : offset + len(block)],
        )
        for start in range(0, len(queries), QUERIES):
            product = queries[start : start + QUERIES] @ block.T  # (QUERIES, rows of the block)
            for j in by_query[
                slice(*np.searchsorted(rel_query[by_query], [start, start + QUERIES]))
            ]:
                query, own = rel_query[j], position[rel_doc[j]]
                row = product[query - start]
                above = np.flatnonzero(row >= value[j] - error[query])
                close = row[above] <= value[j] + error[query]
                near = above[close]
                exact = _score(queries[query], block, near)
                outranks = (exact > value[j]) | ((exact == value[j]) & (block_position[near] < own))
                better = np.concatenate([above[~close], near[outranks]])
                outranked_by[j] += np.bincount(block_langs[better], minlength=len(pool_sizes))
    return RelevantRanks(rel_query, rel_doc, langs[rel_doc], outranked_by, pool_sizes, len(queries))


def _prepared(
    shards: Shards, query_emb: FloatArray, ties: ArrayLike
) -> tuple[Vectors, IntArray, NDArray[np.float64]]:
    """Return checked queries, tie positions, and per query how far a float32 score of a product may
    be off.
    """
    queries, position = retrieval._checked(query_emb, "query"), np.asarray(ties)
    if queries.shape[1] != shards.dim:
        raise InputError(
            f"queries have {queries.shape[1]} dimensions, passages {shards.dim}; encode both with"
            " one model"
        )
    if position.shape != (len(shards),):
        raise InputError(
            f"tie order has shape {position.shape}; one position per passage, ({len(shards)},), is"
            " needed"
        )
    # Summed in any order, a product of n terms is off by n half-units of the norms (Higham 2002,
    # section 3.1); doubled, for norms a little above 1 and the final rounding.
    error = (
        (shards.dim + 1)
        * float(np.finfo(np.float32).eps)
        * np.linalg.norm(queries.astype(np.float64), axis=1)
    )
    return queries, position, error


def _score(query: Vectors, passages: FloatArray, rows: IntArray) -> Vectors:
    """Return the scores of one query with some rows; each row is summed in the same order whatever
    stands beside it.
    """
    scores = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), _RESCORED):
        part = passages[rows[start : start + _RESCORED]].astype(np.float64)
        scores[start : start + _RESCORED] = (part * query.astype(np.float64)).sum(
            axis=1
        )  # the products are exact
    return scores


def _merge(
    rows: NDArray[np.int64],
    scores: Vectors,
    new_rows: IntArray,
    new_scores: Vectors,
    position: IntArray,
) -> None:
    """Put new passages into one query's list, in place, best first."""
    all_rows, all_scores = np.concatenate([rows, new_rows]), np.concatenate([scores, new_scores])
    order = np.lexsort((position[all_rows], -all_scores))[: len(rows)]
    rows[:], scores[:] = all_rows[order], all_scores[order]


def _texts(source: pa.ChunkedArray | Iterable[pa.RecordBatch]) -> Iterator[str | None]:
    chunks = (
        source.iterchunks()
        if isinstance(source, pa.ChunkedArray)
        else (batch["text"] for batch in source)
    )
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
    off = ~(
        np.abs(np.einsum("ij,ij->i", vectors, vectors) - 1) < 1e-2
    )  # true for NaN as well; no temporary matrix
    if off.any():
        raise InputError(
            f"vector {int(np.argmax(off))} of {len(off)} in a shard is not of length 1; normalise"
            " the embeddings"
        )
    with atomic_path(path) as temporary:
        file = np.lib.format.open_memmap(
            temporary, mode="w+", dtype=np.float16, shape=vectors.shape
        )
        file[:] = vectors  # rounded on the way: no second matrix
        file.flush()
        del file
    return vectors.shape


def _shape(path: Path) -> tuple[int, int] | None:
    """Return the shape of a whole float16 matrix on disk; None for anything else, a cut file
    included.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return array.shape if array.ndim == 2 and array.dtype == np.float16 else None
