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
