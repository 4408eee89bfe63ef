"""`rung trace`, `rung feedback import|list|coverage`, `rung log stats|convert|erase`."""

from typing import Annotated

import typer

from rung.cli.declared.options import AsJson, Repository

__all__ = ["add"]

Log = Annotated[str, typer.Option(help="Folder of the prediction log.  [log in rung.toml, else .rung/log]")]
Data = Annotated[str, typer.Option(help="Folder or URL of its tables.  [data in rung.toml, else .rung/data]")]
Key = Annotated[str, typer.Option(help="File of the key.  [.rung/keys/prediction.key]")]
Models = Annotated[list[str] | None, typer.Option("--model", help="A model that the repository does not know.")]


def add(app: typer.Typer) -> None:
    """Declare the commands."""
    app.command()(trace)
    feedback = typer.Typer(help="Import labels, and list what was said of predictions.", no_args_is_help=True)
    feedback.command("import")(import_labels)
    feedback.command("list")(list_events)
    feedback.command("coverage")(coverage)
    app.add_typer(feedback, name="feedback")
    log = typer.Typer(help="Count, convert and erase what the prediction log holds.", no_args_is_help=True)
    log.command()(stats)
    log.command()(convert)
    log.command()(erase)
    app.add_typer(log, name="log")


def trace(
    prediction: Annotated[str, typer.Argument(metavar="ID", help="From the header rung-prediction-id.")],
    model: Models = None,
    log: Log = "",
    data: Data = "",
    repository: Repository = "",
    key: Key = "",
    as_json: AsJson = False,
) -> None:
    """Print all that is known of one prediction."""
    from rung.cli.places import places
    from rung.cli.trace import trace as run

    run(places(log, data, repository, key), prediction, model or [], as_json=as_json)


def import_labels(
    source: Annotated[str, typer.Argument(help="A CSV or Parquet file, or with --query the URL of a database.")],
    id_column: Annotated[str, typer.Option(help="Column of the prediction ids.")] = "id",
    label_column: Annotated[str, typer.Option(help="Column of labels.")] = "",
    score_column: Annotated[str, typer.Option(help="Column of scores.")] = "",
    correction_column: Annotated[str, typer.Option(help="Column of corrected outputs.")] = "",
    mask_column: Annotated[str, typer.Option(help="Column of masks, PNG in base64.")] = "",
    time_column: Annotated[str, typer.Option(help="Column of the times at which it was found out.  [now]")] = "",
    source_column: Annotated[str, typer.Option(help="Column of who says so.")] = "",
    event_column: Annotated[str, typer.Option(help="Column of ids of the events.  [made from their content]")] = "",
    query: Annotated[str, typer.Option(help="What to read of a database.")] = "",
    said_by: Annotated[str, typer.Option(help="Who says so, where no column does.")] = "",
    model: Models = None,
    log: Log = "",
    data: Data = "",
    repository: Repository = "",
    key: Key = "",
    as_json: AsJson = False,
) -> None:
    """Take labels from a file or database; again, it takes nothing twice. Exit code 1 where rows were refused."""
    from rung.cli import feedback as bodies
    from rung.cli.places import places

    columns = bodies.Columns(
        id_column, label_column, score_column, correction_column, mask_column, time_column, source_column, event_column
    )
    where = places(log, data, repository, key)
    if not bodies.import_labels(
        where, source, columns, query=query, source_name=said_by, models=model or [], as_json=as_json
    ):
        raise typer.Exit(1)


def list_events(
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="Only of this model.")] = "",
    prediction: Annotated[str, typer.Option(help="Only about this prediction.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Most events to list.")] = 20,
    log: Log = "",
    data: Data = "",
    as_json: AsJson = False,
) -> None:
    """List events, newest first, and which of them count."""
    from rung.cli import feedback as bodies
    from rung.cli.places import places

    bodies.list_events(places(log, data), model, prediction, limit, as_json=as_json)


def coverage(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    log: Log = "",
    data: Data = "",
    as_json: AsJson = False,
) -> None:
    """Say how many answers of each arm have feedback, and how late it comes."""
    from rung.cli import feedback as bodies
    from rung.cli.places import places

    bodies.coverage(places(log, data), model, as_json=as_json)


def stats(log: Log = "", data: Data = "", as_json: AsJson = False) -> None:
    """Count rows by table and model, and tell what is known to be missing."""
    from rung.cli import log as bodies
    from rung.cli.places import places

    bodies.stats(places(log, data), as_json=as_json)


def convert(log: Log = "", data: Data = "", as_json: AsJson = False) -> None:
    """Turn segments into Parquet now; `rung up` does it by itself."""
    from rung.cli import log as bodies
    from rung.cli.places import places

    bodies.convert(places(log, data), as_json=as_json)


def erase(
    unit: Annotated[str, typer.Argument(help="Whose requests and answers: the value of the unit, such as a user id.")],
    log: Log = "",
    data: Data = "",
    as_json: AsJson = False,
) -> None:
    """Remove every row of a unit from the log and its tables, and read all of it again to be sure."""
    from rung.cli import log as bodies
    from rung.cli.places import places

    bodies.erase(places(log, data), unit, as_json=as_json)
