"""Which replicas the front sends requests to."""

import socket
from collections.abc import Collection, Sequence

from rung.fleet.front.haproxy import socket_of
from rung.fleet.state import RoleState

__all__ = ["HUNG", "Looks", "look", "rotation"]

HUNG = 10.0
"""Seconds without a sign of life after which a replica is taken to hang."""
_PATIENCE = 2.0
_ASK = b"GET /readyz HTTP/1.1\r\nhost: front\r\nconnection: close\r\n\r\n"
_READY = b"HTTP/1.1 200 "


def rotation(replicas: Sequence[RoleState], unready: Collection[str]) -> dict[str, str]:
    """What each replica is to the front: `ready` gets requests, all others get none; see `Runtime.set_states`.

    One that lacks a model is left out while others have them all. Where none has, each gets requests: for the other
    models it is as good as ever.
    """
    working = [one.name for one in replicas if one.state == "ready"]
    whole = [name for name in working if name not in unready]
    states = {name: "ready" if name in whole or not whole else "drain" for name in working}
    others = [one for one in replicas if one.name not in states]
    return states | {one.name: "leave" if one.state == "stopping" else "maint" for one in others}


def look(name: str) -> bool:
    """Whether every model answers in the replica of this name.

    Raises:
        OSError: it does not say, within two seconds.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(_PATIENCE)
        line.connect(socket_of(name))
        line.sendall(_ASK)
        said = line.recv(len(_READY), socket.MSG_WAITALL)
    if not said:
        raise OSError("it closed the connection")
    return said == _READY


class Looks:
    """What has been seen of the replicas, look by look."""

    def __init__(self) -> None:
        self.unready: frozenset[str] = frozenset()
        """Those that lack a model."""
        self.hung: list[str] = []
        """The one that has been silent for too long, unless all are: then the fault is the machine's."""
        self._silent: dict[str, float] = {}
        """Since when one has not answered."""

    def forget(self, name: str) -> None:
        """Another process has this name from now on."""
        self._silent.pop(name, None)
        self.hung = [one for one in self.hung if one != name]

    def take(self, answers: dict[str, bool | None], now: float) -> None:
        """One look at each: whether it is ready; None where it did not answer. `now` is in seconds."""
        self.unready = frozenset(name for name, ready in answers.items() if ready is False)
        self._silent = {name: self._silent.get(name, now) for name, ready in answers.items() if ready is None}
        first = min(self._silent, key=lambda name: self._silent[name], default="")
        some_answer = len(self._silent) < len(answers)
        self.hung = [first] if first and some_answer and now - self._silent[first] >= HUNG else []
