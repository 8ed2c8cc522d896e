"""What is asked of an encoder while it is opened: its weights are whole, its sizes fit together.

transformers draws what a file lacks anew and only logs it, and sentence-transformers reads a pickle
where there is no safetensors file; half a random model would then be measured and trained. Here the
loaders' own report is kept and judged. The module knows no task, no training and no prompt.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from xir_lib.errors import InputError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Report = tuple[Any, dict[str, Any]]  # a transformer, what its loader says of it

_LOADING = threading.Lock()  # two threads at once would restore each other's functions
_TRIAL = "the capital of Egypt"
_NAMED = 3  # tensors that a message names


@contextmanager
def watched_loading() -> Iterator[list[Report]]:
    """Collect the loading report of every transformer opened within; refuse pickled weights.

    SentenceTransformer has no argument for either, so that for the time of one opening two public
    functions are replaced: `PreTrainedModel.from_pretrained` is asked for `output_loading_info`,
    and told to go on after a wrong size, which its report names and its error does not;
    `Module.load_file_path` finds no `pytorch_model.bin`. Raises `InputError` for such a file, which
    sentence-transformers looks for only if there is no `model.safetensors`.
    """
    from sentence_transformers.base.modules.module import Module
    from transformers import PreTrainedModel

    transformer_kind: Any = PreTrainedModel
    module_kind: Any = Module
    load, find = vars(PreTrainedModel)["from_pretrained"], vars(Module)["load_file_path"]
    reports: list[Report] = []

    def reporting(cls: Any, *args: Any, **kwargs: Any) -> Any:
        asked = kwargs.get("output_loading_info", False)
        kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, info = load.__func__(cls, *args, **kwargs)
        reports.append((model, info))
        return (model, info) if asked else model

    def unpickled(*args: Any, **kwargs: Any) -> Any:
        path = find.__func__(*args, **kwargs)
        if path is not None and Path(path).name == "pytorch_model.bin":
            raise InputError(
                f"{'/'.join(Path(path).parts[-2:])} is a pickle, and only safetensors are read; "
                "if you trust it, SentenceTransformer(...).save(FOLDER) writes safetensors"
            )
        return path

    with _LOADING:
        transformer_kind.from_pretrained = classmethod(reporting)
        module_kind.load_file_path = staticmethod(unpickled)
        try:
            yield reports
        finally:
            transformer_kind.from_pretrained, module_kind.load_file_path = load, find


def check_opened(name: str, model: "SentenceTransformer", reports: list[Report]) -> None:
    """Refuse an encoder, just opened as `name`, that is partly random or cannot encode a text.

    Raises `InputError` for tensors that its files lack or hold in another size, for an embedding
    table shorter than the vocabulary, and for sizes of its modules that do not fit. What is dropped
    from the model before, such as a pooler that nobody reads, may lack.
    """
    for transformer, report in reports:
        _check_weights(name, transformer, report)
    for module in model.modules():
        _check_rows(name, module)
    _check_sizes(name, model)


def one_line(error: Exception) -> str:
    """Say in one line of at most 300 characters what a loader says in several."""
    text = shorten(str(error), 300) or type(error).__name__
    return f"no {text} in its weights or settings" if isinstance(error, KeyError) else text


def _check_weights(name: str, transformer: Any, report: dict[str, Any]) -> None:
    here = transformer.state_dict().keys()
    if missing := sorted(report["missing_keys"] & here):
        raise InputError(
            f"encoder {name!r} lacks {len(missing)} of its {len(here)} tensors, which would be "
            f"drawn at random: {_some(missing)}; download or save it again"
        )
    if wrong := sorted(entry for entry in report["mismatched_keys"] if entry[0] in here):
        sizes = [f"{key} is {list(is_)}, not {list(due)}" for key, is_, due in wrong]
        raise InputError(
            f"encoder {name!r} has {len(wrong)} tensors of other sizes than its config.json says: "
            f"{_some(sizes)}; take both from the same model"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _check_rows(name: str, module: Any) -> None:
    """Refuse a table that lacks a piece's row, by sizes: reading a large vocabulary takes 0.4 s."""
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.models import StaticEmbedding

    if isinstance(module, StaticEmbedding):
        table, pieces = module.embedding, module.tokenizer.get_vocab_size()
        added = module.tokenizer.get_added_tokens_decoder()
    elif isinstance(module, Transformer) and module.tokenizer is not None:
        try:
            table = module.model.get_input_embeddings()
        except NotImplementedError:  # one with several tables, such as CLIP
            return
        pieces, added = len(module.tokenizer), module.tokenizer.added_tokens_decoder
    else:
        return
    if (needed := 1 + max([pieces - 1, *added])) > (rows := table.num_embeddings):
        raise InputError(
            f"encoder {name!r} has {rows} rows of embeddings for {needed} pieces of its tokenizer; "
            "take both from the same model"
        )


def _check_sizes(name: str, model: "SentenceTransformer") -> None:
    from sentence_transformers.base.modules import Router

    # A model with two encoders is tried with both. Nothing is drawn: dropout is off while encoding.
    ways = [model.encode_document, *([model.encode_query] if isinstance(model[0], Router) else [])]
    for encode in ways:
        try:
            width = encode(_TRIAL, show_progress_bar=False).shape[-1]
        except Exception as error:  # whatever modules that do not fit raise
            raise InputError(f"encoder {name!r} cannot encode: {one_line(error)}") from error
        if width != (said := model.get_embedding_dimension()):
            sizes = f"says {said} dimensions and gives {width}"
            raise InputError(f"encoder {name!r} {sizes}; mend its modules' config.json")
