"""Not a speed: what it matters on MIRACL Yoruba how a passage's title and text are joined.

    XIR_DATA=... python tests/benchmarks/joins.py --out figures/miracl-yo/joins.json --passages 5000

The same passages, the judged ones and random others, each time joined by another mark, and without
titles; each minus the blank that `xir_lib.data.miracl` puts between them. A mark whose passages
have the pieces that the blank gives (XLM-R's vocabulary reads a line break as a blank) is counted,
not encoded.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from rounding import NAME, fewer_passages

from xir_lib.data import miracl
from xir_lib.data.records import RetrievalTask
from xir_lib.encoders.encoder import Encoder
from xir_lib.evaluation.evaluate import evaluate
from xir_lib.evaluation.systems import Dense
from xir_lib.record import environment, write_json
from xir_lib.study import miracl_tables

JOINS: dict[
    str, Callable[[miracl.Passage], str]
] = {  # the first is what the others are held against, and called `none`
    "none": lambda passage: passage.full_text,
    "line-break": lambda passage: f"{passage.title}\n{passage.text}".strip(),
    "full-stop": lambda passage: f"{passage.title}. {passage.text}".strip(),
    "colon": lambda passage: f"{passage.title}: {passage.text}".strip(),
    "untitled": lambda passage: passage.text.strip() or passage.title,
}


def joined(
    task: RetrievalTask, passages: dict[str, miracl.Passage], join: Callable[[miracl.Passage], str]
) -> RetrievalTask:
    """Return the task with the passages' texts joined anew."""
    texts = [join(passages[doc_id]) for doc_id in task.passages["doc_id"].to_pylist()]
    where = task.passages.schema.get_field_index("text")
    column = pa.chunked_array([pa.array(texts, task.passages.schema.field(where).type)])
    return RetrievalTask(
        task.name, task.queries, task.passages.set_column(where, "text", column), task.qrels
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--passages", type=int, default=5_000)
    given = parser.parse_args()
    task = fewer_passages(miracl.load_task("yo"), given.passages, seed=0)
    kept = set(task.passages["doc_id"].to_pylist())
    corpus = miracl.stream_passages(miracl.required_files("yo")[:-2])
    passages = {passage.doc_id: passage for passage in corpus if passage.doc_id in kept}
    tasks = {name: joined(task, passages, join) for name, join in JOINS.items()}
    assert tasks["none"].passages.equals(task.passages)
    encoder = Encoder(f"bundled:{NAME}")
    pieces = {
        name: encoder.model.tokenizer(
            one.passages["text"].to_pylist(), truncation=True, max_length=512
        )["input_ids"]
        for name, one in tasks.items()
    }
    differ = {
        name: int(
            np.sum([mine != plain for mine, plain in zip(found, pieces["none"], strict=True)])
        )
        for name, found in pieces.items()
    }
    told: dict[str, Any] = {
        "encoder": f"bundled:{NAME}",
        "task": task.name,
        "passages": task.passages.num_rows,
    }
    told |= {"environment": environment(), "passages whose pieces differ from the blank's": differ}
    with tempfile.TemporaryDirectory() as temporary:
        for name, one in tasks.items():
            if name == "none" or differ[name]:
                evaluate(Dense(encoder, one), Path(temporary, "yo", name))
        table = miracl_tables.system_table(miracl_tables.read_topics(Path(temporary, "yo")))
    rows = table.astype(object).where(pd.notna(table), None).to_dict("records")
    write_json(given.out, told | {"systems": rows})


if __name__ == "__main__":
    main()
