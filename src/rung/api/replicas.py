"""How many replicas answer, new processes for them, and where a scraper finds each."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from rung.api.answers import answer, described
from rung.api.roles import Caller, name_of, needs
from rung.api.services import Needed
from rung.domain.errors import NotReady
from rung.fleet.orders import MOST, Order
from rung.fleet.state import RoleState, UpState

__all__ = ["ReplicasShown", "Targets", "router"]

router = APIRouter(tags=["replicas"])


class _Ordered(BaseModel):
    """Who says so."""

    model_config = ConfigDict(extra="forbid")

    by: str = Field("api", min_length=1, max_length=200, description="Who says so.", examples=["ana"])


class ScaleRequest(_Ordered):
    """How many replicas there are to be."""

    replicas: Annotated[int, Field(ge=1, le=MOST)] | Literal["auto"] = Field(
        description="So many from now on, whatever the rules say; `auto` leaves it to the rules.", examples=[3]
    )


class RestartRequest(_Ordered):
    """A new process for every replica."""


class ReplicasShown(msgspec.Struct, kw_only=True):
    """The replicas of the project."""

    wanted: int
    """How many there are to be."""
    why: str
    """Why so many."""
    by_hand: bool
    """Whether a person said so; then no rule changes it."""
    restarted: float
    """When the restart that is under way was asked for, in seconds since the epoch; 0 where there is none."""
    replicas: list[RoleState]
    """Those that there are; `url` is where one alone answers, on its own machine."""


class Targets(msgspec.Struct):
    """What Prometheus asks for of an `http_sd_config`: addresses with the labels that their figures get."""

    targets: list[str]
    labels: dict[str, str]


_SHOWN = described(ReplicasShown, "The replicas as they stand.")


@router.get("/replicas", responses=_SHOWN, openapi_extra=needs("viewer"))
def show_replicas(services: Needed) -> Response:
    """How many replicas there are to be, why, and what each of them does."""
    return answer(_shown(services.state()))


@router.post("/replicas", responses=_SHOWN, openapi_extra=needs("operator"))
def scale(request: ScaleRequest, services: Needed, caller: Caller) -> Response:
    """Have so many replicas, as `rung scale` does: taken when this answers, and carried out in its own time."""
    by = name_of(caller, request.by)
    if request.replicas == "auto":
        services.order(Order(auto=True, by=by))
    else:
        services.order(Order(replicas=request.replicas, by=by))
    return answer(_shown(services.state()))


@router.post("/replicas/restart", responses=_SHOWN, openapi_extra=needs("operator"))
def restart(request: RestartRequest, services: Needed, caller: Caller) -> Response:
    """Replace all replicas, one after another, as `rung restart` does; `restarted` is 0 again when that is done."""
    services.order(Order(restart=True, by=name_of(caller, request.by)))
    return answer(_shown(services.state()))


@router.get(
    "/sd",
    responses=described(
        list[Targets],
        "One entry for each replica that answers.",
        example=[{"targets": ["127.0.0.1:40001"], "labels": {"project": "nuclei", "replica": "replica-1"}}],
    ),
    openapi_extra=needs("viewer"),
)
def discover(services: Needed) -> Response:
    """Where Prometheus finds the figures of each replica: a list for its `http_sd_configs`."""
    state = services.state()
    roles = state.roles if state is not None else []
    project = state.project if state is not None else ""
    found = [role for role in roles if role.role == "replica" and role.state == "ready" and role.url]
    return answer([Targets([urlsplit(role.url).netloc], {"project": project, "replica": role.name}) for role in found])


def _shown(state: UpState | None) -> ReplicasShown:
    if state is None:
        raise NotReady("nothing is up in this project's folder: `rung up` starts it")
    return ReplicasShown(
        wanted=state.replicas,
        why=state.why,
        by_hand=state.by_hand,
        restarted=state.restarted,
        replicas=[role for role in state.roles if role.role == "replica"],
    )
