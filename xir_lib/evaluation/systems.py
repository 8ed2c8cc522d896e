"""What ranks the passages of a task: an encoder's vectors, BM25, another system's run.

A system gives its scores in blocks (`System.blocks`); the ranks that all measures are made of, and
the lists of a TREC run, follow from these for every system alike. One that cannot hold a row of
scores in memory (`sharded`) brings its ranks itself. Nothing asks which kind a system is.
"""

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa

from xir_lib.data.records import RetrievalTask
from xir_lib.encoders.encoder import Encoder, encoder_key
from xir_lib.evaluation import bm25, trec
from xir_lib.metrics.ranks import RelevantRanks, relevant_ranks
from xir_lib.metrics.scores import (
    Block,
    IntArray,
    Judged,
    Scores,
    block_slices,
    top_lists,
    vector_blocks,
)
from xir_lib.repair.fit import Shifted
from xir_lib.repair.kinds import ROUND_ROBIN
from xir_lib.repair.merge import round_robin_lists, round_robin_ranks
from xir_lib.repair.repair import Repair

TOP = 10  # first places whose languages are counted (language share)
# Passages per language whose words are counted; characters of a mean word.
COUNTED, LONG_WORD = 500, 15
Lists = tuple[IntArray, Scores]  # passage rows and scores, (n_queries, k) each, best first


class Ranks(NamedTuple):
    """Ranks that count in pools of one language, and ranks that count in the pool of all.

    BM25 and merged rankings have other scores in the pool of all; elsewhere the two are one object.
    """

    apart: RelevantRanks
    together: RelevantRanks


class System:
    """What ranks the passages of `task`; a subclass gives `blocks` and `key`.

    One that ranks long passages first:

    >>> class Longest(System):
    ...     def blocks(self, judged, pooled):
    ...         lengths = np.float32([len(text) for text in self.task.passages["text"].to_pylist()])
    ...         scores = np.tile(lengths[judged.columns], (judged.n_queries, 1))
    ...         return [Block(np.arange(judged.n_queries), lambda: scores)]
    >>> from xir_lib.data.records import PASSAGE_SCHEMA, QREL_SCHEMA, QUERY_SCHEMA
    >>> query = {"query_id": "q", "pair_id": "p", "lang": "en", "text": "Kola?", "group": None}
    >>> tables = (
    ...     pa.Table.from_pylist([query], QUERY_SCHEMA),
    ...     pa.table([["a", "b"], ["en", "en"], ["A nut.", "A river."]], PASSAGE_SCHEMA),
    ...     pa.table([["q"], ["a"], pa.array([1], pa.int8())], QREL_SCHEMA),
    ... )
    >>> Longest("longest", RetrievalTask("toy", *tables)).ranks.together.in_all()[1].tolist()
    [2]
    """

    encoder: Encoder | None = None  # whose precision the scores depend on

    def __init__(self, name: str, task: RetrievalTask) -> None:
        self.name, self.task = name, task

    def blocks(self, judged: Judged, pooled: bool) -> list[Block]:
        """Return the scores in pools of one language or, if `pooled`, in the pool of all."""
        raise NotImplementedError

    def key(self) -> dict[str, Any]:
        """Return what identifies the system's results."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """Return what stands beside the system's results."""
        return {}

    @property
    def top(self) -> int:
        """How many first places are counted by language."""
        return min(TOP, self.task.passages.num_rows)

    @cached_property
    def ranks(self) -> Ranks:
        """The ranks of all relevant passages, computed once."""
        judged = self.task.judged()
        found = relevant_ranks(self.blocks(judged, pooled=False), judged, self.top)
        return Ranks(found, found)

    def best(self, k: int) -> Lists:
        """Return every query's first k passages in the pool of all languages."""
        judged = self.task.judged()
        return top_lists(self.blocks(judged, pooled=True), judged, k)

    def _on(self, pool: RetrievalTask) -> Self:
        """Return a copy that judges another task, for `within`; what was cached of ranks goes."""
        found = copy.copy(self)
        found.task = pool
        found.__dict__.pop("ranks", None)
        return found


class Dense(System):
    """An encoder's vectors, as they are or after a repair that changes vectors.

        system = Dense(Encoder("bundled:multilingual-e5-small"), task, Repair("centring", "corpus"))
        evaluate(system, out)

    A repair that the task does not allow is refused here.
    """

    encoder: Encoder

    def __init__(self, encoder: Encoder, task: RetrievalTask, repair: Repair | None = None) -> None:
        super().__init__(encoder.name, task)
        self.encoder, self.repair = encoder, repair or Repair()
        self.repair.check(task)

    @cached_property
    def vectors(self) -> tuple[list[Shifted], dict[str, Any] | None]:
        """The vectors to rank by, and what was fitted on."""
        return self.repair.apply(self.encoder, self.task)

    def blocks(self, judged: Judged, pooled: bool) -> list[Block]:
        """Return the cosines; a query meets the passages of its own fold's fit."""
        return [
            block
            for part in self.vectors[0]
            for block in vector_blocks(part.queries, part.passages, judged, part.rows)
        ]

    def key(self) -> dict[str, Any]:
        """Return the repair, what it was fitted on, and the encoder's key."""
        fitted = self.vectors[1]
        return {"repair": self.repair.kind, "repair_fit": fitted, **encoder_key(self.encoder)}

    def facts(self) -> dict[str, Any]:
        """Return the pieces per word, which no repair changes."""
        plain = self.repair.kind == "none"
        return {"tokens_per_word": tokens_per_word(self.encoder, self.task)} if plain else {}

    def within(self, pool: RetrievalTask, rows: IntArray) -> Self:
        """Return the system with some passages; their vectors, and the fit, stay."""
        found, (parts, fitted) = self._on(pool), self.vectors
        found.vectors = [part._replace(passages=part.passages[rows]) for part in parts], fitted
        return found


class Merged(System):
    """A dense system whose pool of all languages is merged from the single ones, round robin.

    plain = Dense(encoder, task)
    evaluate(plain, out)
    evaluate(Merged(plain), out / "round-robin")  # ranks nothing a second time
    """

    def __init__(self, base: Dense) -> None:
        super().__init__(base.name, base.task)
        self.base, self.encoder = base, base.encoder

    @cached_property
    def ranks(self) -> Ranks:
        """The base's ranks in pools of one language, and what follows from them for all."""
        apart = self.base.ranks.apart
        return Ranks(apart, round_robin_ranks(apart, self.top))

    def best(self, k: int) -> Lists:
        """Deal out the first passages of every language."""
        judged = self.task.judged()
        return round_robin_lists(self.base.blocks(judged, pooled=False), judged, k)

    def key(self) -> dict[str, Any]:
        """Return the base's key and how it is merged."""
        kind = self.base.repair.kind
        return self.base.key() | {
            "repair": ROUND_ROBIN if kind == "none" else f"{kind}+{ROUND_ROBIN}",
            "merge": {
                "method": ROUND_ROBIN,
                "changes": "the multilingual setting alone; pools of one language keep their"
                " ranking",
                "note": "one relevant passage per language favours round-robin",
            },
        }

    def within(self, pool: RetrievalTask, rows: IntArray) -> Self:
        """Return the merge of the base within the pool."""
        found = self._on(pool)
        found.base = self.base.within(pool, rows)
        return found


class Lexical(System):
    """BM25: each pool of one language is an index of its own, the pool of all is one more.

        evaluate(Lexical("bm25-folded", task), out)

    `bm25-pieces` needs an encoder, whose tokenizer cuts the texts.
    """

    def __init__(self, kind: str, task: RetrievalTask, encoder: Encoder | None = None) -> None:
        super().__init__(kind, task)
        self.cut = bm25.tokenizer(kind, encoder.model if encoder else None)
        self.fingerprint = encoder.fingerprint if encoder and kind == bm25.PIECES else None

    @cached_property
    def tokens(self) -> tuple[list[list[str]], list[list[str]]]:
        """The tokens of the queries and of the passages."""
        queries, passages = (
            self.cut(table["text"].to_pylist()) for table in (self.task.queries, self.task.passages)
        )
        return queries, passages

    def blocks(self, judged: Judged, pooled: bool) -> list[Block]:
        """Return the scores of an index per language, or of one over all languages."""
        queries, passages = self.tokens
        pools = [slice(None)] if pooled else judged.pools
        index = bm25.Index([passages[row] for row in judged.columns], pools)

        def block(part: slice) -> Block:
            return Block(np.arange(len(queries))[part], lambda: index.scores(queries[part]))

        return [block(part) for part in block_slices(len(queries), len(passages))]

    @cached_property
    def ranks(self) -> Ranks:
        """The ranks by the statistics of each pool."""
        judged = self.task.judged()
        apart, together = (
            relevant_ranks(self.blocks(judged, pooled), judged, self.top)
            for pooled in (False, True)
        )
        return Ranks(apart, together)

    def key(self) -> dict[str, Any]:
        """Return how BM25 counts, and which model cut the texts if one did."""
        model = {"weights_sha256": self.fingerprint} if self.fingerprint else {}
        return {"repair": "none", "repair_fit": None, "bm25": bm25.key(self.name), **model}

    def within(self, pool: RetrievalTask, rows: IntArray) -> Self:
        """Return the system with some passages, indexed anew."""
        found, (queries, passages) = self._on(pool), self.tokens
        found.tokens = queries, [passages[row] for row in rows]
        return found


class Listed(System):
    """Another system's ranking, read from a TREC run; what it does not list is tied behind.

    evaluate(Listed(trec.read_run(path, task), task), out)
    """

    def __init__(self, run: trec.Run, task: RetrievalTask) -> None:
        super().__init__(run.name, task)
        self.run = run

    def blocks(self, judged: Judged, pooled: bool) -> list[Block]:
        """Return the listed scores, and a lower one for the rest."""

        def block(part: slice) -> Block:
            rows = np.arange(judged.n_queries)[part]
            return Block(rows, lambda: self.run.scores(part)[:, judged.columns])

        return [block(part) for part in block_slices(judged.n_queries, judged.n_docs)]

    def key(self) -> dict[str, Any]:
        """Return the run's file and its sum."""
        return {"repair": "none", "repair_fit": None, "run": self.run.key()}


def repaired(
    encoder: Encoder, task: RetrievalTask, repairs: Sequence[Repair]
) -> dict[str, Dense | Merged]:
    """Return the plain system in "" and each repaired one, by the folder of its results.

    A merged system shares the ranks of what it merges.
    """
    found: dict[str, Dense | Merged] = {}
    bases: dict[str, Dense] = {}
    for repair in (Repair(), *repairs):
        name = repair.unmerged.folder
        if name not in bases:
            bases[name] = Dense(encoder, task, repair.unmerged)
        found.setdefault(repair.folder, Merged(bases[name]) if repair.merges else bases[name])
    return found


def tokens_per_word(encoder: Encoder, task: RetrievalTask) -> dict[str, float | None]:
    """Return per passage language how many pieces the tokenizer cuts a word into.

    Over the first `COUNTED` passages. Words are what white space separates, and None stands where
    that makes words of more than `LONG_WORD` characters, as in Thai or Chinese. Many pieces per
    word are what a vocabulary gives a language that it was hardly trained on. Empty where the
    model's tokenizer cuts no single texts (`bm25.pieces`).
    """
    found: dict[str, float | None] = {}
    if not callable(encoder.model.tokenizer):
        return found
    judged = task.judged()
    for lang, pool in zip(task.languages, judged.pools, strict=True):
        rows = pa.array(judged.columns[pool][:COUNTED])
        texts = task.passages["text"].take(rows).to_pylist()
        words = [word for text in texts for word in text.split()]
        pieces = sum(map(len, bm25.pieces(encoder.model, texts)))
        short = sum(map(len, words)) <= LONG_WORD * len(words)
        found[lang] = pieces / len(words) if words and short else None
    return found
