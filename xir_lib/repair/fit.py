"""Where the means of `centring` come from: three named fits, and which one is part of a result.

* `foreign`: from other texts of the same languages (XQuAD-R's for MLQA-R and the reverse, Atlas-QA
  for a language that has no other). The primary one: nothing of the test set is used.
* `corpus`: for the passages from the passages of the pool, which the owner of an index has; for the
  queries from other texts, as in `foreign`, since the owner does not have tomorrow's queries.
  Transductive.
* `cross-fit`: from the test set itself by groups (articles): the queries of a fold are scored with
  what the queries and passages of all other folds give. The domain fits, and no query is used on
  itself.

Never are query means taken from the queries that are scored with them. How many texts of each
language were used is kept beside every result. This module knows no measure.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xir_lib.data.records import RetrievalTask
from xir_lib.errors import InputError
from xir_lib.metrics.scores import IntArray
from xir_lib.repair.maps import Vectors, centre, language_means

if TYPE_CHECKING:
    from xir_lib.encoders.encode import Role
    from xir_lib.encoders.encoder import Encoder

FITS = ("foreign", "corpus", "cross-fit")  # the primary one first
FOLDS = 5
KEYS = {"queries": "query_id", "passages": "doc_id"}  # side: its id column
ROLES: dict[str, "Role"] = {"queries": "query", "passages": "document"}


class Texts(NamedTuple):
    """Embedded texts of one side, a row each.

    >>> texts = Texts(np.eye(3), *np.array([["en", "en", "de"], ["a", "b", "c"], ["t"] * 3]))
    >>> texts.sample(1).counts()
    {'de': {'task': 't', 'texts': 1}, 'en': {'task': 't', 'texts': 1}}
    """

    vectors: Vectors  # (n, dim), unit rows
    langs: NDArray  # (n,)
    ids: NDArray  # (n,)
    tasks: NDArray  # (n,) name of the task that each is from

    def take(self, rows: IntArray) -> "Texts":
        """Return these rows."""
        return Texts(*(column[rows] for column in self))

    def sample(self, limit: int | None, draw: int = 0) -> "Texts":
        """Return at most `limit` texts per language, see `sample_rows`."""
        return self if limit is None else self.take(sample_rows(self.ids, self.langs, limit, draw))

    def counts(self) -> dict[str, dict[str, Any]]:
        """Return each language's task and number of texts."""
        return {
            str(lang): {
                "task": str(self.tasks[self.langs == lang][0]),
                "texts": int((self.langs == lang).sum()),
            }
            for lang in np.unique(self.langs)
        }


class Shifted(NamedTuple):
    """Some queries, by their rows in the task, and the passages as these queries meet them.

    >>> Shifted(np.array([0]), np.eye(2)[:1], np.eye(2)).rows.tolist()
    [0]
    """

    rows: IntArray  # (n,)
    queries: Vectors  # (n, dim)
    passages: Vectors  # (n_docs, dim), all of them


def check_fit(task: RetrievalTask, fit: str, sources: Sequence[RetrievalTask]) -> None:
    """Refuse a fit on queries that are scored with it, or one that lacks texts in a language."""
    if fit == "cross-fit":
        _check_folds(task, sources)
        return
    for source in sources:
        shared = pc.is_in(source.queries["query_id"], task.queries["query_id"].combine_chunks())
        if source.name == task.name or pc.any(shared).as_py():
            raise InputError(
                f"means for {task.name} cannot be fitted on the queries that are scored; name"
                " another task"
            )
    for side in KEYS if fit == "foreign" else ("queries",):
        known = set().union(*(_languages(source, side) for source in sources))
        if missing := sorted(_languages(task, side) - known):
            raise InputError(
                f"no text for the means of {', '.join(missing)} ({side}); "
                "name a further task to fit on (--fit-on), atlas-qa-train perhaps"
            )


def _check_folds(task: RetrievalTask, sources: Sequence[RetrievalTask]) -> None:
    if sources:
        raise InputError(
            "cross-fit takes its texts from the task itself; leave the tasks to fit on out"
        )
    if task.queries["group"].null_count or len(task.queries["group"].unique()) < 2:
        raise InputError(
            f"cross-fit needs a group for every query, two at least; {task.name} lacks them,"
            " use another fit"
        )
    asked, answered = _column(task.queries, "lang"), _column(task.passages, "lang")
    for scored, queries, passages in _folds(task):
        for side, needed, there in (
            ("query", asked[scored], asked[queries]),
            ("passage", answered, answered[passages]),
        ):
            if missing := sorted(set(needed) - set(there)):
                raise InputError(
                    f"cross-fit leaves a fold of {task.name} without any {side} in"
                    f" {', '.join(missing)}; use another fit"
                )


def own_texts(encoder: "Encoder", task: RetrievalTask, side: str) -> Texts:
    """Embed all `queries` or `passages` of a task."""
    return _embed(encoder, getattr(task, side), side, task.name)


def foreign_texts(
    encoder: "Encoder",
    task: RetrievalTask,
    side: str,
    sources: Sequence[RetrievalTask],
    limit: int | None = None,
) -> Texts:
    """Embed other tasks' texts in the languages of a side of `task`.

    The first task that has a language gives all of it. With `limit` only the sampled texts are
    embedded, not the whole task.
    """
    parts: list[Texts] = []
    missing = _languages(task, side)
    for source in sources:
        if not (wanted := sorted(missing & _languages(source, side))):
            continue
        missing -= set(wanted)
        table: pa.Table = getattr(source, side)
        table = table.filter(pc.is_in(table["lang"], pa.array(wanted, pa.string())))
        if limit is not None:
            ids, langs = _column(table, KEYS[side]), _column(table, "lang")
            table = table.take(sample_rows(ids, langs, limit))
        parts.append(_embed(encoder, table, side, source.name))
    return Texts(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _embed(encoder: "Encoder", table: pa.Table, side: str, name: str) -> Texts:
    vectors = encoder.encode_table(table, ROLES[side], f"{name} {side}")
    names = np.full(table.num_rows, name, dtype=object)
    return Texts(vectors, _column(table, "lang"), _column(table, KEYS[side]), names)


def sample_rows(ids: NDArray, langs: NDArray, limit: int, draw: int = 0) -> NDArray[np.int64]:
    """Return the rows of at most `limit` texts per language, ascending: the smallest id hashes.

    Another `draw` hashes differently. Ids that name a language, as the study's do, give every
    language other contents.
    """
    salt = f"|{draw}" if draw else ""
    digests = np.array([hashlib.sha256(f"{name}{salt}".encode()).hexdigest() for name in ids])
    chosen = [
        np.flatnonzero(langs == lang)[np.argsort(digests[langs == lang])[:limit]]
        for lang in np.unique(langs)
    ]
    return np.sort(np.concatenate(chosen))


def centred(
    encoder: "Encoder",
    task: RetrievalTask,
    fit: str,
    sources: Sequence[RetrievalTask],
    limit: int | None = None,
) -> tuple[list[Shifted], dict[str, Any]]:
    """Take each language's mean out of a task's vectors.

    Returns the vectors, in one part or one per fold of `cross-fit`, each with all passages, and
    what the fit used: its name, and per side and language the task and the number of texts (of the
    fold that has the fewest).
    """
    asked, answers = own_texts(encoder, task, "queries"), own_texts(encoder, task, "passages")
    if fit == "cross-fit":
        splits = [
            (scored, asked.take(queries).sample(limit), answers.take(passages).sample(limit))
            for scored, queries, passages in _folds(task)
        ]
    else:
        queries = foreign_texts(encoder, task, "queries", sources, limit)
        passages = (
            answers.sample(limit)
            if fit == "corpus"
            else foreign_texts(encoder, task, "passages", sources, limit)
        )
        splits = [(np.arange(len(asked.ids)), queries, passages)]
    used: dict[str, Any] = {"fit": fit, **({"folds": len(splits)} if fit == "cross-fit" else {})}
    for side, texts in (
        ("queries", [queries for _, queries, _ in splits]),
        ("passages", [passages for _, _, passages in splits]),
    ):
        counts = [one.counts() for one in texts]
        used[side] = {
            lang: min((c[lang] for c in counts if lang in c), key=lambda c: c["texts"])
            for lang in counts[0]
        }
    return [
        shift(asked.take(scored), answers, queries, passages)._replace(rows=scored)
        for scored, queries, passages in splits
    ], used


def shift(asked: Texts, answers: Texts, queries: Texts, passages: Texts) -> Shifted:
    """Take the means of `queries` out of what is asked and those of `passages` of the answers."""
    return Shifted(
        np.arange(len(asked.ids)),
        centre(asked.vectors, asked.langs, language_means(queries.vectors, queries.langs)),
        centre(answers.vectors, answers.langs, language_means(passages.vectors, passages.langs)),
    )


def _folds(task: RetrievalTask) -> Iterator[tuple[IntArray, IntArray, IntArray]]:
    """Yield per fold the rows of its queries, of the other folds' queries, and of passages to fit.

    Those are the passages that only the other folds' queries are answered by. A task does not say
    which article a passage is from; passages that answer no query are in no fold's fit. Groups are
    dealt out in the order of a hash of their names.
    """
    groups = _column(task.queries, "group")
    names = sorted(set(groups), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    fold_of = {name: i % FOLDS for i, name in enumerate(names)}
    fold = np.array([fold_of[name] for name in groups])
    judged = task.judged()
    query, doc = judged.query_rows, judged.doc_rows
    for number in range(min(FOLDS, len(names))):
        inside = fold == number
        answers = np.setdiff1d(doc[~inside[query]], doc[inside[query]])
        yield np.flatnonzero(inside), np.flatnonzero(~inside), answers


def _languages(task: RetrievalTask, side: str) -> set[str]:
    return set(getattr(task, side)["lang"].unique().to_pylist())


def _column(table: pa.Table, name: str) -> NDArray:
    return table[name].to_numpy(zero_copy_only=False)
