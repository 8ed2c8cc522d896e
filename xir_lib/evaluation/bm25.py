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
from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from xir_lib.errors import InputError
from xir_lib.metrics.scores import Scores

if TYPE_CHECKING:
    from scipy.sparse import csr_array
    from sentence_transformers import SentenceTransformer

K1, B, VARIANT = 0.9, 0.4, "lucene"

# Scripts that put no space between words: Thai and Lao, Myanmar with its extensions, Khmer, Han
# and Kana.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f\u1780-\u17ff"
    "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
    "\u3040-\u30ff\u31f0-\u31ff"
)
_MARKS = "".join(chr(code) for code in range(0x10000) if unicodedata.category(chr(code))[0] == "M")
_RUN = re.compile(rf"([{_UNSPACED}][{_UNSPACED}{_MARKS}]*)|[^\s{_UNSPACED}]+")
_DIACRITICS = re.compile("[\u0300-\u036f]")
_CLUSTER = re.compile(rf"[{_UNSPACED}][{_MARKS}]*")


class _WordCharacters(dict[int, str]):
    """For `str.translate`: letters, marks and numbers stay, joiners vanish, the rest parts."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        self[code] = character if category[0] in "LMN" else "" if category == "Cf" else " "
        return self[code]


_WORD_CHARACTERS = _WordCharacters()


def words(text: str) -> list[str]:
    """Split a text of any script into tokens, without a dictionary or knowing its language.

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
    """Split a text as `words` does, without the diacritics of Latin, Greek and Cyrillic letters.

    These are U+0300 to U+036F; marks of other scripts are letters or vowels there, and stay.

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


PIECES = "bm25-pieces"
TOKENIZERS: dict[str, Callable[[str], list[str]]] = {
    "bm25": words,
    "bm25-folded": folded,
    "bm25-spaces": spaces,
}


def pieces(model: "SentenceTransformer", texts: Sequence[str]) -> list[list[str]]:
    """Split texts into the subwords of a model's tokenizer: whole texts, no special tokens.

    Raises InputError for a tokenizer of another library than transformers, such as that of static
    embeddings.
    """
    if not callable(model.tokenizer):
        raise InputError(
            f"a {type(model.tokenizer).__module__} tokenizer gives BM25 no pieces; use bm25"
        )
    found = model.tokenizer(list(texts), add_special_tokens=False, truncation=False, verbose=False)
    return [model.tokenizer.convert_ids_to_tokens(ids) for ids in found["input_ids"]]


def tokenizer(
    kind: str, model: "SentenceTransformer | None" = None
) -> Callable[[Sequence[str]], list[list[str]]]:
    """Return what cuts texts for one of `kinds.LEXICAL`; `bm25-pieces` needs a model.

    >>> tokenizer("bm25-spaces")(["Kola nut", "nut"])
    [['Kola', 'nut'], ['nut']]
    """
    if kind != PIECES:
        cut = TOKENIZERS[kind]
        return lambda texts: [cut(text) for text in texts]
    if model is None:
        raise InputError(f"{PIECES} cuts texts as an encoder does; name it: {PIECES}:ENCODER")
    return lambda texts: pieces(model, texts)


def key(kind: str) -> dict[str, Any]:
    """Return what identifies a result of one of `kinds.LEXICAL`."""
    tokens = "the model's pieces" if kind == PIECES else TOKENIZERS[kind].__name__
    settings = {"k1": K1, "b": B, "variant": VARIANT, "statistics": "of each pool"}
    return {"name": kind, **settings, "tokens": tokens}


class Index:
    """BM25 scores of tokenised passages; each pool has statistics of its own.

    `pools` are slices of the passages, which together are all of them, in order.

    >>> index = Index([["a", "b"], ["a"], ["c"]], [slice(0, 2), slice(2, 3)])
    >>> (index.scores([["b"]]) > 0).tolist()
    [[True, False, False]]
    """

    def __init__(
        self,
        passages: Sequence[Sequence[str]],
        pools: Sequence[slice],
        *,
        k1: float = K1,
        b: float = B,
    ) -> None:
        tokens = dict.fromkeys(chain.from_iterable(passages))
        self.vocabulary = {token: row for row, token in enumerate(tokens)}
        ids = [[self.vocabulary[token] for token in passage] for passage in passages]
        self._weights = self._indexed(ids, pools, k1, b)  # (tokens, passages)

    def _indexed(
        self, ids: list[list[int]], pools: Sequence[slice], k1: float, b: float
    ) -> "csr_array":
        """Return the score that a token in the query gives a passage, (tokens, passages)."""
        from scipy.sparse import csc_array, hstack

        try:
            import bm25s
        except ImportError as error:
            raise InputError(
                "BM25 needs the package bm25s; pip install 'xir-lib[search]'"
            ) from error

        # It asks for DEBUG, and tells of every pool.
        logging.getLogger("bm25s").setLevel(logging.WARNING)
        parts = []
        for pool in pools:
            index = bm25s.BM25(k1=k1, b=b, method=VARIANT)
            corpus = ids[pool]
            with np.errstate(invalid="ignore"):  # a pool of empty passages has the mean length 0
                index.index(
                    (corpus, self.vocabulary), create_empty_token=False, show_progress=False
                )
            found = index.scores
            shape = (len(corpus), len(self.vocabulary))
            parts.append(
                csc_array((found["data"], found["indices"], found["indptr"]), shape=shape).T
            )
        return hstack(parts, format="csr")

    def scores(self, queries: Sequence[Sequence[str]]) -> Scores:
        """Return the scores of tokenised queries, (queries, passages) float32."""
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
        return (counts @ self._weights).toarray()
