"""A connection to NATS that blocking code may use from any thread: it lives on an event loop of its own.

While the server is away it tries again in the background, and every call raises `NotReady` at once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import count
from threading import Thread
from typing import Any

import msgspec

from rung.domain.errors import ConfigurationError, MissingDependency, NotReady, StorageFull

__all__ = ["NatsLink"]

_PATIENCE = 5.0
"""Seconds for one step of a call."""
_RETRY_SECONDS = 0.2
_AT_ONCE = 1000
_BYTES_AT_ONCE = 16 << 20
"""Messages that are under way to the server at most, and their bytes."""
_FULL = frozenset({10023, 10047, 10077})
"""Error codes of JetStream for a server or stream without room."""
_SAME = b"maximum messages per subject"
"""What the server says to a message whose subject is in the stream already."""
_TAKEN = 10058
"""A stream of this name exists with other settings."""

_json = msgspec.json.encode


class _Inbox:
    """Where the messages of one consumer arrive: they carry the subject that they were published with, so that only
    the subscription says for whom they are.
    """

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.subject = ""
        self.arrived: asyncio.Queue[Any] = asyncio.Queue()
        self._closing: set[asyncio.Task[None]] = set()
        self._subscription: Any = None

    async def open(self, connection: Any) -> None:
        """Listen on a subject of its own."""
        subject, arrived = connection.new_inbox(), asyncio.Queue[Any]()

        async def arrive(message: Any) -> None:
            arrived.put_nowait(message)

        self._subscription = await connection.subscribe(subject, cb=arrive)
        self.subject, self.arrived = subject, arrived

    def close(self) -> None:
        """Listen no more."""
        if self.subject:
            task = asyncio.ensure_future(self._unsubscribe(self._subscription))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        self.subject = ""

    async def _unsubscribe(self, subscription: Any) -> None:
        # Where the connection is closed, so is the subscription.
        with suppress(Exception):
            await subscription.unsubscribe()


class NatsLink:
    """One connection; `run` hands work to its loop."""

    def __init__(self, servers: Sequence[str]) -> None:
        try:
            import nats
        except ModuleNotFoundError:
            raise MissingDependency("a queue in NATS needs nats-py: pip install 'rung[nats]'") from None
        self._nats = nats
        self._shown = ", ".join(one.rpartition("@")[2].removeprefix("nats://") for one in servers)
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="rung-nats", daemon=True)
        self._thread.start()
        self._numbers = count()
        self._inboxes: dict[str, _Inbox] = {}
        self._acknowledged: dict[str, asyncio.Future[bytes]] = {}
        self._running: set[asyncio.Task[Any]] = set()
        self._said = ""
        try:
            self._call(lambda: self._connect(list(servers)))
        except BaseException:
            self.close()
            raise

    @property
    def largest(self) -> int:
        """Bytes that the server takes as one message."""
        return int(self._connection.max_payload)

    def run(self, work: Callable[[], Awaitable[Any]], mend: Callable[[], Awaitable[Any]] | None = None) -> Any:
        """Run work on the loop and wait for it.

        Args:
            work: makes the coroutine to run.
            mend: makes the one to run where the server does not know the stream or a consumer any more.

        Raises:
            NotReady: the server is away, or does not answer.
            StorageFull: it has no room.
            ConfigurationError: it refuses, and why.
        """
        if not self._connection.is_connected:
            raise NotReady(f"NATS at {self._shown} cannot be reached; rung goes on trying")
        return self._call(work, mend)

    def close(self) -> None:
        """Close the connection and end the loop; twice is no error."""
        if self._loop.is_closed():
            return
        connection = getattr(self, "_connection", None)
        if connection is not None:
            asyncio.run_coroutine_threadsafe(connection.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def make_stream(self, config: Any) -> None:
        """Make a stream, or change the one there is."""
        from nats.js.errors import APIError

        try:
            await self._stream.add_stream(config)
        except APIError as error:
            if error.err_code != _TAKEN:
                raise
            await self._stream.update_stream(config)

    async def make_consumer(self, stream: str, config: Any) -> None:
        """Make a consumer, or change the one there is."""
        await self._stream.add_consumer(stream, config)

    async def holds(self, stream: str, consumer: str) -> bool:
        """Whether there are messages for a consumer, those that are out included."""
        reply = await self._connection.request(f"$JS.API.CONSUMER.INFO.{stream}.{consumer}", timeout=_PATIENCE)
        said = msgspec.json.decode(reply.data)
        if "error" in said:
            raise self._nats.js.errors.APIError.from_error(said["error"])
        return bool(said["num_pending"] or said["num_ack_pending"])

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Publish (subject, bytes), and return when the server has stored all of them, now or before."""
        left = list(reversed(messages))
        while left:
            waiting: dict[str, asyncio.Future[bytes]] = {}
            size = 0
            try:
                while left and len(waiting) < _AT_ONCE and size < _BYTES_AT_ONCE:
                    subject, data = left.pop()
                    size += len(data)
                    number = str(next(self._numbers))
                    waiting[number] = self._acknowledged[number] = self._loop.create_future()
                    await self._connection.publish(subject, data, reply=f"{self._replies}.{number}")
                async with asyncio.timeout(_PATIENCE):
                    answers = await asyncio.gather(*waiting.values())
            finally:
                for number in waiting:
                    self._acknowledged.pop(number, None)
            for answer in answers:
                if b'"error"' in answer and _SAME not in answer:
                    raise self._nats.js.errors.APIError.from_error(msgspec.json.decode(answer)["error"])

    async def pull(self, stream: str, consumer: str, batch: int, wait: float = 0.0) -> list[Any]:
        """Up to so many messages that the server has now; where all are out already, it says so after `wait`."""
        asked = _json({"batch": batch, "no_wait": True, **({"expires": int(wait * 1e9)} if wait else {})})
        if consumer not in self._inboxes:
            self._inboxes[consumer] = _Inbox()
        inbox = self._inboxes[consumer]
        found: list[Any] = []
        async with inbox.lock:
            try:
                if inbox.subject == "":
                    await inbox.open(self._connection)
                await self._connection.publish(
                    f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}", asked, reply=inbox.subject
                )
                async with asyncio.timeout(_PATIENCE):
                    await self._gather(inbox, batch, found)
            except BaseException as error:
                # What comes for this request must not be taken for the next one's.
                inbox.close()
                if not found or not isinstance(error, (TimeoutError, self._nats.errors.Error)):
                    raise
        return found

    async def _gather(self, inbox: _Inbox, batch: int, found: list[Any]) -> None:
        while len(found) < batch:
            message = await inbox.arrived.get()
            status = message.headers.get("Status") if message.headers else None
            if status == "503":
                raise self._nats.errors.NoRespondersError
            if status:
                return
            found.append(message)

    async def tell(self, answers: Sequence[tuple[str, bytes]]) -> None:
        """Send bytes to subjects, and return when the server has read them."""
        for subject, data in answers:
            await self._connection.publish(subject, data)
        await self._connection.flush(timeout=_PATIENCE)

    async def _connect(self, servers: list[str]) -> None:
        from nats.aio.client import Client

        self._connection: Any = Client()
        # By itself it would try for ever.
        async with asyncio.timeout(_PATIENCE):
            await self._connection.connect(
                servers,
                name="rung",
                connect_timeout=_PATIENCE,  # type: ignore[arg-type] # fractions are fine
                max_reconnect_attempts=-1,
                reconnect_time_wait=_RETRY_SECONDS,  # type: ignore[arg-type]
                error_cb=self._failed,
                disconnected_cb=self._lost,
                pending_size=0,  # nothing is kept for a server that is away
            )
        self._stream = self._connection.jetstream(timeout=_PATIENCE)
        self._replies = self._connection.new_inbox()
        await self._connection.subscribe(f"{self._replies}.*", cb=self._replied)

    async def _replied(self, message: Any) -> None:
        waiting = self._acknowledged.get(message.subject.rpartition(".")[2])
        if waiting is not None and not waiting.done():
            if message.headers and message.headers.get("Status") == "503":
                waiting.set_exception(self._nats.errors.NoRespondersError())
            else:
                waiting.set_result(message.data)

    async def _lost(self) -> None:
        # No answer will come to what was asked before.
        for task in self._running:
            task.cancel()

    async def _failed(self, error: Exception) -> None:
        # Errors are raised where they matter; by default nats-py prints them as well.
        self._said = str(error) or type(error).__name__

    def _call(self, work: Callable[[], Awaitable[Any]], mend: Callable[[], Awaitable[Any]] | None = None) -> Any:
        return asyncio.run_coroutine_threadsafe(self._tried(work, mend), self._loop).result()

    async def _tried(self, work: Callable[[], Awaitable[Any]], mend: Callable[[], Awaitable[Any]] | None) -> Any:
        from nats.js.errors import APIError, NotFoundError

        task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]
        self._running.add(task)
        try:
            try:
                return await work()
            except (NotFoundError, self._nats.errors.NoRespondersError):
                if mend is None:
                    raise
                await mend()
                return await work()
        except APIError as error:
            what = f"NATS at {self._shown}: {error.description or error}"
            if error.err_code in _FULL:
                raise StorageFull(f"{what}. Give its JetStream more room") from None
            if error.code == 503:
                raise NotReady(what) from None
            raise ConfigurationError(what) from None
        except self._nats.errors.NoRespondersError:
            raise NotReady(
                f"nobody answers for JetStream at {self._shown}: it is still starting, or the server runs without -js"
            ) from None
        except (OSError, TimeoutError, self._nats.errors.Error) as error:
            what = str(error) or self._said or type(error).__name__
            raise NotReady(f"NATS at {self._shown} does not answer: {what}") from None
        except asyncio.CancelledError:
            raise NotReady(f"the connection to NATS at {self._shown} broke; rung goes on trying") from None
        finally:
            self._running.discard(task)
