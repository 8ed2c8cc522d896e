"""Options and output that the commands share."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from xir_lib.encoders.precision import Asked

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
InPrecision = Annotated[
    Asked,
    typer.Option(
        "--precision", help="What texts are encoded in; auto: the faster on this machine."
    ),
]
Params = Annotated[
    Path,
    typer.Option("--params", help="A profile of params/ by its name, such as demo, or a file."),
]


def short_number(value: float) -> str:
    """Return a number as a table shows it: whole from 100 on, else with three places."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"


def show(rows: list[dict[str, Any]], as_json: bool, title: str | None = None) -> None:
    """Print rows as a table, or as JSON."""
    if as_json:
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    if title:
        typer.echo(title)  # as a title of the table it would be folded to the table's width
    table = Table()
    for column in rows[0]:
        table.add_column(str(column), overflow="fold")
    for row in rows:
        table.add_row(
            *(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values())
        )
    Console().print(table)
