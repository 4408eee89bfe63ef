"""`rung tune`."""

from typing import Annotated, Literal

import typer

from rung.cli.declared.options import AsJson

__all__ = ["add"]

# Those of `rung.domain.studies`, which would load msgspec for a page of help.
Sampler = Literal["tpe", "random", "cmaes"]
Pruner = Literal["none", "median", "hyperband"]


def add(app: typer.Typer) -> None:
    """Declare the command."""
    app.command("tune")(tune)


def tune(
    model: Annotated[str, typer.Argument(help="Model of the project.  [the only one]")] = "",
    trials: Annotated[int | None, typer.Option(min=1, help="Trials of the study in all.  [rung.toml, or 20]")] = None,
    sampler: Annotated[Sampler | None, typer.Option(help="Who proposes parameters.  [rung.toml, or tpe]")] = None,
    pruner: Annotated[Pruner | None, typer.Option(help="Who ends trials early.  [rung.toml, or median]")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Trials at once.  [rung.toml, or 1]")] = None,
    study: Annotated[str, typer.Option(help="Begin a study of this name, or go on with it, beside others.")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the newest study of the model.")] = False,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a parameter; repeat for more.")
    ] = None,
    register: Annotated[
        bool, typer.Option("--register/--no-register", help="Train the winner once more and make it a new version.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Search for better parameters of a model: trials are runs, and the best one is registered."""
    from rung.cli.tune import Wanted, run

    wanted = Wanted(trials, sampler, pruner, workers, study, resume)
    run(model, changes or [], wanted, register=register, as_json=as_json)
