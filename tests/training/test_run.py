"""One run, end to end: it learns, repeats itself, and leaves an ordinary model folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from toy import IDS, SETTINGS, toy_pairs

from xir_lib.errors import InputError
from xir_lib.training.run import train
from xir_lib.training.settings import (
    TrainSettings,
)

Trains = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def trained(encoder: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("run") / "model"
    return out, train(
        encoder, toy_pairs(IDS[8:]), TrainSettings(**SETTINGS), out, held_out=toy_pairs(IDS[:8])
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return SentenceTransformer(str(folder), device="cpu").state_dict()


def test_it_learns(trained: tuple[Path, dict[str, Any]]) -> None:
    run = trained[1]
    assert run["loss"][-1][1] < 0.5 * run["loss"][0][1]
    for kind in ("x-x-mono", "x-y"):
        assert run["held_out_loss"]["after"][kind] < run["held_out_loss"]["before"][kind]


def test_the_run_names_what_made_it(encoder: str, trained: tuple[Path, dict[str, Any]]) -> None:
    folder, run = trained
    assert json.loads((folder / "run.json").read_text()) == run
    assert run["encoder"] == encoder
    assert run["settings"] == TrainSettings(**SETTINGS).model_dump()
    assert run["pairs"] == {
        "name": None,
        "rows": 96,
        "ids": 32,
        "languages": ["xx", "yy", "zz"],
        "datasets": {},
    }
    assert (run["sampler"]["ids"], run["sampler"]["never"], run["sampler"]["batches"]) == (
        32,
        0,
        40,
    )
    assert sum(run["realised"]["pairs"].values()) == 40 * 8
    assert sum(run["realised"]["query_lang"].values()) == 40 * 8
    assert {"device", "torch", "sentence-transformers", "python", "threads"} <= run[
        "environment"
    ].keys()


def test_the_model_is_an_ordinary_folder_with_the_whole_vocabulary(
    encoder: str, trained: tuple[Path, dict[str, Any]]
) -> None:
    before, after = weights(Path(encoder)), weights(trained[0])
    assert before.keys() - after.keys() <= {
        "0.model.pooler.dense.weight",
        "0.model.pooler.dense.bias",
    }  # random, unread
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


def test_same_seed_same_weights_and_other_strategy_other_weights(
    trains: Trains, tmp_path: Path
) -> None:
    for name, change in (("a", {}), ("b", {}), ("c", {"strategy": "x-y"}), ("d", {"seed": 2})):
        trains(name, steps=4, **change)
    first = weights(tmp_path / "a")
    equal = {
        name: all(torch.equal(v, weights(tmp_path / name)[k]) for k, v in first.items())
        for name in "bcd"
    }
    assert equal == {"b": True, "c": False, "d": False}


def test_a_finished_run_is_kept_and_another_one_refused(
    encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, settings = tmp_path / "model", TrainSettings(**SETTINGS | {"steps": 2})
    train(encoder, toy_pairs(), settings, out)
    stamp = (out / "run.json").stat().st_mtime_ns
    train(encoder, toy_pairs(), settings, out)
    assert (out / "run.json").stat().st_mtime_ns == stamp
    older = json.loads((out / "run.json").read_text())
    del older["settings"]["query_kl"]  # a record from before there was this setting
    (out / "run.json").write_text(json.dumps(older))
    assert train(encoder, toy_pairs(), settings, out) == older
    other = settings.model_copy(update={"seed": 9})
    with pytest.raises(InputError, match="holds another run"):
        train(encoder, toy_pairs(), other, out)
    with monkeypatch.context() as patch:  # the new one fails: the old one is there
        patch.setattr("xir_lib.training.run.Run.fit", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(encoder, toy_pairs(), other, out, overwrite=True)
    out.rename(tmp_path / ".model.xir-aside")  # it was killed between the two renames: the same
    assert train(encoder, toy_pairs(), settings, out) == older
    assert train(encoder, toy_pairs(), other, out, overwrite=True)["settings"]["seed"] == 9
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model.lock", "model"]


def test_a_second_stage_is_of_the_weights_that_the_first_one_left(
    encoder: str, tmp_path: Path
) -> None:
    base, out, settings = (
        tmp_path / "base",
        tmp_path / "model",
        TrainSettings(**SETTINGS | {"steps": 2}),
    )
    shutil.copytree(encoder, base)
    first = train(str(base), toy_pairs(), settings, out)
    for inside in (
        base / ".other.checkpoint",
        base / "other",
    ):  # a checkpoint and a model that lie in its folder
        shutil.copytree(out, inside)
    assert train(str(base), toy_pairs(), settings, out) == first
    shutil.rmtree(base)
    train(encoder, toy_pairs(), settings, base)  # made anew, with other weights
    with pytest.raises(
        InputError, match=r"holds another run \(encoder_sha256 \w+ there, \w+ here\)"
    ):
        train(str(base), toy_pairs(), settings, out)


def test_of_several_gpus_one_trains(trains: Trains, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs, as transformers counts them, double the batch that its trainer asks the sampler
    for.
    """
    made = SentenceTransformerTrainingArguments.__post_init__

    def with_two(arguments: SentenceTransformerTrainingArguments) -> None:
        made(arguments)
        arguments._n_gpu = 2

    monkeypatch.setattr(SentenceTransformerTrainingArguments, "__post_init__", with_two)
    assert trains(steps=2)["steps_trained"] == 2


def test_what_kills_left_of_this_model_is_removed_and_nothing_else(
    trains: Trains, tmp_path: Path
) -> None:
    ours = [
        "..m.xir-aside.0123abcd.tmp",
        ".m.0123abcd.tmp",
        "..m.0123abcd.tmp.89abcdef.tmp",
        "..m.checkpoint.0123abcd.tmp",
    ]
    others = [".m.b.0123abcd.tmp", ".mm.0123abcd.tmp", "m.tmp"]
    for name in ours + others:
        (tmp_path / name).mkdir()
    trains(steps=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, ".m.lock", "m"])


def test_a_bfloat16_encoder_is_trained_in_float32(
    trains: Trains, encoder: str, tmp_path: Path
) -> None:
    SentenceTransformer(encoder, device="cpu").to(torch.bfloat16).save(str(tmp_path / "half"))
    assert {tensor.dtype for tensor in weights(tmp_path / "half").values()} == {torch.bfloat16}
    trains("model", start_from=str(tmp_path / "half"), steps=1)
    assert {tensor.dtype for tensor in weights(tmp_path / "model").values()} == {torch.float32}


def test_recomputing_changes_no_weight(trains: Trains, tmp_path: Path) -> None:
    kept, again = trains("kept", steps=4), trains("again", steps=4, recompute=True)
    np.testing.assert_allclose(np.array(again["loss"]), np.array(kept["loss"]), rtol=1e-5)
    first, second = weights(tmp_path / "kept"), weights(tmp_path / "again")
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-5
