"""A tiny encoder, opened once."""

import pytest
import torch
from tiny import build_tiny

from xir_lib.encoders.encoder import Encoder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    torch.set_num_threads(1)
    return Encoder(
        str(build_tiny(tmp_path_factory.mktemp("encoder"))), cache=tmp_path_factory.mktemp("cache")
    )
