"""Where the nets take the code from: the one file here that changes when modules move."""

from xir_lib.corpora.records import (
    PAIR_SCHEMA,
    PASSAGE_SCHEMA,
    QREL_SCHEMA,
    QUERY_SCHEMA,
    PairTable,
    RetrievalTask,
)
from xir_lib.metrics import SETTINGS
from xir_lib.samplers import PairIndex, Strategy, StrategyBatchSampler
from xir_lib.significance import compare
from xir_lib.study import TrainData, load_results, load_training
from xir_lib.train_settings import TrainSettings, batches_of

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
