"""One run, end to end, with a 16-dimensional encoder: it learns, repeats itself, and leaves an ordinary model folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from test_encoders import build_tiny
from toy import IDS, toy_pairs

from xir_lib.errors import InputError
from xir_lib.samplers import Strategy
from xir_lib.training import TrainSettings, parse_strategy, table_digest, train

SETTINGS: dict[str, Any] = {
    "strategy": "hybrid-0.5",
    "seed": 1,
    "steps": 40,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "temperature": 0.1,
    "max_seq_length": 16,
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return str(build_tiny(tmp_path_factory.mktemp("encoder")))


@pytest.fixture(scope="module")
def trained(encoder: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("run") / "model"
    return out, train(encoder, toy_pairs(IDS[8:]), TrainSettings(**SETTINGS), out, held_out=toy_pairs(IDS[:8]))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return SentenceTransformer(str(folder), device="cpu").state_dict()


def test_it_learns(trained: tuple[Path, dict[str, Any]]) -> None:
    run = trained[1]
    assert run["loss"][-1][1] < 0.5 * run["loss"][0][1]
    for kind in ("x-x-mono", "x-y"):
        assert run["held_out_loss"]["after"][kind] < run["held_out_loss"]["before"][kind]


def test_the_held_out_loss_starts_near_the_log_of_the_batch(encoder: str, trained: tuple[Path, dict[str, Any]]) -> None:
    # Eight rows of random vectors at a high temperature are equally likely: ln 8 = 2.08.
    from xir_lib.encoders import open_encoder
    from xir_lib.training import held_out_loss

    hot = TrainSettings(**SETTINGS | {"temperature": 1000.0})
    losses = held_out_loss(open_encoder(encoder), toy_pairs(IDS[:8]), hot, ("", ""))
    assert losses == pytest.approx({"x-x-mono": np.log(8), "x-y": np.log(8)}, abs=1e-2)


def test_the_run_names_what_made_it(encoder: str, trained: tuple[Path, dict[str, Any]]) -> None:
    folder, run = trained
    assert json.loads((folder / "run.json").read_text()) == run
    assert run["encoder"] == encoder
    assert run["settings"] == TrainSettings(**SETTINGS).model_dump()
    assert run["pairs"] == {"rows": 96, "ids": 32, "languages": ["xx", "yy", "zz"]}
    assert sum(run["realised"]["pairs"].values()) == 40 * 8
    assert sum(run["realised"]["query_lang"].values()) == 40 * 8
    assert {"device", "torch", "sentence-transformers", "python", "threads"} <= run["environment"].keys()


def test_the_model_is_an_ordinary_folder_with_the_whole_vocabulary(encoder: str, trained: tuple[Path, dict[str, Any]]) -> None:
    before, after = weights(Path(encoder)), weights(trained[0])
    assert before.keys() - after.keys() <= {"0.model.pooler.dense.weight", "0.model.pooler.dense.bias"}  # random, unread
    assert after.keys() <= before.keys()
    changed = [name for name in after if not torch.equal(before[name], after[name])]
    assert any("layer" in name for name in changed)
    table = next(name for name in before if name.endswith("word_embeddings.weight"))
    moved = (before[table] != after[table]).any(dim=1)
    vocabulary = SentenceTransformer(encoder).tokenizer.get_vocab()
    assert moved[vocabulary["▁"]] or moved[vocabulary["a"]]
    assert not moved[len(vocabulary) :].any()  # rows that no piece has are the old ones
    model = SentenceTransformer(str(trained[0]), device="cpu")
    assert model.max_seq_length == SentenceTransformer(encoder).max_seq_length
    assert not list(trained[0].rglob("*.bin"))


def test_same_seed_same_weights_and_other_strategy_other_weights(encoder: str, tmp_path: Path) -> None:
    short = SETTINGS | {"steps": 4}
    for name, change in (("a", {}), ("b", {}), ("c", {"strategy": "x-y"}), ("d", {"seed": 2})):
        train(encoder, toy_pairs(), TrainSettings(**short | change), tmp_path / name)
    first = weights(tmp_path / "a")
    equal = {name: all(torch.equal(v, weights(tmp_path / name)[k]) for k, v in first.items()) for name in "bcd"}
    assert equal == {"b": True, "c": False, "d": False}


def test_a_finished_run_is_kept_and_another_one_refused(encoder: str, tmp_path: Path) -> None:
    out, settings = tmp_path / "model", TrainSettings(**SETTINGS | {"steps": 2})
    train(encoder, toy_pairs(), settings, out)
    stamp = (out / "run.json").stat().st_mtime_ns
    train(encoder, toy_pairs(), settings, out)
    assert (out / "run.json").stat().st_mtime_ns == stamp
    other = settings.model_copy(update={"seed": 9})
    with pytest.raises(InputError, match="holds another run"):
        train(encoder, toy_pairs(), other, out)
    assert train(encoder, toy_pairs(), other, out, overwrite=True)["settings"]["seed"] == 9


def test_a_loss_that_is_not_finite_stops_and_leaves_nothing(encoder: str, tmp_path: Path) -> None:
    settings = TrainSettings(**SETTINGS | {"learning_rate": 1e30, "steps": 4, "warmup_share": 0})
    with pytest.raises(InputError, match=r"not finite|no usable vector"):
        train(encoder, toy_pairs(), settings, tmp_path / "model", held_out=toy_pairs(IDS[:8]))
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_pure_batches_have_pure_marginals(encoder: str, tmp_path: Path) -> None:
    run = train(encoder, toy_pairs(), TrainSettings(**SETTINGS | {"strategy": "x-x-mono", "steps": 6}), tmp_path / "m")
    assert run["realised"]["pairs"] == {"same-language": 48, "cross-language": 0}
    assert run["realised"]["query_lang"] == run["realised"]["doc_lang"]
    assert all(count % 8 == 0 for count in run["realised"]["query_lang"].values())  # whole batches


@pytest.mark.parametrize(
    ("name", "expected"),
    [("x-y", (Strategy.X_Y, 1.0)), ("hybrid-0.25", (Strategy.HYBRID, 0.25)), ("hybrid-1", (Strategy.HYBRID, 1.0))],
)
def test_names_of_runs(name: str, expected: tuple[Strategy, float]) -> None:
    assert parse_strategy(name) == expected


@pytest.mark.parametrize("name", ["hybrid", "hybrid-", "hybrid-x", "hybrid--1", "y-y", ""])
def test_unknown_names_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(InputError, match=r"x-x-mono, x-y, x-x or hybrid-ALPHA"):
        parse_strategy(name)


def test_alpha_outside_its_range() -> None:
    with pytest.raises(InputError, match=r"alpha must be in \[0, 1\], got 1.4"):
        parse_strategy("hybrid-1.4")


def test_the_digest_sees_every_text() -> None:
    assert table_digest(toy_pairs()) == table_digest(toy_pairs())
    assert table_digest(toy_pairs()) != table_digest(toy_pairs(IDS[1:]))
