"""The seam between a `PairTable`, our sampler and sentence-transformers' stock trainer.

A sampler's batch names texts by (query_row, passage_row), row numbers of the table. `PairDataset`
looks the texts up, so that combinations of languages are never materialised;
`batch_sampler_factory` is what goes into `SentenceTransformerTrainingArguments(batch_sampler=...)`.
Neither knows strategies, models or losses.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from datasets.fingerprint import generate_random_fingerprint
from datasets.table import InMemoryTable

from xir_lib.data.records import PairTable
from xir_lib.errors import InputError
from xir_lib.samplers.strategies import ResumableSampler


class PairDataset(Dataset):
    """A data set with the columns `query` (the anchor), `passage` and `negative_1` ..., read by
    (query_row, passage_row).

    The trainer's data loader fetches a batch with `__getitems__`; a key there is a pair of row
    numbers, and the negatives are the first of the passage's row. An integer or slice reads the
    table's rows as in any `Dataset`, a missing text as the empty one: the model card reads rows and
    fails on nulls. No batch ever holds one.

    With a `parallel_seed` the last column is `parallel_query`: the query of the same id in another
    language, for `losses.ParallelQueryLoss`. The language is drawn by the seed and the pair, so a
    pair that returns has the same one; an id with a query in one language alone has that query
    again.

    The order of the columns matters to the losses; any further column would be trained on, so there
    is none.
    """

    _negatives = 0
    _parallel: "_ParallelRows | None" = None
    _batches: "BatchSamplerFactory | None" = None  # that was asked for this data set's sampler

    @classmethod
    def from_pairs(
        cls,
        pairs: PairTable | Sequence[PairTable],
        negatives: int = 0,
        parallel_seed: int | None = None,
    ) -> "PairDataset":
        """Wrap one table, or several end to end as `MixtureBatchSampler` numbers their rows; texts
        stay memory-mapped.
        """
        tables = [part.table for part in ([pairs] if isinstance(pairs, PairTable) else pairs)]
        if negatives and not all("negatives" in table.column_names for table in tables):
            raise InputError(
                f"negatives is {negatives}, but a pair table has no column negatives; add it or"
                " set 0"
            )
        columns = ["query", "passage", "negatives"] if negatives else ["query", "passage"]
        # a fingerprint of the content, the default, would copy every text
        table = InMemoryTable(pa.concat_tables(table.select(columns) for table in tables))
        data = cls(table, fingerprint=generate_random_fingerprint())
        data._negatives = negatives
        data._parallel = None if parallel_seed is None else _ParallelRows(tables, parallel_seed)
        data.set_transform(partial(_as_columns, negatives=negatives))
        return data

    @property
    def column_names(self) -> list[str]:
        """Name the columns that a row has; the table keeps the negatives in one."""
        return [
            "query",
            "passage",
            *_negative_names(self._negatives),
            *(["parallel_query"] if self._parallel else []),
        ]

    def __getitems__(self, keys: list[Any]) -> list[dict[str, Any]]:
        """Return one dictionary of texts per (query_row, passage_row); integer keys are rows of the
        table.
        """
        if not keys or not isinstance(keys[0], tuple):
            return super().__getitems__(keys)
        query_rows, passage_rows = zip(*keys, strict=True)
        # rows are looked up by chunk: `pyarrow.compute.take` would join all chunks first
        queries, passages = self.data.fast_gather(query_rows), self.data.fast_gather(passage_rows)
        columns = {
            "query": queries["query"].to_pylist(),
            "passage": passages["passage"].to_pylist(),
        }
        for name, rows in (("query", query_rows), ("passage", passage_rows)):
            if None in columns[name]:
                raise InputError(
                    f"row {rows[columns[name].index(None)]} of the pair table has no {name}; "
                    "the sampler and the data set are of different tables"
                )
        if self._negatives:
            lists = passages["negatives"].to_pylist()
            for row, texts in zip(passage_rows, lists, strict=True):
                if len(texts or ()) < self._negatives:
                    raise InputError(
                        f"row {row} of the pair table has {len(texts or ())} negatives,"
                        f" {self._negatives} are read; index the table with"
                        f" negatives={self._negatives}"
                    )
            columns["negatives"] = lists
        columns = _as_columns(columns, self._negatives)
        if self._parallel:
            columns["parallel_query"] = self.data.fast_gather(
                [self._parallel.row(*key) for key in keys]
            )["query"].to_pylist()
        return [
            dict(zip(columns, texts, strict=True)) for texts in zip(*columns.values(), strict=True)
        ]

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch on to the sampler that a factory gave for this data set; accelerate calls
        this.

        When a run is resumed within an epoch on several processes, no other call reaches the
        sampler: accelerate wraps it twice, transformers 5 unwraps it once. Without this method such
        an epoch silently has the batches of epoch 0.
        """
        if self._batches is not None and self._batches.sampler is not None:
            self._batches.sampler.set_epoch(epoch)


class _ParallelRows:
    """Finds, for a (query_row, passage_row), a row with the query of the same id in another
    language.
    """

    def __init__(self, tables: Sequence[pa.Table], seed: int) -> None:
        self.seed = seed
        parts, offset = [], 0
        for table in tables:
            codes = table["pair_id"].dictionary_encode().unify_dictionaries()
            parts.append(
                np.concatenate([chunk.indices.to_numpy() for chunk in codes.chunks]) + offset
            )
            offset = int(parts[-1].max(initial=offset - 1)) + 1
        self.codes = np.concatenate(parts)  # (rows,) the id of a row, another one in every table
        has_query = np.concatenate([table["query"].is_valid().to_numpy() for table in tables])
        rows = np.flatnonzero(has_query)
        self.rows = rows[np.argsort(self.codes[rows], kind="stable")]  # by id
        self.starts = np.searchsorted(self.codes[self.rows], np.arange(offset + 1))
        if np.diff(self.starts).max(initial=0) < 2:
            raise InputError(
                "no id has its query in two languages, so there are no parallel queries; leave"
                " query_kl out"
            )

    def row(self, query_row: int, passage_row: int) -> int:
        code = self.codes[query_row]
        own = self.rows[self.starts[code] : self.starts[code + 1]]
        others = own[own != query_row]
        if not others.size:
            return query_row
        return int(
            others[zlib.crc32(f"{self.seed} {query_row} {passage_row}".encode()) % others.size]
        )


def _negative_names(negatives: int) -> list[str]:
    return [f"negative_{number}" for number in range(1, negatives + 1)]


def _as_columns(columns: dict[str, list[Any]], negatives: int) -> dict[str, list[str]]:
    """Give each negative a column of its own; a missing text is the empty one."""
    result = {
        name: [text or "" for text in texts]
        for name, texts in columns.items()
        if name != "negatives"
    }
    for number, name in enumerate(_negative_names(negatives if "negatives" in columns else 0)):
        result[name] = [
            (texts or ())[number] if len(texts or ()) > number else ""
            for texts in columns["negatives"]
        ]
    return result


@dataclass
class BatchSamplerFactory:
    """The callable that makes the trainer use `sampler` for its `PairDataset`.

    The trainer asks the same callable for the sampler of a validation set: a plain `Dataset` gets
    its rows in order. The trainer's generator and seed are ignored, since the sampler's own seed
    fixes the batches; a trainer batch size that is not the sampler's is refused.

    sentence-transformers leaves a callable out of the readable training arguments (save
    `sampler.report()` yourself) and pickles it into every checkpoint's `training_args.bin`: the
    index stays out of that, so a copy read back from there has no sampler and refuses to make one.
    """

    sampler: ResumableSampler | None

    def __call__(self, dataset: Dataset, batch_size: int, drop_last: bool, **_: Any) -> Any:
        """Return the batch sampler for a data set of the trainer."""
        if isinstance(dataset, PairDataset):
            if self.sampler is None:
                raise InputError(
                    "these training arguments were read back from a file; set batch_sampler again"
                )
            if batch_size != self.sampler.batch_size:
                raise InputError(
                    f"the trainer's batch size is {batch_size}, the sampler's"
                    f" {self.sampler.batch_size}; make them equal"
                )
            if dataset._negatives > self.sampler.negatives:
                raise InputError(
                    f"the data set reads {dataset._negatives} hard negatives, the sampler was"
                    f" indexed with {self.sampler.negatives}, so one could be another row's answer;"
                    f" PairIndex.from_table(pairs, negatives={dataset._negatives})"
                )
            dataset._batches = self
            return self.sampler
        from sentence_transformers.base.sampler import DefaultBatchSampler
        from torch.utils.data import SequentialSampler

        return DefaultBatchSampler(
            SequentialSampler(dataset), batch_size=batch_size, drop_last=drop_last
        )

    def __getstate__(self) -> dict[str, None]:
        return {"sampler": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> "BatchSamplerFactory":
        return self


def batch_sampler_factory(sampler: ResumableSampler) -> BatchSamplerFactory:
    """Wrap a sampler, of one data set or of several, for
    `SentenceTransformerTrainingArguments(batch_sampler=...)`.
    """
    return BatchSamplerFactory(sampler)
