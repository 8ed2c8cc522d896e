"""The seam between a `PairTable`, our samplers and sentence-transformers' stock trainer.

A sampler's batch names texts by (query_row, passage_row), row numbers of the table. `PairDataset`
looks the texts up, so that combinations of languages are never materialised, and
`batch_sampler_factory` goes into `SentenceTransformerTrainingArguments(batch_sampler=...)`. Neither
knows strategies, models or losses.
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
from xir_lib.samplers.base import EpochSampler


class PairDataset(Dataset):
    """A data set with the columns `query` (the anchor), `passage`, `negative_1`, ...

    The trainer's data loader fetches a batch with `__getitems__`; a key there is a pair of row
    numbers, and the negatives are the first of the passage's row. An integer or slice reads the
    table's rows as in any `Dataset`, a missing text as the empty one, since the model card reads
    rows and fails on nulls; no batch ever holds one.

    With a `parallel_seed` the last column is `parallel_query`: the query of the same id in another
    language, for `ParallelQueryLoss`. The order of the columns matters to the losses; any further
    column would be trained on, so there is none.

    >>> from xir_lib.data.records import PAIR_SCHEMA
    >>> rows = [{"pair_id": "rain", "lang": lang, "query": query, "passage_id": "rain",
    ...          "passage": passage, "group": "weather"}
    ...         for lang, query, passage in (("de", "Regnet es?", "Es regnet."),
    ...                                      ("en", "Does it rain?", "It rains."))]
    >>> data = PairDataset.from_pairs(
    ...     PairTable(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA)), parallel_seed=0)
    >>> data.__getitems__([(0, 1)])
    [{'query': 'Regnet es?', 'passage': 'It rains.', 'parallel_query': 'Does it rain?'}]
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
        """Wrap one table, or several end to end as `MixtureBatchSampler` numbers their rows.

        Texts stay memory-mapped.
        """
        parts = [pairs] if isinstance(pairs, PairTable) else pairs
        if negatives and not all("negatives" in part.table.column_names for part in parts):
            raise InputError(
                f"negatives is {negatives}, but a pair table has no column negatives; add it or"
                " set 0"
            )
        columns = ["query", "passage", "negatives"] if negatives else ["query", "passage"]
        # a fingerprint of the content, the default, would copy every text
        table = InMemoryTable(pa.concat_tables(part.table.select(columns) for part in parts))
        data = cls(table, fingerprint=generate_random_fingerprint())
        data._negatives = negatives
        data._parallel = None if parallel_seed is None else _ParallelRows(parts, parallel_seed)
        data.set_transform(partial(_as_columns, negatives=negatives))
        return data

    @property
    def column_names(self) -> list[str]:
        """Name the columns that a row has; the table keeps the negatives in one."""
        parallel = ["parallel_query"] if self._parallel else []
        return ["query", "passage", *_negative_names(self._negatives), *parallel]

    def __getitems__(self, keys: list[Any]) -> list[dict[str, Any]]:
        """Return one dictionary of texts per (query_row, passage_row), or per row of the table."""
        if not keys or not isinstance(keys[0], tuple):
            return super().__getitems__(keys)
        query_rows, passage_rows = zip(*keys, strict=True)
        # by chunk: `pyarrow.compute.take` would join all chunks first
        passages = self.data.fast_gather(passage_rows)
        read = {
            "query": self.data.fast_gather(query_rows)["query"].to_pylist(),
            "passage": passages["passage"].to_pylist(),
        }
        for name, rows in (("query", query_rows), ("passage", passage_rows)):
            if None in read[name]:
                raise InputError(
                    f"row {rows[read[name].index(None)]} of the pair table has no {name}; "
                    "the sampler and the data set are of different tables"
                )
        if self._negatives:
            read["negatives"] = passages["negatives"].to_pylist()
            self._refuse_too_few(read["negatives"], passage_rows)
        columns = _as_columns(read, self._negatives)
        if self._parallel:
            parallel = [self._parallel.row(*key) for key in keys]
            columns["parallel_query"] = self.data.fast_gather(parallel)["query"].to_pylist()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _refuse_too_few(self, lists: list[list[str] | None], rows: tuple[int, ...]) -> None:
        for row, texts in zip(rows, lists, strict=True):
            if len(texts or ()) < self._negatives:
                raise InputError(
                    f"row {row} of the pair table has {len(texts or ())} negatives,"
                    f" {self._negatives} are read; index the table with negatives={self._negatives}"
                )

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch on to the sampler that a factory gave for this data set.

        Accelerate calls this. When a run is resumed within an epoch on several processes, no other
        call reaches the sampler (accelerate wraps it twice, transformers 5 unwraps it once), and
        such an epoch would silently have the batches of epoch 0.
        """
        if self._batches is not None and self._batches.sampler is not None:
            self._batches.sampler.set_epoch(epoch)


class _ParallelRows:
    """Finds, for a (query_row, passage_row), the query of the same id in another language.

    The language is drawn by the seed and the pair, so a pair that returns has the same one.
    """

    def __init__(self, tables: Sequence[PairTable], seed: int) -> None:
        self.seed = seed
        codes, ids = [], 0  # equal ids of two tables are not the same id
        for table in tables:
            codes.append(table.id_codes + ids)
            ids += len(table.pair_ids)
        self.codes = np.concatenate(codes)  # (rows,)
        has_query = [table.table["query"].is_valid().to_numpy() for table in tables]
        rows = np.flatnonzero(np.concatenate(has_query))
        self.rows = rows[np.argsort(self.codes[rows], kind="stable")]  # by id
        self.starts = np.searchsorted(self.codes[self.rows], np.arange(ids + 1))
        if np.diff(self.starts).max(initial=0) < 2:
            raise InputError(
                "no id has its query in two languages, so there are no parallel queries; leave"
                " query_kl out"
            )

    def row(self, query_row: int, passage_row: int) -> int:
        """Return the row of the query; `query_row` itself where the id has no other."""
        code = self.codes[query_row]
        own = self.rows[self.starts[code] : self.starts[code + 1]]
        others = own[own != query_row]
        if not others.size:
            return query_row
        draw = zlib.crc32(f"{self.seed} {query_row} {passage_row}".encode())
        return int(others[draw % others.size])


def _negative_names(negatives: int) -> list[str]:
    return [f"negative_{number}" for number in range(1, negatives + 1)]


def _as_columns(read: dict[str, list[Any]], negatives: int) -> dict[str, list[str]]:
    """Give each negative a column of its own; a missing text is the empty one."""
    columns = {name: [text or "" for text in read[name]] for name in read if name != "negatives"}
    if "negatives" in read:
        lists = [[*(texts or ()), *[""] * negatives] for texts in read["negatives"]]
        for number, name in enumerate(_negative_names(negatives)):
            columns[name] = [texts[number] for texts in lists]
    return columns


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

    sampler: EpochSampler | None

    def __call__(self, dataset: Dataset, batch_size: int, drop_last: bool, **_: Any) -> Any:
        """Return the batch sampler for a data set of the trainer."""
        if not isinstance(dataset, PairDataset):
            from sentence_transformers.base.sampler import DefaultBatchSampler
            from torch.utils.data import SequentialSampler

            return DefaultBatchSampler(SequentialSampler(dataset), batch_size, drop_last)
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

    def __getstate__(self) -> dict[str, None]:
        return {"sampler": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> "BatchSamplerFactory":
        return self


def batch_sampler_factory(sampler: EpochSampler) -> BatchSamplerFactory:
    """Wrap a sampler for `SentenceTransformerTrainingArguments(batch_sampler=...)`."""
    return BatchSamplerFactory(sampler)
