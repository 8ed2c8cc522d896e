"""Several data sets in one training: shares, order, and rows of the tables end to end."""

from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from scipy.stats import binom

from xir_lib.data.readers import join
from xir_lib.data.records import PAIR_SCHEMA, PairTable
from xir_lib.errors import InputError
from xir_lib.samplers.mixture import MixtureBatchSampler
from xir_lib.samplers.strategies import PairIndex, StrategyBatchSampler
from xir_lib.training.settings import TrainSettings, batches_of

LANGS = ("de", "en")


def parallel(name: str, ids: int) -> PairTable:
    rows = [
        {
            "pair_id": f"{name}{i}",
            "lang": lang,
            "query": "q",
            "passage_id": f"p{i}",
            "passage": f"{i} {lang}",
            "group": name,
        }
        for i in range(ids)
        for lang in LANGS
    ]
    return PairTable(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA))


TABLES = {"a": parallel("a", 40), "b": parallel("b", 10), "c": parallel("c", 40)}
INDEXES = {name: PairIndex.from_table(table) for name, table in TABLES.items()}
STRATEGIES = {"a": "x-y", "b": "x-x-mono", "c": "hybrid"}


def mixture(
    names: str = "abc", *, dataset_draw: str | float = "size", seed: int = 3, **arguments: Any
) -> MixtureBatchSampler:
    samplers = {
        name: StrategyBatchSampler(INDEXES[name], strategy=STRATEGIES[name], batch_size=4, seed=0)
        for name in names
    }
    return MixtureBatchSampler(samplers, dataset_draw=dataset_draw, seed=seed, **arguments)


def contents(mixed: MixtureBatchSampler) -> list[list[tuple[str, str, str]]]:
    """Return (pair_id, query_lang, doc_lang) of every pair, read from the concatenated tables."""
    table = pa.concat_tables([TABLES[name].table for name in mixed.samplers]).to_pylist()
    batches = []
    for batch in mixed:
        rows = [(table[query], table[passage]) for query, passage in batch]
        assert all(query["pair_id"] == passage["pair_id"] for query, passage in rows)
        batches.append(
            [(query["pair_id"], query["lang"], passage["lang"]) for query, passage in rows]
        )
    return batches


def datasets(mixed: MixtureBatchSampler) -> list[str]:
    """Return the data set of each batch; every batch has one."""
    found = [{pair_id[0] for pair_id, _, _ in batch} for batch in contents(mixed)]
    assert all(len(names) == 1 for names in found)
    return [names.pop() for names in found]


@pytest.mark.parametrize("strategy", ["x-y", "hybrid-0.5", "hybrid-row-0.5", "x-y-pair"])
def test_a_member_of_one_language_gives_monolingual_batches(strategy: str) -> None:
    several, one = TABLES["a"], TABLES["c"].select(languages=["en"])
    training = TrainSettings(
        strategy=strategy,
        steps=60,
        batch_size=4,
        learning_rate=1e-3,
        temperature=0.05,
        max_seq_length=16,
        dataset_draw="equal",
    )
    sampler = batches_of(join({"several": several, "one": one}), training)
    report = sampler.report()["datasets"]
    assert {name: part["strategy"] for name, part in report.items()} == {
        "several": strategy.removesuffix("-0.5"),
        "one": "x-x-mono",
    }
    assert min(part["batches"] for part in report.values()) > 10
    with pytest.raises(InputError, match="in two different languages"):
        batches_of(one, training)


@pytest.mark.parametrize(
    ("arguments", "shares"),
    [
        ({"dataset_draw": "size"}, {"a": 40 / 90, "b": 10 / 90, "c": 40 / 90}),
        ({"dataset_draw": "equal"}, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}),
        (
            {"dataset_draw": 2},
            {"a": 2 / 5, "b": 1 / 5, "c": 2 / 5},
        ),  # roots of 40, 10, 40: 2 to 1 to 2
    ],
)
def test_data_sets_come_in_their_shares(
    arguments: dict[str, Any], shares: dict[str, float]
) -> None:
    mixed = mixture(num_batches=2000, **arguments)
    counts = Counter(datasets(mixed))
    assert len(mixed) == counts.total() == 2000
    for name, share in shares.items():
        low, high = binom.interval(0.999, 2000, share)
        assert low <= counts[name] <= high
        assert mixed.report()["datasets"][name]["share"] == pytest.approx(share)
        assert mixed.report()["datasets"][name]["batches"] == counts[name]


def test_a_very_low_temperature_takes_the_largest_data_set_and_a_very_high_one_all_alike() -> None:
    assert mixture("ab", dataset_draw=1e-4, num_batches=1).shares.tolist() == [1, 0]
    assert mixture("ab", dataset_draw=1e9, num_batches=1).shares == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("draw", ["size", "equal", 2.0])
def test_an_epoch_is_by_default_as_long_as_those_of_the_data_sets(draw: str | float) -> None:
    mixed = mixture(dataset_draw=draw)  # 40 / 4, 10 // 4 and 40 / 4 batches
    assert len(mixed) == 22 and list(mixed) == list(mixture(dataset_draw=draw, num_batches=22))


def test_equally_long_data_sets_do_not_share_an_order_and_do_not_depend_on_the_others() -> None:
    together = contents(mixture("ac", num_batches=40))
    ids = {
        name: [pair[0][1:] for batch in together for pair in batch if pair[0][0] == name][:40]
        for name in "ac"
    }
    assert len(ids["a"]) == len(ids["c"]) == 40
    # one place in common is expected of two independent orders
    assert sum(x == y for x, y in zip(ids["a"], ids["c"], strict=True)) < 8
    alone = contents(mixture("a", num_batches=40))
    of_a = [batch for batch in together if batch[0][0][0] == "a"]
    assert of_a == alone[: len(of_a)]


def test_the_mix_is_described_as_it_is_read() -> None:
    mixed = mixture(num_batches=60)
    frame = mixed.describe()
    rows = Counter(
        (number, pair_id[0], query_lang, doc_lang)
        for number, batch in enumerate(contents(mixed))
        for pair_id, query_lang, doc_lang in batch
    )
    columns = ["batch", "dataset", "query_lang", "doc_lang"]
    assert (
        dict(zip(frame[columns].itertuples(index=False, name=None), frame["pairs"], strict=True))
        == rows
    )
    assert set(
        frame.groupby("dataset")["kind"].unique().map(lambda kinds: tuple(sorted(kinds))).items()
    ) == {("a", ("x-y",)), ("b", ("x-x-mono",)), ("c", ("x-x-mono", "x-y"))}
    assert frame["batch"].is_monotonic_increasing


@pytest.mark.parametrize("names", ["abc", "a"])
def test_a_seed_and_an_epoch_fix_the_batches(names: str) -> None:
    first = list(mixture(names, num_batches=30))
    again = mixture(names, num_batches=30)
    assert list(again) == list(again) == first
    again.set_epoch(1)
    other = mixture(names, num_batches=30, seed=4)
    assert all(
        Counter(map(frozenset, batches)) != Counter(map(frozenset, first))
        for batches in (list(again), list(other))
    )
    again.set_epoch(0)
    assert list(again) == first


@pytest.mark.parametrize("start", [0, 1, 17, 25])
def test_a_trainer_that_skips_batches_reads_the_others(start: int) -> None:
    mixed = mixture(num_batches=25)
    mixed.set_epoch(1)
    assert list(mixed.batches_from(start)) == list(mixed)[start:]


def test_a_sampler_in_use_is_lent_from_its_beginning() -> None:
    sampler = StrategyBatchSampler(INDEXES["a"], strategy="x-y", batch_size=4, seed=0)
    untouched = list(MixtureBatchSampler({"a": sampler}, dataset_draw="size", seed=3))
    sampler.set_epoch(2)
    next(iter(sampler))
    assert list(MixtureBatchSampler({"a": sampler}, dataset_draw="size", seed=3)) == untouched
    assert sampler.epoch == 2  # and is none the worse for it


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"dataset_draw": "best"},
            "unknown dataset_draw 'best'; use size, equal or a number above 0, a temperature",
        ),
        ({"dataset_draw": 0, "num_batches": 5}, "unknown dataset_draw 0; use"),
        ({"dataset_draw": float("nan"), "num_batches": 5}, "unknown dataset_draw nan; use"),
        ({"num_batches": 0}, "num_batches must be at least 1, got 0"),
        ({"seed": -1}, "seed must be in"),
    ],
)
def test_bad_input_is_named_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        mixture(**arguments)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_members_need_one_batch_size() -> None:
    samplers = {
        name: StrategyBatchSampler(INDEXES[name], strategy="x-y", batch_size=size, seed=0)
        for name, size in (("a", 4), ("b", 8))
    }
    with pytest.raises(InputError, match="all data sets need the same batch_size, got a 4, b 8"):
        MixtureBatchSampler(samplers, dataset_draw="size", seed=0)
    with pytest.raises(InputError, match="got no data set"):
        MixtureBatchSampler({}, dataset_draw="size", seed=0)
