"""A 16-dimensional encoder, and short trainings of it on the toy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import build_tiny
from toy import SETTINGS, toy_pairs

from xir_lib.data.records import PairTable
from xir_lib.training.run import train
from xir_lib.training.settings import TrainSettings

Trains = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return str(build_tiny(tmp_path_factory.mktemp("encoder")))


@pytest.fixture
def trains(encoder: str, tmp_path: Path) -> Trains:
    """Return what trains on all pairs of the toy with these settings, into tmp_path/NAME."""

    def start(
        name: str = "m",
        pairs: PairTable | None = None,
        start_from: str = encoder,
        given: dict[str, Any] | None = None,
        **settings: Any,
    ) -> dict[str, Any]:
        asked = TrainSettings(**SETTINGS | settings)
        return train(start_from, pairs or toy_pairs(), asked, tmp_path / name, **(given or {}))

    return start
