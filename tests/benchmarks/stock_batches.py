"""Train as sentence-transformers' documentation shows: the stock trainer and its own random batches
of multilingual pairs.

    XIR_DATA=... python tests/benchmarks/stock_batches.py --out FOLDER [--seed 0] [--threads 2] >
    trained.json

Pairs, steps, batch size, learning rate, temperature and encoder are those of
`params/variations/two_by_two.yaml`. The data set is what a user has: a row per question and
language with the answer in that language. `SentenceTransformerTrainer` with
`MultipleNegativesRankingLoss` and its default batch sampler shuffles the rows: a batch mixes
languages, as `x-x` does, but it may hold one question in two languages, whose answers then count as
wrong for each other. The complete vocabulary is trained, in bfloat16 autocast where that is faster,
as ours is. FOLDER gets the model; it is evaluated with `xir evaluate` (`figures/stock/README.md`).
Prints JSON: what was drawn, the seconds, the settings and the machine.
"""

import argparse
import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

PROFILE = "two_by_two"


def train(out: Path, seed: int) -> dict[str, Any]:
    """Train and save the model; return what the batches held."""
    import pyarrow.compute as pc
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    from xir_lib.encoders.bundled import bundled_folder
    from xir_lib.encoders.precision import choose
    from xir_lib.record import environment
    from xir_lib.study.profile import load_study
    from xir_lib.study.sources import load_training

    study = load_study(PROFILE)
    settings = study.settings("x-x", seed=seed)
    table = load_training(study.data)[0].table
    table = table.filter(pc.and_(table["query"].is_valid(), table["passage"].is_valid()))
    rows = Dataset.from_dict({name: table[name].to_pylist() for name in ("query", "passage")})
    known = table.select(["query", "pair_id", "lang"]).to_pylist()
    ids_of: dict[str, set[str]] = {}  # texts of names and numbers can be equal in two languages
    for row in known:
        ids_of.setdefault(row["query"], set()).add(row["pair_id"])
    model = SentenceTransformer(str(bundled_folder(study.encoder.removeprefix("bundled:"))))
    model.max_seq_length, whole = settings.max_seq_length, model.max_seq_length
    prompts = {"query": "query: ", "passage": "passage: "}
    chosen = choose("auto", model)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(out.parent / f"{out.name}-scratch"),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=int(settings.warmup_share * settings.steps),
        bf16=chosen.precision == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        seed=seed,
        prompts=prompts,
        save_strategy="no",
        report_to="none",
    )
    loss = MultipleNegativesRankingLoss(model, scale=1 / settings.temperature)
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=rows, loss=loss)
    batches: list[list[set[str]]] = []

    class Noting(type(trainer.data_collator)):  # type: ignore[misc]
        def __call__(self, features: list[dict[str, Any]]) -> Any:
            batches.append([ids_of[row["query"]] for row in features])
            return super().__call__(features)

    trainer.data_collator.__class__ = Noting  # notes what passes through, nothing else
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    model.max_seq_length = whole
    model.prompts |= prompts
    model.save(str(out))
    twice = [
        any(one & other for at, one in enumerate(batch) for other in batch[:at])
        for batch in batches[: settings.steps]
    ]
    return {
        "profile": study.profile,
        "encoder": study.encoder,
        "data": study.data.source,
        "rows": len(rows),
        "steps": settings.steps,
        "batch_size": settings.batch_size,
        "seed": seed,
        "batches_with_an_id_twice": sum(twice),
        "seconds": round(seconds),
        "environment": environment(*chosen),
    }


def main() -> int:
    """Train once and print the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    with contextlib.redirect_stdout(sys.stderr):  # the trainer prints its logs
        record = train(arguments.out, arguments.seed)
    print(json.dumps(record, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
