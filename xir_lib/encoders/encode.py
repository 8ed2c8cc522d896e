"""Turn texts into vectors, in batches of equal work."""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from xir_lib.encoders.precision import Asked, choose
from xir_lib.encoders.tokens import Tokens, padded, tokenise
from xir_lib.errors import InputError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

if TYPE_CHECKING:
    import pyarrow as pa
    from sentence_transformers import SentenceTransformer


Role = Literal["query", "document"]  # sentence-transformers' names


ROLES: tuple[Role, Role] = ("query", "document")


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
