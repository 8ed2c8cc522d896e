"""Profiles, collected results, findings and the ledger, on results whose right answer is known by
construction.
"""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
    Pooling,
    Transformer,
)
from tiny import LETTERS
from toy import IDS, toy_pairs
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaTokenizer,
)

from xir_lib.data.records import RetrievalTask
from xir_lib.data.tasks import load_task
from xir_lib.errors import InputError
from xir_lib.paths import REPO
from xir_lib.study import claims, report, tables
from xir_lib.study.profile import Study, load_study
from xir_lib.study.results import Results, load_results
from xir_lib.study.sources import load_training
from xir_lib.study.steps import prepare
from xir_lib.training import run as training
from xir_lib.training.cost import Mixture, preview
from xir_lib.training.own import load_own, own_settings, with_early_stopping
from xir_lib.training.settings import EarlyStopping, TrainSettings

LANGS = ("en", "sw", "yo")
POOLS = {
    "monolingual": [(lang, lang) for lang in LANGS],
    "multilingual": [(lang, "all") for lang in LANGS],
}
POOLS["cross-lingual"] = [(a, b) for a in LANGS for b in LANGS if a != b]


def profile(**change: Any) -> dict[str, Any]:
    return yaml.safe_load((REPO / "params" / "demo.yaml").read_text()) | change


def made_up(levels: dict[str, dict[str, float]], groups: int = 40) -> Results:
    """Results with these mAP levels and rank distances per strategy, the same noise per group for
    all strategies.
    """
    noise = np.random.default_rng(0).normal(0, 0.02, groups)
    rows, evaluations = [], []
    for strategy, level in levels.items():
        run = strategy if strategy == "none" else f"{strategy}-s0"
        for setting, pools in POOLS.items():
            for query_lang, pool in pools:
                for group in range(groups):
                    values = {"mAP": level[setting] + noise[group]}
                    if setting == "multilingual":
                        values["rank distance"] = level["rank distance"] + 100 * noise[group]
                    for measure, value in values.items():
                        key = {
                            "run": run,
                            "strategy": strategy,
                            "task": "atlas-qa",
                            "rival": "none",
                            "group": f"g{group}",
                        }
                        cell = {
                            "setting": setting,
                            "query_lang": query_lang,
                            "pool": pool,
                            "measure": measure,
                        }
                        rows.append({**key, **cell, "n": 5, "total": 5 * value})
        settings = {
            setting: dict.fromkeys(("mAP", "R@1", "R@10"), level[setting]) for setting in POOLS
        }
        bias = {
            "rank_distance": {
                "mean": level["rank distance"],
                "median": 1.0,
                "ideal": 2.0,
                "random": 300.0,
            },
            "same_language_preference": {
                "mean": 0.5,
                "no_preference": 1 / 3,
                "per_language": dict.fromkeys(LANGS, 0.5),
            },
        }
        counts = {"queries": 600, "passages": 600, "languages": list(LANGS)}
        key = {"run": run, "strategy": strategy, "task": "atlas-qa", "rival": "none"}
        evaluations.append({**key, "settings": settings, "bias": bias, "counts": counts})
    study = Study(**profile(resamples=500, rivals=["none"], untrained=False))
    mix = {"same-language": 640, "cross-language": 640}
    common = {"realised": {"pairs": mix}, "pairs": {"ids": 640, "languages": list(LANGS)}}
    runs = [
        {"settings": {"strategy": name, "seed": 0, "steps": 40}, **common}
        for name in study.strategies
    ]
    return Results(study, runs, evaluations, pd.DataFrame(rows), {})


def level(mono: float, cross: float, multi: float, distance: float = 50.0) -> dict[str, float]:
    return {
        "monolingual": mono,
        "cross-lingual": cross,
        "multilingual": multi,
        "rank distance": distance,
    }


PAPER_LIKE = {
    "none": level(0.7, 0.5, 0.4, 90),
    "x-x-mono": level(0.80, 0.60, 0.50, 80),
    "x-y": level(0.75, 0.65, 0.55, 60),
    "hybrid-0.5": level(0.801, 0.651, 0.56, 50),
}
ALL_EQUAL = dict.fromkeys(PAPER_LIKE, level(0.8, 0.6, 0.5))


def test_every_profile_loads_and_names_only_what_exists() -> None:
    for path in (REPO / "params").rglob("*.yaml"):
        assert load_study(path).profile == path.stem


def test_notebook_parameters_are_the_profile_s_names() -> None:
    notebook = nbformat.read(REPO / "notebooks" / "02_train_strategy.ipynb", as_version=4)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    names = set(re.findall(r"^(\w+) = ", cell.source, flags=re.M))
    assert names - {"encoder", "pairs_file", "held_out_file", "data_name", "out"} == set(
        TrainSettings.model_fields
    )
    assert all("#" in line for line in cell.source.splitlines())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strategies": ["hybrid-2"]}, r"alpha must be in \[0, 1\], got 2"),
        ({"strategies": ["mono"]}, "unknown strategy 'mono'"),
        ({"evaluations": [{"task": "squad"}]}, "unknown task 'squad'"),
        ({"seed": 3}, "seed: Extra inputs are not permitted"),
        ({"train": {"steps": 0}}, "steps"),
        ({"train": profile()["train"] | {"lr": 1}}, "lr: Extra inputs"),
        ({"resamples": "many"}, "resamples: .*got 'many'"),
        ({"strategies": []}, "strategies: .*at least 1"),
        ({"seeds": [1, 1]}, "seeds holds a name twice: 1, 1"),
        ({"seeds": [-1]}, "seeds.0: .*greater than or equal to 0, got '-1'"),
        ({"report_seed": -1}, "report_seed: .*greater than or equal to 0, got '-1'"),
        (
            {"evaluations": [{"task": "miracl-yo", "fit": "cross-fit"}]},
            "miracl-yo, which has one language; name it under corp",
        ),
        (
            {"evaluations": [{"task": "atlas-qa", "fit": "cross-fit", "languages": ["en"]}]},
            "languages of atlas-qa: en; name two",
        ),
        (
            {
                "evaluations": [
                    {"task": "xquad-r", "fit_on": ["mlqa-r"]},
                    {"task": "mlqa-r", "fit": "cross-fit", "languages": ["de", "en"]},
                ]
            },
            "mlqa-r gives means to xquad-r and is judged in de, en alone",
        ),
        (
            {
                "strategies": ["x-y", "x-x-mono"],
                "train": {"early_stopping": {"every": 2, "patience": 2}},
            },
            "early_stopping in a comparison of 2 strategies",
        ),
        ({"train": profile()["train"] | {"seed": 1}}, "train holds seed"),
        ({"rivals": ["centring"]}, "rivals lacks none"),
        ({"corpora": ["miracl-yo-hard"]}, "corpora holds 'miracl-yo-hard'; use miracl-LANG"),
        ({"mixed": True}, "mixed needs corpora"),
        ({"evaluations": [{"task": "atlas-qa"}]}, "centring on atlas-qa needs fit_on"),
        (
            {"evaluations": [{"task": "xquad-r", "fit_on": ["xquad-r"]}]},
            "fit_on of xquad-r holds 'xquad-r'",
        ),
        (
            {"evaluations": [{"task": "mlqa-r", "fit": "cross-fit", "fit_on": ["xquad-r"]}]},
            "takes its texts from the task itself",
        ),
        ({"evaluations": [{"task": "mlqa-r", "fit": "own"}]}, "evaluations.0.fit"),
        ({3: "x"}, "3"),
        ({"data": {"source": "wikipedia"}}, "data: .*'wikipedia'"),
        (
            {"variants": {"kl": {"strategy": "x-y", "query_kl": 1.0}}},
            "variant 'kl' is not among the strategies",
        ),
        (
            {"strategies": ["kl"], "variants": {"kl": {"query_kl": 1.0}}},
            "variant 'kl' holds query_kl; it needs strategy",
        ),
        (
            {"strategies": ["kl"], "variants": {"kl": {"strategy": "x-y", "seed": 1}}},
            "variant 'kl' .*no seed",
        ),
        (
            {"strategies": ["kl-s0"], "variants": {"kl-s0": {"strategy": "x-y"}}},
            "variant 'kl-s0' cannot name a folder",
        ),
        (
            {"strategies": ["x-y"], "variants": {"x-y": {"strategy": "x-x-mono"}}},
            "variant 'x-y' has the name of something known",
        ),
        (
            {"strategies": ["none"], "variants": {"none": {"strategy": "x-x-mono"}}},
            "variant 'none' has the name",
        ),
        (
            {"strategies": [".."], "variants": {"..": {"strategy": "x-y"}}},
            "variant '..' cannot name a folder",
        ),
        (
            {
                "strategies": ["a"],
                "variants": {
                    "a": {"strategy": "x-y", "query_kl": 1.0, "one_language_per_id": True}
                },
            },
            "leave one of them out",
        ),
        (
            {"strategies": ["k/l"], "variants": {"k/l": {"strategy": "x-y"}}},
            "variant 'k/l' cannot name a folder",
        ),
        (
            {"strategies": ["kl"], "variants": {"kl": {"strategy": "x-y", "kl": 1}}},
            "kl: Extra inputs",
        ),
        (
            {"data": {"source": "mixture", "datasets": [], "query_tokens": 1, "passage_tokens": 1}},
            "at least 2 items",
        ),
        ({"data": profile()["data"] | {"query_tokens": 9}}, "query_tokens: Extra inputs"),
    ],
)
def test_a_wrong_profile_is_refused_in_one_line(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(profile() | change))
    with pytest.raises(InputError, match=message) as error:
        load_study(path)
    assert "\n" not in str(error.value)


def test_a_source_of_means_has_the_languages_of_all_that_it_serves(tmp_path: Path) -> None:
    evaluations = [
        {"task": "atlas-qa", "languages": ["en", "sw", "yo"], "fit_on": ["atlas-qa-train"]},
        {"task": "atlas-qa-dev", "languages": ["am", "en"], "fit_on": ["atlas-qa-train"]},
    ]
    prepare(Study(**profile() | {"evaluations": evaluations}), tmp_path)
    saved = {
        name.name: RetrievalTask.load(name).languages for name in (tmp_path / "tasks").iterdir()
    }
    assert saved == {
        "atlas-qa": ["en", "sw", "yo"],
        "atlas-qa-dev": ["am", "en"],
        "atlas-qa-train": ["am", "en", "sw", "yo"],
    }


def test_a_variant_has_settings_of_its_own_and_the_rest_of_the_profile() -> None:
    variants = {"hotter": {"strategy": "x-y", "temperature": 0.5}}
    study = Study(
        **profile() | {"strategies": ["x-y", "hotter"], "variants": variants, "seeds": [3]}
    )
    plain, hotter = study.settings("x-y", 3), study.settings("hotter", 3)
    assert study.runs[-2:] == ["x-y-s3", "hotter-s3"]
    assert hotter == plain.model_copy(update={"temperature": 0.5}) != plain


@pytest.mark.parametrize("text", ["- a\n", "a: [", ""])
def test_a_file_that_is_no_profile(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(InputError, match=r"p\.yaml"):
        load_study(tmp_path / "p.yaml")


# ---- the paper's configuration
# ----------------------------------------------------------------------


def test_the_paper_s_profile_says_what_the_paper_says() -> None:
    study = load_study(REPO / "params" / "paper.yaml")
    assert isinstance(study.data, Mixture)
    sizes = {dataset.name: dataset.pairs for dataset in study.data.datasets}
    assert sizes["mMARCO"] == 39_780_811
    # 39,780,811 + 3,567,659 + 176,975 + 135,557 + 113,535 + 59,496 + 33,298 + 3,547 + 1,469
    assert study.data.pairs == 43_872_347
    languages = {dataset.name: set(dataset.languages) for dataset in study.data.datasets}
    every = {"en", "ar", "zh", "de", "es", "ru", "th", "tr", "hi"}
    assert set().union(*languages.values()) == languages["WikiQA"] == every
    assert languages["mMARCO"] == every - {"th", "tr"}
    for strategy in ("x-x-mono", "x-y", "hybrid-0.5"):
        settings = study.settings(strategy, 0)
        assert (settings.batch_size, settings.learning_rate, settings.weight_decay) == (
            100,
            3e-5,
            1e-2,
        )
        assert settings.prompts == ["Query: ", "Passage: "]
    with pytest.raises(
        InputError,
        match=r"^no loader here for MFAQ, Entity[^\n]*; train on pairs of your own with `xir train",
    ):
        load_training(study.data)


def hub_xlm_roberta(folder: Path) -> Path:
    """Save a random XLM-RoBERTa as the Hub holds it: a masked language model, no
    sentence-transformers files.
    """
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.5)]
    pieces += [(letter, -3.0) for letter in LETTERS] + [
        (f"▁{a}{b}", -4.0) for a, b in pairwise(LETTERS)
    ]
    tokenizer = XLMRobertaTokenizer(vocab=pieces, model_max_length=128)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=130, type_vocab_size=1, **SMALL
    )
    XLMRobertaForMaskedLM(config).save_pretrained(folder)
    return folder


def hub_labse(folder: Path) -> Path:
    """Save a random BERT behind LaBSE's modules: WordPiece, first token, Dense with tanh,
    length 1.
    """
    tokens = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *LETTERS,
        *(f"##{letter}" for letter in LETTERS),
    ]
    vocab = {token: number for number, token in enumerate(tokens)}
    BertTokenizer(vocab=vocab, do_lower_case=False, model_max_length=32).save_pretrained(
        folder / "bert"
    )
    torch.manual_seed(0)
    BertModel(
        BertConfig(vocab_size=len(tokens), max_position_embeddings=32, **SMALL)
    ).save_pretrained(folder / "bert")
    dense = Dense(16, 16, activation_function=torch.nn.Tanh())
    modules = [Transformer(str(folder / "bert")), Pooling(16, "cls"), dense, Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(
        str(folder / "labse"), create_model_card=False
    )
    return folder / "labse"


SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
PROMPTS = {"query": "Query: ", "passage": "Passage: ", "document": "Passage: "}
PAPER_STEPS = {"batch_size": 8, "steps": 3, "max_seq_length": 16, "learning_rate": 1e-3}


@pytest.mark.parametrize("strategy", ["x-y", "hybrid-0.5"])
@pytest.mark.parametrize("build", [hub_xlm_roberta, hub_labse])
def test_the_paper_s_encoders_train(build: Any, strategy: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    encoder = build(tmp_path)
    settings = load_study(REPO / "params" / "paper.yaml").settings(strategy, 0, **PAPER_STEPS)
    run = training.train(str(encoder), toy_pairs(), settings, tmp_path / "out")
    assert run["realised"]["pairs"]["cross-language"] >= 8
    assert SentenceTransformer(str(tmp_path / "out")).prompts == PROMPTS
    assert (
        training.train(str(encoder), toy_pairs(), settings, tmp_path / "out") == run
    )  # the same run when read back
    before = SentenceTransformer(str(encoder), device="cpu").state_dict()
    assert run["vocabulary_trained"] < len(before["0.model.embeddings.word_embeddings.weight"])
    model = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    after = model.state_dict()
    assert {name.split(".")[0] for name in before} == {name.split(".")[0] for name in after}
    assert {name: value.shape for name, value in after.items()} == {
        name: before[name].shape for name in after
    }
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {
        "0.model.encoder.layer.0.output.dense.weight",
        "0.model.embeddings.word_embeddings.weight",
    } <= moved
    assert ("2.linear.weight" in moved) == (build is hub_labse)
    vectors = model.encode(["a b n", "ab ab o", "z ☃"], normalize_embeddings=True)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    if build is hub_labse:  # its last module has made them so
        np.testing.assert_allclose(vectors, model.encode(["a b n", "ab ab o", "z ☃"]), atol=1e-6)


def test_preview_of_a_mixture_and_of_pairs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XIR_OFFLINE", "1")
    study = load_study(REPO / "params" / "paper.yaml")
    found = preview(study.encoder, study.settings("x-y", 0), study.data)  # type: ignore[arg-type]
    assert found["cost"]["one epoch"]["steps"] == 438_723  # 43,872,347 / 100
    assert [round(100 * row["share_of_batches"], 2) for row in found["data"]][:2] == [
        90.67,
        8.13,
    ]  # by size
    encoder = hub_labse(tmp_path)
    (encoder / "model.safetensors").unlink()  # no weights are read
    settings = own_settings(toy_pairs(), max_seq_length=16)
    found = preview(str(encoder), settings, toy_pairs(IDS[8:]), toy_pairs(IDS[:8]))
    assert json.loads(json.dumps(found)) == found
    # [CLS], two letters and the language's, [SEP]; a passage has five letters; LaBSE has no
    # prompts.
    assert found["tokens"] == {"query_tokens": 5, "passage_tokens": 7, "measured": True}
    assert found["cost"]["this run"]["tokens"] == settings.steps * 32 * 12
    assert [row["ids"] for row in found["data"]] == [32, 8]
    assert found["sampler"]["usable"] == found["sampler"]["ids"] == 32


# ---- a user's own pairs
# ----------------------------------------------------------------------


def test_own_pairs_hold_out_a_tenth_or_say_that_they_cannot(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = [
        f"{a} {b} {c}" for a in LETTERS for b in LETTERS for c in "abc"
    ]  # 768 ids, the group is the first letter
    rows = [{**row, "group": row["pair_id"]} for row in toy_pairs(ids).table.to_pylist()]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train, held_out = load_own([path])
    assert held_out is not None
    assert set(train.pair_ids).isdisjoint(held_out.pair_ids)
    assert len(train.pair_ids) + len(held_out.pair_ids) == 768
    assert 43 <= len(held_out.pair_ids) <= 111  # 76.8, four standard errors of 8.3 to either side
    assert own_settings(train).steps == len(train.pair_ids) // 32
    assert own_settings(train, batch_size=2000).steps == 1
    assert own_settings(train, steps=7, strategy="x-y").steps == 7
    toy_pairs().save(tmp_path / "few.arrow")
    assert not caplog.records
    train, held_out = load_own([tmp_path / "few.arrow"])
    assert (len(train), held_out) == (120, None)
    assert "few.arrow: all pairs are trained on and none held out" in caplog.text


def test_a_language_with_few_pairs_is_not_judged_and_the_others_are(tmp_path: Path) -> None:
    ids = [f"{a} {b} {c}" for a in LETTERS for b in LETTERS for c in "abc"]
    rows = [{**row, "group": row["pair_id"]} for row in toy_pairs(ids).table.to_pylist()]
    rows = [
        row for row in rows if row["lang"] != "zz" or row["pair_id"].startswith("a")
    ]  # 48 ids, five of them held out
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train, held_out = load_own([path])
    assert held_out is not None
    assert (train.languages, held_out.languages) == (["xx", "yy", "zz"], ["xx", "yy"])


def test_a_passage_of_own_pairs_stands_on_one_side_only(tmp_path: Path) -> None:
    ids = [f"{a} {b} {c}" for a in LETTERS for b in LETTERS for c in "abc"]
    rows = [{**row, "group": row["pair_id"]} for row in toy_pairs(ids).table.to_pylist()]
    for row in rows:  # in one language the three ids of two letters share their passage
        if row["lang"] == "yy":
            row["passage"] = f"o {row['passage'].split()[1]} {row['passage'].split()[2]}"
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train, held_out = load_own([path])
    assert held_out is not None
    texts = [{*part.table["passage"].to_pylist()} for part in (train, held_out)]
    assert texts[0].isdisjoint(texts[1])


def test_early_stopping_by_its_measure() -> None:
    settings = own_settings(toy_pairs(), steps=50)
    assert with_early_stopping(settings, "loss").early_stopping == EarlyStopping(
        measure="loss", every=2, patience=3
    )
    with pytest.raises(InputError, match=r"^training: early_stopping.measure: [^\n]+'mAP'$"):
        with_early_stopping(settings, "mAP")


@pytest.mark.parametrize(
    "given", [{"batch_size": 0}, {"batch_size": "many"}, {"steps": 0}, {"learning_rate": -1.0}]
)
def test_own_settings_are_checked(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"^training: {next(iter(given))}: [^\n]+$"):
        own_settings(toy_pairs(), **given)


def test_a_null_result_comes_first() -> None:
    first = report.findings(made_up(ALL_EQUAL))[0]
    assert first.startswith(
        "None of 8 comparisons of hybrid batches with the pure strategies finds a difference"
    )
    assert "6 equivalent within 0.01 mAP, 2 undecided" in first  # rank distance has no margin


def test_clear_differences_are_counted_with_their_side() -> None:
    # Against x-x-mono: cross, multi and rank distance favour hybrid, mono by .001; against x-y all
    # four. The noise is shared, so every difference is exact and none of the 8 intervals holds 0.
    first = report.findings(made_up(PAPER_LIKE))[0]
    assert (
        "8 comparisons: 8 in their favour, 0 against, 0 equivalent" in first
        and "one training seed" in first
    )
    reverse = PAPER_LIKE | {"hybrid-0.5": level(0.1, 0.1, 0.1, 100)}
    assert (
        "8 comparisons: 0 in their favour, 8 against, 0 equivalent"
        in report.findings(made_up(reverse))[0]
    )


def test_what_the_hybrid_adds_is_a_difference_of_levels() -> None:
    table = tables.advantage(made_up(PAPER_LIKE)).set_index("hybrid minus")
    assert table.columns.tolist() == [
        "task",
        "monolingual",
        "cross-lingual",
        "multilingual",
        "rank distance",
    ]  # no fix here
    assert table.loc["x-y"].tolist() == [
        "atlas-qa",
        *("+.051 [+.051, +.051]", "+.001 [+.001, +.001]", "+.010 [+.010, +.010]", "-10 [-10, -10]"),
    ]
    assert table.loc["none", "rank distance"] == "-40 [-40, -40]"
    demo = load_results(REPO / "figures" / "demo" / "results")
    level_of = {
        (e["run"], e["rival"]): e["settings"]["multilingual"]["mAP"] for e in demo.evaluations
    }
    both = "centring+round-robin"
    shown = (
        tables.advantage(demo)
        .set_index("hybrid minus")
        .loc["none", f"multilingual, both with {both}"]
    )
    value = level_of["hybrid-0.5-s0", both] - level_of["none", both]
    assert float(str(shown).split()[0]) == pytest.approx(value, abs=5.1e-4)


def verdicts(levels: dict[str, dict[str, float]]) -> dict[str, str]:
    table = claims.ledger(made_up(levels))
    assert table[table["claim"] == "7"]["verdict"].str.endswith(" (1 seed only)").all()
    return table.groupby("claim")["verdict"].first().str.removesuffix(" (1 seed only)").to_dict()


def test_a_rank_distance_is_told_as_a_share_as_well() -> None:
    levels = PAPER_LIKE | {"hybrid-0.5": level(0.801, 0.651, 0.56, 60)}
    table = claims.ledger(made_up(levels)).set_index("claim")
    assert (
        table.loc["9", "tested"] == "hybrid-0.5 minus x-x-mono, multilingual rank distance (-25%)"
    )  # 60 and 80
    assert table.loc["9", "measured"] == pytest.approx(-20)


def test_the_ledger_judges_both_ways() -> None:
    paper = verdicts(PAPER_LIKE)
    assert [paper[n] for n in ("1", "6", "7", "9", "11")] == [claims.SUPPORTED] * 5
    worse = verdicts(PAPER_LIKE | {"hybrid-0.5": level(0.7, 0.6, 0.4, 95)})
    assert [worse[n] for n in ("7", "9", "11")] == [claims.CONTRADICTED] * 3


def test_an_advantage_within_the_margin_is_none() -> None:
    small = verdicts(
        PAPER_LIKE | {"hybrid-0.5": level(0.8, 0.65, 0.553, 50)}
    )  # above x-y by .003, with no noise at all
    assert small["7"] == claims.CONTRADICTED
    equal = verdicts(ALL_EQUAL)
    assert [equal[n] for n in ("6", "7")] == [
        claims.CONTRADICTED
    ] * 2  # equivalent to 0, which the interval shows
    assert equal["9"] == claims.OPEN  # no margin was declared for rank distance
    assert equal["11"] == claims.SUPPORTED  # equal within the margin is "comparable"


def test_a_wide_interval_is_no_verdict_and_says_what_would_have_been_found() -> None:
    results = made_up(ALL_EQUAL)
    sums = results.group_sums
    noise = np.random.default_rng(4).normal(0, 0.3, len(sums))
    table = claims.ledger(
        results._replace(group_sums=sums.assign(total=sums["total"] + sums["n"] * noise))
    )
    row = table[(table["claim"] == "7") & table["tested"].str.contains("minus x-y")].iloc[0]
    assert row["verdict"] == f"{claims.OPEN} (1 seed only)"
    assert row["finding"].startswith("not decidable (minimum detectable effect")
    assert row["low"] < 0 < row["high"] and row["mde"] == pytest.approx(
        2.8 / 3.92 * (row["high"] - row["low"]), rel=0.1
    )


def test_the_ledger_adjusts_for_all_its_tests() -> None:
    judged = made_up(PAPER_LIKE)
    chooses = judged.study.evaluations[0].model_copy(update={"task": "held-out"})
    study = judged.study.model_copy(update={"evaluations": [chooses, *judged.study.evaluations]})
    more = pd.concat(
        [judged.group_sums, judged.group_sums.assign(task="held-out")], ignore_index=True
    )
    with_held_out = judged._replace(
        study=study, group_sums=more
    )  # which chooses settings and judges nothing
    pd.testing.assert_frame_equal(claims.ledger(with_held_out), claims.ledger(judged))
    table = claims.ledger(judged).dropna(subset="p_holm")
    assert len(table) == 7  # 6 and 7 and 11 have two, 9 one; 10 has no unseen languages here
    assert table["p_holm"].min() == pytest.approx(
        7 / 501
    )  # the smallest p of 500 resamples, seven tests


def test_unseen_languages_are_judged_alone() -> None:
    results = made_up(PAPER_LIKE)
    data = results.study.data.model_copy(update={"languages": ["en", "de"]})
    sums = results.group_sums
    trained = (sums["query_lang"] == "en") & (sums["strategy"] != "none")
    better = sums.assign(
        total=sums["total"].where(~trained, sums["total"] + 5)
    )  # a gain of 1 where it must not count
    results = results._replace(
        study=results.study.model_copy(update={"data": data}), group_sums=better
    )
    rows = claims.ledger(results).query("claim == '10'").set_index("tested")
    assert rows["verdict"].unique().tolist() == [f"{claims.SUPPORTED} (1 seed only)"]
    measured = rows["measured"].to_dict()
    assert measured == pytest.approx(
        {
            "hybrid-0.5 minus none, cross-lingual mAP, unseen languages": 0.151,
            "hybrid-0.5 minus none, multilingual mAP, unseen languages": 0.16,
            "hybrid-0.5 minus x-x-mono, multilingual mAP, unseen languages": 0.06,
        }
    )
    seen = claims.ledger(made_up(PAPER_LIKE)).query("claim == '10'")
    assert set(seen["tested"]) == {"needs a task with two languages that were not trained on"}


def test_data_are_disjoint_if_what_is_near_cannot_move_the_mean_by_the_margin() -> None:
    def verdict(touched: int, inside: int) -> str:
        near = {"queries": 1200, "compared": 1000, "touched": touched, "inside_passage": inside}
        table = claims.ledger(made_up(PAPER_LIKE)._replace(overlap={"atlas-qa": near}))
        row = table[table["claim"] == "5"].iloc[0]
        assert row["measured"] == touched / 1000
        return str(row["verdict"])

    assert [verdict(10, 0), verdict(11, 0), verdict(11, 11)] == [
        claims.SUPPORTED,
        claims.OPEN,
        claims.CONTRADICTED,
    ]
    nothing = {"queries": 1000, "compared": 0, "touched": 0, "inside_passage": 0}
    foreign = (
        claims.ledger(made_up(PAPER_LIKE)._replace(overlap={"atlas-qa": nothing}))
        .query("claim == '5'")
        .iloc[0]
    )
    assert (foreign["verdict"], foreign["tested"]) == (
        claims.OPEN,
        "no language in common: nothing to compare",
    )
    chooses = claims.ledger(
        made_up(PAPER_LIKE)._replace(overlap={"held-out": nothing, "atlas-qa": nothing})
    )
    assert chooses[chooses["claim"] == "5"]["task"].tolist() == [
        "atlas-qa"
    ]  # held-out pairs judge nothing
    unknown = claims.ledger(made_up(PAPER_LIKE)).query("claim == '5'")
    assert unknown["verdict"].tolist() == [claims.OPEN]


def test_the_referees_get_numbers_or_what_it_would_take() -> None:
    asked = claims.referee_questions(made_up(PAPER_LIKE))
    assert len(asked) == 6 and (asked["answer"].str.len() > 20).all()
    assert (
        "hybrid minus x-y: +.010 [+.010, +.010] (atlas-qa: a better, Holm-adjusted over 8)"
        in asked["answer"][0]
    )
    assert asked["answer"][2].startswith(
        "Free fixes: it takes a profile that has some. A training with another loss"
    )
    assert "gain +.100" in asked["answer"][3] and "add +.060" in asked["answer"][3]
    assert asked["answer"][5].endswith(
        "3 of 3 monolingual, 6 of 6 cross-lingual, 3 of 3 multilingual"
    )
    equal = claims.referee_questions(made_up(ALL_EQUAL))["answer"][5]
    assert equal.endswith("0 of 3 monolingual, 0 of 6 cross-lingual, 0 of 3 multilingual")
    disjoint = made_up(PAPER_LIKE | {"disjoint": level(0.7, 0.6, 0.48)})
    variants = {"disjoint": {"strategy": "x-x-mono", "one_language_per_id": True}}
    study = disjoint.study.model_copy(
        update={"variants": variants, "strategies": [*disjoint.study.strategies, "disjoint"]}
    )
    assert (
        "Without translations: disjoint gains +.080"
        in claims.referee_questions(disjoint._replace(study=study))["answer"][3]
    )
    assert "figures/controls" in asked["answer"][3]
    other = made_up(PAPER_LIKE | {"x-x-mono-kl": level(0.7, 0.6, 0.48)})
    variants = {"x-x-mono-kl": {"strategy": "x-x-mono", "query_kl": 1.0}}
    study = other.study.model_copy(
        update={"variants": variants, "strategies": [*other.study.strategies, "x-x-mono-kl"]}
    )
    answer = claims.referee_questions(other._replace(study=study))["answer"][2]
    assert (
        "hybrid-0.5 minus x-x-mono-kl: +.080 [+.080, +.080] (atlas-qa: a better, a single test)"
        in answer
    )
    lacking = made_up({name: value for name, value in PAPER_LIKE.items() if name != "x-x-mono"})
    study = lacking.study.model_copy(update={"strategies": ["x-y", "hybrid-0.5"]})
    assert (
        "It takes a run of x-x-mono."
        in claims.referee_questions(lacking._replace(study=study))["answer"].tolist()
    )


def test_sanity_checks_can_fail() -> None:
    assert tables.sanity_checks(made_up(PAPER_LIKE))["passed"].all()
    failing = tables.sanity_checks(made_up(ALL_EQUAL | {"none": level(0.96, 0.6, 0.5)}))
    assert not failing.set_index("check").loc["none monolingual mAP leaves room", "passed"]
    untrained = made_up(PAPER_LIKE | {"untrained": level(0.3, 0.3, 0.3)})
    untrained = untrained._replace(study=untrained.study.model_copy(update={"untrained": True}))
    assert not tables.sanity_checks(untrained)["passed"].all()
    same = tables.sanity_checks(made_up(ALL_EQUAL))
    assert not same.set_index("check").loc["x-y differs from none", "passed"]


def test_a_result_without_a_run_of_each_strategy_still_has_a_ledger() -> None:
    results = made_up({name: value for name, value in PAPER_LIKE.items() if name != "x-y"})
    study = results.study.model_copy(update={"strategies": ["x-x-mono", "hybrid-0.5"]})
    runs = [run for run in results.runs if run["settings"]["strategy"] != "x-y"]
    table = claims.ledger(results._replace(study=study, runs=runs)).set_index("claim", drop=False)
    assert set(table.loc[["6"], "verdict"]) == {f"{claims.OPEN} (1 seed only)"}
    assert set(table.loc[["6"], "tested"]) == {"needs a run of x-y"}


def test_ledgers_of_several_profiles_stand_side_by_side(tmp_path: Path) -> None:
    """By hand: a claim per task of each profile, one without material, and set-up claims that no
    profile shows alone.
    """
    seven, ten, eleven = (claims.DIRECTED[number][0] for number in ("7", "10", "11"))
    texts = {
        "7": seven,
        "10": ten,
        "11": eleven,
        "2": "evaluated on all",
        "3": "languages",
        "5": "disjoint",
        "8": "both",
    }
    good, level, nothing = "a better", "equivalent", ("", "")  # measured and finding
    first, second, third = (
        "h minus x-x-mono, multilingual mAP",
        "h minus x-y, multilingual mAP",
        "h minus x-y, monolingual mAP",
    )
    rows = {
        "parallel": [
            ("2", "all", "x", *nothing, claims.OPEN),
            ("3", "xquad-r", "x", *nothing, claims.OPEN),
            ("3", "mlqa-r", "x", 7, "", claims.SUPPORTED),
            ("5", "mlqa-r", "x", 0.02, "", claims.OPEN),
            ("5", "belebele", "nothing to compare", *nothing, claims.OPEN),
            ("7", "mlqa-r", first, 0.1, good, claims.CONTRADICTED),
            ("7", "mlqa-r", second, 0.0, level, claims.CONTRADICTED),
            ("10", "mlqa-r", "x", *nothing, claims.OPEN),
        ],
        "matched": [
            ("3", "xquad-r", "x", 11, "", claims.SUPPORTED),
            ("3", "mlqa-r", "x", 7, "", claims.SUPPORTED),
            ("5", "mlqa-r", "x", 0.095, "", claims.OPEN),
            ("10", "mlqa-r", first, 0.1, good, claims.SUPPORTED),
            ("11", "mlqa-r", first, 0.0, "non-inferior", claims.OPEN),
            ("11", "mlqa-r", third, 0.0, "not decidable", claims.OPEN),
        ],
        "low_resource": [("8", "all", "x", *nothing, claims.OPEN)],
    }
    with pytest.raises(InputError, match=r"parallel/07_ledger\.csv.*make figures PROFILE=parallel"):
        claims.read_ledgers(tmp_path)
    for profile, given in rows.items():
        (tmp_path / profile).mkdir()
        columns = ["claim", "task", "tested", "measured", "finding", "verdict"]
        table = pd.DataFrame(given, columns=columns).assign(
            text=lambda table: table["claim"].map(texts)
        )
        table.to_csv(tmp_path / profile / "07_ledger.csv", index=False)
    ledgers = claims.read_ledgers(tmp_path)
    table = claims.verdicts(ledgers).set_index("claim")
    assert list(table.columns) == ["text", "parallel: mlqa-r", "matched: mlqa-r"]
    assert table.loc["7"].tolist() == [
        seven,
        f"{claims.CONTRADICTED} (against x-y)",
        claims.NO_MATERIAL,
    ]
    assert table.loc["10"].tolist() == [ten, claims.NO_MATERIAL, claims.SUPPORTED]
    assert table.loc["11"].tolist() == [eleven, claims.NO_MATERIAL, f"{claims.OPEN} (against x-y)"]
    assert set(table.loc["6"]) == {claims.DIRECTED["6"][0], claims.NO_MATERIAL}
    known = claims.set_up(ledgers, ["sw", "yo"]).set_index("claim")
    assert known["verdict"].to_dict() == {
        "2": claims.SUPPORTED,
        "3": claims.SUPPORTED,
        "5": claims.OPEN,
        "8": claims.OPEN,
    }
    assert (
        known.loc["2", "found"] == "whole: mlqa-r, xquad-r; MIRACL in sw, yo"
        and known.loc["3", "found"] == "3 of 3 tasks"
    )
    near = (
        "2.0 to 9.5 % of the questions have a near-duplicate in training, 2 tests; 1 without a"
        " language in common"
    )
    assert known.loc["5", "found"] == near
    for languages in ([], ["yo"]):  # the paper has no Yoruba
        assert (
            claims.set_up(ledgers, languages).set_index("claim").loc["2", "verdict"] == claims.OPEN
        )
    assert (
        claims.set_up(ledgers[ledgers["profile"] != "matched"], ["sw"])
        .set_index("claim")
        .loc["2", "verdict"]
        == claims.OPEN
    )


def test_the_page_of_claims_says_what_its_table_shows() -> None:
    ledgers = claims.read_ledgers(REPO / "figures")
    table = claims.verdicts(ledgers).set_index("claim").drop(columns="text")
    shown = {claim: row.to_dict() for claim, row in table.iterrows()}
    assert set(shown["9"].values()) == {claims.SUPPORTED}
    uncertain = shown["7"].pop("matched: belebele")
    assert uncertain == f"{claims.OPEN} (against x-x-mono, x-y)" and set(shown["7"].values()) == {
        f"{claims.CONTRADICTED} (against x-y)"
    }
    assert shown["10"]["matched: belebele"] == f"{claims.OPEN} (against x-x-mono)"
    assert [shown["10"][f"matched: {task}"] for task in ("xquad-r", "mlqa-r")] == [
        claims.SUPPORTED
    ] * 2
    told = ledgers[ledgers["measured"].notna()].set_index(["claim", "tested"])
    alone = told.loc[[("6", "x-x-mono minus x-y, monolingual mAP")]]
    assert len(alone) == 7 and set(alone["finding"]) == {"a better"}
    across = told.loc[[("6", "x-y minus x-x-mono, cross-lingual mAP")]]
    assert set(across.loc[across["finding"] == "a better", "profile"]) == {
        "parallel",
        "low_resource",
    }
    assert set(across.loc[across["profile"] == "matched", "finding"].str.split(" ").str[0]) == {
        "equivalent",
        "not",
    }
    assert set(told.loc[[("11", "hybrid-0.5 minus x-y, cross-lingual mAP")], "finding"]) == {
        "non-inferior"
    }
    within = told.loc[[("11", "hybrid-0.5 minus x-x-mono, monolingual mAP")]]
    assert (within["high"] < 0).all() and [
        f"{-within['measured'].max():.3f}",
        f"{-within['measured'].min():.3f}",
    ] == [
        "0.005",
        "0.032",
    ]
    assert within.loc[
        within["finding"] == "non-inferior", ["profile", "task"]
    ].to_numpy().tolist() == [["parallel", "mlqa-r"]]
    less = told.loc["9"].reset_index()["tested"].str.extract(r"\(-(\d+)%\)")[0].astype(int)
    assert (less.min(), less.max()) == (11, 34)
    leads = []
    for profile in claims.LEDGERS:
        level = tables.scores(load_results(REPO / "figures" / profile / "results"))
        level = level.set_index(["measure", "setting", "rival", "strategy", "task"])[
            "value"
        ].sort_index()
        both = level["mAP", "multilingual", "centring+round-robin"]
        leads += [*(both["hybrid-0.5"] - both["x-x-mono"])]
        distance = level["rank distance", "multilingual", "none"]
        assert (distance["hybrid-0.5"] > distance["x-y"]).all()
    assert len(leads) == 7 and [f"{min(leads):.3f}", f"{max(leads):.3f}"] == ["-0.008", "0.011"]
    for task in ("xquad-r", "mlqa-r"):
        rows = pd.read_csv(REPO / "figures" / "matched" / f"03_per_language_{task}.csv").query(
            "setting == 'monolingual'"
        )
        unseen = rows[
            (rows["measure"] == "mAP")
            & ~rows["query_lang"].isin(["de", "es", "vi", "zh", "mean", "median"])
        ]
        assert len(unseen) in (3, 7) and (unseen["ours hybrid-0.5"] < unseen["ours none"]).all()


def test_a_styled_table_is_written_the_same_at_every_run() -> None:
    table = pd.DataFrame({"a": [1, 2]})
    pages = [
        table.style.to_html() + table.style.set_caption("b").to_html() + repr(table.style)
        for _ in range(2)
    ]
    assert pages[0] != pages[1]
    steady = [report.same_at_every_run(page) for page in pages]
    assert (
        steady[0] == steady[1]
        and 'id="table0_row1_col0"' in steady[0]
        and 'id="table1_row1_col0"' in steady[0]
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("T_word = 1")])
    text = nbformat.writes(notebook)
    assert report.same_at_every_run(text) == text


def test_every_number_of_the_readme_s_blocks_is_that_of_the_committed_results() -> None:
    text = (REPO / "README.md").read_text()
    for profile in re.findall(r"<!-- (\w+) findings -->", text):
        if not (REPO / "figures" / profile).exists():
            assert (
                f"<!-- {profile} findings -->\n<!-- end -->" in text
            )  # no numbers without their results
            continue
        blocks = report.readme_blocks(load_results(REPO / "figures" / profile / "results"), text)
        assert "findings" in blocks
        assert report.fill_readme(text, profile, blocks) == text
        assert report.fill_readme(text, profile, {"findings": "other"}) != text


def test_the_decision_table_is_that_of_the_evaluations() -> None:
    results = load_results(REPO / "figures" / "demo" / "results")
    table = tables.decision_table(results).set_index("repair")
    both = "centring+round-robin"
    known = {"centring": "all texts", "round-robin": "passages", both: "all texts"}
    trained = ("x-x-mono", "x-y", "hybrid-0.5")
    with_fix = {f"{name} + {fix}": what for name in trained for fix, what in known.items()}
    assert table["language known of"].to_dict() == {
        **known,
        **dict.fromkeys(("none", *trained), "none"),
        **with_fix,
    }
    assert table.loc["round-robin", ["minutes", "atlas-qa mono"]].tolist() == ["0", "0"]
    level = {(e["run"], e["rival"]): e["settings"] for e in results.evaluations}
    for repair, (run, rival, unmerged) in {
        "centring": ("none", "centring", "centring"),
        both: ("none", both, "centring"),
        "x-y": ("x-y-s0", "none", "none"),
        "x-y + round-robin": ("x-y-s0", "round-robin", "none"),
        f"x-y + {both}": ("x-y-s0", both, "centring"),
    }.items():
        gain = (
            level[run, rival]["multilingual"]["mAP"] - level["none", "none"]["multilingual"]["mAP"]
        )
        change = (
            level[run, unmerged]["monolingual"]["mAP"] - level["none", "none"]["monolingual"]["mAP"]
        )
        assert float(str(table.loc[repair, "atlas-qa multi"])) == pytest.approx(gain, abs=5.1e-4)
        value, low, high = (
            float(number)
            for number in re.findall(r"[+-]\.\d+", str(table.loc[repair, "atlas-qa mono"]))
        )
        assert value == pytest.approx(change, abs=5.1e-4) and low <= value <= high


def test_the_held_out_pairs_are_a_task_of_a_profile(tmp_path: Path) -> None:
    """Atlas-QA holds out its dev part, which its own loader makes a task of."""
    values = profile(evaluations=[{"task": "held-out"}], rivals=["none"])
    prepare(Study(**values), tmp_path)

    def judged(task: RetrievalTask) -> set[tuple[str, ...]]:
        asked = {
            row["query_id"]: (row["lang"], row["text"], row["pair_id"], row["group"])
            for row in task.queries.to_pylist()
        }
        there = {row["doc_id"]: (row["lang"], row["text"]) for row in task.passages.to_pylist()}
        return {(*asked[row["query_id"]], *there[row["doc_id"]]) for row in task.qrels.to_pylist()}

    found, expected = (
        RetrievalTask.load(tmp_path / "tasks" / "held-out"),
        load_task("atlas-qa-dev", values["data"]["languages"]),
    )
    assert judged(found) == judged(expected)
    assert found.queries.num_rows == expected.queries.num_rows
    texts = [
        {(row["lang"], row["text"]) for row in task.passages.to_pylist()}
        for task in (found, expected)
    ]
    assert texts[0] == texts[1] and found.passages.num_rows == len(texts[0])
    chosen = Study(
        **profile(evaluations=[{"task": "held-out", "languages": ["sw", "xx"]}], rivals=["none"])
    )
    with pytest.raises(InputError, match="unknown language xx; this data has"):
        prepare(chosen, tmp_path / "chosen")


def test_a_profile_names_repairs_in_both_spellings() -> None:
    values = profile()
    repairs = values.pop("rivals", ["none", "centring"])
    assert Study(**values, repairs=repairs) == Study(**values, rivals=repairs)
