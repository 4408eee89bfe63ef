"""Messages with tensors over a socket between two processes of this machine, one at a time in each direction.

Nothing is pickled. All functions block; whoever is asynchronous calls them from a thread.
"""

import socket
import struct
from typing import Any

import msgspec
import numpy as np

from rung.domain.tensors import DATATYPES, Array, Tensors

__all__ = ["Channel", "Message"]

_PREFIX = struct.Struct("<IQ")
"""Every frame begins with the length of its head and of its body."""
_LARGEST_HEAD = 64 << 20
_LARGEST_BODY = 1 << 36
_ALIGNMENT = 64
"""Tensors begin at multiples of this within a body, so that vector instructions like them."""
_PADDING = bytes(_ALIGNMENT)
_MOST_PARTS = 1000  # Linux takes 1024 buffers in one sendmsg.

_DTYPES = {dtype.str: dtype for dtype in DATATYPES.values() if dtype.kind != "O"}
_BYTES = "O"


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
