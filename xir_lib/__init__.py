"""Hybrid batch training for multilingual dense retrieval: batch strategies, evaluation, language
bias.

The modules follow the data: `corpora` -> `samplers` -> `encoders` -> `training` -> `retrieval` ->
`metrics`, `bias`, `significance` -> `study`. Importing the package imports none of them, so that
reading results does not load torch. With `XIR_OFFLINE` set it closes the Hub first
(`paths.forbid_hub`).
"""

from xir_lib.paths import forbid_hub

__version__ = "0.1.0"

forbid_hub()
