"""Messages in streams of Redis or Valkey: `redis://host:6379/0`, `rediss://` for TLS, `valkey://`, `unix:///path`.

A stream for each line: high, normal and low priority, and 16 for messages with a key, of which one entry at a time is
out. What is settled is deleted, so a stream is as long as its line.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from rung.domain.errors import ConfigurationError, MissingDependency, NotReady, StorageFull
from rung.domain.messages import AckMeans, Beside, Lease, Means, Message, Outcome
from rung.jobs.brokers.redis_scripts import GROUP, PUT, SETTLE, TAKE
from rung.jobs.brokers.wire import LINES, PARTS, check, check_name, decode, encode, line_of
from rung.store.database import Database

if TYPE_CHECKING:
    from redis import Redis

    from rung.jobs.brokers import QueuePlace

__all__ = ["RedisQueue", "open_redis"]

_PATIENCE = 5.0
"""Seconds for one answer."""
_LARGEST = 8 << 20
_PART_BYTES = 16 << 20
_AT_ONCE = 1000
"""Messages in one step of the server, which does nothing else meanwhile."""
_CONNECTIONS = 8
_ALL = (*LINES, *map(str, range(PARTS)))
_PLACES = {line: place for place, line in enumerate(_ALL, 2)}
"""Line -> its stream among the keys of a script, the identities being the first."""
_FULL = ("maxmemory", "MISCONF", "No space left")
_FLUSHED = "the server has the message in its append-only file, and the disk has confirmed it"
_WRITTEN = (
    "the server has written the message to its append-only file, and the disk gets it within seconds: a crash of the "
    "server loses nothing, a power cut can; set `appendfsync always` on the server"
)
_UNWRITTEN = (
    "the message is in the server's memory only, and lost when it ends; set `appendonly yes` and `appendfsync always` "
    "on the server"
)
_log = structlog.get_logger("rung.jobs")


class _Held(msgspec.Struct, frozen=True):
    """How the server knows a lease."""

    place: int
    entry: bytes
    deliveries: int


class RedisQueue:
    """`ports.Queue` over streams. Results go to `database`."""

    def __init__(self, client: "Redis", shown: str, database: Database, name: str, lease_seconds: float) -> None:
        self._client: Any = client
        self._shown = shown
        self._database = database
        self._lease = max(1, round(lease_seconds * 1000))
        self._look_seconds = min(1.0, lease_seconds / 4)
        self._looked = float("-inf")
        self._turn = 0
        tag = f"{{rung:{name}}}"
        self._keys = [f"{tag}:ids", *(f"{tag}:{line}" for line in _ALL)]
        self._put, self._take, self._settle = (client.register_script(script) for script in (PUT, TAKE, SETTLE))
        with self._errors():
            ack, words = self._examine()
            self._prepare()
        self.means = Means(ack=ack, words=words, promises=frozenset({"free return"}), largest=_LARGEST)

    def put(self, messages: Sequence[Message], beside: Callable[[Any], None] | None = None) -> None:
        """Write beside, then add; returns when the server has all of them."""
        check(messages, self.means.largest)
        if beside is not None:
            self._database.write(beside)
        for part in _parts(messages):
            arguments: list[Any] = []
            for message in part:
                arguments += (_PLACES[line_of(message)], _identity(message), encode(message))
            self._run(self._put, self._keys, arguments)

    def take(self, count: int) -> list[Lease]:
        """Up to so many messages, leases that ran out first in each line."""
        now = time.monotonic()
        look = now - self._looked >= self._look_seconds
        self._turn += 1
        first = self._turn % PARTS
        parts = [str((first + number) % PARTS) for number in range(PARTS)]
        # Messages with a key are of normal priority: these two take turns.
        middle = [*parts, "normal"] if self._turn % 2 else ["normal", *parts]
        lines = ["high", *middle, "low"]
        keys = [self._keys[_PLACES[line] - 1] for line in lines]
        flags = [int(line.isdecimal()) for line in lines]
        found = self._run(self._take, keys, [GROUP, count, self._lease, int(look), *flags])
        if look:
            self._looked = now
        leases, broken = [], []
        for place, entry, deliveries, data in found:
            held = _Held(_PLACES[lines[place - 1]], entry, deliveries)
            message = decode(data)
            if message is None:
                broken.append(held)
            else:
                leases.append(Lease(message, deliveries, held))
        if broken:
            self._tell([(held, "dead", 0.0, "") for held in broken])
        return leases

    def renew(self, leases: Sequence[Lease]) -> set[str]:
        """Let these leases begin anew; returns the ids of those that are held."""
        held = self._tell([(lease.handle, "renew", 0.0, "") for lease in leases])
        return {leases[place].message.id for place in held}

    def settle(self, outcomes: Sequence[Outcome], beside: Beside | None = None) -> set[str]:
        """Renew, write the results of what is held, acknowledge.

        Where the acknowledgement does not get through, the messages come again, and their results stand.
        """
        if beside is not None:
            still = self._tell([(outcome.lease.handle, "renew", 0.0, "") for outcome in outcomes])
            outcomes = [outcomes[place] for place in still]
            if outcomes:
                self._database.write(lambda connection: beside(connection, outcomes))
        ends = [(one.lease.handle, one.ending, one.delay, _identity(one.lease.message)) for one in outcomes]
        try:
            held = self._tell(ends)
        except NotReady as error:
            if beside is None:
                raise
            _log.warning("messages will come again", action="acknowledgement_lost", reason=str(error), count=len(ends))
            held = list(range(len(ends)))
        return {outcomes[place].lease.message.id for place in held}

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _tell(self, ends: Sequence[tuple[_Held, str, float, str]]) -> list[int]:
        """End or renew leases; returns the places of those that were held."""
        held: list[int] = []
        for start in range(0, len(ends), _AT_ONCE):
            arguments: list[Any] = [GROUP, self._lease]
            for handle, ending, delay, identity in ends[start : start + _AT_ONCE]:
                pause = round(delay * 1000)
                arguments += (handle.place, handle.entry, handle.deliveries, ending, pause, identity)
            held += (start + int(place) for place in self._run(self._settle, self._keys, arguments))
        return held

    def _run(self, script: Any, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        from redis.exceptions import ResponseError

        with self._errors():
            try:
                return script(keys=keys, args=arguments)
            except ResponseError as error:
                if "NOGROUP" not in str(error):
                    raise
                # The server began anew without its memory.
                self._prepare()
                return script(keys=keys, args=arguments)

    def _prepare(self) -> None:
        from redis.exceptions import ResponseError

        for stream in self._keys[1:]:
            try:
                self._client.xgroup_create(stream, GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    def _examine(self) -> tuple[AckMeans, str]:
        """What the server's acknowledgement means. Raises `ConfigurationError` where it is not fit for a queue."""
        from redis.exceptions import ResponseError

        said = self._client.info()
        version = str(said.get("redis_version", "0"))
        if int(version.partition(".")[0]) < 7:
            raise ConfigurationError(f"the queue's server at {self._shown} is Redis {version}; rung needs 7 or newer")
        policy = str(said.get("maxmemory_policy", "noeviction"))
        if said.get("maxmemory") and policy.startswith("allkeys"):
            raise ConfigurationError(
                f"the queue's server at {self._shown} throws away what it has no room for (maxmemory-policy {policy}): "
                "set `maxmemory-policy noeviction`, or use a server of its own"
            )
        if not said.get("aof_enabled"):
            return "memory", _UNWRITTEN
        try:
            asked = self._client.config_get("appendfsync")
        except ResponseError:
            asked = {}  # not for this user to know
        always = "always" in (asked.get("appendfsync"), asked.get(b"appendfsync"))
        return ("flushed", _FLUSHED) if always else ("memory", _WRITTEN)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

        try:
            yield
        except (AuthenticationError, NoPermissionError) as error:
            raise ConfigurationError(f"the queue's server at {self._shown} refuses: {error}") from None
        except (RedisError, OSError) as error:
            what = f"the queue's server at {self._shown}: {error or type(error).__name__}"
            if any(word in str(error) for word in _FULL):
                raise StorageFull(f"{what}. Give it more room") from None
            raise NotReady(what) from None


def _identity(message: Message) -> str:
    return f"{message.id} {message.replay}"


def _parts(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """The messages in parts that are one step of the server each."""
    part: list[Message] = []
    size = 0
    for message in messages:
        if part and (len(part) == _AT_ONCE or size + len(message.body) > _PART_BYTES):
            yield part
            part, size = [], 0
        part.append(message)
        size += len(message.body)
    if part:
        yield part


def open_redis(place: "QueuePlace", database: Database) -> RedisQueue:
    """`redis://`, `rediss://`, `valkey://`, `valkeys://` and `unix://`: streams named after the queue."""
    try:
        from redis import BlockingConnectionPool, Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError:
        raise MissingDependency("a queue in Redis or Valkey needs the extra redis: pip install 'rung[redis]'") from None
    name = check_name(place.name)
    url = "redis" + place.url.removeprefix("valkey") if place.url.startswith("valkey") else place.url
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=_PATIENCE,
            socket_timeout=_PATIENCE,
            socket_connect_timeout=_PATIENCE,
            retry=Retry(NoBackoff(), 0),  # what was taken by a first try would be out, and nobody's
            protocol=2,
        )
    except ValueError as error:
        raise ConfigurationError(f"the queue's URL is wrong: {error}") from None
    shown = place.url.partition("?")[0].partition("://")[2].rpartition("@")[2]
    client = Redis(connection_pool=pool)
    try:
        return RedisQueue(client, shown, database, name, place.lease_seconds)
    except BaseException:
        client.close()
        raise
