"""What is refused in one line, and leaves nothing behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Dense, Pooling, Transformer
from toy import IDS, SETTINGS, toy_pairs

from xir_lib.data.records import PairTable
from xir_lib.errors import InputError
from xir_lib.samplers.strategies import PairIndex
from xir_lib.training.run import train
from xir_lib.training.settings import (
    EarlyStopping,
    TrainSettings,
    make_sampler,
)

Trains = Callable[..., dict[str, Any]]


STOPPING = {"early_stopping": EarlyStopping(every=1, patience=1)}
FEW, SOME = toy_pairs(IDS[:2]), toy_pairs().select(languages=["xx", "yy"])


@pytest.mark.parametrize(
    ("name", "pairs", "settings", "given", "message"),
    [
        ("file", None, {}, {}, r"/file is a file; name a folder"),
        ("file/model", None, {}, {}, r"/file is a file; name a folder"),
        (
            *("m", SOME, {}, {"held_out": toy_pairs()}),
            r"^held_out has the languages zz, which the pairs lack; they have xx, yy$",
        ),
        ("m", None, STOPPING, {}, r"^early_stopping needs held-out pairs"),
        (
            *("m", None, {}, {"checkpoint_steps": 0}),
            r"^checkpoint_steps must be at least 1, auto or none, got 0$",
        ),
        ("m", FEW, {}, {}, r"^batch_size 8 exceeds"),
        ("new/m", None, {"batch_size": 64}, {}, "batch_size 64 exceeds the 40 ids"),
        ("new/m", None, {"strategy": "qq-qq"}, {}, "unknown pivot 'qq'"),
        (
            *("new/m", None, {"negatives": 1}, {}),
            r"^negatives is 1, but the pair table has no column negatives; [^\n]+$",
        ),
        ("m", None, {"ids": 41}, {}, r"^ids must be at most 40, [^\n]+, got 41$"),
        ("m", None, {"strategy": "x-y", "one_language_per_id": True}, {}, "x-y"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(
    trains: Trains,
    tmp_path: Path,
    name: str,
    pairs: PairTable | None,
    settings: dict[str, Any],
    given: dict[str, Any],
    message: str,
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=message) as caught:
        trains(name, pairs, given=given, **settings)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("content", ['{"encoder": "mine"}', "[]", "mine"])
def test_a_folder_with_a_run_json_of_something_else_is_not_overwritten(
    content: str, trains: Trains, tmp_path: Path
) -> None:
    (tmp_path / "run.json").write_text(content)
    message = r"run\.json is no record of a run of xir; choose another folder$"
    with pytest.raises(InputError, match=message):
        trains(".", given={"overwrite": True}, steps=1)
    assert (tmp_path / "run.json").read_text() == content


def test_an_encoder_of_mixed_types_is_refused_in_one_line(
    trains: Trains, encoder: str, tmp_path: Path
) -> None:
    model = SentenceTransformer(
        modules=[Transformer(encoder), Pooling(16, "mean"), Dense(16, 16)], device="cpu"
    )
    model[0].to(torch.bfloat16)
    model.save(str(tmp_path / "mixed"))
    with pytest.raises(
        InputError,
        match=r"^encoder '[^\n]+' has tensors of mixed types \(\d+ BF16, 2 F32\); [^\n]+$",
    ):
        trains("model", start_from=str(tmp_path / "mixed"))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite_stops_at_its_step_and_names_the_ids(
    encoder: str, tmp_path: Path, value: float
) -> None:
    broken = tmp_path / "broken"
    model = SentenceTransformer(encoder, device="cpu")
    with torch.no_grad():  # texts with an "h" have no finite vector
        model[0].model.embeddings.word_embeddings.weight[
            model.tokenizer.convert_tokens_to_ids("h")
        ] = value
    model.save(str(broken))
    pairs = toy_pairs()
    names = pairs.table["pair_id"].to_pylist()
    for seed in range(99):  # until the first batch is a good one
        settings = TrainSettings(**SETTINGS | {"seed": seed})
        batches = [
            [names[row] for row, _ in batch]
            for batch in make_sampler(PairIndex.from_table(pairs), settings)
        ]
        if step := next(number for number, batch in enumerate(batches) if "h" in "".join(batch)):
            break
    message = (
        rf"^the loss is not finite \(nan\) at step {step + 1}, .* pair ids"
        rf" {', '.join(batches[step])}; [^\n]+$"
    )
    with pytest.raises(InputError, match=message):
        train(str(broken), pairs, settings, tmp_path / "model", checkpoint_steps=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model.lock", "broken"]


def test_weights_that_are_not_finite_are_never_written(trains: Trains, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="weights are not finite after 1 step"):
        trains(learning_rate=1e39, steps=1, warmup_share=0)  # inf in float32
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
