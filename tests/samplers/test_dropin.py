"""The sampler in a user's own `SentenceTransformerTrainer`: what reaches the loss is what the
sampler plans.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from toy import toy_pairs
from word_encoder import word_encoder

from xir_lib.samplers.dataset import PairDataset, batch_sampler_factory
from xir_lib.samplers.strategies import PairIndex, StrategyBatchSampler

Batch = list[tuple[str, str]]  # (query, passage)

PAIRS = toy_pairs()
EPOCHS, PER_EPOCH, BATCH_SIZE = 2, 9, 4


def sampler() -> StrategyBatchSampler:
    index = PairIndex.from_table(PAIRS)
    return StrategyBatchSampler(
        index, strategy="hybrid", batch_size=BATCH_SIZE, seed=5, num_batches=PER_EPOCH
    )


def planned() -> list[list[Batch]]:
    """Look the texts of each epoch's batches up, without trainer and data set."""
    rows, epochs, ours = PAIRS.table.to_pylist(), [], sampler()
    for epoch in range(EPOCHS):
        ours.set_epoch(epoch)
        epochs.append(
            [
                [(rows[query]["query"], rows[passage]["passage"]) for query, passage in batch]
                for batch in ours
            ]
        )
    return epochs


def recording(loss: type[Any], seen: list[Batch], tokenizer: Any) -> type[Any]:
    """Return the loss class, changed to note the texts of the token ids that reach it."""
    texts = [text for column in ("query", "passage") for text in PAIRS.table[column].to_pylist()]
    text_of = {tuple(tokenizer(text)["input_ids"]): text for text in texts}
    assert len(text_of) == len(texts)

    def decode(features: dict[str, torch.Tensor]) -> list[str]:
        rows = zip(features["input_ids"], features["attention_mask"], strict=True)
        return [text_of[tuple(ids[mask.bool()].tolist())] for ids, mask in rows]

    class Recording(loss):  # type: ignore[misc]
        def forward(self, sentence_features: Any, labels: Any) -> Any:
            columns = list(sentence_features)
            seen.append(list(zip(*map(decode, columns), strict=True)))
            return super().forward(columns, labels)

    return Recording


def fit(
    out: Path,
    loss: type[Any],
    *,
    encoder: str | None = None,
    resume: Path | None = None,
    **settings: Any,
) -> list[Batch]:
    """Train as a user would; return the texts of each batch that reached the loss."""
    seen: list[Batch] = []
    table = PAIRS.table
    texts = table["query"].to_pylist() + table["passage"].to_pylist()
    model = (
        SentenceTransformer(encoder, device="cpu") if encoder else word_encoder(out / "bert", texts)
    )
    args = SentenceTransformerTrainingArguments(
        output_dir=str(out),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH_SIZE,
        batch_sampler=batch_sampler_factory(sampler()),
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **{"save_strategy": "no"} | settings,
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=args,
        train_dataset=PairDataset.from_pairs(PAIRS),
        loss=recording(loss, seen, model.tokenizer)(
            model, **({"mini_batch_size": 3} if "Cached" in loss.__name__ else {})
        ),
    )
    trainer.train(resume_from_checkpoint=resume and str(resume))
    return seen


@pytest.mark.parametrize("loss", [MultipleNegativesRankingLoss, CachedMultipleNegativesRankingLoss])
def test_each_epoch_sees_its_own_batches_with_workers_and_accumulation(
    tmp_path: Path, loss: type[Any]
) -> None:
    seen = fit(tmp_path, loss, dataloader_num_workers=2, gradient_accumulation_steps=2)
    first, second = planned()
    assert seen == first + second
    assert all(batch not in first for batch in second)


def test_resuming_mid_epoch_continues_with_the_batches_of_the_uninterrupted_run(
    tmp_path: Path,
) -> None:
    settings: dict[str, Any] = {
        "gradient_accumulation_steps": 2,
        "save_strategy": "steps",
        "save_steps": 1,
    }
    whole = fit(tmp_path, MultipleNegativesRankingLoss, **settings)
    first, second = planned()
    assert whole == first + second
    # an epoch of 9 batches is 5 steps: step 2 has seen 4 batches of epoch 0, step 7 as many of
    # epoch 1
    for step, rest in ((2, first[4:] + second), (7, second[4:])):
        assert (
            fit(
                tmp_path,
                MultipleNegativesRankingLoss,
                resume=tmp_path / f"checkpoint-{step}",
                **settings,
            )
            == rest
        )


def test_the_speed_benchmark_runs_and_the_memory_target_holds() -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "sampler_speed.py"
    command = [sys.executable, str(script), "--rows", "2000", "--ids", "10000", "--repeats", "1"]
    result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    *lines, arrays = result["lines"]
    assert [line["sampler"] for line in lines] == ["ours", "NO_DUPLICATES", "NO_DUPLICATES_HASHED"]
    assert {(line["rows"], line["batches"]) for line in lines} == {
        (1995, 19)
    }  # 285 ids x 7 languages, 100 to a batch
    assert (
        9 < arrays["bytes_per_row"] < 24
    )  # row and passage code of 4 bytes each and a flag are the least it can be
