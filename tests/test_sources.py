"""The profiles of the study train on what they name, and on nothing that they judge."""

from pathlib import Path

import pandas as pd
import pytest
from toy import toy_pairs

from xir_lib.data.records import PairTable
from xir_lib.data.tasks import load_task
from xir_lib.errors import InputError
from xir_lib.samplers.strategies import PairIndex, StrategyBatchSampler
from xir_lib.study import sources
from xir_lib.study.profile import load_study
from xir_lib.study.sources import load_training
from xir_lib.training.settings import TrainSettings, parse_strategy, trained_on


def test_design_p_trains_on_no_article_that_it_judges(
    real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XIR_DATA", str(real))
    study = load_study("parallel")
    train, held_out = load_training(study.data)
    judged = load_task("xquad-r-test")
    sides = [
        set(table["group"].to_pylist()) for table in (train.table, held_out.table, judged.queries)
    ]
    assert (
        not sides[0] & sides[1]
        and not (sides[0] | sides[1]) & sides[2]
        and len(set.union(*sides)) == 48
    )
    assert len(study.seeds) == 5 and study.evaluations[0].fit_on == ["xquad-r-test"]


def test_design_m_shows_every_strategy_the_same_ids_and_languages(
    real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XIR_DATA", str(real))

    def widest(profile: str) -> float:
        """The largest gap between strategies in the share of a query or passage language, over five
        seeds.
        """
        study = load_study(profile)
        train, _ = load_training(study.data)
        index, shares = PairIndex.from_table(train), []
        for strategy in study.strategies:
            kind, alpha = parse_strategy(strategy)
            options = {"strategy": kind, "alpha": alpha, "batch_size": 32, "num_batches": 150}
            options["language_draw"] = study.train.get("language_draw", "uniform")
            plan = pd.concat(
                StrategyBatchSampler(index, seed=seed, **options).describe() for seed in range(5)
            )
            for side in ("query_lang", "doc_lang"):
                shares.append(
                    (plan.groupby(side)["pairs"].sum() / plan["pairs"].sum()).rename(
                        f"{strategy} {side}"
                    )
                )
        return float(
            (pd.concat(shares, axis=1).max(axis=1) - pd.concat(shares, axis=1).min(axis=1)).max()
        )

    assert (
        widest("matched") < 0.04 < 0.08 < widest("small")
    )  # the pilot is not matched, and its page says so
    study = load_study("matched")
    train, held_out = load_training(study.data)
    both = [
        row["query"] is not None and row["passage"] is not None for row in train.table.to_pylist()
    ]
    assert (
        all(both) and len(train.pair_ids) + len(held_out.pair_ids) == 5328 and len(study.seeds) == 5
    )


def test_the_other_designs_on_mlqa_train_on_the_ids_that_they_name(
    real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XIR_DATA", str(real))

    def of(profile: str) -> tuple[PairTable, PairTable]:
        return load_training(load_study(profile).data)

    matched, matched_held_out = of("matched")
    everything = [set(side.pair_ids) for side in of("ragged")]
    assert len(everything[0] | everything[1]) == 9677 and not everything[0] & everything[1]
    assert everything[0] >= set(matched.pair_ids)  # a group's side depends on nothing else
    mixed, held_out = of("mlqa_atlas")
    parts = mixed.datasets()
    assert set(parts["mlqa"].pair_ids) == {f"mlqa/{name}" for name in matched.pair_ids}
    assert len(parts["atlas"].pair_ids) == 917 and len(parts["atlas"].languages) == 23
    assert set(held_out.pair_ids) == {f"mlqa/{name}" for name in matched_held_out.pair_ids}
    near = [set(matched.pair_ids[:7]), set(matched_held_out.pair_ids[:3])]
    monkeypatch.setattr(sources, "near_ids", lambda pairs, task: near[task.name == "mlqa-r"])
    apart = of("apart")
    assert [set(side.pair_ids) for side in apart] == [
        set(side.pair_ids) - near[0] - near[1] for side in (matched, matched_held_out)
    ]


def test_a_training_draws_the_languages_that_it_names() -> None:
    pairs = toy_pairs()
    options = {
        "strategy": "x-y",
        "steps": 1,
        "batch_size": 4,
        "learning_rate": 1e-5,
        "temperature": 0.05,
        "max_seq_length": 8,
    }
    assert trained_on(pairs, TrainSettings(**options, languages=["zz", "xx"])).languages == [
        "xx",
        "zz",
    ]
    assert trained_on(pairs, TrainSettings(**options)).languages == pairs.languages
    with pytest.raises(InputError, match="qq"):
        trained_on(pairs, TrainSettings(**options, languages=["xx", "qq"]))
