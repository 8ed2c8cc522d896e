"""Time of an evaluation from embeddings, beside the bare matrix product and pytrec_eval, and of
encoding.

    XIR_DATA=... python tests/benchmarks/evaluation_speed.py [--threads 2] [--texts 600] [--sample
    200]

The task is XQuAD-R: 13,090 queries, 13,014 sentences, 11 languages, 384 dimensions. The vectors are
drawn (seed 0): a query is one of its answers plus noise, so ranks of every size occur. *Evaluation*
is ranks in every pool, every measure per query, the 132 rows, the language bias and the sums per
group; `xir evaluate` also resamples the robustness of pairs and writes files. pytrec_eval gets the
full ranking of a sample of queries over the pool of all languages as it wants it, a dictionary of
scores; its time for all queries is the sample's times queries / sample, and covers one of twelve
pools and no bias measure. *Encoding* compares `xir_lib.encoders.open.encode` with
`SentenceTransformer.encode` and its defaults on passages of the task, in turns; both normalise;
beside it the products of the encoder's linear layers and nothing else. Prints JSON; the bounds of
the project (3 x the product, 2 x the encoding, cosine .999) are in it.
"""

import argparse
import json
import os
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

ENCODER = "bundled:multilingual-e5-small"
DIM, NOISE, REPEATS = 384, 2.0, 3


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def evaluation(sample: int) -> dict[str, Any]:
    import numpy as np
    import pytrec_eval

    from xir_lib.data import lareqa
    from xir_lib.metrics import bias
    from xir_lib.metrics import measures as metrics
    from xir_lib.metrics.ranks import relevant_ranks
    from xir_lib.metrics.scores import vector_blocks

    task = lareqa.load_task("xquad-r")
    rng = np.random.default_rng(0)

    def unit(x: Any) -> Any:
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    judged = task.judged()
    query_index, doc_index = judged.query_rows, judged.doc_rows
    docs = unit(rng.normal(size=(task.passages.num_rows, DIM)))
    first = doc_index[np.unique(query_index, return_index=True)[1]]
    queries = unit(docs[first] + NOISE * unit(rng.normal(size=(task.queries.num_rows, DIM))))
    frame = task.queries.to_pandas()
    doc_ids = task.passages["doc_id"].to_pylist()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def product() -> None:
        for start in range(0, len(queries), 512):
            queries[start : start + 512] @ docs.T

    def everything() -> Any:
        judged = replace(task).judged()  # made anew
        ranks = relevant_ranks(vector_blocks(queries, docs, judged), judged, top=10)
        per_query = metrics.score_settings(ranks, frame, task.languages, metrics.MEASURES)
        rows = metrics.cells(per_query)
        card = bias.bias_card(ranks, frame, task.languages)
        full = metrics.stack([per_query, bias.rank_distance(ranks, frame)])
        return per_query, rows, card, metrics.group_sums(full), metrics.micro(per_query)

    times: dict[str, list[float]] = {"product": [], "evaluation": []}
    for _ in range(REPEATS):
        times["product"].append(timed(product)[0])
        seconds, found = timed(everything)
        times["evaluation"].append(seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    per_query, rows = found[:2]
    pool = per_query[(per_query["pool"] == metrics.ALL) & (per_query["measure"] == "mAP")]
    ours = dict(zip(pool["query_id"], pool["value"], strict=True))

    chosen = rng.choice(len(queries), sample, replace=False)
    names = frame["query_id"].to_numpy()
    qrels: dict[str, dict[str, int]] = {}
    for query, doc in zip(query_index, doc_index, strict=True):
        qrels.setdefault(names[query], {})[doc_ids[doc]] = 1

    def oracle() -> Any:
        run = {
            names[i]: dict(zip(doc_ids, row, strict=True))
            for i, row in zip(chosen, (queries[chosen] @ docs.T).tolist(), strict=True)
        }
        evaluator = pytrec_eval.RelevanceEvaluator(
            {names[i]: qrels[names[i]] for i in chosen}, {"map", "ndcg_cut", "recall"}
        )
        return evaluator.evaluate(run)

    seconds, values = timed(oracle)
    extrapolated = seconds * len(queries) / sample
    ratios = [b / a for a, b in zip(times["product"], times["evaluation"], strict=True)]
    return {
        "queries": len(queries),
        "passages": len(docs),
        "seconds": times,
        "evaluation_over_product": {"median": median(ratios), "each": ratios, "bound": 3.0},
        "rows": int(rows.groupby(["setting", "query_lang", "pool"], observed=True).ngroups),
        "measures": sorted(map(str, rows["measure"].unique())),
        "pytrec_eval": {
            "sample": sample,
            "seconds": seconds,
            "extrapolated_seconds": extrapolated,
            "over_evaluation": extrapolated / median(times["evaluation"]),
            "largest_difference_of_mAP": max(
                abs(ours[names[i]] - values[names[i]]["map"]) for i in chosen
            ),
        },
        "rss_mb": {"vectors_and_libraries": round(before), "peak": round(peak), "bound": 1500},
    }


def encoding(texts: int, threads: int) -> dict[str, Any]:
    import numpy as np

    from xir_lib.data import lareqa
    from xir_lib.encoders.encode import encode
    from xir_lib.encoders.open import open_encoder
    from xir_lib.encoders.precision import choose
    from xir_lib.record import environment

    column = lareqa.load_task("xquad-r").passages["text"]
    chosen = np.random.default_rng(0).choice(len(column), texts, replace=False)
    wanted = [column[int(row)].as_py() for row in chosen]
    model = open_encoder(ENCODER)

    def plain() -> Any:
        return model.encode(
            wanted, prompt="passage: ", normalize_embeddings=True, show_progress_bar=False
        )

    def ours() -> Any:
        return encode(model, wanted, prompt="passage: ")

    encode(model, wanted[:32], prompt="passage: ")
    times: dict[str, list[float]] = {"SentenceTransformer.encode": [], "xir_lib": []}
    for _ in range(REPEATS):
        seconds, expected = timed(plain)
        times["SentenceTransformer.encode"].append(seconds)
        seconds, found = timed(ours)
        times["xir_lib"].append(seconds)
    bound = min(products_alone(model, wanted) for _ in range(REPEATS))
    ratios = [a / b for a, b in zip(*times.values(), strict=True)]
    return {
        "texts": texts,
        "threads": threads,
        "seconds": times,
        "speed_over_defaults": {"median": median(ratios), "each": ratios, "target": 2.0},
        "linear_layers_alone": {
            "seconds": bound,
            "speed_over_defaults": median(times["SentenceTransformer.encode"]) / bound,
        },
        "smallest_cosine": float((expected * found).sum(axis=1).min()),
        "environment": environment(*choose("auto", model)),
    }


def products_alone(model: Any, texts: list[str]) -> float:
    """Return the seconds of the encoder's linear layers on these texts, without padding and without
    anything between them.

    What is left of an encoding if attention, normalisation, activations and tokens cost nothing.
    1,024 rows at a time and one batch per thread, as `encode` does it.
    """
    from concurrent.futures import ThreadPoolExecutor

    import torch

    tokens = int(model.preprocess(texts, prompt="passage: ")["attention_mask"].sum())
    weights = [
        m.weight.detach().T
        for m in model[0].model.encoder.modules()
        if isinstance(m, torch.nn.Linear)
    ]
    threads = torch.get_num_threads()
    rows = torch.randn(1024, max(w.shape[0] for w in weights))

    def batch(n: int) -> None:
        with torch.inference_mode():
            for weight in weights:
                torch.mm(rows[:n, : weight.shape[0]], weight)

    sizes = [min(1024, tokens - start) for start in range(0, tokens, 1024)]
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        seconds = timed(lambda: list(pool.map(batch, sizes)))[0]
    torch.set_num_threads(threads)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--texts", type=int, default=600)
    parser.add_argument("--sample", type=int, default=200)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(options.threads)
    judged = evaluation(options.sample)  # first: torch would count towards its memory
    import torch

    torch.set_num_threads(options.threads)
    encoded = encoding(options.texts, options.threads)
    machine = encoded.pop("environment")
    result = {
        "threads": options.threads,
        "load_average": os.getloadavg(),
        "evaluation": judged,
        "encoding": encoded,
        "environment": machine,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
