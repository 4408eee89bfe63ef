"""`rung evaluate`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from rung.cli.declared.options import AsJson, Model, Repository

__all__ = ["add"]


def add(app: typer.Typer) -> None:
    """Declare the command."""
    app.command("evaluate")(evaluate)


def evaluate(
    model: Model,
    version: Annotated[int | None, typer.Argument(help="Number of the version.  [the latest]")] = None,
    split: Annotated[Literal["train", "validation", "test"], typer.Option(help="Which rows to score on.")] = "test",
    source: Annotated[str, typer.Option(metavar="URL", help="Score on all rows of this source instead.")] = "",
    against: Annotated[
        int | None, typer.Option(metavar="VERSION", help="Also say how it differs from this version.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to write.  [.rung/scorecards/MODEL/VERSION]")
    ] = None,
    repository: Repository = "",
    as_json: AsJson = False,
) -> None:
    """Score a version on rows that it has not seen: figures with intervals, slices, leakage, latency, pictures."""
    from rung.cli.evaluate import Wanted, run

    run(model, version, Wanted(split, source, against, out), repository, as_json=as_json)
