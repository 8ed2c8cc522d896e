"""The evaluator gives an evaluation's numbers, and a training that is watched by it is the training
without it.
"""

import csv
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from tiny import build_tiny
from toy import toy_pairs, toy_task

from xir_lib.data.records import RetrievalTask
from xir_lib.encoders.encoder import Encoder
from xir_lib.evaluation.evaluate import evaluate
from xir_lib.evaluation.evaluator import MultilingualRetrievalEvaluator
from xir_lib.evaluation.systems import Dense
from xir_lib.samplers.dataset import PairDataset, batch_sampler_factory
from xir_lib.samplers.strategies import PairIndex, StrategyBatchSampler

KEYS = {"toy_monolingual_mAP", "toy_cross-lingual_mAP", "toy_multilingual_mAP", "toy_rank_distance"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return str(build_tiny(tmp_path_factory.mktemp("encoder")))


def test_the_numbers_are_those_of_an_evaluation(folder: str, tmp_path: Path) -> None:
    expected = evaluate(Dense(Encoder(folder), toy_task()), tmp_path / "out")
    model = SentenceTransformer(folder, device="cpu")  # as a user opens it
    found = MultilingualRetrievalEvaluator(toy_task())(model)
    assert found.keys() == KEYS
    for setting, values in expected["settings"].items():
        assert found[f"toy_{setting}_mAP"] == pytest.approx(values["mAP"], abs=1e-12)
    assert found["toy_rank_distance"] == pytest.approx(
        expected["bias"]["rank_distance"]["mean"], abs=1e-9
    )
    assert (
        MultilingualRetrievalEvaluator(toy_task(), prompts=("passage: ", "query: "))(model) != found
    )  # the prompts reach the model


def test_modes_and_generators_stay_and_a_csv_only_where_asked(folder: str, tmp_path: Path) -> None:
    model = SentenceTransformer(folder, device="cpu").train()
    model[0].model.embeddings.eval()  # a user's frozen part
    modes = {name: module.training for name, module in model.named_modules()}
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    states = torch.get_rng_state(), numpy_state, random.getstate()
    evaluator = MultilingualRetrievalEvaluator(toy_task(), name="")
    first = evaluator(model)
    assert (torch.get_rng_state() == states[0]).all()
    assert (np.random.get_state()[1] == states[1]).all() and random.getstate() == states[2]  # noqa: NPY002
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert len(set(modes.values())) == 2
    assert evaluator.primary_metric == "multilingual_mAP" and evaluator.greater_is_better
    assert not list(tmp_path.iterdir())
    assert (
        evaluator(model, str(tmp_path), 0.5, 3) == evaluator(model, str(tmp_path), 1.0, 6) == first
    )
    with (tmp_path / "multilingual_retrieval_evaluation_results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row.pop("epoch"), row.pop("steps")) for row in rows] == [("0.5", "3"), ("1.0", "6")]
    assert [{name: float(value) for name, value in row.items()} for row in rows] == [first, first]


def test_a_task_without_parallel_answers_has_no_distance(folder: str) -> None:
    task = toy_task()
    own = [
        a == b
        for a, b in zip(
            task.qrels["query_id"].to_pylist(), task.qrels["doc_id"].to_pylist(), strict=True
        )
    ]
    mono = RetrievalTask("toy", task.queries, task.passages, task.qrels.filter(pa.array(own)))
    assert MultilingualRetrievalEvaluator(mono)(
        SentenceTransformer(folder, device="cpu")
    ).keys() == {
        "toy_monolingual_mAP",
        "toy_multilingual_mAP",
    }


class Blind(BaseEvaluator):
    """Looks at nothing; the trainer's own evaluation loop draws random numbers with any
    evaluator.
    """

    primary_metric = "toy_multilingual_mAP"

    def __init__(self) -> None: ...

    def __call__(self, model: SentenceTransformer, *_: object, **__: object) -> dict[str, float]:
        return {"toy_multilingual_mAP": 0.0}


def train(
    folder: str, out: Path, evaluator: BaseEvaluator
) -> tuple[SentenceTransformerTrainer, dict[str, torch.Tensor]]:
    pairs = toy_pairs()
    sampler = StrategyBatchSampler(
        PairIndex.from_table(pairs), strategy="x-y", batch_size=8, seed=1, num_batches=12
    )
    torch.manual_seed(0)
    model = SentenceTransformer(folder, device="cpu")
    args = SentenceTransformerTrainingArguments(
        str(out),
        max_steps=12,
        per_device_train_batch_size=8,
        batch_sampler=batch_sampler_factory(sampler),
        learning_rate=3e-3,
        report_to=[],
        use_cpu=True,
        eval_strategy="steps",
        eval_steps=4,
        save_strategy="steps",
        save_steps=4,
        load_best_model_at_end=True,
        metric_for_best_model="eval_toy_multilingual_mAP",
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=args,
        train_dataset=PairDataset.from_pairs(pairs),
        loss=MultipleNegativesRankingLoss(model, scale=20),
        evaluator=evaluator,
    )
    trainer.train()
    return trainer, load_file(out / "checkpoint-12" / "model.safetensors")


def test_inside_a_user_s_training(folder: str, tmp_path: Path) -> None:
    trainer, weights = train(
        folder, tmp_path / "watched", MultilingualRetrievalEvaluator(toy_task())
    )
    _, unwatched = train(folder, tmp_path / "blind", Blind())
    logged = [entry for entry in trainer.state.log_history if "eval_toy_multilingual_mAP" in entry]
    assert [entry["step"] for entry in logged] == [4, 8, 12]
    assert {key for key in logged[0] if key.startswith("eval_toy")} == {
        f"eval_{key}" for key in KEYS
    }
    scores = [entry["eval_toy_multilingual_mAP"] for entry in logged]
    assert (
        trainer.state.best_metric == max(scores) == scores[-1] > scores[0]
    )  # separable: it learns, so the last is best
    assert all((weights[name] == value).all() for name, value in unwatched.items())
    [path] = (tmp_path / "watched" / "eval").glob("*.csv")
    assert (
        path.name == "multilingual_retrieval_evaluation_toy_results.csv"
        and path.read_text().count("\n") == 4
    )
