"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["AsJson", "Model", "Repository"]

_PROJECT = "rung.toml"
_DEFAULT = ".rung/repository"


def _repository(given: str) -> str:
    """What was given, or the repository of the project in this folder, or the default."""
    if given or not Path(_PROJECT).exists():
        return given or _DEFAULT
    from rung.settings.file import project_here

    return project_here().project.repository


Repository = Annotated[
    str,
    typer.Option(
        "--repository",
        "-r",
        envvar="RUNG_REPOSITORY",
        callback=_repository,
        help="Folder or s3:// URL of the repository.  [that in rung.toml, else .rung/repository]",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")]
