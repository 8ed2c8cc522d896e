"""Mixed pools by simulated rankers whose right answers are known, and the tables by hand."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats

from xir_lib.data.records import PASSAGE_SCHEMA, QREL_SCHEMA, QUERY_SCHEMA, RetrievalTask
from xir_lib.errors import InputError
from xir_lib.evaluation.compare import save_table
from xir_lib.metrics.significance import compare
from xir_lib.paths import REPO
from xir_lib.study import mixed_pools
from xir_lib.study.mixed_pools import (
    Pools,
    cost_table,
    intruder_table,
    measure,
    plan,
    read,
    verdict_table,
)
from xir_lib.study.plots import mixed_figure
from xir_lib.study.report import fill_readme, mixed_block

COMMITTED = REPO / "figures" / "mixed-yo"
N, QUERIES, SIZE = 60, 4, 50  # judged are 0 to 3, one per query: 46 places are left


def passages(lang: str, n: int, word: str = "stone") -> pa.Table:
    rows = [{"doc_id": f"{k}-{lang}", "lang": lang, "text": f"{word} {lang}{k}"} for k in range(n)]
    return pa.Table.from_pylist(rows, schema=PASSAGE_SCHEMA)


def own_task(name: str = "toy-yo", key: str = "q") -> RetrievalTask:
    queries = [
        {
            "query_id": f"{key}{q}",
            "pair_id": str(q),
            "lang": "yo",
            "text": f"yo{q}",
            "group": str(q),
        }
        for q in range(QUERIES)
    ]
    qrels = [{"query_id": f"{key}{q}", "doc_id": f"{q}-yo", "relevance": 1} for q in range(QUERIES)]
    return RetrievalTask(
        name,
        pa.Table.from_pylist(queries, schema=QUERY_SCHEMA),
        passages("yo", N),
        pa.Table.from_pylist(qrels, schema=QREL_SCHEMA),
    )


FOREIGN = pa.concat_tables([passages("de", 40), passages("zh", 40)])


class Simulated:
    """An encoder whose scores are set by hand: every query meets the same score of each passage."""

    def __init__(self, scores: dict[str, float]) -> None:
        self.scores, self.name, self.prompts = scores, "simulated", ("", "")
        self.precision, self.rates, self.fingerprint = "float32", {}, "0"
        self.model = SimpleNamespace(max_seq_length=8, get_embedding_dimension=lambda: 2)

    def encode_table(self, table: pa.Table, role: str, name: str) -> np.ndarray:
        if role == "query":
            return np.tile(np.array([[1.0, 0.0]], np.float32), (table.num_rows, 1))
        values = np.array([self.scores[name] for name in table["doc_id"].to_pylist()])
        return np.stack([values, np.sqrt(1 - values**2)], axis=1).astype(np.float32)


def scores(relevant: float, own: float, foreign: float) -> dict[str, float]:
    """Own and foreign passages score about the same within their kind; the order inside is that of
    their numbers.
    """
    names = own_task().passages["doc_id"].to_pylist()
    found = {name: own - 1e-4 * k for k, name in enumerate(names)}
    found |= {f"{q}-yo": relevant - 1e-4 * q for q in range(QUERIES)}
    return found | {
        name: foreign - 1e-4 * k for k, name in enumerate(FOREIGN["doc_id"].to_pylist())
    }


def run(
    tmp_path: Path, values: dict[str, float], name: str = "none", **options: Any
) -> pd.DataFrame:
    given: dict[str, Any] = {"shares": (0, 0.5), "size": SIZE, "draws": 2, **options}
    measure(Simulated(values), plan(own_task(), FOREIGN, **given), tmp_path / name)
    return cost_table(read(tmp_path / name), n_resamples=100).set_index("share")


# The four relevant ones lead: query q's is at place q + 1, nDCG@10 = 1 / log2(q + 2)
LEADING = float(np.mean([1 / np.log2(q + 2) for q in range(QUERIES)]))


def test_foreign_passages_behind_the_relevant_ones_cost_nothing(tmp_path: Path) -> None:
    table = run(tmp_path, scores(relevant=0.9, own=0.5, foreign=0.1))
    assert table["mixed"].tolist() == pytest.approx([LEADING, LEADING])
    assert (table[["foreign cost", "low", "high", "own cost", "spread"]] == 0).all(axis=None)
    assert table["intruders"].tolist() == [0, 0] and table["pool share"].tolist() == pytest.approx(
        [0, 23 / 50]
    )


def test_foreign_passages_before_everything_cost_all(tmp_path: Path) -> None:
    table = run(tmp_path, scores(relevant=0.5, own=0.4, foreign=0.9))
    assert table["mixed"].tolist() == pytest.approx([LEADING, 0])  # 23 foreign ones come first
    assert table.loc[0.5, ["alone", "foreign cost"]].tolist() == pytest.approx([LEADING, -LEADING])
    assert table["intruders"].tolist() == [0, 1]
    told = json.loads((tmp_path / "none" / "mixed.json").read_text(encoding="utf-8"))
    assert told["passages"] == {"yo": 60, "de": 40, "zh": 40} and told["judged"] == 4
    whose = intruder_table(read(tmp_path / "none")).set_index(
        "language"
    )  # German comes first by name, so it takes the ten
    assert whose["none"].to_dict() == {"de": 1, "zh": 0} and whose[
        "pool share"
    ].sum() == pytest.approx(23 / 50)
    examples = pd.read_csv(tmp_path / "none" / "examples.csv")
    assert len(examples) == 40 and set(examples["doc_lang"]) == {"de"}  # the first 12 or so of 23
    assert examples.groupby("query_id")["rank"].apply(sorted).tolist() == [list(range(1, 11))] * 4
    assert (tmp_path / "none" / "examples.md").read_text(encoding="utf-8").count("stone") == 40


def test_own_passages_that_lead_are_the_control(tmp_path: Path) -> None:
    """Own distractors lead, foreign ones are last: replacing some lowers what is ahead, mixed as in
    the own part alone.
    """
    table = run(tmp_path, scores(relevant=0.5, own=0.9, foreign=0.1), shares=(0, 1))
    assert table["mixed"].tolist() == pytest.approx([0, LEADING])  # 46 ahead, then none
    assert table.loc[1, ["alone", "foreign cost", "own cost"]].tolist() == pytest.approx(
        [LEADING, 0, -LEADING]
    )


def test_rivals_see_the_same_pools(tmp_path: Path) -> None:
    values, task = scores(relevant=0.5, own=0.4, foreign=0.9), own_task()
    backwards = RetrievalTask(
        task.name, task.queries, task.passages.take(list(range(N))[::-1]), task.qrels
    )
    options: dict[str, Any] = {
        "rivals": ["none", "round-robin", "bm25"],
        "shares": [0.5],
        "size": SIZE,
        "draws": 1,
    }
    measure(Simulated(values), plan(backwards, FOREIGN, **options), tmp_path / "m")
    table = cost_table(read(tmp_path / "m"), n_resamples=100).set_index("rival")
    assert table["own cost"].isna().all() and table.loc["none", "mixed"] == 0
    # Round robin takes the first of each of three languages in turn: query q's passage, at place q
    # of its own, is among places 3q + 1 to 3q + 3. Which of the three is first is the higher score:
    # the foreign ones', so 3q + 3.
    expected = np.mean([1 / np.log2(3 * q + 4) if q < 3 else 0 for q in range(QUERIES)])
    assert table.loc["round-robin", "mixed"] == pytest.approx(expected)
    assert table.loc["bm25", ["alone", "mixed"]].tolist() == [
        1,
        1,
    ]  # a word of its own finds each passage


def test_means_by_hand_and_spread_over_draws() -> None:
    of = {  # share, pool, topic: nDCG@10 in two draws
        (0.0, "mixed", "a"): (0.4, 0.4),
        (0.0, "mixed", "b"): (0.2, 0.2),
        (0.0, "alone", "a"): (0.4, 0.4),
        (0.0, "alone", "b"): (0.2, 0.2),
        (0.5, "mixed", "a"): (0.3, 0.5),
        (0.5, "mixed", "b"): (0.1, 0.1),
        (0.5, "alone", "a"): (0.5, 0.5),
        (0.5, "alone", "b"): (0.2, 0.4),
    }
    model = {"model": "m", "rival": "none"}
    rows = [
        {
            **model,
            "share": share,
            "draw": draw,
            "pool": pool,
            "topic": topic,
            "measure": "nDCG@10",
            "value": value,
        }
        for (share, pool, topic), both in of.items()
        for draw, value in enumerate(both)
    ]
    languages = [
        {
            **model,
            "share": share,
            "draw": draw,
            "doc_lang": lang,
            "own": lang == "yo",
            "share_of_top": first,
            "pool_share": 0.5,
        }
        for share in (0.0, 0.5)
        for draw, lang, first in [(0, "yo", 0.9), (0, "de", 0.1), (1, "yo", 0.7), (1, "de", 0.3)]
    ]
    pools = Pools(pd.DataFrame(rows), pd.DataFrame(languages))
    row = cost_table(pools, n_resamples=500).set_index("share").loc[0.5]
    # means over draws: a .4 of .5, b .1 of .3; so a loses .1 and b .2
    assert row[["mixed", "alone", "foreign cost", "own cost"]].tolist() == pytest.approx(
        [0.25, 0.4, -0.15, 0.3 - 0.4]
    )
    # two topics give three resamples, a alone and b alone with probability 1/4 each: the ends of
    # the interval
    assert row[["low", "high"]].tolist() == pytest.approx([-0.2, -0.1])
    # by draw: (-.2 - .1) / 2 and (0 - .3) / 2, equal
    assert row["spread"] == pytest.approx(0)
    assert row[["intruders", "pool share"]].tolist() == pytest.approx([0.2, 0.5])
    other = pools.topics.copy()
    other.loc[
        (other["share"] == 0.5)
        & (other["pool"] == "mixed")
        & (other["topic"] == "b")
        & (other["draw"] == 1),
        "value",
    ] = 0.3
    row = cost_table(pools._replace(topics=other), n_resamples=500).set_index("share").loc[0.5]
    assert row["spread"] == pytest.approx(
        np.std([-0.15, -0.05], ddof=1)
    )  # by draw: (-.2 - .1) / 2 and (0 - .1) / 2
    with pytest.raises(InputError, match=r"no languages counted at share 0\.5"):
        cost_table(pools._replace(intruders=pools.intruders.query("share == 0")), n_resamples=100)


def trained(gain: dict[str, float], foreign: dict[str, float]) -> Pools:
    """A model per name, whose pools of two draws lose `foreign` of their nDCG@10 and have four
    topics.
    """
    frames, languages = [], []
    for name, more in gain.items():
        for draw in (0, 1):
            key = {"model": name, "rival": "none", "share": 0.5, "draw": draw}
            for pool, lost in (("alone", 0.0), ("mixed", foreign[name])):
                values = [{"topic": f"t{k}", "value": 0.1 * k + more - lost} for k in range(4)]
                frames.append(pd.DataFrame(values).assign(pool=pool, measure="nDCG@10", **key))
            shares = {
                "doc_lang": ["yo", "de"],
                "own": [True, False],
                "share_of_top": [1 - more, more],
                "pool_share": 0.5,
            }
            languages.append(pd.DataFrame(shares).assign(**key))
    return Pools(pd.concat(frames, ignore_index=True), pd.concat(languages, ignore_index=True))


def test_trainings_of_one_model_are_a_row_over_topics_and_seeds() -> None:
    pools = trained(
        {"none": 0.1, "m-s0": 0.2, "m-s1": 0.3, "m-s2": 0.4},
        {"none": 0.0, "m-s0": 0.01, "m-s1": 0.02, "m-s2": 0.03},
    )
    table = cost_table(pools).set_index("model")
    assert table["seeds"].to_dict() == {"none": 0, "m": 3}
    row = table.loc["m"]
    assert row[
        ["mixed", "alone", "foreign cost", "intruders", "pool share"]
    ].tolist() == pytest.approx([0.43, 0.45, -0.02, 0.3, 0.5])
    # every topic loses the same, so that the interval is Student's of the three seeds
    half = stats.t.ppf(0.975, 2) * np.std([0.01, 0.02, 0.03], ddof=1) / np.sqrt(3)
    assert row[["low", "high"]].tolist() == pytest.approx([-0.02 - half, -0.02 + half], rel=0.05)
    assert row["spread"] == pytest.approx(0)
    whose = intruder_table(pools)
    assert whose["language"].tolist() == ["de"]
    assert whose[["pool share", "none", "m"]].to_numpy()[0].tolist() == pytest.approx(
        [0.5, 0.1, 0.3]
    )
    # by hand through significance, with topics that differ too
    topics = pools.topics.copy()
    shaken = (topics["pool"] == "mixed") & (topics["model"] != "none")
    topics.loc[shaken, "value"] += np.random.default_rng(0).normal(0, 0.02, int(shaken.sum()))
    row = cost_table(pools._replace(topics=topics)).set_index("model").loc["m"]
    keys = {
        "setting": "monolingual",
        "query_lang": "yo",
        "pool": "yo",
        "measure": "nDCG@10",
        "n": 1,
    }
    means = (
        topics[topics["model"] != "none"]
        .groupby(["pool", "model", "topic"])["value"]
        .mean()
        .rename("total")
        .reset_index()
    )
    means = means.rename(columns={"model": "seed", "topic": "group", "pool": "side"}).assign(**keys)
    sides = [means[means["side"] == side].drop(columns="side") for side in ("mixed", "alone")]
    found = compare(*sides, setting="monolingual", measure="nDCG@10")
    assert row[["foreign cost", "low", "high"]].tolist() == pytest.approx(
        [found.difference, found.low, found.high]
    )


def test_one_seed_is_what_it_was_without_a_number() -> None:
    tables = [cost_table(trained({name: 0.2}, {name: 0.01})) for name in ("m-s4", "m")]
    assert [table["seeds"].tolist() for table in tables] == [[1], [0]]
    pd.testing.assert_frame_equal(*(table.drop(columns="seeds") for table in tables))


def test_a_model_without_languages_of_one_training_is_refused() -> None:
    pools = trained({"m-s0": 0.2, "m-s1": 0.3}, {"m-s0": 0.01, "m-s1": 0.02})
    with pytest.raises(InputError, match=r"m, none: no languages counted at share 0\.5"):
        cost_table(
            pools._replace(intruders=pools.intruders[pools.intruders["model"] == "m-s0"]),
            n_resamples=100,
        )


def test_models_of_fewer_rivals_have_the_pool_s_line_and_none_comes_first(tmp_path: Path) -> None:
    values = Simulated(scores(relevant=0.5, own=0.4, foreign=0.9))
    for name, rivals in (("none", ["none", "bm25"]), ("a-x-y-s0", ["none"])):
        options: dict[str, Any] = {"shares": [0.0, 0.5], "size": SIZE, "draws": 1}
        measure(values, plan(own_task(), FOREIGN, rivals=rivals, **options), tmp_path / name)
    table = cost_table(read(tmp_path), n_resamples=100)
    assert table["model"].unique().tolist() == ["none", "a-x-y"]
    figure = mixed_figure(table)
    for right in figure.axes[1::2]:
        line = next(line for line in right.lines if line.get_label() == "foreign part of the pool")
        assert np.ravel(line.get_ydata()).tolist() == pytest.approx([0, 23 / 50])
    plt.close(figure)


def test_what_cannot_be_mixed_is_refused_before_anything_is_encoded(tmp_path: Path) -> None:
    task = own_task()
    with pytest.raises(InputError, match="unknown repair 'centring-x'"):
        plan(task, FOREIGN, rivals=["none", "centring-x"], size=SIZE)
    with pytest.raises(InputError, match=r"no text for the means of yo \(queries\)"):
        plan(task, FOREIGN, rivals=["centring"], size=SIZE)
    with pytest.raises(InputError, match="a share and a draw at least"):
        plan(task, FOREIGN, draws=0)
    both = RetrievalTask(
        "two", task.queries, pa.concat_tables([task.passages, FOREIGN]), task.qrels
    )
    with pytest.raises(
        InputError,
        match="two has queries in yo and passages in de, yo, zh; mixed pools need a task of one",
    ):
        plan(both, FOREIGN)
    german = task.queries.set_column(2, QUERY_SCHEMA.field("lang"), pa.array(["de"] * QUERIES))
    with pytest.raises(InputError, match="has queries in de and passages in yo"):
        plan(RetrievalTask("asked", german, task.passages, task.qrels), FOREIGN)
    other = own_task("other", "another")
    for name in ("lir-2", "centring+z-score"):
        with pytest.raises(InputError, match="was removed and can only be read"):
            plan(task, FOREIGN, rivals=[name], fit_on=[other], size=SIZE)
    with pytest.raises(InputError, match="has one query"):
        plan(
            RetrievalTask("one", task.queries.slice(0, 1), task.passages, task.qrels.slice(0, 1)),
            FOREIGN,
        )


def test_pools_that_differ_do_not_stand_in_one_table(tmp_path: Path) -> None:
    values = Simulated(scores(0.5, 0.4, 0.9))
    with pytest.raises(InputError, match=r"holds no mixed\.json; `xir mix"):
        read(tmp_path)
    for name, size in (("one", SIZE), ("two", SIZE - 1)):
        measure(
            values,
            plan(own_task(), FOREIGN, shares=[0.5], size=size, draws=1),
            tmp_path / "all" / name,
        )
    with pytest.raises(
        InputError, match="two and one differ in size; give pools that are the same"
    ):
        read(tmp_path / "all")
    with pytest.raises(InputError, match=r"holds pools of its own in .*one; name another folder"):
        measure(
            values, plan(own_task(), FOREIGN, shares=[0.5], size=SIZE, draws=1), tmp_path / "all"
        )
    fewer = plan(own_task(), FOREIGN.slice(0, 79), shares=[0.5], size=SIZE, draws=1)
    measure(values, fewer, tmp_path / "all" / "two")
    with pytest.raises(InputError, match="two and one differ in passages_sha256"):
        read(tmp_path / "all")


def test_a_share_of_many_digits_finds_its_languages(tmp_path: Path) -> None:
    table = run(tmp_path, scores(relevant=0.5, own=0.4, foreign=0.9), shares=[1 / 3])
    assert table["pool share"].tolist() == pytest.approx(
        [15 / 50], abs=1e-6
    )  # a third of 46 places
    assert table["intruders"].tolist() == [1]


def test_examples_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixed_pools, "EXAMPLES", 7)
    run(tmp_path, scores(relevant=0.5, own=0.4, foreign=0.9))
    assert len(pd.read_csv(tmp_path / "none" / "examples.csv")) == 7


def test_verdicts_by_hand_are_counted_per_model(tmp_path: Path) -> None:
    listed = {
        "none": [("q1", "d1"), ("q1", "d2"), ("q2", "d1")],
        "a-s0": [("q1", "d1"), ("q3", "d9")],
    }
    for model, pairs in listed.items():
        (tmp_path / model).mkdir()
        lines = "".join(f"{query},1,{passage},de\n" for query, passage in pairs)
        (tmp_path / model / "examples.csv").write_text(f"query_id,rank,doc_id,doc_lang\n{lines}")
    verdicts = tmp_path / "verdicts.csv"
    verdicts.write_text("query_id,doc_id,verdict\nq1,d1,answers\nq2,d1,names\nq1,d2,neither\n")
    table = verdict_table(tmp_path).set_index("model")
    assert list(table.columns) == ["foreign passages", "read", "answers", "names", "neither"]
    assert table.loc["none"].tolist() == [3, 3, 1, 1, 1]
    assert table.loc["a-s0"].tolist() == [2, 1, 1, 0, 0]  # q3 and d9: nobody read them
    assert list(table.index) == ["none", "a-s0"]
    verdicts.write_text("query_id,doc_id,verdict\nq1,d1,maybe\n")
    with pytest.raises(InputError, match="says 'maybe'; use answers, names, neither"):
        verdict_table(tmp_path)
    verdicts.write_text("query_id,doc_id,verdict\nq1,d1,names\nq1,d1,answers\n")
    with pytest.raises(InputError, match="a query and passage twice"):
        verdict_table(tmp_path)


def test_the_committed_pools_are_whole_and_the_page_tells_them(tmp_path: Path) -> None:
    pools = read(COMMITTED)
    told = json.loads((COMMITTED / "none" / "mixed.json").read_text(encoding="utf-8"))
    assert (told["task"], told["size"], told["draws"]) == ("miracl-yo", 20_000, 5)
    assert told["shares"] == [0, 0.25, 0.5, 0.75, 0.9] and "yo" in told["passages"]
    files = [json.loads(path.read_text(encoding="utf-8")) for path in COMMITTED.rglob("mixed.json")]
    assert (
        len(pools.topics)
        == sum(len(one["config"]["rivals"]) for one in files) * 5 * 5 * 2 * 2 * 119
    )
    by_pool = pools.intruders.groupby(["model", "rival", "share", "draw"])
    assert by_pool["share_of_top"].sum().tolist() == pytest.approx(
        [1.0] * by_pool.ngroups, abs=1e-4
    )
    foreign = (
        pools.intruders[~pools.intruders["own"]]
        .groupby(["model", "rival", "share", "draw"])["pool_share"]
        .sum()
    )
    for (_, _, share, _), part in foreign.items():
        assert part == pytest.approx(round(share * (20_000 - told["judged"])) / 20_000, abs=1e-4)
    # more passages can only push an answer down where the scores stay the same
    table = cost_table(pools)
    save_table(table, tmp_path, "mixed_pools")
    assert (tmp_path / "mixed_pools.csv").read_text() == (COMMITTED / "mixed_pools.csv").read_text()
    assert (table["alone"] >= table["mixed"] - 1e-9)[table["rival"] == "none"].all()
    names = verdict_table(COMMITTED).set_index("model")[
        "names"
    ]  # as the page's first paragraph says
    assert (names["none"], {*names.drop("none")}) == (9, {16, 17})
    assert (
        pd.read_csv(COMMITTED / "none" / "examples.csv", dtype=str)["doc_id"]
        == "6a5f68cc12bd3816-zh"
    ).sum() == 13
    text = (COMMITTED / "README.md").read_text(encoding="utf-8")
    assert (
        fill_readme(text, "mixed-yo", {"tables": mixed_block(COMMITTED)})
        == text
        != fill_readme(text, "mixed-yo", {"tables": ""})
    )
    assert list(COMMITTED.rglob("*.md")) == [COMMITTED / "README.md"]  # others' texts stay out
