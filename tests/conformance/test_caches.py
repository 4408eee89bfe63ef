"""Every cache of answers passes the suite of the port; the one in Valkey on a real server, through the wire."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rung.domain.tensors import Tensors
from rung.ports import CacheBackend
from rung.serving.cache import MemoryStore
from rung.serving.redis_cache import RedisStore, connect
from rung.testing.caches import CacheBackendConformance, Valkey, serve_valkey


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    # A socket's path may have 108 bytes, and pytest's folders are deep.
    with tempfile.TemporaryDirectory(prefix="rung-") as folder, serve_valkey(Path(folder)) as server:
        yield server


def shared(valkey: Valkey) -> RedisStore:
    # Long: where a whole suite keeps the cores busy, two seconds may pass between a question and its answer.
    return RedisStore(connect(valkey.url, 60.0), MemoryStore(1 << 20, 60.0), 60.0, timeout=60.0)


class TestMemory(CacheBackendConformance):
    @pytest.fixture
    def backend(self) -> CacheBackend:
        return MemoryStore(1 << 20, 60.0)


class TestValkey(CacheBackendConformance):
    @pytest.fixture
    def backend(self, valkey: Valkey) -> CacheBackend:
        return shared(valkey)


class TestAnotherReplica(CacheBackendConformance):
    """What one process keeps, another one finds."""

    @pytest.fixture
    def backend(self, valkey: Valkey) -> CacheBackend:
        self.valkey = valkey
        return shared(valkey)

    async def look(self, backend: RedisStore, key: bytes) -> Tensors | None:
        await backend.flush()
        other = shared(self.valkey)
        try:
            assert other.find(key) is None
            found = await other.fetch(key)
            # From now on it is there without asking.
            assert (other.find(key) is None) == (found is None)
            return found
        finally:
            errors = other.usage().errors
            await other.close()
            assert errors == {}
