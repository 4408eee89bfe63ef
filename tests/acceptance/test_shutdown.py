"""Going away: what was asked is answered, nothing is left behind, and whoever insists is obeyed."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from threading import Event, Thread

import httpx2
import numpy as np
import psutil
import pytest

from rung.testing import models

GATED = """
import pathlib, time

class Gated:
    inputs = {"x": ("FP32", [-1, 1])}
    outputs = {"y": ("FP32", [-1, 1])}

    def load(self):
        while pathlib.Path("loading").exists():
            time.sleep(0.005)

    def predict(self, x):
        if x[0, 0] >= 100:  # and not while it is being warmed up
            pathlib.Path("called").touch()
            while not pathlib.Path("gate").exists():
                time.sleep(0.005)
        time.sleep(0.002)
        return {"y": x}
"""
KIND = {"content-type": "application/octet-stream"}
HELD = (
    b"POST /predict/gated HTTP/1.1\r\nHost: a\r\nContent-Type: application/octet-stream\r\nContent-Length: 4\r\n\r\n"
    + np.float32(100).tobytes()
)
"""A request that is worked on until there is a file `gate`."""
PATIENCE = 15.0


def until(condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.01)


def family(served) -> list[psutil.Process]:
    """Its child processes."""
    return psutil.Process(served.process.pid).children(recursive=True)


def nobody_left(children: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(children, timeout=5.0)[1]


@pytest.fixture
def gated(serve, tmp_path):
    (tmp_path / "gated.py").write_text(GATED)
    return lambda **more: serve("gated.py:Gated", "--name", "gated", **more)


class Caller(Thread):
    """Asks over one connection, and over a new one when told that the old one closes, until nobody listens."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.answered = 0
        self.failures: list[str] = []
        self.told = False
        self.started = Event()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.connect()
        value = np.float32(1).tobytes()
        try:
            while True:
                connection.request("POST", "/predict/gated", value, KIND)
                answer = connection.getresponse()
                if answer.status != 200 or answer.read() != value:
                    self.failures.append(f"status {answer.status}")
                self.answered += 1
                self.started.set()
                if answer.getheader("connection") == "close":
                    self.told = True
                    break
        except (OSError, http.client.HTTPException) as error:
            self.failures.append(repr(error))
        connection.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_loses_no_request(gated, number):
    served = gated()
    children = family(served)
    assert children, "a class of the user's runs in a process of its own"
    callers = [Caller(served.port) for _ in range(12)]
    for caller in callers:
        caller.start()
    for caller in callers:
        assert caller.started.wait(PATIENCE)
    started = time.monotonic()
    assert served.end(number) == 0
    assert time.monotonic() - started < 8.0
    for caller in callers:
        caller.join(PATIENCE)
    assert [failure for caller in callers for failure in caller.failures] == []
    assert all(caller.told for caller in callers)
    assert nobody_left(children)


def test_a_request_in_work_is_answered_after_the_signal_and_new_ones_are_turned_away(gated, tmp_path):
    served = gated()
    with httpx2.Client(base_url=served.url, timeout=PATIENCE) as client:
        answers: list[httpx2.Response] = []
        value = np.float32(100).tobytes()
        asking = Thread(target=lambda: answers.append(client.post("/predict/gated", content=value, headers=KIND)))
        asking.start()
        until((tmp_path / "called").exists)
        served.process.send_signal(signal.SIGTERM)
        until(lambda: any(line["action"] == "drain" for line in served.log()))
        with pytest.raises(ConnectionRefusedError):
            until(lambda: not socket.create_connection(("127.0.0.1", served.port)).close() and False)
        assert served.process.poll() is None
        (tmp_path / "gate").touch()
        asking.join(PATIENCE)
        assert [(answer.status_code, answer.content) for answer in answers] == [(200, value)]
    assert served.process.wait(PATIENCE) == 0


def test_a_second_signal_ends_it_at_once(gated, tmp_path):
    served = gated()
    children = family(served)
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.sendall(HELD)
        until((tmp_path / "called").exists)
        served.process.send_signal(signal.SIGTERM)
        until(lambda: any(line["action"] == "drain" for line in served.log()))
        started = time.monotonic()
        assert served.end() == -signal.SIGTERM
        assert time.monotonic() - started < 2.0
    assert nobody_left(children)


def test_the_drain_ends_at_its_limit(gated, tmp_path):
    served = gated(env={"RUNG_DOOR_DRAIN_SECONDS": "0.5"})
    children = family(served)
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.sendall(HELD)
        until((tmp_path / "called").exists)
        started = time.monotonic()
        assert served.end() == 0
        assert time.monotonic() - started < 10.0
    assert nobody_left(children)
    assert any(line["action"] == "drain_cut" for line in served.log())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_a_model_loads_ends_it_without_waiting_for_the_model(gated, tmp_path, number):
    (tmp_path / "loading").touch()
    served = gated(ready=False)
    until(lambda: family(served))
    children = family(served)
    started = time.monotonic()
    assert served.end(number) in (0, -number)
    assert time.monotonic() - started < 5.0
    assert nobody_left(children)


def test_its_children_go_with_it_when_it_is_killed(gated):
    served = gated()
    children = family(served)
    served.end(signal.SIGKILL)
    assert nobody_left(children)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_it_serves_on_when_nobody_reads_what_it_says(tmp_path, stream):
    model = models.tiny(tmp_path / "tiny.onnx")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    theirs, ours = os.pipe()
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: ours}
    command = [sys.executable, "-m", "rung", "serve", str(model), "--port", str(port), "--access-log"]
    os.close(theirs)
    process = subprocess.Popen(command, cwd=tmp_path, **streams)
    os.close(ours)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:

            def answers() -> bool:
                assert process.poll() is None, f"it ended with exit code {process.poll()}"
                try:
                    return client.get("/readyz").status_code == 200
                except httpx2.TransportError:
                    return False

            until(answers)
            for _ in range(5):
                assert client.post("/predict/tiny", json=[[0.5] * 16]).status_code == 200
            assert process.poll() is None
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
