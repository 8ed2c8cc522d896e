"""Open an encoder by name, trim its vocabulary, and turn texts into vectors.

An encoder is a `SentenceTransformer`; this module adds what the study needs around it: one way to
name it, the prompts it was trained with, an embedding table cut to the corpora at hand (96 of the
118 million parameters of multilingual-e5-small are that table), and encoding in batches of equal
work. It knows no tasks and no measures.
"""

import copy
import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from xir_lib.bundled import bundled_folder
from xir_lib.errors import InputError
from xir_lib.open_checks import check_opened, one_line, watched_loading
from xir_lib.paths import atomic_path, forbid_hub, offline
from xir_lib.precision import Asked, choose
from xir_lib.tokens import Tokens, padded, tokenise

if TYPE_CHECKING:
    import pyarrow as pa
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

Role = Literal["query", "document"]  # sentence-transformers' names
ROLES: tuple[Role, Role] = ("query", "document")
_CHUNK = 4096  # texts tokenised at a time, to see which pieces they use


def open_encoder(
    name: str, *, vocab_texts: Iterable[str] | None = None, max_seq_length: int | None = None
) -> "SentenceTransformer":
    """Open `bundled:multilingual-e5-small`, a model folder or a hub id, on the GPU if there is one.

    `vocab_texts` (raw, the prompts are added here) trims the vocabulary to them; `max_seq_length`
    may only lower the encoder's own limit. All weights come from safetensors files alone and no
    code from the hub is run; `XIR_OFFLINE=1` restricts a hub id to what is cached. Raises
    `InputError` if nothing can be opened under that name, and for an encoder that would be partly
    random or cannot encode (`open_checks`).
    """
    place, local = place_of(name)
    from sentence_transformers import SentenceTransformer

    try:
        with watched_loading() as reports:
            model = SentenceTransformer(
                place,
                local_files_only=local,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
    except (
        Exception
    ) as error:  # the hub's client, the loaders and the file formats each raise their own kinds
        raise InputError(f"cannot open encoder {name!r}: {why_not(error, place)}") from error
    _drop_unread_poolers(model)
    check_opened(name, model, reports)
    query, passage = prompts_of(model, name)
    model.prompts |= {"query": query, "passage": passage, "document": passage}
    if max_seq_length is not None:
        limit = model.max_seq_length
        if max_seq_length < 1 or (limit is not None and max_seq_length > limit):
            raise InputError(
                f"max_seq_length must be in [1, {limit}] for {name}, got {max_seq_length}"
            )
        model.max_seq_length = max_seq_length
    if vocab_texts is not None:
        kept = trim_vocabulary(model, vocab_texts)
        logger.info("%s: vocabulary trimmed to %d pieces", name, len(kept))
    return model


def place_of(name: str) -> tuple[str, bool]:
    """Return what the loaders take for an encoder's name, and whether they must read disk alone.

    They must for a folder, for `bundled:NAME`, and for a hub id if `XIR_OFFLINE` is set.
    """
    if name.startswith("bundled:"):
        return str(bundled_folder(name.removeprefix("bundled:"))), True
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(folder), True
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        known = "a folder, a hub id such as intfloat/multilingual-e5-small, or bundled:..."
        raise InputError(f"no model folder {name!r}; give {known}")
    forbid_hub()
    return name, offline()


def why_not(error: Exception, place: str) -> str:
    """Say in a clause why a loader could not read `place`, by its error.

    Offline the loaders speak of a connection that failed; there the clause is about the cache.
    """
    reason = one_line(error)
    if (
        isinstance(error, InputError) or Path(place).is_dir() or not offline()
    ):  # of our own checks, or of the disk
        return reason
    searched = "XIR_OFFLINE is set and the Hub's cache alone was searched"
    return f"{searched} ({reason}); unset it, or give a model folder"


def prompts_of(model: "SentenceTransformer", name: str = "") -> tuple[str, str]:
    """Return what the encoder expects before a query and before a passage.

    The model's own prompts count, looked up as sentence-transformers' `encode_query` and
    `encode_document` do, but that empty ones are passed over: it gives every model an empty
    `document`, before which a `passage` would not count. The E5 family (Wang et al. 2024, not its
    instruct models) publishes none, so it is known by `name`; anything else gets empty strings.
    """
    default = model.prompts.get(model.default_prompt_name or "") or ""
    query = model.prompts.get("query") or default
    passage = next(filter(None, map(model.prompts.get, ("document", "passage", "corpus"))), default)
    if not query and not passage and re.search(r"(^|[/-])e5-(small|base|large)(-v2)?/*$", name):
        return "query: ", "passage: "
    return query, passage


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


def save_encoder(model: "SentenceTransformer", folder: Path) -> None:
    """Write `model` as a sentence-transformers folder, whole or not at all; `folder` must not
    exist.
    """
    if Path(folder).exists():
        raise InputError(f"{folder} exists already; name a new folder")
    with atomic_path(folder) as temporary:
        model.save(str(temporary), create_model_card=False)
        settings = temporary / "sentence_bert_config.json"
        if settings.is_file() and getattr(model.transformers_model, "pooler", 0) is None:
            # Saving forgets that there is no pooler; whoever loads the folder would get a random
            # one.
            content = json.loads(settings.read_text()) | {
                "model_kwargs": {"add_pooling_layer": False}
            }
            settings.write_text(json.dumps(content, indent=2))


def untrained_copy(model: "SentenceTransformer", seed: int) -> "SentenceTransformer":
    """Return the same architecture and tokenizer with freshly drawn weights: what scores without
    any training.
    """
    import torch

    clone = copy.deepcopy(model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        old = _transformer(clone)
        fresh = type(old)(old.config)
        if getattr(old, "pooler", 0) is None:
            fresh.pooler = None
        clone[0].model = fresh.to(model.device).eval()
        for module in list(clone)[1:]:
            for part in module.modules():
                if hasattr(part, "reset_parameters"):
                    part.reset_parameters()  # type: ignore[operator]
    return clone


def encode(
    model: "SentenceTransformer",
    texts: "Sequence[str] | pa.ChunkedArray",
    *,
    prompt: str,
    role: Role = "document",
    batch_tokens: int | None = None,
    precision: Asked = "auto",
    progress: str | None = None,
    tokens: Tokens | None = None,
) -> np.ndarray:
    """Encode texts behind `prompt` into float32 rows of length 1, (texts, dim), in the order given.

    `role` decides which encoder reads them where a model has two, one for queries and one for
    passages (`Router`), as in sentence-transformers' `encode_query` and `encode_document`; other
    models have no use for it.

    Texts are sorted by their number of tokens and cut into batches of at most `batch_tokens`
    tokens, padding included, so that little is padded and every batch is the same work. The default
    is 65,536 on GPU and 1,024 on CPU, where activations that outgrow the cache cost more than small
    batches do. `precision` is bfloat16 autocast or float32; "auto" is the faster
    (`precision.choose`). `progress` names a progress bar; `tokens` is `tokenise` of the same texts,
    if it was done before. Raises `InputError` for a text that is null or gets no direction: a
    vector that is zero or not finite, and for an encoder that gives other dimensions than it says.
    """
    import torch
    from tqdm.auto import tqdm

    texts = list(texts) if isinstance(texts, Sequence) else texts.to_pylist()
    if None in texts:
        raise InputError(
            f"text number {texts.index(None)} of {len(texts)} is null; drop it or give a text"
        )
    device = model.device
    if batch_tokens is None:
        batch_tokens = 1024 if device.type == "cpu" else 65536
    half = choose(precision, model).precision == "bfloat16"
    read = reading(model, prompt, role)
    model.eval()
    tokens = tokens or tokenise(model, texts, **read)
    lengths = tokens.lengths if tokens else np.array([len(text) for text in texts])
    vectors = np.empty((len(texts), model.get_embedding_dimension() or 0), dtype=np.float32)

    def embed(batch: tuple[np.ndarray, dict[str, Any]]) -> None:
        rows, inputs = batch
        inputs = {
            key: value.to(device) if hasattr(value, "to") else value
            for key, value in inputs.items()
        }
        with (
            torch.inference_mode(),
            torch.autocast(device.type, torch.bfloat16, enabled=half),
        ):  # both are a thread's own
            output = model(inputs)["sentence_embedding"].float()[:, : model.truncate_dim]
            if output.shape[1] != vectors.shape[1]:
                raise InputError(
                    f"the encoder says {vectors.shape[1]} dimensions and gives {output.shape[1]};"
                    " mend its configuration"
                )
            vectors[rows] = torch.nn.functional.normalize(output, dim=1).cpu().numpy()
        bar.update(len(rows))

    def features(rows: np.ndarray) -> dict[str, Any]:
        return (
            padded(tokens, rows)
            if tokens
            else model.preprocess([texts[row] for row in rows], **read)
        )

    tokenised = (
        (rows, features(rows)) for rows in _batches(lengths, batch_tokens)
    )  # in this thread: a tokenizer serves one
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    with tqdm(total=len(texts), desc=progress, unit="text", disable=progress is None) as bar:
        if threads == 1:
            for batch in tokenised:
                embed(batch)
        else:  # a batch per thread: several threads on one small batch wait for each other
            try:
                with ThreadPoolExecutor(
                    threads, initializer=torch.set_num_threads, initargs=(1,)
                ) as pool:
                    for _ in pool.map(embed, tokenised):
                        pass
            finally:
                torch.set_num_threads(threads)
    lost = np.flatnonzero(
        ~(np.abs(np.linalg.norm(vectors, axis=1) - 1) < 1e-3)
    )  # true for NaN as well
    if len(lost):
        raise InputError(
            f"{f'{progress}: ' if progress else ''}text number {lost[0]} of {len(texts)} has no"
            f" usable vector (zero or not finite): {texts[lost[0]][:60]!r}"
        )
    return vectors


def is_routed(model: "SentenceTransformer") -> bool:
    """Say whether the model reads queries and passages with modules of their own."""
    from sentence_transformers.base.modules import Router

    return isinstance(model[0], Router)


def reading(model: "SentenceTransformer", prompt: str, role: Role) -> dict[str, str]:
    """Return what `SentenceTransformer.preprocess` is told besides the texts."""
    return {"prompt": prompt, **({"task": role} if is_routed(model) else {})}


def _batches(lengths: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Yield row numbers, longest texts first (what does not fit in memory fails at once), `budget`
    tokens a batch.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, budget // max(1, int(lengths[order[start]])))
        yield order[start : start + size]
        start += size


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


def _drop_unread_poolers(model: "SentenceTransformer") -> None:
    """Remove BERT's pooler where token vectors are read: often random, and without gradients it
    stalls DDP.
    """
    from sentence_transformers.base.modules import Transformer

    for module in model.modules():
        if isinstance(module, Transformer):
            transformer: Any = module.model
            reads = module.modality_config.get("text", {}).get("method_output_name")
            if reads == "last_hidden_state" and getattr(transformer, "pooler", None) is not None:
                transformer.pooler = None


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
