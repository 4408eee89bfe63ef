"""Requests that are answered later: accepted, looked at, cancelled, asked again, forgotten.

What was accepted is in the database. The queue only says whose turn it is: what it loses is put in again, and what it
gives twice finds its item ended. So each item has one visible end, whatever carries the messages.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, Row, Select, Text, delete, func, insert, literal, select, update

from rung.domain.errors import Conflict, NotFound, NotReady, StorageFull
from rung.domain.inference import (
    REPLAYED,
    InferenceRequest,
    ItemAnswer,
    ItemState,
    NewRequest,
)
from rung.domain.messages import Message
from rung.jobs.chains import hold_keys
from rung.offline.endings import finish, hold
from rung.offline.quota import hold_to_quota, ids_from
from rung.offline.rows import (
    ANSWERED,
    answer_of,
    digest_of,
    items_of,
    message_again,
    message_of,
    request_of,
    row_of,
)
from rung.offline.tables import ITEMS, REQUESTS
from rung.ports import Queue
from rung.store.database import Database

__all__ = ["Answer", "Requests"]

_QUEUED_ANEW = 5.0
"""Seconds after which a request whose messages were not seen to reach the queue is put there again."""
_LOST = 600.0
"""Seconds after which that is done for a queue that may lose what it holds."""
_AT_ONCE = 50
"""Requests that one turn of the control loop sees to in one transaction."""
_LARGEST_PAGE = 8 << 20
_JSON = "application/json"


class Answer(msgspec.Struct, frozen=True):
    """An answer as a replica gave it."""

    body: bytes
    media: str
    version: int
    prediction_id: str


class Requests:
    """The requests of one project; its methods block, and may be called from any thread.

    Guarantees:
        1. When `accept` has returned, every item is on disk.
        2. An item ends once, and what it ended with does not change, but for `replay`.
    """

    def __init__(self, database: Database, queue: Callable[[], Queue], clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._queue = queue
        self._clock = clock

    @property
    def _whole(self) -> bool:
        """Whether what is put into the queue and what is written beside it are one."""
        return "all or none" in self._queue().means.promises

    def accept(self, new: NewRequest) -> InferenceRequest:
        """Take a request, or find the one that was taken before with the same idempotency key.

        Raises:
            InvalidInput: naming the field.
            Conflict: that one asked for something else.
            Overloaded: its owner has no quota left for it today.
            StorageFull, NotReady: it was not accepted.
        """
        new, now = new.checked(), self._clock()
        # In the order of their times, and nobody guesses one.
        request = ids_from(now) + secrets.token_hex(6)
        digest = digest_of(new)
        queued = now if self._whole else 0.0

        def write(connection: Connection) -> None:
            if new.idempotency_key:
                hold_keys(connection, [f"\2{new.model}\n{new.owner}\n{new.idempotency_key}"])
                known = _known(connection, new)
                if known is not None:
                    raise _Known(known.id, known.digest)
            if new.quota:
                hold_to_quota(connection, new, now)
            connection.execute(insert(REQUESTS), row_of(new, request, digest, now, queued))
            connection.execute(insert(ITEMS), items_of(new, request))

        messages = [message_of(new, request, place) for place in range(len(new.items))]
        try:
            self._put(request, messages, write)
        except _Known as known:
            if known.digest != digest:
                raise Conflict(
                    f"the idempotency key {new.idempotency_key!r} belongs to request {known.id}, which asked for "
                    "something else: take another key"
                ) from None
            request = known.id
        return self.get(request)

    def _put(self, request: str, messages: Sequence[Message], write: Callable[[Connection], None]) -> None:
        try:
            self._queue().put(messages, write)
        except (NotReady, StorageFull):
            if self._whole or not self._database.read(lambda one: _find(one, request, None)):
                raise
            return  # it is in the database, and goes into the queue when that is back
        if not self._whole:
            self._queued([request])

    def _queued(self, requests: Sequence[str]) -> None:
        change = update(REQUESTS).where(REQUESTS.c.id.in_(requests)).values(queued=self._clock())
        self._database.write(lambda connection: connection.execute(change))

    # --- looking ----------------------------------------------------------------------------

    def get(self, request: str, model: str | None = None, owner: str | None = None) -> InferenceRequest:
        """How far a request is.

        Raises:
            NotFound: there is none of this id, for this model, of this owner, where these are given.
        """
        found = self._database.read(lambda connection: self._shown(connection, [_one(connection, request, model)]))[0]
        shown, whose = found
        if owner is not None and whose != owner:
            raise _missing(request, model)
        return shown

    def find(
        self,
        model: str = "",
        *,
        owner: str | None = None,
        state: Literal["open", "dead"] | None = None,
        before: str = "",
        limit: int = 100,
    ) -> list[InferenceRequest]:
        """Requests, the newest first: of a model, of an owner, still open or with dead items, before an id."""
        query = select(REQUESTS).order_by(REQUESTS.c.id.desc()).limit(limit)
        if model:
            query = query.where(REQUESTS.c.model == model)
        if owner is not None:
            query = query.where(REQUESTS.c.owner == owner)
        if before:
            query = query.where(REQUESTS.c.id < before)
        if state == "open":
            query = query.where(REQUESTS.c.finished.is_(None))
        if state == "dead":
            # Spelled out: an index on one state serves no parameter.
            dead = select(ITEMS.c.request).where(ITEMS.c.state == literal("dead", Text, literal_execute=True))
            query = query.where(REQUESTS.c.id.in_(dead))
        return [shown for shown, _ in self._database.read(lambda one: self._shown(one, list(one.execute(query).all())))]

    def answers(
        self, request: str, *, after: int = -1, limit: int = 1000, state: ItemState | None = None
    ) -> list[ItemAnswer]:
        """What became of the items after a place, in order: at most `limit`, and about 8 MiB of them."""
        query = (
            select(ITEMS.c.place, func.length(ITEMS.c.answer).label("size"))
            .where(ITEMS.c.request == request, ITEMS.c.place > after)
            .order_by(ITEMS.c.place)
            .limit(limit)
        )
        if state:
            query = query.where(ITEMS.c.state == state)

        def read(connection: Connection) -> list[ItemAnswer]:
            places: list[int] = []
            size = 0
            for place, length in connection.execute(query):
                size += length or 0
                if places and size > _LARGEST_PAGE:
                    break
                places.append(place)
            if not places:
                return []
            rows = select(*ANSWERED).where(ITEMS.c.request == request, ITEMS.c.place.between(places[0], places[-1]))
            wanted = set(places)
            found = connection.execute(rows.order_by(ITEMS.c.place))
            return [answer_of(row) for row in found if row.place in wanted]

        return self._database.read(read)

    def answer(self, request: str, place: int) -> Answer:
        """The answer to one item, as it came.

        Raises:
            NotFound: there is no such item.
            NotReady: it waits.
            Conflict: it ended without an answer; the message says why.
        """
        query = select(*ANSWERED).where(ITEMS.c.request == request, ITEMS.c.place == place)
        row = self._database.read(lambda connection: connection.execute(query).first())
        if row is None:
            raise NotFound(f"request {request} has no item {place}")
        if row.state == "waiting":
            raise NotReady(f"item {place} of request {request} waits for its turn")
        if row.state != "done":
            raise Conflict(f"item {place} of request {request} is {row.state}: {row.error}")
        return Answer(bytes(row.answer or b""), row.answer_media, row.version, row.prediction)

    # --- changing ---------------------------------------------------------------------------

    def cancel(self, request: str, reason: str = "") -> InferenceRequest:
        """End all items of a request that have not ended.

        Raises:
            NotFound: there is no such request.
            Conflict: it has ended.
        """
        now, why = self._clock(), reason or "cancelled by hand"

        def write(connection: Connection) -> None:
            hold(connection, [request])
            if _one(connection, request, None).finished is not None:
                raise Conflict(f"request {request} has ended already")
            change = {"state": "cancelled", "error": why, "finished": now}
            waiting = (ITEMS.c.request == request, ITEMS.c.state == "waiting")
            connection.execute(update(ITEMS).where(*waiting).values(**change))
            connection.execute(update(REQUESTS).where(REQUESTS.c.id == request).values(reason=why))
            finish(connection, [request], now)

        self._database.write(write)
        return self.get(request)

    def replay(self, request: str, states: Sequence[ItemState] = ("dead",)) -> InferenceRequest:
        """Ask anew for what ended without an answer, with all tries.

        Raises:
            NotFound: there is no such request.
            Conflict: it has no item in these states, or its deadline has passed.
        """
        wanted = [state for state in states if state in REPLAYED]
        lost = (ITEMS.c.request == request, ITEMS.c.state.in_(wanted))
        row = self._database.read(lambda connection: _one(connection, request, None))
        if row.deadline and row.deadline <= self._clock():
            raise Conflict(f"the deadline of request {request} has passed: submit it anew")
        query = select(ITEMS.c.place, ITEMS.c.replays).where(*lost).order_by(ITEMS.c.place)
        found = self._database.read(lambda connection: connection.execute(query).all())
        if not found:
            raise Conflict(f"request {request} has no item that is {' or '.join(states)}")

        queued = self._clock() if self._whole else 0.0

        def write(connection: Connection) -> None:
            hold(connection, [request])
            change = {
                "state": "waiting",
                "replays": ITEMS.c.replays + 1,
                "tries": 0,
                "error": "",
                "finished": None,
            }
            if connection.execute(update(ITEMS).where(*lost).values(**change)).rowcount != len(found):
                raise Conflict(f"request {request} was changed meanwhile: look at it again")
            open_again = {"finished": None, "reason": "", "queued": queued}
            connection.execute(update(REQUESTS).where(REQUESTS.c.id == request).values(**open_again))

        self._put(request, [message_again(row, place, replays + 1) for place, replays in found], write)
        return self.get(request)

    def turn(self, keep_seconds: float) -> None:
        """See to what nobody else does: deadlines, messages that are not in the queue, and old answers.

        For the control plane to call again and again; any number of them may.
        """
        self._expire()
        self._purge(keep_seconds)
        self._resend()

    def _expire(self) -> None:
        now = self._clock()
        late = (
            select(REQUESTS.c.id)
            .where(REQUESTS.c.finished.is_(None), REQUESTS.c.deadline > 0, REQUESTS.c.deadline < now)
            .limit(_AT_ONCE)
        )
        ids = self._database.read(lambda connection: list(connection.execute(late).scalars()))
        if not ids:
            return

        def write(connection: Connection) -> None:
            hold(connection, ids)
            change = {"state": "expired", "error": "its deadline passed before its turn came", "finished": now}
            waiting = (ITEMS.c.request.in_(ids), ITEMS.c.state == "waiting")
            connection.execute(update(ITEMS).where(*waiting).values(**change))
            finish(connection, ids, now)

        self._database.write(write)

    def _resend(self) -> None:
        if self._whole:
            return
        now = self._clock()
        lost = (REQUESTS.c.queued == 0) & (REQUESTS.c.created < now - _QUEUED_ANEW)
        if self._queue().means.ack != "flushed":
            lost |= REQUESTS.c.queued.between(1, now - _LOST)
        query = select(REQUESTS).where(REQUESTS.c.finished.is_(None), lost).limit(_AT_ONCE)
        for row in self._database.read(lambda connection: connection.execute(query).all()):
            items = (
                select(ITEMS.c.place, ITEMS.c.replays)
                .where(ITEMS.c.request == row.id, ITEMS.c.state == "waiting")
                .order_by(ITEMS.c.place)
            )
            found = self._database.read(partial(_all, items))
            self._queue().put([message_again(row, place, replays) for place, replays in found])
            self._queued([row.id])

    def _purge(self, keep_seconds: float) -> None:
        old = select(REQUESTS.c.id).where(REQUESTS.c.finished < self._clock() - keep_seconds).limit(_AT_ONCE)
        while ids := self._database.read(lambda connection: list(connection.execute(old).scalars())):
            for request in ids:
                # One by one, so that others get their turn in between.
                self._database.write(partial(_forget, request))

    def _shown(self, connection: Connection, rows: "Sequence[Row[Any]]") -> list[tuple[InferenceRequest, str]]:
        counts: dict[str, dict[ItemState, int]] = {row.id: {} for row in rows}
        query = (
            select(ITEMS.c.request, ITEMS.c.state, func.count())
            .where(ITEMS.c.request.in_(list(counts)))
            .group_by(ITEMS.c.request, ITEMS.c.state)
        )
        for request, state, count in connection.execute(query) if rows else ():
            counts[request][state] = count
        return [(request_of(row, counts[row.id]), row.owner) for row in rows]


class _Known(Exception):
    """There is a request with this idempotency key."""

    def __init__(self, request: str, digest: str) -> None:
        super().__init__(request)
        self.id = request
        self.digest = digest


def _all(query: Select[Any], connection: Connection) -> Sequence[Any]:
    return connection.execute(query).all()


def _forget(request: str, connection: Connection) -> None:
    connection.execute(delete(ITEMS).where(ITEMS.c.request == request))
    connection.execute(delete(REQUESTS).where(REQUESTS.c.id == request))


def _known(connection: Connection, new: NewRequest) -> Any:
    query = select(REQUESTS.c.id, REQUESTS.c.digest).where(
        REQUESTS.c.model == new.model,
        REQUESTS.c.owner == new.owner,
        REQUESTS.c.idempotency_key == new.idempotency_key,
        REQUESTS.c.idempotency_key.is_not(None),
    )
    return connection.execute(query).first()


def _find(connection: Connection, request: str, model: str | None) -> "Row[Any] | None":
    query = select(REQUESTS).where(REQUESTS.c.id == request)
    if model is not None:
        query = query.where(REQUESTS.c.model == model)
    return connection.execute(query).first()


def _one(connection: Connection, request: str, model: str | None) -> "Row[Any]":
    row = _find(connection, request, model)
    if row is None:
        raise _missing(request, model)
    return row


def _missing(request: str, model: str | None) -> NotFound:
    return NotFound(f"there is no request {request!r:.60}{f' of the model {model}' if model else ''}")
