"""The system for pools that outgrow the memory: an encoder whose passages' vectors are on disk."""

import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from xir_lib.data.records import RetrievalTask
from xir_lib.encoders.encoder import Encoder, encoder_key
from xir_lib.evaluation import shard_search, shards
from xir_lib.evaluation.systems import Lists, Ranks, System, tokens_per_word
from xir_lib.metrics.scores import Scores


class Sharded(System):
    """An encoder whose passages' vectors lie in float16 files, for pools that outgrow the memory.

        evaluate(Sharded(encoder, task, Path("vectors")), out)

    The files are read one after another, for the ranks and for the lists, which both count with
    the same exact scores (`shard_search`). They are the cache: the encoder keeps none of its own.
    """

    encoder: Encoder

    def __init__(self, encoder: Encoder, task: RetrievalTask, folder: Path) -> None:
        super().__init__(encoder.name, task)
        self.encoder, self.folder = encoder, folder
        self._lists: Lists | None = None

    @cached_property
    def vectors(self) -> tuple[Scores, shards.Shards]:
        """The queries' vectors in memory, the passages' on disk."""
        queries, passages = self.task.queries, self.task.passages["text"]
        asking = self.encoder.encode_table(queries, "query", f"{self.task.name} queries")
        uncached = copy.copy(self.encoder)
        uncached.cache = None
        return asking, shards.encode_corpus(uncached, passages.iterchunks(), self.folder)

    @cached_property
    def ranks(self) -> Ranks:
        """The ranks, and the languages of the first passages from the lists."""
        asking, stored = self.vectors
        judged = self.task.judged()
        found = shard_search.ranks_in_shards(stored, asking, judged)
        first = judged.doc_langs[self.best(self.top)[0]]  # (n_queries, top)
        codes = range(len(judged.pools))
        counts = np.stack([np.count_nonzero(first == code, axis=1) for code in codes], axis=1)
        found = replace(found, top_counts=counts)
        return Ranks(found, found)

    def best(self, k: int) -> Lists:
        """Search, unless as deep a search was made before."""
        if self._lists is None or self._lists[0].shape[1] < k:
            asking, stored = self.vectors
            self._lists = shard_search.search_shards(stored, asking, k, self.task.judged().ties)
        rows, scores = self._lists
        return rows[:, :k], scores[:, :k]

    def key(self) -> dict[str, Any]:
        """Return the encoder's key and how its vectors are kept."""
        kept = {"passage_vectors": "float16"}
        return {"repair": "none", "repair_fit": None, **encoder_key(self.encoder), **kept}

    def facts(self) -> dict[str, Any]:
        """Return the pieces per word."""
        return {"tokens_per_word": tokens_per_word(self.encoder, self.task)}
