"""The real command in a process of its own, on a port that the kernel chose."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import orjson
import pytest

from rung.catalog import models as catalog
from rung.store.blobs import DiskStore
from rung.testing.models import tiny

from .projects import Project

PATIENCE = 30.0
"""Seconds for a start or an end; a machine under load takes its time."""


class Served(msgspec.Struct):
    """A `rung serve` that answers."""

    url: str
    process: subprocess.Popen[bytes]
    stderr_path: Path

    @property
    def port(self) -> int:
        """Where it listens, on the loopback address."""
        return int(self.url.rpartition(":")[2])

    def stderr(self) -> str:
        """What it has logged so far."""
        return self.stderr_path.read_text()

    def log(self) -> list[dict[str, object]]:
        """Its log lines, each an event."""
        return [orjson.loads(line) for line in self.stderr().splitlines() if line.startswith("{")]

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE)


Serve = Callable[..., Served]
Rung = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """`serve(*args, env=None) -> Served`: start `rung serve ARGS` and wait until it answers.

    With `ready=False` it does not wait, and there is no URL. It runs in the test's folder. What it
    wrote to standard error is shown where the test fails.
    """
    started: list[Served] = []

    def start(*args: object, env: Mapping[str, str] | None = None, ready: bool = True) -> Served:
        stderr_path = tmp_path / f"serve-{len(started)}.err"
        command = [sys.executable, "-m", "rung", "serve", *map(str, args), "--port", "0", "--json"]
        with stderr_path.open("wb") as stderr:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=stderr, cwd=tmp_path, env={**os.environ, **(env or {})}
            )
        served = Served("", process, stderr_path)
        started.append(served)
        if not ready:
            return served
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"it ended with exit code {process.wait(PATIENCE)}: {served.stderr()}"
        served.url = orjson.loads(line)["url"]
        return served

    yield start
    for served in started:
        try:
            served.end()
        except subprocess.TimeoutExpired:
            served.process.kill()
            served.process.wait()
        assert served.process.stdout is not None
        served.process.stdout.close()
        sys.stdout.write(served.stderr())


@pytest.fixture
def rung(tmp_path: Path) -> Rung:
    """`rung(*args, env=None) -> CompletedProcess`: run a command that ends by itself, in the test's folder."""

    def run(*args: object, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "rung", *map(str, args)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            cwd=tmp_path,
            env={**os.environ, **(env or {})},
        )

    return run


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A project with one model; whatever it has up at the end of the test is ended."""
    (tmp_path / "rung.toml").write_text('[project]\nname = "demo"\n\n[models.tiny]\n')
    store = DiskStore(tmp_path / ".rung" / "repository")
    catalog.register(store, tiny(tmp_path / "tiny.onnx"), name="tiny")
    found = Project(tmp_path)
    yield found
    if found.process is not None and found.process.returncode is None:
        try:
            found.end()
        except subprocess.TimeoutExpired:
            found.process.kill()
            found.process.wait()
    if (tmp_path / "up.log").exists():
        sys.stdout.write(found.log)
