"""`rung release`, `promote`, `rollback`, `releases`, `history`."""

from typing import Annotated

import typer

from rung.cli.declared.options import AsJson, Model, Repository

__all__ = ["add"]

Reason = Annotated[str, typer.Option("--because", help="Why, for the ledger.")]


def add(app: typer.Typer) -> None:
    """Declare the commands."""
    for command in (release, promote, rollback, releases, history):
        app.command()(command)


def release(
    model: Model,
    version: Annotated[int | None, typer.Argument(metavar="[VERSION]", help="Number of the version.")] = None,
    to: Annotated[float | None, typer.Option(help="Percent of the units that it answers.  [100]")] = None,
    ladder: Annotated[
        bool, typer.Option("--ladder", help="Climb stage by stage (shadow, 1, 5, 25, 50, 100 %), guarded.")
    ] = False,
    stages: Annotated[str, typer.Option(help="Stages of the ladder in percent, such as 0,5,50,100.")] = "",
    split: Annotated[str, typer.Option(help="Shares of several versions, such as 1=95,2=5.")] = "",
    shadow: Annotated[bool, typer.Option("--shadow", help="Answer copies only; nobody sees the answers.")] = False,
    unit: Annotated[
        str, typer.Option(help="What callers are told apart by: header:NAME, cookie:NAME, json:FIELD or address.")
    ] = "",
    segment: Annotated[
        list[str] | None, typer.Option(help="With --split: an audience, such as header:plan=beta,team:2; repeatable.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also a version that was taken back before.")] = False,
    because: Reason = "",
    repository: Repository = "",
    as_json: AsJson = False,
) -> None:
    """Say which versions of a model answer whom."""
    from rung.cli import releases as bodies

    how = bodies.How(to, stages, split, tuple(segment or ()), unit, ladder=ladder, shadow=shadow, force=force)
    bodies.release(repository, model, version, how, because, as_json=as_json)


def promote(
    model: Model,
    version: Annotated[int | None, typer.Argument(metavar="[VERSION]", help="The version.  [the candidate]")] = None,
    force: Annotated[bool, typer.Option("--force", help="Also a version that was taken back before.")] = False,
    because: Reason = "",
    repository: Repository = "",
    as_json: AsJson = False,
) -> None:
    """Let the candidate answer everybody."""
    from rung.cli import releases as bodies

    bodies.promote(repository, model, version, because, force=force, as_json=as_json)


def rollback(
    model: Model,
    because: Reason = "",
    latch: Annotated[bool, typer.Option("--latch/--no-latch", help="Let no controller release it again.")] = True,
    repository: Repository = "",
    as_json: AsJson = False,
) -> None:
    """Take the candidate back, or go back to the version before."""
    from rung.cli import releases as bodies

    bodies.rollback(repository, model, because, latch=latch, as_json=as_json)


def releases(repository: Repository = "", as_json: AsJson = False) -> None:
    """Say what answers now, model by model."""
    from rung.cli import releases as bodies

    bodies.list_releases(repository, as_json=as_json)


def history(
    model: Model,
    at: Annotated[str, typer.Option(help="What answered then: 14:03, 2026-11-28T14:03 or with a zone.")] = "",
    repository: Repository = "",
    as_json: AsJson = False,
) -> None:
    """Print the ledger of a model: every move, by whom, by which rule, on what evidence."""
    from rung.cli import releases as bodies

    bodies.history(repository, model, at, as_json=as_json)
