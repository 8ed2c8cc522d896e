"""What a run says about pairs that it does not train on: the loss of fixed batches, and a small ranking with its bias.

Both are cheap and depend on the pairs and the model alone, so that runs can be compared. They watch a training; the
numbers of the study come from `evaluation`. Knows no training loop.
"""

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from xir_lib import bias, metrics, retrieval
from xir_lib.corpora.records import PairTable
from xir_lib.errors import InputError
from xir_lib.samplers import PairIndex, Strategy, StrategyBatchSampler
from xir_lib.train_settings import TrainSettings

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
    model: "SentenceTransformer", pairs: PairTable, settings: TrainSettings, prompts: tuple[str, str], batches: int = 8
) -> dict[str, float]:
    """Return the mean InfoNCE loss on fixed held-out batches, per kind of batch, at the run's temperature.

    The batches depend on the pairs alone (seed 0), so runs can be compared; the batch is at most 16 pairs, as
    held-out sets are small. Pairs of one language have no cross-language batches.
    """
    from xir_lib.encoders import encode

    index = PairIndex.from_table(pairs)
    losses = {}
    for strategy in (Strategy.X_X_MONO, Strategy.X_Y)[: len(pairs.languages)]:
        sampler = StrategyBatchSampler(
            index, strategy=strategy, batch_size=min(16, settings.batch_size), alpha=0.5, seed=0, num_batches=batches
        )
        rows = np.array(list(sampler))  # (batches, batch, 2)
        queries = encode(model, pairs.table["query"].take(rows[..., 0].ravel()), prompt=prompts[0], role="query")
        passages = encode(model, pairs.table["passage"].take(rows[..., 1].ravel()), prompt=prompts[1])
        shape = (*rows.shape[:2], -1)
        logits = np.einsum("bqd,bpd->bqp", queries.reshape(shape), passages.reshape(shape)) / settings.temperature
        logits -= logits.max(axis=2, keepdims=True)
        own = np.diagonal(logits, axis1=1, axis2=2)
        losses[strategy.value] = round(float((np.log(np.exp(logits).sum(axis=2)) - own).mean()), 6)
    return losses


def held_out_ranking(model: "SentenceTransformer", pairs: PairTable, prompts: tuple[str, str]) -> dict[str, Any]:
    """Rank the held-out queries in the pool of all held-out passages, all languages together.

    At most 100 ids and about 160 rows take part, those with the smallest hashes, to keep it cheap. Relevant are the
    passages of the query's id in every language. Returns counts (ids, queries, passages), the macro means `multilingual
    mAP` and `monolingual mAP` (None if no query has a passage in its language) and `bias`, the measures `BIAS` with their
    bounds (without those that the pairs do not allow). The pool is small, so the numbers are higher than on a whole task.
    """
    from xir_lib.encoders import encode

    by_hash = sorted(pairs.pair_ids, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    table = pairs.select(pair_ids=by_hash[: min(RANKED_IDS, RANKED_ROWS // len(pairs.languages))]).table
    index = PairIndex.from_table(PairTable(table))
    there = index.passage >= 0  # (ids, languages)
    query_id, query_lang = np.nonzero(index.has_query & there.any(axis=1, keepdims=True))
    passage_id, passage_lang = np.nonzero(there)
    if not len(query_id):
        raise InputError(f"none of {len(there)} held-out ids has a query and a passage; hold out others")
    key = index.passage[passage_id, passage_lang].astype(np.int64) * len(index.languages) + passage_lang
    _, first, document = np.unique(key, return_index=True, return_inverse=True)  # a passage may serve several ids
    languages, doc_langs = np.unique(passage_lang[first], return_inverse=True)
    query_rows = index.row[query_id, query_lang]
    doc_rows = index.row[passage_id, passage_lang][first]
    judged_query, judged = np.nonzero(query_id[:, None] == passage_id[None, :])
    names = table["pair_id"].to_numpy(zero_copy_only=False)
    ranks = retrieval.relevant_ranks(
        encode(model, table["query"].take(query_rows), prompt=prompts[0], role="query"),
        encode(model, table["passage"].take(doc_rows), prompt=prompts[1]),
        doc_langs,
        judged_query,
        document[judged],
        retrieval.tie_order([f"{names[row]}-{row}" for row in doc_rows]),
    )
    queries = pd.DataFrame(
        {
            "query_id": [f"{names[row]}-{row}" for row in query_rows],
            "pair_id": names[query_rows],
            "group": table["group"].to_numpy(zero_copy_only=False)[query_rows],
            "lang": table["lang"].to_numpy(zero_copy_only=False)[query_rows],
        }
    )
    doc_languages = [index.languages[code] for code in languages]
    means = metrics.macro(metrics.score_settings(ranks, queries, doc_languages, measures=("mAP",)))
    card = bias.bias_card(ranks, queries, doc_languages, complete_at=(20,))
    return {
        "ids": len(there),
        "queries": len(query_rows),
        "passages": len(doc_rows),
        "multilingual mAP": round(means["multilingual"]["mAP"], 6),
        "monolingual mAP": round(means["monolingual"]["mAP"], 6) if "monolingual" in means else None,
        "bias": {
            name: {key: round(card[measure][key], 4) for key in ("mean", *BOUNDS)}
            for measure, name in BIAS.items()
            if measure in card
        },
    }
