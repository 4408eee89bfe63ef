"""Models and their versions."""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from rung.api.answers import answer, described
from rung.api.roles import needs
from rung.api.services import Needed
from rung.catalog import models as catalog
from rung.catalog.bundles import absent
from rung.catalog.models import Entry
from rung.domain.models import Manifest
from rung.domain.names import check_name

__all__ = ["ModelName", "VersionNumber", "router"]

router = APIRouter(tags=["models"])

ModelName = Annotated[str, Path(description="Name of the model.", examples=["nuclei"])]
VersionNumber = Annotated[int, Path(description="Number of the version.", ge=1, le=2**31 - 1, examples=[2])]


@router.get(
    "/models", responses=described(list[Entry], "Every version, by model and number."), openapi_extra=needs("viewer")
)
def list_models(services: Needed) -> Response:
    """Every model with its versions."""
    return answer(catalog.list_models(services.repository))


@router.get(
    "/models/{model}",
    responses=described(list[Entry], "The model's versions, by number."),
    openapi_extra=needs("viewer"),
)
def get_model(model: ModelName, services: Needed) -> Response:
    """The versions of one model."""
    check_name(model)
    found = [entry for entry in catalog.list_models(services.repository) if entry.name == model]
    if not found:
        raise absent(services.repository, model)
    return answer(found)


@router.get(
    "/models/{model}/versions/{version}",
    responses=described(Manifest, "The version's manifest."),
    openapi_extra=needs("viewer"),
)
def get_version(model: ModelName, version: VersionNumber, services: Needed) -> Response:
    """One version: signature, transforms, files, metrics, lineage."""
    return answer(catalog.show(services.repository, model, version))
