"""Where things are, and how a file comes into being: whole or not at all."""

import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from xir_lib.errors import InputError

REPO = Path(__file__).resolve().parent.parent


def cache_dir() -> Path:
    """Return the per-user cache folder (`XDG_CACHE_HOME` is respected); it need not exist yet."""
    return Path(platformdirs.user_cache_dir("xir"))


def data_dir() -> Path:
    """Return the folder of the data sets: `XIR_DATA` if set, else `data` in the user's cache."""
    value = os.environ.get("XIR_DATA")
    return Path(value).expanduser().resolve() if value else cache_dir() / "data"


def offline() -> bool:
    """Say whether `XIR_OFFLINE` forbids the network (any value but empty and `0`)."""
    return os.environ.get("XIR_OFFLINE", "") not in ("", "0")


def forbid_hub() -> None:
    """Keep Hugging Face's clients off the network from now on, if `XIR_OFFLINE` says so.

    `local_files_only` is not enough: the Hub's client fetches a registry for its user agent even to
    look into its cache, and model cards are looked up beside. `HF_HUB_OFFLINE` stops all of it, for
    transformers, sentence-transformers, datasets and telemetry too, but is read once, on import. So
    `import xir_lib` calls this before it imports any of them, and what the caller has imported
    already is told as well; it is called again where a hub id is opened, for an `XIR_OFFLINE` that
    was set later.
    """
    if offline():
        os.environ["HF_HUB_OFFLINE"] = "1"
        for name in ("huggingface_hub.constants", "datasets.config"):
            if module := sys.modules.get(name):
                vars(module)["HF_HUB_OFFLINE"] = True


def require(path: Path, remedy: str) -> Path:
    """Return `path` if it exists, else raise an `InputError` that names it and what would make it."""
    if not path.exists():
        raise InputError(f"{path} does not exist; {remedy}")
    return path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary neighbour of `path` and rename it onto `path` if the block succeeds.

    Works for a file and for a folder; the name is unique, so two processes that make the same thing do not
    meet, and the later rename wins (for a folder that is already there, the first one does). On an error the
    temporary is removed and `path` is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
