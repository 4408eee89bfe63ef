"""`rung init`."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["add"]


def add(app: typer.Typer) -> None:
    """Declare the command."""
    app.command("init")(init)


def init(
    folder: Annotated[Path, typer.Argument(help="Where; made if it is not there.")] = Path(),
    template: Annotated[str, typer.Option(help="tabular, text or segmentation.")] = "tabular",
) -> None:
    """Write a project that trains at once, on generated data, to start from."""
    from rung.cli.init import init as run

    run(folder, template)
