"""What the stock trainer's own random batches of multilingual pairs do to retrieval, beside batches of params/two_by_two.yaml.

    XIR_DATA=... python tests/benchmarks/stock_batches.py --out FOLDER [--threads 2] > stock_batches.json

The pairs, steps, batch size, learning rate, temperature and encoder are those of the profile, and so are the tasks. The data
set is what a user has: a row per question and language with the answer in that language, in one `datasets.Dataset`. The
trainer is `SentenceTransformerTrainer` with `MultipleNegativesRankingLoss` and its default batch sampler, which shuffles the
rows: a batch mixes languages, as `x-x` does, and may hold one question in two languages. The loss is computed in autocast
bfloat16 where the processor has it, as in ours, on the complete vocabulary. FOLDER keeps the model and the evaluations. Prints
JSON: mAP in the three settings and the mean rank distance, and the same of three runs out of `figures/two_by_two/results`.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
PROFILE, BESIDE = "two_by_two", ("none", "x-x-mono-s0", "x-x-s0")


def train(study: Any, out: Path) -> dict[str, Any]:
    """Train as the library's documentation shows, on the profile's pairs; return what was drawn and the seconds."""
    import pyarrow.compute as pc
    import torch
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    from xir_lib.bundled import bundled_folder
    from xir_lib.encoders import computes_in_bfloat16
    from xir_lib.study import load_training

    settings = study.settings("x-x", seed=0)
    table = load_training(study.data)[0].table
    table = table.filter(pc.and_(table["query"].is_valid(), table["passage"].is_valid()))
    model = SentenceTransformer(str(bundled_folder(study.encoder.removeprefix("bundled:"))))
    model.max_seq_length, whole = settings.max_seq_length, model.max_seq_length
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(out.parent / "scratch"),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=int(settings.warmup_share * settings.steps),
        bf16=computes_in_bfloat16(model.device.type),
        use_cpu=not torch.cuda.is_available(),
        seed=settings.seed,
        prompts={"query": "query: ", "passage": "passage: "},
        save_strategy="no",
        report_to="none",
    )
    loss = MultipleNegativesRankingLoss(model, scale=1 / settings.temperature)
    rows = Dataset.from_dict({name: table[name].to_pylist() for name in ("query", "passage")})
    started = time.perf_counter()
    SentenceTransformerTrainer(model=model, args=arguments, train_dataset=rows, loss=loss).train()
    seconds = time.perf_counter() - started
    model.max_seq_length = whole
    model.prompts |= {"query": "query: ", "passage": "passage: "}
    model.save(str(out))
    return {"rows": len(rows), "seconds": round(seconds), "settings": settings.model_dump(exclude={"strategy"})}


def summary(metrics: dict[str, Any]) -> dict[str, float]:
    """Return mAP by setting and the rank distance."""
    found = {setting: round(means["mAP"], 4) for setting, means in metrics["settings"].items()}
    return {**found, "rank distance": round(metrics["bias"]["rank_distance"]["mean"], 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    import torch

    from xir_lib.evaluation import Encoder, evaluate
    from xir_lib.run_record import environment
    from xir_lib.study import load_study, load_task

    torch.set_num_threads(arguments.threads)
    study = load_study(REPO / "params" / f"{PROFILE}.yaml")
    model, record = arguments.out / "model", arguments.out / "trained.json"
    if not record.exists():
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(train(study, model)), encoding="utf-8")
    encoder = Encoder(str(model))
    committed = json.loads((REPO / "figures" / PROFILE / "results" / "evaluations.json").read_text(encoding="utf-8"))
    tasks: dict[str, Any] = {}
    for task in (evaluation.task for evaluation in study.evaluations):
        ours = evaluate(encoder, load_task(task), arguments.out / task)
        tasks[task] = {"stock trainer, random batches": summary(ours)} | {
            e["strategy"]: summary(e) for e in committed if e["task"] == task and e["rival"] == "none" and e["run"] in BESIDE
        }
        assert ours["config"]["prompts"] == ["query: ", "passage: "], ours["config"]["prompts"]
    result = {"profile": PROFILE, "tasks": tasks, **json.loads(record.read_text()), "environment": environment()}
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
