"""Centring on vectors made of content plus a language's offset, against hand arithmetic."""

import numpy as np
import pytest
from toy import vector_ranks

from xir_lib.errors import InputError
from xir_lib.repair.maps import centre, language_means


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_means_by_hand():
    means = language_means(np.array([[1, 3], [3, 5], [7, 7]], dtype=np.float32), ["en", "en", "yo"])
    assert {lang: mean.tolist() for lang, mean in means.items()} == {"en": [2, 4], "yo": [7, 7]}
    # (5, 8) - (2, 4) = (3, 4), of length 5.
    assert centre(np.array([[5, 8]], dtype=np.float32), ["en"], means).tolist() == [
        [pytest.approx(0.6), pytest.approx(0.8)]
    ]


def test_centring_by_other_text_undoes_a_language_offset():
    rng = np.random.default_rng(0)
    n, langs = 40, np.array(["en", "th", "yo"])
    offset = {lang: rng.normal(0, 3, 16) for lang in langs}

    def texts(content, lang):
        return (content + offset[lang]).astype(np.float32)

    content = unit(rng.standard_normal((n, 16)))
    doc_lang = np.repeat(langs, n)
    docs = np.concatenate([texts(content, lang) for lang in langs])
    queries, query_lang = texts(content, "yo"), np.repeat("yo", n)
    other = rng.standard_normal((5000, 16))
    other -= other.mean(axis=0)  # other text, none of it in the pool, whose content averages out
    means = language_means(
        np.concatenate([texts(other, lang) for lang in langs]), np.repeat(langs, 5000)
    )
    assert np.allclose(centre(docs, doc_lang, means), np.tile(content, (3, 1)), atol=1e-4)

    def ranks(query_emb, doc_emb):
        rows = np.tile(np.arange(n), 3)
        codes = np.unique(doc_lang, return_inverse=True)[1]
        return (
            vector_ranks(query_emb, doc_emb, codes, rows, np.arange(3 * n), np.arange(3 * n))
            .in_all()[1]
            .reshape(3, n)
        )

    biased, centred = (
        ranks(unit(queries), unit(docs)),
        ranks(centre(queries, query_lang, means), centre(docs, doc_lang, means)),
    )
    assert centred.max() == 3  # the three versions of the answer are the first three
    assert (
        biased[:2].min() > n - 1
    )  # before, nearly the whole Yoruba pool stood above any other language's answer


def test_unit_norm_and_untouched_input():
    rng = np.random.default_rng(1)
    emb, langs = unit(rng.standard_normal((50, 8))).astype(np.float32), rng.choice(["en", "de"], 50)
    before = emb.copy()
    result = centre(emb, langs, language_means(emb, langs))
    np.testing.assert_allclose(np.linalg.norm(result, axis=1), 1, atol=1e-6)
    assert result.dtype == np.float32 and (emb == before).all()
    order = rng.permutation(50)
    np.testing.assert_allclose(
        centre(emb[order], langs[order], language_means(emb[order], langs[order])),
        result[order],
        atol=1e-6,
    )


def test_bad_input_is_named():
    emb = np.array([[1, 0], [0, 1]], dtype=np.float32)
    means = language_means(emb, ["en", "en"])
    with pytest.raises(InputError, match="no mean for language 'yo', only for en"):
        centre(emb, ["en", "yo"], means)
    with pytest.raises(InputError, match="row 1 equals the mean of 'yo'"):
        centre(emb, ["en", "yo"], {**means, **language_means(emb[1:], ["yo"])})
    with pytest.raises(InputError, match=r"mean of 'en' has shape \(3,\)"):
        centre(emb, ["en", "en"], {"en": np.ones(3, dtype=np.float32)})
    with pytest.raises(InputError, match=r"languages \(1,\)"):
        language_means(emb, ["en"])
    with pytest.raises(InputError, match="row 1 holds NaN"):
        language_means(np.array([[1, 0], [np.nan, 0]], dtype=np.float32), ["en", "en"])
