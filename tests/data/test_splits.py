"""Groups, splits and draws keep together what hangs together."""

import pyarrow as pa
import pytest

from xir_lib.data.records import PAIR_SCHEMA, PairTable
from xir_lib.data.splits import (
    components,
    draw_ids,
    one_language_per_id,
    split_by_group,
)
from xir_lib.errors import InputError


def test_components_do_not_depend_on_order() -> None:
    ids, things = ["d", "c", "b", "b", "a", "e"], ["v", "x", "x", "y", "z", "v"]
    expected = {"a": "a", "b": "b", "c": "b", "d": "d", "e": "d"}
    assert components(ids, things) == expected
    assert components(ids[::-1], things[::-1]) == expected
    assert components(["x"], ["x"]) == {"x": "x"}  # an id and a thing of one name stay two nodes


def table(groups: int, ids_per_group: int = 2) -> PairTable:
    rows = [
        {
            "pair_id": f"{g}/{i}",
            "lang": lang,
            "query": "q",
            "passage_id": f"{g}-{lang}",
            "passage": "p",
            "group": f"g{g}",
        }
        for g in range(groups)
        for i in range(ids_per_group)
        for lang in ("yo", "th")
    ]
    return PairTable(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA))


def test_split_is_a_partition_by_group_near_the_share() -> None:
    pairs = table(2000)
    train, held_out = split_by_group(pairs, 0.2, seed=7)
    kept, out = set(train.table["group"].to_pylist()), set(held_out.table["group"].to_pylist())
    assert not kept & out and len(kept | out) == 2000
    assert len(train) + len(held_out) == len(pairs)
    # binomial(2000, .2): mean 400, standard deviation 17.9; five of them is a chance of 6e-7
    assert abs(len(out) - 400) < 90


def test_split_is_a_function_of_seed_and_group_alone() -> None:
    def out(pairs: PairTable, seed: int) -> set[str]:
        return set(split_by_group(pairs, 0.3, seed)[1].table["group"].to_pylist())

    pairs = table(200)
    part = PairTable(pairs.table.slice(100 * 4))  # groups 100 to 199, four rows each
    backwards = PairTable(pairs.table.take(list(range(len(pairs)))[::-1]))
    assert out(pairs, 1) == out(backwards, 1)
    assert out(part, 1) == {name for name in out(pairs, 1) if int(name[1:]) >= 100}
    assert out(pairs, 1) != out(pairs, 2)


def test_split_value_is_fixed_for_good() -> None:
    # printf '0\ng0' | sha256sum and so on give first digits e 1 b 9 c 8 5 c e 2: below one half are
    # 1, 5 and 2
    _, held_out = split_by_group(table(10), 0.5, seed=0)
    assert sorted(set(held_out.table["group"].to_pylist())) == ["g1", "g6", "g9"]


@pytest.mark.parametrize("share", [0, 1, 1.4, -0.1, float("nan")])
def test_split_refuses_a_share_outside_0_and_1(share: float) -> None:
    with pytest.raises(InputError, match=rf"held_out_share must be in \(0, 1\), got {share}"):
        split_by_group(table(10), share, 0)


def test_split_refuses_an_empty_side() -> None:
    with pytest.raises(InputError, match="holds out 0 of 1 groups"):
        split_by_group(table(1), 1e-9, 0)


def test_fewer_ids_are_a_part_of_more_and_keep_their_languages() -> None:
    rows = [
        dict(zip(PAIR_SCHEMA.names, (f"q{n}", lang, "q?", f"p{n}", "p", "g"), strict=True))
        for n in range(30)
        for lang in "ab"
    ]
    pairs = PairTable(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA))
    few, more, other = (
        set(draw_ids(pairs, count, seed).pair_ids) for count, seed in ((5, 0), (12, 0), (12, 1))
    )
    assert few < more < set(pairs.pair_ids)
    assert more != other
    assert (len(few), len(more), len(draw_ids(pairs, 5, 0))) == (5, 12, 10)
    assert draw_ids(pairs, 30, 0).table.equals(pairs.table)
    with pytest.raises(InputError, match=r"^ids must be at most 30, [^\n]+, got 31$"):
        draw_ids(pairs, 31, 0)


def test_one_language_per_id_leaves_nothing_parallel(caplog: pytest.LogCaptureFixture) -> None:
    languages = ["aa", "bb", "cc"]
    texts = [  # three ids of one passage, in three languages
        (f"q{n}", lang, f"{n} {lang}?", f"p{n // 3}", f"{n // 3} {lang}")
        for n in range(60)
        for lang in languages
    ]
    # two ids share a passage and have no language in common; one has its question and its passage
    # in different ones
    texts += [
        ("left", "aa", "l", "shared", "s"),
        ("right", "bb", "r", "shared", "s"),
        ("parted", "aa", "p", None, None),
        ("parted", "bb", None, "apart", "a"),
    ]
    rows = [dict(zip(PAIR_SCHEMA.names, (*row, "g"), strict=True)) for row in texts]
    pairs = PairTable(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA))
    kept = one_language_per_id(pairs, seed=0)
    assert set(kept.pair_ids) == {f"q{n}" for n in range(60)}
    frame = kept.table.to_pandas()
    assert frame.groupby("pair_id")["lang"].nunique().eq(1).all()
    assert frame.groupby("passage_id")["lang"].nunique().eq(1).all()
    counts = frame["lang"].value_counts()
    assert counts.max() - counts.min() <= 3  # ids of one passage
    assert "3 of 63 ids are left out" in caplog.text
    unnamed = pairs.table.set_column(
        3, PAIR_SCHEMA.field("passage_id"), pa.nulls(len(pairs.table), pa.string())
    )
    again = one_language_per_id(
        PairTable(unnamed), seed=0
    )  # passages are optional to name; here text and name agree
    assert set(again.pair_ids) == set(kept.pair_ids)
    assert again.table.to_pandas().groupby("pair_id")["lang"].nunique().eq(1).all()
    assert len(one_language_per_id(PairTable(pairs.table.slice(0, 0)), seed=0)) == 0
    assert one_language_per_id(pairs, seed=0).table.equals(kept.table)
    assert not one_language_per_id(pairs, seed=1).table.equals(kept.table)
