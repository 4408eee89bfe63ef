"""Many items in one call: `POST /predict/{model}/batch`.

In, a JSON array or `{"items": [...]}` of what `/predict` takes one at a time (a row or a text), or a
form with several files. Out, `{"predictions": [...]}` in the order and number of the items: what
`/predict` would have answered for each, or `{"error": "..."}` for one that failed alone.

Equal items are computed once. Each item is a request of its own below the door, so the batcher
forms its batches out of them and of everybody else's.
"""

import asyncio
from typing import Any

import msgspec
import orjson

from rung.domain.errors import InvalidInput, ModelError, RungError, TooLarge, UnsupportedMedia
from rung.domain.predictions import Call, Payload
from rung.ports import Directory, Served
from rung.protocols import multipart
from rung.protocols.bodies import FORM
from rung.protocols.exchange import Head, Reply, Route
from rung.protocols.headers import priority_of, target_of, timeout_of
from rung.protocols.media import content_type
from rung.protocols.status import OK

__all__ = ["Batch"]

_JSON = ("application/json",)


class Batch:
    """The endpoints of `/predict/{model}/batch`."""

    def __init__(self, directory: Directory, *, max_items: int = 10_000) -> None:
        self._directory = directory
        self._max_items = max_items

    def routes(self) -> list[Route]:
        """Where the endpoints go."""
        return [
            Route("POST", "/predict/{model}/batch", self.predict),
            Route("POST", "/predict/{model}/versions/{version}/batch", self.predict),
        ]

    async def predict(self, head: Head, body: bytes, call: Call) -> Reply:
        """Answer every item.

        Raises:
            InvalidInput: the body is no list of items.
            TooLarge: more items than one call may hold.
            RungError: the model is not there; what concerns one item is in its place of the answer.
        """
        served = self._directory.find(*target_of(head), call)
        kind, items = self._items(head, body, served)
        if len(items) > self._max_items:
            raise TooLarge(f"{len(items)} items are over the limit of {self._max_items} in one call")
        deadline = call.arrived + timeout_of(head.headers.get(b"rung-timeout-ms"))
        priority = priority_of(head.headers.get(b"rung-priority"))
        places: dict[bytes, int] = {}
        order = [places.setdefault(_canonical(item), len(places)) for item in items]
        unique: list[Any] = [None] * len(places)
        for item, place in zip(items, order, strict=True):
            unique[place] = item
        answers = await _answers(served, Payload(kind, unique, deadline, priority, call.arrived, call))
        parts = [answers[place] for place in order]
        headers = (
            (b"rung-model", served.manifest.name.encode("ascii")),
            (b"rung-version", b"%d" % served.manifest.version),
            (b"rung-computed", b"%d" % len(unique)),
        )
        return Reply(OK, b'{"predictions":[' + b",".join(parts) + b"]}", headers=headers)

    def _items(self, head: Head, body: bytes, served: Served) -> tuple[Any, list[Any]]:
        media, parameters = content_type(head.headers.get(b"content-type"))
        if media == FORM:
            parts = multipart.parse(body, parameters.get("boundary", ""), self._max_items)
            return "image", [part.body for part in parts]
        if media not in ("", "application/json", "application/x-www-form-urlencoded"):
            raise UnsupportedMedia(f"{media!r:.80} holds no items: send a JSON array, or a form with files")
        try:
            items = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise InvalidInput(f"the body is not JSON: {error}") from None
        if isinstance(items, dict) and items.keys() == {"items"}:
            items = items["items"]
        if not isinstance(items, list) or not items:
            raise InvalidInput('the body must be a JSON array of items, or {"items": [...]}, and hold one at least')
        steps = served.manifest.transforms.input
        texts = bool(steps) and steps[0].name.startswith("text.")
        signature = served.manifest.signature
        if not steps and len(signature.inputs) == 1 and signature.inputs[0].datatype == "BYTES":
            texts = all(isinstance(item, str) for item in items)
        return ("text" if texts else "rows"), items


def _canonical(item: Any) -> bytes:
    return item if isinstance(item, bytes) else orjson.dumps(item, option=orjson.OPT_SORT_KEYS)


async def _answers(served: Served, whole: Payload) -> list[bytes]:
    """The JSON of each item's prediction or error."""
    items = whole.value
    if whole.kind != "image":
        # Together, which is much cheaper; apart only if one of them spoils it.
        try:
            answer = await served.respond(whole, _JSON)
        except (InvalidInput, ModelError):
            if len(items) == 1:
                return [await _one(served, whole)]
        else:
            return [orjson.dumps(one) for one in orjson.loads(answer.body)["predictions"]]
    alone = (
        Payload(whole.kind, [item], whole.deadline, whole.priority, whole.arrived, _copy(whole.call)) for item in items
    )
    return await asyncio.gather(*(_one(served, payload) for payload in alone))


def _copy(call: Call | None) -> Call | None:
    # Each item is a prediction of its own.
    return None if call is None else msgspec.structs.replace(call)


async def _one(served: Served, payload: Payload) -> bytes:
    try:
        answer = await served.respond(payload, _JSON)
    except RungError as error:
        return orjson.dumps({"error": str(error)})
    return answer.body[len(b'{"predictions":[') : -len(b"]}")]
