"""Open an encoder for training: in float32, in which small updates are not rounded away.

sentence-transformers gives every module the type of the first, which would round a float32 layer
behind a bfloat16 transformer without a word. The types are therefore looked up in the safetensors
files, and an encoder that mixes them is refused.
"""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from xir_lib.encoders.open import open_encoder
from xir_lib.errors import InputError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def open_in_float32(encoder: str, max_seq_length: int | None = None) -> "SentenceTransformer":
    """Open an encoder with float32 parameters; widening bfloat16 loses nothing."""
    model = open_encoder(encoder, max_seq_length=max_seq_length)
    types = Counter[str]()
    if not encoder.startswith("bundled:"):  # that one is made here, in float32
        types = _stored_types(encoder)
    if len(types) > 1:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(types.items()))
        raise InputError(
            f"encoder {encoder!r} has tensors of mixed types ({counts}); save all of them in one,"
            " best in float32"
        )
    return model.float()


def _stored_types(encoder: str) -> Counter[str]:
    """Count the floating-point types of an encoder's tensors, of its modules' folders too."""
    from huggingface_hub import try_to_load_from_cache
    from safetensors import safe_open

    folder = Path(encoder).expanduser()
    if not folder.is_dir():
        found = (try_to_load_from_cache(encoder, name) for name in ("modules.json", "config.json"))
        folder = next((Path(path).parent for path in found if isinstance(path, str)), folder)
    types = Counter[str]()
    for part in (folder, *folder.glob("[0-9]*_*")):
        for path in (*part.glob("model.safetensors"), *part.glob("model-*-of-*.safetensors")):
            with safe_open(path, framework="numpy") as file:
                types.update(file.get_slice(name).get_dtype() for name in file.keys())  # noqa: SIM118
    return Counter({name: types[name] for name in types if name.startswith(("F", "BF"))})
