"""Child processes: limits, a ready signal, tensors over a socket, and death with the parent.

A child is a fresh interpreter that runs a module (`python -m`), never a fork: threads and libraries
of the parent do not leak into it. The parent holds a `Child`; the child's module calls `attach` first.
Both then exchange `Message`s, one at a time in each direction. Nothing is pickled.

All functions block; whoever is asynchronous calls them from a thread.
"""

import contextlib
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import msgspec
import numpy as np

from rung.domain.errors import WorkerDied
from rung.domain.tensors import DATATYPES, Array, Tensors
from rung.lifeline import end_with_parent

__all__ = ["Channel", "Child", "Limits", "Message", "attach"]

_SETUP = "RUNG_CHILD"
"""Environment variable with descriptor of the channel, descriptor of the life line, and limits."""
_PREFIX = struct.Struct("<IQ")
"""Every frame begins with the length of its head and of its body."""
_LARGEST_HEAD = 64 << 20
_LARGEST_BODY = 1 << 36
_ALIGNMENT = 64
"""Tensors begin at multiples of this within a body, so that vector instructions like them."""
_PADDING = bytes(_ALIGNMENT)
_MOST_PARTS = 1000  # Linux takes 1024 buffers in one sendmsg.
_TAIL = 8 << 10
_EXIT_SECONDS = 1.0
"""Between the end of a child's socket and its exit status."""

_DTYPES = {dtype.str: dtype for dtype in DATATYPES.values() if dtype.kind != "O"}
_BYTES = "O"


class Limits(msgspec.Struct, frozen=True):
    """What a child may use; 0 means no limit."""

    memory: int = 0
    """Bytes of private writable memory (RLIMIT_DATA): an allocation beyond it fails inside the child.
    Libraries mapped from files and memory shared with others do not count."""
    cpu_seconds: int = 0
    """Processor time (RLIMIT_CPU): the child ends by SIGXCPU when it is used up."""


class Message(msgspec.Struct):
    """What travels between the two processes."""

    kind: str
    detail: Any = None
    """Plain values that msgpack knows."""
    tensors: Tensors = {}


class _Head(msgspec.Struct, array_like=True):
    kind: str
    detail: Any
    tensors: list[tuple[str, str, tuple[int, ...], int]]
    """Name, numpy type string, shape, length in bytes."""


_encode = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(_Head).decode
_decode_bytes = msgspec.msgpack.Decoder(list[bytes]).decode


class Channel:
    """Frames over a Unix stream socket, for one reading and one writing thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = bytearray(64 << 10)
        self._have = 0
        self._timeout = 0.0

    def set_timeout(self, seconds: float) -> None:
        """Raise TimeoutError when nothing moves for so many seconds; 0 waits for ever."""
        if seconds != self._timeout:
            self._timeout = seconds
            # The kernel's own timeout: Python's would cost a poll before every read.
            value = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def send(self, kind: str, detail: Any = None, tensors: Tensors | None = None) -> None:
        """Send one message. Elements of BYTES tensors have to be `bytes`.

        Raises:
            TypeError: a tensor has a dtype that is not in `DATATYPES`; nothing was sent.
            OSError: the other side is gone.
            TimeoutError: it does not read.
        """
        described: list[tuple[str, str, tuple[int, ...], int]] = []
        parts, size = [b""], 0
        for name, array in (tensors or {}).items():
            dtype, data = _pack(name, array)
            length = len(data)
            described.append((name, dtype, array.shape, length))
            gap = -length % _ALIGNMENT
            parts += (data, _PADDING[:gap]) if gap else (data,)
            size += length + gap
        head = _encode(_Head(kind, detail, described))
        parts[0] = _PREFIX.pack(len(head), size) + head
        self._send(parts, _PREFIX.size + len(head) + size)

    def receive(self) -> Message:
        """Wait for the next message; its tensors are fresh and writable.

        Raises:
            EOFError: the other side ended.
            TimeoutError: nothing came in time.
            ValueError: what came is not a message.
        """
        buffer = memoryview(self._buffer)
        have = self._fill(buffer, self._have, _PREFIX.size)
        head_size, size = _PREFIX.unpack_from(buffer)
        if head_size > _LARGEST_HEAD or size > _LARGEST_BODY:
            raise ValueError(f"a message of {head_size} + {size} bytes is out of bounds")
        start = _PREFIX.size + head_size
        if start > len(buffer):
            self._buffer = self._buffer.ljust(start)
            buffer = memoryview(self._buffer)
        have = self._fill(buffer, have, start)
        head = _decode_head(buffer[_PREFIX.size : start])
        body = np.empty(size, np.uint8).data
        came = min(have - start, size)
        body[:came] = buffer[start : start + came]
        # What was read beyond this message begins the next one.
        self._have = have - start - came
        buffer[: self._have] = buffer[start + came : have]
        self._fill(body, came, size)
        return Message(head.kind, head.detail, _unpack(head, body))

    def close(self) -> None:
        """Close the socket; the other side sees an end."""
        self._socket.close()

    def _fill(self, view: memoryview, have: int, want: int) -> int:
        while have < want:
            try:
                count = self._socket.recv_into(view[have:])
            except BlockingIOError:
                raise TimeoutError from None
            except ConnectionResetError:
                count = 0
            if not count:
                raise EOFError
            have += count
        return have

    def _send(self, parts: list[Any], size: int) -> None:
        while True:
            try:
                sent = self._socket.sendmsg(parts[:_MOST_PARTS])
            except BlockingIOError:
                raise TimeoutError from None
            size -= sent
            if not size:
                return
            while sent >= len(parts[0]):
                sent -= len(parts.pop(0))
            parts[0] = memoryview(parts[0])[sent:]


def _pack(name: str, array: Array) -> tuple[str, Any]:
    dtype = array.dtype.str
    if dtype in _DTYPES:
        return dtype, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    elements = array.ravel().tolist()
    if array.dtype.kind != "O" or not all(type(element) is bytes for element in elements):
        raise TypeError(f"tensor {name!r} of {array.dtype} cannot be sent: use a numeric dtype, or objects of bytes")
    return _BYTES, _encode(elements)


def _unpack(head: _Head, body: memoryview) -> dict[str, Array]:
    tensors: dict[str, Array] = {}
    offset = 0
    try:
        for name, dtype, shape, length in head.tensors:
            if dtype == _BYTES:
                elements = _decode_bytes(body[offset : offset + length])
                tensors[name] = np.array(elements, DATATYPES["BYTES"]).reshape(shape)
            else:
                tensors[name] = np.ndarray(shape, _DTYPES[dtype], body, offset)
            offset += length + -length % _ALIGNMENT
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a tensor does not fit its description: {error}") from None
    return tensors


def attach() -> Channel:
    """In the child, before anything heavy is imported: arm the limits and return the way to the parent.

    From here on the child ends with its parent, however that ends, and so does all that it starts.
    """
    channel, life, limits = msgspec.json.decode(os.environ.pop(_SETUP), type=tuple[int, int, Limits])
    os.set_inheritable(channel, False)
    end_with_parent(life)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if limits.memory:
        resource.setrlimit(resource.RLIMIT_DATA, (limits.memory, limits.memory))
    if limits.cpu_seconds:
        resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_seconds, limits.cpu_seconds + 1))
    return Channel(socket.socket(fileno=channel))


class Child:
    """A process that runs `python -m module arguments...` and answers over a `Channel`.

    In order: `spawn`, `receive` (the child's first message says that it is ready), any number of `call`s,
    `terminate`. When WorkerDied is raised, the process has been killed and reaped. Without `inherit`, `environment`
    is its whole environment. What it prints goes to `output`, by default our stderr, from a thread; errors before it
    is ready quote the end of that.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str] = (),
        *,
        limits: Limits | None = None,
        environment: Mapping[str, str] | None = None,
        inherit: bool = True,
        output: Callable[[bytes], object] | None = None,
    ) -> None:
        self._module = module
        self._output = output or _to_stderr
        self._arguments = tuple(arguments)
        self._limits = limits or Limits()
        self._environment = {**(os.environ if inherit else {}), **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._life = -1
        self._tail = b""
        self._ready = False
        self._relay: threading.Thread | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        """Process id, also the id of its process group; 0 before `spawn`."""
        return self._process.pid if self._process else 0

    @property
    def exited_well(self) -> bool:
        """Whether it has ended by itself with exit code 0."""
        return self._process is not None and self._process.returncode == 0

    @property
    def tail(self) -> str:
        """The last 8 KiB that it printed."""
        return self._tail.decode(errors="replace")

    def spawn(self) -> None:
        """Start the process without waiting for it.

        Raises:
            WorkerDied: the system refused to start one.
        """
        ours, theirs = socket.socketpair()
        life, self._life = os.pipe()
        setup = msgspec.json.encode((theirs.fileno(), life, self._limits)).decode()
        environment = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", _SETUP: setup}
        try:
            self._process = subprocess.Popen(  # noqa: S603
                # -P: a file in the working directory must not stand in for a module of ours.
                [sys.executable, "-P", "-m", self._module, *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**self._environment, **environment},
                pass_fds=(theirs.fileno(), life),
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            os.close(self._life)
            raise WorkerDied(f"no process could be started for {self._module}: {error}") from error
        finally:
            theirs.close()
            os.close(life)
        self._channel = Channel(ours)
        self._relay = threading.Thread(target=self._read_output, args=(self._process.stdout,), daemon=True)
        self._relay.start()
        threading.Thread(target=self._clear_up, args=(self._process.pid,), daemon=True).start()

    def call(self, kind: str, detail: Any = None, tensors: Tensors | None = None, *, timeout: float = 0) -> Message:
        """Send a message and wait up to `timeout` seconds (0: for ever) for the next one.

        Raises:
            WorkerDied: it ended, hung or spoke nonsense.
            TypeError: a tensor cannot be sent; the child lives on.
        """
        self.send(kind, detail, tensors, timeout=timeout)
        return self.receive(timeout)

    def send(self, kind: str, detail: Any = None, tensors: Tensors | None = None, *, timeout: float = 0) -> None:
        """Send a message, which the child has to take within `timeout` seconds. Raises as `call` does."""
        assert self._channel is not None, "spawn first"
        try:
            self._channel.set_timeout(timeout)
            self._channel.send(kind, detail, tensors)
        except TimeoutError:
            raise self._hung("took no input") from None
        except OSError:
            raise self._died() from None

    def receive(self, timeout: float = 0) -> Message:
        """Wait up to `timeout` seconds (0: for ever) for a message. Raises as `call` does."""
        assert self._channel is not None, "spawn first"
        try:
            self._channel.set_timeout(timeout)
            message = self._channel.receive()
        except TimeoutError:
            raise self._hung(f"gave no answer within {timeout:g} seconds") from None
        except (EOFError, OSError):
            raise self._died() from None
        except (ValueError, msgspec.MsgspecError) as error:
            self.kill()
            raise WorkerDied(f"process {self.pid} was ended because it spoke nonsense: {error}") from None
        self._ready = True
        return message

    def terminate(self, grace: float = 2.0) -> None:
        """Ask the process to end (SIGTERM), insist after `grace` seconds (SIGKILL), and reap it. Twice is no error."""
        if self._process is not None and self._process.returncode is None:
            _signal(self._process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)
        self.kill()

    def kill(self) -> None:
        """End the process and all that it started, at once."""
        with self._lock:
            life, self._life = self._life, -1
            if life < 0 or self._process is None:
                return
            _signal(self._process.pid, signal.SIGKILL)
            self._process.wait()
            os.close(life)
            if self._channel is not None:
                self._channel.close()
        if self._relay is not None:
            # Whoever still holds the pipe is not in our process group any more: do not wait for it long.
            self._relay.join(_EXIT_SECONDS)

    def _hung(self, why: str) -> WorkerDied:
        self.kill()
        return WorkerDied(f"process {self.pid} was ended because it {why}{self._last_words()}", hung=True)

    def _died(self) -> WorkerDied:
        assert self._process is not None
        # The socket closes a moment before the process ends: wait, lest our own signal becomes the reason.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_SECONDS)
        self.kill()
        code = self._process.returncode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return WorkerDied(f"process {self.pid} {how}{self._last_words()}")

    def _last_words(self) -> str:
        # Once it answers, an error may reach a caller, who must not read what was printed about another's input.
        if self._ready:
            return ""
        lines = [line for line in self.tail.splitlines() if line.strip()]
        return "; its last output: " + " | ".join(lines[-4:])[-400:] if lines else ""

    def _read_output(self, pipe: IO[bytes]) -> None:
        with pipe:
            while chunk := os.read(pipe.fileno(), 64 << 10):
                self._tail = (self._tail + chunk)[-_TAIL:]
                self._output(chunk)

    @staticmethod
    def _clear_up(pid: int) -> None:
        # What the child forked holds its socket open, so its end would not be seen: end them with it.
        # The child stays unreaped meanwhile, so its id cannot have passed to a stranger.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            _signal(pid, signal.SIGKILL)


def _to_stderr(chunk: bytes) -> None:
    with contextlib.suppress(OSError):
        os.write(2, chunk)


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
