"""A retrieval task out of parallel rows: a question is answered in every language of its id."""

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from xir_lib.data.records import (
    PARAGRAPH,
    PASSAGE_SCHEMA,
    QREL_SCHEMA,
    QUERY_SCHEMA,
    RetrievalTask,
)
from xir_lib.data.rows import table_of


def task_from_rows(
    name: str, rows: Sequence[Mapping[str, str]], passages: Iterable[tuple[str, str, str]]
) -> RetrievalTask:
    """Return the task that asks the query of every row.

    Relevant are the passages of its id in *all* rows, its own language included.

    Args:
        name: of the task.
        rows: the pairs, each with a query and a passage, as in `PAIR_SCHEMA`; `passage_id` names
            one of `passages`. A `paragraph` in them is kept. `query_id` is `{pair_id}-{lang}`.
        passages: the whole pool as (doc_id, lang, text).

    >>> row = {"pair_id": "1", "group": "owls"}
    >>> german = {**row, "lang": "de", "query": "Wer?", "passage_id": "1-de"}
    >>> swahili = {**row, "lang": "sw", "query": "Nani?", "passage_id": "1-sw"}
    >>> pool = [("1-de", "de", "Eulen."), ("1-sw", "sw", "Bundi."), ("2-sw", "sw", "Popo.")]
    >>> task = task_from_rows("owls", [german, swahili], pool)
    >>> task.qrels["doc_id"].to_pylist()
    ['1-de', '1-sw', '1-de', '1-sw']
    """
    answers: dict[str, list[str]] = {}
    for row in rows:
        answers.setdefault(row["pair_id"], []).append(row["passage_id"])
    ids = [f"{row['pair_id']}-{row['lang']}" for row in rows]
    finer = bool(rows) and PARAGRAPH.name in rows[0]
    schema: pa.Schema = QUERY_SCHEMA.append(PARAGRAPH) if finer else QUERY_SCHEMA
    columns = ["pair_id", "lang", "query", "group", *([PARAGRAPH.name] if finer else [])]
    return RetrievalTask(
        name,
        table_of(
            ([key, *map(row.__getitem__, columns)] for key, row in zip(ids, rows, strict=True)),
            schema,
        ),
        table_of(passages, PASSAGE_SCHEMA),
        table_of(
            (
                (key, doc_id, 1)
                for key, row in zip(ids, rows, strict=True)
                for doc_id in answers[row["pair_id"]]
            ),
            QREL_SCHEMA,
        ),
    )
