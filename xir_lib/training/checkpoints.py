"""The folder of a run's checkpoints: whose it is, which one is complete, when it goes away.

A folder holds `run.json` (the identity of the run and the steps at which it was resumed) and
`checkpoint-STEP` folders that the trainer writes. The trainer does not write them atomically, but
`trainer_state.json` comes last: a folder is a checkpoint once that file can be read. From the first
one on a complete checkpoint is there at any moment, since older ones are removed only after a newer
one is complete. Knows no model; `trainer` fills the folders.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from xir_lib.errors import InputError
from xir_lib.paths import atomic_path
from xir_lib.record import difference, write_json

Every = int | Literal["auto"] | None


class NotFiniteError(InputError):
    """Training went to NaN or infinity, and the same call would again."""


@dataclass(frozen=True)
class Checkpoints:
    """The open checkpoint folder of a run. As a context manager it goes away at the end, unless the
    block was interrupted and the same call can go on from it::

        with open_checkpoints(folder, identity, every="auto") as checkpoints:
            trainer.train(resume_from_checkpoint=checkpoints.newest)
    """

    folder: Path
    every: Every  # steps; by the clock; never
    newest: Path | None  # complete, to be resumed from
    resumed_at_steps: list[int]  # that of `newest` included

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        again = kind is not None and not issubclass(kind, NotFiniteError)
        if not (again and any(self.folder.glob("checkpoint-*"))):
            remove_checkpoints(self.folder)


def open_checkpoints(
    folder: Path, identity: dict[str, Any], *, every: Every, overwrite: bool = False
) -> Checkpoints:
    """Make or enter the checkpoint folder of a run; note a resumption if a checkpoint is complete.

    What a kill left half-written is removed. Checkpoints of another run are refused in one line, or
    removed if `overwrite` is set.
    """
    record = folder / "run.json"
    resumed: list[int] = []
    _refuse_foreign(folder)
    if folder.exists():
        found = json.loads(record.read_text(encoding="utf-8"))
        if not (differs := difference(found, identity)):
            resumed = found["resumed_at_steps"]
        elif overwrite:
            remove_checkpoints(folder)
        else:
            raise InputError(
                f"{folder} holds a checkpoint of another run ({differs}); finish that run or remove"
                " the folder"
            )
    if not folder.exists():
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            write_json(temporary / "run.json", {**identity, "resumed_at_steps": resumed})
    steps = {path: _step(path) for path in folder.glob("checkpoint-*")}
    newest = max(filter(steps.get, steps), key=steps.__getitem__, default=None)
    for path in steps.keys() - {newest}:
        shutil.rmtree(path)
    if newest is not None:
        resumed.append(steps[newest])
        write_json(record, {**identity, "resumed_at_steps": resumed})
    return Checkpoints(folder, every, newest, resumed)


def remove_checkpoints(folder: Path, of: dict[str, Any] | None = None) -> None:
    """Remove a checkpoint folder if it is there and ours, by its `run.json`, which goes last.

    With `of`, an identity, only those of that run: another one may be killed and waiting.
    """
    record = folder / "run.json"
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()  # of a removal that was killed
    elif record.is_file():
        if of and difference(json.loads(record.read_text(encoding="utf-8")), of):
            return
        for path in folder.glob("*/"):
            shutil.rmtree(path)
        shutil.rmtree(folder)


def _refuse_foreign(folder: Path) -> None:
    """Refuse what stands in the way and is not ours; remove what a killed removal left."""
    if folder.exists() and not (folder / "run.json").is_file():
        if not folder.is_dir() or any(folder.iterdir()):
            raise InputError(
                f"{folder} is in the way and holds no run of xir; remove it or choose another"
                " folder for the model"
            )
        folder.rmdir()


def _step(checkpoint: Path) -> int:
    """Return the step of a complete checkpoint, 0 for one that a kill left half-written."""
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        return int(state["global_step"])
    except (OSError, ValueError, KeyError):
        return 0
