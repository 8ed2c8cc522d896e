"""Print what `training.cost.preview` found: settings, data, batches and cost of a training."""

import json
from typing import Any

import typer

from xir_lib.options import show


def show_preview(found: dict[str, Any], as_json: bool) -> None:
    """Print a preview as tables with a line on its assumptions, or as JSON."""
    if as_json:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    settings, sampler = found["settings"], found["sampler"] or {}
    show([_plain(row) for row in found["data"]], False, "Data")
    show(_listed("setting", settings), False, found["encoder"])
    if sampler:
        told = (*settings, "datasets")
        counts = {name: value for name, value in sampler.items() if name not in told}
        show(_listed("count", counts), False, "Batches")
    if several := sampler.get("datasets"):
        shown = [
            {"data set": name, **{key: own[key] for key in ("size", "share", "batches")}}
            for name, own in several.items()
        ]
        show(shown, False, "Batches by data set")
    show([_cost(name, cost) for name, cost in found["cost"].items()], False, "Cost")
    typer.echo(_assumptions(found))


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Return what of a data set's sizes fits a table."""
    kept = {key: value for key, value in row.items() if not isinstance(value, dict)}
    return kept | ({"languages": " ".join(row["languages"])} if "languages" in row else {})


def _listed(title: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{title: name, "value": value} for name, value in values.items()]


def _cost(name: str, cost: dict[str, Any]) -> dict[str, Any]:
    counts = {key: f"{cost[key]:,}" for key in ("steps", "tokens")}
    hours = {f"{device} h": value for device, value in cost["gpu_hours"].items()}
    return {"of": name, **counts, "FLOPs": cost["flops"], **hours}


def _assumptions(found: dict[str, Any]) -> str:
    cost, tokens = found["cost"]["this run"], found["tokens"]
    millions = {name: count / 1e6 for name, count in cost["parameters"].items()}
    return (
        f"{found['architecture']}: {millions['embeddings']:.0f} M parameters in embeddings,"
        f" {millions['other']:.0f} M elsewhere; {cost['optimiser_gb']:.1f} GB with gradients and"
        " AdamW for the whole vocabulary, activations on top."
        f" {tokens['query_tokens']:.0f} + {tokens['passage_tokens']:.0f} tokens a pair"
        f" ({'measured' if tokens['measured'] else 'assumed in the profile'}). GPU hours at"
        f" {cost['utilisation']:.0%} of the peak in bfloat16, an assumption. Nothing was trained or"
        " written."
    )
