"""Fetch the data sets from upstream at pinned revisions, whole or not at all, and say what is
there.

Every download is checked against a SHA-256 before it gets its name, so what lies in the data folder
is right or was put there by someone else, which `verify` tells. Sources of sums:

- XQuAD-R and MLQA-R: the files of github.com/google-research-datasets/lareqa at the revisions named
  below.
- MLQA v1: upstream publishes one archive and no sum; the sum here is the one TensorFlow Datasets
  has on record (tensorflow_datasets/url_checksums/mlqa.txt). Of its 49 test files the sixteen that
  `mlqa` reads are unpacked. They carry titles and answers, and copies without those load as the
  same table, so the unpacked files are verified by what matters, the number of questions in each,
  and not by sum.
- Belebele and MIRACL Yoruba: files of the Hub's data sets facebook/belebele, miracl/miracl and
  miracl/miracl-corpus at the revisions named below, with the sums of the copies that this project
  was made with.
- MIRACL's other 17 languages, and the pools of hard negatives (mteb/MIRACLRetrievalHardNegatives,
  named as other projects name its files and revision): no sum of theirs is on record here, so the
  Hub, or the mirror in its place, is asked for it: the SHA-256 of a large file, the git blob's
  SHA-1 of a small one. A revision is the hash of a commit, so both are fixed. The SHA-256 of what
  arrived is kept in `checksums.sha256` beside the files.

miracl/miracl is gated: the Hub gives it only to who accepted its terms; a token in HF_TOKEN, or of
`hf auth login`, is sent.

Knows no record type and no model. The network is touched by `get` alone.
"""

import hashlib
import logging
import os
import re
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from xir_lib.data import belebele, miracl, mlqa, squad
from xir_lib.errors import InputError
from xir_lib.paths import atomic_path, data_dir, offline

if TYPE_CHECKING:
    import requests

log = logging.getLogger(__name__)

ATTEMPTS = 3  # for what may pass: a broken-off body, a stall, a server error
PAUSE = 1.0  # seconds before the second attempt, twice that before the third
RECORD = (  # in a data set's folder, as `sha256sum` writes it: files whose sum the Hub told
    "checksums.sha256"
)
HUB = "https://huggingface.co"
SHA256_DIGITS = 64  # a sum of 40 is the SHA-1 of a git blob


@dataclass(frozen=True)
class RemoteFile:
    """A file at a fixed address; `path` is relative to the data set's folder, `size` in bytes.

    Without `sha256` and `size` it is a file of the Hub, which tells both when asked.
    """

    path: str
    url: str
    sha256: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class Member:
    """A file of the archive, unpacked to `path`; right if it holds this many questions."""

    path: str
    questions: int


@dataclass(frozen=True)
class DataSet:
    """Either plain `files`, or `members` of one `archive`, which is deleted once they are unpacked.

    In the archive the members lie in one folder, `root`. The data set's own folder has its name,
    unless `directory` says otherwise.
    """

    name: str
    description: str
    licence: str
    files: tuple[RemoteFile, ...] = ()
    archive: RemoteFile | None = None
    root: str = ""
    members: tuple[Member, ...] = ()
    directory: str = ""

    @property
    def folder(self) -> Path:
        """Where the data set lies."""
        return data_dir() / (self.directory or self.name)

    @property
    def parts(self) -> tuple[RemoteFile | Member, ...]:
        """What lies in the folder when the data set is complete."""
        return (*self.files, *self.members)

    @property
    def download_size(self) -> int:
        """Bytes to fetch as far as they are known here; 0 where the Hub is asked."""
        return sum(
            file.size or 0 for file in (*self.files, *([self.archive] if self.archive else []))
        )


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
_BELEBELE = {
    "af": (885_015, "4bfdca78626ead35c4eea5a218c2ce58511d49dbe432889fc398ccd5077e791b"),
    "am": (2_174_483, "73b094d1fc83b450c4939e16f463cb3a9547a391a7317c3a4fe8978266590c01"),
    "bm": (1_074_403, "89d7b2f27eb5c25c2e2c051162d7bf3e76d1419c5c179c58b233f42b1f06b964"),
    "en": (836_071, "15af884c2b5994fdc71199e79d553a1864b08ce1b31894aa87f6be925a064a31"),
    "ig": (1_120_083, "269307012c915a86d59d81f58a732c275f3dbd95b507e2a8e1c47662fda0a9aa"),
    "nso": (1_010_429, "01f04935f7c57eceab4b25b881434061a8810cba7378e530701bd4d8c486e028"),
    "sn": (905_446, "cf043faf2d84196ad05063372c9d96a0e0eb6a00365c59a89990590abaedbc78"),
    "st": (946_142, "fa1dfd928c93e2bdd017c29346b5a42cee4770d91c67f5801d4ba49dfe063096"),
    "tn": (974_976, "4c5856667216aa53b0149f5a4f1493cc474493bbbeff70e4c959d8f67500b095"),
    "ts": (961_455, "0e584b91833d2ec8851f1b1909d209d45310016b9dc2ec1e1243009cc76dbc24"),
    "xh": (873_497, "1dc68c36b6e64ff7b334257fc295baf578be3e3837ecc7bef131f51e81055b11"),
    "zu": (899_436, "d2fa78331403cbfec591bc121513bb19356bc4b8ee7b1b4d8048ef5e5a8028c5"),
}
_MIRACL_YO = {
    "corpus/docs-0.jsonl.gz": (
        2_993_190,
        "1f3d429ff859f9b630c91810034d5bb977561f33ae2c9de5f4cf1b9b35aab97b",
    ),
    "topics/topics.miracl-v1.0-yo-dev.tsv": (
        5_983,
        "b24558e43e1965d5cfe7440a5bf3bf66d70529474ff76e64bfa72026129b2d2e",
    ),
    "qrels/qrels.miracl-v1.0-yo-dev.tsv": (
        24_820,
        "39a219ef0b593f6056e4ad1d65b9c03345730efa5107f0abd4a4a44ef2f6f0d2",
    ),
}
_MIRACL_REVISIONS = {
    "miracl-corpus": "d921ec7e349ce0d28daf30b2da9da5ee698bef0d",  # all 18 languages
    "miracl": (
        "c83d354623fc0b7172e664ade0404df78624abe3"
    ),  # in which the Yoruba judgements were mended
    "hard": (
        "332a9acb49f5e83d5397683f79d23e588f685916"
    ),  # the head of October 2026, as other projects record it
}


def _hub(
    path: str, repository: str, revision: str, file: str, known: tuple[int, str] | None
) -> RemoteFile:
    size, sha256 = known or (None, None)
    return RemoteFile(path, f"{HUB}/datasets/{repository}/resolve/{revision}/{file}", sha256, size)


def _miracl(lang: str) -> DataSet:
    known = _MIRACL_YO if lang == "yo" else {}
    folder = miracl.folder_name(lang)
    corpus, judged = _MIRACL_REVISIONS["miracl-corpus"], _MIRACL_REVISIONS["miracl"]
    files = [
        _hub(
            path,
            "miracl/miracl-corpus",
            corpus,
            f"miracl-corpus-v1.0-{lang}/{Path(path).name}",
            known.get(path),
        )
        for path in miracl.corpus_files(lang)
    ]
    for path in (miracl.split_file(lang, kind, "dev") for kind in ("topics", "qrels")):
        files.append(_hub(path, "miracl/miracl", judged, f"{folder}/{path}", known.get(path)))
    return DataSet(
        f"miracl-{lang}",
        f"MIRACL v1.0 {lang}: the full corpus, topics and judgements of dev (evaluation; gated)",
        "Apache-2.0, text CC BY-SA",
        files=tuple(files),
        directory=folder,
    )


def _miracl_hard(lang: str) -> DataSet:
    revision = _MIRACL_REVISIONS["hard"]
    paths = [miracl.hard_file(lang, kind) for kind in miracl.HARD_COLUMNS]
    return DataSet(
        f"miracl-{lang}-hard",
        f"MIRACL {lang} with mteb's pool of hard negatives, dev (evaluation; never beside the full"
        " corpus)",
        "CC BY-SA 4.0",
        files=tuple(
            _hub(path, "mteb/MIRACLRetrievalHardNegatives", revision, path, None) for path in paths
        ),
    )


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
            "LAReQA's MLQA-R: 1,148 questions in 2 to 4 of 7 languages, sentence retrieval"
            " (evaluation)",
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
        DataSet(
            "belebele",
            "Belebele in English and eleven African languages: 900 questions on 488 passages"
            " (evaluation, training by split)",
            "CC BY-SA 4.0",
            files=tuple(
                _hub(
                    belebele.file_name(lang),
                    "facebook/belebele",
                    "75b399394a9803252cfec289d103de462763db7c",
                    f"data/{belebele.file_name(lang)}",
                    known,
                )
                for lang, known in _BELEBELE.items()
            ),
        ),
        *(_miracl(lang) for lang in miracl.LANGUAGES),
        *(_miracl_hard(lang) for lang in miracl.LANGUAGES),
    )
}


def list_datasets() -> list[dict[str, Any]]:
    """Describe every data set: name, description, licence, download_size, folder, status and
    problems.

    `status` is `present` (all files right), `missing` (no file there) or `wrong`; `problems` are
    `verify`'s lines.
    """
    rows = []
    for data in DATASETS.values():
        problems = verify(data.name)
        some = any(os.path.exists(data.folder / part.path) for part in data.parts)  # noqa: PTH110 (see _problem)
        rows.append(
            {
                "name": data.name,
                "description": data.description,
                "licence": data.licence,
                "download_size": data.download_size,
                "folder": str(data.folder),
                "status": "present" if not problems else "wrong" if some else "missing",
                "problems": problems,
            }
        )
    return rows


def verify(name: str) -> list[str]:
    """Return one line for each file of a data set that is missing or not what it should be; empty
    if all is well.
    """
    data = _dataset(name)
    record = _recorded(data.folder)
    problems = (_problem(data.folder / part.path, part, record) for part in data.parts)
    return [problem for problem in problems if problem]


def get(
    name: str, *, base_url: str | None = None, progress: bool = True, timeout: float = 30.0
) -> Path:
    """Download what is missing or wrong of a data set and return its folder.

    Each file is written under a temporary name, checked and renamed; a file that is there and right
    is not fetched again, so a killed download goes on with the file it was at. A second process
    waits for the first. `base_url` stands for a mirror that keeps upstream's paths: it replaces
    scheme and host. `timeout` is in seconds, for the connection and for each silence after it.
    Every failure is an `InputError`, and leaves no part of a file.
    """
    data = _dataset(name)
    folder = data.folder
    if not timeout > 0:
        raise InputError(f"timeout must be above 0 seconds, got {timeout:g}")
    if not verify(name):
        return folder
    if base_url and (unpinned := [file.path for file in data.files if not file.sha256]):
        log.warning(
            "%s: no sum of %s is on record here; what the mirror tells is believed",
            name,
            ", ".join(unpinned),
        )
    try:
        with _alone(folder):
            for file in data.files:
                _fetch(file, folder, base_url, progress, timeout)
            if data.archive and verify(name):
                _fetch(data.archive, folder, base_url, progress, timeout)
                _unpack(data, folder)
    except OSError as error:
        raise InputError(
            f"cannot write into {folder} ({error.strerror or error}); set XIR_DATA to a folder that"
            " can be written"
        ) from error
    return folder


def _dataset(name: str) -> DataSet:
    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    return DATASETS[name]


def _problem(path: Path, part: RemoteFile | Member, record: dict[str, str]) -> str | None:
    if not os.path.isfile(path):  # noqa: PTH113 (Path.is_file raises where the folder cannot be entered)
        return f"{path} is missing"
    if isinstance(part, RemoteFile):
        expected = part.sha256 or record.get(part.path)
        if expected is None:
            return f"{path} has no sum on record; `xir data get` asks the Hub for it"
        if part.size is not None and path.stat().st_size != part.size:
            return f"{path} has {path.stat().st_size} bytes, expected {part.size}"
        found = _sha256(path)
        return None if found == expected else f"{path} has sha256 {found}, expected {expected}"
    try:
        questions = sum(len(paragraph.questions) for paragraph in squad.read(path, sentences=False))
    except InputError as error:
        return str(error)
    return (
        None
        if questions == part.questions
        else f"{path} has {questions} questions, expected {part.questions}"
    )


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


def _fetch(
    file: RemoteFile, folder: Path, base_url: str | None, progress: bool, timeout: float
) -> None:
    import requests

    target = folder / file.path
    if _problem(target, file, _recorded(folder)) is None:
        return
    if offline():
        raise InputError(
            f"XIR_OFFLINE is set; unset it to download {file.url}, or put the file at {target}"
        )
    url = file.url if base_url is None else base_url.rstrip("/") + urlsplit(file.url).path
    for attempt in range(1, ATTEMPTS + 1):
        try:
            expected, size = (file.sha256, file.size) if file.sha256 else _ask_hub(url, timeout)
            if not target.is_file() or _sum(target, expected) != expected:
                with atomic_path(target) as temporary:
                    _download(url, temporary, size or 0, progress, timeout)
                    found = _sum(temporary, expected)
                    if found != expected:
                        kind = "sha256" if len(expected) == SHA256_DIGITS else "git blob"
                        raise InputError(
                            f"{url}: arrived with {temporary.stat().st_size} bytes and {kind}"
                            f" {found}, expected {size} and {expected}; nothing was kept"
                        )
            if file.sha256 is None:
                _record(folder, file.path)
            log.info("downloaded %s", target)
            return
        except requests.RequestException as error:
            if gate := _gate(error, url):
                raise InputError(f"{url}: {gate}") from error
            what, may_pass = _explain(error, timeout)
            if not may_pass or attempt == ATTEMPTS:
                tried = f" ({attempt} attempts)" if attempt > 1 else ""
                raise InputError(
                    f"{url}: {what}{tried}; try again later, or put the file at {target} by hand"
                ) from error
            log.warning("%s: %s; attempt %d of %d follows", url, what, attempt + 1, ATTEMPTS)
            time.sleep(PAUSE * attempt)


def _headers(url: str) -> dict[str, str]:
    headers = {
        "Accept-Encoding": "identity"
    }  # a compressed body would hide its length, by which a broken-off one is noticed
    if url.startswith(f"{HUB}/"):  # no mirror is told the token
        from huggingface_hub import get_token

        if token := get_token():
            headers["Authorization"] = (
                f"Bearer {token}"  # requests drops it where the Hub redirects to another host
            )
    return headers


def _ask_hub(url: str, timeout: float) -> tuple[str, int]:
    """Return the sum and the size in bytes that the Hub has on record for a file.

    A large file is redirected to its store, and the Hub's own answer holds the SHA-256 of its
    content; the ETag of a small one is the SHA-1 of its git blob.
    """
    import requests

    answer = requests.head(url, headers=_headers(url), timeout=timeout, allow_redirects=False)
    answer.raise_for_status()
    tag = answer.headers.get("X-Linked-ETag") or answer.headers.get("ETag") or ""
    size = answer.headers.get("X-Linked-Size") or answer.headers.get("Content-Length") or ""
    found = tag.removeprefix("W/").strip('"')
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", found) or not size.isdigit():
        raise InputError(
            f"{url}: the server tells no sum and size of it (ETag {tag!r}, size {size!r}); use the"
            " Hub itself"
        )
    return found, int(size)


def _sum(path: Path, like: str) -> str:
    """Return the sum of a file in the kind of `like`: its SHA-256, or the SHA-1 of its git blob."""
    if len(like) == SHA256_DIGITS:
        return _sha256(path)
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _recorded(folder: Path) -> dict[str, str]:
    """Return the sums in a data set's record, by path."""
    path = folder / RECORD
    if not os.path.isfile(path):  # noqa: PTH113 (see _problem)
        return {}
    lines = (
        line.split(maxsplit=1)
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
    )
    return {
        found[1]: found[0] for found in lines if len(found) == 2
    }  # a file without its sum is fetched again


def _record(folder: Path, path: str) -> None:
    sums = {**_recorded(folder), path: _sha256(folder / path)}
    with atomic_path(folder / RECORD) as temporary:
        temporary.write_text(
            "".join(f"{found}  {name}\n" for name, found in sorted(sums.items())), encoding="utf-8"
        )


def _gate(error: "requests.RequestException", url: str) -> str | None:
    """Say what opens a file that the Hub does not give to everybody; None for any other error."""
    import requests

    if (
        not isinstance(error, requests.HTTPError)
        or error.response is None
        or not url.startswith(f"{HUB}/")
    ):
        return None
    if error.response.status_code not in (401, 403):
        return None
    page = url.split("/resolve/")[0]
    return (
        f"the server answered {error.response.status_code} {error.response.reason}: accept the"
        f" terms at {page} and set HF_TOKEN to a token of that account"
    )


def _download(url: str, target: Path, size: int, progress: bool, timeout: float) -> None:
    import pooch
    from tqdm import tqdm

    with tqdm(
        desc=url.rsplit("/", 1)[-1], total=size, unit="B", unit_scale=True, disable=not progress
    ) as bar:
        fetch = pooch.HTTPDownloader(
            progressbar=bar, chunk_size=1 << 16, timeout=timeout, headers=_headers(url)
        )
        fetch(url, str(target), None)


def _explain(error: "requests.RequestException", timeout: float) -> tuple[str, bool]:
    """Say in a clause what went wrong, and whether another attempt may help."""
    import requests
    import urllib3

    causes = list(_causes(error))
    if isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
        return (
            f"the server answered {status} {error.response.reason}",
            status >= 500 or status == 429,
        )
    if isinstance(error, requests.Timeout) or any(
        isinstance(cause, urllib3.exceptions.ReadTimeoutError) for cause in causes
    ):
        return f"nothing came for {timeout:g} seconds", True
    for cause in causes:
        if isinstance(cause, urllib3.exceptions.IncompleteRead):
            return (
                (
                    f"the body broke off after {cause.partial} bytes, {cause.expected} more were"
                    " announced"
                ),
                True,
            )
    for cause in causes:
        if isinstance(cause, OSError) and cause.strerror:
            broken_off = isinstance(error, requests.exceptions.ChunkedEncodingError)
            return (
                f"{'the body broke off' if broken_off else 'no connection'} ({cause.strerror})",
                broken_off,
            )
    return (
        (
            f"{type(error).__name__}"
            f" ({str(error).splitlines()[0] if str(error) else 'no reason given'})"
        ),
        False,
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it wraps, as cause, context or first argument."""
    waiting: list[Any] = [error]
    seen: set[int] = set()
    while waiting:
        cause = waiting.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            waiting += [
                cause.__cause__,
                cause.__context__,
                getattr(cause, "reason", None),
                *cause.args,
            ]


def _unpack(data: DataSet, folder: Path) -> None:
    archive = folder / data.archive.path if data.archive else folder
    with zipfile.ZipFile(archive) as bundle:
        for member in data.members:
            if _problem(folder / member.path, member, {}) is None:
                continue
            name = f"{data.root}/{member.path}"
            if name not in bundle.namelist():
                raise InputError(f"{archive} has no {name}; this is not the published archive")
            with atomic_path(folder / member.path) as temporary:
                with bundle.open(name) as source, temporary.open("wb") as target:
                    shutil.copyfileobj(source, target)
                if problem := _problem(temporary, member, {}):
                    raise InputError(
                        f"{archive}, {name}: {problem.removeprefix(str(temporary)).strip()}"
                    )
    archive.unlink()
