"""Open an encoder by name, save one, and draw one anew.

An encoder is a `SentenceTransformer`. What the study needs around it: one way to name it, the
prompts it was trained with, weights that are whole and no pickle (`checks`), and a folder that any
user of sentence-transformers can load. Knows no task and no measure.
"""

import copy
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xir_lib.encoders.bundled import bundled_folder
from xir_lib.encoders.checks import check_opened, one_line, watched_loading
from xir_lib.encoders.encode import prompts_of
from xir_lib.encoders.vocabulary import transformer_of
from xir_lib.errors import InputError
from xir_lib.paths import atomic_path, forbid_hub, offline

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def open_encoder(name: str, *, max_seq_length: int | None = None) -> "SentenceTransformer":
    """Open `bundled:multilingual-e5-small`, a model folder or a hub id, on the GPU if there is one.

    `max_seq_length` may only lower the encoder's own limit. All weights come from safetensors files
    alone and no code from the hub is run; `XIR_OFFLINE=1` restricts a hub id to what is cached.
    Raises `InputError` if nothing can be opened under that name, and for an encoder that would be
    partly random or cannot encode (`checks`).
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
    except Exception as error:  # the hub's client, the loaders and the formats each raise their own
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

    Offline the loaders speak of a connection that failed; there the clause is about the cache,
    unless the error is one of our own checks or about a folder.
    """
    reason = one_line(error)
    if isinstance(error, InputError) or Path(place).is_dir() or not offline():
        return reason
    searched = "XIR_OFFLINE is set and the Hub's cache alone was searched"
    return f"{searched} ({reason}); unset it, or give a model folder"


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
            # Saving forgets that there is no pooler; a random one would be made on loading.
            content = json.loads(settings.read_text())
            content["model_kwargs"] = {"add_pooling_layer": False}
            settings.write_text(json.dumps(content, indent=2))


def untrained_copy(model: "SentenceTransformer", seed: int) -> "SentenceTransformer":
    """Return the same architecture and tokenizer with freshly drawn weights: what scores without
    any training.
    """
    import torch

    clone = copy.deepcopy(model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        old = transformer_of(clone)
        fresh = type(old)(old.config)
        if getattr(old, "pooler", 0) is None:
            fresh.pooler = None
        clone[0].model = fresh.to(model.device).eval()
        for module in list(clone)[1:]:
            for part in module.modules():
                if hasattr(part, "reset_parameters"):
                    part.reset_parameters()  # type: ignore[operator]
    return clone


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
