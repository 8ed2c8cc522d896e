"""Where the nets take the code from: the one file here that changes when modules move."""

from xir_lib.data.records import (
    PAIR_SCHEMA,
    PASSAGE_SCHEMA,
    QREL_SCHEMA,
    QUERY_SCHEMA,
    PairTable,
    RetrievalTask,
)
from xir_lib.metrics.measures import SETTINGS
from xir_lib.metrics.significance import compare
from xir_lib.samplers.strategies import PairIndex, Strategy, StrategyBatchSampler
from xir_lib.study.profile import TrainData
from xir_lib.study.results import load_results
from xir_lib.study.sources import load_training
from xir_lib.training.settings import TrainSettings, batches_of

__all__ = [
    "PAIR_SCHEMA",
    "PASSAGE_SCHEMA",
    "QREL_SCHEMA",
    "QUERY_SCHEMA",
    "SETTINGS",
    "PairIndex",
    "PairTable",
    "RetrievalTask",
    "Strategy",
    "StrategyBatchSampler",
    "TrainData",
    "TrainSettings",
    "batches_of",
    "compare",
    "load_results",
    "load_training",
]
