"""`rung quality`."""

from pathlib import Path
from typing import Annotated

import typer

from rung.cli.declared.log import Data, Log
from rung.cli.declared.options import AsJson, Model, Repository

__all__ = ["add"]


def add(app: typer.Typer) -> None:
    """Declare the command."""
    app.command("quality")(quality)


def quality(
    model: Model,
    days: Annotated[float, typer.Option(min=0, help="Only predictions of the last so many days; 0: all.")] = 0,
    cohort: Annotated[
        float, typer.Option(min=0.001, help="Seconds of predictions that are counted together.")
    ] = 86_400,
    maturity: Annotated[
        float,
        typer.Option(min=0, help="Age in seconds at which a prediction counts.  [as rung.toml says, else learned]"),
    ] = 0,
    scale: Annotated[
        float, typer.Option(min=0, help="Error of a number that counts as a whole loss.  [the label's deviation]")
    ] = 0,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where to write.  [.rung/quality/MODEL]")] = None,
    log: Log = "",
    data: Data = "",
    repository: Repository = "",
    as_json: AsJson = False,
) -> None:
    """Say how good the answers were, by labels that are old enough: by version and day, with intervals; and a page."""
    from rung.cli.places import places
    from rung.cli.quality import Wanted, run

    run(places(log, data, repository), model, Wanted(days, cohort, maturity, scale, out), as_json=as_json)
