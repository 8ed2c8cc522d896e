"""The data sets of `downloads.json`, at pinned revisions: where each lies, and what is there.

The sums in `downloads.json` come from:

- XQuAD-R and MLQA-R: the files of github.com/google-research-datasets/lareqa at these revisions.
- MLQA v1: upstream publishes one archive and no sum; this is the one that TensorFlow Datasets has
  on record (url_checksums/mlqa.txt). The sixteen files that `mlqa` reads are unpacked. Copies
  without titles and answers load as the same table, so these are verified by what matters, their
  number of questions.
- Belebele and MIRACL Yoruba: the copies that this project was made with, from the Hub.
- MIRACL's other languages and mteb's pools of hard negatives: none is on record, so `download` asks
  the Hub and keeps the SHA-256 of what arrived in `checksums.sha256` beside the files.

Knows no record type, no model and no network.
"""

import os
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from xir_lib.data import squad
from xir_lib.errors import InputError
from xir_lib.paths import data_dir, require

RECORD = "checksums.sha256"  # in a data set's folder, as `sha256sum` writes it: what the Hub told


@dataclass(frozen=True)
class File:
    """A file of a data set; `path` is relative to the data set's folder, `size` in bytes.

    It is right if it has this SHA-256 or, unpacked from an archive, this many questions. With
    neither it is a file of the Hub, which tells the sum when asked.
    """

    path: str
    url: str = ""
    size: int | None = None
    sha256: str | None = None
    questions: int | None = None


@dataclass(frozen=True)
class Source:
    """Files below one address, by name: their size and SHA-256, or names alone for the Hub's."""

    url: str
    files: dict[str, tuple[int, str]] | list[str]
    into: str = ""  # the folder, inside the data set's, that they lie in


@dataclass(frozen=True)
class DataSet:
    """An entry of `downloads.json`: plain files of some sources, or the members of an archive.

    The archive is deleted once its members are unpacked, by `questions`: path below `root` in it
    and number of questions. The data set's own folder has its name, unless `folder` says otherwise.
    """

    description: str
    licence: str
    folder: str = ""
    sources: tuple[Source, ...] = ()
    archive: File | None = None
    root: str = ""
    questions: dict[str, int] | None = None

    @property
    def files(self) -> list[File]:
        """What is fetched as it lies in the folder, in the order of the sources."""
        found = []
        for source in self.sources:
            pinned = source.files if isinstance(source.files, dict) else {}
            for name in source.files:
                known = pinned.get(name, (None, None))
                found.append(File(source.into + name, source.url + name, *known))
        return found

    @property
    def members(self) -> list[File]:
        """What is unpacked of the archive."""
        counts = self.questions or {}
        return [File(path, questions=questions) for path, questions in counts.items()]


DATASETS = TypeAdapter(dict[str, DataSet]).validate_json(
    Path(__file__).with_name("downloads.json").read_bytes()
)


def dataset(name: str) -> DataSet:
    """Return an entry of the table; an unknown name is refused with the known ones."""
    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    return DATASETS[name]


def folder_of(name: str) -> Path:
    """Return where a data set lies, or would."""
    return data_dir() / (dataset(name).folder or name)


def list_datasets() -> list[dict[str, Any]]:
    """Describe every data set: name, description, licence, download_size, folder, status and
    problems.

    `download_size` is in bytes, 0 where the Hub is asked. `status` is `present` (all files right),
    `missing` (no file there) or `wrong`; `problems` are `verify`'s lines.
    """
    rows = []
    for name, data in DATASETS.items():
        problems, folder = verify(name), folder_of(name)
        # os.path, since Path.exists raises where the folder cannot be entered
        some = any(os.path.exists(folder / part.path) for part in (*data.files, *data.members))  # noqa: PTH110
        fetched = [*data.files, *([data.archive] if data.archive else [])]
        rows.append(
            {
                "name": name,
                "description": data.description,
                "licence": data.licence,
                "download_size": sum(file.size or 0 for file in fetched),
                "folder": str(folder),
                "status": "present" if not problems else "wrong" if some else "missing",
                "problems": problems,
            }
        )
    return rows


def verify(name: str) -> list[str]:
    """Return one line for each file of a data set that is missing or wrong; none if all is well."""
    data, folder = dataset(name), folder_of(name)
    found = (problem_of(file, folder) for file in (*data.files, *data.members))
    return [problem for problem in found if problem]


def problem_of(file: File, folder: Path) -> str | None:
    """Say in a line what is wrong with a file of a data set's folder; None if it is right."""
    path = folder / file.path
    if not os.path.isfile(path):  # noqa: PTH113 (see list_datasets)
        return f"{path} is missing"
    if file.questions is not None:
        try:
            paragraphs = squad.read(path, sentences=False)
            questions = sum(len(paragraph.questions) for paragraph in paragraphs)
        except InputError as error:
            return str(error)
        wrong = questions != file.questions
        return f"{path} has {questions} questions, expected {file.questions}" if wrong else None
    expected = file.sha256 or recorded(folder).get(file.path)
    if expected is None:
        return f"{path} has no sum on record; `xir data get` asks the Hub for it"
    if file.size is not None and path.stat().st_size != file.size:
        return f"{path} has {path.stat().st_size} bytes, expected {file.size}"
    found = sha256_of(path)
    return None if found == expected else f"{path} has sha256 {found}, expected {expected}"


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal digits."""
    import pooch

    return str(pooch.file_hash(str(path), alg="sha256"))


def recorded(folder: Path) -> dict[str, str]:
    """Return the sums in a data set's record, by path; what is no sum and name is passed over."""
    path = folder / RECORD
    if not os.path.isfile(path):  # noqa: PTH113 (see list_datasets)
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = (line.split(maxsplit=1) for line in text.splitlines())
    return {found[1]: found[0] for found in lines if len(found) == 2}


def file_of(name: str, path: str, folder: Path | None = None) -> Path:
    """Return the place of a file that a data set must have; if it lacks it, say how to get it.

    `folder` is the data set's own; by default, its folder in the data folder.
    """
    folder = folder_of(name) if folder is None else Path(folder)
    above = f"set XIR_DATA to the folder above {folder.name}"
    return require(folder / path, f"`xir data get {name}` downloads it, or {above}")
