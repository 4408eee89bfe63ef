"""Asking a model later: submit, look, cancel, ask again."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from rung.api.answers import answer, described
from rung.api.inference_bodies import Options, read_items
from rung.api.models import ModelName
from rung.api.roles import Caller, needs
from rung.api.services import Needed, Services
from rung.catalog import models as catalog
from rung.domain.access import Key, Role, allows
from rung.domain.errors import InvalidInput, NotFound, Overloaded
from rung.domain.inference import InferenceRequest, ItemAnswer, ItemState, NewRequest
from rung.domain.names import check_name
from rung.offline.callbacks import check_callback
from rung.protocols.status import ACCEPTED, OK

__all__ = ["Results", "router"]

router = APIRouter(tags=["asking later"])

_LARGEST = 32 << 20
_LOOK_SECONDS = 0.5
_SIGN_OF_LIFE = 15.0
_MOST_STREAMS = 100
_streams = asyncio.Semaphore(_MOST_STREAMS)
_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["items"],
                "additionalProperties": False,
                "properties": {
                    "items": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": 10_000,
                        "description": "Each a JSON body of /predict, or {base64, type, id}.",
                        "items": {},
                    },
                    "priority": {"type": "integer", "minimum": -1000, "maximum": 1000, "default": 0},
                    "key": {"type": "string", "maxLength": 100, "default": ""},
                    "idempotency_key": {"type": "string", "maxLength": 200, "default": ""},
                    "unit": {"type": "string", "maxLength": 200, "default": ""},
                    "accept": {"type": "string", "maxLength": 200, "default": "application/json"},
                    "deadline_seconds": {"type": "number", "minimum": 0, "default": 0},
                    "callback": {"type": "string", "default": ""},
                },
                "example": {"items": [{"rows": [[5.1, 3.5, 1.4, 0.2]]}], "priority": 0},
            }
        },
        "multipart/form-data": {"schema": {"type": "object"}},
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        "text/plain": {"schema": {"type": "string"}},
    },
}
_Id = Annotated[str, Path(description="Id of the request.", pattern="^[0-9a-f]{23}$")]
_Place = Annotated[int, Path(description="Place of the item, from 0.", ge=0, le=10_000)]


class Results(msgspec.Struct, frozen=True):
    """What became of items of a request, in their order."""

    results: list[ItemAnswer]
    next: int | None
    """`after` of the next page; null on the last."""


class GiveUp(BaseModel):
    """Why a request is cancelled."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field("", max_length=2000, description="For whoever looks at it.")


class Replay(BaseModel):
    """What is asked for again."""

    model_config = ConfigDict(extra="forbid")

    states: list[Literal["dead", "failed", "expired", "cancelled"]] = Field(
        ["dead"], min_length=1, max_length=4, description="Items that ended so."
    )


def _options(
    priority: Annotated[int, Query(description="Larger numbers start first.", ge=-1000, le=1000)] = 0,
    key: Annotated[str, Query(description="Items of one key are asked one by one, in order.", max_length=100)] = "",
    idempotency_key: Annotated[str, Query(description="The same request if sent twice.", max_length=200)] = "",
    unit: Annotated[str, Query(description="Whom a split of the traffic goes by.", max_length=200)] = "",
    accept: Annotated[str, Query(description="Form of the answers.", max_length=200)] = "application/json",
    deadline_seconds: Annotated[
        float, Query(description="Seconds after which no item starts; 0: none.", ge=0, le=1e9, allow_inf_nan=False)
    ] = 0.0,
    callback: Annotated[str, Query(description="URL that is told at the end.", max_length=2000)] = "",
) -> Options:
    return Options(
        priority=priority,
        key=key,
        idempotency_key=idempotency_key,
        unit=unit,
        accept=accept,
        deadline_seconds=deadline_seconds,
        callback=callback,
    )


@router.post(
    "/models/{model}/jobs",
    status_code=ACCEPTED,
    responses=described(InferenceRequest, "It is on disk, and will be answered.", status=ACCEPTED),
    openapi_extra={**needs("caller", _LARGEST), "requestBody": _BODY},
)
async def submit(
    model: ModelName,
    request: Request,
    services: Needed,
    caller: Caller,
    options: Annotated[Options, Depends(_options)],
) -> Response:
    """Ask a model later, for one item or many: when nobody else asks."""
    body = await request.body()
    header = request.headers.get("content-type", "")

    def accept() -> InferenceRequest:
        items, how = read_items(body, header, options)
        _check_model(services, model)
        if how.callback:
            check_callback(how.callback, services.offline)
        if how.deadline_seconds < 0:
            raise InvalidInput("deadline_seconds is a number from 0", field="deadline_seconds")
        new = NewRequest(
            model=model,
            items=items,
            owner=caller.id if caller is not None else "",
            quota=caller.quota if caller is not None else 0,
            priority=how.priority,
            key=how.key,
            idempotency_key=how.idempotency_key,
            unit=how.unit,
            accept=how.accept,
            deadline=time.time() + how.deadline_seconds if how.deadline_seconds else 0.0,
            callback=how.callback,
        )
        return services.requests.accept(new)

    accepted = await run_in_threadpool(accept)
    reply = answer(accepted, ACCEPTED)
    reply.headers["location"] = f"/models/{model}/jobs/{accepted.id}"
    return reply


@router.get(
    "/models/{model}/jobs",
    responses=described(list[InferenceRequest], "Requests, the newest first."),
    openapi_extra=needs("caller"),
)
def list_requests(
    model: ModelName,
    services: Needed,
    caller: Caller,
    state: Annotated[
        Literal["open", "dead"] | None, Query(description="Only those still open, or with dead items.")
    ] = None,
    before: Annotated[str, Query(description="Only older ones than this: the next page.", max_length=40)] = "",
    limit: Annotated[int, Query(description="Most requests to give.", ge=1, le=1000)] = 100,
) -> Response:
    """What a model was asked for later, the newest first; a caller sees its own."""
    found = services.requests.find(
        check_name(model), owner=_owner(caller, "viewer"), state=state, before=before, limit=limit
    )
    return answer(found)


@router.get(
    "/models/{model}/jobs/{request}",
    responses=described(InferenceRequest, "The request, and how far it is."),
    openapi_extra=needs("caller"),
)
def get_request(model: ModelName, request: _Id, services: Needed, caller: Caller) -> Response:
    """How far a request is."""
    return answer(services.requests.get(request, model, _owner(caller, "viewer")))


@router.get(
    "/models/{model}/jobs/{request}/results",
    responses=described(Results, "Answers and errors, item by item."),
    openapi_extra=needs("caller"),
)
def get_results(
    model: ModelName,
    request: _Id,
    services: Needed,
    caller: Caller,
    after: Annotated[int, Query(description="Only items after this place.", ge=-1, le=10_000)] = -1,
    limit: Annotated[int, Query(description="Most items to give.", ge=1, le=10_000)] = 1000,
    state: Annotated[ItemState | None, Query(description="Only items in this state.")] = None,
) -> Response:
    """What became of each item; about 8 MiB at once."""
    shown = services.requests.get(request, model, _owner(caller, "viewer"))
    found = services.requests.answers(request, after=after, limit=limit, state=state)
    last = not found or found[-1].place >= shown.items - 1
    return answer(Results(found, None if last else found[-1].place))


@router.get(
    "/models/{model}/jobs/{request}/results/{place}",
    responses={OK: {"description": "The answer as the model's door gave it.", "content": {"*/*": {}}}},
    openapi_extra=needs("caller"),
)
def get_result(model: ModelName, request: _Id, place: _Place, services: Needed, caller: Caller) -> Response:
    """The answer to one item, as it came: a mask, an overlay, JSON."""
    services.requests.get(request, model, _owner(caller, "viewer"))
    found = services.requests.answer(request, place)
    headers = {"rung-version": str(found.version)}
    if found.prediction_id:
        headers["rung-prediction-id"] = found.prediction_id
    return Response(found.body, OK, headers, found.media or None)


@router.post(
    "/models/{model}/jobs/{request}/cancel",
    responses=described(InferenceRequest, "The request as it stands."),
    openapi_extra=needs("caller"),
)
def cancel(model: ModelName, request: _Id, said: GiveUp, services: Needed, caller: Caller) -> Response:
    """End all items of a request that have not ended."""
    services.requests.get(request, model, _owner(caller, "operator"))
    return answer(services.requests.cancel(request, said.reason))


@router.post(
    "/models/{model}/jobs/{request}/replay",
    responses=described(InferenceRequest, "The request as it stands."),
    openapi_extra=needs("caller"),
)
def replay(model: ModelName, request: _Id, said: Replay, services: Needed, caller: Caller) -> Response:
    """Ask anew for items that ended without an answer."""
    services.requests.get(request, model, _owner(caller, "operator"))
    return answer(services.requests.replay(request, said.states))


@router.get(
    "/models/{model}/jobs/{request}/events",
    responses={OK: {"description": "Server-sent events.", "content": {"text/event-stream": {}}}},
    openapi_extra=needs("caller"),
)
async def events(model: ModelName, request: _Id, services: Needed, caller: Caller) -> Response:
    """Tell how far a request is whenever that changes: events `progress`, then one `end`."""
    owner = _owner(caller, "viewer")
    first = await run_in_threadpool(services.requests.get, request, model, owner)
    if _streams.locked():
        raise Overloaded(f"{_MOST_STREAMS} callers follow requests already; ask for the request now and then instead")
    return StreamingResponse(
        _told(services, first), media_type="text/event-stream", headers={"cache-control": "no-store"}
    )


async def _told(services: Services, shown: InferenceRequest) -> AsyncIterator[bytes]:
    async with _streams:
        told = b""
        quiet = 0.0
        while True:
            said = msgspec.json.encode(shown)
            if said != told:
                event = b"progress" if shown.state == "open" else b"end"
                yield b"event: " + event + b"\ndata: " + said + b"\n\n"
                told, quiet = said, 0.0
            if shown.state != "open" or services.closing():
                return
            await asyncio.sleep(_LOOK_SECONDS)
            quiet += _LOOK_SECONDS
            if quiet >= _SIGN_OF_LIFE:
                # So that whoever left is noticed, and nobody between takes the connection for dead.
                yield b": still waiting\n\n"
                quiet = 0.0
            try:
                shown = await run_in_threadpool(services.requests.get, shown.id, shown.model)
            except NotFound:
                return  # forgotten meanwhile


def _owner(caller: Key | None, least: Role) -> str | None:
    """Whose requests this caller may deal with: its own, or with the role, everybody's."""
    return None if caller is None or allows(caller.role, least) else caller.id


def _check_model(services: Services, model: str) -> None:
    if check_name(model) not in services.named:
        catalog.show(services.repository, model)
