"""`rung experiment`, `rung selftest`."""

from pathlib import Path
from typing import Annotated

import typer

from rung.cli.declared.options import AsJson, Repository

__all__ = ["add"]

Log = Annotated[str, typer.Option("--log", help="Folder of the prediction log.  [log in rung.toml, else .rung/log]")]


def add(app: typer.Typer) -> None:
    """Declare the commands."""
    app.command()(experiment)
    selftest = typer.Typer(help="Find out whether what judges is fit to judge.", no_args_is_help=True)
    # With a single command Typer would drop its name.
    selftest.callback()(lambda: None)
    selftest.command("stats")(stats)
    app.add_typer(selftest, name="selftest")


def experiment(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")],
    arm: Annotated[str, typer.Option(help="In a split: the arm to compare with the largest.  [the next largest]")] = "",
    plot: Annotated[Path | None, typer.Option(help="Write a picture, .png or .svg.")] = None,
    repository: Repository = "",
    log: Log = "",
    as_json: AsJson = False,
) -> None:
    """Show how a rollout or a split stands: arms, intervals, labels, the split, guards, and how long it may take."""
    from rung.cli import experiment as bodies

    bodies.experiment(model, bodies.Where(repository, log), arm, plot, as_json=as_json)


def stats(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Replay its own quiet log.")] = None,
    runs: Annotated[int, typer.Option(min=10, help="Replays of each guard; a fifth as many rollouts.")] = 500,
    rate: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of units with an error.  [that of the log, else 0.05]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the chance; the same seed gives the same figures.")] = 1,
    repository: Repository = "",
    log: Log = "",
    as_json: AsJson = False,
) -> None:
    """Measure how often each guard, and the ladder, would be wrong, and what they would find."""
    from rung.cli import experiment as bodies

    bodies.stats(model, bodies.Where(repository, log), bodies.Chance(runs, rate, seed), as_json=as_json)
