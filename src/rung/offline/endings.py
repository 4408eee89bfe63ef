"""How items end: written together with the end of their messages, once each.

Every function runs in the caller's write transaction.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, select, text

from rung.domain.inference import ItemState, item_of
from rung.domain.jobs import NewJob
from rung.domain.messages import Outcome
from rung.jobs.endings import clean
from rung.jobs.submission import add
from rung.offline.tables import REQUESTS

__all__ = ["CALL", "Result", "finish", "hold", "write"]

CALL = "requests.call"
"""Kind of the jobs that tell callbacks."""
_CALLS = 10
"""Tries of a callback: with their pauses a quarter of an hour."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What an item ended with."""

    state: ItemState
    answer: bytes = b""
    media: str = ""
    version: int = 0
    prediction: str = ""
    error: str = ""


_END = text("""
UPDATE rung_request_items SET
  state = :state, tries = :tries, answer = :answer, answer_media = :media, version = :version,
  prediction = :prediction, error = :error, finished = :now,
  body = CASE WHEN :done = 1 THEN NULL ELSE body END
WHERE request = :request AND place = :place AND state = 'waiting'
""")
"""The first end stands."""
_NOTE = text("""
UPDATE rung_request_items SET tries = :tries, error = :error
WHERE request = :request AND place = :place AND state = 'waiting'
""")


def write(connection: Connection, outcomes: Sequence[Outcome], results: Mapping[str, Result], now: float) -> None:
    """Write the ends of these leases, and why tries failed; results are by the id of the message."""
    ended: list[dict[str, Any]] = []
    noted: list[dict[str, Any]] = []
    for outcome in outcomes:
        lease = outcome.lease
        request, place = item_of(lease.message.id)
        row: dict[str, Any] = {"request": request, "place": place, "tries": lease.attempts}
        result = results.get(lease.message.id)
        if outcome.ending in ("done", "dead") and result is not None:
            ended.append(row | _values(result, now))
        elif outcome.ending == "again":
            noted.append(row | {"error": clean(outcome.reason)})
    requests = sorted({row["request"] for row in ended})
    hold(connection, requests)
    if ended:
        connection.execute(_END, ended)
    if noted:
        connection.execute(_NOTE, noted)
    finish(connection, requests, now)


def _values(result: Result, now: float) -> dict[str, Any]:
    return {
        "state": result.state,
        "answer": result.answer,
        "media": result.media,
        "version": result.version,
        "prediction": result.prediction,
        "error": clean(result.error),
        "done": int(result.state == "done"),
        "now": now,
    }


def hold(connection: Connection, requests: Sequence[str]) -> None:
    """Keep other transactions off these requests: of two that end the last items, one has to see that they were."""
    if requests and connection.dialect.name == "postgresql":
        query = select(REQUESTS.c.id).where(REQUESTS.c.id.in_(requests)).order_by(REQUESTS.c.id)
        connection.execute(query.with_for_update())


_FINISH = text("""
UPDATE rung_requests SET finished = :now
WHERE id = :request AND finished IS NULL AND NOT EXISTS (
  SELECT 1 FROM rung_request_items WHERE request = :request AND state = 'waiting')
RETURNING callback
""")


def finish(connection: Connection, requests: Iterable[str], now: float) -> None:
    """Note of each of these requests whether its last item has ended, and let its callback be told."""
    for request in requests:
        callback = connection.execute(_FINISH, {"request": request, "now": now}).scalar()
        if callback:
            call = NewJob(
                kind=CALL,
                arguments={"request": request},
                # A request that was replayed ends again, and is told of again.
                idempotency_key=f"{request}:{now:.3f}",
                max_attempts=_CALLS,
            )
            add(connection, [call], now)
