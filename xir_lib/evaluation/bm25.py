"""BM25 over every pool: the floor that knows no vectors and, by design, nothing of translation.

The formula is Lucene's with exact passage lengths, `bm25s`'s variant "lucene" (Kamphuis et al.
2020): a passage's score is the sum, over the tokens t of the query, repetitions included, of

    log(1 + (N - df + .5) / (df + .5)) * tf / (tf + k1 (1 - b + b len / avglen))

with k1 = .9 and b = .4, the settings of Anserini and of MIRACL's baselines. N, df and avglen belong
to the collection that the query meets: each language's pool is an index of its own in the
monolingual and the cross-lingual setting, the pool of all languages is one more index. A passage
that shares no token with the query scores 0 and stays in the ranking, behind the others, in the
order of the ids.

Tokenizers: `words` needs no dictionary and no language; `folded` are words without the diacritics
of Latin, Greek and Cyrillic letters, which some languages write now and then only (Yoruba's tones
and dots: see `figures/miracl-yo`); `spaces` cuts at white space alone, which reproduces the
published baseline of MIRACL's Yoruba; `pieces` are the encoder's own subwords. None stems or drops
stop words, so language analysers do better in their languages. This module knows no data set.
"""

import logging
import re
import unicodedata
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import numpy as np

from xir_lib.errors import InputError
from xir_lib.metrics.ranks import IntArray
from xir_lib.repair.maps import Vectors

if TYPE_CHECKING:
    from scipy.sparse import csr_array
    from sentence_transformers import SentenceTransformer

K1, B, VARIANT = 0.9, 0.4, "lucene"

# Thai and Lao, Myanmar with its extensions, Khmer, Han, Kana: scripts that put no space between
# words
_UNSPACED = "".join(
    f"{chr(first)}-{chr(last)}"
    for first, last in (
        *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F), (0x1780, 0x17FF)),
        *(
            (0x3005, 0x3007),
            (0x3400, 0x4DBF),
            (0x4E00, 0x9FFF),
            (0xF900, 0xFAFF),
            (0x20000, 0x323AF),
        ),
        *((0x3040, 0x30FF), (0x31F0, 0x31FF)),
    )
)
_MARKS = "".join(chr(code) for code in range(0x10000) if unicodedata.category(chr(code))[0] == "M")
_RUN = re.compile(rf"([{_UNSPACED}][{_UNSPACED}{_MARKS}]*)|[^\s{_UNSPACED}]+")
_DIACRITICS = re.compile("[\u0300-\u036f]")
_CLUSTER = re.compile(rf"[{_UNSPACED}][{_MARKS}]*")


class _WordCharacters(dict[int, str]):
    """For `str.translate`: letters, marks and numbers stay, format characters (joiners) vanish, the
    rest parts words.
    """

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        self[code] = character if category[0] in "LMN" else "" if category == "Cf" else " "
        return self[code]


_WORD_CHARACTERS = _WordCharacters()


def words(text: str) -> list[str]:
    """Split a text of any script into tokens, without a dictionary and without knowing its
    language.

    The text is NFKC-normalised and case-folded. A word is a run of letters, marks and numbers
    (Python's own `\\w` would cut Hindi at every vowel sign). Han, Kana, Thai, Lao, Khmer and
    Myanmar put no spaces between words: their runs become overlapping pairs of neighbouring
    characters, each with the marks on it, as Lucene's CJK analyser does for Han.

    >>> words("The Eagle’s NEST, 鸮会飞。")
    ['the', 'eagle', 's', 'nest', '鸮会', '会飞']
    """
    tokens: list[str] = []
    for run in _RUN.finditer(
        unicodedata.normalize("NFKC", text).casefold().translate(_WORD_CHARACTERS)
    ):
        letters = _CLUSTER.findall(run[0]) if run[1] else run[0]
        tokens += (
            [run[0]] if len(letters) == 1 or not run[1] else [a + b for a, b in pairwise(letters)]
        )
    return tokens


def folded(text: str) -> list[str]:
    """Split a text as `words` does, without the combining diacritics (U+0300 to U+036F) of Latin,
    Greek and Cyrillic letters.

    Marks of other scripts are letters or vowels there, and stay.

    >>> folded("Ọ̀yọ́, हिन्दी")
    ['oyo', 'हिन्दी']
    """
    return words(_DIACRITICS.sub("", unicodedata.normalize("NFD", text)))


def spaces(text: str) -> list[str]:
    """Split a text at white space and leave case, punctuation and marks as they are.

    >>> spaces("Ọ̀yọ́, Ọ̀yọ́")
    ['Ọ̀yọ́,', 'Ọ̀yọ́']
    """
    return text.split()


TOKENIZERS = {
    "bm25": words,
    "bm25-folded": folded,
    "bm25-spaces": spaces,
}  # by the rival's name; pieces need a model


def pieces(model: "SentenceTransformer", texts: Sequence[str]) -> list[list[str]]:
    """Split texts into the subwords of a model's tokenizer: whole texts, no special tokens, case as
    the tokenizer has it.

    Raises InputError for a tokenizer of another library than transformers, such as that of static
    embeddings.
    """
    if not callable(model.tokenizer):
        raise InputError(
            f"a {type(model.tokenizer).__module__} tokenizer gives BM25 no pieces; use bm25"
        )
    found = model.tokenizer(list(texts), add_special_tokens=False, truncation=False, verbose=False)[
        "input_ids"
    ]
    return [model.tokenizer.convert_ids_to_tokens(ids) for ids in found]


class Index:
    """BM25 scores of tokenised passages, for both kinds of pool at once.

    `passages` are lists of tokens, `doc_langs` the passages' language codes 0, 1, ..., without
    gaps.
    """

    def __init__(
        self,
        passages: Sequence[Sequence[str]],
        doc_langs: IntArray,
        *,
        k1: float = K1,
        b: float = B,
    ) -> None:
        self.vocabulary = {
            token: row for row, token in enumerate(dict.fromkeys(chain.from_iterable(passages)))
        }
        ids = [[self.vocabulary[token] for token in passage] for passage in passages]
        self.own_pool = self._weights(ids, doc_langs, k1, b)  # (tokens, passages)
        self.one_pool = self._weights(ids, np.zeros_like(doc_langs), k1, b)

    def _weights(self, ids: list[list[int]], pools: IntArray, k1: float, b: float) -> "csr_array":
        """Return the score that a token in the query gives a passage, (tokens, passages),
        statistics taken pool by pool.
        """
        from scipy.sparse import csc_array, hstack

        try:
            import bm25s
        except ImportError as error:
            raise InputError(
                "BM25 needs the package bm25s; pip install 'xir-lib[search]'"
            ) from error

        logging.getLogger("bm25s").setLevel(
            logging.WARNING
        )  # it asks for DEBUG, and tells of every pool
        parts = []
        for pool in range(int(pools.max()) + 1):
            index = bm25s.BM25(k1=k1, b=b, method=VARIANT)
            corpus = [ids[row] for row in np.flatnonzero(pools == pool)]
            with np.errstate(invalid="ignore"):  # a pool of empty passages has the mean length 0
                index.index(
                    (corpus, self.vocabulary), create_empty_token=False, show_progress=False
                )
            found = index.scores
            shape = (len(corpus), len(self.vocabulary))
            parts.append(
                csc_array((found["data"], found["indices"], found["indptr"]), shape=shape).T
            )
        in_order = np.argsort(np.argsort(pools, kind="stable"))
        return hstack(parts, format="csc")[:, in_order].tocsr()

    def scores(self, queries: Sequence[Sequence[str]]) -> tuple[Vectors, Vectors]:
        """Return (queries, passages) float32 twice: with the statistics of each passage's language,
        and of all passages.
        """
        from scipy.sparse import csr_array

        ids = [
            [self.vocabulary[token] for token in query if token in self.vocabulary]
            for query in queries
        ]
        ends = np.cumsum([0, *map(len, ids)])
        tokens = np.fromiter(chain.from_iterable(ids), np.int64, ends[-1])
        counts = csr_array(
            (np.ones(len(tokens), np.float32), tokens, ends),
            shape=(len(queries), len(self.vocabulary)),
        )
        return (counts @ self.own_pool).toarray(), (counts @ self.one_pool).toarray()
