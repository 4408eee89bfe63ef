"""`rung data ingest|list|show|profile|check`."""

from pathlib import Path
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
    data.command()(profile)
    data.command()(check)
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


def profile(
    what: Annotated[str, typer.Argument(metavar="[MODEL|URL]", help="A model of the project, or a source.")] = "",
    out: Annotated[Path, typer.Option(help="Folder for profile.html and the pictures.")] = Path("profile"),
    as_json: AsJson = False,
) -> None:
    """Say what data looks like, column by column: a table, a page, pictures."""
    from rung.cli import data_profile as bodies

    bodies.profile(what, out, as_json=as_json)


def check(
    model: Annotated[str, typer.Argument(help="Model of the project.  [the only one]")] = "",
    source: Annotated[str, typer.Option(metavar="URL", help="Check these rows instead of the model's own.")] = "",
    against: Annotated[int | None, typer.Option(help="Version to compare with.  [the newest]")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="All rows should be new: earlier ones again are red.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with data, alone and beside what the model was trained on; exit code 1 when it is red."""
    from rung.cli import data_profile as bodies

    bodies.check(model, source, against, fresh=fresh, as_json=as_json)
