"""Read the SQuAD-like JSON that XQuAD-R, MLQA-R and MLQA share, and say where a file is wrong.

Articles hold paragraphs, paragraphs hold a context and questions; the LAReQA files add sentence
spans to each paragraph (https://github.com/google-research-datasets/lareqa). Knows no language and
none of the record types.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xir_lib.errors import InputError


@dataclass(frozen=True, slots=True)
class Question:
    """One question; `sentence` is the position of the answering sentence, -1 where sentences were
    not asked for.
    """

    pair_id: str
    text: str
    sentence: int


@dataclass(frozen=True, slots=True)
class Paragraph:
    """One paragraph with its 0-based place in the file; `sentences` is empty where they were not
    asked for.
    """

    article: int
    number: int
    context: str
    sentences: list[str]
    questions: list[Question]


def read(path: Path, *, sentences: bool) -> Iterator[Paragraph]:
    """Yield the paragraphs of one file in order, with their sentences if asked for.

    A sentence is `context[start:end]` of its entry in `sentence_breaks`: the ready-made `sentences`
    field is off by one in a Turkish paragraph of XQuAD-R. A question's sentence is the first whose
    span holds the start of its first answer (start <= answer_start < end). Without `sentences`,
    answers are not looked at.
    """
    for a, article in enumerate(_field(_load(path), "data", list, f"{path}")):
        for p, paragraph in enumerate(_field(article, "paragraphs", list, f"{path}: article {a}")):
            where = f"{path}: article {a}, paragraph {p}"
            context = _field(paragraph, "context", str, where)
            spans = _spans(paragraph, context, where) if sentences else []
            questions = [
                Question(
                    _field(entry, "id", str, where),
                    _field(entry, "question", str, where),
                    _answering(entry, spans, where) if sentences else -1,
                )
                for entry in _field(paragraph, "qas", list, where)
            ]
            yield Paragraph(a, p, context, [context[start:end] for start, end in spans], questions)


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; `xir data get` downloads it") from error
    except (OSError, ValueError) as error:  # ValueError: neither JSON nor UTF-8
        raise InputError(
            f"{path} cannot be read as JSON ({error}); delete it and `xir data get` it again"
        ) from error


def _field(record: Any, key: str, kind: type, where: str) -> Any:
    value = record.get(key) if isinstance(record, dict) else None
    if not isinstance(value, kind):
        raise InputError(
            f"{where}: {key!r} is missing or not a {kind.__name__}; this is not the published file"
        )
    return value


def _spans(paragraph: Any, context: str, where: str) -> list[tuple[int, int]]:
    spans = _field(paragraph, "sentence_breaks", list, where)
    for span in spans:
        pair = (
            isinstance(span, list)
            and len(span) == 2
            and all(isinstance(value, int) for value in span)
        )
        if not pair or not 0 <= span[0] < span[1] <= len(context):
            raise InputError(
                f"{where}: sentence break {span!r} is no [start, end] within {len(context)}"
                " characters"
            )
    return [(start, end) for start, end in spans]


def _answering(entry: Any, spans: list[tuple[int, int]], where: str) -> int:
    where = f"{where}, question {entry['id']!r}"
    answers = _field(entry, "answers", list, where)
    begin = _field(answers[0] if answers else None, "answer_start", int, where)
    for position, (start, end) in enumerate(spans):
        if start <= begin < end:
            return position
    raise InputError(
        f"{where}: the answer starts at {begin}, which is in no sentence of the paragraph"
    )
