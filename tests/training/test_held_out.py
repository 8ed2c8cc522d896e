"""What is said about held-out pairs."""

import numpy as np
import pyarrow as pa
import pytest
from toy import IDS, SETTINGS, toy_pairs

from xir_lib.data.records import PairTable
from xir_lib.encoders.encode import encode
from xir_lib.encoders.open import open_encoder
from xir_lib.training.held_out import held_out_loss, held_out_ranking
from xir_lib.training.settings import (
    TrainSettings,
)


def test_the_held_out_loss_starts_near_the_log_of_the_batch(encoder: str) -> None:
    # Eight rows of random vectors at a high temperature are equally likely: ln 8 = 2.08.
    hot = TrainSettings(**SETTINGS | {"temperature": 1000.0})
    losses = held_out_loss(open_encoder(encoder), toy_pairs(IDS[:8]), hot, ("", ""))
    assert losses == pytest.approx({"x-x-mono": np.log(8), "x-y": np.log(8)}, abs=1e-2)


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
