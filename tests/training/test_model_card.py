"""The model card: what the hub reads, what a reader is told, and code that runs as printed."""

import json
import re
import runpy
from pathlib import Path
from typing import Any

import ir_measures
import pandas as pd
import pyarrow as pa
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from sentence_transformers import SentenceTransformer
from tiny import build_tiny
from toy import IDS, judge, toy_pairs, toy_task

from xir_lib.data.records import RetrievalTask
from xir_lib.encoders.encoder import Encoder
from xir_lib.samplers.strategies import Strategy
from xir_lib.training.card import DEFINITIONS, hub_name, model_card, strategy_definition
from xir_lib.training.held_out import BIAS
from xir_lib.training.run import train
from xir_lib.training.settings import TrainSettings

SETTINGS = TrainSettings(
    strategy="hybrid-0.25",
    seed=1,
    steps=30,
    batch_size=8,
    learning_rate=3e-3,
    temperature=0.1,
    max_seq_length=16,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    encoder = str(build_tiny(tmp_path_factory.mktemp("encoder")))
    out = tmp_path_factory.mktemp("run") / "hybrid-0.25-s1"
    train(
        encoder,
        toy_pairs(IDS[8:]),
        SETTINGS,
        out,
        held_out=toy_pairs(IDS[:8]),
        data_name="the toys",
    )
    return out


@pytest.fixture(scope="module")
def run(trained: Path) -> dict[str, Any]:
    return json.loads((trained / "run.json").read_text())


def rows(text: str) -> dict[str, list[str]]:
    """Read the tables of the card: first cell -> the other cells."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    return {cells[0]: cells[1:] for cells in lines}


def test_the_hub_reads_the_front_matter(trained: Path, run: dict[str, Any]) -> None:
    data = ModelCard.load(trained / "README.md").data
    assert data.library_name == "sentence-transformers"
    assert "sentence-transformers" in data.tags
    assert data.language == ["xx", "yy", "zz"]
    assert data.base_model is None  # a folder, which the hub does not know
    named = model_card(
        {
            **run,
            "encoder": "bundled:multilingual-e5-small",
            "base_model": "intfloat/multilingual-e5-small",
        },
        "m",
    )
    assert ModelCard(named).data.base_model == "intfloat/multilingual-e5-small"


def test_norwegian_is_a_language_and_scripts_are_no_part_of_the_code(run: dict[str, Any]) -> None:
    pairs = {**run["pairs"], "languages": ["no", "zh-Hant"]}
    front = model_card({**run, "pairs": pairs}, "m").split("---")[1]
    assert yaml.safe_load(front)["language"] == ["no", "zh"]


def test_hub_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_name("org/model") is None  # a folder first, as `open_encoder` reads it
    assert hub_name("org/other") == "org/other"
    assert hub_name("bundled:multilingual-e5-small") == "intfloat/multilingual-e5-small"
    assert hub_name("bundled:multilingual-e5-small-first6") is None  # never an encoder of its own


def test_the_code_of_the_card_runs_and_ranks(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    code = re.search(r"```python\n(.*?)```", (trained / "README.md").read_text(), re.DOTALL)[1]
    assert len(code.splitlines()) == 5
    monkeypatch.chdir(trained.parent)
    names: dict[str, Any] = {}
    exec(code, names)
    model = SentenceTransformer(str(trained), device="cpu")
    expected = model.encode("query: What is the capital of Kenya?")
    torch.testing.assert_close(torch.tensor(names["queries"][0]), torch.tensor(expected))
    assert "tensor" in capsys.readouterr().out


def test_sentence_transformers_alone_ranks_as_the_evaluation_does(
    trained: Path, tmp_path: Path
) -> None:
    task = toy_task("toy", IDS)
    first = [
        text.split()[0] for text in task.queries["text"].to_pylist()
    ]  # one letter of the two: not all can be found
    task = RetrievalTask(
        "toy", task.queries.set_column(3, "text", pa.array(first)), task.passages, task.qrels
    )
    measured = judge(Encoder(str(trained)), task, tmp_path / "out")["settings"]
    model = SentenceTransformer(str(trained), device="cpu")
    asked, judged = task.queries.to_pylist(), task.passages.to_pylist()
    queries = model.encode_query([row["text"] for row in asked], normalize_embeddings=True)
    passages = model.encode_document([row["text"] for row in judged], normalize_embeddings=True)
    qrels = [ir_measures.Qrel(*row.values()) for row in task.qrels.to_pylist()]
    scores = {
        (query["query_id"], passage["doc_id"]): float(queries[i] @ passages[j])
        for i, query in enumerate(asked)
        for j, passage in enumerate(judged)
    }
    lang = {row["doc_id"]: row["lang"] for row in judged} | {
        row["query_id"]: row["lang"] for row in asked
    }
    for setting, pool in (
        ("multilingual", scores),
        ("monolingual", {k: v for k, v in scores.items() if lang[k[0]] == lang[k[1]]}),
    ):
        run = [
            ir_measures.ScoredDoc(query, passage, score) for (query, passage), score in pool.items()
        ]
        kept = [one for one in qrels if (one.query_id, one.doc_id) in pool]
        by_query = {
            one.query_id: one.value for one in ir_measures.iter_calc([ir_measures.AP], kept, run)
        }
        means = pd.Series(by_query).groupby(lang).mean()  # of a language, then of languages
        assert measured[setting]["mAP"] == pytest.approx(means.mean(), abs=1e-6)
    script = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "recommended.py"))
    by_evaluator = script["judged"](
        model, task, "float32"
    )  # what is published of the recommended model
    assert by_evaluator == pytest.approx(
        {name: measured[name]["mAP"] for name in by_evaluator}, abs=1e-6
    )
    assert 0.05 < measured["multilingual"]["mAP"] < 0.999


def test_the_card_says_what_the_record_says(trained: Path, run: dict[str, Any]) -> None:
    text = (trained / "README.md").read_text()
    cells = rows(text)
    for name, value in run["settings"].items():
        assert cells[name] == [f"`{value}`"]
    assert "with probability 0.25 a batch is `x-x-mono`" in text
    assert run["pairs_sha256"] in text
    assert "32 ids with 96 (id, language) rows in 3 languages: xx, yy, zz." in text
    assert str(trained.parent) not in text and run["encoder"] not in text  # no path of this machine
    assert sum(int(cells[lang][0]) for lang in ("xx", "yy", "zz")) == 30 * 8
    ranking = run["held_out_ranking"]
    assert [float(cell) for cell in cells["multilingual mAP"][:2]] == pytest.approx(
        [ranking[when]["multilingual mAP"] for when in ("before", "after")], rel=1e-3
    )
    # 8 ids in 3 languages: 24 passages, 3 relevant ones: at best ranks 1 to 3, at random (24 + 1) *
    # 2 / 4 apart. With its own language first a query's other two answers follow 8 passages at
    # best: ranks 1, 9 and 10.
    assert cells["rank distance"][2:] == ["2", "12.5", "9"]
    assert cells["own language first"][2:] == ["0.3333", "0.3333", "1"]
    assert {name: float(cells[name][1]) for name in BIAS.values()} == pytest.approx(
        {name: ranking["after"]["bias"][name]["mean"] for name in BIAS.values()}, rel=1e-3
    )
    assert "\n\nthe toys: " not in text and "the toys. 32 ids" in text
    assert "arXiv 2408.10536" in text and "Elmahdy" in text
    assert f"torch {run['environment']['torch']}" in text


def test_without_held_out_pairs_the_table_is_left_out(run: dict[str, Any]) -> None:
    text = model_card({**run, "held_out_loss": None, "held_out_ranking": None}, "m")
    assert "multilingual mAP" not in text
    assert "`xir evaluate --model" in text


def test_a_stopped_run_says_so(run: dict[str, Any]) -> None:
    stopped = {"curve": [[3, 1.0], [6, 2.0]], "best_step": 3}
    text = model_card({**run, "steps_trained": 6, "early_stopping": stopped}, "m")
    assert "30 steps at most, stopped after 6; the weights are those of step 3" in text


def test_every_strategy_is_defined() -> None:
    assert DEFINITIONS.keys() == set(Strategy)
    assert strategy_definition("es-es") == "every query and every passage is in es"
    assert "0.3" in strategy_definition("hybrid-row-0.3")
