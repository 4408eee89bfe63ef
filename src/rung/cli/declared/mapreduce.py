"""`rung mapreduce`."""

from typing import Annotated

import typer

from rung.cli.declared.options import AsJson

__all__ = ["add"]


def add(app: typer.Typer) -> None:
    """Declare the command."""
    app.command("mapreduce")(mapreduce)


def mapreduce(
    module: Annotated[str, typer.Argument(metavar="MODULE", help="Module of this folder with map and reduce.")],
    source: Annotated[str, typer.Argument(metavar="DATA", help="URL of the rows, such as 'jsonl:logs/*.jsonl'.")],
    out: Annotated[str, typer.Option(metavar="RESULT", help="A file, or sqlite:PATH?table=NAME.")],
    key: Annotated[str, typer.Option(metavar="COLUMNS", help="By what rows of a table are found.")] = "",
    parts: Annotated[int, typer.Option(min=1, max=999, help="Into how many parts keys are divided.")] = 8,
    processes: Annotated[int, typer.Option(min=0, help="Processes at work.  [one a core]")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with one that was cut off.")] = False,
    as_json: AsJson = False,
) -> None:
    """Map every row to pairs, and reduce all values of each key, once, over many files and processes."""
    from rung.cli.mapreduce import run
    from rung.offline.mapreduce.plan import Plan

    columns = tuple(name.strip() for name in key.split(",") if name.strip())
    plan = Plan(module=module, source=source, out=out, key=columns, parts=parts)
    run(plan, processes, resume=resume, as_json=as_json)
