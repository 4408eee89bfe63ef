"""uvicorn inside a process of ours: our signals, our socket, a bounded number of threads."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio.to_thread
import uvicorn

from rung.domain.errors import ConfigurationError

__all__ = ["listen", "serve"]

_GRACE = 5
_KEEP_ALIVE = 30


async def serve(
    application: Any,
    listener: socket.socket,
    threads: int,
    stop: asyncio.Event,
    opened: Callable[[], None],
    tls: ssl.SSLContext | None = None,
) -> None:
    """Answer until `stop` is set. `opened` is called once, when it does; `threads` is how many calls run at once."""
    anyio.to_thread.current_default_thread_limiter().total_tokens = threads
    config = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=_GRACE,
        timeout_keep_alive=_KEEP_ALIVE,
    )
    config.load()
    config.ssl = tls
    server = _Server(config, opened)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    stopping.cancel()
    await running


class _Server(uvicorn.Server):
    """Leaves signals to us, and says when it listens."""

    def __init__(self, config: uvicorn.Config, opened: Callable[[], None]) -> None:
        super().__init__(config)
        self._opened = opened

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        self._opened()


def listen(host: str, port: int, *, shared: bool) -> socket.socket:
    """A bound socket. `shared` lets the supervisor hold the port as well.

    Raises:
        ConfigurationError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another with --control-port (0 picks a free one)"
        ) from None
    return listener
