"""Two gloo processes on the CPU: each trains on its own part of the sampler's batches, also after a
resume.

The file is its own launch script. torchrun runs it once in two processes, through every scenario,
since the imports take most of the time; the tests compare what reached the two losses with the
sampler's plan, and the weights bit for bit with those of an uninterrupted run and of one process.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from test_dropin import BATCH_SIZE, Batch, fit, planned
from test_resume import same_weights
from tiny import build_tiny

RANKS = (0, 1)
SAVED = 6  # 9 batches are 4 steps of two processes, so this is 2 steps into epoch 1

STILL: dict[str, Any] = {
    "max_steps": 4,
    "save_strategy": "steps",
    "save_steps": 4,
}  # one epoch of two processes


def worker(folder: Path) -> None:
    """Train in every scenario; write what this process saw."""
    encoder, seen = str(folder / "tiny"), {}
    shared: dict[str, Any] = {"ddp_backend": "gloo", "encoder": encoder}
    saving = {"save_strategy": "steps", "save_steps": SAVED}
    seen["whole"] = fit(folder / "whole", MultipleNegativesRankingLoss, **shared, **saving)
    checkpoint = folder / "whole" / f"checkpoint-{SAVED}"
    seen["resumed"] = fit(
        folder / "resumed",
        MultipleNegativesRankingLoss,
        resume=checkpoint,
        **shared,
        **saving,
    )
    still = shared | {"encoder": str(folder / "still")}
    seen["still"] = fit(folder / "two", MultipleNegativesRankingLoss, **still, **STILL)
    split = {"accelerator_config": {"split_batches": True}}
    seen["split"] = fit(folder / "split", MultipleNegativesRankingLoss, **shared, **split)
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(seen), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Launch the two processes; return the folder of what each saw and of the checkpoints."""
    folder = tmp_path_factory.mktemp("ddp")
    shutil.copytree(build_tiny(folder), folder / "still")
    config = json.loads((folder / "still" / "config.json").read_text(encoding="utf-8"))
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "still" / "config.json").write_text(json.dumps(config | dropout), encoding="utf-8")
    launch = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(len(RANKS)),
        __file__,
        str(folder),
    ]
    one_thread = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, *launch],
        env=os.environ | one_thread | path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def seen(folder: Path) -> list[dict[str, list[Batch]]]:
    """Return what each process saw, by scenario."""
    texts = [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in RANKS]
    return [
        {name: [[tuple(pair) for pair in batch] for batch in run] for name, run in of_rank.items()}
        for of_rank in texts
    ]


@pytest.mark.parametrize("rank", RANKS)
def test_a_process_gets_every_other_batch_of_the_plan(
    seen: list[dict[str, list[Batch]]], rank: int
) -> None:
    # batches 0, 2, 4, 6 go to rank 0 and 1, 3, 5, 7 to rank 1; the ninth has no partner and is
    # dropped
    first, second = (epoch[rank:8:2] for epoch in planned())
    assert seen[rank]["whole"] == first + second


@pytest.mark.parametrize("rank", RANKS)
def test_resuming_within_epoch_1_goes_on_in_epoch_1(
    seen: list[dict[str, list[Batch]]], rank: int
) -> None:
    assert seen[rank]["resumed"] == planned()[1][4 + rank : 8 : 2]


@pytest.mark.parametrize("rank", RANKS)
def test_split_batches_gives_a_process_its_half_of_every_batch(
    seen: list[dict[str, list[Batch]]], rank: int
) -> None:
    half = BATCH_SIZE // 2
    assert seen[rank]["split"] == [
        batch[rank * half : (rank + 1) * half] for epoch in planned() for batch in epoch
    ]


def test_a_resumed_run_ends_with_the_weights_of_the_whole_one(folder: Path) -> None:
    last, saved = (folder / "whole" / f"checkpoint-{step}" for step in (8, SAVED))
    assert same_weights(folder / "resumed" / "checkpoint-8", last)
    assert not same_weights(saved, last)  # else this would test nothing


def test_two_processes_end_with_the_weights_of_one_that_accumulates(folder: Path) -> None:
    """Halving is exact, so the mean of two gradients is the same either way; without dropout, whose
    draws differ.
    """
    one = {"gradient_accumulation_steps": 2, "encoder": str(folder / "still")}
    fit(folder / "one", MultipleNegativesRankingLoss, **STILL, **one)
    assert same_weights(folder / "one" / "checkpoint-4", folder / "two" / "checkpoint-4")
    assert not same_weights(folder / "still", folder / "two" / "checkpoint-4")


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
