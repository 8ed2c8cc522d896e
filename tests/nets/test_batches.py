"""Every batch of every strategy, as it was when the committed runs were trained.

The identity of a run hangs on its batches. `batches.json` holds a digest of the row numbers of
every plan; `python tests/nets/test_batches.py` writes it anew, which no change of code should ask
for.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from seam import (
    PAIR_SCHEMA,
    PairIndex,
    PairTable,
    Strategy,
    StrategyBatchSampler,
    TrainData,
    TrainSettings,
    batches_of,
    load_training,
)

STORED = Path(__file__).with_name("batches.json")
LANGS = ["en", "de", "sw", "yo"]
SEEDS = (0, 1, 7)
ALPHAS = (0.0, 0.25, 0.5, 1.0)
NAMES = [
    *("x-x-mono", "x-x", "x-y", "x-y-pair", "en-en"),
    *(f"{mixture}-{alpha}" for mixture in ("hybrid", "hybrid-row") for alpha in ALPHAS),
]
REAL = {  # source: its languages
    "xquad-r-train": ["ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh"],
    "mlqa-core": ["de", "es", "vi", "zh"],
    "mlqa-core-matched": ["de", "es", "vi", "zh"],
    "mlqa-ragged": ["ar", "de", "es", "hi", "vi", "zh"],
    "mlqa-core-matched+atlas-qa": ["de", "es", "sw", "vi", "yo", "zh"],
    "belebele-train": ["af", "am", "bm", "en", "ig", "sn"],
}


def digest(batches: Iterator[list[tuple[int, int]]]) -> str:
    """Return the first half of the sha256 of the row numbers, in order."""
    found = hashlib.sha256()
    for batch in batches:
        found.update(np.array(batch, "<i4").tobytes())
    return found.hexdigest()[:32]


def mixed(number: int, salt: str) -> int:
    """Return a number that only looks random."""
    return int(hashlib.sha256(f"{number}|{salt}".encode()).hexdigest()[:8], 16)


def toy(kind: str) -> PairTable:
    """Return 120 ids in 4 languages: `full`; `ragged`, with gaps; `shared`, with passages in
    common; with `negatives`.
    """
    rows = []
    for i, lang in product(range(120), LANGS):
        answer = i % 90 if kind == "shared" else i
        row = {"pair_id": f"p{i:03}", "lang": lang, "group": f"g{i % 12}", "query": f"q {i} {lang}"}
        row |= {"passage_id": f"d{answer:03}", "passage": f"passage {answer} {lang}"}
        if kind == "ragged":
            if mixed(i, lang) % 4 == 0 or (lang == "yo" and i % 3):
                continue
            if mixed(i, lang) % 7 == 1:
                row["query"] = None
            elif mixed(i, lang) % 7 == 2:
                row["passage_id"] = row["passage"] = None
        if kind == "negatives":
            row["negatives"] = [
                f"passage {(i + 1 + mixed(i, str(n)) % 119) % 120} {lang}"
                for n in range(mixed(i, lang) % 4)
            ]
        rows.append(row)
    schema = (
        PAIR_SCHEMA.append(pa.field("negatives", pa.list_(pa.string())))
        if kind == "negatives"
        else PAIR_SCHEMA
    )
    return PairTable(pa.Table.from_pylist(rows, schema=schema))


def strategy(name: str) -> dict[str, object]:
    """Return what the sampler is told for a name of `NAMES`."""
    for mixture in ("hybrid-row", "hybrid"):
        if name.startswith(f"{mixture}-"):
            return {"strategy": Strategy(mixture), "alpha": float(name.removeprefix(f"{mixture}-"))}
    return {"strategy": Strategy(name)}


def toy_digests(kind: str) -> dict[str, str]:
    """Return the digest of three passes' worth of batches, over two epochs, of every strategy, draw
    and seed.
    """
    index = PairIndex.from_table(toy(kind), negatives=2 if kind == "negatives" else 0)
    found = {}
    for name, draw, seed in product(NAMES, ("uniform", "size"), SEEDS):
        if draw == "size" and not name.startswith(("x-x-mono", "x-y-pair", "hybrid-0")):
            continue
        sampler = StrategyBatchSampler(
            index, **strategy(name), batch_size=8, seed=seed, num_batches=40, language_draw=draw
        )
        epochs = []
        for epoch in (0, 1):
            sampler.set_epoch(epoch)
            epochs += list(sampler)
        found[f"{kind} {name} {draw} seed {seed}"] = digest(iter(epochs))
    return found


def real_digests(source: str) -> dict[str, str]:
    """Return the digests of runs of 100 batches on real pairs, as a profile trains them, and of the
    pairs themselves.
    """
    split = 1 if source == "belebele-train" else 0
    pairs, held_out = load_training(
        TrainData(source=source, languages=REAL[source], split_seed=split)
    )
    found = {}
    for part, table in (("train", pairs), ("held out", held_out)):
        rows = json.dumps(
            table.table.select(["pair_id", "lang", "query", "passage"]).slice(0, 500).to_pylist()
        )
        found[f"{source} {part}"] = (
            f"{len(table)} rows, {hashlib.sha256(rows.encode()).hexdigest()[:32]}"
        )
    given = {
        "batch_size": 32,
        "steps": 100,
        "learning_rate": 1e-5,
        "temperature": 0.02,
        "max_seq_length": 64,
    }
    names = [name.replace("en-en", f"{REAL[source][-1]}-{REAL[source][-1]}") for name in NAMES]
    for name, seed in product(names, SEEDS):
        sampler = batches_of(pairs, TrainSettings(strategy=name, seed=seed, **given))
        found[f"{source} {name} seed {seed}"] = digest(islice(iter(sampler), 100))
    return found


@pytest.mark.parametrize("kind", ["full", "ragged", "shared", "negatives"])
def test_toy_batches_are_those_of_the_committed_runs(kind: str) -> None:
    stored = json.loads(STORED.read_text())
    found = toy_digests(kind)
    assert len(found) > 50 and found == {
        key: value for key, value in stored.items() if key.startswith(f"{kind} ")
    }


@pytest.mark.skipif(
    "XIR_DATA" not in os.environ, reason="needs XQuAD-R, MLQA and Belebele: set XIR_DATA"
)
@pytest.mark.parametrize("source", list(REAL))
def test_real_batches_are_those_of_the_committed_runs(source: str) -> None:
    stored = json.loads(STORED.read_text())
    found = real_digests(source)
    assert len(found) > 30 and found == {
        key: value for key, value in stored.items() if key.startswith(f"{source} ")
    }


if __name__ == "__main__":
    everything: dict[str, str] = {}
    for one in ("full", "ragged", "shared", "negatives"):
        everything |= toy_digests(one)
    for one in REAL:
        everything |= real_digests(one)
    STORED.write_text(json.dumps(everything, indent=0) + "\n")
