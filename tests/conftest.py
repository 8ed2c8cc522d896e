"""Every test computes in float32 where the precision is left open, and keeps no rates in the user's
cache.
"""

import atexit
import os
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

import pytest

from xir_lib.encoders import precision
from xir_lib.paths import cache_dir

_MODELS = cache_dir() / "models"
# Before a process is started that would inherit the user's. The bundled encoders, which are large
# and checked by their sum, stay where they are.
_CACHE = mkdtemp(prefix="xir-tests-")
atexit.register(rmtree, _CACHE, ignore_errors=True)
os.environ["XDG_CACHE_HOME"] = _CACHE
cache_dir().mkdir()
_MODELS.mkdir(parents=True, exist_ok=True)
(cache_dir() / "models").symlink_to(_MODELS.resolve())


@pytest.fixture(autouse=True, scope="session")
def _float32_is_faster() -> None:
    """Answer for every processor alike: in this process, and by files for those that it starts."""
    pytest.MonkeyPatch().setattr(
        precision, "measure", lambda *shape: {"float32": 2.0, "bfloat16": 1.0}
    )


@pytest.fixture
def real() -> Path:
    """Return the data folder with the real files, which XIR_DATA names, or skip."""
    folder = Path(os.environ.get("XIR_DATA", "/nowhere"))
    if not all((folder / name).is_dir() for name in ("xquad-r", "mlqa-r", "mlqa-v1", "belebele")):
        pytest.skip("XIR_DATA names no folder with xquad-r, mlqa-r, mlqa-v1 and belebele")
    return folder
