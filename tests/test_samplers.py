"""Invariants of the batch strategies, on ragged random tables with shared passages, and small cases worked by hand."""

from collections import Counter
from itertools import combinations, islice
from math import sqrt
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xir_lib.corpora.records import PAIR_SCHEMA, PairTable
from xir_lib.errors import InputError
from xir_lib.samplers import PairIndex, Strategy, StrategyBatchSampler

LANGS = ("ar", "de", "en", "zh")
Batches = list[list[tuple[int, int]]]


def make_pairs(rows: list[tuple[str, str, str | None, str | None, str | None]]) -> PairTable:
    names = ("pair_id", "lang", "query", "passage_id", "passage")
    return PairTable(
        pa.Table.from_pylist([dict(zip(names, r, strict=True)) | {"group": r[0]} for r in rows], schema=PAIR_SCHEMA)
    )


def parallel(ids: int, langs: tuple[str, ...] = LANGS) -> PairTable:
    """Every id with its own passage in every language."""
    return make_pairs([(f"i{i}", lang, f"q{i} {lang}", f"p{i}", f"p{i} {lang}") for i in range(ids) for lang in langs])


def sampler(pairs: PairTable, strategy: str, **kwargs: Any) -> StrategyBatchSampler:
    return StrategyBatchSampler(PairIndex.from_table(pairs), strategy=strategy, **({"batch_size": 4, "seed": 7} | kwargs))


def ids_of(pairs: PairTable, batches: Batches) -> list[list[str]]:
    column = pairs.table["pair_id"].to_pylist()
    return [[column[query_row] for query_row, _ in batch] for batch in batches]


@st.composite
def ragged(draw: st.DrawFn) -> PairTable:
    """Ids lack languages, queries or passages; passages are shared by id, or by text under another id."""
    rows = []
    for i in range(draw(st.integers(6, 24))):
        for lang in LANGS[: draw(st.integers(1, 4))]:
            content = draw(st.sampled_from(["both", "both", "both", "query", "passage", "nothing"]))
            number = draw(st.one_of(st.just(100 + i), st.integers(0, 4)))
            text = f"text {number}" if draw(st.booleans()) else f"text {number} {lang}"
            has_passage = content in ("both", "passage")
            if content != "nothing":
                query = f"q{i} {lang}" if content != "passage" else None
                name = draw(st.sampled_from([f"p{number}", f"own{i}"]))
                rows.append((f"i{i}", lang, query, name if has_passage else None, text if has_passage else None))
    return make_pairs(rows or [("i0", "en", "q", None, None)])


@settings(max_examples=80, deadline=None)
@given(
    ragged(),
    st.sampled_from(list(Strategy)),
    st.integers(2, 4),
    st.sampled_from([None, 1, 9]),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_every_batch_keeps_the_rules(pairs: PairTable, strategy: Strategy, size: int, number: int | None, alpha: float) -> None:
    try:
        mine = sampler(pairs, strategy, batch_size=size, num_batches=number, alpha=alpha)
        batches = list(mine)
    except InputError as error:
        assert "\n" not in str(error)
        return
    table = pairs.table.to_pylist()
    names: dict[str, set[object]] = {}  # pair_id -> everything that names one of its passages
    for row in table:
        if row["passage"] is not None:
            names.setdefault(row["pair_id"], set()).update({(row["lang"], row["passage_id"]), row["passage"]})
    assert len(batches) == len(mine) and (number is None or len(batches) == number)
    for batch, kind in zip(batches, mine.plan().kinds, strict=True):
        assert len(batch) == size
        pairs_of_batch = [(table[query_row], table[passage_row]) for query_row, passage_row in batch]
        for query, passage in pairs_of_batch:
            assert query["pair_id"] == passage["pair_id"]
            assert query["query"] is not None and passage["passage"] is not None
            assert (query["lang"] == passage["lang"]) == (kind != Strategy.X_Y)
        if kind == Strategy.X_X_MONO:
            assert len({query["lang"] for query, _ in pairs_of_batch}) == 1
        used = [query["pair_id"] for query, _ in pairs_of_batch]
        assert len(set(used)) == size
        assert all(names[a].isdisjoint(names[b]) for a, b in combinations(used, 2))
    if number is None:  # one pass: no id twice, and the counts add up
        drawn = [i for ids in ids_of(pairs, batches) for i in ids]
        assert len(set(drawn)) == len(drawn)
        report = mine.report()
        assert report["never"] + report["usable"] == report["ids"] == len(pairs.pair_ids)
        assert report["dropped"] == report["usable"] - len(drawn)


def test_an_epoch_visits_each_usable_id_once_and_drops_only_what_fills_no_batch() -> None:
    pairs = parallel(23)  # 23 = 5 * 4 + 3
    for strategy in Strategy:
        mine = sampler(pairs, strategy)
        assert len(mine) == len(list(mine)) == 5
        assert mine.report()["dropped"] == 3


def test_without_conflicts_no_language_is_left_that_could_fill_a_batch() -> None:
    # de has ids 0..9, en ids 5..17: what an x-x-mono epoch leaves must be below a batch in each language
    rows = [
        (f"i{i}", lang, f"q{i}", f"p{i}{lang}", f"p{i} {lang}")
        for lang, r in (("de", range(10)), ("en", range(5, 18)))
        for i in r
    ]
    pairs = make_pairs(rows)
    for seed in range(20):
        left = {f"i{i}" for i in range(18)} - {
            i for ids in ids_of(pairs, list(sampler(pairs, "x-x-mono", seed=seed))) for i in ids
        }
        assert all(sum(row[0] in left for row in rows if row[1] == lang) < 4 for lang in ("de", "en"))


def test_conflicting_ids_wait_for_a_later_batch() -> None:
    # a and b share the English passage P, b and c the German text T (under two ids). In a batch: never a with b, never b
    # with c, though a with c is fine. Six ids, batches of two: d, e, f are free, so every id finds a place or is
    # dropped only if the two left over clash: {a, b} or {b, c}.
    rows = [
        ("a", "en", "qa", "P", "P text"), ("a", "de", "qa", "A", "A text"),
        ("b", "en", "qb", "P", "P text"), ("b", "de", "qb", "B", "T"),
        ("c", "en", "qc", "C", "C text"), ("c", "de", "qc", "D", "T"),
    ]  # fmt: skip
    rows += [(i, lang, f"q{i}", f"{i}{lang}", f"{i} {lang} text") for i in "def" for lang in ("de", "en")]
    pairs = make_pairs(rows)
    index = PairIndex.from_table(pairs)
    assert index.shares.tolist() == [True, True, True, False, False, False]
    order = np.array([1, 0, 3, 2, 5, 4], np.int32)  # b a d c f e: b stays, a and c clash with it
    assert index.without_clashes(order).tolist() == [1, 3, 5, 4]
    order = np.array([0, 2, 1, 3], np.int32)  # a c b d: a and c stay
    assert index.without_clashes(order).tolist() == [0, 2, 3]
    seen = Counter()
    for seed in range(50):
        for strategy in Strategy:
            batches = [frozenset(b) for b in ids_of(pairs, list(sampler(pairs, strategy, batch_size=2, seed=seed)))]
            assert not {frozenset("ab"), frozenset("bc")} & set(batches)
            left = set("abcdef") - set().union(*batches)
            assert left in (set(), set("ab"), set("bc"))
            seen[frozenset("ac") in batches] += 1
    assert seen[True] > 0


def test_passage_codes_join_ids_and_texts() -> None:
    # p1 has two texts (two windows of one passage); the second text also appears under p2: all three are one passage.
    # The same passage_id in another language is another passage.
    pairs = make_pairs(
        [("a", "en", "q", "p1", "one"), ("b", "en", "q", "p1", "two"), ("c", "en", "q", "p2", "two"),
         ("d", "en", "q", "p3", "three"), ("d", "de", "q", "p1", "eins"), ("e", "de", "q", None, None)]
    )  # fmt: skip
    index = PairIndex.from_table(pairs)
    assert index.languages == ("de", "en")
    en = index.passage[:, 1]
    assert en[0] == en[1] == en[2] != en[3] and index.passage[3, 0] not in en and index.passage[4].tolist() == [-1, -1]
    assert index.shares.tolist() == [True, True, True, False, False]
    assert index.row.tolist() == [[-1, 0], [-1, 1], [-1, 2], [4, 3], [5, -1]]


@pytest.mark.parametrize("strategy", list(Strategy))
def test_same_seed_same_batches_other_seed_or_epoch_others(strategy: Strategy) -> None:
    pairs = parallel(60)
    first = list(sampler(pairs, strategy))
    again = sampler(pairs, strategy)
    assert list(again) == first == list(again)
    again.set_epoch(1)
    again.set_epoch(1)
    second = list(again)
    again.set_epoch(0)
    assert list(again) == first
    other_seed = list(sampler(pairs, strategy, seed=8))
    for other in (second, other_seed):
        assert ids_of(pairs, other) != ids_of(pairs, first)


def test_batches_are_the_same_on_every_machine_and_numpy() -> None:
    # Pinned on numpy 2.4: raw Philox bits are stable (NEP 19), so a change here is a change of ours.
    assert list(islice(sampler(parallel(8), "hybrid", batch_size=3, seed=1), 2)) == [
        [(5, 4), (22, 23), (17, 19)],
        [(24, 24), (8, 8), (0, 0)],
    ]


@pytest.mark.parametrize("number", [None, 40])
@pytest.mark.parametrize(("alpha", "pure"), [(1.0, "x-x-mono"), (0.0, "x-y")])
def test_hybrid_reduces_to_the_pure_strategies_batch_for_batch(alpha: float, pure: str, number: int | None) -> None:
    pairs = parallel(50)
    for epoch in range(2):
        mixed, single = (sampler(pairs, name, alpha=alpha, num_batches=number) for name in ("hybrid", pure))
        mixed.set_epoch(epoch)
        single.set_epoch(epoch)
        assert list(mixed) == list(single)


def test_a_seed_fixes_the_order_of_ids_for_all_strategies() -> None:
    pairs = parallel(50)
    for number in (None, 30):
        orders = [ids_of(pairs, list(sampler(pairs, strategy, num_batches=number))) for strategy in Strategy]
        assert all(order == orders[0] for order in orders)


def test_an_id_has_the_same_language_pair_at_every_alpha() -> None:
    pairs = parallel(200)
    pure = {batch_pair for batch in sampler(pairs, "x-y") for batch_pair in batch}
    mine = sampler(pairs, "hybrid", alpha=0.5)
    crossed = [p for batch, kind in zip(mine, mine.plan().kinds, strict=True) if kind == Strategy.X_Y for p in batch]
    assert crossed and set(crossed) <= pure


def test_equally_long_languages_do_not_share_an_order() -> None:
    # 40 German ids and 40 English ones, in parallel row order; with a shared permutation the k-th German and the k-th
    # English batch would hold the same positions. Two independent orders agree in about 1 of 40 places.
    pairs = make_pairs([(f"{lang}{i}", lang, "q", f"p{lang}{i}", f"{lang} {i}") for lang in ("de", "en") for i in range(40)])
    orders = {
        lang: [i[2:] for ids in ids_of(pairs, list(sampler(pairs, "x-x-mono"))) for i in ids if i[:2] == lang]
        for lang in ("de", "en")
    }
    assert len(orders["de"]) == len(orders["en"]) == 40
    assert sum(a == b for a, b in zip(orders["de"], orders["en"], strict=True)) < 8


def within(count: int, trials: int, p: float, sigmas: float = 4.0) -> bool:
    """Say whether a binomial count is within `sigmas` standard deviations of its mean (4: 6e-5 two-sided)."""
    return abs(count - trials * p) <= sigmas * sqrt(trials * p * (1 - p))


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.9])
def test_the_realised_mix_and_languages_are_as_asked(alpha: float) -> None:
    batches = 3000
    frame = sampler(parallel(60), "hybrid", alpha=alpha, num_batches=batches).describe()
    assert frame["pairs"].sum() == batches * 4
    kinds = frame.groupby("batch")["kind"].first()
    mono = int((kinds == "x-x-mono").sum())
    assert within(mono, batches, alpha)
    langs = frame[frame["kind"] == "x-x-mono"].groupby("query_lang")["batch"].nunique()
    assert all(within(int(langs[lang]), mono, 1 / 4) for lang in LANGS)
    crossed = frame[frame["kind"] == "x-y"].groupby(["query_lang", "doc_lang"])["pairs"].sum()
    assert len(crossed) == 12  # ordered pairs of 4 languages, no language with itself
    assert all(within(int(n), (batches - mono) * 4, 1 / 12) for n in crossed)


def test_ragged_ids_draw_uniformly_among_the_pairs_they_have() -> None:
    # queries in ar, de; passages in de, en: ar-de, ar-en, de-en (not de-de): a third each; x-x has de only
    rows = [(f"i{i}", lang, "q" if q else None, f"p{i}" if p else None, f"{lang} {i}" if p else None)
            for i in range(40) for lang, q, p in (("ar", 1, 0), ("de", 1, 1), ("en", 0, 1))]  # fmt: skip
    frame = sampler(make_pairs(rows), "x-y", num_batches=1500).describe()
    counts = frame.groupby(["query_lang", "doc_lang"])["pairs"].sum().to_dict()
    assert set(counts) == {("ar", "de"), ("ar", "en"), ("de", "en")}
    assert all(within(n, 6000, 1 / 3) for n in counts.values())
    assert set(sampler(make_pairs(rows), "x-x").describe()["query_lang"]) == {"de"}


def test_a_step_driven_epoch_keeps_alpha_where_the_ids_of_one_kind_run_out() -> None:
    # 12 ids have both kinds, 200 only cross-lingual pairs: a single pass must end with x-y batches, steps need not
    rows = [(f"i{i}", lang, f"q{i}", f"p{i}", f"{lang} {i}") for i in range(12) for lang in ("de", "en")]
    rows += [(f"x{i}", "ar", f"q{i}", None, None) for i in range(200)]
    rows += [(f"x{i}", "en", None, f"px{i}", f"x {i}") for i in range(200)]
    pairs = make_pairs(rows)
    kinds = sampler(pairs, "hybrid", num_batches=2000).plan().kinds
    assert within(kinds.count(Strategy.X_X_MONO), 2000, 0.5)
    mine = sampler(pairs, "hybrid")
    assert mine.report()["dropped"] == 0  # 212 = 53 * 4, and cross-lingual batches take what is left
    assert sampler(pairs, "x-x-mono").report()["never"] == 200


def test_steps_go_on_where_the_pass_ended() -> None:
    # 10 ids, batches of 4: two a pass. The batches of a longer run begin with those of a shorter one.
    pairs = parallel(10)
    long = sampler(pairs, "hybrid", num_batches=9)
    assert list(long)[:4] == list(sampler(pairs, "hybrid", num_batches=4))
    assert long.report()["passes"] == 5
    ids = ids_of(pairs, list(long))
    assert all(not set(ids[k]) & set(ids[k + 1]) for k in range(0, 8, 2))
    assert ids[0] != ids[2] != ids[4]


MONO_3 = [(f"i{i}", "en", "q", f"p{i}", f"t {i}") for i in range(3)]
CROSS = [(f"i{i}", "de", "q", None, None) for i in range(9)] + [(f"i{i}", "en", None, f"p{i}", f"t {i}") for i in range(9)]
ONE_PASSAGE = [(f"i{i}", lang, "q", "p", lang) for i in range(9) for lang in ("de", "en")]


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        (None, {"strategy": "hybrid", "alpha": 1.4}, "alpha must be in [0, 1], got 1.4"),
        (None, {"strategy": "hybrid", "alpha": float("nan")}, "alpha must be in [0, 1], got nan"),
        (None, {"strategy": "x-z"}, "unknown strategy 'x-z'; known are x-x-mono, x-y, x-x, hybrid"),
        (None, {"strategy": "x-y", "batch_size": 1}, "batch_size must be at least 2, got 1"),
        (None, {"strategy": "x-y", "num_batches": 0}, "num_batches must be at least 1, got 0"),
        (None, {"strategy": "x-y", "seed": -1}, "seed must be in"),
        (MONO_3, {"strategy": "x-x-mono"}, "batch_size 4 exceeds the 3 ids in en that x-x-mono can draw"),
        (MONO_3, {"strategy": "x-y"}, "x-y needs at least two languages, got en"),
        (MONO_3, {"strategy": "hybrid", "batch_size": 2}, "hybrid needs at least two languages, got en"),
        (CROSS, {"strategy": "x-x-mono"}, "no usable id for x-x-mono: none has a query and a passage in one language"),
        (CROSS, {"strategy": "x-x"}, "no usable id for x-x: none has a query and a passage in one language"),
        (CROSS, {"strategy": "x-y", "batch_size": 10}, "batch_size 10 exceeds the 9 ids that x-y can draw"),
        (ONE_PASSAGE, {"strategy": "x-y"}, "no x-y batch of 4 can be filled: too many ids share passages"),
        ([], {"strategy": "x-x"}, "no usable id for x-x"),
    ],
)
def test_bad_input_is_named_in_one_line(rows: list[Any] | None, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        list(sampler(parallel(8) if rows is None else make_pairs(rows), **arguments))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_state_is_at_most_24_bytes_per_id_and_language() -> None:
    index = PairIndex.from_table(parallel(100))
    assert index.row.nbytes + index.passage.nbytes + index.has_query.nbytes == 9 * 400
