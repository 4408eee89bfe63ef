"""The FastAPI application: routes, errors, and the OpenAPI document."""

from typing import Any

import msgspec
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from rung import __version__
from rung.api import health, inference, jobs, keys, models, releases, replicas, retrainings, scores
from rung.api.access import Access
from rung.api.answers import components
from rung.api.inference import Results
from rung.api.keys import KeyMade, KeyShown
from rung.api.replicas import ReplicasShown, Targets
from rung.api.roles import finder
from rung.api.scores import ScoresShown
from rung.api.services import Services
from rung.catalog.models import Entry
from rung.domain.errors import InvalidInput, RungError
from rung.domain.inference import InferenceRequest
from rung.domain.jobs import Job
from rung.domain.models import Manifest
from rung.domain.releases import Release
from rung.domain.retraining import Retraining
from rung.fleet.loop import PartHealth
from rung.fleet.status import ProjectStatus
from rung.offline.scoring.scores import Found
from rung.protocols.status import error_reply
from rung.store.audit import AuditLine

__all__ = ["Failure", "create", "document"]

_PARTS = (health, models, releases, retrainings, replicas, inference, scores, jobs, keys)
"""Where routes are."""
_SHOWN = (
    AuditLine,
    Entry,
    Found,
    InferenceRequest,
    Job,
    KeyMade,
    KeyShown,
    Manifest,
    PartHealth,
    ProjectStatus,
    Release,
    ReplicasShown,
    Results,
    Retraining,
    ScoresShown,
    Targets,
)
"""What answers are made of."""
_TAGS = [
    {"name": "health", "description": "Whether it works, and how the project is."},
    {"name": "models", "description": "Models and their versions, as they lie in the repository."},
    {"name": "releases", "description": "Which versions answer whom. Every move is a link of the model's ledger."},
    {"name": "retrainings", "description": "Why a model was trained anew, and what was decided at each step."},
    {"name": "replicas", "description": "How many processes answer, and where each does."},
    {"name": "asking later", "description": "Requests of a model that are answered later, when nobody else asks."},
    {"name": "scores", "description": "Answers to data sets that were scored, by key."},
    {"name": "jobs", "description": "Work that can wait."},
    {"name": "keys", "description": "Who may call, and who changed what."},
]
_QUIET: Any = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
"""FastAPI would otherwise send spans wherever the environment says."""


class Failure(msgspec.Struct):
    """Why a request was refused."""

    error: str
    """A sentence that says what is wrong and what would do."""


def create(services: Services) -> Any:
    """The ASGI application over these services."""
    application = _assembled()
    application.state.services = services
    application.add_exception_handler(RungError, _refused)
    application.add_exception_handler(RequestValidationError, _invalid)
    application.add_exception_handler(HTTPException, _unknown)
    application.add_exception_handler(Exception, _failed)
    return Access(
        application, services.keys, finder([route for part in _PARTS for route in part.router.routes]), services.audit
    )


def document() -> dict[str, Any]:
    """The OpenAPI document, which is the same for every project."""
    found: dict[str, Any] = _assembled().openapi()
    return found


def _assembled() -> FastAPI:
    application = FastAPI(
        title="rung control API",
        version=__version__,
        description="Changes and shows a project. Requests for predictions go to the data port.",
        openapi_tags=_TAGS,
        # The pages that FastAPI offers load scripts from another host.
        docs_url=None,
        redoc_url=None,
        telemetry=_QUIET,
    )
    for part in _PARTS:
        application.include_router(part.router)
    plain = application.openapi
    application.openapi = lambda: _completed(plain())  # type: ignore[method-assign]
    return application


def _completed(described: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's document with our schemas and our errors."""
    schemas = described.setdefault("components", {}).setdefault("schemas", {})
    if "Failure" in schemas:
        return described
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas |= components((*_SHOWN, Failure))
    failure = {"application/json": {"schema": {"$ref": "#/components/schemas/Failure"}}}
    for path in described["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = {"description": "Why it was refused.", "content": failure}
    return described


def _refused(request: Request, error: Exception) -> Response:
    reply = error_reply(error)
    headers = {name.decode(): value.decode() for name, value in reply.headers}
    return Response(bytes(reply.body), reply.status, headers, "application/json")


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return _refused(request, InvalidInput(f"{where}: {first['msg']}", field=where))


def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Response(
        msgspec.json.encode({"error": f"{error.detail}: {request.method} {request.url.path}"}),
        error.status_code,
        dict(error.headers or {}),
        "application/json",
    )


def _failed(request: Request, error: Exception) -> Response:
    structlog.get_logger("rung.api").error(
        "a request failed", action="request_failed", path=request.url.path, exc_info=error
    )
    return _refused(request, error)
