"""`rung init`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = ["add"]


def add(app: typer.Typer) -> None:
    """Declare the command."""
    app.command("init")(init)


def init(
    folder: Annotated[Path, typer.Argument(help="Folder of the project; it is made.  [this one]")] = Path(),
    template: Annotated[
        Literal["tabular", "text", "segmentation"],
        typer.Option("--template", "-t", help="Kind of model it begins with."),
    ] = "tabular",
) -> None:
    """Begin a project that trains at once, on data that it generates. Nothing is written over."""
    from rung.cli.init import run

    run(folder, template)
