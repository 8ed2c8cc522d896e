"""The stock trainer, three steps with a 16-dimensional model: the texts of the sampler's rows reach
the model.
"""

import copy
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from word_encoder import word_encoder

from xir_lib.data.records import NEGATIVES, PAIR_SCHEMA, PairTable
from xir_lib.errors import InputError
from xir_lib.samplers.base import EpochSampler
from xir_lib.samplers.dataset import PairDataset, batch_sampler_factory
from xir_lib.samplers.mixture import MixtureBatchSampler
from xir_lib.samplers.strategies import PairIndex, StrategyBatchSampler

LANGS = ("de", "en", "zh")


def pair_table() -> PairTable:
    """Twelve ids in three languages; de lacks the query of id 0 and the passage of id 1. Texts name
    themselves.
    """
    rows = [
        {
            "pair_id": f"i{i}",
            "lang": lang,
            "query": None if (i, lang) == (0, "de") else f"q {lang} n{i}",
            "passage_id": None if (i, lang) == (1, "de") else f"p{i}",
            "passage": None if (i, lang) == (1, "de") else f"p {lang} n{i}",
            "group": f"g{i}",
        }
        for i in range(12)
        for lang in LANGS
    ]
    return PairTable(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA))


def make_sampler(pairs: PairTable, **settings: Any) -> StrategyBatchSampler:
    return StrategyBatchSampler(
        PairIndex.from_table(pairs),
        **({"strategy": "hybrid", "batch_size": 4, "seed": 5, "num_batches": 6} | settings),
    )


@pytest.fixture
def tiny_model(tmp_path: Path) -> SentenceTransformer:
    table = pair_table().table
    texts = table["query"].to_pylist() + table["passage"].to_pylist()
    return word_encoder(tmp_path / "bert", [text for text in texts if text])


def train(
    model: Any, data: PairDataset, sampler: EpochSampler, folder: Path, workers: int
) -> list[list[list[int]]]:
    """Train one epoch; return per step and column the token ids that reached the model."""
    seen: list[list[list[int]]] = []

    class Recording(MultipleNegativesRankingLoss):
        def forward(self, sentence_features: Any, labels: Any) -> Any:
            sentence_features = list(sentence_features)
            seen.append([features["input_ids"].tolist() for features in sentence_features])
            return super().forward(sentence_features, labels)

    args = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        batch_sampler=batch_sampler_factory(sampler),
        dataloader_num_workers=workers,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = SentenceTransformerTrainer(
        model=model, args=args, train_dataset=data, loss=Recording(model)
    )
    trainer.train()
    assert trainer.state.global_step == 3  # 6 batches / 2 accumulated
    trainer.save_model(
        str(folder / "model")
    )  # writes the model card, which reads rows of the data set
    return seen


@pytest.mark.parametrize("workers", [0, 1])
def test_the_stock_trainer_sees_exactly_the_planned_texts(
    tiny_model: Any, tmp_path: Path, workers: int
) -> None:
    pairs = pair_table()
    sampler = make_sampler(pairs)
    seen = train(tiny_model, PairDataset.from_pairs(pairs), sampler, tmp_path / "out", workers)
    rows = pairs.table.to_pylist()
    vocabulary = tiny_model.tokenizer.get_vocab()
    expected = [
        [
            [[vocabulary[w] for w in rows[pair[side]][column].split()] for pair in batch]
            for side, column in enumerate(("query", "passage"))
        ]
        for batch in sampler
    ]
    assert seen == expected


def test_items_by_pair_by_row_and_by_column() -> None:
    pairs = pair_table()  # rows: id 0 is 0 (de), 1 (en), 2 (zh); id 1 is 3, 4, 5
    data = PairDataset.from_pairs(pairs)
    assert data.__getitems__([(1, 2), (4, 5)]) == [
        {"query": "q en n0", "passage": "p zh n0"},
        {"query": "q en n1", "passage": "p zh n1"},
    ]
    assert data.__getitems__([1]) == [data[1]] == [{"query": "q en n0", "passage": "p en n0"}]
    assert data.column_names == ["query", "passage"]


def test_a_parallel_query_is_the_same_id_s_in_another_language() -> None:
    tables = [pair_table(), pair_table()]  # equal ids in two tables are not the same id
    rows = [row for table in tables for row in table.table.to_pylist()]
    data = PairDataset.from_pairs(tables, parallel_seed=0)
    assert data.column_names == ["query", "passage", "parallel_query"]
    has_query = [number for number, row in enumerate(rows) if row["query"] is not None]
    has_passage = [number for number, row in enumerate(rows) if row["passage"] is not None]
    half = len(rows) // 2
    keys = [
        (query, passage)
        for query in has_query
        for passage in has_passage
        if rows[query]["pair_id"] == rows[passage]["pair_id"] and (query < half) == (passage < half)
    ]
    drawn: dict[int, set[str]] = {}
    for (query, _), item in zip(keys, data.__getitems__(keys), strict=True):
        same_id = [
            n
            for n in has_query
            if rows[n]["pair_id"] == rows[query]["pair_id"] and (n < half) == (query < half)
        ]
        others = {rows[n]["query"] for n in same_id if n != query}
        assert item["parallel_query"] in (others or {rows[query]["query"]})
        assert item["query"] == rows[query]["query"]
        drawn.setdefault(query, set()).add(item["parallel_query"])
    assert max(map(len, drawn.values())) > 1  # not always the same language
    again = PairDataset.from_pairs(tables, parallel_seed=0).__getitems__(keys)
    assert (
        again
        == data.__getitems__(keys)
        != PairDataset.from_pairs(tables, parallel_seed=1).__getitems__(keys)
    )


def test_a_query_in_one_language_is_its_own_parallel() -> None:
    whole = pair_table()
    first = whole.pair_ids[0]
    alone = (pc.field("pair_id") != first) | (pc.field("lang") == "en")
    data = PairDataset.from_pairs(PairTable(whole.table.filter(alone)), parallel_seed=0)
    item = data.__getitems__([(0, 0)])[0]
    assert item["parallel_query"] == item["query"] == "q en n0"
    with pytest.raises(InputError, match="no id has its query in two languages"):
        PairDataset.from_pairs(whole.select(languages=["en"]), parallel_seed=0)


def test_a_missing_text_is_named_and_not_trained_on() -> None:
    with pytest.raises(InputError, match=r"^row 3 of the pair table has no passage"):
        PairDataset.from_pairs(pair_table()).__getitems__([(4, 3)])


def test_training_arguments_are_pickled_without_the_index_and_copied_with_it() -> None:
    make = batch_sampler_factory(make_sampler(pair_table()))
    assert copy.deepcopy(make).sampler is make.sampler
    assert len(pickle.dumps(make)) < 500  # the index alone is more
    with pytest.raises(InputError, match="set batch_sampler again"):
        pickle.loads(pickle.dumps(make))(
            PairDataset.from_pairs(pair_table()), batch_size=4, drop_last=True
        )


def test_factory_refuses_another_batch_size_and_reads_validation_rows_in_order() -> None:
    from datasets import Dataset

    pairs = pair_table()
    make = batch_sampler_factory(make_sampler(pairs))
    with pytest.raises(InputError, match="batch size is 8, the sampler's 4"):
        make(
            PairDataset.from_pairs(pairs),
            batch_size=8,
            drop_last=False,
            valid_label_columns=None,
            generator=None,
            seed=0,
        )
    plain = Dataset.from_dict({"query": ["a", "b", "c"], "passage": ["A", "B", "C"]})
    assert list(make(plain, batch_size=2, drop_last=False)) == [[0, 1], [2]]


def test_a_memory_mapped_table_is_read_in_place(tmp_path: Path) -> None:
    pair_table().save(tmp_path / "pairs.arrow")
    before = pa.total_allocated_bytes()
    data = PairDataset.from_pairs(PairTable.load(tmp_path / "pairs.arrow"))
    assert data.__getitems__([(1, 2)]) == [{"query": "q en n0", "passage": "p zh n0"}]
    assert data.data.table["passage"].chunk(0).buffers()[2].is_mutable is False
    assert pa.total_allocated_bytes() - before < 4096


def with_negatives(pairs: PairTable, name: str) -> PairTable:
    """Give every passage two negatives that name their row, and new pair ids; row 1 has one, row 2
    none.
    """
    rows = [
        row
        | {
            "pair_id": f"{name}{i}",
            "negatives": [f"{name} a{i}", f"{name} b{i}"][: {1: 1, 2: 0}.get(i, 2)] or None,
        }
        for i, row in enumerate(pairs.table.to_pylist())
    ]
    return PairTable(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA.append(NEGATIVES)))


def test_negatives_are_the_first_of_the_passage_row() -> None:
    data = PairDataset.from_pairs(with_negatives(pair_table(), "n"), negatives=2)
    assert data.column_names == ["query", "passage", "negative_1", "negative_2"]
    batch = data.__getitems__([(4, 5), (1, 0)])
    assert [list(row) for row in batch] == [
        data.column_names
    ] * 2  # the order of the columns is what a loss sees
    assert batch == [
        {"query": "q en n1", "passage": "p zh n1", "negative_1": "n a5", "negative_2": "n b5"},
        {"query": "q en n0", "passage": "p de n0", "negative_1": "n a0", "negative_2": "n b0"},
    ]
    assert data[1] == {
        "query": "q en n0",
        "passage": "p en n0",
        "negative_1": "n a1",
        "negative_2": "",
    }
    assert PairDataset.from_pairs(with_negatives(pair_table(), "n")).column_names == [
        "query",
        "passage",
    ]
    for row, count in ((1, 1), (2, 0)):
        with pytest.raises(
            InputError, match=f"^row {row} of the pair table has {count} negatives, 2 are read"
        ):
            data.__getitems__([(4, row)])
    with pytest.raises(
        InputError, match="negatives is 1, but a pair table has no column negatives"
    ):
        PairDataset.from_pairs([with_negatives(pair_table(), "n"), pair_table()], negatives=1)


def test_several_tables_are_read_end_to_end_and_in_place(tmp_path: Path) -> None:
    pair_table().save(tmp_path / "pairs.arrow")
    before = pa.total_allocated_bytes()
    data = PairDataset.from_pairs(
        [with_negatives(pair_table(), "n"), PairTable.load(tmp_path / "pairs.arrow")]
    )
    assert data.__getitems__([(1, 2), (36 + 4, 36 + 5)]) == [
        {"query": "q en n0", "passage": "p zh n0"},
        {"query": "q en n1", "passage": "p zh n1"},
    ]
    assert len(data) == 72 and data.data.table["passage"].num_chunks == 2
    assert data.data.table["passage"].chunk(1).buffers()[2].is_mutable is False
    assert pa.total_allocated_bytes() - before < 8192  # the first table's 36 rows


def test_a_batch_reads_only_the_chunks_of_its_rows(tmp_path: Path) -> None:
    # 20 chunks of 5 MB: to join them first, as pyarrow's own take does, would allocate 100 MB at
    # every batch.
    text = "x" * 5000
    rows = [
        {
            "pair_id": f"i{i}",
            "lang": "en",
            "query": "q",
            "passage_id": "p",
            "passage": text,
            "group": "g",
        }
        for i in range(1000)
    ]
    part = pa.Table.from_pylist(rows, schema=PAIR_SCHEMA)
    ids = pa.array([f"i{i}" for i in range(20_000)])
    pairs = PairTable(pa.concat_tables([part] * 20).set_column(0, "pair_id", ids))
    pool = pa.proxy_memory_pool(pa.default_memory_pool())
    usual, before = pa.default_memory_pool(), pool.max_memory()
    pa.set_memory_pool(pool)
    try:
        PairDataset.from_pairs(pairs).__getitems__([(3, 19_999), (8000, 500)])
    finally:
        pa.set_memory_pool(usual)
    assert pool.max_memory() - (before or 0) < 1_000_000


def test_the_stock_trainer_sees_the_negatives_of_two_data_sets(
    tiny_model: Any, tmp_path: Path
) -> None:
    pairs = {name: with_negatives(pair_table(), name) for name in ("n1", "n2")}
    samplers = {
        name: StrategyBatchSampler(
            PairIndex.from_table(table, negatives=2), strategy="x-x-mono", batch_size=4, seed=0
        )
        for name, table in pairs.items()
    }
    mixture = MixtureBatchSampler(samplers, dataset_draw="equal", seed=4, num_batches=6)
    rows = [row for table in pairs.values() for row in table.table.to_pylist()]
    expected = [
        [
            [rows[query]["query"] for query, _ in batch],
            [rows[passage]["passage"] for _, passage in batch],
            *([rows[passage]["negatives"][k] for _, passage in batch] for k in (0, 1)),
        ]
        for batch in mixture
    ]
    assert {column[2][0][:2] for column in expected} == {"n1", "n2"}
    vocabulary = tiny_model.tokenizer.get_vocab()
    unknown = vocabulary["[UNK]"]
    expected_ids = [
        [[[vocabulary.get(w, unknown) for w in text.split()] for text in column] for column in step]
        for step in expected
    ]
    data = PairDataset.from_pairs(list(pairs.values()), negatives=2)
    assert train(tiny_model, data, mixture, tmp_path / "out", 0) == expected_ids
    bare = StrategyBatchSampler(
        PairIndex.from_table(pairs["n2"]), strategy="x-x-mono", batch_size=4, seed=0
    )
    mixed = MixtureBatchSampler(
        {**samplers, "n2": bare}, dataset_draw="equal", seed=4, num_batches=6
    )
    with pytest.raises(
        InputError,
        match=r"^the data set reads 2 hard negatives, the sampler was indexed with 0, so [^\n]+$",
    ):
        train(tiny_model, data, mixed, tmp_path / "other", 0)
