"""One evaluation: a model and a task in, exact per-query values and language bias out.

Section 3 of arXiv 2408.10536: mAP over the full ranking, R@1 and R@10 in the monolingual,
cross-lingual and multilingual setting, and the rank distance of the parallel answers. Knows no
particular data set; embeddings are kept by content, so a rival on the same model, or a second
task's means, costs no second encoding.
"""

import copy
import json
import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from xir_lib.data import lareqa
from xir_lib.data.records import RetrievalTask, grades, relevant_rows
from xir_lib.encoders.encoder import Encoder, encoder_key
from xir_lib.encoders.precision import Precision, Rates
from xir_lib.errors import InputError
from xir_lib.evaluation import bm25, parts, shards, trec
from xir_lib.metrics import bias
from xir_lib.metrics import measures as metrics
from xir_lib.metrics import pairs as robustness
from xir_lib.metrics import ranks as retrieval
from xir_lib.paths import atomic_path
from xir_lib.record import environment, write_json
from xir_lib.repair import fit as fitting
from xir_lib.repair.maps import FITS, Rival, is_rival, parse_rival, refuse_rank, result_folder
from xir_lib.repair.merge import round_robin_ranks

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)
TOP = 10  # first places whose languages are counted (language share)
FILES = (
    "metrics.json",
    "rows.csv",
    "per_query.parquet",
    "group_sums.parquet",
    "run.trec",
    "qrels.trec",
)
DRAWS = 5  # samples of the same size in a curve
COUNTED, LONG_WORD = (
    500,
    15,
)  # passages per language whose words are counted; characters of a mean word


def evaluate(
    encoder: Encoder | trec.Run,
    task: RetrievalTask,
    out: Path,
    *,
    rival: str = "none",
    fit: str = "foreign",
    fit_on: Sequence[RetrievalTask] = (),
    fit_texts: int | None = None,
    trec_run: int = 0,
    in_shards: Path | None = None,
    config: dict[str, Any] | None = None,
    shared: dict[Any, Any] | None = None,
) -> dict[str, Any]:
    """Rank every query of `task` and write `metrics.json`, `rows.csv`, `per_query.parquet` and
    `group_sums.parquet` to `out`.

    Args:
        encoder: gives the vectors; BM25 takes at most its tokenizer. Or the rankings of another
        system, without rivals.
        task: what is judged.
        out: the folder of the files.
        rival: a name of `rivals.parse_rival`.
        fit: where the means or directions of `centring` and `lir-R` come from, one of `FITS`.
        fit_on: the tasks that `foreign`, and for queries `corpus`, take texts from: the first that
        has a language counts.
        fit_texts: at most so many texts per language and role, the first in the order of a hash of
        their ids.
        trec_run: also write the top `trec_run` of the pool of all languages as `run.trec`, and the
            judgements as `qrels.trec`: what trec_eval and ir_measures read.
        in_shards: a folder for the passages' vectors as float16 files, ranked one after another
            (`shards`): for pools that do not fit in memory. Not with a rival.
        config: more for the result's key.
        shared: one dictionary for all rivals of an encoder on a task; it keeps the ranks that a
            merge of languages and the same vectors without it have in common.

    Returns what `metrics.json` holds.
    """
    chosen = parse_rival(rival)
    check_rival(task, chosen, fit, fit_on)
    run = encoder if isinstance(encoder, trec.Run) else None
    if run and (in_shards or rival != "none"):
        raise InputError(
            f"{run.name} is a ranking and has no vectors; leave out the rival and the shards, or"
            " give a model"
        )
    if in_shards and rival != "none":
        raise InputError(
            f"rival {rival!r} needs all vectors in memory; leave out the shards or the rival"
        )
    if trec_run:
        trec.check_ids(task)
    out = Path(out)
    for name in ("metrics.json", "run.trec", "qrels.trec"):
        (out / name).unlink(
            missing_ok=True
        )  # so that a break never leaves one model's numbers beside another's
    queries = task.queries.to_pandas()
    doc_langs = np.searchsorted(
        task.languages, task.passages["lang"].to_numpy(zero_copy_only=False)
    )
    ties = retrieval.tie_order(task.passages["doc_id"].to_pylist())
    judged = relevant_rows(task)
    top = min(TOP, task.passages.num_rows)
    best: parts.Best | None = None
    vectors: list[fitting.Shifted] = []
    fitted: dict[str, Any] | None = None
    shared, key = {} if shared is None else shared, (chosen.rank, fit, fit_texts)
    by_vectors = isinstance(encoder, Encoder) and not chosen.lexical and not in_shards
    sharing = by_vectors and chosen.merge in (None, "round-robin")
    if (
        isinstance(encoder, Encoder)
        and by_vectors
        and not (sharing and key in shared and not trec_run)
    ):
        vectors, fitted = _vectors(encoder, task, chosen, fit, fit_on, fit_texts)

    def scored() -> Iterator[parts.Part]:
        if isinstance(encoder, trec.Run):
            return encoder.scored()
        if chosen.lexical:
            return parts.bm25_parts(*tokens(encoder, task, chosen), doc_langs)
        return (
            parts.merged_parts(vectors, doc_langs, ties, chosen.merge)
            if chosen.merge
            else parts.plain_parts(vectors)
        )

    if isinstance(encoder, Encoder) and in_shards:
        together, best = _rank_in_shards(
            encoder, task, in_shards, doc_langs, ties, top, max(top, trec_run)
        )
        apart = together
    elif sharing:
        if key not in shared:
            plain = parts.plain_parts(vectors)
            shared[key] = (
                parts.ranks_of(plain, doc_langs, *judged, ties, gains=grades(task), top=top)[0],
                fitted,
            )
        apart, fitted = shared[key]
        together = round_robin_ranks(apart, top) if chosen.merge else apart
    else:
        apart, together = parts.ranks_of(
            scored(), doc_langs, *judged, ties, gains=grades(task), top=top
        )
    per_query = _score(apart, together, queries, task.languages)
    result = {
        "task": task.name,
        "model": rival if rival in bm25.TOKENIZERS else encoder.name,
        "settings": metrics.macro(per_query),
        "micro": metrics.micro(per_query),
        "recall_ceilings": metrics.recall_ceilings(together, queries),
        "bias": bias.bias_card(together, queries, task.languages),
        **_robustness(apart, together, queries, task.languages),
        "counts": {
            "queries": task.queries.num_rows,
            "passages": task.passages.num_rows,
            "languages": task.languages,
        },
        **(
            {"tokens_per_word": tokens_per_word(encoder, task)}
            if isinstance(encoder, Encoder) and rival == "none"
            else {}
        ),
        "config": {
            "rival": rival,
            "rival_fit": fitted,
            **_system_key(encoder, chosen),
            "context": context_of(task),
            **({"passage_vectors": "float16"} if in_shards else {}),
            "environment": environment(*_computed_in(encoder, chosen)),
            **(config or {}),
        },
    }
    with atomic_path(out / "rows.csv") as temporary:
        metrics.cells(per_query).to_csv(
            temporary, index=False, float_format="%.6g", lineterminator="\n"
        )
    if (
        "rank_distance" in result["bias"]
    ):  # refused where the pool is not parallel: MIRACL, a mixed pool
        per_query = metrics.stack([per_query, bias.rank_distance(together, queries)])
    for name, table in (("per_query", per_query), ("group_sums", metrics.group_sums(per_query))):
        with atomic_path(out / f"{name}.parquet") as temporary:
            table.to_parquet(temporary, index=False)
    if trec_run:
        doc_ids = task.passages["doc_id"].to_pylist()
        rows, scores = best or parts.top_of(scored(), len(queries), doc_ids, trec_run)
        trec.write_run(out / "run.trec", task, rows[:, :trec_run], scores[:, :trec_run])
        trec.write_qrels(out / "qrels.trec", task)
    write_json(
        out / "metrics.json", result
    )  # last: its presence says that the evaluation is complete
    return result


def tokens_per_word(encoder: Encoder, task: RetrievalTask) -> dict[str, float | None]:
    """Return per passage language how many pieces the model's tokenizer cuts a word into, over the
    first `COUNTED` passages.

    Words are what white space separates, and None stands where that makes words of more than
    `LONG_WORD` characters, as in Thai or Chinese. Many pieces per word are what a vocabulary gives
    a language that it was hardly trained on. Empty where the model's tokenizer cuts no single texts
    (`bm25.pieces`).
    """
    found: dict[str, float | None] = {}
    if not callable(encoder.model.tokenizer):
        return found
    langs = task.passages["lang"].to_numpy(zero_copy_only=False)
    for lang in task.languages:
        texts = task.passages["text"].take(np.flatnonzero(langs == lang)[:COUNTED]).to_pylist()
        words, characters = (
            sum(len(text.split()) for text in texts),
            sum(len("".join(text.split())) for text in texts),
        )
        pieces = sum(map(len, bm25.pieces(encoder.model, texts)))
        found[lang] = pieces / words if words and characters <= LONG_WORD * words else None
    return found


def fit_curve(
    encoder: Encoder,
    task: RetrievalTask,
    fit_on: Sequence[RetrievalTask],
    counts: Sequence[int],
    *,
    rival: str = "centring",
    draws: int = DRAWS,
) -> pd.DataFrame:
    """Measure how many texts per language a foreign fit needs.

    For every count, `draws` samples of so many texts per language and role are fitted and scored;
    the vectors are computed once. A language that has fewer texts gives all of them, and a count
    that no language exceeds is drawn once.

    Returns one row per (texts, setting, measure): rival, texts (0 for the vectors as they are),
    fewest (the least that a language or role really gave), draws, and over the draws the mean, sd
    (NaN for one draw), lowest and highest macro value. The spread is that of the sample of texts,
    not of queries or of seeds; it also falls as a count nears what there is, where the samples
    overlap.
    """
    chosen = parse_rival(rival)
    if chosen.rank is None or chosen.merge:
        raise InputError(
            f"rival {rival!r} has no curve; use centring or lir-R, whose means or directions are"
            " fitted"
        )
    if not counts or min(counts) < 1 or draws < 1:
        raise InputError(
            f"a curve needs counts of texts and draws of at least 1, got {list(counts)} and {draws}"
        )
    check_rival(task, chosen, "foreign", fit_on)
    vectors = encoder.encode_task(task)
    asking = fitting.foreign_texts(encoder, "queries", set(vectors.query_langs), fit_on)
    answering = fitting.foreign_texts(encoder, "passages", set(vectors.passage_langs), fit_on)
    queries = task.queries.to_pandas()
    doc_langs = np.searchsorted(task.languages, vectors.passage_langs)
    judged, ties = (
        relevant_rows(task),
        retrieval.tie_order(task.passages["doc_id"].to_pylist()),
    )
    gains, everything = grades(task), np.arange(len(queries))
    largest = max(
        count["texts"] for texts in (asking, answering) for count in texts.counts().values()
    )
    rows = []
    for count in sorted({0, *counts}):
        for draw in range(draws if 0 < count < largest else 1):
            shifted, fewest = fitting.Shifted(everything, vectors.queries, vectors.passages), 0
            if count:
                sampled = asking.sample(count, draw), answering.sample(count, draw)
                shifted = fitting.shift(vectors, everything, *sampled, chosen.rank)
                fewest = min(
                    found["texts"] for texts in sampled for found in texts.counts().values()
                )
            both = parts.ranks_of(
                parts.plain_parts([shifted]), doc_langs, *judged, ties, gains=gains
            )
            for setting, values in metrics.macro(_score(*both, queries, task.languages)).items():
                rows += [
                    (rival, count, fewest, setting, measure, value)
                    for measure, value in values.items()
                ]
    table = pd.DataFrame(rows, columns=["rival", "texts", "fewest", "setting", "measure", "value"])
    grouped = table.groupby(["rival", "texts", "fewest", "setting", "measure"], sort=False)["value"]
    return grouped.agg(
        draws="count", mean="mean", sd="std", lowest="min", highest="max"
    ).reset_index()


def write_fit_curves(
    path: Path,
    encoder: Encoder,
    task: RetrievalTask,
    fit_on: Sequence[RetrievalTask],
    counts: Sequence[int],
    rivals: Sequence[str],
) -> None:
    """Write the `fit_curve` of several rivals as one CSV."""
    table = pd.concat(
        [fit_curve(encoder, task, fit_on, counts, rival=rival) for rival in rivals],
        ignore_index=True,
    )
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)


def check_rival(
    task: RetrievalTask, rival: Rival, fit: str, fit_on: Sequence[RetrievalTask]
) -> None:
    """Refuse an unknown fit, and a rival that lacks texts for its fit (`fitting.check_fit`); most
    rivals need none.
    """
    if fit not in FITS:
        raise InputError(f"unknown fit {fit!r}; use {', '.join(FITS)}")
    if rival.rank is not None:
        fitting.check_fit(task, fit, fit_on)


def check_rank(encoder: Encoder, rivals: Iterable[Rival]) -> None:
    """Refuse lir-R with as many directions as the encoder has dimensions, before anything is
    encoded.
    """
    for rival in rivals:
        if rival.rank:
            refuse_rank(rival.rank, encoder.model.get_embedding_dimension() or 0)


def plan(
    task: RetrievalTask,
    rivals: Sequence[Rival],
    fits: Sequence[str],
    sources: Sequence[RetrievalTask],
) -> dict[str, dict[str, Any]]:
    """Return `evaluate`'s rival, fit and fit_on per folder: the plain evaluation in "", then every
    rival with every fit.

    Refuses what `check_rival` refuses, before anything is computed.
    """
    runs: dict[str, dict[str, Any]] = {}
    for rival in (Rival("none"), *rivals):
        for fit in fits:
            fit_on = () if fit == "cross-fit" and len(fits) > 1 else sources
            check_rival(task, rival, fit, fit_on)
            runs.setdefault(
                result_folder(rival.name, fit), {"rival": rival.name, "fit": fit, "fit_on": fit_on}
            )
    return runs


def remove_stale(out: Path, keep: Collection[str]) -> None:
    """Remove the results of rivals in `out` that are not in `keep`, and the curve: they may be of
    another model.
    """
    (Path(out) / "fit_curve.csv").unlink(missing_ok=True)
    for folder in [file.parent for file in Path(out).glob("*/metrics.json")]:
        name = re.sub(f"-({'|'.join(FITS[1:])})$", "", folder.name)
        if name != "none" and folder.name not in keep and is_rival(name):
            for file in FILES:  # what else somebody put there stays
                (folder / file).unlink(missing_ok=True)
            if not any(folder.iterdir()):
                folder.rmdir()


def _rank_in_shards(
    encoder: Encoder,
    task: RetrievalTask,
    folder: Path,
    doc_langs: np.ndarray,
    ties: np.ndarray,
    top: int,
    depth: int,
) -> tuple[retrieval.RelevantRanks, parts.Best]:
    """Return the ranks with the language counts of the first `top`, and the first `depth` passages
    of every query.
    """
    asking = encoder.encode_table(task.queries, "query", f"{task.name} queries")
    uncached = copy.copy(encoder)
    uncached.cache = None  # the shards are the cache
    stored = shards.encode_corpus(uncached, task.passages["text"], folder)
    ranks = shards.ranks_in_shards(stored, asking, doc_langs, *relevant_rows(task), ties)
    best = shards.search_shards(stored, asking, depth, ties)
    first = doc_langs[best[0][:, :top]]  # (n_queries, top)
    counts = np.stack(
        [np.count_nonzero(first == code, axis=1) for code in range(len(task.languages))], axis=1
    )
    return replace(ranks, gains=grades(task), top_counts=counts), best


def _vectors(
    encoder: Encoder,
    task: RetrievalTask,
    rival: Rival,
    fit: str,
    fit_on: Sequence[RetrievalTask],
    fit_texts: int | None,
) -> tuple[list[fitting.Shifted], dict[str, Any] | None]:
    """Return the vectors to rank by, and what was fitted on, None if nothing was."""
    vectors = encoder.encode_task(task)
    if rival.rank is None:
        return [
            fitting.Shifted(np.arange(len(vectors.queries)), vectors.queries, vectors.passages)
        ], None
    return fitting.remove_language(encoder, task, vectors, rival.rank, fit, fit_on, fit_texts)


def tokens(
    encoder: Encoder, task: RetrievalTask, rival: Rival
) -> tuple[list[list[str]], list[list[str]]]:
    """Return the tokens of the queries and of the passages."""
    queries, passages = task.queries["text"].to_pylist(), task.passages["text"].to_pylist()
    if rival.lexical == "bm25-pieces":
        return bm25.pieces(encoder.model, queries), bm25.pieces(encoder.model, passages)
    cut = bm25.TOKENIZERS[rival.name]
    return [cut(text) for text in queries], [cut(text) for text in passages]


def _score(
    apart: retrieval.RelevantRanks,
    together: retrieval.RelevantRanks,
    queries: pd.DataFrame,
    languages: list[str],
) -> pd.DataFrame:
    """Return `metrics.score_settings`, the multilingual setting by the one ranks and the others by
    the other.

    A task of one language, as MIRACL's are, has no multilingual setting: it would be the same pool
    again.
    """
    per_query = metrics.score_settings(together, queries, languages, metrics.MEASURES)
    multilingual = metrics.SETTINGS[-1]
    if len(languages) == 1:
        return per_query[per_query["setting"] != multilingual]
    if apart is together:
        return per_query
    alone = metrics.score_settings(apart, queries, languages, metrics.MEASURES)
    return pd.concat(
        [alone[alone["setting"] != multilingual], per_query[per_query["setting"] == multilingual]],
        ignore_index=True,
    )


def _robustness(
    apart: retrieval.RelevantRanks,
    together: retrieval.RelevantRanks,
    queries: pd.DataFrame,
    languages: list[str],
) -> dict[str, Any]:
    """Return what `robustness` says of the pairs of languages, as JSON values; for a task that has
    none, why.
    """
    table = robustness.pair_keep(together, queries, languages, apart=apart)
    try:
        summary = robustness.keep_summary(table, n_resamples=1000)
    except InputError as error:  # no answer in another language, or a single group
        return {"robustness": {"summary": [], "cells": [], "refused": str(error)}}
    cells = robustness.keep_cells(table)
    return {
        "robustness": {
            name: json.loads(t.to_json(orient="records", double_precision=10))
            for name, t in (("summary", summary), ("cells", cells))
        }
    }


def _system_key(encoder: Encoder | trec.Run, chosen: Rival) -> dict[str, Any]:
    if isinstance(encoder, trec.Run):
        return {"run": encoder.key()}
    return {**rival_key(encoder, chosen), **({} if chosen.lexical else encoder_key(encoder))}


def _computed_in(encoder: Encoder | trec.Run, chosen: Rival) -> tuple[Precision, Rates] | tuple[()]:
    """Return the encoder's precision and rates; nothing where no text was encoded."""
    if isinstance(encoder, trec.Run) or chosen.lexical:
        return ()
    return encoder.precision, encoder.rates


def rival_key(encoder: Encoder, rival: Rival) -> dict[str, Any]:
    """Return what a rival adds to a result's key: how it merges, or how BM25 counts; empty for the
    others.
    """
    return {
        **(_merge_key(rival) if rival.merge else {}),
        **(_bm25_key(encoder, rival) if rival.lexical else {}),
    }


def _merge_key(rival: Rival) -> dict[str, Any]:
    return {
        "merge": {
            "method": rival.merge,
            "changes": "the multilingual setting alone; pools of one language keep their ranking",
            "note": "one relevant passage per language favours round-robin",
        }
    }


def _bm25_key(encoder: Encoder, rival: Rival) -> dict[str, Any]:
    key = {"k1": bm25.K1, "b": bm25.B, "variant": bm25.VARIANT, "statistics": "of each pool"}
    if rival.lexical == "bm25-pieces":
        return {
            "bm25": {**key, "tokens": "the model's pieces"},
            "weights_sha256": encoder.fingerprint,
        }
    return {"bm25": {**key, "tokens": bm25.TOKENIZERS[rival.name].__name__}}


def context_of(task: RetrievalTask) -> str:
    """Return what of a passage's surroundings is embedded with it: its paragraph, or nothing."""
    return "paragraph" if task.name in lareqa.WITH_CONTEXT else "none"


def small_pools(task: RetrievalTask) -> dict[str, int]:
    """Return the languages whose passages are no more than the deepest cutoff of the measures, and
    how many they are.

    Recall at that cutoff says nothing there: every ranking has 1.
    """
    sizes = sorted(Counter(task.passages["lang"].to_pylist()).items())
    return {lang: size for lang, size in sizes if size <= metrics.DEEPEST}
