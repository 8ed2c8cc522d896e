"""One run, end to end, with a 16-dimensional encoder: it learns, repeats itself, and leaves an
ordinary model folder.
"""

import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from sentence_transformers.models import Dense, Pooling, Transformer
from test_encoders import build_tiny
from toy import IDS, SETTINGS, toy_pairs

from xir_lib.data.records import PairTable, table_digest
from xir_lib.encoders.encode import encode
from xir_lib.encoders.open import open_encoder
from xir_lib.errors import InputError, explain
from xir_lib.samplers.strategies import PairIndex, Strategy
from xir_lib.training import loss as losses
from xir_lib.training import trainer
from xir_lib.training.held_out import held_out_loss, held_out_ranking
from xir_lib.training.loss import SortedBatchLoss
from xir_lib.training.run import train
from xir_lib.training.settings import (
    EarlyStopping,
    TrainSettings,
    make_sampler,
    parse_strategy,
    pivot_of,
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return str(build_tiny(tmp_path_factory.mktemp("encoder")))


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


def test_the_held_out_loss_starts_near_the_log_of_the_batch(
    encoder: str, trained: tuple[Path, dict[str, Any]]
) -> None:
    # Eight rows of random vectors at a high temperature are equally likely: ln 8 = 2.08.
    hot = TrainSettings(**SETTINGS | {"temperature": 1000.0})
    losses = held_out_loss(open_encoder(encoder), toy_pairs(IDS[:8]), hot, ("", ""))
    assert losses == pytest.approx({"x-x-mono": np.log(8), "x-y": np.log(8)}, abs=1e-2)


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
    encoder: str, tmp_path: Path
) -> None:
    short = SETTINGS | {"steps": 4}
    for name, change in (("a", {}), ("b", {}), ("c", {"strategy": "x-y"}), ("d", {"seed": 2})):
        train(encoder, toy_pairs(), TrainSettings(**short | change), tmp_path / name)
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


@pytest.mark.parametrize("content", ['{"encoder": "mine"}', "[]", "mine"])
def test_a_folder_with_a_run_json_of_something_else_is_not_overwritten(
    content: str, encoder: str, tmp_path: Path
) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(
        InputError, match=r"run\.json is no record of a run of xir; choose another folder$"
    ):
        train(
            encoder, toy_pairs(), TrainSettings(**SETTINGS | {"steps": 1}), tmp_path, overwrite=True
        )
    assert (tmp_path / "run.json").read_text() == content


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


def test_of_several_gpus_one_trains(
    encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two GPUs, as transformers counts them, double the batch that its trainer asks the sampler
    for.
    """
    made = SentenceTransformerTrainingArguments.__post_init__

    def with_two(arguments: SentenceTransformerTrainingArguments) -> None:
        made(arguments)
        arguments._n_gpu = 2

    monkeypatch.setattr(SentenceTransformerTrainingArguments, "__post_init__", with_two)
    run = train(encoder, toy_pairs(), TrainSettings(**SETTINGS | {"steps": 2}), tmp_path / "model")
    assert run["steps_trained"] == 2


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


def test_weights_that_are_not_finite_are_never_written(encoder: str, tmp_path: Path) -> None:
    settings = TrainSettings(
        **SETTINGS | {"learning_rate": 1e39, "steps": 1, "warmup_share": 0}
    )  # inf in float32
    with pytest.raises(InputError, match="weights are not finite after 1 step"):
        train(encoder, toy_pairs(), settings, tmp_path / "model")
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


@pytest.mark.parametrize("measure", ["loss", "multilingual mAP"])
def test_early_stopping_keeps_the_best_weights(encoder: str, tmp_path: Path, measure: str) -> None:
    wild = {
        "learning_rate": 0.1,
        "early_stopping": EarlyStopping(measure=measure, every=3, patience=2),
    }
    run = train(
        encoder,
        toy_pairs(IDS[8:]),
        TrainSettings(**SETTINGS | wild),
        tmp_path / "m",
        held_out=toy_pairs(IDS[:8]),
    )
    curve, steps = run["early_stopping"]["curve"], run["steps_trained"]
    assert [step for step, _ in curve] == list(range(3, steps + 1, 3))
    assert steps < SETTINGS["steps"]
    values = [value if measure == "loss" else -value for _, value in curve]
    best = values.index(min(values))
    assert best == len(values) - 3  # two measurements without a better one came after it
    assert run["early_stopping"]["best_step"] == curve[best][0]
    after = {
        "loss": np.mean(list(run["held_out_loss"]["after"].values())),
        "multilingual mAP": run["held_out_ranking"]["after"]["multilingual mAP"],
    }
    assert after[measure] == pytest.approx(
        curve[best][1], abs=1e-5
    )  # measured anew on the weights that were kept
    assert sum(run["realised"]["query_lang"].values()) == steps * 8


def test_the_last_step_is_measured_too(encoder: str, tmp_path: Path) -> None:
    patient = {"steps": 5, "early_stopping": EarlyStopping(every=3, patience=9)}
    run = train(
        encoder,
        toy_pairs(IDS[8:]),
        TrainSettings(**SETTINGS | patient),
        tmp_path / "m",
        held_out=toy_pairs(IDS[:8]),
    )
    assert [step for step, _ in run["early_stopping"]["curve"]] == [3, 5]


def test_recomputing_changes_no_weight(encoder: str, tmp_path: Path) -> None:
    settings = SETTINGS | {"steps": 4}
    kept = train(encoder, toy_pairs(), TrainSettings(**settings), tmp_path / "kept")
    again = train(
        encoder, toy_pairs(), TrainSettings(**settings | {"recompute": True}), tmp_path / "again"
    )
    np.testing.assert_allclose(np.array(again["loss"]), np.array(kept["loss"]), rtol=1e-5)
    first, second = weights(tmp_path / "kept"), weights(tmp_path / "again")
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-5


def test_the_held_out_ranking_is_that_of_a_sort(encoder: str) -> None:
    # Ragged: the first id lacks "zz", the second has no passage in "yy" and no question in "xx";
    # two ids share a passage, and the last one has the same text in every language.
    rows = toy_pairs(IDS[:5]).table.to_pylist()
    rows = [row for row in rows if (row["pair_id"], row["lang"]) != ("ai", "zz")]
    for row in rows:
        if (row["pair_id"], row["lang"]) == ("aj", "yy"):
            row["passage"] = row["passage_id"] = None
        if (row["pair_id"], row["lang"]) == ("aj", "xx"):
            row["query"] = None
    shared = {row["lang"]: row["passage"] for row in rows if row["pair_id"] == "ak"}
    for row in rows:
        if row["pair_id"] == "al":
            row["passage"], row["passage_id"] = shared[row["lang"]], "a k"
        if row["pair_id"] == "am":
            row["passage"] = "m a"
    table = pa.Table.from_pylist(rows, schema=toy_pairs().table.schema)
    model = open_encoder(encoder)
    found = held_out_ranking(model, PairTable(table), ("query: ", "passage: "))
    pool = sorted({(row["lang"], row["passage"]) for row in rows if row["passage"]})
    vectors = encode(model, [text for _, text in pool], prompt="passage: ")
    precisions: dict[str, list[float]] = {}
    distances: dict[str, list[int]] = {}
    for row in rows:
        if row["query"]:
            order = np.argsort(-(vectors @ encode(model, [row["query"]], prompt="query: ")[0]))
            right = {
                (other["lang"], other["passage"])
                for other in rows
                if other["pair_id"] == row["pair_id"]
            }
            ranks = [rank for rank, place in enumerate(order, 1) if pool[place] in right]
            distances.setdefault(row["lang"], []).append(ranks[-1] - ranks[0])
            precisions.setdefault(row["lang"], []).append(
                np.mean([number / rank for number, rank in enumerate(ranks, 1)])
            )
    assert found["ids"] == 5
    assert found["queries"] == sum(map(len, precisions.values())) == 13
    assert found["passages"] == len(pool) == 10
    assert found["multilingual mAP"] == pytest.approx(
        np.mean([np.mean(part) for part in precisions.values()]), abs=1e-6
    )
    assert found["bias"]["rank distance"]["mean"] == pytest.approx(
        np.mean([np.mean(part) for part in distances.values()]), abs=1e-4
    )


@pytest.mark.parametrize(
    ("strategy", "pairs"),
    [
        ("yy-yy", {("yy", "yy")}),
        ("x-y-pair", None),
        ("hybrid-row-0.5", None),
    ],
)
def test_every_strategy_trains(encoder: str, tmp_path: Path, strategy: str, pairs: Any) -> None:
    settings = SETTINGS | {"strategy": strategy, "steps": 4, "language_draw": "size"}
    realised = train(encoder, toy_pairs(), TrainSettings(**settings), tmp_path / "m")["realised"]
    same, cross = realised["pairs"]["same-language"], realised["pairs"]["cross-language"]
    assert same + cross == 4 * 8
    if strategy == "yy-yy":
        assert realised["query_lang"] == realised["doc_lang"] == {"yy": 32}
    elif strategy == "x-y-pair":
        assert same == 0
        assert all(count % 8 == 0 for count in realised["query_lang"].values())  # whole batches
    else:
        assert same > 0 < cross


def test_an_encoder_of_mixed_types_is_refused_in_one_line(encoder: str, tmp_path: Path) -> None:
    model = SentenceTransformer(
        modules=[Transformer(encoder), Pooling(16, "mean"), Dense(16, 16)], device="cpu"
    )
    model[0].to(torch.bfloat16)
    model.save(str(tmp_path / "mixed"))
    with pytest.raises(
        InputError,
        match=r"^encoder '[^\n]+' has tensors of mixed types \(\d+ BF16, 2 F32\); [^\n]+$",
    ):
        train(str(tmp_path / "mixed"), toy_pairs(), TrainSettings(**SETTINGS), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_bfloat16_encoder_is_trained_in_float32(encoder: str, tmp_path: Path) -> None:
    SentenceTransformer(encoder, device="cpu").to(torch.bfloat16).save(str(tmp_path / "half"))
    assert {tensor.dtype for tensor in weights(tmp_path / "half").values()} == {torch.bfloat16}
    train(
        str(tmp_path / "half"),
        toy_pairs(),
        TrainSettings(**SETTINGS | {"steps": 1}),
        tmp_path / "model",
    )
    assert {tensor.dtype for tensor in weights(tmp_path / "model").values()} == {torch.float32}


def test_bad_input_is_named_before_anything_is_written(encoder: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    stopping = TrainSettings(**SETTINGS | {"early_stopping": EarlyStopping(every=1, patience=1)})
    plain = TrainSettings(**SETTINGS)
    some = toy_pairs().select(languages=["xx", "yy"])
    for settings, pairs, out, given, message in (
        (plain, toy_pairs(), "file", {}, r"/file is a file; name a folder"),
        (plain, toy_pairs(), "file/model", {}, r"/file is a file; name a folder"),
        (
            plain,
            some,
            "m",
            {"held_out": toy_pairs()},
            r"^held_out has the languages zz, which the pairs lack; they have xx, yy$",
        ),
        (stopping, toy_pairs(), "m", {}, r"^early_stopping needs held-out pairs"),
        (
            plain,
            toy_pairs(),
            "m",
            {"checkpoint_steps": 0},
            r"^checkpoint_steps must be at least 1, auto or none, got 0$",
        ),
        (plain, toy_pairs(IDS[:2]), "m", {}, r"^batch_size 8 exceeds"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            train(encoder, pairs, settings, tmp_path / out, **given)
        assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"file", ".m.lock"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0, -1])
def test_a_learning_rate_that_is_no_number_is_named_in_one_line(value: float) -> None:
    with pytest.raises(ValidationError) as caught:
        TrainSettings(**SETTINGS | {"learning_rate": value})
    line = explain(caught.value)  # as the command line prints it
    assert line.startswith("learning_rate: ") and str(value) in line and "\n" not in line


def test_what_kills_left_of_this_model_is_removed_and_nothing_else(
    encoder: str, tmp_path: Path
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
    train(encoder, toy_pairs(), TrainSettings(**SETTINGS | {"steps": 1}), tmp_path / "m")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, ".m.lock", "m"])


def test_checkpoints_by_the_clock_cost_little(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(trainer.time, "monotonic", lambda: now)
    callback = trainer.CheckpointCallback("auto")
    callback.on_train_begin(None, None, None)
    made = []
    for step in range(1, 196):  # of 20 seconds; a checkpoint takes 30
        now += 20
        control = SimpleNamespace(should_save=False, should_training_stop=step == 195)
        callback.on_step_end(None, SimpleNamespace(global_step=step), control)
        if control.should_save:
            made.append(step)
            now += 30
            callback.on_save(None, None, control)
    # The first after 300 s, the others after 40 * 30 s; none at 195, where training ends.
    assert made == [15, 75, 135]


def test_pure_batches_have_pure_marginals(encoder: str, tmp_path: Path) -> None:
    run = train(
        encoder,
        toy_pairs(),
        TrainSettings(**SETTINGS | {"strategy": "x-x-mono", "steps": 6}),
        tmp_path / "m",
    )
    assert run["realised"]["pairs"] == {"same-language": 48, "cross-language": 0}
    assert run["realised"]["query_lang"] == run["realised"]["doc_lang"]
    assert all(count % 8 == 0 for count in run["realised"]["query_lang"].values())  # whole batches


def test_a_training_on_few_ids_has_those_alone(encoder: str, tmp_path: Path) -> None:
    run = train(
        encoder, toy_pairs(), TrainSettings(**SETTINGS | {"steps": 6, "ids": 10}), tmp_path / "m"
    )
    assert run["pairs"] == {
        "name": None,
        "rows": 30,
        "ids": 10,
        "languages": toy_pairs().languages,
        "datasets": {},
    }
    with pytest.raises(InputError, match=r"^ids must be at most 40, [^\n]+, got 41$"):
        train(encoder, toy_pairs(), TrainSettings(**SETTINGS | {"ids": 41}), tmp_path / "n")
    assert not list(tmp_path.glob(".n.checkpoint"))


def test_what_no_batch_can_hold_is_told_and_recorded(
    encoder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        row for row in toy_pairs().table.to_pylist() if row["lang"] == "xx" or row["pair_id"] > "b"
    ]
    alone = sum(
        Counter(row["pair_id"] for row in rows)[name] == 1
        for name in {row["pair_id"] for row in rows}
    )
    pairs = PairTable(pa.Table.from_pylist([{**row, "negatives": ["n"]} for row in rows]))
    run = train(
        encoder, pairs, TrainSettings(**SETTINGS | {"strategy": "x-y", "steps": 2}), tmp_path / "m"
    )
    assert run["sampler"]["never"] == alone > 0
    assert f"{alone} of 40 ids have no pair that this strategy draws" in caplog.text
    assert (
        "the pairs have hard negatives that are not read; negatives=1 reads one per pair"
        in caplog.text
    )


def test_hard_negatives_are_read_as_passages_of_the_batch(
    encoder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns: list[list[list[str]]] = []

    class Spy(SortedBatchLoss):
        def forward(self, sentence_features: Any, labels: torch.Tensor) -> torch.Tensor:
            features = list(sentence_features)
            columns.append(
                [
                    [
                        *self.model.tokenizer.batch_decode(
                            part["input_ids"], skip_special_tokens=True
                        )
                    ]
                    for part in features
                ]
            )
            return super().forward(features, labels)

    monkeypatch.setattr(losses, "SortedBatchLoss", Spy)
    rows = (
        toy_pairs().table.to_pylist()
    )  # of ten ids no row has a negative; no query and no passage has an x
    hard = [
        {**row, "negatives": [f"{row['passage'][0]} x", "y"] if row["pair_id"] > "c" else None}
        for row in rows
    ]
    pairs = PairTable(pa.Table.from_pylist(hard))
    run = train(
        encoder, pairs, TrainSettings(**SETTINGS | {"steps": 3, "negatives": 1}), tmp_path / "m"
    )
    assert run["sampler"]["without_negatives"] == 30 and run["sampler"]["never"] == 10
    assert (
        "30 passages are not drawn: fewer than 1 hard negatives" in caplog.text
        and "not read" not in caplog.text
    )
    assert len(columns) == 3 and all(len(batch) == 3 for batch in columns)
    for _, passages, negatives in columns:
        assert all(text.startswith("▁ passage:") for text in passages)
        for passage, negative in zip(passages, negatives, strict=True):  # in the passage's language
            assert negative == f"{passage[:13]}{passage[13]} ▁ x"
    without = train(encoder, pairs, TrainSettings(**SETTINGS | {"steps": 3}), tmp_path / "n")
    assert without["loss"][0][1] < run["loss"][0][1]  # one more passage for every row
    with pytest.raises(
        InputError, match=r"^negatives is 1, but the pair table has no column negatives; [^\n]+$"
    ):
        train(encoder, toy_pairs(), TrainSettings(**SETTINGS | {"negatives": 1}), tmp_path / "o")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 64}, "batch_size 64 exceeds the 40 ids"),
        ({"strategy": "qq-qq"}, "unknown pivot 'qq'"),
        ({"negatives": 1}, "negatives is 1, but the pair table has no column negatives"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is_written(
    encoder: str, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(encoder, toy_pairs(), TrainSettings(**SETTINGS | change), tmp_path / "new" / "model")
    assert not list(tmp_path.iterdir())


def test_one_language_per_id_trains_on_nothing_parallel(encoder: str, tmp_path: Path) -> None:
    settings = TrainSettings(
        **SETTINGS | {"strategy": "x-x-mono", "steps": 6, "one_language_per_id": True}
    )
    run = train(encoder, toy_pairs(), settings, tmp_path / "m")
    assert run["pairs"]["rows"] == run["pairs"]["ids"] == 40
    assert run["realised"]["pairs"] == {"same-language": 48, "cross-language": 0}
    with pytest.raises(InputError, match="x-y"):
        train(encoder, toy_pairs(), settings.model_copy(update={"strategy": "x-y"}), tmp_path / "n")
    assert not (tmp_path / "n").exists()


def test_parallel_queries_score_alike_after_training_with_the_divergence(
    encoder: str, tmp_path: Path
) -> None:
    pairs, divergence = toy_pairs(), {}
    for name, weight in (("without", 0.0), ("with", 5.0)):
        settings = TrainSettings(**SETTINGS | {"strategy": "x-x-mono", "query_kl": weight})
        run = train(encoder, pairs, settings, tmp_path / name)
        assert run["settings"]["query_kl"] == weight
        model = open_encoder(str(tmp_path / name))
        vectors = [
            torch.tensor(encode(model, pairs.table[column], prompt=""))
            for column in ("query", "passage")
        ]
        queries, passages = (part.reshape(len(IDS), 3, -1) for part in vectors)
        scores = (
            torch.einsum("ild,jd->lij", queries, passages[:, 0]) / settings.temperature
        )  # over passages in one language
        one, other = scores.log_softmax(dim=2)[:2]
        divergence[name] = float(
            ((one.exp() - other.exp()) * (one - other)).sum(dim=1).mean()
        )  # over the passages
    assert divergence["with"] < 0.7 * divergence["without"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x-y", (Strategy.X_Y, 1.0)),
        ("hybrid-0.25", (Strategy.HYBRID, 0.25)),
        ("hybrid-1", (Strategy.HYBRID, 1.0)),
        ("x-y-pair", (Strategy.X_Y_PAIR, 1.0)),
        ("hybrid-row-.5", (Strategy.HYBRID_ROW, 0.5)),
        ("en-en", (Strategy.EN_EN, 1.0)),
        ("es-es", (Strategy.EN_EN, 1.0)),
    ],
)
def test_names_of_runs(name: str, expected: tuple[Strategy, float]) -> None:
    assert parse_strategy(name) == expected
    assert pivot_of(name) == ("es" if name == "es-es" else "en")


@pytest.mark.parametrize(
    "name", ["hybrid", "hybrid-", "hybrid-x", "hybrid--1", "hybrid-row", "y-y", "en-es", ""]
)
def test_unknown_names_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(
        InputError, match=r"x-x-mono, x-y, x-x, .*en-en, .*hybrid-ALPHA or hybrid-row-ALPHA"
    ):
        parse_strategy(name)


def test_alpha_outside_its_range() -> None:
    with pytest.raises(InputError, match=r"alpha must be in \[0, 1\], got 1.4"):
        parse_strategy("hybrid-1.4")


def test_the_digest_sees_every_text() -> None:
    assert table_digest(toy_pairs()) == table_digest(toy_pairs())
    assert table_digest(toy_pairs()) != table_digest(toy_pairs(IDS[1:]))
