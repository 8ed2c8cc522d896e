"""Batch strategies: which pairs stand together in a batch. Knows no text and no model."""

from xir_lib.samplers.index import PairIndex
from xir_lib.samplers.mixture import MixtureBatchSampler
from xir_lib.samplers.recipes import LanguageDraw, Strategy
from xir_lib.samplers.strategies import StrategyBatchSampler

__all__ = ["LanguageDraw", "MixtureBatchSampler", "PairIndex", "Strategy", "StrategyBatchSampler"]
