"""Hybrid batch training for multilingual dense retrieval: batches, evaluation, bias and repair.

A wing per noun, in the order data flows: `metrics`, `data`, `samplers`, `encoders`, `repair`,
`training`, `evaluation`; the study that uses them is `study`. What a user's own training needs can
be had from here too, and is imported when it is asked for: `import xir_lib` loads no torch. With
`XIR_OFFLINE` set it closes the Hub first (`paths.forbid_hub`).

>>> from xir_lib import StrategyBatchSampler
"""

from importlib import import_module
from typing import Any

from xir_lib.paths import forbid_hub

__version__ = "0.1.0"

EXPORTS = {
    "MultilingualRetrievalEvaluator": "evaluation.evaluator",
    "PairDataset": "samplers.dataset",
    "PairIndex": "samplers.index",
    "ParallelQueryLoss": "training.loss",
    "StrategyBatchSampler": "samplers.strategies",
    "batch_sampler_factory": "samplers.dataset",
    "from_dataset": "data.readers",
    "load_task": "data.tasks",
}

forbid_hub()


def __getattr__(name: str) -> Any:
    """Import one of `EXPORTS` from its module, the first time that it is asked for."""
    if name not in EXPORTS:
        raise AttributeError(f"module 'xir_lib' has no attribute {name!r}")
    return getattr(import_module(f"xir_lib.{EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *EXPORTS])
