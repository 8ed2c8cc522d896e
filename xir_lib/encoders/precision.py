"""Choose the precision that this machine computes an encoder faster in, by measurement.

Instructions for bfloat16 say little: with `avx512_bf16` one processor is twice as fast in bfloat16
and another takes twice as long. So the encoder's own products are timed, once per machine: the
rates are kept in the user's cache, because a choice that flips between two starts would make them
two runs. Knows no task and no training.
"""

import hashlib
import json
import logging
import time
from functools import cache
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from filelock import FileLock

from xir_lib.paths import atomic_path, cache_dir
from xir_lib.record import processor

if TYPE_CHECKING:
    from torch.nn import Module

log = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16"]
Asked = Literal["auto", "float32", "bfloat16"]
Rates = dict[Precision, float]  # GFLOP/s
FASTER = 1.2  # times float32's rate: what bfloat16 must reach, since it rounds
TOKENS, ROUNDS = 1024, 5  # as many tokens as a batch of `encoders.encode` on CPU
USUAL = (384, 1536)  # multilingual-e5-small's


class Choice(NamedTuple):
    """What is computed in, and the measured rates that say so; none if it was asked for or on a
    GPU.
    """

    precision: Precision
    rates: Rates


def choose(asked: Asked, model: "Module") -> Choice:
    """Return the precision for `model` on its device: the one asked for, or for "auto" the faster.

    On CPU "auto" is bfloat16 autocast if its products are at least `FASTER` times as fast as
    float32's, by `measure`. On CUDA it is bfloat16 where the GPU has it; on other devices float32.
    """
    if asked != "auto":
        return Choice(asked, {})
    device = next((parameter.device.type for parameter in model.parameters()), "cpu")
    if device == "cuda":
        import torch

        half = torch.cuda.is_bf16_supported(including_emulation=False)
        return Choice("bfloat16" if half else "float32", {})
    if device != "cpu":
        return Choice("float32", {})
    rates = _kept_rates(processor(), shape_of(model), cache_dir())
    return Choice(faster(rates), rates)


def faster(rates: Rates) -> Precision:
    """Return bfloat16 if it is clearly faster.

    >>> faster({"float32": 100.0, "bfloat16": 119.0}), faster({"float32": 100.0, "bfloat16": 121.0})
    ('float32', 'bfloat16')
    """
    return "bfloat16" if rates["bfloat16"] >= FASTER * rates["float32"] else "float32"


def shape_of(model: "Module") -> tuple[int, int]:
    """Return the sizes of the model's largest linear layer, the smaller first; `USUAL` if it has
    none.

    In a transformer that is hidden by feed-forward size, whatever its configuration calls them.
    """
    from torch.nn import Linear

    layers = (part for part in model.modules() if isinstance(part, Linear))
    sizes = ((min(one.weight.shape), max(one.weight.shape)) for one in layers)
    return max(sizes, key=lambda size: size[0] * size[1], default=USUAL)


def measure(hidden: int, wide: int) -> Rates:
    """Time two linear layers, hidden -> wide -> hidden, on `TOKENS` rows in both precisions, in
    GFLOP/s.

    As an encoder computes them: float32 layers, under autocast for bfloat16, its casts included.
    One thread, as a batch of `encode` has; so the answer doesn't depend on how many this process
    happens to have. Best of `ROUNDS` in turns, after one that warms up: a busy moment slows both or
    neither.
    """
    import torch
    from torch.nn import Linear, Sequential

    with torch.random.fork_rng(devices=[]):  # a training's random numbers stay what they were
        layers = Sequential(Linear(hidden, wide), Linear(wide, hidden))
        rows = torch.randn(TOKENS, hidden)
    seconds: dict[Precision, list[float]] = {"float32": [], "bfloat16": []}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(1 + ROUNDS):
            for name, taken in seconds.items():
                half = name == "bfloat16"
                with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
                    started = time.perf_counter()
                    layers(rows)
                    taken.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    work = 2 * 2 * TOKENS * hidden * wide / 1e9
    return {name: round(work / min(taken[1:]), 1) for name, taken in seconds.items()}


@cache
def _kept_rates(name: str, shape: tuple[int, int], folder: Path) -> Rates:
    """Return the rates from the user's cache, measured and kept there if they are not in it.

    A lock makes a second process wait for the first one's rates. A damaged file is measured anew,
    and a cache that cannot be written costs a measurement per process.
    """
    import torch

    key = {
        "processor": name,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "shape": shape,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / "precision" / f"{digest}.json"
    if rates := _read(path):
        return rates
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if rates := _read(path):
                return rates
            rates = measure(*shape)
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps({**key, "gflops": rates}) + "\n", encoding="utf-8")
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        log.debug("the rates of %s are not kept: %s", name, error)
    return rates or measure(*shape)


def _read(path: Path) -> Rates | None:
    """Return the rates that a file holds; None if it is not there or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["gflops"]
        rates: Rates = {name: float(found[name]) for name in ("float32", "bfloat16")}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return rates if all(0 < rate < inf for rate in rates.values()) else None
