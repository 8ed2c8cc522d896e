"""What `xir evaluate` writes for every repair and fit, for shards and for another system's run, as
it was.

A small random encoder judges a task with gaps, grades and six groups; the run has ties.
`evaluation.json` holds every `metrics.json` without its `config`, `per_query.parquet` every value
of every query. `python tests/nets/test_golden.py` writes both anew, which no change of code
should ask for.
"""

import json
import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from seam import PASSAGE_SCHEMA, QREL_SCHEMA, QUERY_SCHEMA, RetrievalTask

HERE = Path(__file__).parent
REPO = HERE.parents[1]
LANGS = ["en", "de", "sw", "yo"]
LETTERS = "abcdefghijklmnopqr"
REPAIRS = ["centring", "round-robin", "centring+round-robin"]
FITS = ["foreign", "corpus", "cross-fit"]
LEXICAL = ["bm25", "bm25-folded", "bm25-spaces", "bm25-pieces"]
FOLDERS = [
    *("", "round-robin", *LEXICAL, "few/centring", "shards", "run"),
    *("centring", "centring-corpus", "centring-cross-fit"),
    *(f"centring+round-robin{fit}" for fit in ("", "-corpus", "-cross-fit")),
]
LEFT_OUT = ("config", "model")  # versions, paths
GONE = ("kendall_w",)  # a measure that issue 27 takes out


def encoder(folder: Path) -> Path:
    """Save a random two-layer BERT that reads letters; the numbers come from NumPy's stable bit
    generator.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    pieces = [
        ("<s>", 0.0),
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("zzz", -30.0),
        ("▁", -2.5),
    ]
    pieces += [(letter, -3.0 - number / 10) for number, letter in enumerate(LETTERS)]
    pieces += [(f"▁{a}{b}", -4.0) for a, b in pairwise(LETTERS)] + [
        ("query:", -3.0),
        ("passage:", -3.0),
    ]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=40, **names
    ).save_pretrained(folder / "plain")
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    model = BertModel(
        BertConfig(vocab_size=len(pieces), max_position_embeddings=40, pad_token_id=1, **sizes)
    )
    bits = np.random.Philox(11).random_raw(
        sum(parameter.numel() for parameter in model.parameters())
    )
    uniform = (bits >> np.uint64(40)).astype(np.float32) / 2**24 - 0.5
    start = 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            part = uniform[start : start + parameter.numel()].reshape(parameter.shape)
            start += parameter.numel()
            if "LayerNorm.weight" in name:
                part = 1 + part / 4
            elif "word_embeddings" in name:
                part = part * 4  # texts differ by their words, far more than numbers are rounded
            parameter.copy_(torch.from_numpy(part.copy()))
    model.save_pretrained(folder / "plain")
    whole = SentenceTransformer(
        modules=[Transformer(str(folder / "plain")), Pooling(16, "mean"), Normalize()], device="cpu"
    )
    whole.prompts = {"query": "query: ", "passage": "passage: "}
    whole.save(str(folder / "encoder"), create_model_card=False)
    return folder / "encoder"


def task(name: str, first: int) -> RetrievalTask:
    """Return 30 ids of 6 groups in 4 languages; Yoruba has 20, one judgement in three is
    graded 2.
    """
    queries, passages, qrels = [], [], []
    ids = range(first, first + 30)
    for i in ids:
        letters = " ".join(LETTERS[(i * 7 + k * (1 + i % 5)) % 18] for k in range(4))
        langs = [lang for lang in LANGS if lang != "yo" or i % 3]
        for number, lang in enumerate(langs):
            key = f"{(i * 37) % 101:03}{'pqrs'[LANGS.index(lang)]}"
            mark = LETTERS[LANGS.index(lang)] * 2
            queries.append(
                {"query_id": f"q{key}", "pair_id": f"p{i}", "lang": lang, "group": f"g{i % 6}"}
            )
            queries[-1]["text"] = (
                f"{mark} {letters[: 5 + i % 3]} {LETTERS[i % 18]}{',' * (i % 7 == 0)}"
            )
            body = (
                letters.replace("c", "ç") if i % 4 == 0 else letters
            )  # what BM25's tokenizers differ on
            passages.append({"doc_id": f"d{key}", "lang": lang, "text": f"{body} {mark} {mark}"})
            for other in langs:
                doc = f"d{(i * 37) % 101:03}{'pqrs'[LANGS.index(other)]}"
                qrels.append(
                    {"query_id": f"q{key}", "doc_id": doc, "relevance": 1 + (i + number) % 3 // 2}
                )
    tables = zip(
        (queries, passages, qrels), (QUERY_SCHEMA, PASSAGE_SCHEMA, QREL_SCHEMA), strict=True
    )
    return RetrievalTask(
        name, *(pa.Table.from_pylist(rows, schema=schema) for rows, schema in tables)
    )


def run_file(judged: RetrievalTask, path: Path) -> None:
    """Write a complete run with ties: a score per passage out of the two ids."""
    docs = judged.passages["doc_id"].to_pylist()
    with path.open("w") as file:
        for row, query in enumerate(judged.queries["query_id"].to_pylist()):
            for column, doc in enumerate(docs):
                file.write(f"{query} Q0 {doc} 0 {(row * 13 + column * 29) % 53 / 7:.6f} other\n")


def made(folder: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """Judge in every way and return the metrics by folder and all values of all queries."""
    model, judged = encoder(folder), task("net", 0)
    judged.save(folder / "net")
    task("other", 30).save(folder / "other")
    run_file(judged, folder / "full.run")
    common = ["--task", str(folder / "net"), "--fit-on", str(folder / "other")]
    by_model = ["--model", str(model), "--precision", "float32"]
    repairs = [part for name in (*REPAIRS, *LEXICAL) for part in ("--rival", name)]
    fits = [part for name in FITS for part in ("--fit", name)]
    calls = {
        "": [*by_model, *repairs, *fits],
        "few": [*by_model, "--rival", "centring", "--fit-texts", "7"],
        "shards": [*by_model, "--shards", str(folder / "vectors")],
        "run": ["--run", str(folder / "full.run")],
    }
    environment = os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "XIR_OFFLINE": "1"}
    for name, options in calls.items():
        out = folder / "out" / name
        command = [
            sys.executable,
            "-m",
            "xir_lib",
            "evaluate",
            *common,
            *options,
            "--out",
            str(out),
        ]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    metrics, values = {}, []
    for name in FOLDERS:
        found = json.loads((folder / "out" / name / "metrics.json").read_text())
        metrics[name] = {key: value for key, value in found.items() if key not in LEFT_OUT}
        for key in GONE:
            metrics[name]["bias"].pop(key, None)
        values.append(
            pd.read_parquet(folder / "out" / name / "per_query.parquet").assign(folder=name)
        )
    return metrics, pd.concat(values, ignore_index=True)


def assert_same(stored: Any, found: Any, where: str) -> None:
    """Compare JSON values: numbers to 1e-6, of themselves if they are large."""
    if isinstance(stored, dict):
        assert stored.keys() == found.keys(), where
        for key, value in stored.items():
            assert_same(value, found[key], f"{where}/{key}")
    elif isinstance(stored, list):
        assert len(stored) == len(found), where
        for number, (one, other) in enumerate(zip(stored, found, strict=True)):
            assert_same(one, other, f"{where}/{number}")
    elif isinstance(stored, float):
        assert found == pytest.approx(stored, abs=1e-6, rel=1e-6), where
    else:
        assert stored == found, where


@pytest.fixture(scope="module")
def today(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], pd.DataFrame]:
    return made(tmp_path_factory.mktemp("net"))


def test_metrics_of_every_repair_and_fit_are_as_they_were(
    today: tuple[dict[str, Any], pd.DataFrame],
) -> None:
    stored = json.loads((HERE / "evaluation.json").read_text())
    assert len(stored) == len(FOLDERS)
    assert_same(stored, today[0], "")
    means = {name: metrics["settings"]["multilingual"]["mAP"] for name, metrics in stored.items()}
    assert len(set(means.values())) == len(means), (
        means
    )  # each net catches what the others let through


def test_values_of_every_query_are_as_they_were(today: tuple[dict[str, Any], pd.DataFrame]) -> None:
    stored, found = pd.read_parquet(HERE / "per_query.parquet"), today[1]
    keys = [name for name in stored.columns if name != "value"]
    stored, found = (
        table.astype(dict.fromkeys(keys, str)).sort_values(keys, ignore_index=True)
        for table in (stored, found)
    )
    pd.testing.assert_frame_equal(stored[keys], found[keys])
    np.testing.assert_allclose(found["value"], stored["value"], rtol=1e-6, atol=1e-6)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        all_metrics, all_values = made(Path(scratch))
    (HERE / "evaluation.json").write_text(json.dumps(all_metrics, separators=(",", ":")) + "\n")
    all_values.to_parquet(HERE / "per_query.parquet", index=False, compression="brotli")
