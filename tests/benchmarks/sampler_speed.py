"""Start-up, batches per second and memory of the sampler here, beside sentence-transformers' two
that avoid duplicates.

    python tests/benchmarks/sampler_speed.py [--rows 10000 100000 1000000] [--ids 10000000] >
    speed.json

One table of made-up texts (queries of about 45 characters, passages of 200) in 7 languages, one
(query, passage) per row, 1 % of the ids with the passages of another id. All samplers get the same
rows from memory-mapped files, 100 to a batch, and yield an epoch of rows / 100 batches:

- ours: `PairIndex.from_table` and `StrategyBatchSampler`, hybrid, alpha 0.5, over the table's ids,
  as many passes as that number of batches takes; it also mixes languages and keeps apart ids that
  share a passage in any language.
- `NO_DUPLICATES` and `NO_DUPLICATES_HASHED`: `NoDuplicatesBatchSampler` over the columns query and
  passage of the same rows, that is the same-language pairs, the only ones that a data set of rows
  offers; it compares texts in a language.

`start_up` runs from the open table to the first batch, `index` is the part of it in `from_table`.
Opening the table is not counted: for ours, `PairTable`'s checks take `table_checks` seconds once.
`epoch` is start-up and all batches; one that takes longer than --budget seconds is extrapolated
from its first part and says so. Best of --repeats runs, on the wall clock or, with --cpu, in
processor time. `per_batch` is (epoch - index) / batches: ours plans an epoch before its first
batch, theirs does not. Bytes are what Python's and numpy's allocators hold after the first batch,
and the most before it, divided by the rows; they do not see the 4 bytes of torch's permutation and
the 16 of the hashes, in Arrow's memory. The texts stay on disk.

The last line of the table has --ids ids in 7 languages, an index *built from arrays* in place of
`from_table` (the texts would take 20 GB), and as many batches as one pass fills. Its start-up is
the construction of the sampler and the plan. JSON goes to the standard output, the table to the
standard error.
"""

import argparse
import gc
import json
import os
import resource
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, disable_caching, disable_progress_bars, load_from_disk
from sentence_transformers.base.sampler import NoDuplicatesBatchSampler

from xir_lib.data.records import PAIR_SCHEMA, PairTable
from xir_lib.record import environment
from xir_lib.samplers.strategies import PairIndex, StrategyBatchSampler

Clock = Callable[[], float]
LANGS = ("ar", "de", "en", "es", "hi", "ru", "zh")
BATCH_SIZE = 100
SHARED = 0.01  # of the ids
MEMORY_ROWS = 100_000  # bytes per row do not depend on the size, and tracing allocations is slow


def make_table(rows: int) -> pa.Table:
    """Return about `rows` rows, `rows` // 7 ids in 7 languages; the same for the same number."""
    rng = np.random.default_rng(0)
    letters = "".join(rng.choice(list("abcdefghijklmnop    "), size=100_000))
    ids = rows // len(LANGS)
    twin = np.arange(ids)  # the id whose passages an id has
    first = rng.permutation(ids)[: 2 * int(SHARED * ids / 2)]
    twin[first[::2]] = first[1::2]

    def texts(of: np.ndarray, length: int) -> list[str]:
        starts = rng.integers(0, len(letters) - length, ids * len(LANGS)).tolist()
        names = (of[:, None] * len(LANGS) + np.arange(len(LANGS))).ravel().tolist()
        return [f"{name} {letters[starts[name] : starts[name] + length]}" for name in names]

    names = np.repeat(np.arange(ids), len(LANGS)).astype(str)
    columns = {
        "pair_id": names,
        "lang": np.tile(LANGS, ids),
        "query": texts(np.arange(ids), 40),
        "passage_id": pa.nulls(len(names), pa.string()),
        "passage": texts(twin, 195),
        "group": names,
    }
    return pa.table(columns, schema=PAIR_SCHEMA)


def make_index(ids: int) -> PairIndex:
    """Return an index over `ids` complete ids, made without texts; neighbours at the front share
    their passages.
    """
    shape = (ids, len(LANGS))
    row = np.arange(ids * len(LANGS), dtype=np.int32).reshape(shape)
    passage, shares = row.copy(), np.zeros(ids, bool)
    front = 2 * int(SHARED * ids / 2)
    passage[1:front:2] = passage[0:front:2]
    shares[:front] = True
    return PairIndex(
        LANGS,
        row,
        np.ones(shape, bool),
        passage,
        np.empty((*shape, 0), np.int32),
        shares,
    )


def ours(index: PairIndex, num_batches: int | None) -> StrategyBatchSampler:
    return StrategyBatchSampler(
        index, strategy="hybrid", alpha=0.5, batch_size=BATCH_SIZE, seed=0, num_batches=num_batches
    )


def theirs(dataset: Any, hashed: bool) -> Any:
    """Return sentence-transformers' sampler as its trainer makes it, but for the incomplete last
    batch.
    """
    generator = torch.Generator()
    return NoDuplicatesBatchSampler(
        dataset, BATCH_SIZE, drop_last=True, generator=generator, precompute_hashes=hashed
    )


def processor_time() -> float:
    """Return the seconds that this process and its finished children have computed."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)  # datasets hashes in one
    return time.process_time() + children.ru_utime + children.ru_stime


def epoch(make: Callable[[], tuple[Any, float]], clock: Clock, budget: float) -> dict[str, Any]:
    """Make the sampler, with the seconds of its index, and run through its epoch."""
    gc.collect()
    begin = clock()
    sampler, index = make()
    batches = iter(sampler)
    next(batches)
    first = clock()
    count = 1
    for count, _ in enumerate(batches, 2):
        if count % 100 == 0 and clock() - begin > budget:
            whole = len(sampler)
            break
    else:
        whole = count
    seconds = first - begin + (clock() - first) / max(count - 1, 1) * (whole - 1)
    return {
        "start_up_seconds": round(first - begin, 3),
        "index_seconds": round(index, 3),
        "microseconds_per_batch": round((seconds - index) / whole * 1e6, 1),
        "epoch_seconds": round(seconds, 3),
        "batches": whole,
        "batches_per_second": round(whole / seconds),
        "extrapolated_from": count if whole != count else None,
    }


def memory(make: Callable[[], tuple[Any, float]], rows: int) -> dict[str, float]:
    """Make the sampler and its first batch; return what is held then and the most that was, per
    row.
    """
    gc.collect()
    tracemalloc.start()
    batches = iter(make()[0])
    first = next(batches)
    gc.collect()
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del batches, first
    return {"bytes_per_row": round(held / rows, 2), "peak_bytes_per_row": round(peak / rows, 2)}


def measure(rows: int, repeats: int, clock: Clock, budget: float) -> list[dict[str, Any]]:
    """Return one line per sampler on the same rows."""
    disable_caching()  # or the second hashing would be read from a file
    disable_progress_bars()
    with TemporaryDirectory() as folder:
        table = make_table(rows)
        PairTable(table).save(Path(folder) / "pairs.arrow")
        Dataset(table.select(["query", "passage"])).save_to_disk(Path(folder) / "dataset")
        rows = len(table)
        del table
        begin = clock()
        pairs = PairTable.load(Path(folder) / "pairs.arrow")
        checks = round(clock() - begin, 3)
        dataset = load_from_disk(str(Path(folder) / "dataset"))

        def from_table() -> tuple[Any, float]:
            begin = clock()
            index = PairIndex.from_table(pairs)
            seconds = clock() - begin
            return ours(index, rows // BATCH_SIZE), seconds

        makers: dict[str, Callable[[], tuple[Any, float]]] = {
            "ours": from_table,
            "NO_DUPLICATES": lambda: (theirs(dataset, hashed=False), 0.0),
            "NO_DUPLICATES_HASHED": lambda: (theirs(dataset, hashed=True), 0.0),
        }
        lines = []
        for name, make in makers.items():
            best = min(
                (epoch(make, clock, budget) for _ in range(repeats)),
                key=lambda line: line["epoch_seconds"],
            )
            bytes_held = memory(make, rows) if rows <= MEMORY_ROWS else {}
            own = {"table_checks_seconds": checks} if name == "ours" else {}
            lines.append({"sampler": name, "rows": rows, **best, **bytes_held, **own})
    return lines


def measure_arrays(ids: int, repeats: int, clock: Clock) -> dict[str, Any]:
    """Return the line of the index that is built from arrays."""
    rows = ids * len(LANGS)
    held = memory(lambda: (ours(make_index(ids), None), 0.0), rows)
    index = make_index(ids)
    runs = (epoch(lambda: (ours(index, None), 0.0), clock, np.inf) for _ in range(repeats))
    best = min(runs, key=lambda line: line["epoch_seconds"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "sampler": "ours, index built from arrays",
        "rows": rows,
        **best,
        **held,
        "peak_rss_gb": round(peak / 1e6, 2),
    }


def targets(lines: list[dict[str, Any]], large: dict[str, Any]) -> dict[str, Any]:
    """Compare with what was asked for, at the largest number of rows."""
    mine, plain, hashed = lines[-3:]
    speed = mine["batches_per_second"]
    smallest = lines[0]["microseconds_per_batch"]
    return {
        "bytes per pair and language, at most 24": large["bytes_per_row"],
        "times NO_DUPLICATES, at least 20": round(speed / plain["batches_per_second"], 1),
        "times NO_DUPLICATES_HASHED, at least 4": round(speed / hashed["batches_per_second"], 1),
        "time per batch, largest table over smallest": round(
            mine["microseconds_per_batch"] / smallest, 2
        ),
        "time per batch, index built from arrays over smallest": round(
            large["microseconds_per_batch"] / smallest, 2
        ),
    }


def as_markdown(lines: list[dict[str, Any]]) -> str:
    """Return the lines as a table."""
    names = {
        "rows": "rows",
        "sampler": "sampler",
        "start_up_seconds": "start-up s",
        "index_seconds": "index s",
        "microseconds_per_batch": "µs per batch",
        "epoch_seconds": "epoch s",
        "batches_per_second": "batches/s",
        "bytes_per_row": "bytes per row",
    }
    table = [list(names.values()), ["--:", ":--", *["--:"] * 6]]
    for line in lines:
        cells = [
            f"{line[key]:,}" if not isinstance(line.get(key, ""), str) else line.get(key, "")
            for key in names
        ]
        cells[5] += "*" * (line["extrapolated_from"] is not None)
        table.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table) + "\n\n* extrapolated"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="ascending"
    )
    parser.add_argument("--ids", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument(
        "--budget", type=float, default=40.0, help="seconds of an epoch before it is extrapolated"
    )
    parser.add_argument(
        "--cpu", action="store_true", help="processor time, not the wall clock: for a busy machine"
    )
    arguments = parser.parse_args()
    load, clock = os.getloadavg(), processor_time if arguments.cpu else time.perf_counter
    large = measure_arrays(
        arguments.ids, arguments.repeats, clock
    )  # first, so that the peak is its own
    lines = [
        line
        for rows in arguments.rows
        for line in measure(rows, arguments.repeats, clock, arguments.budget)
    ]
    result = {
        "targets": targets(lines, large),
        "lines": [*lines, large],
        "clock": "processor time" if arguments.cpu else "wall",
        "batch_size": BATCH_SIZE,
        "languages": len(LANGS),
        "load_average_before_and_after": [round(load[0], 2), round(os.getloadavg()[0], 2)],
        "environment": environment(),
    }
    print(json.dumps(result, indent=1))
    print(as_markdown(result["lines"]), file=sys.stderr)


if __name__ == "__main__":
    main()
