"""What a run trains on, by its settings."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from toy import IDS, SETTINGS, toy_pairs

from xir_lib.data.records import PairTable
from xir_lib.encoders.encode import encode
from xir_lib.encoders.open import open_encoder
from xir_lib.training import loss as losses
from xir_lib.training.loss import SortedBatchLoss

Trains = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("strategy", ["x-x-mono", "yy-yy", "x-y-pair", "hybrid-row-0.5"])
def test_every_strategy_trains(trains: Trains, strategy: str) -> None:
    realised = trains(strategy=strategy, steps=6, language_draw="size")["realised"]
    same, cross = realised["pairs"]["same-language"], realised["pairs"]["cross-language"]
    assert same + cross == 6 * 8
    if strategy == "hybrid-row-0.5":
        assert same > 0 < cross
        return
    assert (cross if strategy == "x-y-pair" else same) == 6 * 8
    assert all(count % 8 == 0 for count in realised["query_lang"].values())  # whole batches
    if strategy == "yy-yy":
        assert realised["query_lang"] == {"yy": 48}
    if strategy != "x-y-pair":
        assert realised["query_lang"] == realised["doc_lang"]


def test_a_training_on_few_ids_has_those_alone(trains: Trains) -> None:
    found = trains(steps=6, ids=10)["pairs"]
    assert (found["rows"], found["ids"], found["languages"]) == (30, 10, toy_pairs().languages)


def test_one_language_per_id_trains_on_nothing_parallel(trains: Trains) -> None:
    run = trains(strategy="x-x-mono", steps=6, one_language_per_id=True)
    assert run["pairs"]["rows"] == run["pairs"]["ids"] == 40
    assert run["realised"]["pairs"] == {"same-language": 48, "cross-language": 0}


def test_what_no_batch_can_hold_is_told_and_recorded(
    trains: Trains, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        row for row in toy_pairs().table.to_pylist() if row["lang"] == "xx" or row["pair_id"] > "b"
    ]
    alone = sum(
        Counter(row["pair_id"] for row in rows)[name] == 1
        for name in {row["pair_id"] for row in rows}
    )
    pairs = PairTable(pa.Table.from_pylist([{**row, "negatives": ["n"]} for row in rows]))
    run = trains(pairs=pairs, strategy="x-y", steps=2)
    assert run["sampler"]["never"] == alone > 0
    assert f"{alone} of 40 ids have no pair that this strategy draws" in caplog.text
    assert (
        "the pairs have hard negatives that are not read; negatives=1 reads one per pair"
        in caplog.text
    )


def test_hard_negatives_are_read_as_passages_of_the_batch(
    trains: Trains, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
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
    run = trains(pairs=pairs, steps=3, negatives=1)
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
    without = trains("n", pairs, steps=3)
    assert without["loss"][0][1] < run["loss"][0][1]  # one more passage for every row


def test_parallel_queries_score_alike_after_training_with_the_divergence(
    trains: Trains, tmp_path: Path
) -> None:
    pairs, divergence = toy_pairs(), {}
    for name, weight in (("without", 0.0), ("with", 5.0)):
        run = trains(name, strategy="x-x-mono", query_kl=weight)
        assert run["settings"]["query_kl"] == weight
        model = open_encoder(str(tmp_path / name))
        vectors = [
            torch.tensor(encode(model, pairs.table[column], prompt=""))
            for column in ("query", "passage")
        ]
        queries, passages = (part.reshape(len(IDS), 3, -1) for part in vectors)
        scores = (
            torch.einsum("ild,jd->lij", queries, passages[:, 0]) / SETTINGS["temperature"]
        )  # over passages in one language
        one, other = scores.log_softmax(dim=2)[:2]
        divergence[name] = float(
            ((one.exp() - other.exp()) * (one - other)).sum(dim=1).mean()
        )  # over the passages
    assert divergence["with"] < 0.7 * divergence["without"]
