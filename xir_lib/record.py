"""The record of a run: what made it, on which data and machine, as JSON beside the model.

Knows no model and no training loop; `training` and `evaluation` write with it.
"""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from xir_lib.errors import InputError
from xir_lib.paths import atomic_path

_BEFORE: dict[str, Any] = {  # what runs had that were recorded before these were
    "one_language_per_id": False,
    "query_kl": 0.0,
    "ids": None,
    "languages": None,
    "negatives": 0,
    "precision": "auto",
    "computed_in": "float32",
}


def read_run(folder: Path) -> dict[str, Any]:
    """Return the `run.json` of a model folder; a folder without one is refused."""
    path = Path(folder) / "run.json"
    if not path.exists():
        raise InputError(
            f"{folder} has no run.json, so it is not a run of xir; remove it or choose another"
            " folder"
        )
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        run = None
    if not isinstance(run, dict) or not {"encoder", "settings"} <= run.keys():
        raise InputError(f"{path} is no record of a run of xir; choose another folder")
    return run


def is_run(folder: Path) -> bool:
    """Say whether a folder holds a model that `training.train` made, by its `run.json`."""
    try:
        return bool(read_run(folder))
    except InputError:
        return False


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON with a final newline, atomically; NaN is refused."""
    with atomic_path(path) as temporary:
        temporary.write_text(
            json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
            encoding="utf-8",
        )


def weights_digest(folder: Path) -> str | None:
    """Return the sha256 of an encoder's weights, its safetensors files; None for a name that is no
    folder.

    Hidden folders (checkpoints) and models that lie inside the folder are not its own.
    """
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        name = path.relative_to(folder)
        inside = [folder / parent for parent in name.parents][:-1]
        if any(one.name.startswith(".") or (one / "modules.json").exists() for one in inside):
            continue
        digest.update(name.as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def difference(there: dict[str, Any], here: dict[str, Any]) -> str:
    """Say in one line where two records of `encoder`, digests and `settings` differ.

    >>> there, here = ({"encoder": "a", "settings": {"seed": seed}} for seed in (1, 2))
    >>> difference(there, here)
    'seed 1 there, 2 here'
    """
    there = dict(there)
    if "precision" in there:  # of a checkpoint, as `computed_in` was once called
        there.setdefault("computed_in", there.pop("precision"))
    old, new = ({**record, **record.get("settings", {})} for record in (there, here))
    # A record that does not say which weights it had is believed to have had the same.
    old = {"encoder_sha256": new.get("encoder_sha256"), **_BEFORE, **old}
    names = [name for name in new if name != "settings" and old.get(name) != new[name]]
    return "; ".join(
        f"{name} {old.get(name)!s:.40} there, {new[name]!s:.40} here" for name in names
    )


def environment(
    precision: str | None = None, rates: Mapping[Any, float] | None = None
) -> dict[str, Any]:
    """Return device, threads and versions of what computes, for `run.json` and `metrics.json`.

    Where an encoder computed also the precision that it did it in (autocast's), and the rates of
    `precision.measure` that it was chosen by, if it was.
    """
    import torch

    device = f"CPU, {os.cpu_count()} cores ({platform.machine()})"
    packages = ("xir-lib", "torch", "sentence-transformers", "transformers", "numpy")
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else device,
        "processor": processor(),
        **({"precision": precision} if precision else {}),
        **({"probe_gflops": rates} if rates else {}),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def processor() -> str:
    """Name the processor: model, family and steppings where Linux tells them, its instructions for
    bfloat16.

    Virtual machines shorten the model's name, so that it alone would join different processors.
    """
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return platform.processor() or platform.machine()
    lines = (line.partition(":") for line in first.splitlines())
    told = {name.strip(): value.strip() for name, _, value in lines}
    numbers = ("cpu family", "model", "stepping", "CPU implementer", "CPU part", "CPU variant")
    flags = told.get("flags", told.get("Features", "")).split()
    parts = [f"{name} {told[name]}" for name in numbers if name in told]
    parts += sorted(flag for flag in flags if "bf16" in flag or flag.startswith("amx"))
    return f"{told.get('model name', platform.machine())} ({', '.join(parts)})"
