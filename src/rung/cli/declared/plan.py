"""`rung plan`."""

from pathlib import Path
from typing import Annotated

import typer

from rung.cli.declared.options import AsJson, Repository

__all__ = ["add"]


def add(app: typer.Typer) -> None:
    """Declare the command."""
    app.command("plan")(plan)


def plan(
    trace: Annotated[
        Path, typer.Option(metavar="FILE", help="Arrivals: a count per interval, or a line a request; CSV, also .gz.")
    ],
    objective: Annotated[
        str, typer.Option(metavar="TIME", help="Time within which 99 % are to be answered, such as 200ms.")
    ] = "200ms",
    prices: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What platforms cost, TOML or JSON.  [replica-hours only]")
    ] = None,
    model: Annotated[str, typer.Option(help="Model whose cost is measured here.  [the only one]")] = "",
    cost: Annotated[
        str, typer.Option(metavar="ROWS=TIME,...", help="Its cost instead of measuring, such as 1=20ms,8=90ms.")
    ] = "",
    lanes: Annotated[int, typer.Option(min=1, help="Calls at once in a replica, each on a core of its own.")] = 1,
    peak: Annotated[
        float | None, typer.Option(min=0.001, help="Requests/s to which the trace's busiest interval is raised.")
    ] = None,
    start: Annotated[float, typer.Option(min=0, help="Hours of the trace to leave out.")] = 0.0,
    hours: Annotated[float | None, typer.Option(min=0.001, help="Hours of it to take.  [all]")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to draw: .png or .svg.")] = None,
    repository: Repository = "",
    as_json: AsJson = False,
) -> None:
    """Say on paper what a load would take: replicas, latency and price under each policy, on each platform."""
    from rung.cli.plan import Wanted, run

    run(Wanted(trace, objective, prices, model, cost, lanes, peak, start, hours, out), repository, as_json=as_json)
