"""Where requests wait while no replica can answer: HAProxy sends them here last, and asks a replica again on our 503.

So the only replica may be killed, or all be gone because nobody asked for hours, and a caller notices a delay.
"""

import os
import selectors
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = ["Hold"]

_BODY = b'{"error":"no replica can answer now; try again in a second"}'
_ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)
_PIECE = 64 << 10


class Hold:
    """Takes requests and answers none until `release`, or until one has waited for `seconds`.

    Only a POST waits: who reads wants to know how things are.
    """

    def __init__(self, selector: selectors.BaseSelector, seconds: float, clock: Callable[[], float]) -> None:
        self._selector = selector
        self._seconds = seconds
        self._clock = clock
        self._listener: socket.socket | None = None
        self._waiting: dict[socket.socket, float] = {}
        """Connection -> when it is answered at the latest."""

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def open(self, path: str) -> None:
        """Listen at this path, whose folder nobody else may enter.

        Raises:
            OSError: that cannot be.
        """
        Path(path).unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(socket.SOMAXCONN)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def release(self) -> None:
        """A replica can answer."""
        self._answer_all(list(self._waiting))

    def expire(self) -> None:
        """Answer those that have waited for too long."""
        now = self._clock()
        self._answer_all([one for one, until in self._waiting.items() if until <= now])

    def close(self) -> None:
        """Answer whoever waits, and listen no more."""
        self.release()
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()

    def _accept(self) -> None:
        assert self._listener is not None
        with suppress(BlockingIOError):
            while True:
                connection, _ = self._listener.accept()
                connection.setblocking(False)
                self._selector.register(connection, selectors.EVENT_READ, lambda one=connection: self._read(one))

    def _read(self, connection: socket.socket) -> None:
        try:
            piece = os.read(connection.fileno(), _PIECE)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            # HAProxy has its answer, or its caller has left.
            self._waiting.pop(connection, None)
            self._selector.unregister(connection)
            connection.close()
        elif connection not in self._waiting:
            if piece.startswith(b"POST "):
                self._waiting[connection] = self._clock() + self._seconds
            else:
                self._answer_all([connection])

    def _answer_all(self, connections: list[socket.socket]) -> None:
        for connection in connections:
            self._waiting.pop(connection, None)
            # It is closed by HAProxy, and until then what still comes of the request is thrown away.
            with suppress(OSError):
                connection.sendall(_ANSWER)
                connection.shutdown(socket.SHUT_WR)
