"""Answers that replicas share through Redis or Valkey, behind a small store in this process's memory.

The other side may be slow, full, gone or full of somebody else's data: each of these is a miss. After one time-out or
broken connection it is left alone, and asked again in the background until it answers; requests never try it out.
"""

import asyncio
from collections.abc import Callable
from random import uniform
from time import time
from typing import TYPE_CHECKING, Any

import structlog

from rung.domain.caches import CacheUsage
from rung.domain.errors import ConfigurationError, MissingDependency
from rung.domain.tensors import Tensors
from rung.serving.cache import MemoryStore
from rung.serving.cache_values import decode, encode, fits, weight

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["RedisStore", "connect"]

_PREFIX = b"rung:1:"
"""Of every key of ours; the number changes with the format of the values."""
_PROBE = _PREFIX + b"probe"
_CONNECTIONS = 32
_LARGEST = 8 << 20
"""Bytes of the largest value: a larger one would hold up everybody's."""
_UNWRITTEN = 16 << 20
"""Bytes on their way there at most; beyond it answers are not shared."""
_BACKOFF = (0.5, 30.0)
"""Seconds until the first try to reach it again, and between tries at most."""
_PROBE_SECONDS = 1.0


def connect(url: str, timeout: float) -> "Redis":
    """A client that opens its connections when they are needed.

    Args:
        url: redis://, rediss:// (TLS), valkey:// or valkeys://; user, password, port and database as in redis-py.
        timeout: seconds to wait for a free connection, and for it to open.

    Raises:
        MissingDependency: the extra `redis` is not installed.
        ConfigurationError: the URL is wrong.
    """
    try:
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError:
        raise MissingDependency("a cache in Redis or Valkey needs the extra redis: pip install 'rung[redis]'") from None
    try:
        pool = BlockingConnectionPool.from_url(
            "redis" + url.removeprefix("valkey") if url.startswith("valkey") else url,
            max_connections=_CONNECTIONS,
            timeout=timeout,
            socket_timeout=None,  # each call has a limit of its own
            socket_connect_timeout=_PROBE_SECONDS,
            retry=Retry(NoBackoff(), 0),  # a second try would come too late
            protocol=2,
        )
    except ValueError as error:
        raise ConfigurationError(f"the cache's URL is wrong: {error}") from None
    return Redis(connection_pool=pool)


class RedisStore:
    """`ports.CacheBackend` over a client of redis-py, with `near` in front.

    Guarantees, beside the port's:
        1. `fetch` takes at most `timeout` seconds, once; while the other side is away it returns at once.
        2. What is written there expires after `ttl` seconds, and what is read keeps its age.
    """

    def __init__(
        self,
        client: "Redis",
        near: MemoryStore,
        ttl: float,
        *,
        timeout: float = 0.05,
        backoff: tuple[float, float] = _BACKOFF,
        wall: Callable[[], float] = time,
    ) -> None:
        self._client: Any = client
        self._near = near
        self._ttl = ttl
        self._timeout = timeout
        self._backoff = backoff
        self._wall = wall
        self._probing: asyncio.Task[None] | None = None
        self._writes: set[asyncio.Task[None]] = set()
        self._unwritten = 0
        self._errors: dict[str, int] = {}
        self._fetches = 0
        self._fetch_seconds = 0.0
        self._log = structlog.get_logger("rung.serving")

    def find(self, key: bytes) -> Tensors | None:
        """What this process holds."""
        return self._near.find(key)

    async def fetch(self, key: bytes) -> Tensors | None:
        """What another replica has written; it is held here too from now on."""
        if self._probing is not None:
            return None
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(self._timeout):
                data = await self._client.get(_name(key))
        except Exception as error:  # noqa: BLE001 - whatever goes wrong on the other side is a miss
            self._failed(error)
            return None
        finally:
            self._fetches += 1
            self._fetch_seconds += loop.time() - began
        if data is None:
            return None
        value = decode(key, data)
        if value is None:
            self._count("corrupt")
            return None
        outputs, born = value
        # Clocks of two machines may differ: nothing is younger than new, nor older than may be given.
        age = max(0.0, self._wall() - born)
        if age >= self._ttl:
            return None
        self._near.insert(key, outputs, weight(outputs), age)
        return outputs

    def keep(self, key: bytes, outputs: Tensors, *, share: bool = True) -> Tensors:
        """Keep them here, and write them there in the background."""
        kept = self._near.keep(key, outputs)
        if share and self._probing is None and fits(kept):
            size = weight(kept)
            if size > _LARGEST:
                self._count("too_large")
            elif self._unwritten + size > _UNWRITTEN:
                self._count("busy")
            else:
                data = encode(key, kept, self._wall())
                self._unwritten += size
                task = asyncio.get_running_loop().create_task(self._write(key, data))
                self._writes.add(task)
                task.add_done_callback(lambda done: self._written(done, size))
        return kept

    async def _write(self, key: bytes, data: bytes) -> None:
        try:
            async with asyncio.timeout(max(self._timeout, _PROBE_SECONDS)):
                await self._client.set(_name(key), data, px=max(1, int(self._ttl * 1e3)))
        except Exception as error:  # noqa: BLE001 - an answer that is not shared is computed again
            self._failed(error)

    def _written(self, task: asyncio.Task[None], size: int) -> None:
        self._writes.discard(task)
        self._unwritten -= size

    async def flush(self) -> None:
        """Wait until all that was kept is written, or given up."""
        await asyncio.gather(*self._writes, return_exceptions=True)

    def usage(self) -> CacheUsage:
        """The counts of the store in memory, and those of what lies beyond."""
        usage = self._near.usage()
        usage.errors = dict(self._errors)
        usage.fetches, usage.fetch_seconds = self._fetches, self._fetch_seconds
        usage.away = self._probing is not None
        return usage

    async def close(self) -> None:
        """Finish what is being written, for as long as a write may take, and give the connections back."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
        await self.flush()
        await self._client.aclose()
        await self._client.connection_pool.disconnect()
        await self._near.close()

    # --- the other side is away -------------------------------------------------------------

    def _failed(self, error: Exception) -> None:
        from redis.exceptions import ResponseError
        from redis.exceptions import TimeoutError as RedisTimeout

        if isinstance(error, ResponseError):
            # It is there, and says no: out of memory, or not allowed.
            self._count("refused")
            return
        self._count("timeout" if isinstance(error, TimeoutError | RedisTimeout) else "connection")
        if self._probing is None:
            self._log.warning(
                "the cache does not answer and is left alone until it does", action="cache_away", reason=str(error)
            )
            self._probing = asyncio.get_running_loop().create_task(self._probe())

    async def _probe(self) -> None:
        """Ask until it answers."""
        pause, longest = self._backoff
        # Not all replicas at the same moment.
        await asyncio.sleep(uniform(0.5, 1.0) * pause)  # noqa: S311 - not a secret
        while not await self._answers():
            pause = min(2 * pause, longest)
            await asyncio.sleep(uniform(0.5, 1.0) * pause)  # noqa: S311 - not a secret
        self._log.info("the cache answers again", action="cache_back")
        self._probing = None

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                await self._client.get(_PROBE)
        except Exception:  # noqa: BLE001 - whatever it is, it does not answer
            return False
        return True

    def _count(self, kind: str) -> None:
        self._errors[kind] = self._errors.get(kind, 0) + 1


def _name(key: bytes) -> bytes:
    """Readable there, so that the answers of one version can be listed and deleted together."""
    return _PREFIX + key[:16].hex().encode() + b":" + key[16:].hex().encode()
