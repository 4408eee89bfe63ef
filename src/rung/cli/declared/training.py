"""`rung train`."""

from typing import Annotated

import typer

from rung.cli.declared.options import AsJson

__all__ = ["add"]


def add(app: typer.Typer) -> None:
    """Declare the command."""
    app.command("train")(train)


def train(
    model: Annotated[str, typer.Argument(help="Model of the project.  [the only one]")] = "",
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a parameter; repeat for more.")
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Try the whole way on few rows, and predict time and memory of the rest.")
    ] = False,
    resume: Annotated[
        str, typer.Option(metavar="RUN", help="Go on with a run that was interrupted; `last` is the newest.")
    ] = "",
    seed: Annotated[int | None, typer.Option(min=0, help="Start of all random numbers.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that train one model together.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1.")] = None,
    register: Annotated[bool, typer.Option("--register/--no-register", help="Make a new version.")] = True,
    as_json: AsJson = False,
) -> None:
    """Train a model of the project in this folder, and register it."""
    from rung.cli.train import run

    given = {"seed": seed, "workers": workers, "device": device}
    run(model, changes or [], given, resume, smoke=smoke, register=register, as_json=as_json)
