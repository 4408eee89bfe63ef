"""What a person tells a running supervisor: how many replicas, or to replace them all. Over a socket in the folder.

It works without the control plane, and only for who may write in the project's folder.
"""

import os
import socket
from contextlib import suppress
from pathlib import Path

import msgspec

from rung.domain.errors import ConfigurationError, Conflict, NotReady

__all__ = ["MOST", "Order", "OrderDesk", "send_order"]

MOST = 64
"""Replicas that one machine runs at most."""
_SOCKET = Path(".rung/up.sock")
_PATIENCE = 5.0
_LISTEN_PATIENCE = 0.5
_LONGEST = 4096


class Order(msgspec.Struct, kw_only=True):
    """What is to be done. One of the first three."""

    replicas: int = 0
    """As many from now on, whatever the rules say."""
    auto: bool = False
    """As many as the rules say."""
    restart: bool = False
    """A new process for every replica, one after another."""
    by: str = ""
    """Who says so."""


class _Answer(msgspec.Struct):
    error: str = ""


class OrderDesk:
    """Where orders come in; `fileno` becomes readable when there is one."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _SOCKET
        self._listener: socket.socket | None = None

    def open(self) -> None:
        """Listen. The folder must be held, since what an earlier supervisor left is taken away.

        Raises:
            ConfigurationError: the folder's file system has no sockets, or its path is too long for one.
        """
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            self._listener.bind(str(self._path))
        except OSError as error:
            self._listener.close()
            raise ConfigurationError(f"no socket can be made at {self._path}: {error.strerror or error}") from None
        finally:
            os.umask(before)
        self._listener.listen(8)
        self._listener.setblocking(False)

    def fileno(self) -> int:
        """Descriptor to wait on."""
        assert self._listener is not None
        return self._listener.fileno()

    def take(self) -> tuple[Order, socket.socket] | None:
        """The next order and where its answer goes; None where there is none that can be read."""
        assert self._listener is not None
        with suppress(OSError):
            caller, _ = self._listener.accept()
            try:
                caller.settimeout(_LISTEN_PATIENCE)
                return msgspec.json.decode(_line(caller), type=Order), caller
            except (OSError, msgspec.MsgspecError) as error:
                self.answer(caller, f"this is no order: {error}")
        return None

    def answer(self, caller: socket.socket, error: str = "") -> None:
        """Say that the order is taken, or why not."""
        with caller, suppress(OSError):
            caller.sendall(msgspec.json.encode(_Answer(error)) + b"\n")

    def close(self) -> None:
        """Listen no more."""
        if self._listener is not None:
            self._listener.close()
            self._path.unlink(missing_ok=True)


def send_order(folder: Path, order: Order) -> None:
    """Give an order to the supervisor of this folder. It has been taken when this returns, not carried out.

    Raises:
        NotReady: nothing is up there, or it does not answer.
        Conflict: it refuses.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(_PATIENCE)
        try:
            line.connect(str(folder / _SOCKET))
            line.sendall(msgspec.json.encode(order) + b"\n")
            answer = msgspec.json.decode(_line(line), type=_Answer)
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotReady(f"nothing is up in {folder.resolve()}: `rung up` starts it") from None
        except (OSError, msgspec.MsgspecError) as error:
            raise NotReady(f"the supervisor of {folder.resolve()} does not answer: {error}") from None
    if answer.error:
        raise Conflict(answer.error)


def _line(peer: socket.socket) -> bytes:
    found = b""
    while not found.endswith(b"\n") and len(found) < _LONGEST:
        piece = peer.recv(_LONGEST)
        if not piece:
            break
        found += piece
    return found
