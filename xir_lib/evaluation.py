"""One evaluation: a model and a task in, exact per-query values and language bias out.

Section 3 of arXiv 2408.10536: mAP over the full ranking, R@1 and R@10 in the monolingual, cross-lingual and
multilingual setting, and the rank distance of the parallel answers. Knows no particular data set; embeddings
are kept by content, so a rival on the same model, or a second task's means, costs no second encoding.
"""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from xir_lib import bias, metrics, retrieval, rivals
from xir_lib.corpora.records import RetrievalTask
from xir_lib.errors import InputError
from xir_lib.paths import atomic_path
from xir_lib.training import environment, write_json

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

log = logging.getLogger(__name__)
RIVALS = ("none", "centring")


class Embeddings(NamedTuple):
    """The vectors of a task under one model: unit rows, (n, dim) float32, and the rows' languages."""

    queries: np.ndarray
    query_langs: np.ndarray
    passages: np.ndarray
    passage_langs: np.ndarray


class Encoder:
    """An open model with its prefixes and, if `cache` is given, a folder of embeddings keyed by content.

    `name` is what `open_encoder` takes; `untrained:NAME` is that architecture with freshly drawn weights (seed 0).
    """

    def __init__(self, name: str, *, cache: Path | None = None) -> None:
        from xir_lib.encoders import computes_in_bfloat16, open_encoder, prompts_of, untrained_copy

        self.name = name
        base = name.removeprefix("untrained:")
        self.model: SentenceTransformer = open_encoder(base)
        if base != name:
            self.model = untrained_copy(self.model, seed=0)
        self.prompts = prompts_of(self.model, base)
        self.cache = cache
        self.precision: Literal["bfloat16", "float32"] = (
            "bfloat16" if computes_in_bfloat16(self.model.device.type) else "float32"
        )
        self.fingerprint = _fingerprint(self.model)

    def encode(self, texts: list[str], prompt: str, progress: str) -> np.ndarray:
        """Return the unit vectors of `texts`, (n, dim) float32, from the cache if they are there."""
        from xir_lib.encoders import encode

        if self.cache is None:
            return encode(self.model, texts, prompt=prompt, precision=self.precision, progress=progress)
        digest = hashlib.sha256(f"{self.fingerprint}|{prompt}|{self.model.max_seq_length}|{self.precision}".encode())
        for text in texts:
            digest.update(b"\0" + text.encode())
        path = self.cache / f"{digest.hexdigest()[:24]}.npy"
        if path.exists():
            return np.load(path, allow_pickle=False)
        vectors = encode(self.model, texts, prompt=prompt, precision=self.precision, progress=progress)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, vectors)
        return vectors

    def encode_table(self, table: pa.Table, prompt: str, name: str) -> np.ndarray:
        """Return the vectors of a table's `text` column, in its order; one cache entry per language."""
        langs = table["lang"].to_numpy(zero_copy_only=False)
        vectors = np.empty((table.num_rows, self.model.get_embedding_dimension() or 0), np.float32)
        for lang in np.unique(langs):
            rows = np.flatnonzero(langs == lang)
            vectors[rows] = self.encode(table["text"].take(rows).to_pylist(), prompt, f"{name} {lang}")
        return vectors

    def encode_task(self, task: RetrievalTask) -> Embeddings:
        """Return the embeddings of all queries and passages of a task."""
        return Embeddings(
            self.encode_table(task.queries, self.prompts[0], f"{task.name} queries"),
            task.queries["lang"].to_numpy(zero_copy_only=False),
            self.encode_table(task.passages, self.prompts[1], f"{task.name} passages"),
            task.passages["lang"].to_numpy(zero_copy_only=False),
        )


def evaluate(
    encoder: Encoder,
    task: RetrievalTask,
    out: Path,
    *,
    rival: str = "none",
    fit_on: Sequence[RetrievalTask] = (),
    fit_texts: int | None = None,
    trec_run: int = 0,
    config: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Rank every query of `task` and write `metrics.json`, `per_query.parquet` and `group_sums.parquet` to `out`.

    `rival="centring"` subtracts language means first, estimated on the texts of `fit_on`: of these tasks the
    first that has a language gives its means, one for queries and one for passages, from at most `fit_texts` texts each
    (the first in the order of a hash of their ids). `trec_run=k` adds the
    top k of the multilingual pool as `run.trec`. Returns what `metrics.json` holds.
    """
    if rival not in RIVALS:
        raise InputError(f"unknown rival {rival!r}; use {' or '.join(RIVALS)}")
    check_fit(task, rival, fit_on)
    out = Path(out)
    for name in ("metrics.json", "run.trec"):
        (out / name).unlink(missing_ok=True)  # so that a break never leaves one model's numbers beside another's
    vectors = encoder.encode_task(task)
    if rival == "centring":
        vectors, fitted = _centre(encoder, task, vectors, fit_on, fit_texts)
    queries = task.queries.to_pandas()
    doc_langs = np.searchsorted(task.languages, vectors.passage_langs)
    ties = retrieval.tie_order(task.passages["doc_id"].to_pylist())
    ranks = retrieval.relevant_ranks(vectors.queries, vectors.passages, doc_langs, *_relevant(task), ties)
    per_query = metrics.score_settings(ranks, queries, task.languages)
    result = {
        "task": task.name,
        "model": encoder.name,
        "settings": metrics.macro(per_query),
        "recall_ceilings": metrics.recall_ceilings(ranks, queries),
        "bias": {
            "rank_distance": bias.rank_distance_summary(ranks, queries),
            "same_language_preference": bias.same_language_preference(ranks, queries, task.languages),
        },
        "counts": {"queries": task.queries.num_rows, "passages": task.passages.num_rows, "languages": task.languages},
        "config": {
            "rival": rival,
            "rival_fit": fitted if rival == "centring" else None,
            "prompts": list(encoder.prompts),
            "max_seq_length": encoder.model.max_seq_length,
            "precision": encoder.precision,
            "normalised": True,
            "weights_sha256": encoder.fingerprint,
            "environment": environment(),
            **(config or {}),
        },
    }
    per_query = pd.concat([per_query, bias.rank_distance(ranks, queries)], ignore_index=True)
    for name, table in (("per_query", per_query), ("group_sums", metrics.group_sums(per_query))):
        with atomic_path(out / f"{name}.parquet") as temporary:
            table.to_parquet(temporary, index=False)
    if trec_run:
        write_trec_run(out / "run.trec", task, vectors, trec_run)
    write_json(out / "metrics.json", result)  # last: its presence says that the evaluation is complete
    return result


def check_fit(task: RetrievalTask, rival: str, fit_on: Sequence[RetrievalTask]) -> None:
    """Refuse means that would be fitted on the queries they are scored with, or that a language would lack."""
    if rival == "none":
        return
    known: set[str] = set()
    for source in fit_on:
        if (
            source.name == task.name
            or pc.any(pc.is_in(source.queries["query_id"], task.queries["query_id"].combine_chunks())).as_py()
        ):
            raise InputError(f"means for {task.name} cannot be fitted on the queries that are scored; name another task")
        known |= set(source.languages)
    if missing := sorted(set(task.languages) - known):
        raise InputError(
            f"no text for the means of {', '.join(missing)}; name a further task to fit on, atlas-qa-train perhaps"
        )


def write_trec_run(path: Path, task: RetrievalTask, vectors: Embeddings, depth: int) -> None:
    """Write the first `depth` passages of the pool of all languages per query in TREC's six columns, atomically."""
    doc_ids, query_ids = task.passages["doc_id"].to_pylist(), task.queries["query_id"].to_pylist()
    rows, scores = retrieval.top_k(vectors.queries, vectors.passages, doc_ids, depth)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for query_id, row, score in zip(query_ids, rows, scores, strict=True):
            file.writelines(
                f"{query_id} Q0 {doc_ids[doc]} {rank} {value:.9g} xir\n"
                for rank, (doc, value) in enumerate(zip(row, score, strict=True), 1)
            )


def _relevant(task: RetrievalTask) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of query and passage of every positive judgement."""
    positive = task.qrels.filter(pc.greater(task.qrels["relevance"], 0))
    query = pc.index_in(positive["query_id"], task.queries["query_id"].combine_chunks())
    doc = pc.index_in(positive["doc_id"], task.passages["doc_id"].combine_chunks())
    return query.to_numpy().astype(np.int64), doc.to_numpy().astype(np.int64)


def _centre(
    encoder: Encoder, task: RetrievalTask, vectors: Embeddings, fit_on: Sequence[RetrievalTask], fit_texts: int | None
) -> tuple[Embeddings, dict[str, Any]]:
    """Centre queries and passages by language; return also which task gave each language's means, from how many texts."""
    query_means: dict[str, np.ndarray] = {}
    doc_means: dict[str, np.ndarray] = {}
    fitted: dict[str, Any] = {}
    for source in fit_on:
        wanted = sorted((set(task.languages) - set(fitted)) & set(source.languages))
        if not wanted:
            continue
        counts = {}
        for means, table, key, prompt in (
            (query_means, source.queries, "query_id", encoder.prompts[0]),
            (doc_means, source.passages, "doc_id", encoder.prompts[1]),
        ):
            sample = _sample(table, key, wanted, fit_texts)
            langs = sample["lang"].to_numpy(zero_copy_only=False)
            means.update(rivals.language_means(encoder.encode_table(sample, prompt, f"{source.name} {key[:-3]}"), langs))
            counts[key] = dict(zip(*np.unique(langs, return_counts=True), strict=True))
        for lang in wanted:
            fitted[lang] = {
                "task": source.name,
                "queries": int(counts["query_id"].get(lang, 0)),
                "passages": int(counts["doc_id"].get(lang, 0)),
            }
    centred = vectors._replace(
        queries=rivals.centre(vectors.queries, vectors.query_langs, query_means),
        passages=rivals.centre(vectors.passages, vectors.passage_langs, doc_means),
    )
    return centred, fitted


def _sample(table: pa.Table, key: str, languages: Sequence[str], limit: int | None) -> pa.Table:
    """Keep the rows of these languages, at most `limit` of each: those whose ids have the smallest hashes, in table order."""
    table = table.filter(pc.is_in(table["lang"], pa.array(languages, pa.string())))
    if limit is None:
        return table
    langs = table["lang"].to_numpy(zero_copy_only=False)
    digests = np.array([hashlib.sha256(value.encode()).hexdigest() for value in table[key].to_pylist()])
    chosen = [np.flatnonzero(langs == lang)[np.argsort(digests[langs == lang])[:limit]] for lang in languages]
    return table.take(np.sort(np.concatenate(chosen)))


def _fingerprint(model: "SentenceTransformer") -> str:
    """Return the sha256 of modules, weights and tokenizer: what the embeddings depend on besides text and prompt."""
    import torch

    digest = hashlib.sha256()
    modules: list[Any] = list(model.children())
    for module in modules:
        config: dict[str, Any] = getattr(module, "get_config_dict", dict)()
        digest.update(f"{type(module).__name__} {sorted(config.items())}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    tokenizer = getattr(model.tokenizer, "backend_tokenizer", None)
    digest.update(tokenizer.to_str().encode() if tokenizer else repr(model.tokenizer).encode())
    return digest.hexdigest()
