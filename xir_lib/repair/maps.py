"""Centring: take the share of the language out of a finished encoder's vectors.

An encoder that keeps a text's language in its vector shifts all vectors of a language by about the
same amount (field.md, section 2). Subtracting each language's mean removes that shift. Queries and
passages have different prefixes and different means: fit and apply them separately. Where the means
come from decides what a result says: see `fit`. Knows no model and no data set.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from xir_lib.errors import InputError

Vectors = NDArray[np.float32]
Languages = Sequence[str] | NDArray


def language_means(emb: Vectors, langs: Languages) -> dict[str, Vectors]:
    """Return each language's mean, (dim,) float32, of (n, dim) embeddings and n language names.

    The embeddings are taken as they are: give unit vectors if unit vectors will be centred.

    >>> language_means(np.float32([[1, 3], [3, 5]]), ["en", "en"])["en"].tolist()
    [2.0, 4.0]
    """
    vectors, names = _aligned(emb, langs)
    return {
        str(lang): vectors[names == lang].mean(axis=0, dtype=np.float64).astype(np.float32)
        for lang in np.unique(names)
    }


def centre(emb: Vectors, langs: Languages, means: Mapping[str, Vectors]) -> Vectors:
    """Subtract from each embedding its language's mean and scale the rest to unit norm.

    The input is left as it is. Raises `InputError` for a language without a mean, a mean of another
    dimension, and a vector that equals its mean: it has no direction left (a language fitted on
    that one text, for instance).

    >>> centre(np.float32([[5, 8]]), ["en"], {"en": np.float32([2, 4])}).round(3).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    vectors, names = _aligned(emb, langs)
    result = np.empty_like(vectors)
    for lang in np.unique(names):
        if lang not in means:
            known = ", ".join(sorted(means)) or "none"
            raise InputError(
                f"no mean for language {str(lang)!r}, only for {known}; fit it on its texts"
            )
        mean = np.asarray(means[lang], dtype=np.float32)
        if mean.shape != vectors.shape[1:]:
            raise InputError(
                f"the mean of {str(lang)!r} has shape {mean.shape}, the embeddings"
                f" {vectors.shape}; use one encoder"
            )
        result[names == lang] = vectors[names == lang] - mean
    norm = np.linalg.norm(result, axis=1, keepdims=True)
    lost = norm[:, 0] <= 1e-6 * np.linalg.norm(vectors, axis=1)  # nothing but rounding is left
    if lost.any():
        row = int(np.argmax(lost))
        raise InputError(
            f"embedding in row {row} equals the mean of {str(names[row])!r}; fit the mean on"
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
        row = int(np.argmin(finite))
        raise InputError(f"embedding in row {row} holds NaN or infinity; encode that text again")
    return vectors, names
