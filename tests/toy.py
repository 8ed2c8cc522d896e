"""A separable toy: ids are letters, languages are suffixes; questions and passages of an id share
its letters.
"""

from typing import Any

import pyarrow as pa

from xir_lib.data.records import (
    PAIR_SCHEMA,
    PASSAGE_SCHEMA,
    QREL_SCHEMA,
    QUERY_SCHEMA,
    PairTable,
    RetrievalTask,
)

LANGS = {"xx": "n", "yy": "o", "zz": "p"}
IDS = [f"{a} {b}" for a in "abcdefgh" for b in "ijklm"]  # 40 ids of two letters

# of a training that learns the toy in a second
SETTINGS: dict[str, Any] = {
    "strategy": "hybrid-0.5",
    "seed": 1,
    "steps": 40,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "temperature": 0.1,
    "max_seq_length": 16,
}


def toy_pairs(ids: list[str] = IDS) -> PairTable:
    rows = [
        {
            "pair_id": name.replace(" ", ""),
            "lang": lang,
            "query": f"{name} {letter}",
            "passage_id": name,
            "passage": f"{letter} {name} {name}",
            "group": name[0],
        }
        for name in ids
        for lang, letter in LANGS.items()
    ]
    return PairTable(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA))


def toy_task(name: str = "toy", ids: list[str] = IDS[::2]) -> RetrievalTask:
    rows = toy_pairs(ids).table.to_pylist()
    queries = [
        {
            "query_id": f"{r['pair_id']}-{r['lang']}",
            **{key: r[key] for key in ("pair_id", "lang", "group")},
            "text": r["query"],
        }
        for r in rows
    ]
    passages = [
        {"doc_id": f"{r['pair_id']}-{r['lang']}", "lang": r["lang"], "text": r["passage"]}
        for r in rows
    ]
    qrels = [
        {"query_id": q["query_id"], "doc_id": f"{q['pair_id']}-{lang}", "relevance": 1}
        for q in queries
        for lang in LANGS
    ]
    return RetrievalTask(
        name,
        pa.Table.from_pylist(queries, schema=QUERY_SCHEMA),
        pa.Table.from_pylist(passages, schema=PASSAGE_SCHEMA),
        pa.Table.from_pylist(qrels, schema=QREL_SCHEMA),
    )
