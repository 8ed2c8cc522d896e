"""What a run says about pairs that it does not train on: the loss of fixed batches, and a small
ranking with its bias.

Both are cheap and depend on the pairs and the model alone, so that runs can be compared. They watch
a training; the numbers of the study come from `evaluation`. Knows no training loop.
"""

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from xir_lib.data.records import (
    PASSAGE_SCHEMA,
    QREL_SCHEMA,
    QUERY_SCHEMA,
    PairTable,
    RetrievalTask,
)
from xir_lib.encoders.precision import Asked
from xir_lib.errors import InputError
from xir_lib.metrics import bias
from xir_lib.metrics import measures as metrics
from xir_lib.metrics.ranks import RelevantRanks, relevant_ranks
from xir_lib.metrics.scores import vector_blocks
from xir_lib.samplers.strategies import PairIndex, Strategy, StrategyBatchSampler
from xir_lib.training.settings import TrainSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

RANKED_IDS, RANKED_ROWS = 100, 160  # (id, language) rows: with 8 languages 20 ids
BATCH = 16  # pairs at most; held-out sets are small
BIAS = {
    "rank_distance": "rank distance",
    "max_at_r": "Max@R, normalised",
    "complete@20": "Complete@20",
    "same_language_preference": "own language first",
}
FIGURES = ("mean", "ideal", "random", "same_language_first")  # of each measure of bias


def held_out_batches(
    pairs: PairTable, batch_size: int = BATCH, batches: int = 8
) -> dict[str, list[list[tuple[int, int]]]]:
    """Return the fixed batches of (query_row, passage_row) that held-out losses are measured on, by
    kind.

    They depend on the pairs alone (seed 0). Pairs of one language have no cross-language batches.
    """
    index = PairIndex.from_table(pairs)
    kinds = (Strategy.X_X_MONO, Strategy.X_Y)[: len(pairs.languages)]
    return {
        kind.value: list(
            StrategyBatchSampler(
                index, strategy=kind, batch_size=batch_size, seed=0, num_batches=batches
            )
        )
        for kind in kinds
    }


def held_out_loss(
    model: "SentenceTransformer",
    pairs: PairTable,
    settings: TrainSettings,
    prompts: tuple[str, str],
    batches: int = 8,
) -> dict[str, float]:
    """Return the mean InfoNCE loss on fixed held-out batches, per kind of batch.

    Temperature and precision are those of the settings, the batch is at most 16 pairs.
    """
    from xir_lib.encoders.encode import encode

    losses, precision = {}, settings.precision
    size = min(BATCH, settings.batch_size)
    for kind, drawn in held_out_batches(pairs, size, batches).items():
        rows = np.array(drawn)  # (batches, batch, 2)
        shape = (*rows.shape[:2], -1)
        asked = pairs.table["query"].take(rows[..., 0].ravel())
        queries = encode(model, asked, prompt=prompts[0], role="query", precision=precision)
        texts = pairs.table["passage"].take(rows[..., 1].ravel())
        passages = encode(model, texts, prompt=prompts[1], precision=precision)
        logits = np.einsum("bqd,bpd->bqp", queries.reshape(shape), passages.reshape(shape))
        logits = logits / settings.temperature
        logits -= logits.max(axis=2, keepdims=True)
        own = np.diagonal(logits, axis1=1, axis2=2)
        losses[kind] = round(float((np.log(np.exp(logits).sum(axis=2)) - own).mean()), 6)
    return losses


def held_out_task(pairs: PairTable, name: str = "held-out") -> RetrievalTask:
    """Return pairs as a retrieval task: a query's relevant passages are those of its id, in every
    language.

    A passage that several ids share, or that has the text of another one in its language, is one
    candidate. Queries of ids without any passage are left out; if no query is left `InputError` is
    raised.
    """
    index, table = PairIndex.from_table(pairs), pairs.table
    there = index.passage >= 0  # (ids, languages)
    query_id, query_lang = np.nonzero(index.has_query & there.any(axis=1, keepdims=True))
    passage_id, passage_lang = np.nonzero(there)
    if not len(query_id):
        raise InputError(
            f"none of {len(there)} held-out ids has a query and a passage; hold out others"
        )
    # 1. A candidate is a passage in a language; `document` says which one each (id, language) has.
    passage = index.passage[passage_id, passage_lang].astype(np.int64)
    key = passage * len(index.languages) + passage_lang
    _, first, document = np.unique(key, return_index=True, return_inverse=True)
    # 2. Queries and candidates are named by id and row.
    ids = table["pair_id"].to_numpy(zero_copy_only=False)
    query_rows = index.row[query_id, query_lang]
    doc_rows = index.row[passage_id, passage_lang][first]
    query_names, doc_names = (
        np.array([f"{ids[row]}-{row}" for row in rows]) for rows in (query_rows, doc_rows)
    )
    queries = table.take(query_rows).rename_columns({"query": "text"})
    docs = table.take(doc_rows).select(["lang", "passage"]).rename_columns(["lang", "text"])
    # 3. Whatever has an id's passage answers that id's queries.
    judged = pd.DataFrame({"id": query_id, "query_id": query_names}).merge(
        pd.DataFrame({"id": passage_id, "doc_id": doc_names[document], "relevance": 1}), on="id"
    )
    return RetrievalTask(
        name,
        queries.append_column("query_id", [query_names])
        .select(QUERY_SCHEMA.names)
        .cast(QUERY_SCHEMA),
        docs.add_column(0, "doc_id", [doc_names]).cast(PASSAGE_SCHEMA),
        pa.Table.from_pandas(judged[QREL_SCHEMA.names], QREL_SCHEMA, preserve_index=False),
    )


def held_out_ranking(
    model: "SentenceTransformer",
    pairs: PairTable,
    prompts: tuple[str, str],
    precision: Asked = "auto",
) -> dict[str, Any]:
    """Rank the held-out queries in the pool of all held-out passages, all languages together.

    At most 100 ids and about 160 rows take part, those with the smallest hashes, to keep it cheap;
    the task is that of `held_out_task`. Returns counts (ids, queries, passages), the macro means
    `multilingual mAP` and `monolingual mAP` (None if no query has a passage in its language) and
    `bias`, the measures `BIAS` with their bounds (without those that the pairs do not allow). The
    pool is small, so the numbers are higher than on a whole task.
    """
    by_hash = sorted(pairs.pair_ids, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    chosen = pairs.select(pair_ids=by_hash[: min(RANKED_IDS, RANKED_ROWS // len(pairs.languages))])
    task = held_out_task(chosen)
    ranks, queries = _ranks(model, task, prompts, precision), task.queries.to_pandas()
    means = metrics.macro(metrics.score_settings(ranks, queries, task.languages, measures=("mAP",)))
    card = bias.bias_card(ranks, queries, task.languages, complete_at=(20,))
    return {
        "ids": len(chosen.pair_ids),
        "queries": task.queries.num_rows,
        "passages": task.passages.num_rows,
        **{
            f"{setting} mAP": round(means[setting]["mAP"], 6) if setting in means else None
            for setting in ("multilingual", "monolingual")
        },
        "bias": {
            name: {figure: round(card[measure][figure], 4) for figure in FIGURES}
            for measure, name in BIAS.items()
            if measure in card
        },
    }


def _ranks(
    model: "SentenceTransformer", task: RetrievalTask, prompts: tuple[str, str], precision: Asked
) -> RelevantRanks:
    """Encode the task's texts and rank every relevant passage among all."""
    from xir_lib.encoders.encode import encode

    judged, queries, passages = task.judged(), task.queries["text"], task.passages["text"]
    vectors = (
        encode(model, queries, prompt=prompts[0], role="query", precision=precision),
        encode(model, passages, prompt=prompts[1], precision=precision),
    )
    return relevant_ranks(vector_blocks(*vectors, judged), judged)
