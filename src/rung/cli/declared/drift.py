"""`rung drift`."""

from pathlib import Path
from typing import Annotated

import typer

from rung.cli.declared.log import Data, Log
from rung.cli.declared.options import AsJson, Model, Repository

__all__ = ["add"]


def add(app: typer.Typer) -> None:
    """Declare the command."""
    app.command("drift")(drift)


def drift(
    model: Model,
    window: Annotated[int, typer.Option(min=0, help="Rows of a window.  [as rung.toml says, else 500]")] = 0,
    seconds: Annotated[float, typer.Option(min=0, help="Seconds that are a window, in place of rows.")] = 0,
    version: Annotated[
        int | None, typer.Option("--version", "-v", help="Version whose data is compared with.  [the one that answers]")
    ] = None,
    against: Annotated[str, typer.Option(metavar="URL", help="Rows to compare with, in place of that data.")] = "",
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write the page.  [.rung/drift/MODEL.html]")
    ] = None,
    replay: Annotated[
        int, typer.Option(min=0, help="Latest requests that are answered again and compared; 0: none.")
    ] = 0,
    fail: Annotated[bool, typer.Option("--fail", help="Exit with 1 where drift is confirmed.")] = False,
    log: Log = "",
    data: Data = "",
    repository: Repository = "",
    as_json: AsJson = False,
) -> None:
    """Say whether what a model is asked has moved away from what it learned from, which columns, and by how much."""
    from rung.cli.drift import Wanted, run
    from rung.cli.places import places

    wanted = Wanted(window, seconds, version, against, report, fail, replay)
    code = run(places(log, data, repository), model, wanted, as_json=as_json)
    if code:
        raise typer.Exit(code)
