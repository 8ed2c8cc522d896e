"""Near-duplicates between training and test texts, on texts whose right answer is plain."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from xir_lib.data.overlap import near_ids, nearest, overlap
from xir_lib.data.records import (
    PAIR_SCHEMA,
    PASSAGE_SCHEMA,
    QREL_SCHEMA,
    QUERY_SCHEMA,
    PairTable,
    RetrievalTask,
)

LONG = "The river rises in the northern hills and reaches the sea after forty miles."


def pairs(*rows: tuple[str, str, str | None, str | None]) -> PairTable:
    full = [(i, lang, q, None if p is None else f"{i}-{lang}", p, i) for i, lang, q, p in rows]
    return PairTable(
        pa.Table.from_pylist(
            [dict(zip(PAIR_SCHEMA.names, row, strict=True)) for row in full], PAIR_SCHEMA
        )
    )


def task(
    queries: dict[str, tuple[str, str]],
    passages: dict[str, tuple[str, str]],
    qrels: dict[str, list[str]],
) -> RetrievalTask:
    asked = [(name, name.split("-")[0], lang, text, name) for name, (lang, text) in queries.items()]
    held = [(name, lang, text) for name, (lang, text) in passages.items()]
    judged = [(name, doc, 1) for name, docs in qrels.items() for doc in docs]
    tables = [
        pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)
        for schema, rows in ((QUERY_SCHEMA, asked), (PASSAGE_SCHEMA, held), (QREL_SCHEMA, judged))
    ]
    return RetrievalTask("toy", *tables)


TASK = task(
    {
        "q1": ("en", "Where does the river rise?"),
        "q2": ("en", "Who painted the ceiling of that chapel?"),
        "q3": ("sw", "Mto huo unaanzia wapi?"),
    },
    {
        "d1": ("en", LONG),
        "d2": ("en", "Michelangelo did, lying on his back."),
        "d3": ("sw", "Mto unaanzia milimani."),
    },
    {"q1": ["d1", "d3"], "q2": ["d2"], "q3": ["d1", "d3"]},
)


def test_nothing_in_common_is_nothing_near() -> None:
    found = overlap(
        pairs(("a", "en", "How old is the moon?", "Some four thousand million years.")), TASK
    )
    assert found == {
        **{
            "queries": 3,
            "compared": 3,
            "near_question": 0,
            "near_passage": 0,
            "inside_passage": 0,
            "touched": 0,
        },
        **{"ids": 1, "near_ids": 0},
    }


def test_a_question_asked_in_training_touches_its_translations_too() -> None:
    both = task(
        {
            "q-en": ("en", "Where does the river rise?"),
            "q-sw": ("sw", "Mto unaanzia wapi?"),
            "r-sw": ("sw", "Nani alichora?"),
        },
        {"d": ("sw", "Milimani.")},
        {"q-en": ["d"], "q-sw": ["d"], "r-sw": ["d"]},
    )
    found = overlap(pairs(("a", "en", "Where does the river rise?", None)), both)
    assert (found["near_question"], found["touched"], found["compared"]) == (
        2,
        2,
        2,
    )  # of r nothing was compared
    assert overlap(pairs(("a", "yo", "Where does the river rise?", LONG)), both)["compared"] == 0


def test_a_question_asked_in_training_is_sought_in_its_language_alone() -> None:
    found = overlap(
        pairs(("a", "en", "Where does the river rise?", "x"), ("b", "sw", "Nani?", None)), TASK
    )
    assert (found["near_question"], found["touched"], found["near_ids"], found["ids"]) == (
        1,
        1,
        1,
        2,
    )
    assert near_ids(
        pairs(("a", "en", "Where does the river rise?", "x"), ("b", "sw", "Nani?", LONG)), TASK
    ) == {"a"}
    assert near_ids(pairs(("a", "en", "Who?", LONG), ("b", "en", "What?", None)), TASK) == {"a"}
    other = overlap(
        pairs(("a", "yo", "Where does the river rise?", None)), TASK
    )  # the same words, another language
    assert other["touched"] == 0


def test_a_passage_touches_the_questions_in_every_language_that_it_answers() -> None:
    found = overlap(pairs(("a", "en", None, LONG.upper())), TASK)
    assert (found["near_passage"], found["inside_passage"], found["touched"]) == (2, 2, 2)


def test_a_sentence_inside_a_long_passage_is_found_and_a_short_one_is_not_looked_for() -> None:
    filler = " ".join(
        f"Filler sentence number {n} about quite another thing entirely." for n in range(40)
    )
    found = overlap(pairs(("a", "en", None, f"{filler} {LONG.replace(' ', '  ')} {filler}")), TASK)
    assert (found["near_passage"], found["inside_passage"], found["touched"]) == (0, 2, 2)
    short = task({"q": ("en", "Which colour?")}, {"d": ("en", "Red.")}, {"q": ["d"]})
    assert (
        overlap(pairs(("a", "en", None, f"{filler} Red. {filler}")), short)["inside_passage"] == 0
    )


def test_nearest_is_the_largest_cosine_on_either_side() -> None:
    a = [f"text number {n} of the left side" for n in range(300)]  # more than one block
    b = ["text number 7 of the left side", "something else", LONG]
    best_a, best_b = nearest(a, b)
    assert best_a.shape == (300,) and best_b.shape == (3,)
    assert best_a[7] == pytest.approx(1, abs=1e-5) and best_a.argmax() == 7
    assert best_b[0] == pytest.approx(1, abs=1e-5) and best_b[2] < 0.5
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True
    ).fit_transform([*a, *b])
    full = cosine_similarity(vectors[:300], vectors[300:])
    np.testing.assert_allclose(best_a, full.max(axis=1), atol=1e-5)
    np.testing.assert_allclose(best_b, full.max(axis=0), atol=1e-5)
