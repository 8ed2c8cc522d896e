"""Batch strategies: which pairs, in which languages, stand together in a training batch.

| strategy | a batch holds | source |
|---|---|---|
| `x-x-mono` | one language, drawn per batch | LAReQA; the hybrid paper |
| `en-en` | the same, always in one language, the pivot | LAReQA, with English |
| `x-x` | pairs with query language == passage language, languages mixed | LAReQA |
| `x-y` | pairs with query language != passage language, languages mixed | the same two |
| `x-y-pair` | one query language and one other passage language | fourth cell of the 2 x 2, ours |
| `hybrid` | with probability alpha an `x-x-mono` batch, else an `x-y` batch | the hybrid paper |
| `hybrid-row` | each pair with probability alpha as in `x-x`, else as in `x-y` | ours |

LAReQA is Roy et al. 2020, the hybrid paper arXiv 2408.10536, section 3. `RECIPES` says the
same to the program, and `pools_of` finds the ids that can be drawn. The module knows no batch.
"""

from collections.abc import Iterator
from enum import StrEnum
from itertools import permutations
from typing import Literal, NamedTuple

import numpy as np

from xir_lib.errors import InputError
from xir_lib.samplers.index import Mask, PairIndex

Languages = tuple[int, int]  # (query_lang, doc_lang), positions in `PairIndex.languages`


class Strategy(StrEnum):
    """The strategies by the names that YAML, file names, tables and legends use."""

    X_X_MONO = "x-x-mono"
    X_Y = "x-y"
    X_X = "x-x"
    HYBRID = "hybrid"
    EN_EN = "en-en"
    X_Y_PAIR = "x-y-pair"
    HYBRID_ROW = "hybrid-row"

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise InputError(f"unknown strategy {value!r}; known are {', '.join(s.value for s in cls)}")


class Recipe(NamedTuple):
    """How a batch is made: the languages of query and passage, and what its rows have in common."""

    pairs: Literal["same", "cross", "either"]  # either: a row is `same` with probability alpha
    batch: Literal["one language", "the pivot", "one pair", "mixed"]  # mixed: each row has its own


RECIPES = {
    Strategy.X_X_MONO: Recipe("same", "one language"),
    Strategy.EN_EN: Recipe("same", "the pivot"),
    Strategy.X_X: Recipe("same", "mixed"),
    Strategy.X_Y: Recipe("cross", "mixed"),
    Strategy.X_Y_PAIR: Recipe("cross", "one pair"),
    Strategy.HYBRID_ROW: Recipe("either", "mixed"),
}
MIXED_BY_BATCH = {Strategy.HYBRID: (Strategy.X_X_MONO, Strategy.X_Y)}  # with alpha the first


class LanguageDraw(StrEnum):
    """How a batch of one language (pair) draws it.

    `size` draws in proportion to the ids that have it. Where every row draws for itself (`x-x`,
    `x-y`, `hybrid-row`) this has no meaning: an id draws uniformly among what it has, so that the
    sizes of the languages show by themselves.
    """

    UNIFORM = "uniform"
    SIZE = "size"

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise InputError(f"unknown language_draw {value!r}; use uniform or size")


def same_share(kind: Strategy, alpha: float) -> float:
    """Return the probability that a row has its query and its passage in one language."""
    return {"same": 1.0, "cross": 0.0, "either": alpha}[RECIPES[kind].pairs]


class Pool(NamedTuple):
    """The ids out of which one batch is filled: those of one language (pair), or all of a kind."""

    kind: Strategy
    langs: Languages | None  # of the whole batch; None: each row has its own
    masks: tuple[Mask, ...]  # each (ids,); an id is in the pool if all hold
    size: int  # ids in the pool


def pools_of(
    kind: Strategy, index: PairIndex, *, batch_size: int, alpha: float, pivot: str
) -> tuple[list[Pool], Mask, list[str]]:
    """Return the pools that can fill a batch of this kind, who is in them, and what is left out.

    A pair of languages with too few ids is left out, and so is a language that no id has. Any other
    language was asked for, and is refused instead of dropped without a word.
    """
    batch = RECIPES[kind].batch
    spare = {"one pair": batch_size, "one language": 1}.get(batch, 0)  # fewer ids may be left out
    pools, usable, left_out = [], np.zeros(len(index.row), bool), []
    for langs, masks in _grid(kind, index, alpha, pivot):
        members = np.logical_and.reduce(masks)
        size = int(members.sum())
        where = "->".join(index.languages[lang] for lang in dict.fromkeys(langs or ()))
        if size >= batch_size:
            pools.append(Pool(kind, langs, masks, size))
            usable |= members
        elif size < spare:
            left_out.append(where)
        else:
            raise InputError(
                f"batch_size {batch_size} exceeds the {size} ids that {kind.value} can draw"
                f"{f' in {where}' if where else ''}; lower it or add ids"
            )
    if not pools:
        raise InputError(
            f"batch_size {batch_size} exceeds the ids of every language pair; lower it or add ids"
        )
    return pools, usable, left_out


def _grid(
    kind: Strategy, index: PairIndex, alpha: float, pivot: str
) -> Iterator[tuple[Languages | None, tuple[Mask, ...]]]:
    """Yield the languages and the masks of every pool of a kind, however small."""
    (same, cross), share = index.offered(), same_share(kind, alpha)
    for where, wanted, ids in (
        ("one language", share > 0, same),
        ("two different languages", share < 1, cross),
    ):
        if wanted and not ids.any():
            read = index.negative.shape[2]
            negatives = f" with {read} hard negatives" if read else ""
            raise InputError(
                f"no usable id for {kind.value}: none has a query and a passage{negatives} in"
                f" {where}"
            )
    if RECIPES[kind].batch == "mixed":
        yield None, ((same & (share > 0)) | (cross & (share < 1)),)
        return
    # a mask is read by column
    query, passage = np.asfortranarray(index.has_query), np.asfortranarray(index.servable())
    langs = range(len(index.languages))
    if RECIPES[kind].batch == "one pair":
        for query_lang, doc_lang in permutations(langs, 2):
            yield (query_lang, doc_lang), (query[:, query_lang], passage[:, doc_lang])
        return
    both = query & passage
    for lang in langs:
        if RECIPES[kind].batch == "one language" or index.languages[lang] == pivot:
            yield (lang, lang), (both[:, lang],)
