"""How near training texts come to what a task asks: the check behind "training and evaluation data
are disjoint".

Two texts of one language and role (question or passage) are *near* if the cosine of their TF-IDF
vectors is above `NEAR`. A sentence inside a training passage has a low cosine to it, so a relevant
passage that occurs verbatim in one is found besides.
"""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xir_lib.data.records import PairTable, RetrievalTask

NEAR = 0.5
VERBATIM = 30  # characters: shorter passages, such as a name, stand anywhere


def overlap(pairs: PairTable, task: RetrievalTask) -> dict[str, Any]:
    """Count what of a task is near to what is trained on.

    Returns `queries` and, of them, those with a text to compare (`compared`: the question, one of
    its translations or a relevant passage is in a language with training texts of its kind), those
    that are near a training question, themselves or in translation (`near_question`), those one of
    whose relevant passages, in any language, is near a training passage (`near_passage`) or inside
    one (`inside_passage`), and any of these (`touched`); then `ids` trained on and those near a
    question or passage of the task (`near_ids`). TF-IDF is that of character 3- to 5-grams inside
    words (words do not exist in Thai or Chinese), with the document frequencies of both sides
    together; languages that only one side has are left out.
    """
    queries = task.queries.select(["query_id", "pair_id", "lang", "text"]).to_pandas()
    near = _near(pairs, task)

    def translations(ids: set[str]) -> set[str]:
        return {
            *queries["query_id"][
                queries["pair_id"].isin(queries["pair_id"][queries["query_id"].isin(ids)])
            ]
        }

    qrels = task.qrels.to_pandas().query("relevance > 0")
    by_passage = {*qrels["query_id"][qrels["doc_id"].isin(near.passages)]}
    by_inside = {*qrels["query_id"][qrels["doc_id"].isin(near.inside)]}
    by_question = translations(near.questions)
    known = translations(near.compared_queries) | {
        *qrels["query_id"][qrels["doc_id"].isin(near.compared_passages)]
    }
    return {
        "queries": len(queries),
        "compared": len(known),
        "near_question": len(by_question),
        "near_passage": len(by_passage),
        "inside_passage": len(by_inside),
        "touched": len(by_question | by_passage | by_inside),
        "ids": len(pairs.pair_ids),
        "near_ids": len(near.ids),
    }


def near_ids(pairs: PairTable, task: RetrievalTask) -> set[str]:
    """Return the training ids that are near a question or passage of the task, in any language, or
    hold one of its passages.
    """
    near = _near(pairs, task)
    return near.ids | near.holding


class _Near(NamedTuple):
    """What of a task and of the training ids is near, without translations."""

    questions: set[str]  # query ids
    passages: set[str]  # passage ids, and
    inside: set[str]  # of those inside a training passage
    ids: set[str]  # training ids
    holding: set[str]  # training ids whose passage has one of `inside`
    compared_queries: set[str]
    compared_passages: set[str]


def _near(pairs: PairTable, task: RetrievalTask) -> _Near:
    train = pairs.table.select(["pair_id", "lang", "query", "passage"]).to_pandas()
    queries, passages = (
        task.queries.select(["query_id", "lang", "text"]).to_pandas(),
        task.passages.to_pandas(),
    )
    near = _Near(set(), set(), set(), set(), set(), set(), set())
    for lang in sorted({*train["lang"]} & {*queries["lang"], *passages["lang"]}):
        here = train[train["lang"] == lang]
        for column, found, compared, table, key in (
            ("query", near.questions, near.compared_queries, queries, "query_id"),
            ("passage", near.passages, near.compared_passages, passages, "doc_id"),
        ):
            mine, theirs = here.dropna(subset=column), table[table["lang"] == lang]
            if mine.empty or theirs.empty:
                continue
            compared |= {*theirs[key]}
            of_train, of_task = nearest(mine[column], theirs["text"])
            near.ids.update(mine["pair_id"][of_train > NEAR])
            found |= {*theirs[key][of_task > NEAR]}
            if column == "passage":
                within = _inside(theirs["text"], mine[column])
                near.inside.update(theirs[key][within])
                near.holding.update(mine["pair_id"][_holding(mine[column], theirs["text"][within])])
    return near


def nearest(a: Iterable[str], b: Iterable[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return, for each text of `a` and for each of `b`, the largest TF-IDF cosine to one of the
    other side.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts_a, texts_b = list(a), list(b)
    vectorizer = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, dtype=np.float32
    )
    vectors = vectorizer.fit_transform([*texts_a, *texts_b])
    vectors_a, vectors_b = vectors[: len(texts_a)], vectors[len(texts_a) :].T.tocsc()
    best_a, best_b = np.zeros(len(texts_a)), np.zeros(len(texts_b))
    for start in range(0, len(texts_a), 256):  # bounds memory: the product is rather dense
        product = (vectors_a[start : start + 256] @ vectors_b).toarray()
        best_a[start : start + 256] = product.max(axis=1)
        best_b = np.maximum(best_b, product.max(axis=0))
    return best_a, best_b


def _inside(texts: pd.Series, passages: pd.Series) -> NDArray[np.bool_]:
    """Say which texts of at least `VERBATIM` characters occur in one of the passages, white space
    and case aside.
    """
    whole = "\n".join(map(_plain, passages.unique()))
    return np.array(
        [len(text) >= VERBATIM and text in whole for text in map(_plain, texts)], dtype=bool
    )


def _holding(passages: pd.Series, texts: pd.Series) -> NDArray[np.bool_]:
    """Say in which passages one of the texts occurs, white space and case aside."""
    wanted = [_plain(text) for text in texts]
    return np.array(
        [any(text in passage for text in wanted) for passage in map(_plain, passages)], dtype=bool
    )


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().casefold()
