"""Centring and LIR on vectors made of content plus a language's offset, against hand arithmetic and
numpy's full SVD.
"""

import numpy as np
import pytest

from xir_lib.errors import InputError
from xir_lib.metrics.ranks import relevant_ranks
from xir_lib.repair.maps import (
    Rival,
    centre,
    language_directions,
    language_means,
    parse_rival,
    project_out,
)


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
            relevant_ranks(query_emb, doc_emb, codes, rows, np.arange(3 * n), np.arange(3 * n))
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


def like_e5(rng, n):
    """Unit vectors of two languages that share most of their direction, as multilingual-e5's do:
    mean cosine about .8.
    """
    langs = np.repeat(["en", "yo"], n)
    shared, own = (
        rng.standard_normal(64),
        {
            "en": rng.standard_normal(64),
            "yo": rng.standard_normal(64),
        },
    )
    emb = unit(np.array([shared * 2 + own[lang] + 1.1 * rng.standard_normal(64) for lang in langs]))
    return emb.astype(np.float32), langs


def test_lir_by_hand():
    # All embeddings lie on the first axis, so that is the direction; (5, 8) keeps (0, 8), of length
    # 8.
    directions = language_directions(np.array([[2, 0], [4, 0]], dtype=np.float32), ["en", "en"], 1)
    np.testing.assert_allclose(np.abs(directions["en"]), [[1, 0]], atol=1e-7)
    np.testing.assert_allclose(
        project_out(np.array([[5, 8]], dtype=np.float32), ["en"], directions), [[0, 1]], atol=1e-6
    )


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_directions_are_the_right_singular_vectors_of_the_uncentred_matrix(rank):
    emb, langs = like_e5(np.random.default_rng(2), 200)
    directions = language_directions(emb, langs, rank)
    rest = project_out(emb, langs, directions)
    np.testing.assert_allclose(np.linalg.norm(rest, axis=1), 1, atol=1e-6)
    for lang in ("en", "yo"):
        axes = np.linalg.svd(emb[langs == lang].astype(np.float64), full_matrices=False)[2][:rank]
        np.testing.assert_allclose(
            np.abs(np.sum(axes * directions[lang], axis=1)), 1, atol=1e-5
        )  # up to their signs
        own = emb[langs == lang].astype(np.float64)
        np.testing.assert_allclose(rest[langs == lang], unit(own - own @ axes.T @ axes), atol=1e-4)
        assert np.abs(rest[langs == lang] @ axes.T).max() < 1e-4


def test_lir_of_rank_1_is_nearly_centring():
    # field.md: "almost to the digit". Of vectors dominated by their mean, the first singular vector
    # is the mean's.
    emb, langs = like_e5(np.random.default_rng(3), 500)
    assert 0.7 < np.mean((emb[langs == "en"] @ emb[langs == "en"].T)[np.triu_indices(500, 1)]) < 0.9
    centred = centre(emb, langs, language_means(emb, langs))
    lir = {rank: project_out(emb, langs, language_directions(emb, langs, rank)) for rank in (1, 5)}
    assert np.sum(centred * lir[1], axis=1).mean() > 0.99
    assert np.sum(centred * lir[5], axis=1).mean() < 0.97  # five directions take content, too
    assert np.sum(centred * emb, axis=1).mean() < 0.6


def test_names_are_taken_apart():
    assert parse_rival("none") == Rival("none")
    assert parse_rival("centring") == Rival("centring", rank=0)
    assert parse_rival("lir-12") == Rival("lir-12", rank=12)
    assert parse_rival("minus-top10") == Rival("minus-top10", merge="minus-top10")
    assert parse_rival("centring+round-robin") == Rival(
        "centring+round-robin", rank=0, merge="round-robin"
    )
    assert parse_rival("bm25-pieces") == Rival("bm25-pieces", lexical="bm25-pieces")
    for wrong in (
        "",
        "+",
        "lir",
        "lir-0",
        "lir-01",
        "centring+",
        "+z-score",
        "z-score+centring",
        "bm25+z-score",
        "none+z-score",
        "lir-1\n",
    ):
        with pytest.raises(
            InputError, match=r"unknown rival .*; use none, centring, lir-1, .*bm25.*round-robin"
        ):
            parse_rival(wrong)


def test_directions_need_enough_texts():
    emb, langs = like_e5(np.random.default_rng(4), 3)
    with pytest.raises(InputError, match="lir-4 from 3 texts in 'en'; fit it on at least 4"):
        language_directions(emb, langs, 4)
    with pytest.raises(InputError, match="lir-64 on vectors of 64 dimensions; use lir-1 to lir-63"):
        language_directions(emb, langs, 64)
    with pytest.raises(InputError, match="row 0 equals the directions of 'en'"):
        project_out(emb[:1], ["en"], language_directions(emb[:1], ["en"], 1))
    with pytest.raises(InputError, match="no directions for language 'yo', only for en"):
        project_out(emb, langs, language_directions(emb[:3], ["en"] * 3, 1))
