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
from xir_lib.metrics.ranks import relevant_ranks
from xir_lib.metrics.scores import vector_blocks
from xir_lib.samplers.strategies import PairIndex, Strategy, StrategyBatchSampler
from xir_lib.training.settings import TrainSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

RANKED_IDS, RANKED_ROWS = 100, 160  # (id, language) rows: with 8 languages 20 ids
BIAS = {
    "rank_distance": "rank distance",
    "max_at_r": "Max@R, normalised",
    "complete@20": "Complete@20",
    "same_language_preference": "own language first",
}
BOUNDS = ("ideal", "random", "same_language_first")


def held_out_loss(
    model: "SentenceTransformer",
    pairs: PairTable,
    settings: TrainSettings,
    prompts: tuple[str, str],
    batches: int = 8,
) -> dict[str, float]:
    """Return the mean InfoNCE loss on fixed held-out batches, per kind of batch, at the run's
    temperature.

    The batches depend on the pairs alone (seed 0), so runs can be compared; the batch is at most 16
    pairs, as held-out sets are small, and the precision is that of the settings. Pairs of one
    language have no cross-language batches.
    """
    from xir_lib.encoders.encode import encode

    index = PairIndex.from_table(pairs)
    losses = {}
    for strategy in (Strategy.X_X_MONO, Strategy.X_Y)[: len(pairs.languages)]:
        sampler = StrategyBatchSampler(
            index,
            strategy=strategy,
            batch_size=min(16, settings.batch_size),
            alpha=0.5,
            seed=0,
            num_batches=batches,
        )
        rows = np.array(list(sampler))  # (batches, batch, 2)
        texts = pairs.table["query"].take(rows[..., 0].ravel())
        queries = encode(
            model, texts, prompt=prompts[0], role="query", precision=settings.precision
        )
        texts = pairs.table["passage"].take(rows[..., 1].ravel())
        passages = encode(model, texts, prompt=prompts[1], precision=settings.precision)
        shape = (*rows.shape[:2], -1)
        logits = (
            np.einsum("bqd,bpd->bqp", queries.reshape(shape), passages.reshape(shape))
            / settings.temperature
        )
        logits -= logits.max(axis=2, keepdims=True)
        own = np.diagonal(logits, axis1=1, axis2=2)
        losses[strategy.value] = round(float((np.log(np.exp(logits).sum(axis=2)) - own).mean()), 6)
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
    key = (
        index.passage[passage_id, passage_lang].astype(np.int64) * len(index.languages)
        + passage_lang
    )
    _, first, document = np.unique(key, return_index=True, return_inverse=True)
    query_rows = index.row[query_id, query_lang]
    asked = (
        table.select(["pair_id", "lang", "query", "group"])
        .take(query_rows)
        .rename_columns(["pair_id", "lang", "text", "group"])
    )
    doc_rows = index.row[passage_id, passage_lang][first]
    docs = table.select(["lang", "passage"]).take(doc_rows).rename_columns(["lang", "text"])
    names = table["pair_id"].to_numpy(zero_copy_only=False)
    query_names, doc_names = (
        np.array([f"{names[row]}-{row}" for row in rows]) for rows in (query_rows, doc_rows)
    )
    judged = pd.DataFrame({"id": query_id, "query_id": query_names}).merge(
        pd.DataFrame({"id": passage_id, "doc_id": doc_names[document]}), on="id"
    )
    return RetrievalTask(
        name,
        asked.add_column(0, "query_id", [query_names])
        .select(QUERY_SCHEMA.names)
        .cast(QUERY_SCHEMA),
        docs.add_column(0, "doc_id", [doc_names]).cast(PASSAGE_SCHEMA),
        pa.Table.from_pandas(
            judged.assign(relevance=1)[QREL_SCHEMA.names], QREL_SCHEMA, preserve_index=False
        ),
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
    from xir_lib.encoders.encode import encode

    by_hash = sorted(pairs.pair_ids, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    chosen = pairs.select(pair_ids=by_hash[: min(RANKED_IDS, RANKED_ROWS // len(pairs.languages))])
    task = held_out_task(chosen)
    judged = task.judged()
    vectors = (
        encode(model, task.queries["text"], prompt=prompts[0], role="query", precision=precision),
        encode(model, task.passages["text"], prompt=prompts[1], precision=precision),
    )
    ranks = relevant_ranks(vector_blocks(*vectors, judged), judged)
    queries = task.queries.to_pandas()
    means = metrics.macro(metrics.score_settings(ranks, queries, task.languages, measures=("mAP",)))
    card = bias.bias_card(ranks, queries, task.languages, complete_at=(20,))
    return {
        "ids": len(chosen.pair_ids),
        "queries": task.queries.num_rows,
        "passages": task.passages.num_rows,
        "multilingual mAP": round(means["multilingual"]["mAP"], 6),
        "monolingual mAP": (
            round(means["monolingual"]["mAP"], 6) if "monolingual" in means else None
        ),
        "bias": {
            name: {key: round(card[measure][key], 4) for key in ("mean", *BOUNDS)}
            for measure, name in BIAS.items()
            if measure in card
        },
    }
