"""Join mMARCO (Bonifacio et al. 2021, the paper's largest training set) into one memory-mapped
`PairTable` file.

Reads the files of the Hub data set `unicamp-dl/mmarco` as upstream lays them out (its Google
translations):

    data/triples.train.ids.small.tsv                        query id, relevant passage id, other
    passage id data/google/queries/train/LANGUAGE_queries.train.tsv    query id, text
    data/google/collections/LANGUAGE_collection.tsv         passage id, text

The ids are the same in every language. The paper's 39,780,811 pairs per language are the lines of
the triples file: the same (query, passage) pairs again and again with other negatives. In-batch
training needs each pair once.

Memory is a few numbers per pair, whatever the length of the texts: a file of texts is scanned for
the places of those that are needed, and these are then read from their places, one block of rows of
one language at a time. The files are read, not mapped. Downloads nothing; knows no sampler.
"""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from xir_lib.data.records import NEGATIVES, PAIR_SCHEMA
from xir_lib.errors import InputError
from xir_lib.paths import atomic_path

log = logging.getLogger(__name__)

Ids = npt.NDArray[np.int64]

LANGUAGES = {
    "ar": "arabic",
    "de": "german",
    "en": "english",
    "es": "spanish",
    "fr": "french",
    "hi": "hindi",
    "id": "indonesian",
    "it": "italian",
    "ja": "japanese",
    "nl": "dutch",
    "pt": "portuguese",
    "ru": "russian",
    "vi": "vietnamese",
    "zh": "chinese",
}
TRIPLES = "data/triples.train.ids.small.tsv"
NONE = -1  # instead of a passage id
_ROWS = 1 << 14  # rows of texts in memory at a time
_LINES = 1 << 16  # lines that are looked up at a time
_BYTES = 1 << 24  # of the triples file at a time


def build(
    folder: str | Path, out: str | Path, languages: Sequence[str], *, negatives: bool = False
) -> Path:
    """Write the training pairs of `folder`, in these languages, to `out`, which `PairTable.load`
    maps.

    A query is one pair, with the relevant passage of its first triple; `pair_id` is
    `QUERYID-PASSAGEID`, `passage_id` the passage's id and `group` the query's. The other relevant
    passages of a query are counted and left out: the sampler keeps apart pairs that share a
    passage, not pairs that share a query, so two pairs of one query could meet in a batch, where
    each passage would be the other's negative. What remains possible: a passage left out here is
    the first of another query and meets this one.

    Rows come language by language (codes in alphabetical order), in each by passage id, so that the
    collection is read forwards.

    Args:
        folder: the data set's root, which holds `data/`.
        out: the Arrow file, written whole or not at all.
        languages: ISO 639-1 codes, keys of `LANGUAGES`.
        negatives: add the column `negatives`, a list of one text, the other passage of the pair's
            first triple. The list is empty, and counted, where that passage is relevant to the
            query too or has the passage's own text.

    Raises:
        InputError: an unknown language, a missing file, a bad line (with its number), an id without
        a text.
    """
    folder, out = Path(folder), Path(out)
    wanted = sorted(set(languages))
    if not wanted or set(wanted) - LANGUAGES.keys():
        raise InputError(
            f"mMARCO languages {', '.join(wanted) or 'none'} asked for; there are"
            f" {', '.join(LANGUAGES)}"
        )
    files = {lang: _files(LANGUAGES[lang]) for lang in wanted}
    missing = [
        name
        for name in (TRIPLES, *(name for pair in files.values() for name in pair))
        if not (folder / name).is_file()
    ]
    if missing:
        raise InputError(
            f"{folder} lacks {len(missing)} of mMARCO's files; `hf download unicamp-dl/mmarco"
            f" --repo-type dataset --local-dir {folder} {' '.join(missing)}` fetches them"
        )
    pairs = _pairs(folder / TRIPLES)  # (pairs, 3) query, passage, other passage
    schema = PAIR_SCHEMA.append(NEGATIVES) if negatives else PAIR_SCHEMA
    with atomic_path(out) as temporary, pa.ipc.new_file(str(temporary), schema) as writer:
        for lang in wanted:
            queries, passages = (folder / name for name in files[lang])
            for batch in _batches(
                lang, pairs if negatives else pairs[:, :2], queries, passages, schema
            ):
                writer.write_batch(batch)
    return out


def _files(language: str) -> tuple[str, str]:
    return (
        f"data/google/queries/train/{language}_queries.train.tsv",
        f"data/google/collections/{language}_collection.tsv",
    )


def _pairs(path: Path) -> Ids:
    """Return query, passage and other passage of each query's first triple, by passage id; `NONE`
    for no usable other.
    """
    known = np.empty(
        (0, 3), np.int64
    )  # per distinct pair: its key, the line and the other passage of its first triple
    lines = 0
    for query, passage, other in _triples(path):
        key, first = np.unique(query << 32 | passage, return_index=True)
        new = ~np.isin(key, known[:, 0])
        known = np.concatenate([known, np.stack([key, lines + first, other[first]], axis=1)[new]])
        lines += len(query)
    # blocks come in the order of the file, a block's keys do not
    known = known[np.argsort(known[:, 1])]
    _, first = np.unique(known[:, 0] >> 32, return_index=True)
    chosen = known[first]
    query, passage, other = chosen[:, 0] >> 32, chosen[:, 0] & 0xFFFFFFFF, chosen[:, 2]
    other = np.where(np.isin(query << 32 | other, known[:, 0]), NONE, other)
    log.info(
        "%s: %d triples give %d pairs; %d more relevant passages of their queries are left out",
        path, lines, len(chosen), len(known) - len(chosen),
    )  # fmt: skip
    return np.stack([query, passage, other], axis=1)[np.lexsort((query, passage))]


def _triples(path: Path) -> Iterator[tuple[Ids, Ids, Ids]]:
    """Yield blocks of the three columns; ids are below 2**31, so that two of them make one key."""
    import pyarrow.csv as csv

    names = ("query", "passage", "other")
    lines = 0
    try:
        reader = csv.open_csv(
            path,
            csv.ReadOptions(
                use_threads=False, block_size=_BYTES, column_names=names
            ),  # one thread: nothing is read ahead
            csv.ParseOptions(delimiter="\t", quote_char=False, ignore_empty_lines=False),
            csv.ConvertOptions(column_types=dict.fromkeys(names, pa.int32()), null_values=[]),
        )
        for batch in reader:
            query, passage, other = (column.to_numpy().astype(np.int64) for column in batch.columns)
            if len(below := np.flatnonzero((query | passage | other) < 0)):
                raise InputError(
                    f"{path} line {lines + below[0] + 1}: a negative id; take the file from"
                    " unicamp-dl/mmarco"
                )
            lines += len(query)
            yield query, passage, other
    except pa.ArrowInvalid as error:
        place = re.search(r"Row #(\d+): (.*)", str(error))
        where = (
            f"{path} line {place[1]}: {place[2]}"
            if place
            else f"{path}: {str(error).splitlines()[0]}"
        )
        raise InputError(
            f"{where}; a line is three whole numbers with tabs between, see unicamp-dl/mmarco"
        ) from error


def _batches(
    lang: str, pairs: Ids, queries: Path, passages: Path, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Yield one language's rows, in the order of `pairs`: (pairs, 2), or (pairs, 3) for
    negatives.
    """
    others = pairs[:, 2:]
    without = 0
    with (
        _Texts(queries, np.unique(pairs[:, 0])) as query_of,
        _Texts(passages, np.unique(pairs[:, 1:][pairs[:, 1:] != NONE])) as passage_of,
    ):
        for start in range(0, len(pairs), _ROWS):
            block = slice(start, start + _ROWS)
            query_id, passage_id = (
                pa.array(column).cast(pa.string()) for column in pairs[block, :2].T
            )
            passage = passage_of.read(pairs[block, 1])
            columns = [
                pc.binary_join_element_wise(query_id, passage_id, "-"),
                pa.repeat(lang, len(passage)),
                pa.array(query_of.read(pairs[block, 0]), pa.string()),
                passage_id,
                pa.array(passage, pa.string()),
                query_id,
            ]
            for other in others[block].T:  # one column or none
                texts = iter(passage_of.read(other[other != NONE]))
                found = [next(texts) if there else None for there in other != NONE]
                usable = [
                    [] if text in (None, own) else [text]
                    for text, own in zip(found, passage, strict=True)
                ]
                without += usable.count([])
                columns.append(pa.array(usable, NEGATIVES.type))
            yield pa.record_batch(columns, schema=schema)
    if without:
        log.warning("mMARCO %s: %d of %d pairs have no usable negative", lang, without, len(pairs))


class _Texts:
    """The texts of some ids in a file of `id TAB text` lines: their places, 20 bytes each; the
    texts stay on disk.

    Every line is checked when the file is opened. As upstream's loader does, white space at a
    line's end is left out.
    """

    def __init__(self, path: Path, ids: Ids) -> None:
        """Find the places of `ids`, which ascend."""
        self.path, self.ids = path, ids
        self.offset = np.full(len(ids), NONE, np.int64)
        self.length = np.zeros(len(ids), np.int32)
        self._scan()
        if (self.offset == NONE).any():
            lacking = ids[self.offset == NONE]
            raise InputError(
                f"{path} has no line for id {lacking[0]} and {len(lacking) - 1} more that the"
                " triples name; take all files from one revision of unicamp-dl/mmarco"
            )

    def __enter__(self) -> Self:
        self._file = self.path.open("rb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, ids: Ids) -> list[bytes]:
        """Return the texts of some of the ids, UTF-8."""
        at = np.searchsorted(self.ids, ids)
        places = zip(self.length[at].tolist(), self.offset[at].tolist(), strict=True)
        return [os.pread(self._file.fileno(), length, offset) for length, offset in places]

    def _scan(self) -> None:
        from tqdm.auto import tqdm

        found: list[tuple[int, int, int]] = []  # id, offset, length of consecutive lines
        number = offset = 0
        with (
            self.path.open("rb") as file,
            tqdm(
                desc=self.path.name,
                total=self.path.stat().st_size,
                unit="B",
                unit_scale=True,
                disable=None,
            ) as bar,
        ):
            for number, line in enumerate(file, 1):
                key, _, text = line.partition(b"\t")
                text = text.rstrip()
                if not key.isdigit() or len(key) > 18 or b"\t" in text or not _is_text(text):
                    raise InputError(
                        f"{self.path} line {number}: {line[:60].decode(errors='replace')!r}; a line"
                        " is a whole number, one tab and a text in UTF-8, see unicamp-dl/mmarco"
                    )
                found.append((int(key), offset + len(key) + 1, len(text)))
                offset += len(line)
                if len(found) == _LINES:
                    self._keep(np.array(found), number)
                    found.clear()
                    bar.update(offset - bar.n)
            if found:
                self._keep(np.array(found), number)
            bar.update(offset - bar.n)

    def _keep(self, found: Ids, last: int) -> None:
        """Note the places of those lines, (lines, 3), that hold a wanted id; `last` is the number
        of the last one.
        """
        at = np.minimum(np.searchsorted(self.ids, found[:, 0]), len(self.ids) - 1)
        rows = np.flatnonzero(self.ids[at] == found[:, 0])
        at = at[rows]
        repeated = self.offset[at] != NONE
        repeated[np.setdiff1d(np.arange(len(at)), np.unique(at, return_index=True)[1])] = True
        if repeated.any():
            row = rows[repeated.argmax()]
            number = last - len(found) + 1 + row
            raise InputError(
                f"{self.path} line {number}: id {found[row, 0]} again; take the file from"
                " unicamp-dl/mmarco"
            )
        self.offset[at], self.length[at] = found[rows, 1], found[rows, 2]


def _is_text(line: bytes) -> bool:
    try:
        return bool(line.decode().strip())
    except UnicodeDecodeError:
        return False
