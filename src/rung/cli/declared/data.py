"""`rung data ingest|list|show`."""

from typing import Annotated

import typer

from rung.cli.declared.options import AsJson

__all__ = ["add"]

Name = Annotated[str, typer.Argument(metavar="MODEL", help="Whose data: a model of rung.toml.")]
Store = Annotated[str, typer.Option("--data", help="Folder or URL of the data.  [data in rung.toml, else .rung/data]")]


def add(app: typer.Typer) -> None:
    """Declare the commands."""
    data = typer.Typer(help="Take in the rows that a model learns from, and list their versions.", no_args_is_help=True)
    data.command()(ingest)
    data.command("list")(list_versions)
    data.command()(show)
    app.add_typer(data, name="data")


def ingest(
    name: Name,
    source: Annotated[str, typer.Option(help="URL of the rows.  [data of the model in rung.toml]")] = "",
    store: Store = "",
    as_json: AsJson = False,
) -> None:
    """Take in what is new; again, it takes nothing twice. `rung train` does it by itself."""
    from rung.cli import data as bodies

    bodies.ingest(name, source, store, as_json=as_json)


def list_versions(
    name: Annotated[str, typer.Argument(metavar="[MODEL]", help="Only of this model.")] = "",
    store: Store = "",
    as_json: AsJson = False,
) -> None:
    """List the versions of data, newest first."""
    from rung.cli import data as bodies

    bodies.list_versions(name, store, as_json=as_json)


def show(
    name: Name,
    digest: Annotated[str, typer.Argument(metavar="[DIGEST]", help="Its beginning will do.  [the newest]")] = "",
    rows: Annotated[int, typer.Option(min=0, help="First rows to print.")] = 3,
    store: Store = "",
    as_json: AsJson = False,
) -> None:
    """Print the columns of a version, some rows, and which rows were refused and why."""
    from rung.cli import data as bodies

    bodies.show(name, digest, rows, store, as_json=as_json)
