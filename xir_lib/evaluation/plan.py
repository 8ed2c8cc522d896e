"""What one command evaluates: a model as it is and repaired, by the folder of each result.

All that can be refused is refused before a model is opened and before anything is encoded.
"""

from collections.abc import Sequence
from pathlib import Path

from xir_lib.data.records import RetrievalTask
from xir_lib.encoders.encoder import Encoder
from xir_lib.encoders.precision import Asked
from xir_lib.errors import InputError
from xir_lib.evaluation import bm25
from xir_lib.evaluation.sharded import Sharded
from xir_lib.evaluation.systems import Lexical, System, repaired
from xir_lib.repair.fit import FITS
from xir_lib.repair.kinds import LEXICAL
from xir_lib.repair.repair import Repair


def plan_repairs(
    task: RetrievalTask,
    kinds: Sequence[str],
    fits: Sequence[str] = FITS[:1],
    sources: Sequence[RetrievalTask] = (),
    fit_texts: int | None = None,
) -> list[Repair]:
    """Return every kind with every fit, each checked against the task.

    Among several fits `cross-fit` does without the sources, which it cannot use.
    """
    found = []
    for fit in fits:
        Repair(fit=fit)  # refused even where nothing is fitted
    for kind in kinds:
        for fit in fits:
            alone = fit == "cross-fit" and len(fits) > 1
            repair = Repair(kind, fit, () if alone else tuple(sources), fit_texts)
            repair.check(task)
            found.append(repair)
    return found


def lexical_parts(model: str) -> tuple[str, str] | None:
    """Take a model's name apart if it is BM25's: which one, and the encoder that cuts the texts.

    >>> lexical_parts("bm25-pieces:intfloat/multilingual-e5-small")
    ('bm25-pieces', 'intfloat/multilingual-e5-small')
    >>> lexical_parts("bm25"), lexical_parts("intfloat/multilingual-e5-small")
    (('bm25', ''), None)
    """
    kind, _, encoder = model.partition(":")
    if kind not in LEXICAL:
        return None
    if encoder and kind != bm25.PIECES:
        raise InputError(f"{kind} needs no encoder, got {model!r}; use {kind}")
    if kind == bm25.PIECES and not encoder:
        raise InputError(f"{kind} cuts texts as an encoder does; name it: {kind}:ENCODER")
    return kind, encoder


def open_systems(
    model: str,
    task: RetrievalTask,
    repairs: Sequence[Repair] = (),
    *,
    beside: Sequence[str] = (),
    cache: Path | None = None,
    shards: Path | None = None,
    precision: Asked = "auto",
) -> dict[str, System]:
    """Open a model and return its systems by the folder of each result; "" is the model itself.

    `model` is one of `kinds.LEXICAL` or what `Encoder` opens. `beside` are BM25s that stand beside
    an encoder.
    """
    if parts := lexical_parts(model):
        kind, name = parts
        return {"": Lexical(kind, task, Encoder(name) if name else None)}
    encoder = Encoder(model, cache=cache, precision=precision)
    if shards:
        return {"": Sharded(encoder, task, shards)}
    lexical = {kind: Lexical(kind, task, encoder) for kind in beside}
    return {**repaired(encoder, task, repairs), **lexical}
