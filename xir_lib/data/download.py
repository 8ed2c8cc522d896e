"""Bring a data set of the catalogue from upstream to its folder, whole or not at all.

`pooch` downloads and tries again. What is ours: each file is checked before it gets its name, two
processes take turns, a mirror may stand for upstream, and every failure is one line.

A file of the Hub without a sum in the catalogue is checked by what the Hub (or the mirror) tells of
it: the SHA-256 of a large file, the git blob's SHA-1 of a small one; a revision is the hash of a
commit, so both are fixed. miracl/miracl is gated: the Hub gives it only to who accepted its terms;
a token in HF_TOKEN, or of `hf auth login`, is sent to the Hub and to no mirror.
"""

import logging
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from xir_lib.data.catalogue import (
    RECORD,
    DataSet,
    File,
    dataset,
    folder_of,
    problem_of,
    recorded,
    sha256_of,
    verify,
)
from xir_lib.errors import InputError
from xir_lib.paths import atomic_path, offline

log = logging.getLogger(__name__)

PARTIAL = ".partial"  # in a data set's folder: what is half-made; the next download clears it away
RETRIES = 2  # after a broken-off body, a stall, a server error or a wrong sum
HUB = "https://huggingface.co"


@dataclass(frozen=True)
class _How:
    base_url: str | None
    progress: bool
    timeout: float


def get(
    name: str, *, base_url: str | None = None, progress: bool = True, timeout: float = 30.0
) -> Path:
    """Download what is missing or wrong of a data set and return its folder.

    A file that is there and right is not fetched again, so a killed download goes on with the file
    it was at. A second process waits for the first. `base_url` stands for a mirror that keeps
    upstream's paths: it replaces scheme and host. `timeout` is in seconds, for the connection and
    for each silence after it. Every failure is an `InputError`, and leaves no part of a file.
    """
    data, folder = dataset(name), folder_of(name)
    if not timeout > 0:
        raise InputError(f"timeout must be above 0 seconds, got {timeout:g}")
    if not verify(name):
        return folder
    if base_url and (unpinned := [file.path for file in data.files if not file.sha256]):
        names = ", ".join(unpinned)
        log.warning("%s: no sum of %s is on record here; the mirror's is believed", name, names)
    how = _How(base_url, progress, timeout)
    try:
        with _alone(folder):
            for file in data.files:
                _fetch(file, folder, how)
            if data.archive and verify(name):
                _fetch(data.archive, folder, how)
                _unpack(folder / data.archive.path, data, folder)
    except OSError as error:
        raise InputError(
            f"cannot write into {folder} ({error.strerror or error}); set XIR_DATA to a folder that"
            " can be written"
        ) from error
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the data set's lock, and clear away what is half-made before and after."""
    import filelock

    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        log.warning("another process is downloading %s; waiting for it", folder.name)
        lock.acquire()
    try:
        shutil.rmtree(folder / PARTIAL, ignore_errors=True)
        yield
    finally:
        shutil.rmtree(folder / PARTIAL, ignore_errors=True)
        lock.release()


def _fetch(file: File, folder: Path, how: _How) -> None:
    """Bring one file to its place, unless it is there and right."""
    import requests

    target = folder / file.path
    if problem_of(file, folder) is None:
        return
    if offline():
        raise InputError(
            f"XIR_OFFLINE is set; unset it to download {file.url}, or put the file at {target}"
        )
    url = how.base_url.rstrip("/") + urlsplit(file.url).path if how.base_url else file.url
    try:
        expected = file.sha256 or _ask_hub(url, how.timeout)
        if not target.is_file() or not _has_sum(target, expected):
            arrived = _download(url, folder / PARTIAL / file.path, expected, how)
            target.parent.mkdir(parents=True, exist_ok=True)
            arrived.replace(target)
    except requests.RequestException as error:
        raise InputError(f"{url}: {_explain(error, url)}, or put it at {target}") from error
    if file.sha256 is None:
        sums = {**recorded(folder), file.path: sha256_of(target)}
        with atomic_path(folder / RECORD) as temporary:
            lines = [f"{found}  {name}\n" for name, found in sorted(sums.items())]
            temporary.write_text("".join(lines), encoding="utf-8")


def _download(url: str, to: Path, expected: str, how: _How) -> Path:
    """Download a file that is not there; a body with another sum than expected is not kept."""
    import pooch
    from tqdm import tqdm

    def download(url: str, output: str, _: Any) -> None:
        name = url.rsplit("/", 1)[-1]
        # pooch sets the total; without one a bar is false, and pooch would pass it over
        with tqdm(desc=name, total=1, unit="B", unit_scale=True, disable=not how.progress) as bar:
            fetch = pooch.HTTPDownloader(bar, 1 << 16, timeout=how.timeout, headers=_headers(url))
            fetch(url, output, None)
        if not _has_sum(Path(output), expected):  # here, since pooch knows no git blobs
            size, found = Path(output).stat().st_size, sha256_of(Path(output))
            raise InputError(
                f"{url}: arrived with {size} bytes and sha256 {found}, expected the sum {expected};"
                " nothing was kept"
            )

    pooch.get_logger().setLevel("WARNING")
    store = pooch.Pooch(to.parent, "", {to.name: None}, {to.name: url}, retry_if_failed=RETRIES)
    return Path(store.fetch(to.name, downloader=download))


def _headers(url: str) -> dict[str, str]:
    # a compressed body would hide its length, by which a broken-off one is noticed
    headers = {"Accept-Encoding": "identity"}
    if url.startswith(f"{HUB}/"):  # no mirror is told the token
        from huggingface_hub import get_token

        if token := get_token():  # requests drops it where the Hub redirects to another host
            headers["Authorization"] = f"Bearer {token}"
    return headers


def _ask_hub(url: str, timeout: float) -> str:
    """Return the sum that the Hub has on record for a file.

    A large file is redirected to its store, and the Hub's own answer holds the SHA-256 of its
    content; the ETag of a small one is the SHA-1 of its git blob.
    """
    import requests

    answer = requests.head(url, headers=_headers(url), timeout=timeout, allow_redirects=False)
    answer.raise_for_status()
    tag = answer.headers.get("X-Linked-ETag") or answer.headers.get("ETag") or ""
    found = tag.removeprefix("W/").strip('"')
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", found):
        raise InputError(f"{url}: the server tells no sum of it (ETag {tag!r}); use the Hub itself")
    return found


def _has_sum(path: Path, expected: str) -> bool:
    """Say whether a file has this SHA-256 or, if of 40 digits, this SHA-1 of its git blob."""
    from huggingface_hub.utils.sha import git_hash

    return expected == (git_hash(path.read_bytes()) if len(expected) == 40 else sha256_of(path))


def _explain(error: Any, url: str) -> str:
    """Say in a clause what went wrong and what may help; `error` is one of requests'."""
    if error.response is None:  # no answer, or one that broke off
        return f"{' '.join(str(error).split())}; try again later"
    answered = f"the server answered {error.response.status_code} {error.response.reason}"
    if error.response.status_code in (401, 403) and url.startswith(f"{HUB}/"):
        page = url.split("/resolve/")[0]
        return f"{answered}: accept the terms at {page} and set HF_TOKEN to that account's token"
    return f"{answered}; try again later"


def _unpack(archive: Path, data: DataSet, folder: Path) -> None:
    """Unpack what is missing or wrong of the members, each checked, and delete the archive."""
    with zipfile.ZipFile(archive) as bundle:
        for member in data.members:
            if problem_of(member, folder) is None:
                continue
            target, name = folder / member.path, f"{data.root}/{member.path}"
            if name not in bundle.namelist():
                raise InputError(f"{archive} has no {name}; this is not the published archive")
            unpacked = Path(bundle.extract(name, folder / PARTIAL))
            if problem := problem_of(member, folder / PARTIAL / data.root):
                raise InputError(f"{archive}: {problem}")
            target.parent.mkdir(parents=True, exist_ok=True)
            unpacked.replace(target)
    archive.unlink()
