"""Messages in a stream of NATS JetStream: `nats://host:4222?replicas=3`, `tls://...`; several hosts with commas.

One stream holds a queue, and forgets what was acknowledged. It has a consumer for each line: high, normal and low
priority, and 16 for messages with a key, of which one message at a time is out, so that their order holds past
redelivery. NATS takes any acknowledgement of a message, however late; so a lease here also ends by our own clock, and
what comes after its time writes and acknowledges nothing.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec
import structlog

from rung.domain.errors import ConfigurationError, NotReady
from rung.domain.messages import Beside, Lease, Means, Message, Outcome
from rung.jobs.brokers.nats_link import NatsLink
from rung.jobs.brokers.wire import LINES, PARTS, check, check_name, decode, encode, line_of
from rung.store.database import Database

if TYPE_CHECKING:
    from rung.jobs.brokers import QueuePlace

__all__ = ["NatsQueue", "open_nats"]

_OUT_SECONDS = 0.02
"""Time that the server waits for the end of a message of a key before it says that there is none."""
_OUT_AGAIN = 0.1
"""Time after which it is asked again, and a line of keys that was empty."""
_ENVELOPE = 4096
"""Bytes of a message beside its body."""
_MEMORY = (
    "the server has written the message to its file, and the disk gets it within two minutes: a crash of the server "
    "loses nothing, a power cut can; set `sync_interval: always` on the server"
)
_REPLICATED = (
    "a majority of {} servers has the message; each gets it to its disk within two minutes, so a power cut of most of "
    "them at once can lose it; set `sync_interval: always` on the servers"
)
_log = structlog.get_logger("rung.jobs")


class _Held(msgspec.Struct):
    """How the server knows a lease, and until when it lets it alone."""

    reply: str
    until: float


class NatsQueue:
    """`ports.Queue` over a stream. Results go to `database`."""

    def __init__(self, link: NatsLink, database: Database, name: str, lease_seconds: float, replicas: int) -> None:
        self._link = link
        self._database = database
        self._name = name
        self._stream = f"rung-{name}"
        self._seconds = lease_seconds
        self._replicas = replicas
        self._turn = 0
        self._busy: dict[str, float] = {}
        """Lines of keys whose message is out -> until when they need not be asked."""
        self._link.run(self._prepare)
        self.means = Means(
            ack="replicated" if replicas >= 3 else "memory",
            words=_REPLICATED.format(replicas) if replicas >= 3 else _MEMORY,
            largest=max(0, link.largest - _ENVELOPE),
        )

    def put(self, messages: Sequence[Message], beside: Callable[[Any], None] | None = None) -> None:
        """Write beside, then publish, and return when the server has all of them."""
        check(messages, self.means.largest)
        if beside is not None:
            self._database.write(beside)
        if messages:
            self._run(lambda: self._publish(messages))

    def take(self, count: int) -> list[Lease]:
        """Up to so many messages of the lines that are not empty."""
        leases: list[Lease] = self._run(lambda: self._take(count))
        return leases

    def renew(self, leases: Sequence[Lease]) -> set[str]:
        """Let these leases begin anew; returns the ids of those whose time is not over."""
        now = time.monotonic()
        held = [lease for lease in leases if lease.handle.until > now]
        if held:
            self._run(lambda: self._link.tell([(lease.handle.reply, b"+WPI") for lease in held]))
        for lease in held:
            lease.handle.until = now + self._seconds
            if lease.message.key:
                self._busy[line_of(lease.message)] = now + self._seconds
        return {lease.message.id for lease in held}

    def settle(self, outcomes: Sequence[Outcome], beside: Beside | None = None) -> set[str]:
        """Write the results of leases whose time is not over, then acknowledge.

        Where the acknowledgement does not get through, the messages come again, and their results stand.
        """
        now = time.monotonic()
        held = [outcome for outcome in outcomes if outcome.lease.handle.until > now]
        if not held:
            return set()
        if beside is not None:
            self._database.write(lambda connection: beside(connection, held))
        answers = [(outcome.lease.handle.reply, _answer(outcome)) for outcome in held]
        for outcome in held:
            outcome.lease.handle.until = 0.0
        try:
            self._run(lambda: self._link.tell(answers))
        except NotReady as error:
            _log.warning("messages will come again", action="acknowledgement_lost", reason=str(error), count=len(held))
        for outcome in held:
            if outcome.lease.message.key:
                self._busy[line_of(outcome.lease.message)] = now + outcome.delay
        return {outcome.lease.message.id for outcome in held}

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

    def _run(self, work: Callable[[], Awaitable[Any]]) -> Any:
        return self._link.run(work, mend=self._prepare)

    async def _prepare(self) -> None:
        """Make the stream and its consumers, or bring them up to date."""
        from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

        config = StreamConfig(
            name=self._stream,
            subjects=[f"{self._stream}.*.*"],
            retention=RetentionPolicy.WORK_QUEUE,
            storage=StorageType.FILE,
            num_replicas=self._replicas,
            max_msgs_per_subject=1,
            discard=DiscardPolicy.NEW,
            discard_new_per_subject=True,
        )
        await self._link.make_stream(config)
        for line in (*LINES, *map(str, range(PARTS))):
            consumer = ConsumerConfig(
                name=line,
                durable_name=line,
                filter_subject=f"{self._stream}.{line}.*",
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=self._seconds,
                max_deliver=-1,
                max_ack_pending=1 if line.isdecimal() else -1,
            )
            await self._link.make_consumer(self._stream, consumer)

    async def _publish(self, messages: Sequence[Message]) -> None:
        await self._link.publish([(self._subject(message), encode(message)) for message in messages])

    def _subject(self, message: Message) -> str:
        # Of its own, and the stream takes one message of a subject: so an id is in the queue once, for however long.
        digest = blake2b(f"{message.id} {message.replay}".encode(), digest_size=16).hexdigest()
        return f"{self._stream}.{line_of(message)}.{digest}"

    async def _take(self, count: int) -> list[Lease]:
        began = time.monotonic()
        free = await self._keyed(began)
        self._turn += 1
        first = self._turn % len(free) if free else 0
        parts = free[first:] + free[:first]
        # Keyed ones are of normal priority: these two take turns.
        middle = [parts, ["normal"]] if self._turn % 2 else [["normal"], parts]
        leases: list[Lease] = []
        for lines in (["high"], *middle, ["low"]):
            room = count - len(leases)
            wanted = lines[:room]
            if wanted:
                found = await asyncio.gather(*(self._pull(line, room, began) for line in wanted))
                leases += [lease for part in found for lease in part]
        return leases

    async def _keyed(self, now: float) -> list[str]:
        """Lines of keys that hold something, and none of whose messages is known to be out."""
        asked = [line for line in map(str, range(PARTS)) if self._busy.get(line, 0.0) <= now]
        holds = await asyncio.gather(*(self._link.holds(self._stream, line) for line in asked))
        for line, something in zip(asked, holds, strict=True):
            if not something:
                self._busy[line] = now + _OUT_AGAIN
        return [line for line, something in zip(asked, holds, strict=True) if something]

    async def _pull(self, line: str, room: int, began: float) -> list[Lease]:
        if not line.isdecimal():
            return await self._leased(await self._link.pull(self._stream, line, room), began)
        leases = await self._leased(await self._link.pull(self._stream, line, 1, _OUT_SECONDS), began)
        self._busy[line] = began + (self._seconds if leases else _OUT_AGAIN)
        return leases

    async def _leased(self, found: list[Any], began: float) -> list[Lease]:
        leases = []
        for one in found:
            message = decode(one.data)
            if message is None:
                _log.warning("a message in the queue is none of ours", action="message_dropped", queue=self._name)
                await self._link.tell([(one.reply, b"+TERM")])
                continue
            leases.append(Lease(message, _deliveries(one.reply), _Held(one.reply, began + self._seconds)))
        return leases


def _deliveries(reply: str) -> int:
    """`$JS.ACK.STREAM.CONSUMER.DELIVERIES...`, or with domain and account before the stream."""
    words = reply.split(".")
    return int(words[4] if len(words) == 9 else words[6])


def _answer(outcome: Outcome) -> bytes:
    if outcome.ending in ("done", "dead"):
        return b"+ACK"
    return b'-NAK {"delay": %d}' % int(outcome.delay * 1e9) if outcome.delay else b"-NAK"


def open_nats(place: "QueuePlace", database: Database) -> NatsQueue:
    """`nats://` and `tls://`: a stream with the name of the queue."""
    url, _, query = place.url.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    replicas = options.pop("replicas", "1")
    if options or replicas not in ("1", "3", "5"):
        raise ConfigurationError("a NATS queue knows one option: ?replicas=1, 3 or 5")
    name = check_name(place.name)
    link = NatsLink([part if "://" in part else f"nats://{part}" for part in url.split(",")])
    try:
        return NatsQueue(link, database, name, place.lease_seconds, int(replicas))
    except BaseException:
        link.close()
        raise
