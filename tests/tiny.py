"""A random encoder of two layers, small enough to be built, trained and searched in a test."""

from itertools import pairwise
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

LETTERS = "abcdefghijklmnop"
TEXTS = ["ab", "c de", "ab ab ab ab c", "☃ a", "e d c b a"]


def build_tiny(folder: Path, letters: str = LETTERS, length: int = 32) -> Path:
    """Save a random two-layer BERT whose vocabulary is `letters`, some pairs of them, and an unused
    worst piece.
    """
    pieces = [("x", -9.0), ("y", -9.0)]  # never used, so that trimming moves the special pieces too
    pieces += [
        ("<s>", 0.0),
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("zzz", -30.0),
        ("▁", -2.5),
    ]
    pieces += [(letter, -3.0 - number / 10) for number, letter in enumerate(letters)]
    pieces += [(f"▁{a}{b}", -4.0) for a, b in pairwise(letters)]
    pieces += [("query:", -3.0), ("passage:", -3.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=5, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 4)]
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=length, **names
    ).save_pretrained(folder / "plain")
    config = BertConfig(
        vocab_size=len(pieces) + 5,  # more rows than pieces, as in XLM-R's relatives
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=length,
        pad_token_id=3,
    )
    torch.manual_seed(3)
    BertModel(config).save_pretrained(folder / "plain")
    transformer = Transformer(str(folder / "plain"))
    model = SentenceTransformer(
        modules=[transformer, Pooling(16, "mean"), Normalize()], device="cpu"
    )
    model.prompts = {"query": "query: ", "passage": "passage: "}
    model.save(str(folder / "tiny"), create_model_card=False)
    return folder / "tiny"
