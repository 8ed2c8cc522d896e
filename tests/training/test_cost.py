"""The estimate against published parameter counts, a profiler that counts FLOPs, and hand
arithmetic.
"""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import build_tiny
from torch.utils.flop_counter import FlopCounterMode
from toy import toy_pairs
from transformers import AutoModel, BertConfig, XLMRobertaConfig

from xir_lib.errors import InputError
from xir_lib.training.cost import estimate, open_config, parameters, token_means

XLM_R, LABSE = "FacebookAI/xlm-roberta-base", "sentence-transformers/LaBSE"
RUN: dict[str, Any] = {"batch_size": 100, "steps": 1000, "query_tokens": 16, "passage_tokens": 96}


def test_published_parameter_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    # The Hub's counts: xlm-roberta-base 278,043,648 and bert-base-uncased 109,482,240. Both hold a
    # pooler, 768 x 768 + 768 = 590,592, which training here drops. XLM-R's token table is 250,002 x
    # 768 = 192,001,536.
    monkeypatch.setenv("XIR_OFFLINE", "1")
    config, source = open_config(XLM_R)
    assert source.startswith("published sizes")
    embeddings, other = parameters(config)
    assert embeddings + other + 590_592 == 278_043_648
    assert embeddings == 192_001_536 + 514 * 768 + 768
    assert round(other / 1e6) == 85
    assert sum(parameters(BertConfig())) + 590_592 == 109_482_240
    # LaBSE is BERT base with 501,153 pieces in place of 30,522.
    assert (
        sum(parameters(open_config(LABSE)[0])) - sum(parameters(BertConfig()))
        == (501_153 - 30_522) * 768
    )


def test_parameters_are_those_of_a_real_model() -> None:
    config = XLMRobertaConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
        type_vocab_size=1,
    )
    model = AutoModel.from_config(config, add_pooling_layer=False)
    assert sum(parameters(config)) == sum(value.numel() for value in model.parameters())


@pytest.mark.parametrize(("layers", "width", "tokens"), [(2, 128, 32), (3, 128, 200)])
def test_flops_are_those_that_torch_counts(layers: int, width: int, tokens: int) -> None:
    config = BertConfig(
        vocab_size=100,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=4 * width,
        max_position_embeddings=256,
        attn_implementation="eager",
    )
    model = AutoModel.from_config(config, add_pooling_layer=False)
    pairs = 3
    with FlopCounterMode(display=False) as counter:
        for length in (tokens, tokens // 4):
            model(
                input_ids=torch.zeros(pairs, length, dtype=torch.long)
            ).last_hidden_state.mean().backward()
    ours = estimate(
        config, batch_size=pairs, steps=1, query_tokens=tokens // 4, passage_tokens=tokens
    )
    # Biases and norms are in N and in no product: half a per cent at this width. Attention is a
    # fifth at 200 tokens.
    assert ours["flops"] == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_hours_and_memory_by_hand() -> None:
    config = open_config(XLM_R)[0]
    found = estimate(config, **RUN)
    # 100,000 pairs of 16 + 96 tokens; N = 85,056,000; 12 L h = 12 x 12 x 768 = 110,592.
    flops = 1e5 * (6 * 85_056_000 * 112 + 110_592 * (16**2 + 96**2))
    assert found["tokens"] == 11_200_000
    assert found["flops"] == pytest.approx(flops)
    assert found["gpu_hours"]["A100"] == pytest.approx(flops / (0.3 * 312e12) / 3600)
    assert found["gpu_hours"]["A100"] / found["gpu_hours"]["H100"] == pytest.approx(989 / 312)
    assert found["optimiser_gb"] == pytest.approx(277_453_056 * 16 / 1e9)  # all but the pooler
    again = estimate(config, **RUN, queries=2)  # 16 tokens more per pair
    assert again["tokens"] == 12_800_000
    assert again["flops"] - flops == pytest.approx(1e5 * (6 * 85_056_000 * 16 + 110_592 * 16**2))
    more = estimate(config, **RUN, passages=3)  # two hard negatives of 96 tokens per pair
    assert more["tokens"] == 30_400_000
    assert more["flops"] - flops == pytest.approx(1e5 * 2 * (6 * 85_056_000 * 96 + 110_592 * 96**2))


def test_a_folder_needs_no_weights(tmp_path: Path) -> None:
    folder = build_tiny(tmp_path)
    (folder / "model.safetensors").unlink()
    config, source = open_config(str(folder))
    assert (config.hidden_size, config.num_hidden_layers, source) == (
        16,
        2,
        f"configuration of {folder}",
    )
    # "query: a i n" is <s> query: ▁ a ▁ i ▁ n </s>: WhitespaceSplit cuts, every word gets its ▁,
    # and a letter alone is two pieces (no ▁a is in the vocabulary). "query:" is ▁ and query:. So 2
    # + 2 + 3 x 2 = 10; a passage has 5 words behind "passage:", 2 + 2 + 5 x 2 = 14.
    assert token_means(str(folder), toy_pairs(), max_seq_length=32) == (10, 14)
    assert token_means(str(folder), toy_pairs(), max_seq_length=12) == (10, 12)


def test_what_cannot_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XIR_OFFLINE", "1")
    for call in (open_config, lambda name: token_means(name, toy_pairs(), 32)):
        for name in ("nobody/nothing", str(tmp_path), "./no/such/folder"):
            with pytest.raises(InputError, match=r"^(cannot read the|no model folder)") as error:
                call(name)
            assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="cannot read the tokenizer"):
        token_means(XLM_R, toy_pairs(), 32)


def test_the_training_benchmark_s_share_of_a_device_s_peak() -> None:
    script = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "training_speed.py"))
    cost = {"flops": 4e14, "pairs": 200}  # 2e12 a pair
    assert script["flops_per_second"](312, cost, "NVIDIA A100-SXM4-80GB") == {
        "flops_per_second": 6.24e14,
        "share_of_peak": 2,
    }
    assert script["flops_per_second"](10, cost, "cpu") == {"flops_per_second": 2e13}
