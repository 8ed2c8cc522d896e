"""The seam between a `PairTable`, our sampler and sentence-transformers' stock trainer.

A sampler's batch names texts by (query_row, passage_row), row numbers of the table. `PairDataset` looks the texts up,
so that combinations of languages are never materialised; `batch_sampler_factory` is what goes into
`SentenceTransformerTrainingArguments(batch_sampler=...)`. Neither knows strategies, models or losses.
"""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from datasets.table import InMemoryTable

from xir_lib.corpora.records import PairTable
from xir_lib.errors import InputError
from xir_lib.samplers import StrategyBatchSampler


class PairDataset(Dataset):
    """A data set of two columns, `query` (the anchor) and `passage`, read by (query_row, passage_row).

    The trainer's data loader fetches a batch with `__getitems__`; a key there is a pair of row numbers. An integer,
    slice or column name reads the table's rows as in any `Dataset`, a missing text as the empty one: the model card
    reads rows and fails on nulls. No batch ever holds one.

    The order of the two columns matters to the losses; a third column would be trained on, so there is none.
    """

    @classmethod
    def from_pairs(cls, pairs: PairTable) -> "PairDataset":
        """Wrap the table; texts stay memory-mapped."""
        data = cls(InMemoryTable(pairs.table.select(["query", "passage"])))
        data.set_transform(_nulls_to_empty)
        return data

    def __getitems__(self, keys: list[Any]) -> list[dict[str, Any]]:
        """Return one {"query", "passage"} per (query_row, passage_row); integer keys are rows of the table."""
        if not keys or not isinstance(keys[0], tuple):
            return super().__getitems__(keys)
        query_rows, passage_rows = zip(*keys, strict=True)
        queries, passages = self._texts("query", query_rows), self._texts("passage", passage_rows)
        return [{"query": query, "passage": passage} for query, passage in zip(queries, passages, strict=True)]

    def _texts(self, column: str, rows: tuple[int, ...]) -> list[str]:
        texts = pc.take(self.data.table[column], pa.array(rows, pa.int64()))
        if texts.null_count:
            row = next(row for row, text in zip(rows, texts.to_pylist(), strict=True) if text is None)
            raise InputError(
                f"row {row} of the pair table has no {column}; the sampler and the data set are of different tables"
            )
        return texts.to_pylist()


def _nulls_to_empty(columns: dict[str, list[str | None]]) -> dict[str, list[str]]:
    return {name: [text or "" for text in texts] for name, texts in columns.items()}


@dataclass
class BatchSamplerFactory:
    """The callable that makes the trainer use `sampler` for its `PairDataset`.

    The trainer asks the same callable for the sampler of a validation set: a plain `Dataset` gets its rows in order.
    The trainer's generator and seed are ignored, since the sampler's own seed fixes the batches; a trainer batch
    size that is not the sampler's is refused.

    sentence-transformers leaves a callable out of the readable training arguments (save `sampler.report()` yourself)
    and pickles it into every checkpoint's `training_args.bin`: the index stays out of that, so a copy read back from
    there has no sampler and refuses to make one.
    """

    sampler: StrategyBatchSampler | None

    def __call__(self, dataset: Dataset, batch_size: int, drop_last: bool, **_: Any) -> Any:
        """Return the batch sampler for a data set of the trainer."""
        if isinstance(dataset, PairDataset):
            if self.sampler is None:
                raise InputError("these training arguments were read back from a file; set batch_sampler again")
            if batch_size != self.sampler.batch_size:
                raise InputError(
                    f"the trainer's batch size is {batch_size}, the sampler's {self.sampler.batch_size}; make them equal"
                )
            return self.sampler
        from sentence_transformers.base.sampler import DefaultBatchSampler
        from torch.utils.data import SequentialSampler

        return DefaultBatchSampler(SequentialSampler(dataset), batch_size=batch_size, drop_last=drop_last)

    def __getstate__(self) -> dict[str, None]:
        return {"sampler": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> "BatchSamplerFactory":
        return self


def batch_sampler_factory(sampler: StrategyBatchSampler) -> BatchSamplerFactory:
    """Wrap a sampler for `SentenceTransformerTrainingArguments(batch_sampler=...)`."""
    return BatchSamplerFactory(sampler)
