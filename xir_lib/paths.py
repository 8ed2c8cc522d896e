"""Where things are, how they come into being (whole or not at all), and which may be replaced
(ours).
"""

import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from xir_lib.errors import InputError

REPO = Path(__file__).resolve().parent.parent
MARK = ".xir"  # a file in the root of a build folder: what lies in it is ours to replace
BEFORE_MARKS = (".lock", ".snakemake", "profile.yaml")  # what `xir study` left before


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
    """Return `path` if it exists, else raise an `InputError` that names it and what would
    make it.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; {remedy}")
    return path


def named(path: str | Path) -> Path:
    """Return a folder's path with its name at the end, which `.` and `..` hide; `/` has none and is
    refused.
    """
    path = Path(path)
    path = path.resolve() if path.name in ("", "..") else path
    if not path.name:
        raise InputError(f"{path} names no folder of its own; give the folder's name")
    return path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary neighbour of `path` and rename it onto `path` if the block succeeds.

    Works for a file and for a folder; the name is unique, so two processes that make the same thing
    do not meet, and the later rename wins (for a folder that is already there, the first one does:
    `replace_folder` is for those). On an error the temporary is removed and `path` is left as it
    was.
    """
    path = Path(path)
    with _beside(path) as temporary:
        yield temporary
        if not (temporary.is_dir() and path.is_dir()):
            temporary.replace(path)


@contextmanager
def replace_folder(path: str | Path, owned: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield a temporary neighbour of the folder `path` that takes its place if the block succeeds.

    A folder cannot be renamed onto another one. So the old one steps aside, the new one takes its
    name, and only then the old one goes: at any moment one of the two is there, whole, and after a
    kill in between the next call (or `put_back`) gives the old one its name again.

    `owned` says whether a folder is ours to replace. Another one, unless it is empty, is refused in
    one line before the block and, since that may take hours, once more after it; then and on any
    other error `path` is left as it was. One process at a time replaces a folder.
    """
    path = named(path)
    put_back(path, owned)
    refuse_foreign(path, owned)
    with _beside(path) as temporary:
        yield temporary
        refuse_foreign(path, owned)
        try:
            if path.is_dir():
                path.rename(_aside(path))
            temporary.rename(path)
        except BaseException:
            put_back(path, owned)
            raise
    _discard(_aside(path))


def put_back(path: Path, owned: Callable[[Path], bool]) -> None:
    """Give a folder that `replace_folder` set aside its name again, or remove it if the new one has
    it.
    """
    aside = _aside(path)
    if aside.is_dir() and not _holds_anything(path):
        aside.rename(path)
    elif owned(path):
        _discard(aside)


def refuse_foreign(path: Path, owned: Callable[[Path], bool]) -> None:
    """Refuse a file, and a folder with anything in it that is not ours by `owned`."""
    if _holds_anything(path) and not owned(path):
        raise InputError(
            f"{path} is there and xir did not make it, so it stays; name another folder or move it"
            " away"
        )


def is_build(folder: Path) -> bool:
    """Say whether a folder is a profile's build folder, by our mark or by all that there was before
    it.
    """
    return (folder / MARK).is_file() or all((folder / name).exists() for name in BEFORE_MARKS)


def claim_build(folder: Path) -> None:
    """Make or enter a build folder and mark it; one that holds anything and is not ours is
    refused.
    """
    refuse_foreign(folder, is_build)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text("xir replaces what lies in this folder\n", encoding="utf-8")


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.xir-aside")


def _discard(aside: Path) -> None:
    """Remove a folder under another name than its own: what is called as by `_aside` must be
    whole.
    """
    if aside.is_dir():
        with _beside(aside) as gone:
            aside.rename(gone)


def _holds_anything(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` that nobody else has; what bears it at the end is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
    finally:
        if temporary.is_dir() and not temporary.is_symlink():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
