"""The study's path from LAReQA's files to its averages, against a literal and slow evaluation of
the same files.

The oracle follows the description of LAReQA (Roy et al. 2020) and shares no code with the package:
every sentence of every paragraph is a candidate, a question's answer is the sentence that holds the
start of its answer, in each language of the pool, all candidates are ranked, and a question scores
the average precision of that ranking. Vectors are small random whole numbers drawn from the names
of texts: exact products, many ties, which the candidates' ids break in reverse order.
"""

import json
import os
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy import vector_ranks

from xir_lib.data import lareqa
from xir_lib.data.records import RetrievalTask
from xir_lib.metrics import measures as metrics
from xir_lib.metrics.ranks import RelevantRanks
from xir_lib.metrics.scores import tie_order


def vector(name: str) -> np.ndarray:
    return np.append(np.random.default_rng(zlib.crc32(name.encode())).integers(-3, 4, 5), 1)


def literal_lareqa(files: dict[str, Any]) -> dict[tuple[str, str, str], float]:
    """Return (question id, its language, pool) -> average precision over the full ranking of the
    pool.
    """
    candidates: dict[str, dict[str, np.ndarray]] = {lang: {} for lang in files}
    gold: dict[tuple[str, str], str] = {}
    for lang, file in files.items():
        for a, article in enumerate(file["data"]):
            for p, paragraph in enumerate(article["paragraphs"]):
                for s, (start, end) in enumerate(paragraph["sentence_breaks"]):
                    name = f"{a:03d}-{p:02d}-{s:02d}-{lang}"
                    candidates[lang][name] = vector(name)
                    for question in paragraph["qas"]:
                        if start <= question["answers"][0]["answer_start"] < end:
                            gold[question["id"], lang] = name
    scores = {}
    for pool in [*files, "all"]:
        inside = [pool] if pool != "all" else list(files)
        names = [name for lang in inside for name in candidates[lang]]
        matrix = np.array([candidates[name.rsplit("-", 1)[1]][name] for name in names])
        for question, query_lang in gold:
            relevant = {gold[question, lang] for lang in inside if (question, lang) in gold}
            if not relevant:
                continue
            product = (matrix @ vector(f"{question}-{query_lang}")).tolist()
            ranking = sorted(zip(product, names, strict=True), reverse=True)
            found, total = 0, 0.0
            for position, (_, name) in enumerate(ranking, 1):
                if name in relevant:
                    found += 1
                    total += found / position
            scores[question, query_lang, pool] = total / len(relevant)
    return scores


def averages(scores: dict[tuple[str, str, str], float]) -> dict[str, dict[str, dict[str, float]]]:
    """Return macro and micro -> setting -> mAP: over the cells of (query language, pool), and over
    all questions.
    """
    settings: dict[str, dict[tuple[str, str], list[float]]] = {}
    for (_, query_lang, pool), value in scores.items():
        name = (
            "multilingual"
            if pool == "all"
            else "monolingual"
            if pool == query_lang
            else "cross-lingual"
        )
        settings.setdefault(name, {}).setdefault((query_lang, pool), []).append(value)
    return {
        "macro": {
            name: {"mAP": float(np.mean([np.mean(c) for c in cells.values()]))}
            for name, cells in settings.items()
        },
        "micro": {
            name: {"mAP": float(np.mean(np.concatenate(list(cells.values()))))}
            for name, cells in settings.items()
        },
    }


def judged_rows(task: RetrievalTask) -> tuple[list[int], list[int]]:
    query_row = {name: row for row, name in enumerate(task.queries["query_id"].to_pylist())}
    doc_row = {name: row for row, name in enumerate(task.passages["doc_id"].to_pylist())}
    judgements = task.qrels.to_pylist()
    return [query_row[j["query_id"]] for j in judgements], [
        doc_row[j["doc_id"]] for j in judgements
    ]


def check(name: str, folder: Path, languages: list[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Compare every score and average of both ways and return the averages."""
    oracle = literal_lareqa(
        {
            lang: json.loads((folder / f"{lang}.json").read_text(encoding="utf-8"))
            for lang in languages
        }
    )
    task = lareqa.load_task(name, languages, folder)
    doc_ids = task.passages["doc_id"].to_pylist()
    ranks = vector_ranks(
        np.array([vector(query_id) for query_id in task.queries["query_id"].to_pylist()]),
        np.array([vector(doc_id) for doc_id in doc_ids]),
        np.searchsorted(task.languages, task.passages["lang"].to_numpy(zero_copy_only=False)),
        *judged_rows(task),
        tie_order(doc_ids),
    )
    per_query = metrics.score_settings(ranks, task.queries.to_pandas(), task.languages, ["mAP"])
    ours = {(row.pair_id, row.query_lang, row.pool): row.value for row in per_query.itertuples()}
    assert ours == pytest.approx(oracle, abs=1e-12, rel=0)
    expected = averages(oracle)
    for average, found in (
        ("macro", metrics.macro(per_query)),
        ("micro", metrics.micro(per_query)),
    ):
        assert found.keys() == expected[average].keys()
        for setting, values in expected[average].items():
            assert found[setting] == pytest.approx(values, abs=1e-12, rel=0)
    return expected


def made_up(folder: Path, languages: list[str], rng: np.random.Generator) -> None:
    """Write files of three articles with unequal sentences; an id lacks a language with probability
    .3.
    """
    shape = [
        [int(n) for n in rng.integers(1, 4, rng.integers(1, 3))] for _ in range(3)
    ]  # questions per paragraph
    for lang in languages:
        articles = []
        for a, paragraphs in enumerate(shape):
            made = []
            for p, n_questions in enumerate(paragraphs):
                lengths = rng.integers(2, 9, rng.integers(1, 6))
                ends = np.cumsum(lengths + 1)  # a space between two sentences
                breaks = [
                    [int(end - length - 1), int(end - 1)]
                    for length, end in zip(lengths, ends, strict=True)
                ]
                context = " ".join("x" * (length - 1) + "." for length in lengths)
                qas = []
                for q in range(n_questions):
                    start, end = breaks[rng.integers(len(breaks))]
                    answer = {"text": "", "answer_start": int(rng.integers(start, end))}
                    if lang == languages[0] or rng.random() < 0.7:
                        qas.append(
                            {
                                "id": f"{a}{p}{q}",
                                "question": f"{lang} {a}{p}{q}?",
                                "answers": [answer],
                            }
                        )
                sentences = [context[start:end] for start, end in breaks]
                made.append(
                    {
                        "context": context,
                        "sentence_breaks": breaks,
                        "sentences": sentences,
                        "qas": qas,
                    }
                )
            articles.append({"title": f"{a}", "paragraphs": made})
        (folder / f"{lang}.json").write_text(json.dumps({"data": articles}), encoding="utf-8")


@pytest.mark.parametrize("seed", range(5))
def test_made_up_files(tmp_path: Path, seed: int) -> None:
    languages = ["en", "ar", "zh"]
    made_up(tmp_path, languages, np.random.default_rng(seed))
    expected = check("mlqa-r", tmp_path, languages)
    for setting in metrics.SETTINGS:  # the cells differ in size: the two averages are two numbers
        assert abs(expected["macro"][setting]["mAP"] - expected["micro"][setting]["mAP"]) > 1e-5


@pytest.fixture
def real() -> Path:
    folder = Path(os.environ.get("XIR_DATA", "/nowhere"))
    if not all((folder / name).is_dir() for name in ("xquad-r", "mlqa-r")):
        pytest.skip("XIR_DATA names no folder with xquad-r and mlqa-r")
    return folder


def test_two_articles_of_xquad_r(tmp_path: Path, real: Path) -> None:
    languages = sorted(lareqa.LANGUAGES["xquad-r"])
    for lang in languages:
        whole = json.loads((real / "xquad-r" / f"{lang}.json").read_text(encoding="utf-8"))
        (tmp_path / f"{lang}.json").write_text(
            json.dumps({"data": whole["data"][:2]}), encoding="utf-8"
        )
    expected = check("xquad-r", tmp_path, languages)
    for setting in metrics.SETTINGS:  # every id is in every language: the two averages are one
        assert expected["macro"][setting] == pytest.approx(expected["micro"][setting])


@pytest.mark.parametrize(("name", "rows"), [("xquad-r", (11, 110, 11)), ("mlqa-r", (7, 42, 7))])
def test_every_row_of_the_tables_over_the_ids_of_both_languages(
    real: Path, name: str, rows: tuple[int, int, int]
) -> None:
    task = lareqa.load_task(name, folder=real / name)
    query, doc = (np.array(row) for row in judged_rows(task))
    doc_lang = np.searchsorted(task.languages, task.passages["lang"].to_numpy(zero_copy_only=False))
    best = np.zeros(
        (len(query), len(task.languages)), np.int32
    )  # nothing outranks anything: rows depend on judgements only
    ranks = RelevantRanks(
        query, doc, doc_lang[doc], best, np.bincount(doc_lang), task.queries.num_rows
    )
    per_query = metrics.score_settings(ranks, task.queries.to_pandas(), task.languages, ["mAP"])
    assert (
        tuple(Counter(metrics.cells(per_query)["setting"])[setting] for setting in metrics.SETTINGS)
        == rows
    )
    ids = {}
    for lang in task.languages:
        file = json.loads((real / name / f"{lang}.json").read_text(encoding="utf-8"))
        ids[lang] = {
            q["id"]
            for article in file["data"]
            for paragraph in article["paragraphs"]
            for q in paragraph["qas"]
        }
    sizes = per_query.groupby(["query_lang", "pool"], observed=True).size().to_dict()
    expected = {(a, b): len(ids[a] & ids[b]) for a in ids for b in ids}
    assert sizes == expected | {(a, "all"): len(ids[a]) for a in ids}
