"""Measure exact search in shards: time, memory, and equality with one unsharded ranking.

    OMP_NUM_THREADS=1 python tests/benchmarks/search_scale.py > search.json

Random unit vectors of 384 dimensions stand for the texts "0", "1", ...; 100 queries like them.
Three things are compared:

* `write`: `encode_corpus` with an encoder that draws its vectors (`drawing_seconds` of its time),
  float16 shards, 3.8 GB for the default 5 million; then again, when every shard is there
  (`again_seconds`: hashing the texts);
* `search`: `search_shards` on all shards, and `oracle`: all scores in one float64 product over the
  whole corpus, rounded to float32 and sorted. `rows_differing` and `scores_differing` count the
  places of the search that differ from it; `float32_rows_differing` those of the same ranking from
  a plain float32 product, for comparison;
* on the first tenth (500,000): `search`, and beside it the plain way, `numpy` (one float32 matrix
  in memory, one product, partition and sort) and `faiss` (`IndexFlatIP` over that matrix).

Every step is a process of its own. `peak_rss` is its VmHWM, mapped pages of the shards included
(ru_maxrss, given too, is inherited from the parent where that was larger); `peak_anonymous` the
largest RssAnon seen every 10 ms and `start_anonymous` the same with the imports done. The files
were just written and come from the page cache where it holds them.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from xir_lib.evaluation.shard_search import search_shards
from xir_lib.evaluation.shards import Shards, encode_corpus

DIM = 384
QUERIES = 100


def unit_vectors(first: int, rows: int) -> np.ndarray:
    """Draw the same vectors for the same numbers, (rows, DIM) float32."""
    vectors = np.random.default_rng(first).standard_normal((rows, DIM), dtype=np.float32)
    vectors /= np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]  # no second matrix
    return vectors


class Drawing:
    """An encoder whose vectors are drawn, and the seconds it took."""

    fingerprint, precision, prompts, model = (
        "drawn",
        "float32",
        ("", ""),
        SimpleNamespace(max_seq_length=None),
    )
    seconds = 0.0

    def encode(self, texts: list[str], role: str, progress: str) -> np.ndarray:
        """Draw one shard, seeded by its first number."""
        begin = time.perf_counter()
        vectors = unit_vectors(int(texts[0]), len(texts))
        self.seconds += time.perf_counter() - begin
        return vectors


def numbers(rows: int) -> Iterator[pa.Array]:
    for start in range(0, rows, 50_000):
        yield pa.array([str(i) for i in range(start, min(rows, start + 50_000))])


def memory(field: str) -> int:
    """Return a field of this process's /proc status in bytes."""
    status = Path("/proc/self/status").read_text().split(f"{field}:")[1]
    return int(status.split()[0]) * 1024


class Watch:
    """Measure the seconds and memory of a block."""

    def __enter__(self) -> "Watch":
        self.start = self.peak = memory("RssAnon")
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._sample)
        self.thread.start()
        self.begin = time.perf_counter()
        return self

    def _sample(self) -> None:
        while not self.done.wait(0.01):
            self.peak = max(self.peak, memory("RssAnon"))

    def __exit__(self, *_: object) -> None:
        seconds = time.perf_counter() - self.begin
        self.done.set()
        self.thread.join()
        self.found = {
            "seconds": round(seconds, 4),
            "start_anonymous": self.start,
            "peak_anonymous": self.peak,
            "peak_rss": memory("VmHWM"),
            "ru_maxrss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }


def ties(rows: int) -> np.ndarray:
    """Return the tie order of the ids 00000000, 00000001, ...: the last comes first."""
    return np.arange(rows)[::-1]


def plain_top(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rank rows of scores the literal way; of equal scores the last comes first."""
    rows = np.empty((len(scores), k), dtype=np.int64)
    for i, row in enumerate(scores):
        kept = np.flatnonzero(row >= np.partition(row, len(row) - k)[len(row) - k])[::-1]
        rows[i] = kept[np.argsort(-row[kept], kind="stable")[:k]]
    return rows, np.take_along_axis(scores, rows, axis=1)


def write(folder: Path, rows: int, shard_rows: int) -> dict[str, Any]:
    encoder: Any = Drawing()
    with Watch() as watch:
        shards = encode_corpus(encoder, numbers(rows), folder, shard_rows=shard_rows)
    drawing = encoder.seconds
    with Watch() as again:
        encode_corpus(encoder, numbers(rows), folder, shard_rows=shard_rows)
    first, queries = unit_vectors(0, shards.rows[0]), unit_vectors(rows, QUERIES)
    stored = next(iter(shards))[1].astype(np.float32)
    return {
        **watch.found,
        "drawing_seconds": round(drawing, 2),
        "again_seconds": again.found["seconds"],
        "bytes": sum(file.stat().st_size for file in shards.files),
        "largest_score_difference_of_float16": float(
            np.abs(queries @ first.T - queries @ stored.T).max()
        ),
    }


def search(folder: Path, rows: int, k: int, out: Path) -> dict[str, Any]:
    import faiss  # noqa: F401  so that its import is not measured

    shards = Shards.load(folder)
    count = next(n for n in range(1, len(shards.rows) + 1) if sum(shards.rows[:n]) >= rows)
    shards = Shards(shards.files[:count], shards.rows[:count], shards.dim)
    queries = unit_vectors(rows, QUERIES)
    with Watch() as watch:
        found, scores = search_shards(shards, queries, k, ties(rows))
    np.savez(out, rows=found, scores=scores)
    return watch.found


def oracle(folder: Path, rows: int, k: int, out: Path) -> dict[str, Any]:
    shards = Shards.load(folder)
    queries = unit_vectors(rows, QUERIES)
    exact, single = (np.empty((QUERIES, rows), dtype=np.float32) for _ in range(2))
    with Watch() as watch:
        for offset, shard in shards:
            for start in range(0, len(shard), 20_000):
                part = shard[start : start + 20_000].astype(np.float32)
                place = slice(offset + start, offset + start + len(part))
                single[:, place] = queries @ part.T
                exact[:, place] = queries.astype(np.float64) @ part.astype(np.float64).T
        found, scores = plain_top(exact, k)
    np.savez(out, rows=found, scores=scores, float32=plain_top(single, k)[0])
    return watch.found


def numpy(folder: Path, rows: int, k: int, out: Path) -> dict[str, Any]:
    shards = Shards.load(folder)
    queries = unit_vectors(rows, QUERIES)
    with Watch() as watch:
        matrix = whole(shards, rows)
        found, scores = plain_top(queries @ matrix.T, k)
    np.savez(out, rows=found, scores=scores)
    return watch.found


def faiss(folder: Path, rows: int, k: int, out: Path) -> dict[str, Any]:
    import faiss

    shards = Shards.load(folder)
    queries = unit_vectors(rows, QUERIES)
    with Watch() as watch:
        index = faiss.IndexFlatIP(DIM)
        for _, shard in shards:
            index.add(shard[: rows - index.ntotal].astype(np.float32))
            if index.ntotal == rows:
                break
        scores, found = index.search(queries, k)
    np.savez(out, rows=found, scores=scores)
    return watch.found


def whole(shards: Shards, rows: int) -> np.ndarray:
    matrix = np.empty((rows, DIM), dtype=np.float32)
    for offset, shard in shards:
        if offset < rows:
            matrix[offset : offset + len(shard)] = shard
    return matrix


def child(step: str, *arguments: object) -> dict[str, Any]:
    """Run one step in a process of its own."""
    command = [sys.executable, __file__, "--step", step, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def differing(one: Path, other: Path) -> dict[str, int]:
    with np.load(one) as found, np.load(other) as expected:
        return {
            "places": found["rows"].size,
            "rows_differing": int((found["rows"] != expected["rows"]).sum()),
            "scores_differing": int((found["scores"] != expected["scores"]).sum()),
            **(
                {"float32_rows_differing": int((expected["float32"] != expected["rows"]).sum())}
                if "float32" in expected
                else {}
            ),
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vectors", type=int, default=5_000_000)
    parser.add_argument("--shard-rows", type=int, default=250_000)
    parser.add_argument("--k", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        name, folder, *rest = arguments.step
        steps: dict[str, Any] = {
            "write": write,
            "search": search,
            "oracle": oracle,
            "numpy": numpy,
            "faiss": faiss,
        }
        values = [int(value) if value.isdigit() else Path(value) for value in rest]
        print(json.dumps(steps[name](Path(folder), *values)))
        return
    rows, few = arguments.vectors, arguments.vectors // 10
    if few % arguments.shard_rows:
        sys.exit(
            f"a tenth of the vectors, {few}, must be whole shards, got {arguments.shard_rows} rows"
            " a shard"
        )
    with tempfile.TemporaryDirectory() as temporary:
        if shutil.disk_usage(temporary).free < (need := 2 * DIM * rows + 2**30):
            sys.exit(
                f"{temporary} has less than the {need / 1e9:.1f} GB that this takes; set TMPDIR"
            )
        folder, found, expected = (
            Path(temporary) / name for name in ("shards", "found.npz", "expected.npz")
        )
        report: dict[str, Any] = {
            "vectors": rows,
            "dim": DIM,
            "queries": QUERIES,
            "shard_rows": arguments.shard_rows,
        }
        report["write"] = child("write", folder, rows, arguments.shard_rows)
        for k in arguments.k:
            part = report[f"k={k}"] = {"search": child("search", folder, rows, k, found)}
            part["oracle"] = child("oracle", folder, rows, k, expected)
            part["search"] |= differing(found, expected)
        k = arguments.k[0]
        part = report[f"{few} vectors, k={k}"] = {"search": child("search", folder, few, k, found)}
        for plain in ("numpy", "faiss"):
            part[plain] = child(plain, folder, few, k, expected)
            part[plain] |= {
                f"{key}_to_search": round(part[plain][key] / part["search"][key], 2)
                for key in ("seconds", "peak_rss")
            }
            part[plain] |= differing(expected, found)
        report["machine"] = (
            f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
            f" {platform.release()}, CPU only"
        )
        report["threads"] = os.environ.get("OMP_NUM_THREADS", "all")
        report["versions"] = {
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "faiss-cpu", "pyarrow")},
        }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
