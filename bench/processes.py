"""Server processes: started on a free port, waited for, weighed, and ended with all their children."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from workloads import BenchError, Request

__all__ = ["HERE", "OUT", "SERVERS", "Server", "serve"]

HERE = Path(__file__).parent
OUT = HERE / "out"
BIN = Path(sys.executable).parent


def _rung(path: Path, port: int) -> list[str]:
    return [str(BIN / "rung"), "serve", str(path), "--port", str(port)]


def _probe(path: Path, port: int) -> list[str]:
    return [sys.executable, str(HERE / "servers" / "probe.py"), str(path), str(port)]


def _mosec(path: Path, port: int, *, workers: int = 1, batch: int = 1) -> list[str]:
    script = [sys.executable, str(HERE / "servers" / "mosec_server.py"), "--model", str(path)]
    return [*script, "--address", "127.0.0.1", "--port", str(port), "--workers", str(workers), "--batch", str(batch)]


SERVERS: dict[str, Callable[[Path, int], list[str]]] = {
    "rung": _rung,
    "probe": _probe,
    "mosec": lambda path, port: _mosec(path, port, batch=32),
    "mosec unbatched": _mosec,
    "mosec 2 workers": lambda path, port: _mosec(path, port, workers=2),
}
"""Name -> command that serves a model file (rung: a repository folder, too) on a port."""


@dataclass
class Server:
    """A running server and its children."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    started: float
    """`time.perf_counter()` just before it was started."""

    def first_answer(self, request: Request, seconds: float = 60.0) -> tuple[float, bytes]:
        """Ask until a 200 comes; return the seconds since the start and the body.

        Raises:
            BenchError: it ended, or did not answer in time.
        """
        said = "nothing was listening"
        while time.perf_counter() - self.started < seconds:
            if self.process.poll() is not None:
                raise BenchError(f"{self.name} ended with status {self.process.returncode}: {self._last_words()}")
            try:
                status, body = self._ask(request)
            except (OSError, http.client.HTTPException) as error:
                said = str(error) or type(error).__name__
            else:
                if status == http.client.OK:
                    return time.perf_counter() - self.started, body
                said = f"it said {status}: {body[:200].decode(errors='replace')}"
            time.sleep(0.002)
        raise BenchError(f"{self.name} gave no answer to {request.path} in {seconds:.0f} s: {said}")

    def _ask(self, request: Request) -> tuple[int, bytes]:
        # From another loopback address: a connect from a port to itself on the same one would succeed.
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10, source_address=("127.0.0.2", 0))
        try:
            connection.request("POST", request.path, request.body, request.headers)
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def rss(self) -> float:
        """Resident memory of the process and its children, MB."""
        total = 0
        root = psutil.Process(self.process.pid)
        for one in [root, *root.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss
        return total / 1e6

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "without a word"


@contextmanager
def serve(name: str, path: Path) -> Iterator[Server]:
    """Run a server; end its whole process group on the way out."""
    port = _free_port()
    OUT.mkdir(exist_ok=True)
    log = OUT / f"{name.replace(' ', '-')}.log"
    command = SERVERS[name](path.resolve(), port)
    if not Path(command[0]).exists():
        raise BenchError(f"{command[0]} is not installed")
    with log.open("wb") as sink:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True, cwd=OUT
        )
    try:
        yield Server(name, port, process, log, started)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            print(f"{name} ignored SIGTERM for 15 s and was killed", file=sys.stderr)
        # Its own session is its own group: this reaches workers that it left behind, and nobody else.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
