"""`rung doctor`."""

from typing import Annotated

import typer

from rung.cli.declared.options import AsJson

__all__ = ["add"]


def add(app: typer.Typer) -> None:
    """Declare the command."""
    app.command()(doctor)


def doctor(
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="For how long the load is looked at.")] = 3.0,
    start: Annotated[
        bool,
        typer.Option("--start/--no-start", help="Start one more replica for a moment, to see how long that takes."),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Measure the project in this folder and its machine; say what is wrong, and which rung is the next cheapest."""
    from rung.cli.doctor import doctor as run

    run(seconds, start=start, as_json=as_json)
