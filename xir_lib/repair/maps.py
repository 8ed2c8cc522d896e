"""What costs no training: the rivals' names, and how the share of the language is taken out of a
finished encoder's vectors.

An encoder that keeps a text's language in its vector shifts all vectors of a language by about the
same amount. Two published ways to remove that shift (field.md, section 2), both a strong rival of
any training:

* `centring` subtracts each language's mean and renormalises;
* `lir-R` (Yang et al. 2021, "A Simple and Effective Method To Eliminate the Self Language Bias in
  Multilingual Representations") subtracts each vector's projection on the top R right singular
  vectors of its language's matrix of embeddings, which is not centred beforehand. Where all vectors
  of a language share a large mean, the first singular vector points almost along it and `lir-1`
  does almost what centring does: it is no second finding.

The other rivals are merges of per-language rankings (`merging.py`), alone or on such vectors
(`centring+z-score`), and BM25 (`bm25.py`), which needs no vectors at all. Where the means and
directions come from decides what the result says: see `fitting.py`. Queries and passages have
different prefixes and different means: fit and apply them separately. This module knows no model
and no data set.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xir_lib.errors import InputError

Vectors = NDArray[np.float32]
Languages = Sequence[str] | NDArray

FITS = (
    "foreign",
    "corpus",
    "cross-fit",
)  # where means come from, the primary one first; see fitting.py
MERGES = ("round-robin", "z-score", "minus-top10")
LEXICAL = ("bm25", "bm25-pieces", "bm25-folded", "bm25-spaces")
KNOWN = (
    f"none, centring, lir-1, lir-2, ..., {', '.join(LEXICAL)}, {', '.join(MERGES)}, or a merge"
    " behind centring+ or lir-R+"
)


class Rival(NamedTuple):
    """A rival's name taken apart; `none` has none of the parts."""

    name: str
    # of what is taken out of the vectors: 0 the mean (centring), R the top R directions (lir-R)
    rank: int | None = None
    merge: str | None = None  # one of MERGES
    lexical: str | None = None  # one of LEXICAL


def parse_rival(name: str) -> Rival:
    """Take a rival's name apart; an unknown one is refused with the known ones.

    >>> parse_rival("lir-2+z-score")
    Rival(name='lir-2+z-score', rank=2, merge='z-score', lexical=None)
    """
    if name == "none":
        return Rival(name)
    if name in LEXICAL:
        return Rival(name, lexical=name)
    merge = "|".join(MERGES)
    found = re.fullmatch(
        rf"(?:centring|lir-(?P<rank>[1-9][0-9]*))(?:\+(?P<after>{merge}))?|(?P<alone>{merge})", name
    )
    if not found:
        raise InputError(f"unknown rival {name!r}; use {KNOWN}")
    rank = None if found["alone"] else int(found["rank"] or 0)
    return Rival(name, rank=rank, merge=found["after"] or found["alone"])


def is_rival(name: str) -> bool:
    """Say whether `parse_rival` knows this name."""
    try:
        parse_rival(name)
    except InputError:
        return False
    return True


def language_means(emb: Vectors, langs: Languages) -> dict[str, Vectors]:
    """Return each language's mean embedding, (dim,) float32, from (n, dim) embeddings and n
    language names.

    The embeddings are taken as they are: give unit vectors if unit vectors will be centred.
    """
    vectors, names = _aligned(emb, langs)
    return {
        str(lang): vectors[names == lang].mean(axis=0, dtype=np.float64).astype(np.float32)
        for lang in np.unique(names)
    }


def language_directions(emb: Vectors, langs: Languages, rank: int) -> dict[str, Vectors]:
    """Return the top `rank` right singular vectors of each language's embeddings, (rank, dim)
    float32, best first.

    The embeddings are not centred (Yang et al. 2021), so the first direction is close to the
    mean's. They are the eigenvectors of the (dim, dim) matrix of second moments, in float64:
    cheaper than decomposing the (n, dim) matrix, and exact enough for the largest ones. Raises
    `InputError` for a language with fewer texts than directions, and for as many directions as
    dimensions.
    """
    vectors, names = _aligned(emb, langs)
    if rank < 1:
        raise InputError(f"rank must be at least 1, got {rank}")
    refuse_rank(rank, vectors.shape[1])
    directions = {}
    for lang in np.unique(names):
        own = vectors[names == lang].astype(np.float64)  # (n, dim)
        if len(own) < rank:
            raise InputError(
                f"lir-{rank} from {len(own)} texts in {str(lang)!r}; fit it on at least {rank} in"
                " each language"
            )
        ascending = np.linalg.eigh(own.T @ own).eigenvectors  # (dim, dim), one a column
        directions[str(lang)] = np.ascontiguousarray(
            ascending[:, ::-1][:, :rank].T, dtype=np.float32
        )
    return directions


def refuse_rank(rank: int, dim: int) -> None:
    """Refuse to take `rank` directions out of vectors that have no more dimensions than that."""
    if rank >= dim:
        raise InputError(f"lir-{rank} on vectors of {dim} dimensions; use lir-1 to lir-{dim - 1}")


def centre(emb: Vectors, langs: Languages, means: Mapping[str, Vectors]) -> Vectors:
    """Subtract from each embedding its language's mean and scale the rest to unit norm; the input
    is left as it is.

    Raises `InputError` for a language without a mean, a mean of another dimension, and a vector
    that equals its mean (it has no direction left: a language fitted on that one text, for
    instance).
    """
    return _without(emb, langs, means, "mean", lambda own, mean: own - mean)


def project_out(emb: Vectors, langs: Languages, directions: Mapping[str, Vectors]) -> Vectors:
    """Subtract from each embedding its projection on its language's directions and scale the rest
    to unit norm.

    `directions` hold orthonormal rows, (rank, dim), as `language_directions` returns them. Errors
    are those of `centre`.
    """
    return _without(
        emb, langs, directions, "directions", lambda own, axes: own - (own @ axes.T) @ axes
    )


def fit_shift(emb: Vectors, langs: Languages, rank: int) -> dict[str, Vectors]:
    """Return what `remove_shift` needs: each language's mean for rank 0 (centring), its top
    directions for rank R (lir-R).
    """
    return language_directions(emb, langs, rank) if rank else language_means(emb, langs)


def remove_shift(
    emb: Vectors, langs: Languages, fitted: Mapping[str, Vectors], rank: int
) -> Vectors:
    """Centre (rank 0) or project out (rank R); the result has unit norm."""
    return project_out(emb, langs, fitted) if rank else centre(emb, langs, fitted)


def _without(
    emb: Vectors,
    langs: Languages,
    fitted: Mapping[str, Vectors],
    what: str,
    rest: Callable[[Vectors, Vectors], NDArray[np.floating]],
) -> Vectors:
    vectors, names = _aligned(emb, langs)
    result = np.empty_like(vectors)
    for lang in np.unique(names):
        if lang not in fitted:
            known = ", ".join(sorted(fitted)) or "none"
            raise InputError(
                f"no {what} for language {str(lang)!r}, only for {known}; fit it on its texts"
            )
        share = np.asarray(fitted[lang], dtype=np.float32)
        if share.shape[-1:] != vectors.shape[1:]:
            raise InputError(
                f"the {what} of {str(lang)!r} has shape {share.shape}, the embeddings"
                f" {vectors.shape}; use one encoder"
            )
        result[names == lang] = rest(vectors[names == lang], share)
    norm = np.linalg.norm(result, axis=1, keepdims=True)
    lost = norm[:, 0] <= 1e-6 * np.linalg.norm(vectors, axis=1)  # nothing but rounding is left
    if lost.any():
        row = int(np.argmax(lost))
        raise InputError(
            f"embedding in row {row} equals the {what} of {str(names[row])!r}; fit the {what} on"
            " more, and other, texts"
        )
    return result / norm


def _aligned(emb: Vectors, langs: Languages) -> tuple[Vectors, NDArray]:
    vectors, names = np.asarray(emb, dtype=np.float32), np.asarray(langs)
    if vectors.ndim != 2 or names.shape != vectors.shape[:1]:
        raise InputError(
            f"embeddings have shape {vectors.shape} and languages {names.shape}; (n, dim) and (n,)"
            " are needed"
        )
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise InputError(
            f"embedding in row {int(np.argmin(finite))} holds NaN or infinity; encode that text"
            " again"
        )
    return vectors, names


def result_folder(rival: str, fit: str) -> str:
    """Return the folder of a rival inside that of the plain evaluation: its name, and the fit if
    that is not the primary.

    >>> result_folder("centring", "foreign"), result_folder("bm25", "corpus")
    ('centring', 'bm25')
    >>> result_folder("centring+z-score", "corpus")
    'centring+z-score-corpus'
    """
    if rival == "none":
        return ""
    return rival if fit == FITS[0] or parse_rival(rival).rank is None else f"{rival}-{fit}"
