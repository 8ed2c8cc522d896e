"""Measure the peak memory and the time of `mmarco.build` on a made-up set in upstream's layout.

    python tests/benchmarks/mmarco_memory.py --passages 2000000

Passages of about 150 characters, shorter than mMARCO's (some 330 in English) to keep the disk free,
in an alphabet of one byte a character (en), two (ar) and three (hi); 0.15 queries and one triple a
passage; other passages drawn at random. Prints JSON. `build` and `PairTable.load` run in a process
each, and `peak_rss` is that process's ru_maxrss; `start_rss` is the same before the call, with the
imports done. Mapped pages of the output count in the load's `peak_rss`; `arrow_peak` is what Arrow
allocated.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from xir_lib.data import mmarco

ALPHABETS = {
    "en": "abcdefghijklmnopqrst",
    "ar": "ابتثجحخدذرزسشصضطظعغف",
    "hi": "अआइईउऊऋएऐओऔकखगघचछजझट",
}
CHILD = """
import json, resource, sys, time
import pyarrow as pa
from xir_lib.data import mmarco
from xir_lib.data.records import PairTable
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
step, folder, out, negatives = sys.argv[1:]
start, begin = peak(), time.perf_counter()
rows = None
if step == "build":
    mmarco.build(folder, out, ["en", "ar", "hi"], negatives=bool(int(negatives)))
else:
    rows = len(PairTable.load(out))
seconds = round(time.perf_counter() - begin, 1)
arrow = pa.default_memory_pool().max_memory()
found = {"seconds": seconds, "start_rss": start, "peak_rss": peak()}
print(json.dumps({**found, "arrow_peak": arrow, "rows": rows}))
"""


def make(folder: Path, passages: int) -> None:
    """Write collections, queries and triples; the same for the same number of passages."""
    rng = np.random.default_rng(0)
    queries = passages * 15 // 100
    for lang, alphabet in ALPHABETS.items():
        words = ["".join(rng.choice(list(alphabet), size=rng.integers(2, 9))) for _ in range(5000)]
        for path, count, length in zip(
            mmarco._files(mmarco.LANGUAGES[lang]), (queries, passages), (6, 25), strict=True
        ):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            with (folder / path).open("w", encoding="utf-8") as file:
                for start in range(0, count, 10_000):
                    picks = rng.integers(0, len(words), (min(10_000, count - start), length))
                    file.writelines(
                        f"{number}\t{' '.join(words[pick] for pick in row)}\n"
                        for number, row in enumerate(picks.tolist(), start)
                    )
    with (folder / mmarco.TRIPLES).open("w") as file:
        for start in range(0, passages, 100_000):
            size = min(100_000, passages - start)
            query = rng.integers(0, queries, size)
            positive = (
                query * 7 + (rng.random(size) < 0.05)
            ) % passages  # now and then a second one
            columns = (query, positive, rng.integers(0, passages, size))
            file.writelines(
                f"{q}\t{p}\t{n}\n"
                for q, p, n in zip(*(column.tolist() for column in columns), strict=True)
            )


def call(step: str, folder: Path, out: Path, negatives: bool) -> dict[str, Any]:
    """Run one step in its own process and return what it measured."""
    command = [sys.executable, "-c", CHILD, step, str(folder), str(out), str(int(negatives))]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--passages", type=int, default=2_000_000)
    parser.add_argument("--negatives", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name) / "mmarco", Path(name) / "pairs.arrow"
        if shutil.disk_usage(name).free < (need := arguments.passages * 2000):
            sys.exit(f"{name} has less than the {need / 1e9:.1f} GB that this takes; set TMPDIR")
        begin = time.perf_counter()
        make(folder, arguments.passages)
        made = time.perf_counter() - begin
        build = call("build", folder, out, arguments.negatives)
        load = call("load", folder, out, arguments.negatives)
        report = {
            "passages": arguments.passages,
            "languages": len(ALPHABETS),
            "negatives": arguments.negatives,
            "rows": load.pop("rows"),
            "input_bytes": {
                path.name: path.stat().st_size for path in sorted(folder.rglob("*.tsv"))
            },
            "output_bytes": out.stat().st_size,
            "generated_in_seconds": round(made, 1),
            "build": {key: value for key, value in build.items() if key != "rows"},
            "load": load,
            "machine": (
                f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
                f" {platform.release()}"
            ),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("pyarrow", "numpy")},
            },
        }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
