"""The old name of `xir_lib.evaluation.evaluator`, kept for one release."""

from xir_lib.evaluation.evaluator import (
    MultilingualRetrievalEvaluator as MultilingualRetrievalEvaluator,
)
