"""Vendors' own clients against the real command. Runs by `make clients`, in an environment that has those clients.

rung itself is not installed there: it runs from `.venv`, in a process of its own, on a port that the kernel chose.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv" / "bin" / "python"
EXAMPLES = "RUNG_CLIENTS_EXAMPLES"
PATIENCE = 60.0
"""Seconds for a start or an end; a machine under load takes its time."""
LONGEST = 300.0
"""Seconds for a command that imports a framework."""

# `make test` walks through this folder too, in an environment where most of these clients cannot be.
collect_ignore_glob = {
    ".venv-clients": ["test_sagemaker.py"],
    ".venv-clients-sagemaker": ["test_[!s]*.py"],
}.get(Path(sys.prefix).name, ["test_*.py"])


class Served(NamedTuple):
    """A `rung serve` that answers."""

    port: int
    process: subprocess.Popen[bytes]
    stderr_path: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


Serve = Callable[..., Served]
Rung = Callable[..., str]
Example = Callable[[str], Path]


def environment(env: Mapping[str, str] | None) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RUNG_")}
    return clean | dict(env or {})


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """`serve(*args, env=None)`: start `rung serve ARGS` and wait until it answers."""
    started: list[Served] = []

    def start(*args: object, env: Mapping[str, str] | None = None) -> Served:
        stderr_path = tmp_path / f"serve-{len(started)}.err"
        command = [str(PYTHON), "-m", "rung", "serve", *map(str, args), "--port", "0", "--json"]
        with stderr_path.open("wb") as stderr:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=stderr, cwd=tmp_path, env=environment(env)
            )
        assert process.stdout is not None
        line = process.stdout.readline()
        served = Served(int(json.loads(line)["url"].rpartition(":")[2]) if line else 0, process, stderr_path)
        started.append(served)
        assert line, f"it ended with exit code {process.wait(PATIENCE)}: {stderr_path.read_text()}"
        return served

    yield start
    for served in started:
        served.process.send_signal(signal.SIGTERM)
        try:
            served.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            served.process.kill()
            served.process.wait()
        assert served.process.stdout is not None
        served.process.stdout.close()
        sys.stdout.write(served.stderr_path.read_text())


@pytest.fixture
def rung(tmp_path: Path) -> Rung:
    """`rung(*args, env=None)`: run a command that ends by itself, in the test's folder; what it printed."""

    def run(*args: object, env: Mapping[str, str] | None = None) -> str:
        done = subprocess.run(
            [str(PYTHON), "-m", "rung", *map(str, args)],
            capture_output=True,
            text=True,
            timeout=LONGEST,
            cwd=tmp_path,
            env=environment(env),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def python() -> Callable[..., None]:
    """`python(program, *args)`: run a program with rung's own interpreter, which has the frameworks."""

    def run(program: str, *args: object) -> None:
        done = subprocess.run(
            [str(PYTHON), "-c", program, *map(str, args)],
            capture_output=True,
            text=True,
            timeout=LONGEST,
            env=environment({"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}),
        )
        assert done.returncode == 0, done.stderr

    return run


@pytest.fixture
def model(tmp_path: Path, python: Callable[..., None]) -> Callable[..., Path]:
    """`model(name, file, *args)`: write the model NAME of `rung.testing.models` to a file in the test's folder."""

    def write(name: str, file: str, *args: object) -> Path:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        program = (
            "import json, pathlib, sys; from rung.testing import models; "
            "getattr(models, sys.argv[1])(pathlib.Path(sys.argv[2]), *json.loads(sys.argv[3]))"
        )
        python(program, name, path, json.dumps(args))
        return path

    return write


@pytest.fixture
def example() -> Example:
    """`example(path)`: a published file that is no part of this project; skips where there is no copy of it.

    The variable RUNG_CLIENTS_EXAMPLES names a folder of copies, each at OWNER/REPOSITORY/PATH.
    """

    def find(path: str) -> Path:
        folder = os.environ.get(EXAMPLES)
        if not folder:
            pytest.skip(f"{EXAMPLES} does not name a folder with copies of published examples")
        found = Path(folder) / path
        if not found.is_file():
            pytest.skip(f"there is no copy of {path} in {EXAMPLES}")
        return found

    return find
