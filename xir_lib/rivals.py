"""What costs no training: mean centring of a finished encoder's embeddings.

An encoder that keeps a text's language in its vector shifts all vectors of a language by about the same amount;
subtracting each language's mean removes the shift and with it much of the preference for a language in a mixed pool
(field.md, section 2: a strong rival of any training). LIR (Yang et al. 2021) with rank 1 is nearly the same.

Where the means come from decides what the result says, so it belongs in the result's key:

* `foreign`: from other text of the same languages (XQuAD-R's for MLQA-R and the reverse). The primary one: nothing of
  the test set is used.
* `corpus`: passage means from the passages of the pool, which the owner of an index has. Transductive.
* `cross-fit`: from the other folds of the test set, split by article.

Queries and passages have different prefixes and different means: fit and centre them separately, and never take
query means from the test queries that are scored with them. This module knows no model and no data set.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from xir_lib.errors import InputError

Vectors = NDArray[np.float32]


def language_means(emb: Vectors, langs: Sequence[str] | NDArray) -> dict[str, Vectors]:
    """Return each language's mean embedding, (dim,) float32, from (n, dim) embeddings and n language names.

    The embeddings are taken as they are: give unit vectors if unit vectors will be centred.
    """
    vectors, names = _aligned(emb, langs)
    return {str(lang): vectors[names == lang].mean(axis=0, dtype=np.float64).astype(np.float32) for lang in np.unique(names)}


def centre(emb: Vectors, langs: Sequence[str] | NDArray, means: Mapping[str, Vectors]) -> Vectors:
    """Subtract from each embedding its language's mean and scale the rest to unit norm; the input is left as it is.

    Raises `InputError` for a language without a mean, a mean of another dimension, and a vector that equals its mean (it
    has no direction left: a language fitted on that one text, for instance).
    """
    vectors, names = _aligned(emb, langs)
    result = np.empty_like(vectors)
    for lang in np.unique(names):
        if lang not in means:
            raise InputError(
                f"no mean for language {str(lang)!r}, only for {', '.join(sorted(means)) or 'none'}; fit it on its texts"
            )
        mean = np.asarray(means[lang], dtype=np.float32)
        if mean.shape != vectors.shape[1:]:
            raise InputError(
                f"the mean of {str(lang)!r} has shape {mean.shape}, the embeddings {vectors.shape}; use one encoder"
            )
        result[names == lang] = vectors[names == lang] - mean
    norm = np.linalg.norm(result, axis=1, keepdims=True)
    if not norm.all():
        row = int(np.argmin(norm))
        raise InputError(
            f"embedding in row {row} equals the mean of {str(names[row])!r}; fit the means on more, and other, texts"
        )
    return result / norm


def _aligned(emb: Vectors, langs: Sequence[str] | NDArray) -> tuple[Vectors, NDArray]:
    vectors, names = np.asarray(emb, dtype=np.float32), np.asarray(langs)
    if vectors.ndim != 2 or names.shape != vectors.shape[:1]:
        raise InputError(f"embeddings have shape {vectors.shape} and languages {names.shape}; (n, dim) and (n,) are needed")
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise InputError(f"embedding in row {int(np.argmin(finite))} holds NaN or infinity; encode that text again")
    return vectors, names
