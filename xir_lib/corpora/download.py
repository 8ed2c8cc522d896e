"""Fetch the data sets from upstream at pinned revisions, whole or not at all, and say what is there.

Every download is checked against a SHA-256 before it gets its name, so what lies in the data folder is right or
was put there by someone else, which `verify` tells. Two sources of sums:

- XQuAD-R and MLQA-R: the files of github.com/google-research-datasets/lareqa at the revisions named below.
- MLQA v1: upstream publishes one archive and no sum; the sum here is the one TensorFlow Datasets has on record
  (tensorflow_datasets/url_checksums/mlqa.txt). Of its 49 test files the sixteen that `mlqa` reads are unpacked.
  They carry titles and answers, and copies without those load as the same table, so the unpacked files are
  verified by what matters, the number of questions in each, and not by sum.

Knows no record type and no model. The network is touched by `get` alone.
"""

import logging
import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from xir_lib.corpora import mlqa, squad
from xir_lib.errors import InputError
from xir_lib.paths import atomic_path, data_dir, offline

if TYPE_CHECKING:
    import requests

log = logging.getLogger(__name__)

ATTEMPTS = 3  # for what may pass: a broken-off body, a stall, a server error
PAUSE = 1.0  # seconds before the second attempt, twice that before the third


@dataclass(frozen=True)
class RemoteFile:
    """A file at a fixed address; `path` is relative to the data set's folder, `size` in bytes."""

    path: str
    url: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Member:
    """A file of the archive, unpacked to `path`; right if it holds this many questions."""

    path: str
    questions: int


@dataclass(frozen=True)
class DataSet:
    """Either plain `files`, or `members` of one `archive`, which is deleted once they are unpacked.

    In the archive the members lie in one folder, `root`.
    """

    name: str
    description: str
    licence: str
    files: tuple[RemoteFile, ...] = ()
    archive: RemoteFile | None = None
    root: str = ""
    members: tuple[Member, ...] = ()

    @property
    def parts(self) -> tuple[RemoteFile | Member, ...]:
        """What lies in the folder when the data set is complete."""
        return (*self.files, *self.members)

    @property
    def download_size(self) -> int:
        """Bytes to fetch."""
        return sum(file.size for file in self.files) + (self.archive.size if self.archive else 0)


_LAREQA = "https://raw.githubusercontent.com/google-research-datasets/lareqa"


def _lareqa(folder: str, revision: str, sums: dict[str, tuple[int, str]]) -> tuple[RemoteFile, ...]:
    return tuple(
        RemoteFile(f"{lang}.json", f"{_LAREQA}/{revision}/{folder}/{lang}.json", sha256, size)
        for lang, (size, sha256) in sums.items()
    )


_XQUAD_R = {
    "ar": (2_234_875, "c52922d3b8ac1ae03ed5ac38647ad59870dca3dda2beefe18ecdc30729acb69d"),
    "de": (732_156, "16fb0f4bf4916154b585a20c24c66074591c9718a1affe764ff4697572328949"),
    "el": (2_810_127, "163fd43ee785a30eb534ae2061e9eaa766a7ee4e8ffce5e4b422480c150f64b6"),
    "en": (628_651, "7b0954f39297c27a31fef610f0883337dd2907fa8699151dc922afdd0fa12ffe"),
    "es": (746_335, "f8e836b2d91009c4363e04315f7ede363eedbbb49c67dda60de6c4aa782f58de"),
    "hi": (2_408_404, "ea45ba8ae4513d1533b222bebdc02a90bc319c055d3aeea68584a053d2e92872"),
    "ru": (2_764_904, "7f4dff853538b9a5fcc28c070b8bb983a5c5d190ac747b8e005a1ada9cab18f1"),
    "th": (2_618_544, "c3a041864c3a9fb0b4dd91cfdf99cf36b411b3e704c58a303c97bc6dc786cfe4"),
    "tr": (827_827, "f3e8c13002bbce154a4578f535f7533cb70f3da08840e6b62735935baec7bd94"),
    "vi": (1_132_303, "e35926bf5cc6fc6ecbdfca49467aabeb454f08d152d7818143a906bd31dde995"),
    "zh": (959_291, "80c2cde7b9c2fb134c303cbb52f2ba396ead9eb0014aec43993543d2ba9e93ed"),
}
_MLQA_R = {
    "ar": (3_329_081, "2132fbc03208535c0fe01f2e2c5121d06f9c2aa799af93b0a719dbc105bdf137"),
    "de": (887_185, "ce9454dc5aa6f2d85c23cd6e49cb367fbb7c4c6e62d7f71e355c6b5dae4d0886"),
    "en": (2_251_129, "fedd9a5cc0848dda80caf84aa36f482adaae230526a3f6e9e86926a93ef3b1e4"),
    "es": (819_818, "70ecba276b8c96a692b120693a595d076ce94ad21d4b28311538a9fcbfe0f9d7"),
    "hi": (3_179_023, "4dd0fb3c06f737a5481d705bc1dcac7876712a5815c9265908fbb3a0696cb654"),
    "vi": (1_807_239, "9d3baff6ba03e6793b25594217265ea59a136b9733833dca8a9582a84a78ff85"),
    "zh": (1_360_698, "57f01d2fff50cf3392805635b01445339f225ad5bf28ba8443b12f8dbd1e69dc"),
}
_MLQA_QUESTIONS = {
    "de": {"ar": 1649, "es": 1776, "hi": 1430, "vi": 1675, "zh": 1621},
    "es": {"ar": 1978, "de": 1776, "hi": 1723, "vi": 2018, "zh": 1947},
    "vi": {"de": 1675},
    "zh": {"ar": 1912, "de": 1621, "es": 1947, "hi": 1767, "vi": 1943},
}

DATASETS: dict[str, DataSet] = {
    data.name: data
    for data in (
        DataSet(
            "xquad-r",
            "LAReQA's XQuAD-R: 1,190 questions in 11 languages, sentence retrieval (evaluation)",
            "CC BY-SA 4.0",
            files=_lareqa("xquad-r", "9bc8c7fb6dd8d01d72a05a93c2cb96882b0d299c", _XQUAD_R),
        ),
        DataSet(
            "mlqa-r",
            "LAReQA's MLQA-R: 1,148 questions in 2 to 4 of 7 languages, sentence retrieval (evaluation)",
            "CC BY-NC 4.0 (LAReQA); CC BY-SA 3.0 (MLQA)",
            files=_lareqa("mlqa-r", "354d67d1cd066854cdfbf5ad0e6105528976141d", _MLQA_R),
        ),
        DataSet(
            "mlqa-v1",
            "MLQA v1 test, 16 of its files: 9,677 questions, passages in de es vi zh (training)",
            "CC BY-SA 3.0",
            archive=RemoteFile(
                "MLQA_V1.zip",
                "https://dl.fbaipublicfiles.com/MLQA/MLQA_V1.zip",
                "246e8089933d13007fe80684d5c5c0713d6834cf8b3b4a0ec7c66f0a0d2baac8",
                75_719_050,
            ),
            root="MLQA_V1",
            members=tuple(
                Member(mlqa.file_name(doc_lang, query_lang), questions)
                for doc_lang, counts in _MLQA_QUESTIONS.items()
                for query_lang, questions in counts.items()
            ),
        ),
    )
}


def list_datasets() -> list[dict[str, Any]]:
    """Describe every data set: name, description, licence, download_size, folder, status and problems.

    `status` is `present` (all files right), `missing` (no file there) or `wrong`; `problems` are `verify`'s lines.
    """
    rows = []
    for data in DATASETS.values():
        folder = data_dir() / data.name
        problems = verify(data.name)
        some = any(os.path.exists(folder / part.path) for part in data.parts)  # noqa: PTH110 (see _problem)
        rows.append(
            {
                "name": data.name,
                "description": data.description,
                "licence": data.licence,
                "download_size": data.download_size,
                "folder": str(folder),
                "status": "present" if not problems else "wrong" if some else "missing",
                "problems": problems,
            }
        )
    return rows


def verify(name: str) -> list[str]:
    """Return one line for each file of a data set that is missing or not what it should be; empty if all is well."""
    data = _dataset(name)
    folder = data_dir() / data.name
    problems = (_problem(folder / part.path, part) for part in data.parts)
    return [problem for problem in problems if problem]


def get(name: str, *, base_url: str | None = None, progress: bool = True, timeout: float = 30.0) -> Path:
    """Download what is missing or wrong of a data set and return its folder.

    Each file is written under a temporary name, checked and renamed; a file that is there and right is not fetched
    again, so a killed download goes on with the file it was at. A second process waits for the first. `base_url`
    stands for a mirror that keeps upstream's paths: it replaces scheme and host. `timeout` is in seconds, for the
    connection and for each silence after it. Every failure is an `InputError`, and leaves no part of a file.
    """
    data = _dataset(name)
    folder = data_dir() / data.name
    if not verify(name):
        return folder
    try:
        with _alone(folder):
            for file in data.files:
                _fetch(file, folder, base_url, progress, timeout)
            if data.archive and verify(name):
                _fetch(data.archive, folder, base_url, progress, timeout)
                _unpack(data, folder)
    except OSError as error:
        raise InputError(
            f"cannot write into {folder} ({error.strerror or error}); set XIR_DATA to a folder that can be written"
        ) from error
    return folder


def _dataset(name: str) -> DataSet:
    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    return DATASETS[name]


def _problem(path: Path, part: RemoteFile | Member) -> str | None:
    if not os.path.isfile(path):  # noqa: PTH113 (Path.is_file raises where the folder cannot be entered)
        return f"{path} is missing"
    if isinstance(part, RemoteFile):
        if path.stat().st_size != part.size:
            return f"{path} has {path.stat().st_size} bytes, expected {part.size}"
        found = _sha256(path)
        return None if found == part.sha256 else f"{path} has sha256 {found}, expected {part.sha256}"
    try:
        questions = sum(len(paragraph.questions) for paragraph in squad.read(path, sentences=False))
    except InputError as error:
        return str(error)
    return None if questions == part.questions else f"{path} has {questions} questions, expected {part.questions}"


def _sha256(path: Path) -> str:
    import pooch

    return str(pooch.file_hash(str(path), alg="sha256"))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the data set's lock, and clear away what a killed download left."""
    import filelock

    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        log.warning("another process is downloading %s; waiting for it", folder.name)
        lock.acquire()
    try:
        for stale in folder.rglob(".*.tmp"):
            stale.unlink()
        yield
    finally:
        lock.release()


def _fetch(file: RemoteFile, folder: Path, base_url: str | None, progress: bool, timeout: float) -> None:
    import requests

    target = folder / file.path
    if _problem(target, file) is None:
        return
    if offline():
        raise InputError(f"XIR_OFFLINE is set; unset it to download {file.url}, or put the file at {target}")
    url = file.url if base_url is None else base_url.rstrip("/") + urlsplit(file.url).path
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with atomic_path(target) as temporary:
                _download(url, temporary, file.size, progress, timeout)
                found = _sha256(temporary)
                if found != file.sha256:
                    raise InputError(
                        f"{url}: arrived with {temporary.stat().st_size} bytes and sha256 {found}, "
                        f"expected {file.size} and {file.sha256}; nothing was kept"
                    )
            log.info("downloaded %s", target)
            return
        except requests.RequestException as error:
            what, may_pass = _explain(error, timeout)
            if not may_pass or attempt == ATTEMPTS:
                tried = f" ({attempt} attempts)" if attempt > 1 else ""
                raise InputError(f"{url}: {what}{tried}; try again later, or put the file at {target} by hand") from error
            log.warning("%s: %s; attempt %d of %d follows", url, what, attempt + 1, ATTEMPTS)
            time.sleep(PAUSE * attempt)


def _download(url: str, target: Path, size: int, progress: bool, timeout: float) -> None:
    import pooch
    from tqdm import tqdm

    with tqdm(desc=url.rsplit("/", 1)[-1], total=size, unit="B", unit_scale=True, disable=not progress) as bar:
        # identity: a compressed body would hide its length, by which a broken-off one is noticed
        fetch = pooch.HTTPDownloader(
            progressbar=bar, chunk_size=1 << 16, timeout=timeout, headers={"Accept-Encoding": "identity"}
        )
        fetch(url, str(target), None)


def _explain(error: "requests.RequestException", timeout: float) -> tuple[str, bool]:
    """Say in a clause what went wrong, and whether another attempt may help."""
    import requests
    import urllib3

    causes = list(_causes(error))
    if isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
        return f"the server answered {status} {error.response.reason}", status >= 500 or status == 429
    if isinstance(error, requests.Timeout) or any(isinstance(cause, urllib3.exceptions.ReadTimeoutError) for cause in causes):
        return f"nothing came for {timeout:g} seconds", True
    for cause in causes:
        if isinstance(cause, urllib3.exceptions.IncompleteRead):
            return f"the body broke off after {cause.partial} bytes, {cause.expected} more were announced", True
    for cause in causes:
        if isinstance(cause, OSError) and cause.strerror:
            broken_off = isinstance(error, requests.exceptions.ChunkedEncodingError)
            return f"{'the body broke off' if broken_off else 'no connection'} ({cause.strerror})", broken_off
    return f"{type(error).__name__} ({str(error).splitlines()[0] if str(error) else 'no reason given'})", False


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it wraps, as cause, context or first argument."""
    waiting: list[Any] = [error]
    seen: set[int] = set()
    while waiting:
        cause = waiting.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            waiting += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]


def _unpack(data: DataSet, folder: Path) -> None:
    archive = folder / data.archive.path if data.archive else folder
    with zipfile.ZipFile(archive) as bundle:
        for member in data.members:
            if _problem(folder / member.path, member) is None:
                continue
            name = f"{data.root}/{member.path}"
            if name not in bundle.namelist():
                raise InputError(f"{archive} has no {name}; this is not the published archive")
            with atomic_path(folder / member.path) as temporary:
                with bundle.open(name) as source, temporary.open("wb") as target:
                    shutil.copyfileobj(source, target)
                if problem := _problem(temporary, member):
                    raise InputError(f"{archive}, {name}: {problem.removeprefix(str(temporary)).strip()}")
    archive.unlink()
