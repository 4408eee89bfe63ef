"""`rung models register|import|export|list|show|verify|delete`."""

from pathlib import Path
from typing import Annotated

import typer

from rung.cli.declared.options import AsJson, Model, Repository

__all__ = ["add"]

Version = Annotated[int | None, typer.Argument(help="Number of the version.  [the latest]")]


def add(app: typer.Typer) -> None:
    """Declare the commands."""
    models = typer.Typer(help="Register, list, inspect and delete model versions.", no_args_is_help=True)
    models.command("register")(register)
    models.command("import")(import_models)
    models.command("export")(export)
    models.command("list")(list_models)
    models.command("show")(show)
    models.command("verify")(verify)
    models.command("delete")(delete)
    app.add_typer(models, name="models")


def register(
    artifact: Annotated[str, typer.Argument(help="A model file, or module:Class.")],
    name: Annotated[str | None, typer.Option(help="Name of the model.  [from the file]")] = None,
    repository: Repository = "",
    task: Annotated[str, typer.Option(help="classification, detection, ...: picks the output step.")] = "",
    labels: Annotated[str, typer.Option(help="Names of the classes, separated by commas.")] = "",
    transforms: Annotated[Path | None, typer.Option(help="JSON file with input and output steps.")] = None,
    description: Annotated[str, typer.Option(help="One line for people.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make a new version out of a model file."""
    from rung.cli.models import register as run

    run(artifact, name, repository, task, labels, transforms, description, as_json=as_json)


def import_models(
    source: Annotated[
        str,
        typer.Argument(
            help="A TF Serving configuration, a Triton repository, an MLflow folder or models:/NAME@ALIAS, or a .mar."
        ),
    ],
    repository: Repository = "",
    name: Annotated[str | None, typer.Option(help="Name of the model, where there is one.  [the peer's]")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Take a .mar's model without its handler's code.")] = False,
    as_json: AsJson = False,
) -> None:
    """Register another server's models, and say what could not be carried over."""
    from rung.cli.import_models import run

    run(source, repository, name, trust=trust, as_json=as_json)


def export(
    name: Model,
    folder: Annotated[Path, typer.Argument(help="Folder to write, new or empty.")],
    version: Annotated[int | None, typer.Option(help="Number of the version.  [the latest]")] = None,
    repository: Repository = "",
    as_json: AsJson = False,
) -> None:
    """Write a version as an MLflow model folder, and say what MLflow has no place for."""
    from rung.cli.models import export as run

    run(name, version, folder, repository, as_json=as_json)


def list_models(repository: Repository = "", as_json: AsJson = False) -> None:
    """List models and their versions."""
    from rung.cli.models import list_models as run

    run(repository, as_json=as_json)


def show(
    name: Model,
    version: Version = None,
    repository: Repository = "",
    as_json: AsJson = False,
) -> None:
    """Show one version: signature, transforms, files, lineage."""
    from rung.cli.models import show as run

    run(name, version, repository, as_json=as_json)


def verify(
    name: Model,
    version: Version = None,
    repository: Repository = "",
    as_json: AsJson = False,
) -> None:
    """Check a version's bytes, load it and compare its golden answers."""
    from rung.cli.models import verify as run

    run(name, version, repository, as_json=as_json)


def delete(
    name: Model,
    version: Annotated[int, typer.Argument(help="Number of the version.")],
    repository: Repository = "",
    force: Annotated[bool, typer.Option("--force", help="Also the last version of a model.")] = False,
) -> None:
    """Delete one version."""
    from rung.cli.models import delete as run

    run(name, version, repository, force=force)
