"""`rung score`."""

from typing import Annotated

import typer

from rung.cli.declared.options import AsJson, Model, Repository

__all__ = ["add"]


def add(app: typer.Typer) -> None:
    """Declare the command."""
    app.command("score")(score)


def score(
    model: Model,
    source: Annotated[str, typer.Argument(metavar="DATA", help="File, folder or URL of the rows.")],
    out: Annotated[
        str,
        typer.Option(metavar="RESULT", help="A file, a folder, sqlite:PATH?table=NAME, or scores: (asked by key)."),
    ],
    version: Annotated[int | None, typer.Option(help="Number of the version.  [what the release says]")] = None,
    where: Annotated[str, typer.Option(metavar="CONDITION", help="Only rows that meet it, as in SQL.")] = "",
    key: Annotated[str, typer.Option(metavar="COLUMNS", help="What tells rows apart, such as id.")] = "",
    keep: Annotated[
        str | None, typer.Option(metavar="COLUMNS", help="Columns to pass on.  [all; with --key none]")
    ] = None,
    group: Annotated[str, typer.Option(metavar="COLUMNS", help="What says which rows are alike.")] = "",
    as_of: Annotated[str, typer.Option(metavar="DAY", help="What day the answers are of.  [today, UTC]")] = "",
    chunk: Annotated[
        int, typer.Option(min=0, metavar="ROWS", help="Most rows committed together.  [about 2 seconds' worth]")
    ] = 0,
    threads: Annotated[int, typer.Option(min=0, help="Calls of the model at once.  [one a core]")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was cut off.")] = False,
    repository: Repository = "",
    as_json: AsJson = False,
) -> None:
    """Answer every row of a data set; killed at any moment, it goes on with --resume, no row missing or twice."""
    from rung.cli.score import Wanted, run

    wanted = Wanted(source, out, version, where, key, keep, group, as_of, chunk, threads, resume)
    run(model, wanted, repository, as_json=as_json)
