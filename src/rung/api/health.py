"""Whether the control plane works, and how the whole project is."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from rung.api.answers import answer, described
from rung.api.roles import needs
from rung.api.services import Needed
from rung.domain.errors import NotReady
from rung.fleet.loop import PartHealth
from rung.fleet.status import ProjectStatus

__all__ = ["router"]

router = APIRouter(tags=["health"])


@router.get(
    "/healthz", responses=described(dict[str, bool], "It answers.", example={"live": True}), openapi_extra=needs("open")
)
async def healthz() -> Response:
    """Whether the process answers."""
    return answer({"live": True})


@router.get(
    "/readyz",
    responses=described(list[PartHealth], "Every part of the control loop works."),
    openapi_extra=needs("open"),
)
def readyz(
    services: Needed,
    all: Annotated[bool, Query(description="Say how every part is, also where one does not work.")] = False,
) -> Response:
    """Whether every part of the control loop works; 503 with the reasons where one does not."""
    parts = services.parts()
    ill = [f"{part.name}: {part.error}" for part in parts if part.error]
    if ill and not all:
        raise NotReady("; ".join(ill))
    return answer(parts)


@router.get("/status", responses=described(ProjectStatus, "What `rung ps` shows."), openapi_extra=needs("viewer"))
def status(services: Needed) -> Response:
    """Processes, models with their releases, jobs and problems: what `rung ps` shows."""
    return answer(services.status())
