"""Worker processes on a database of each kind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from rung.jobs.queue import JobStore
from rung.store.database import Database, open_database
from rung.testing.postgres import serve_postgres


class Workers:
    """Workers by process id. All of them end with the test."""

    def __init__(self, url: str, lease: float) -> None:
        command = [sys.executable, str(Path(__file__).with_name("workers.py")), url, str(lease)]
        self._source = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self.pids: list[int] = []

    def start(self, point: str = "never") -> int:
        assert self._source.stdin is not None
        assert self._source.stdout is not None
        self._source.stdin.write(point + "\n")
        self._source.stdin.flush()
        self.pids.append(int(self._source.stdout.readline()))
        return self.pids[-1]

    def kill(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        os.kill(pid, number)
        if number == signal.SIGKILL:
            self.pids.remove(pid)

    def gone(self, pid: int) -> bool:
        # Its parent ignores SIGCHLD, so nothing is left of one that has ended.
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    def close(self) -> None:
        # All that it forked are of its group, and hold its stdout.
        os.killpg(self._source.pid, signal.SIGKILL)
        self._source.communicate()


class Scene:
    """A database, its job table, and the workers on it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.database: Database = open_database(url)
        self.store = JobStore(self.database)
        identity = "BIGSERIAL" if self.database.dialect == "postgresql" else "INTEGER"
        # No unique column: a second effect has to be seen, not refused.
        table = f"CREATE TABLE effects (number {identity} PRIMARY KEY, job BIGINT, token BIGINT, key TEXT)"
        self.database.write(lambda connection: connection.execute(text(table)))

    def effects(self) -> list[tuple[int, int, str]]:
        """Job, token, key, in the order in which they were written."""
        query = text("SELECT job, token, key FROM effects ORDER BY number")
        return self.database.read(lambda connection: [tuple(row) for row in connection.execute(query)])


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    with serve_postgres() as url:
        yield url


@pytest.fixture
def open_scene(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[str], Scene]]:
    scenes = []

    def opened(engine: str) -> Scene:
        url = f"sqlite:{tmp_path}/rung.db"
        if engine == "postgresql":
            url = request.getfixturevalue("postgres")
            with open_database(url) as database:
                # Whatever tables there are: those of a later release, too.
                for statement in ("DROP SCHEMA public CASCADE", "CREATE SCHEMA public"):
                    database.write(lambda connection, statement=statement: connection.execute(text(statement)))
        scenes.append(Scene(url))
        return scenes[-1]

    yield opened
    for scene in scenes:
        scene.database.close()


@pytest.fixture
def start_workers() -> Iterator[Callable[[str, float], Workers]]:
    started = []

    def start(url: str, lease: float) -> Workers:
        started.append(Workers(url, lease))
        return started[-1]

    yield start
    for workers in started:
        workers.close()


@pytest.fixture
def until() -> Callable[..., None]:
    """Look until something is so."""

    def wait(done: Callable[[], bool], what: str, patience: float = 100.0) -> None:
        end = time.monotonic() + patience
        while not done():
            assert time.monotonic() < end, f"{what} took more than {patience} seconds"
            time.sleep(0.02)

    return wait
