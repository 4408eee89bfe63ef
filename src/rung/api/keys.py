"""Keys of callers, and the audit log."""

import time
from itertools import islice
from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from rung.api.answers import answer, described
from rung.api.roles import Caller, name_of, needs
from rung.api.services import Needed
from rung.domain.access import ANY, Key, Ring, Role
from rung.store.audit import AuditLine

__all__ = ["KeyMade", "KeyShown", "router"]

router = APIRouter(tags=["keys"])

_ADMIN = needs("admin")


class KeyRequest(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100, description="Whose it is, for people.", examples=["web"])
    role: Role = Field("caller", description="What its holder may do; each role may do what those before it may.")
    models: list[str] = Field(
        list(ANY),
        min_length=1,
        max_length=100,
        description="Models that it is for, or patterns.",
        examples=[["cells-*"]],
    )
    seconds: float = Field(0.0, ge=0, le=1e10, allow_inf_nan=False, description="When it ends by itself; 0: never.")
    rate: float = Field(0.0, ge=0, le=1e9, allow_inf_nan=False, description="Requests a second; 0: no limit.")
    burst: int = Field(0, ge=0, le=1_000_000_000, description="Requests at once; 0: those of one second.")
    quota: int = Field(0, ge=0, le=2**53 - 1, description="Requests a day (UTC); 0: no limit.")


class RevokeRequest(BaseModel):
    """Why a key is ended."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field("", max_length=2000, description="Kept with the key.")


class KeyShown(msgspec.Struct):
    """A key without its secret."""

    id: str
    name: str
    role: str
    models: tuple[str, ...]
    created: float
    """Seconds since the epoch."""
    by: str
    expires: float
    """Seconds since the epoch; 0: never."""
    rate: float
    burst: int
    quota: int
    ended: str = ""
    """Why it is good no more; empty while it is."""


class KeyMade(msgspec.Struct):
    """A key with its text, which is shown this once."""

    key: str
    shown: KeyShown


@router.get("/keys", responses=described(list[KeyShown], "Keys, the oldest first."), openapi_extra=_ADMIN)
def list_keys(services: Needed) -> Response:
    """Every key, those that have ended too, without their secrets."""
    ring, now = services.keys.ring(), time.time()
    return answer([_shown(key, ring, now) for key in sorted(ring.keys.values(), key=lambda key: key.created)])


@router.post("/keys", responses=described(KeyMade, "The key; its text is shown this once."), openapi_extra=_ADMIN)
def create_key(request: KeyRequest, services: Needed, caller: Caller) -> Response:
    """Make a key."""
    now = time.time()
    token, key = services.keys.create(
        request.name,
        at=now,
        by=name_of(caller, "api"),
        role=request.role,
        models=tuple(request.models),
        expires=now + request.seconds if request.seconds else 0.0,
        rate=request.rate,
        burst=request.burst,
        quota=request.quota,
    )
    return answer(KeyMade(token, _shown(key, services.keys.ring(), now)))


@router.post("/keys/{key}/revoke", responses=described(KeyShown, "The key as it stands."), openapi_extra=_ADMIN)
def revoke_key(
    key: Annotated[str, Path(description="Id or name of the key.", max_length=100)],
    request: RevokeRequest,
    services: Needed,
    caller: Caller,
) -> Response:
    """End a key; it is refused everywhere within five seconds."""
    now = time.time()
    ended = services.keys.revoke(key, at=now, by=name_of(caller, "api"), reason=request.reason)
    return answer(_shown(ended, services.keys.ring(), now))


@router.get("/audit", responses=described(list[AuditLine], "Changes, the newest first."), openapi_extra=_ADMIN)
def audit(
    services: Needed,
    limit: Annotated[int, Query(description="Most lines to give.", ge=1, le=10_000)] = 100,
) -> Response:
    """Who changed what, or tried to."""
    return answer(list(islice(services.audit.read(), limit)))


def _shown(key: Key, ring: Ring, now: float) -> KeyShown:
    fields = {name: getattr(key, name) for name in KeyShown.__struct_fields__ if name != "ended"}
    return KeyShown(**fields, ended=ring.why_not(key, now))
