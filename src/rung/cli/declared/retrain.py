"""`rung retrain` and `rung retrains`."""

from typing import Annotated

import typer

from rung.cli.declared.options import AsJson, Model

__all__ = ["add"]


def add(app: typer.Typer) -> None:
    """Declare the commands."""
    for command in (retrain, retrains):
        app.command()(command)


def retrain(
    model: Model,
    because: Annotated[str, typer.Option("--because", help="Why, for whoever looks at it later.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Say what is decided, until it is over.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a model anew on what its users sent, and release it if it passes the gate; `rung up` does the work."""
    from rung.cli import retrain as bodies

    bodies.retrain(model, because, wait=wait, as_json=as_json)


def retrains(
    model: Model,
    number: Annotated[int | None, typer.Argument(metavar="[NUMBER]", help="Which one to show whole.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the retrainings of a model: what asked for each, and what was decided at every step."""
    from rung.cli import retrain as bodies

    bodies.retrains(model, number, as_json=as_json)
