"""`rung runs list|show|compare`, `rung reproduce`."""

from pathlib import Path
from typing import Annotated

import typer

from rung.cli.declared.options import AsJson

__all__ = ["add"]


def add(app: typer.Typer) -> None:
    """Declare the commands."""
    runs = typer.Typer(help="Look at what was trained, and compare.", no_args_is_help=True)
    runs.command("list")(list_runs)
    runs.command("show")(show)
    runs.command("compare")(compare)
    app.add_typer(runs, name="runs")
    app.command("reproduce")(reproduce)


def list_runs(
    model: Annotated[str, typer.Argument(help="Only runs of this model.")] = "",
    limit: Annotated[int, typer.Option(min=0, help="How many, newest first; 0: all.")] = 20,
    sort: Annotated[str, typer.Option(metavar="METRIC", help="Best of this metric first.")] = "",
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    from rung.cli import runs as bodies

    bodies.list_runs(model, limit, sort, as_json=as_json)


def show(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of the run, or the beginning of its id.")],
    plot: Annotated[Path | None, typer.Option(help="Write a picture of its metrics, .png or .svg.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show one run: parameters, metrics, data, code, environment, machine."""
    from rung.cli import runs as bodies

    bodies.show(run, plot, as_json=as_json)


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="Two runs or more.")],
    plot: Annotated[Path | None, typer.Option(help="Write a picture of their metrics, .png or .svg.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what differs between runs."""
    from rung.cli import runs as bodies

    bodies.compare(runs, plot, as_json=as_json)


def reproduce(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of the run, or the beginning of its id.")],
    same_environment: Annotated[
        bool, typer.Option("--same-environment", help="Use this environment even where packages differ, and say which.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run it again from its record, and say whether the same model comes out."""
    from rung.cli.reproduce import run as body

    body(run, same_environment=same_environment, as_json=as_json)
