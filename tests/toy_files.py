"""Files in the layouts of BEIR and SQuAD, small enough to be worked out by hand."""

import json
from pathlib import Path
from typing import Any

from toy import toy_task

Rows = list[dict[str, Any]]


def beir_parts() -> tuple[Rows, Rows, list[str]]:
    """The toy task in the words of a BEIR folder."""
    task = toy_task()
    passages = task.passages.to_pylist()
    corpus = [{"_id": row["doc_id"], "lang": row["lang"], "text": row["text"]} for row in passages]
    queries = [{"_id": row.pop("query_id"), **row} for row in task.queries.to_pylist()]
    judged = [f"{row['query_id']}\t{row['doc_id']}\t1" for row in task.qrels.to_pylist()]
    return corpus, queries, ["query-id\tcorpus-id\tscore", *judged]


def write_beir(folder: Path, corpus: Rows, queries: Rows, qrels: list[str]) -> Path:
    (folder / "qrels").mkdir(parents=True)
    for name, entries in (("corpus", corpus), ("queries", queries)):
        lines = "".join(json.dumps(entry) + "\n" for entry in entries)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text("\n".join(qrels) + "\n", encoding="utf-8")
    return folder


def paragraph(
    context: str, breaks: list[list[int]], *questions: tuple[str, str, int], sentences: Any = None
) -> dict[str, Any]:
    """One of LAReQA's: questions are (id, text, start of the answer)."""
    made = [context[start:end] for start, end in breaks] if sentences is None else sentences
    qas = [
        {"id": key, "question": text, "answers": [{"text": "", "answer_start": start}]}
        for key, text, start in questions
    ]
    return {"context": context, "sentence_breaks": breaks, "sentences": made, "qas": qas}


def write_squad(path: Path, *articles: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = [{"title": f"title {n}", "paragraphs": each} for n, each in enumerate(articles)]
    path.write_text(json.dumps({"data": data}), encoding="utf-8")
