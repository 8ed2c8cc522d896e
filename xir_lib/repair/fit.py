"""Where the means and directions of `rivals.py` come from: three named fits. The fit is part of a
result's key.

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

from xir_lib.data.records import RetrievalTask, relevant_rows
from xir_lib.errors import InputError
from xir_lib.metrics.ranks import IntArray
from xir_lib.repair.maps import Vectors, fit_shift, remove_shift

if TYPE_CHECKING:
    from xir_lib.encoders.encoder import Embeddings, Encoder

FOLDS = 5
KEYS = {"queries": "query_id", "passages": "doc_id"}  # role: its id column


class Texts(NamedTuple):
    """The embedded texts of one role that a fit may use, a row each."""

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
    """Queries with what they meet: their rows, (n,), and the vectors of these queries and of all
    passages.
    """

    rows: IntArray
    queries: Vectors
    passages: Vectors


def check_fit(task: RetrievalTask, fit: str, sources: Sequence[RetrievalTask]) -> None:
    """Refuse a fit on the queries that are scored with it, or one that a language has no text
    for.
    """
    if fit == "cross-fit":
        if sources:
            raise InputError(
                "cross-fit takes its texts from the task itself; leave the tasks to fit on out"
            )
        if task.queries["group"].null_count or len(task.queries["group"].unique()) < 2:
            raise InputError(
                f"cross-fit needs a group for every query, two at least; {task.name} lacks them,"
                " use another fit"
            )
        asked, answered = (
            table["lang"].to_numpy(zero_copy_only=False) for table in (task.queries, task.passages)
        )
        for scored, queries, passages in _folds(task):
            for role, needed, there in (
                ("query", asked[scored], asked[queries]),
                ("passage", answered, answered[passages]),
            ):
                if missing := sorted(set(needed) - set(there)):
                    raise InputError(
                        f"cross-fit leaves a fold of {task.name} without any {role} in"
                        f" {', '.join(missing)}; use another fit"
                    )
        return
    for source in sources:
        shared = pc.is_in(source.queries["query_id"], task.queries["query_id"].combine_chunks())
        if source.name == task.name or pc.any(shared).as_py():
            raise InputError(
                f"means for {task.name} cannot be fitted on the queries that are scored; name"
                " another task"
            )
    for role in KEYS if fit == "foreign" else ("queries",):
        known = set().union(*(_languages(source, role) for source in sources))
        if missing := sorted(_languages(task, role) - known):
            raise InputError(
                f"no text for the means of {', '.join(missing)} ({role}); "
                "name a further task to fit on (--fit-on), atlas-qa-train perhaps"
            )


def foreign_texts(
    encoder: "Encoder",
    role: str,
    languages: set[str],
    sources: Sequence[RetrievalTask],
    limit: int | None = None,
) -> Texts:
    """Embed other tasks' `queries` or `passages` in these languages; the first task that has a
    language gives all of it.

    With `limit` only the sampled texts are embedded, not the whole task.
    """
    parts: list[Texts] = []
    missing = set(languages)
    for source in sources:
        wanted = sorted(missing & _languages(source, role))
        if not wanted:
            continue
        missing -= set(wanted)
        table: pa.Table = getattr(source, role)
        table = table.filter(pc.is_in(table["lang"], pa.array(wanted, pa.string())))
        if limit is not None:
            table = table.take(
                sample_rows(_column(table, KEYS[role]), _column(table, "lang"), limit)
            )
        vectors = encoder.encode_table(
            table, "query" if role == "queries" else "document", f"{source.name} {role}"
        )
        names = np.full(table.num_rows, source.name, dtype=object)
        parts.append(Texts(vectors, _column(table, "lang"), _column(table, KEYS[role]), names))
    return Texts(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def sample_rows(ids: NDArray, langs: NDArray, limit: int, draw: int = 0) -> NDArray[np.int64]:
    """Return the rows of at most `limit` texts per language, ascending: those whose ids have the
    smallest hashes.

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


def remove_language(
    encoder: "Encoder",
    task: RetrievalTask,
    vectors: "Embeddings",
    rank: int,
    fit: str,
    sources: Sequence[RetrievalTask],
    limit: int | None = None,
) -> tuple[list[Shifted], dict[str, Any]]:
    """Take the language's share out of a task's vectors: its mean (rank 0) or its top `rank`
    directions.

    Returns the vectors, in one part or one per fold of `cross-fit`, each with all passages, and
    what the fit used: its name, and per role and language the task and the number of texts (of the
    fold that has the fewest).
    """
    own = {
        role: Texts(
            emb,
            langs,
            _column(getattr(task, role), KEYS[role]),
            np.full(len(emb), task.name, dtype=object),
        )
        for role, emb, langs in (
            ("queries", vectors.queries, vectors.query_langs),
            ("passages", vectors.passages, vectors.passage_langs),
        )
    }
    if fit == "cross-fit":
        splits = [
            (
                scored,
                own["queries"].take(queries).sample(limit),
                own["passages"].take(passages).sample(limit),
            )
            for scored, queries, passages in _folds(task)
        ]
    else:
        queries = foreign_texts(encoder, "queries", _languages(task, "queries"), sources, limit)
        passages = (
            own["passages"].sample(limit)
            if fit == "corpus"
            else foreign_texts(encoder, "passages", _languages(task, "passages"), sources, limit)
        )
        splits = [(np.arange(len(vectors.queries)), queries, passages)]
    used: dict[str, Any] = {"fit": fit, **({"folds": len(splits)} if fit == "cross-fit" else {})}
    for role, texts in (
        ("queries", [q for _, q, _ in splits]),
        ("passages", [p for _, _, p in splits]),
    ):
        counts = [one.counts() for one in texts]
        used[role] = {
            lang: min((c[lang] for c in counts if lang in c), key=lambda c: c["texts"])
            for lang in counts[0]
        }
    return [shift(vectors, *split, rank) for split in splits], used


def shift(
    vectors: "Embeddings", rows: IntArray, queries: Texts, passages: Texts, rank: int
) -> Shifted:
    """Fit on the texts of both roles and take the languages' share out of the queries in `rows` and
    of all passages.
    """
    return Shifted(
        rows,
        remove_shift(
            vectors.queries[rows],
            vectors.query_langs[rows],
            fit_shift(queries.vectors, queries.langs, rank),
            rank,
        ),
        remove_shift(
            vectors.passages,
            vectors.passage_langs,
            fit_shift(passages.vectors, passages.langs, rank),
            rank,
        ),
    )


def _folds(task: RetrievalTask) -> Iterator[tuple[IntArray, IntArray, IntArray]]:
    """Yield per fold the rows of its queries, of the other folds' queries and of the passages that
    only those are answered by.

    A task does not say which article a passage is from; those that answer no query are in no fold's
    fit. Groups are dealt out in the order of a hash of their names.
    """
    groups = _column(task.queries, "group")
    names = sorted(set(groups), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    fold_of = {name: i % FOLDS for i, name in enumerate(names)}
    fold = np.array([fold_of[name] for name in groups])
    query, doc = relevant_rows(task)
    for number in range(min(FOLDS, len(names))):
        inside = fold == number
        answers = np.setdiff1d(doc[~inside[query]], doc[inside[query]])
        yield np.flatnonzero(inside), np.flatnonzero(~inside), answers


def _languages(task: RetrievalTask, role: str) -> set[str]:
    return set(getattr(task, role)["lang"].unique().to_pylist())


def _column(table: pa.Table, name: str) -> NDArray:
    return table[name].to_numpy(zero_copy_only=False)
