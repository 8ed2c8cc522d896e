"""Turn texts into vectors, in batches of equal work.

Texts with about as many tokens go together, so that little is padded, and a batch holds as many of
them as a budget of tokens allows. That is all that is ours here: the tokenizer, the model and its
modules are those of sentence-transformers. Knows no task, no cache and no measure.
"""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from xir_lib.encoders.precision import Asked, choose
from xir_lib.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa
    from sentence_transformers import SentenceTransformer

Role = Literal["query", "document"]  # sentence-transformers' names
ROLES: tuple[Role, Role] = ("query", "document")
Batch = tuple[np.ndarray, dict[str, Any]]  # which texts, and what the model takes for them

CHUNK = 4096  # texts tokenised at a time: enough to find neighbours of the same length
CPU_TOKENS, GPU_TOKENS = (
    1024,
    65536,
)  # in a batch; a CPU is slower where activations leave its cache


def encode(
    model: "SentenceTransformer",
    texts: "Sequence[str] | pa.ChunkedArray",
    *,
    prompt: str,
    role: Role = "document",
    batch_tokens: int | None = None,
    precision: Asked = "auto",
    progress: str | None = None,
) -> np.ndarray:
    """Encode texts behind `prompt` into float32 rows of length 1, (texts, dim), in the order given.

    `role` decides which encoder reads them where a model has two, one for queries and one for
    passages (`Router`), as in sentence-transformers' `encode_query` and `encode_document`; other
    models have no use for it. `batch_tokens` counts padding too; default `CPU_TOKENS` or
    `GPU_TOKENS`. `precision` is bfloat16 autocast or float32; "auto" is the faster
    (`precision.choose`). `progress` names a progress bar.

    Raises `InputError` for a text that is null or gets no direction (a vector that is zero or not
    finite), and for an encoder that gives other dimensions than it says.
    """
    import torch
    from sentence_transformers.util import batch_to_device
    from tqdm.auto import tqdm

    texts = list(texts) if isinstance(texts, Sequence) else texts.to_pylist()
    if None in texts:
        raise InputError(
            f"text number {texts.index(None)} of {len(texts)} is null; drop it or give a text"
        )
    device = model.device
    on_cpu = device.type == "cpu"
    budget = batch_tokens or (CPU_TOKENS if on_cpu else GPU_TOKENS)
    half = choose(precision, model).precision == "bfloat16"
    read = {"prompt": prompt} | ({"task": role} if is_routed(model) else {})
    vectors = np.empty((len(texts), model.get_embedding_dimension() or 0), dtype=np.float32)
    model.eval()

    def embed(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        rows, inputs = batch
        # Both contexts are a thread's own, so that they are entered here.
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half):
            output = model(batch_to_device(inputs, device))["sentence_embedding"].float()
            output = torch.nn.functional.normalize(output[:, : model.truncate_dim], dim=1)
            return rows, output.cpu().numpy()

    # On a CPU every thread has a batch of its own: several on one small batch wait for each other.
    # The tokenizer serves one thread alone; it runs in this one.
    threads = torch.get_num_threads()
    workers = ThreadPoolExecutor(
        threads if on_cpu else 1, initializer=torch.set_num_threads, initargs=(1,)
    )
    bar = tqdm(total=len(texts), desc=progress, unit="text", disable=progress is None)
    try:
        with workers, bar:
            for start in range(0, len(texts), CHUNK):
                batches = _batches(model, texts[start : start + CHUNK], read, budget)
                for rows, found in workers.map(embed, batches):
                    _check_width(found.shape[1], vectors.shape[1])
                    vectors[start + rows] = found
                    bar.update(len(rows))
    finally:
        torch.set_num_threads(threads)
    _check_directions(vectors, texts, f"{progress}: " if progress else "")
    return vectors


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


def is_routed(model: "SentenceTransformer") -> bool:
    """Say whether the model reads queries and passages with modules of their own."""
    from sentence_transformers.base.modules import Router

    return isinstance(model[0], Router)


def _batches(
    model: "SentenceTransformer", texts: list[str], read: dict[str, str], budget: int
) -> Iterator[Batch]:
    """Yield batches of at most `budget` tokens, padding included, the longest texts first: what
    does not fit in memory fails at once.
    """
    import torch

    # 1. Tokenise all texts; each is padded to the longest.
    inputs: dict[str, Any] = model.preprocess(texts, **read)
    mask: Any = inputs.get("attention_mask")  # (texts, longest)
    tensors = {key: value for key, value in inputs.items() if torch.is_tensor(value)}
    aligned = mask is not None and all(value.shape == mask.shape for value in tensors.values())

    # 2. Order them by their tokens (characters, where a model has no mask of its tokens).
    lengths = mask.sum(dim=1).numpy() if aligned else np.array([len(text) for text in texts])
    order = np.argsort(-lengths, kind="stable")

    # 3. Cut off as many as fit, beginning with the longest left, and drop the columns that are
    #    padding in all of them. Inputs of another shape cannot be cut: their texts are read again.
    start = 0
    while start < len(order):
        rows = order[start : start + max(1, budget // max(1, lengths[order[start]]))]
        start += len(rows)
        if aligned:
            columns = mask[rows].any(dim=0)
            yield rows, inputs | {key: value[rows][:, columns] for key, value in tensors.items()}
        else:
            yield rows, model.preprocess([texts[row] for row in rows], **read)


def _check_width(given: int, said: int) -> None:
    if given != said:
        raise InputError(
            f"the encoder says {said} dimensions and gives {given}; mend its configuration"
        )


def _check_directions(vectors: np.ndarray, texts: list[str], where: str) -> None:
    directed = np.abs(np.linalg.norm(vectors, axis=1) - 1) < 1e-3  # false for NaN as well
    if not directed.all():
        lost = int(directed.argmin())
        raise InputError(
            f"{where}text number {lost} of {len(texts)} has no usable vector (zero or not finite):"
            f" {texts[lost][:60]!r}"
        )
