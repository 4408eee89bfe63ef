"""The job table: look, submit, cancel, retry."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from rung.api.answers import answer, described
from rung.api.roles import Caller, needs
from rung.api.services import Needed
from rung.domain.access import Key, Needs, permit
from rung.domain.errors import InvalidInput
from rung.domain.jobs import MOST_TRIES, Job, NewJob, State

__all__ = ["router"]

router = APIRouter(tags=["jobs"])

_MOST = 2**63 - 1
_ROLES: dict[str, Needs] = {"models.train": "deployer", "predictions.erase": "admin"}
"""Kinds of jobs that take more than an operator: a version trained may answer everybody, and what is erased is gone."""
_Id = Annotated[int, Path(description="Number of the job.", ge=1, le=_MOST)]
_Parent = Annotated[int, Field(ge=1, le=_MOST)]


class JobRequest(BaseModel):
    """A job to be done."""

    model_config = ConfigDict(extra="forbid")

    kind: str = Field(min_length=1, max_length=200, description="What is to be done.")
    arguments: dict[str, Any] = Field({}, description="Plain JSON values for whoever does it.")
    priority: int = Field(0, ge=-1_000_000, le=1_000_000, description="Larger numbers start first.")
    key: str = Field("", max_length=200, description="Jobs of one key run one at a time, in this order.")
    owner: str = Field("", max_length=200, description="Whose work it is; owners share what is free evenly.")
    idempotency_key: str = Field("", max_length=200, description="The same job when submitted twice.")
    after: list[_Parent] = Field([], max_length=1000, description="Jobs that have to be done first.")
    run_at: float = Field(0.0, ge=0, le=1e11, allow_inf_nan=False, description="Not before; seconds since the epoch.")
    max_attempts: int = Field(MOST_TRIES, ge=1, le=100, description="Tries before it is dead.")
    timeout: float = Field(0.0, ge=0, le=1e9, allow_inf_nan=False, description="Seconds for one try; 0: no limit.")


class CancelRequest(BaseModel):
    """Why a job is cancelled."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field("", max_length=2000, description="For whoever looks at the job.")


@router.get("/jobs", responses=described(list[Job], "Jobs, the newest first."), openapi_extra=needs("viewer"))
def list_jobs(
    services: Needed,
    state: Annotated[State | None, Query(description="Only jobs in this state.")] = None,
    kind: Annotated[str, Query(description="Only jobs of this kind.", max_length=200)] = "",
    owner: Annotated[str, Query(description="Only jobs of this owner.", max_length=200)] = "",
    before: Annotated[int, Query(description="Only jobs below this number: the next page.", ge=0, le=_MOST)] = 0,
    limit: Annotated[int, Query(description="Most jobs to give.", ge=1, le=1000)] = 100,
) -> Response:
    """Jobs, the newest first."""
    return answer(services.jobs.find(state=state, kind=kind, owner=owner, before=before, limit=limit))


@router.post("/jobs", responses=described(Job, "The job as it stands."), openapi_extra=needs("operator"))
def submit(request: JobRequest, services: Needed, caller: Caller) -> Response:
    """Submit a job, or find the one that was submitted before with the same idempotency key."""
    _check(caller, request.kind, request.arguments)
    if request.kind not in services.kinds:
        known = ", ".join(sorted(services.kinds)) or "none"
        raise InvalidInput(f"{request.kind!r:.80} is no kind of job that can be submitted; there are {known}")
    job = NewJob(
        kind=request.kind,
        arguments=request.arguments,
        priority=request.priority,
        key=request.key,
        owner=request.owner,
        idempotency_key=request.idempotency_key,
        after=tuple(request.after),
        run_at=request.run_at,
        max_attempts=request.max_attempts,
        timeout=request.timeout,
    )
    return answer(services.jobs.get(services.jobs.submit(job)))


@router.get("/jobs/{job}", responses=described(Job, "The job as it stands."), openapi_extra=needs("viewer"))
def get_job(job: _Id, services: Needed) -> Response:
    """One job."""
    return answer(services.jobs.get(job))


@router.post("/jobs/{job}/cancel", responses=described(Job, "The job as it stands."), openapi_extra=needs("operator"))
def cancel(job: _Id, request: CancelRequest, services: Needed, caller: Caller) -> Response:
    """Cancel a job that has not ended, and those that wait for it."""
    known = services.jobs.get(job)
    _check(caller, known.kind, known.arguments)
    return answer(services.jobs.cancel(job, request.reason))


@router.post("/jobs/{job}/retry", responses=described(Job, "The job as it stands."), openapi_extra=needs("operator"))
def retry(job: _Id, services: Needed, caller: Caller) -> Response:
    """Try a dead or cancelled job again."""
    known = services.jobs.get(job)
    _check(caller, known.kind, known.arguments)
    return answer(services.jobs.retry(job))


def _check(caller: Key | None, kind: str, arguments: Mapping[str, Any]) -> None:
    """A job takes the role of its kind, and is about the model of its arguments."""
    if caller is not None:
        model = arguments.get("model")
        permit(caller, _ROLES.get(kind, "operator"), model if isinstance(model, str) else None)
