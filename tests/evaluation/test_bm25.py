"""BM25 against hand arithmetic and a literal implementation, its tokenizer against words counted by
hand in many scripts.
"""

import math
import unicodedata
from collections import Counter

import numpy as np
import pytest
from tiny import build_tiny

from xir_lib.encoders.open import open_encoder
from xir_lib.evaluation import bm25
from xir_lib.evaluation.bm25 import Index, pieces, words


def literal(query, passages, k1=0.9, b=0.4):
    """The formula of the module's docstring, token by token."""
    n, mean = len(passages), sum(map(len, passages)) / len(passages)
    scores = []
    for passage in passages:
        tf, total = Counter(passage), 0.0
        for token in query:
            df = sum(token in other for other in passages)
            idf = math.log(1 + (n - df + 0.5) / (df + 0.5))
            total += (
                idf * tf[token] / (tf[token] + k1 * (1 - b + b * len(passage) / mean))
                if tf[token]
                else 0
            )
        scores.append(total)
    return scores


def test_three_passages_by_hand():
    # Lengths 3, 2, 1, mean 2. idf a: ln(1 + 2.5 / 1.5) = .98083; b and c: ln(1 + 1.5 / 2.5) =
    # .47000. First: a twice 2 / (2 + .9 (.6 + .4 * 1.5)) = 2 / 3.08, b 1 / 2.08: .98083 * .64935 +
    # .47 * .48077 = .86286. Second: b 1 / (1 + .9) = .52632, times .47 = .24737. Third: neither
    # word.
    index = Index([["a", "a", "b"], ["b", "c"], ["c"]], [slice(None)])
    scores = index.scores([["a", "b"], ["b", "a", "unseen"], ["unseen"], []])
    np.testing.assert_allclose(scores[:2], [[0.86286, 0.24737, 0]] * 2, atol=1e-5)
    assert not scores[2:].any() and scores.dtype == np.float32


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.5, 0.75)])
def test_every_pool_has_its_own_statistics(k1, b):
    rng = np.random.default_rng(0)

    def text(longest):
        return [
            chr(97 + min(int(rng.exponential(4)), 25)) for _ in range(rng.integers(1, longest))
        ]  # few words are frequent

    passages, queries = (
        [text(30) for _ in range(60)],
        [text(8) for _ in range(40)],
    )  # with words that occur twice
    pools = [slice(0, 7), slice(7, 40), slice(40, 60)]
    for some in ([slice(None)], pools):
        scores = Index(passages, some, k1=k1, b=b).scores(queries)
        for row, query in enumerate(queries):
            for pool in some:
                expected, found = literal(query, passages[pool], k1, b), scores[row, pool]
                np.testing.assert_allclose(found, expected, rtol=1e-5)
                order = np.argsort(expected)
                clear = np.diff(np.array(expected)[order]) > 1e-5
                assert (np.diff(found[order])[clear] > 0).all()  # the same ranking but for ties


def test_passages_without_words_and_a_pool_of_them():
    for pools in ([slice(None)], [slice(0, 2), slice(2, 3)]):
        scores = Index([[], ["a"], []], pools).scores([["a"]])
        assert scores[0, 1] > 0 and not scores[0, [0, 2]].any()
    empty = Index([[], []], [slice(0, 1), slice(1, 2)])
    assert empty.scores([["a"], []]).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Eagle\u2019s NEST, 3,000 m\u00b2!", ["the", "eagle", "s", "nest", "3", "000", "m2"]),
        (
            "\u0395\u03bb\u03bb\u03ac\u03c2 \u0395\u039b\u039b\u0386\u03a3",
            ["\u03b5\u03bb\u03bb\u03ac\u03c3"] * 2,
        ),  # both sigmas
        ("कितने अंक?", ["कितने", "अंक"]),  # the vowel signs are marks, not letters
        ("می‌روم", ["میروم"]),  # a joiner inside a word
        ("Ọ̀yọ́ ni", ["ọ̀yọ́", "ni"]),
        ("鸮会飞。蝠", ["鸮会", "会飞", "蝠"]),
        ("２０１６年にABCで", ["2016", "年に", "abc", "で"]),
        ("カタカナー", ["カタ", "タカ", "カナ", "ナー"]),
        (
            "ผู้ชนะ NFL",
            ["ผู้ช", "ชน", "นะ", "nfl"],
        ),  # a character takes the marks above and below it along
        ("ភាសាខ្មែរ", ["ភាសា", "សាខ្", "ខ្មែ", "មែរ"]),
        ("မြန်မာ", ["မြန်", "န်မာ"]),
        ("한국어 문장", ["한국어", "문장"]),  # Korean has spaces
        ("!? \u200b", []),
    ],
)
def test_words_of_every_script(text, expected):
    assert words(text) == [unicodedata.normalize("NFKC", word) for word in expected]


def test_words_are_unicode_s_letters_marks_and_numbers():
    regex = pytest.importorskip("regex")
    text = "Größe, naïve! Ваша 2-я книга; كتابٌ جديد، బాగుంది. ἀγαθός Việt-Nam İzmir ŀlull ﬁn"
    expected = regex.findall(r"[\p{L}\p{M}\p{N}]+", unicodedata.normalize("NFKC", text).casefold())
    assert words(text) == expected and len(expected) > 12


def test_pieces_cover_the_whole_text(tmp_path):
    model = open_encoder(str(build_tiny(tmp_path)))
    text = "ab c de " * 40  # 32 tokens is all that the model reads
    found = pieces(model, [text, "ab"])
    assert "".join(found[0]).replace("▁", " ").split() == text.split()
    assert found[1] == ["▁ab"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Ọ̀yọ́, \u1ecc\u0300y\u1ecd\u0301",
            ["oyo", "oyo"],
        ),  # with combining marks, and half composed
        ("Ünïcode Straße Ελλάδα", ["unicode", "strasse", "ελλαδα"]),
        ("हिन्दी की", ["हिन्दी", "की"]),  # vowel signs and virama are letters
        ("ประเทศ", bm25.words("ประเทศ")),
        ("が", ["が"]),  # the voicing mark is none of Latin's
        ("한국어", ["한국어"]),  # taken apart and put together again
    ],
)
def test_folding_takes_diacritics_off_latin_greek_and_cyrillic_alone(
    text: str, expected: list[str]
) -> None:
    assert bm25.folded(text) == expected


def test_spaces_leave_case_and_punctuation() -> None:
    assert bm25.spaces(" Ọ̀yọ́,\tOYO\n") == ["Ọ̀yọ́,", "OYO"]
