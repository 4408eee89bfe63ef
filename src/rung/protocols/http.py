"""The HTTP/1.1 door: one `asyncio.Protocol` per connection.

Two rules make it fast and keep it right, beside those of `reader`:

1. Coroutines are driven by hand (`Exchange`). Most finish without suspending, or wait for the
   batch of this very turn of the loop; a Task would cost more than the rest of the request.
2. Replies leave in the order of their requests, however they finish.
"""

from collections import deque
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from rung.domain.errors import Cancelled, RungError
from rung.domain.predictions import Call
from rung.ports import Awaitee
from rung.protocols import status
from rung.protocols.compression import compress, decompress, worth_compressing
from rung.protocols.exchange import Head, Reply
from rung.protocols.reader import HeadMemory, RequestReader
from rung.settings import DoorSettings

if TYPE_CHECKING:
    from asyncio import Transport

__all__ = ["Connection", "Door", "Exchange", "FrontConnection"]

_LINGER_BYTES = 64 << 10
"""What is still read, and thrown away, after a refusal: closing at once would reset the reply away."""
_LINGER_SECONDS = 2.0
_DRAIN_IDLE_SECONDS = 1.0
"""How long a connection may wait for its next request while the door drains."""
_JOIN = 4096
"""Bodies below this many bytes are joined to their head: one copy is cheaper than a second buffer."""


class Door(Protocol):
    """What all connections of one listening socket share."""

    settings: DoorSettings
    memory: HeadMemory
    draining: bool
    access_log: bool

    def admit(self, connection: "Connection") -> bool:
        """Whether there is room for one more."""
        ...

    def forget(self, connection: "Connection") -> None:
        """A connection is gone."""
        ...

    def opening(
        self, code: int, media: bytes, headers: tuple[tuple[bytes, bytes], ...], close: bool, length: int
    ) -> bytes:
        """Status line and headers of a reply, which is counted."""
        ...

    def refusal(self, error: Exception, head: Head) -> Reply:
        """The reply for an error of an endpoint."""
        ...

    def log_reply(self, exchange: "Exchange", reply: Reply) -> None:
        """Write a line about a reply."""
        ...


class Exchange:
    """One request of a connection while its endpoint works on it."""

    __slots__ = ("_coroutine", "call", "connection", "head", "reply")

    def __init__(self, connection: "Connection", head: Head, arrived: float) -> None:
        self.connection = connection
        self.head = head
        self.call = Call(arrived, head.headers, b"", connection.address)
        self.reply: Reply | None = None
        self._coroutine: Any = None

    def start(self, body: bytes) -> bool:
        """Call the endpoint; whether the reply is there already."""
        head = self.head
        try:
            if head.coding and head.coding != b"identity":
                body = decompress(body, head.coding, self.connection.door.settings.max_body)
            self.call.body = body
            self._coroutine = head.endpoint(head, body, self.call)
            awaitee: Awaitee = self._coroutine.send(None)
        except StopIteration as stop:
            self.reply = stop.value
            return True
        except Exception as error:  # noqa: BLE001 - the request boundary
            self.reply = self.connection.door.refusal(error, head)
            return True
        self._wait_for(awaitee)
        return False

    def step(self, awaited: Any) -> None:
        """Go on after what was awaited is there."""
        coroutine = self._coroutine
        if coroutine is None:
            if not awaited.cancelled():
                awaited.exception()  # nobody is left to hear of it; asyncio complains of errors that nobody took
            return
        try:
            awaitee = coroutine.send(None)
        except StopIteration as stop:
            self.reply = stop.value
        except Exception as error:  # noqa: BLE001 - the request boundary
            self.reply = self.connection.door.refusal(error, self.head)
        else:
            self._wait_for(awaitee)
            return
        self.connection.settled(self)

    def cancel(self) -> None:
        """The caller left: unwind the endpoint, so that work that has not started never does."""
        # Forgotten first: what is awaited settles on the way out, and calls back.
        coroutine, self._coroutine = self._coroutine, None
        try:
            coroutine.throw(Cancelled("the caller closed the connection"))
        except (StopIteration, RungError):
            pass
        except Exception as error:  # noqa: BLE001 - the request boundary
            self.connection.door.refusal(error, self.head)

    def _wait_for(self, awaitee: Any) -> None:
        # What a Task would do: an asyncio future checks that its flag was taken down. `context=None`
        # is a future's default, and asks a ticket to call back at once.
        awaitee._asyncio_future_blocking = False
        awaitee.add_done_callback(self.step, context=None)


def _labelled(opening: bytes, prediction_id: str) -> bytes:
    """Put the id in front of the blank line: openings are remembered, and no two ids are the same."""
    return b"%brung-prediction-id: %b\r\n\r\n" % (opening[:-2], prediction_id.encode("ascii"))


class Connection:
    """An `asyncio.Protocol`."""

    __slots__ = (
        "_due",
        "_exchanges",
        "_linger",
        "_paused",
        "_stopped",
        "_unsent",
        "address",
        "door",
        "reader",
        "transport",
    )

    def __init__(self, door: Door) -> None:
        self.door = door
        self.transport: Transport | None = None
        self.address = ""
        """Of the peer, without the port."""
        self.reader = RequestReader(door.settings, door.memory, self._dispatch, self._continue)
        self._exchanges: deque[Exchange] = deque()
        self._stopped = False
        """No further request is read from this connection."""
        self._paused = False
        """The peer does not take its replies as fast as they come."""
        self._linger = _LINGER_BYTES
        self._unsent = 0
        """Bytes of replies that the peer had not taken when last looked at."""
        self._due = 0.0
        """When the peer must have moved on; 0 leaves it to the next sweep to say. Bytes that move put it off."""

    # --- asyncio.Protocol -------------------------------------------------------------------

    def connection_made(self, transport: "Transport") -> None:
        """Greet a client, or turn it away when the house is full."""
        self.transport = transport
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        if not self.door.admit(self):
            transport.abort()
            return
        self._due = monotonic() + self.door.settings.head_seconds

    def connection_lost(self, error: Exception | None) -> None:
        """The peer is gone: nothing that it asked for is wanted any more."""
        self._stopped = True
        self.door.forget(self)
        exchanges, self._exchanges = self._exchanges, deque()
        for exchange in exchanges:
            if exchange.reply is None:
                exchange.cancel()

    def eof_received(self) -> bool:
        """The peer closed its side; as most servers do, take it to have left."""
        return False

    def pause_writing(self) -> None:
        """The peer reads too slowly: stop reading from it, and judge its rate."""
        self._paused = True
        self._throttle()
        self._judge_replies()

    def resume_writing(self) -> None:
        """The peer caught up."""
        self._paused = False
        self._throttle()
        self._due = 0.0

    def data_received(self, data: bytes) -> None:
        """Take in bytes; after a refusal throw a bounded number of them away."""
        if self._stopped:
            # Enough is left in the kernel's buffers then; closing at once would reset the reply away.
            self._linger -= len(data)
            self._throttle()
            return
        reader = self.reader
        began_idle, had_head = reader.idle, reader.head
        try:
            reader.feed(data)
        except RungError as error:
            self._refuse(status.error_reply(error))
            return
        if reader.idle:
            return
        if began_idle or reader.head is not had_head:
            # A new phase of a message: its head has to come, or its body at a decent rate.
            self._due = monotonic() + self._allowance()
        elif reader.head is not None and self._due:
            self._put_off(monotonic(), len(data))

    # --- answering --------------------------------------------------------------------------

    def _continue(self) -> None:
        if self.transport is not None and not self._exchanges:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _dispatch(self, head: Head, body: bytes) -> bool:
        """Work on a request; whether the connection carries more."""
        exchange = Exchange(self, head, monotonic())
        if not head.keep_alive:
            self._stopped = True
        if exchange.start(body) and not self._exchanges:
            self._write(exchange)
        else:
            self._exchanges.append(exchange)
            if len(self._exchanges) >= self.door.settings.max_pipelined:
                self._throttle()
        return not self._stopped

    def settled(self, exchange: Exchange) -> None:
        """An exchange has its reply: write it, and those behind it that were waiting for their turn."""
        exchanges = self._exchanges
        if not exchanges or exchanges[0] is not exchange:
            return
        full = len(exchanges) >= self.door.settings.max_pipelined
        while exchanges and exchanges[0].reply is not None:
            self._write(exchanges.popleft())
        if full:
            self._throttle()

    def _write(self, exchange: Exchange) -> None:
        transport, reply, head, door = self.transport, exchange.reply, exchange.head, self.door
        if transport is None or transport.is_closing() or reply is None:
            return
        body, headers = reply.body, reply.headers
        if head.accepts_gzip and body:
            whole = body if isinstance(body, bytes) else b"".join(body)
            if worth_compressing(reply.media, len(whole)):
                body = compress(whole)
                headers = (*headers, (b"content-encoding", b"gzip"), (b"vary", b"accept-encoding"))
        close = not head.keep_alive or door.draining
        minted = exchange.call.prediction_id
        if type(body) is bytes and len(body) < _JOIN and head.method != "HEAD":
            opening = door.opening(reply.status, reply.media, headers, close, len(body))
            transport.write((_labelled(opening, minted) if minted else opening) + body)
        else:
            parts = (body,) if isinstance(body, bytes) else body
            length = sum(memoryview(part).nbytes for part in parts)
            opening = door.opening(reply.status, reply.media, headers, close, length)
            if minted:
                opening = _labelled(opening, minted)
            transport.writelines((opening,) if head.method == "HEAD" else (opening, *parts))
        if door.access_log:
            door.log_reply(exchange, reply)
        if close:
            self._finish()
        elif not self._paused:
            self._due = 0.0

    def _refuse(self, reply: Reply) -> None:
        """Answer what cannot be read on, after the replies that are still owed, and close."""
        self._stopped = True
        exchange = Exchange(self, Head("POST", "", "", {}, keep_alive=False), monotonic())
        exchange.reply = reply
        self._exchanges.append(exchange)
        self.settled(exchange)

    def _finish(self) -> None:
        """Close our side; the peer's last bytes are read away for a moment, so that no reset eats the reply."""
        self._stopped = True
        if self.transport is None:
            return
        self._judge_replies()
        if self.reader.idle:
            self.transport.close()
        elif self.transport.can_write_eof():
            self.transport.write_eof()

    # --- pace -------------------------------------------------------------------------------

    def _throttle(self) -> None:
        """Read only while the peer takes its replies and has not sent too many requests ahead."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        full = self._paused or self._linger < 0 or len(self._exchanges) >= self.door.settings.max_pipelined
        if full and transport.is_reading():
            transport.pause_reading()
        elif not full and not transport.is_reading():
            transport.resume_reading()

    def hasten(self) -> None:
        """The door drains: what waits for a next request waits no longer."""
        if self.reader.idle and not self._exchanges and not self._stopped:
            self._due = min(self._due or inf, monotonic() + self._allowance())

    def overdue(self, now: float) -> bool:
        """Whether this peer has to go; asked about in every sweep."""
        if (self._paused or self._stopped) and self.transport is not None:
            unsent = self.transport.get_write_buffer_size()
            if unsent:
                self._put_off(now, self._unsent - unsent)
                self._unsent = unsent
                return now > self._due
        if self._exchanges:
            return False  # we owe the peer a reply
        if self._due == 0.0:
            # Set here and not per reply, since most connections send their next request long before.
            self._due = now + self._allowance()
        return now > self._due

    def _allowance(self) -> float:
        """Seconds that the peer has for what it has to do next."""
        settings, reader = self.door.settings, self.reader
        if self._stopped:
            return _LINGER_SECONDS
        if reader.idle:
            return _DRAIN_IDLE_SECONDS if self.door.draining else settings.idle_seconds
        return settings.head_seconds if reader.head is None else settings.body_seconds

    def _put_off(self, now: float, moved: int) -> None:
        """The peer moved so many bytes: each buys its share of a second, and nobody saves up."""
        settings = self.door.settings
        self._due = min(now + settings.body_seconds, self._due + max(0, moved) / (settings.min_rate or 1e-9))

    def _judge_replies(self) -> None:
        """From now on the peer has to take what it is sent."""
        unsent = self._unsent = 0 if self.transport is None else self.transport.get_write_buffer_size()
        self._due = monotonic() + (self.door.settings.body_seconds if unsent else self._allowance())


class FrontConnection(Connection):
    """A connection of the project's own front, which carries the requests of many callers and says of each whose it is.

    Only a door that nobody else reaches may make these: a caller could name any address.
    """

    __slots__ = ()

    def _dispatch(self, head: Head, body: bytes) -> bool:
        self.address = head.headers.get(b"x-forwarded-for", b"").decode("latin-1")
        return super()._dispatch(head, body)
