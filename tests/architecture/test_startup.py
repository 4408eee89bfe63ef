"""What starting costs, and what a replica carries with it."""

import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import onnx.parser
import pytest

RUNG = Path(sys.executable).with_name("rung")
HEAVY = {
    "alembic",
    "fastapi",
    "matplotlib",
    "mlflow",
    "onnx",
    "pandas",
    "polars",
    "pyarrow",
    "pydantic",
    "pydantic_settings",
    "ray",
    "requests",
    "scipy",
    "sklearn",
    "sqlalchemy",
    "starlette",
    "torch",
    "uvicorn",
}
"""What a replica never imports."""


def fastest(command: list[str | Path], budget: float, tries: int = 25) -> float:
    """Least processor time of `command` in seconds: on a machine with nothing else to do, the time that it takes.

    Other work on the machine only ever adds, so one fast run proves it.
    """
    least = float("inf")
    for _ in range(tries):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        least = min(least, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if least < budget:
            break
    return least


def test_import_is_quick() -> None:
    assert fastest([sys.executable, "-c", "import rung"], 0.150) < 0.150


def test_import_brings_nothing_along() -> None:
    script = "import sys; before = set(sys.modules); import rung; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)

    assert done.stdout.split() == ["rung"]


def test_help_is_quick() -> None:
    assert fastest([RUNG, "--help"], 0.250) < 0.250


def test_help_imports_no_numpy_and_no_engine() -> None:
    command = [sys.executable, "-X", "importtime", RUNG, "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)

    assert imported(done.stderr) & (HEAVY | {"numpy", "onnxruntime", "obstore", "uvloop", "PIL"}) == set()


def test_a_supervisor_stays_small() -> None:
    """It lives as long as the project and does no work of its own."""
    script = (
        "import sys, rung.cli, rung.cli.up, rung.fleet.supervisor; print(*{n.partition('.')[0] for n in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)

    assert (
        set(done.stdout.split()) & (HEAVY | {"numpy", "onnxruntime", "obstore", "uvloop", "structlog", "rich"}) == set()
    )


def imported(importtime: str) -> set[str]:
    """Top-level packages in what `python -X importtime` wrote."""
    return set(re.findall(r"^import time: +\d+ \| +\d+ \| +(\w+)", importtime, re.MULTILINE))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    text = """<ir_version: 9, opset_import: ["": 17]>
    double (float[n, 4] x) => (float[n, 4] y) { two = Constant<value_float = 2.0>() y = Mul(x, two) }"""
    path = tmp_path / "double.onnx"
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    return path


def test_a_replica_imports_only_what_it_needs(model: Path, tmp_path: Path) -> None:
    """A whole life: start, load, answer, report, stop; then what Python itself says was imported."""
    log = tmp_path / "stderr"
    with log.open("w") as stderr:
        command = [sys.executable, "-X", "importtime", RUNG, "serve", "--port", "0", model]
        replica = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=tmp_path)
    try:
        assert replica.stdout is not None
        url = next(found[0] for line in replica.stdout if (found := re.search(r"http://[\w.]+:\d+", line)))
        tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
        answer = httpx2.post(f"{url}/v2/models/double/infer", json={"inputs": [tensor]})
        assert answer.json()["outputs"][0]["data"] == [2, 4, 6, 8]
        assert httpx2.get(f"{url}/metrics").status_code == 200
        os.kill(replica.pid, signal.SIGTERM)
        assert replica.wait(30) == 0
    finally:
        replica.kill()
        replica.communicate()
    packages = imported(log.read_text())

    assert "onnxruntime" in packages
    assert packages & HEAVY == set()
