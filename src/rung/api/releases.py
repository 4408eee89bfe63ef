"""Which versions answer whom: reading the ledger, and moving a release."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from rung.api.answers import answer, described
from rung.api.models import ModelName
from rung.api.roles import Caller, name_of, needs
from rung.api.services import Needed
from rung.catalog import releases
from rung.catalog.releases import Why
from rung.domain.access import Key
from rung.domain.errors import InvalidInput
from rung.domain.releases import LADDER, Release, Segment

__all__ = ["router"]

router = APIRouter(tags=["releases"])

_Version = Annotated[int, Field(ge=1, le=2**31 - 1, description="Number of the version.", examples=[2])]
_Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
_MOVED: dict[int | str, dict[str, Any]] = described(Release, "The new link of the ledger.")


class _Move(BaseModel):
    """Who moves a release, and why."""

    model_config = ConfigDict(extra="forbid")

    by: str = Field("api", min_length=1, max_length=200, description="Who moves it.", examples=["ana"])
    reason: str = Field("", max_length=2000, description="Why, for whoever reads the ledger.")

    def why(self, caller: Key | None) -> Why:
        return {"by": name_of(caller, self.by), "reason": self.reason}


class ReleaseRequest(_Move):
    """Let a version answer a share of the units, at once."""

    version: _Version
    percent: _Percent = Field(100.0, description="Share of the units.", examples=[5])
    unit: str = Field("", max_length=200, description="What a unit is; empty keeps what there is.")
    force: bool = Field(default=False, description="Also a version that was taken back before.")


class RolloutRequest(_Move):
    """Start a candidate on a ladder of shares."""

    version: _Version
    ladder: list[_Percent] = Field(
        list(LADDER), min_length=1, max_length=50, description="Percent at each stage, rising; 0 is shadow."
    )
    unit: str = Field("", max_length=200, description="What a unit is; empty keeps what there is.")
    force: bool = Field(default=False, description="Also a version that was taken back before.")


class ShadowRequest(_Move):
    """Let a version answer copies."""

    version: _Version


class AudienceRequest(BaseModel):
    """Units that an attribute sends to an arm."""

    model_config = ConfigDict(extra="forbid")

    attribute: str = Field(max_length=200, description="What they are known by.", examples=["header:country"])
    values: list[str] = Field(max_length=1000, description="Who belongs to it.", examples=[["nl"]])
    arm: str = Field(max_length=200, description="Who answers them.", examples=["v2"])


class SplitRequest(_Move):
    """Divide the units between versions."""

    shares: dict[_Version, _Percent] = Field(
        min_length=1, max_length=100, description="Version -> percent; they sum to 100.", examples=[{"1": 95, "2": 5}]
    )
    unit: str = Field("", max_length=200, description="What a unit is; empty keeps what there is.")
    segments: list[AudienceRequest] | None = Field(
        None, max_length=100, description="Audiences with an arm of their own; left out keeps those there are."
    )
    force: bool = Field(default=False, description="Also versions that were taken back before.")


class PromoteRequest(_Move):
    """Let a version answer everybody."""

    version: _Version | None = Field(None, description="Left out: the candidate that is under way.")
    force: bool = Field(default=False, description="Also a version that was taken back before.")


class RollbackRequest(_Move):
    """Take a candidate back."""

    latch: bool = Field(default=True, description="Whether no controller may release the same bytes again.")


@router.get(
    "/releases",
    responses=described(list[Release], "The last link of every model that has one."),
    openapi_extra=needs("viewer"),
)
def list_releases(services: Needed) -> Response:
    """What answers now, of every model that has a release."""
    return answer(releases.list_releases(services.repository))


@router.get(
    "/models/{model}/releases",
    responses=described(list[Release], "Links of the ledger, first to last."),
    openapi_extra=needs("viewer"),
)
def history(
    model: ModelName,
    services: Needed,
    at: Annotated[
        datetime | None,
        Query(description="Only what answered at this time, with its zone.", examples=["2026-01-31T14:03:00Z"]),
    ] = None,
) -> Response:
    """Every move of a model's release, or what answered at a time."""
    if at is None:
        return answer(releases.history(services.repository, model))
    if at.tzinfo is None:
        raise InvalidInput("the time needs a zone, such as 2026-01-31T14:03:00Z", field="at")
    found = releases.at(services.repository, model, at)
    return answer([found] if found else [])


@router.get(
    "/models/{model}/experiment",
    responses=described(dict[str, Any], "Arms, checks, guards and what comes next."),
    openapi_extra=needs("viewer"),
)
def experiment(model: ModelName, services: Needed) -> Response:
    """How the rollout or split of a model stands, by its prediction log."""
    return answer(services.experiment(model))


@router.post("/models/{model}/release", responses=_MOVED, openapi_extra=needs("deployer"))
def release(model: ModelName, request: ReleaseRequest, services: Needed, caller: Caller) -> Response:
    """Let a version answer a share of the units, at once."""
    moved = releases.release(
        services.repository,
        model,
        request.version,
        percent=request.percent,
        unit=request.unit,
        force=request.force,
        **request.why(caller),
    )
    return answer(moved)


@router.post("/models/{model}/split", responses=_MOVED, openapi_extra=needs("deployer"))
def split(model: ModelName, request: SplitRequest, services: Needed, caller: Caller) -> Response:
    """Divide the units between versions."""
    audiences = request.segments
    segments = (
        None if audiences is None else tuple(Segment(one.attribute, tuple(one.values), one.arm) for one in audiences)
    )
    moved = releases.split(
        services.repository,
        model,
        request.shares,
        unit=request.unit,
        segments=segments,
        force=request.force,
        **request.why(caller),
    )
    return answer(moved)


@router.post("/models/{model}/shadow", responses=_MOVED, openapi_extra=needs("deployer"))
def shadow(model: ModelName, request: ShadowRequest, services: Needed, caller: Caller) -> Response:
    """Let a version answer copies of what others are asked."""
    return answer(releases.shadow(services.repository, model, request.version, **request.why(caller)))


@router.post("/models/{model}/rollout", responses=_MOVED, openapi_extra=needs("deployer"))
def rollout(model: ModelName, request: RolloutRequest, services: Needed, caller: Caller) -> Response:
    """Start a candidate on a ladder of shares, which it climbs by itself as far as its guards let it."""
    moved = releases.rollout(
        services.repository,
        model,
        request.version,
        ladder=tuple(request.ladder),
        unit=request.unit,
        force=request.force,
        **request.why(caller),
    )
    return answer(moved)


@router.post("/models/{model}/promote", responses=_MOVED, openapi_extra=needs("deployer"))
def promote(model: ModelName, request: PromoteRequest, services: Needed, caller: Caller) -> Response:
    """Let the candidate that is under way, or another version, answer everybody."""
    return answer(
        releases.promote(services.repository, model, request.version, force=request.force, **request.why(caller))
    )


@router.post("/models/{model}/rollback", responses=_MOVED, openapi_extra=needs("operator"))
def rollback(model: ModelName, request: RollbackRequest, services: Needed, caller: Caller) -> Response:
    """Take the candidate back; without one, go back to the last known good version."""
    return answer(releases.rollback(services.repository, model, latch=request.latch, **request.why(caller)))
