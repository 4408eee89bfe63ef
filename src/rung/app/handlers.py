"""Who does which kind of job: the table of the workers, and the handlers that only know the project."""

from pathlib import Path
from typing import Any

import msgspec

from rung.domain.errors import InvalidInput
from rung.domain.jobs import Handler
from rung.jobs.context import JobContext

__all__ = ["HANDLERS", "SUBMITTED", "verify"]

HANDLERS: dict[str, Handler] = {
    "models.verify": Handler("rung.app.handlers:verify", limit=1, process=True),
}
"""Kind of a job -> the function that does it."""

SUBMITTED: tuple[str, ...] = ("models.verify",)
"""Kinds that may be submitted by request; the others are the platform's own."""


class _Version(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    version: int | None = None


def verify(context: JobContext) -> dict[str, Any]:
    """Check a version's bytes, load it and compare its golden answers; `{"model": NAME, "version": NUMBER}`."""
    from rung.catalog import models
    from rung.settings.file import load_project
    from rung.store.blobs import open_store

    try:
        wanted = msgspec.convert(context.arguments, _Version)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the arguments of models.verify will not do: {error}", field="arguments") from None
    repository = open_store(load_project(Path()).project.repository)
    found = models.verify(repository, wanted.model, wanted.version)
    result: dict[str, Any] = msgspec.to_builtins(found)
    return result
