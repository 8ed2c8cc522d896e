"""Cut an encoder's vocabulary to the texts at hand, and put it back.

96 of the 118 million parameters of multilingual-e5-small are the embeddings of 250,000 pieces, most
of which a corpus never uses; training without them changes no vector and costs less memory. No
library does this. Knows no training: who trims before it restores after it.
"""

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

log = logging.getLogger(__name__)

_CHUNK = 4096  # texts tokenised at a time
_CONFIG_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")


def trim_vocabulary(model: "SentenceTransformer", texts: Iterable[str]) -> np.ndarray:
    """Cut tokenizer and embedding table, in place, to the pieces that `texts` use bare and behind
    each prompt.

    Returns the kept ids of the former vocabulary, ascending; their places are the new ids. Every
    vector of these texts stays as it was (`used_pieces` says why). Other texts fall into more and
    other pieces: give the texts of every corpus that the model will see. A vocabulary of another
    kind (BPE) stays whole.
    """
    transformer = transformer_of(model)
    table, config = transformer.get_input_embeddings(), transformer.config

    # 1. Which pieces stay, and what each is called from now on.
    kept = used_pieces(model, texts)
    if kept is None:
        return np.arange(table.num_embeddings)
    new_id = {int(old): new for new, old in enumerate(kept)}

    # 2. The tokenizer and the configuration with the new ids, the table with the kept rows.
    state = _renumbered(json.loads(model.tokenizer.backend_tokenizer.to_str()), new_id)
    old_ids = {key: getattr(config, key, None) for key in _CONFIG_IDS}
    ids = {key: new_id.get(old) for key, old in old_ids.items() if old is not None}
    rows = table.weight.detach()[kept]
    _install(model, json.dumps(state), rows, new_id.get(table.padding_idx), ids)
    return kept


def restore_vocabulary(model: "SentenceTransformer", full: "SentenceTransformer") -> None:
    """Give a trimmed `model`, in place, the tokenizer of `full` and its embedding table with the
    trained rows put in.

    `full` is the encoder that was trimmed, opened again; its table is handed over, not copied, so
    do not use it afterwards. A piece is found by its text, so nothing needs to be remembered
    between trimming and restoring.
    """
    source = transformer_of(full)
    small, large = model.tokenizer.get_vocab(), full.tokenizer.get_vocab()
    if missing := sorted(small.keys() - large.keys()):
        raise InputError(
            f"{len(missing)} pieces such as {missing[0]!r} are not in the full vocabulary; open the"
            " same encoder"
        )
    whole = source.get_input_embeddings()
    table = whole.weight.detach()
    trained = transformer_of(model).get_input_embeddings().weight.detach()
    places = [large[piece] for piece in small]
    table[places] = trained.to(table.device, table.dtype)[list(small.values())]
    ids = {key: getattr(source.config, key) for key in _CONFIG_IDS if hasattr(source.config, key)}
    _install(model, full.tokenizer.backend_tokenizer.to_str(), table, whole.padding_idx, ids)


def used_pieces(model: "SentenceTransformer", texts: Iterable[str]) -> np.ndarray | None:
    """Return the ids that `trim_vocabulary` keeps, ascending; None of a vocabulary that it leaves
    whole.

    Unigram (XLM-R): a piece that is not used was on no best path, so the best paths remain. The
    lowest-scored piece stays, because the penalty of an unknown character hangs on it. WordPiece
    (BERT, LaBSE): a piece that is not used was nowhere the longest match; but where a word has none
    to its end, every piece that it could hold stays, or it would be cut in another way.
    """
    backend = model.tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    state = json.loads(backend.to_str())
    kind, vocab = state["model"]["type"], state["model"]["vocab"]
    words = kind == "WordPiece" and backend.pre_tokenizer is not None
    framed = (state["post_processor"] or {}).get("type") == "TemplateProcessing"
    if not framed or not (words or kind == "Unigram"):
        log.info("a %s vocabulary stays whole, only unigram and WordPiece can be trimmed", kind)
        return None

    # 1. What stays whatever the texts are.
    used = {token["id"] for token in state["added_tokens"]}
    if words:  # {piece: id}
        unknown = vocab[state["model"]["unk_token"]]
    else:  # [piece, score] in the order of ids
        unknown = state["model"]["unk_id"]
        used.add(int(np.argmin([score for _, score in vocab])))
    used.add(unknown)

    # 2. What the texts fall into, as they are and behind each prompt.
    prompts = {"", *prompts_of(model)}
    remaining = iter(texts)
    while chunk := list(islice(remaining, _CHUNK)):
        whole = [prompt + text for prompt in prompts for text in chunk]
        for text, encoding in zip(whole, backend.encode_batch_fast(whole), strict=True):
            used.update(encoding.ids)
            if words and unknown in encoding.ids:
                used.update(_pieces_within(backend, text, state["model"]))
    return np.array(sorted(used))


def transformer_of(model: "SentenceTransformer") -> Any:
    """Return the model's one transformer; a model without one, or with two, is refused."""
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


def _renumbered(state: dict[str, Any], new_id: dict[int, int]) -> dict[str, Any]:
    """Return a tokenizer's state, changed in place, with the pieces of `new_id` alone."""
    model = state["model"]
    if model["type"] == "WordPiece":
        old = model["vocab"].items()
        model["vocab"] = {piece: new_id[number] for piece, number in old if number in new_id}
    else:
        model["vocab"] = [entry for number, entry in enumerate(model["vocab"]) if number in new_id]
        model["unk_id"] = new_id[model["unk_id"]]
    for token in state["added_tokens"]:
        token["id"] = new_id[token["id"]]
    for special in state["post_processor"]["special_tokens"].values():
        special["ids"] = [new_id[number] for number in special["ids"]]
    return state


def _install(
    model: "SentenceTransformer",
    tokenizer: str,
    rows: Any,
    padding_idx: int | None,
    ids: dict[str, int | None],
) -> None:
    """Put a tokenizer's state, a table's rows and the special ids of the configuration in place.

    The Rust tokenizer is swapped inside its Hugging Face wrapper, which keeps the names of the
    special tokens and the limit.
    """
    from tokenizers import Tokenizer
    from torch import nn

    model.tokenizer._tokenizer = Tokenizer.from_str(tokenizer)
    transformer = transformer_of(model)
    frozen = not transformer.get_input_embeddings().weight.requires_grad
    transformer.set_input_embeddings(
        nn.Embedding.from_pretrained(rows, freeze=frozen, padding_idx=padding_idx)
    )
    transformer.config.update({"vocab_size": len(rows), **ids})
