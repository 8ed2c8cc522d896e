"""Cut an encoder's vocabulary to the texts at hand, and put it back."""

import json
import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from xir_lib.encoders.encode import is_routed, prompts_of
from xir_lib.errors import InputError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)


_CHUNK = 4096  # texts tokenised at a time, to see which pieces they use


def trim_vocabulary(model: "SentenceTransformer", texts: Iterable[str]) -> np.ndarray:
    """Cut tokenizer and embedding table, in place, to the pieces that `texts` use bare and behind
    each prompt.

    Returns the kept ids of the former vocabulary, ascending; their places are the new ids. Every
    vector of these texts stays as it was. Unigram (XLM-R): a removed piece was on no best path, so
    the best paths remain, and the lowest-scored piece stays because the penalty of an unknown
    character hangs on it. WordPiece (BERT, LaBSE): a removed piece was nowhere the longest match;
    in a word that has none to its end every piece that it could hold stays. Other texts fall into
    more and other pieces: give the texts of every corpus that the model will see. A vocabulary of
    another kind (BPE) stays whole.
    """
    transformer, tokenizer = _transformer(model), model.tokenizer
    kept = used_pieces(model, texts)
    if kept is None:
        return np.arange(transformer.get_input_embeddings().num_embeddings)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    words, post = state["model"]["type"] == "WordPiece", state["post_processor"]
    new_id = {int(old): new for new, old in enumerate(kept)}
    pieces = state["model"]["vocab"]  # [piece, score] in id order; of WordPiece the id by piece
    if words:
        state["model"]["vocab"] = {
            piece: new_id[old] for piece, old in pieces.items() if old in new_id
        }
    else:
        state["model"]["vocab"] = [pieces[old] for old in kept if old < len(pieces)]
        state["model"]["unk_id"] = new_id[state["model"]["unk_id"]]
    for token in state["added_tokens"]:
        token["id"] = new_id[token["id"]]
    for special in post["special_tokens"].values():
        special["ids"] = [new_id[old] for old in special["ids"]]
    _set_tokenizer(tokenizer, json.dumps(state))
    config = transformer.config
    for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if getattr(config, key, None) is not None:
            setattr(config, key, new_id.get(getattr(config, key)))
    table = transformer.get_input_embeddings()
    _set_table(transformer, table.weight.detach()[kept], new_id.get(table.padding_idx))
    return kept


def used_pieces(model: "SentenceTransformer", texts: Iterable[str]) -> np.ndarray | None:
    """Return the ids that `trim_vocabulary` keeps, ascending; None of a vocabulary that it leaves
    whole.
    """
    backend = model.tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    state = json.loads(backend.to_str())
    words = (
        state["model"]
        if state["model"]["type"] == "WordPiece" and backend.pre_tokenizer is not None
        else None
    )
    if (
        not (words or state["model"]["type"] == "Unigram")
        or state["post_processor"]["type"] != "TemplateProcessing"
    ):
        logger.info(
            "a %s vocabulary stays whole, only unigram and WordPiece can be trimmed",
            state["model"]["type"],
        )
        return None
    pieces = state["model"]["vocab"]
    most = max(words["vocab"].values()) + 1 if words else len(pieces)
    used = np.zeros(max(most, 1 + max(token["id"] for token in state["added_tokens"])), dtype=bool)
    used[[token["id"] for token in state["added_tokens"]]] = True
    unknown = words["vocab"][words["unk_token"]] if words else state["model"]["unk_id"]
    used[unknown] = True
    if not words:
        used[int(np.argmin([score for _, score in pieces]))] = True
    prompts = {"", *prompts_of(model)}
    remaining = iter(texts)
    while chunk := list(islice(remaining, _CHUNK)):
        whole = [prompt + text for prompt in prompts for text in chunk]
        for text, encoding in zip(whole, backend.encode_batch_fast(whole), strict=True):
            used[encoding.ids] = True
            if words and unknown in encoding.ids:
                used[list(_pieces_within(backend, text, words))] = True
    return np.flatnonzero(used)


def _pieces_within(backend: Any, text: str, words: dict[str, Any]) -> Iterator[int]:
    """Yield the ids of all WordPieces that a word of the text could hold, at its start or within
    it.
    """
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    for word, _ in backend.pre_tokenizer.pre_tokenize_str(text):
        if len(word) > words["max_input_chars_per_word"]:
            continue  # unknown as a whole
        for start in range(len(word)):
            mark = words["continuing_subword_prefix"] if start else ""
            for end in range(start + 1, len(word) + 1):
                if (found := words["vocab"].get(mark + word[start:end])) is not None:
                    yield found


def restore_vocabulary(model: "SentenceTransformer", full: "SentenceTransformer") -> None:
    """Give a trimmed `model`, in place, the tokenizer of `full` and its embedding table with the
    trained rows put in.

    `full` is the encoder that was trimmed, opened again without `vocab_texts`; its table is handed
    over, not copied, so do not use it afterwards. A piece is found by its text, so nothing needs to
    be remembered between trimming and restoring.
    """
    transformer, source = _transformer(model), _transformer(full)
    small, large = model.tokenizer.get_vocab(), full.tokenizer.get_vocab()
    if missing := sorted(small.keys() - large.keys()):
        raise InputError(
            f"{len(missing)} pieces such as {missing[0]!r} are not in the full vocabulary; open the"
            " same encoder"
        )
    old = [large[piece] for piece in small]
    whole = source.get_input_embeddings()
    table = whole.weight.detach()
    trained = transformer.get_input_embeddings().weight.detach().to(table.device, table.dtype)
    table[old] = trained[list(small.values())]
    _set_tokenizer(model.tokenizer, full.tokenizer.backend_tokenizer.to_str())
    for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if hasattr(source.config, key):
            setattr(transformer.config, key, getattr(source.config, key))
    _set_table(transformer, table, whole.padding_idx)


def _transformer(model: "SentenceTransformer") -> Any:
    if is_routed(model):
        raise InputError(
            "the encoder reads queries and passages with modules of their own (Router); it can be"
            " evaluated as it is, not trained, trimmed or drawn anew here"
        )
    transformer = model.transformers_model
    if transformer is None:
        raise InputError(
            f"the encoder's first module is {type(model[0]).__name__}; a transformer is needed"
        )
    return transformer


def _set_tokenizer(tokenizer: Any, state: str) -> None:
    """Swap the Rust tokenizer inside its Hugging Face wrapper, which keeps the names of the special
    tokens and the limit.
    """
    from tokenizers import Tokenizer

    tokenizer._tokenizer = Tokenizer.from_str(state)


def _set_table(transformer: Any, rows: Any, padding_idx: int | None) -> None:
    from torch import nn

    frozen = not transformer.get_input_embeddings().weight.requires_grad
    transformer.set_input_embeddings(
        nn.Embedding.from_pretrained(rows, freeze=frozen, padding_idx=padding_idx)
    )
    transformer.config.vocab_size = len(rows)
