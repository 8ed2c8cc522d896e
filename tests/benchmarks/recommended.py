"""Not a speed: the recommended model as sentence-transformers alone judges it, beside what `xir
evaluate` says of it.

    xir train --params params/parallel.yaml --strategy hybrid-0.5 --out recommended xir evaluate
    --model recommended --task xquad-r-test --out build/recommended/xquad-r-test python
    tests/benchmarks/recommended.py --model recommended --evaluated build/recommended/xquad-r-test
    --out FILE.json

`SentenceTransformer(folder)` encodes with the folder's own prompts, `InformationRetrievalEvaluator`
ranks the whole pool and averages precision over it; a language's mean, then the mean of the
languages, as everywhere here. Nothing of `xir_lib` but the reader of the task and of the
environment is used. Repeat `--evaluated` for several tasks. sentence-transformers computes in
float32; where `xir evaluate` computed in bfloat16, it is asked to do so as well, in a second pass.
"""

import argparse
import json
from pathlib import Path
from statistics import mean

import pandas as pd
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.util import cos_sim

from xir_lib.data.records import RetrievalTask
from xir_lib.data.tasks import load_task
from xir_lib.record import environment, write_json

AT_ONCE = 100  # queries whose whole ranking is held as Python objects


def cosine(queries: torch.Tensor, passages: torch.Tensor) -> torch.Tensor:
    with torch.autocast(
        "cpu", enabled=False
    ):  # what `xir evaluate` computes in bfloat16 is the encoding alone
        return cos_sim(queries.float(), passages.float())


def judged(model: SentenceTransformer, task: RetrievalTask, precision: str) -> dict[str, float]:
    """Return the mAP of the multilingual and the monolingual setting."""
    queries, passages = task.queries.to_pandas(), task.passages.to_pandas()
    relevant = task.qrels.to_pandas().groupby("query_id")["doc_id"].agg(set).to_dict()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        vectors = model.encode_document(
            passages["text"].tolist(), convert_to_tensor=True, show_progress_bar=True
        )
        pools = {"multilingual": pd.Series(True, passages.index)}
        means: dict[str, list[float]] = {"multilingual": [], "monolingual": []}
        for lang, asked in queries.groupby("lang"):
            pools["monolingual"] = passages["lang"] == lang
            for setting, inside in pools.items():
                pool = dict(zip(passages["doc_id"][inside], passages["text"][inside], strict=True))
                known = {name: relevant[name] & pool.keys() for name in asked["query_id"]}
                known = {name: found for name, found in known.items() if found}
                texts = [
                    (name, text)
                    for name, text in zip(asked["query_id"], asked["text"], strict=True)
                    if name in known
                ]
                total = 0.0
                for start in range(0, len(texts), AT_ONCE):
                    part = dict(texts[start : start + AT_ONCE])
                    evaluator = InformationRetrievalEvaluator(
                        part, pool, known, map_at_k=[len(pool)], score_functions={"cosine": cosine}
                    )
                    found = evaluator.compute_all_metrics(
                        model, corpus_embeddings=vectors[torch.tensor(inside.to_numpy())]
                    )
                    total += len(part) * found["cosine"]["map@k"][len(pool)]
                means[setting].append(total / len(texts))
    return {setting: float(mean(values)) for setting, values in means.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--evaluated", type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    run = json.loads((Path(given.model) / "run.json").read_text(encoding="utf-8"))
    model = SentenceTransformer(given.model, device="cpu")
    tasks = {}
    for folder in given.evaluated:
        written = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        task = load_task(written["task"], None)
        computed = written["config"]["precision"]
        rows = {
            "xir evaluate": {
                name: written["settings"][name]["mAP"] for name in ("multilingual", "monolingual")
            }
        }
        for precision in dict.fromkeys(("float32", computed)):
            rows[f"sentence-transformers, {precision}"] = judged(model, task, precision)
        tasks[written["task"]] = {"precision of xir evaluate": computed, "mAP": rows}
    record = {
        "encoder": run["encoder"],
        "settings": run["settings"],
        "pairs": run["pairs"]["name"],
        "seconds of training": run["seconds"],
        "trained on": run["environment"],
        "tasks": tasks,
        "environment": environment(),
    }
    write_json(given.out, record)


if __name__ == "__main__":
    main()
