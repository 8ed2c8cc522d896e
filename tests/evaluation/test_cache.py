"""What an evaluation takes from its cache, and what it does not."""

import json
from pathlib import Path

import numpy as np
import pytest
from toy import judge, toy_task

from xir_lib.encoders.encoder import Encoder


def test_pooling_is_part_of_the_key(encoder: Encoder, tmp_path: Path) -> None:
    # Same weights, other pooling: the folder's embeddings must not be taken for each other.
    import shutil

    other = shutil.copytree(encoder.name, tmp_path / "other")
    path = next(other.glob("1_*/config.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pooling_mode": "cls"}))
    assert Encoder(str(other)).fingerprint != encoder.fingerprint


@pytest.mark.parametrize("damage", ["cut", "other vectors"])
def test_a_broken_cache_is_filled_again(
    encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    ours = Encoder(encoder.name, cache=tmp_path / "cache")
    first = judge(ours, toy_task(), tmp_path / "out")
    paths = list((tmp_path / "cache").glob("*.npy"))
    good = {path: path.read_bytes() for path in paths}
    for path in paths:
        if damage == "cut":
            path.write_bytes(good[path][:50])
        else:
            np.save(path, np.ones((3, 4), np.float32))
    assert judge(ours, toy_task(), tmp_path / "out") == first
    assert {path: path.read_bytes() for path in paths} == good
    assert caplog.text.count("does not hold the vectors of its texts") == len(paths) == 6


def test_other_weights_are_encoded_again(encoder: Encoder, tmp_path: Path) -> None:
    untrained = Encoder(f"untrained:{encoder.name}", cache=encoder.cache)
    assert untrained.fingerprint != encoder.fingerprint
    one, two = (judge(e, toy_task(), tmp_path / "x")["settings"] for e in (encoder, untrained))
    assert one != two


def test_embeddings_are_reused_and_numbers_repeat(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(encoder, toy_task(), tmp_path / "a")
    monkeypatch.setattr(
        "xir_lib.encoders.encode.encode", lambda *_, **__: pytest.fail("encoded again")
    )
    judge(encoder, toy_task(), tmp_path / "b")
    for name in ("metrics.json", "per_query.parquet", "group_sums.parquet"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
