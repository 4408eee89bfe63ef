"""What turned out to be right: `POST /feedback` on the data port.

In, JSON: one event or a list of them,

    {"id": "<rung-prediction-id>", "label": "spam", "source": "moderator", "time": "2026-01-31T14:03:00Z"}

with one of `label`, `mask` (base64 of a PNG), `score` or `correction`. Or a PNG as it is, with the rest in the query:
`POST /feedback?id=...&source=...`. Out, `{"events": [...]}`, when they are on the disk: an event that was
acknowledged is not lost, and one that was sent twice counts once.

A list is taken whole or not at all. Ids that this project did not mint are 404.
"""

from binascii import b2a_base64
from collections.abc import Mapping
from contextlib import suppress
from time import time
from typing import Any
from urllib.parse import parse_qsl

import orjson

from rung.domain.errors import InvalidInput, RungError, TooLarge, UnsupportedMedia
from rung.domain.feedback import feedback_of
from rung.domain.predictions import Call
from rung.domain.records import FeedbackRecord
from rung.ports import FeedbackSink
from rung.protocols.access import check_model
from rung.protocols.exchange import Head, Reply, Route
from rung.protocols.media import content_type, sniff
from rung.protocols.status import OK

__all__ = ["Feedback"]

_JSON = ("application/json", "", "application/x-www-form-urlencoded")
"""curl calls a body a form unless it is told; JSON is what it may be."""


class Feedback:
    """The endpoint of `/feedback`."""

    def __init__(self, sink: FeedbackSink, *, max_events: int = 10_000) -> None:
        self._sink = sink
        self._max_events = max_events

    def routes(self) -> list[Route]:
        """Where it answers."""
        return [Route("POST", "/feedback", self.take)]

    async def take(self, head: Head, body: bytes, call: Call) -> Reply:
        """Take events, and answer when they are safe.

        Raises:
            NotFound: an id is unknown or forged. Nothing of the list was taken.
            Forbidden: it is of a model that the caller's key is not for. Nothing of the list was taken.
            InvalidInput: an event breaks a rule; the message says which. Nothing of the list was taken.
            TooLarge: more events than one call may hold.
            NotReady: the disk refuses; send them again.
        """
        items, several = self._items(head, body)
        received = time()
        records: list[FeedbackRecord] = []
        for index, item in enumerate(items):
            try:
                records.append(self._record(item, received, call))
            except RungError as error:
                if several:
                    error.args = (f"event {index}: {error}; nothing of the list was taken",)
                raise
        await self._sink.commit(records)
        return Reply(OK, orjson.dumps({"events": [record.event for record in records]}))

    def _record(self, item: Any, received: float, call: Call) -> FeedbackRecord:
        if not isinstance(item, dict):
            raise InvalidInput("feedback is an object such as {'id': ..., 'label': ...}")
        prediction, model = item.get("id"), item.get("model")
        if not isinstance(prediction, str):
            raise InvalidInput("feedback needs the id of a prediction, from the header rung-prediction-id", field="id")
        if model is not None and not isinstance(model, str):
            raise InvalidInput("model must be the name of one", field="model")
        identity = self._sink.verify(prediction, model or "")
        check_model(call, identity.model)
        return feedback_of(item, identity, received)

    def _items(self, head: Head, body: bytes) -> tuple[list[Any], bool]:
        media, _ = content_type(head.headers.get(b"content-type"))
        if media == "image/png" or (media in ("", "application/octet-stream") and sniff(body) == "image/png"):
            return [_mask(head.query, body)], False
        if media not in _JSON:
            raise UnsupportedMedia(f"{media!r:.100} is not read here: send application/json, or a mask as image/png")
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise InvalidInput(f"the body is no JSON: {error}") from None
        if not isinstance(value, list):
            return [value], False
        if not value:
            raise InvalidInput("the list of events is empty")
        if len(value) > self._max_events:
            raise TooLarge(f"{len(value)} events are over the limit of {self._max_events} in one call")
        return value, True


def _mask(query: str, body: bytes) -> Mapping[str, Any]:
    fields: dict[str, Any] = dict(parse_qsl(query))
    if "time" in fields:
        with suppress(ValueError):  # RFC 3339, or else refused by its own rule
            fields["time"] = float(fields["time"])
    if not fields.get("id"):
        raise InvalidInput("say which prediction the mask is for: POST /feedback?id=<rung-prediction-id>", field="id")
    return fields | {"mask": b2a_base64(body, newline=False).decode()}
