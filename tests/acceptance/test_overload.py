"""More than it can do: what is accepted is answered, the rest is refused at once, nobody is worked for in vain."""

import asyncio
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx2
import msgspec
import numpy as np
import psutil
import pytest

from rung.catalog.models import register
from rung.store.blobs import DiskStore
from rung.testing import models

from .projects import Project

GATED = """
import pathlib, time

class Gated:
    batched = False
    inputs = {"x": ("FP32", [-1, 1])}
    outputs = {"y": ("FP32", [-1, 1])}

    def predict(self, x):
        if x[0, 0] < 100:
            return {"y": x}  # it is being warmed up
        with open("calls", "a") as calls:
            calls.write(f"{x[0, 0]:g} ")
        while not pathlib.Path("gate").exists():
            time.sleep(0.005)
        return {"y": x}
"""
SLOW = """
import time

class Slow:
    batched = False
    inputs = {"x": ("FP32", [-1, 1])}
    outputs = {"y": ("FP32", [-1, 1])}

    def predict(self, x):
        time.sleep(0.02)
        return {"y": x}
"""
PATIENCE = 15.0


def post(path: str, value: float, **headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: a", "Content-Type: application/octet-stream", "Content-Length: 4"]
    lines += [f"{name.replace('_', '-')}: {text}" for name, text in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + np.float32(value).tobytes()


def until(condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.01)


@pytest.fixture
def gated(serve, tmp_path):
    """A model that works on one request at a time and finishes none before there is a file `gate`."""
    (tmp_path / "gated.py").write_text(GATED)
    return serve("gated.py:Gated", "--name", "gated")


def calls(folder: Path) -> list[str]:
    """What the model was called with since it was warm."""
    path = folder / "calls"
    return path.read_text().split() if path.exists() else []


def metric(client: httpx2.Client, line: str) -> float:
    found = [text for text in client.get("/metrics").text.splitlines() if text.startswith(line)]
    return float(found[0].rsplit(" ", 1)[1]) if found else 0.0


# --- deadlines and callers who leave --------------------------------------------------------


def test_a_deadline_is_kept_while_waiting_and_while_computing(gated, tmp_path):
    with httpx2.Client(base_url=gated.url, timeout=PATIENCE) as client:
        started = time.monotonic()
        kind = {"content-type": "application/octet-stream"}
        working = client.post(
            "/predict/gated", content=np.float32(101).tobytes(), headers=kind | {"rung-timeout-ms": "200"}
        )
        waiting = client.post(
            "/predict/gated", content=np.float32(102).tobytes(), headers=kind | {"rung-timeout-ms": "200"}
        )
        took = time.monotonic() - started
        assert working.status_code == waiting.status_code == 504
        assert "while it was being computed" in working.text
        assert "before its turn came" in waiting.text
        assert 0.4 <= took < 2.0
        (tmp_path / "gate").touch()
        assert client.post("/predict/gated", content=np.float32(103).tobytes(), headers=kind).status_code == 200
    assert calls(tmp_path) == ["101", "103"]


def test_work_of_a_caller_who_left_never_starts(gated, tmp_path):
    port = gated.port
    with (
        socket.create_connection(("127.0.0.1", port), PATIENCE) as first,
        socket.create_connection(("127.0.0.1", port), PATIENCE) as last,
        httpx2.Client(base_url=gated.url) as client,
    ):
        first.sendall(post("/predict/gated", 101))
        until(lambda: calls(tmp_path) == ["101"])
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as leaving:
            leaving.sendall(post("/predict/gated", 102))
            until(lambda: metric(client, "rung_requests_in_flight{") == 2)
        left = time.monotonic()
        until(lambda: metric(client, "rung_requests_in_flight{") == 1)
        assert time.monotonic() - left < 1.0
        last.sendall(post("/predict/gated", 103))
        until(lambda: metric(client, "rung_requests_in_flight{") == 2)
        (tmp_path / "gate").touch()
        assert b" 200 " in first.recv(1000)
        assert b" 200 " in last.recv(1000)
        assert metric(client, 'rung_request_failures_total{error="Cancelled"') == 1
    assert calls(tmp_path) == ["101", "103"]
    assert "failed" not in gated.stderr()


# --- more than it can do --------------------------------------------------------------------


class Tally(msgspec.Struct):
    """What came of an offered load; seconds."""

    accepted: list[float] = []
    refused: list[float] = []
    other: list[str] = []


async def offer(port: int, rate: float, seconds: float, request: bytes = b"") -> Tally:
    """Send requests at a steady rate, whatever comes back, over as many connections as that takes."""
    tally = Tally()
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    tasks: set[asyncio.Task[None]] = set()
    request = request or post("/predict/slow", 1, rung_timeout_ms="2000")

    async def one() -> None:
        streams = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
        started = time.monotonic()
        streams[1].write(request)
        head = (await streams[0].readuntil(b"\r\n\r\n")).decode()
        took = time.monotonic() - started
        headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        await streams[0].readexactly(int(headers["content-length"]))
        status = head.split()[1]
        if status == "200":
            tally.accepted.append(took)
        elif status in ("429", "503") and int(headers["retry-after"]) >= 1:
            tally.refused.append(took)
        else:
            tally.other.append(head)
        idle.append(streams)

    began = time.monotonic()
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        task = asyncio.create_task(one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    for _, writer in idle:
        writer.close()
        await writer.wait_closed()
    return tally


def overload(serve, tmp_path: Path, seconds: float) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    served = serve("slow.py:Slow", "--name", "slow", env={"RUNG_MAX_WAIT_MS": "500"})
    process = psutil.Process(served.process.pid)
    asyncio.run(offer(served.port, 30.0, 1.0))
    before = process.memory_info().rss
    peak = 1 / 0.0215  # a call, and the way to its process and back
    tally = asyncio.run(offer(served.port, 10 * peak, seconds))
    assert tally.other == []
    assert len(tally.accepted) > 0.8 * peak * seconds
    assert max(tally.accepted) < 2.0
    assert len(tally.refused) > 5 * len(tally.accepted)
    assert np.median(tally.refused) < 0.05
    assert process.memory_info().rss < 1.3 * before
    started = time.monotonic()
    after = asyncio.run(offer(served.port, 20.0, 1.0))
    assert len(after.accepted) == 20
    assert time.monotonic() - started < 5.0


def test_ten_times_too_much_is_refused_and_the_rest_is_answered(serve, tmp_path):
    overload(serve, tmp_path, 3.0)


@pytest.mark.nightly
def test_ten_times_too_much_for_a_minute(serve, tmp_path):
    overload(serve, tmp_path, 60.0)


@pytest.fixture
def pair(project: Project) -> Project:
    """The segmentation model in two replicas behind HAProxy."""
    register(
        DiskStore(project.folder / ".rung/repository"), models.segmentation(project.folder / "seg.onnx"), name="seg"
    )
    project.up("--workers", 0, "--replicas", 2, RUNG_FRONT_USE="on")
    return project


def test_ten_times_too_much_at_the_front_is_refused_and_the_rest_is_answered(pair):
    """How fast and how much is for `bench/run.py overload` to say: here is what holds on any machine."""
    picture = np.random.default_rng(0).random((1, 3, 128, 128), np.float32).tobytes()
    head = (
        "POST /predict/seg HTTP/1.1\r\nHost: a\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {len(picture)}\r\n\r\n"
    )
    port, request = int(pair.url.rpartition(":")[2]), head.encode() + picture
    peak = len(asyncio.run(closed(port, request, 1.0)).accepted)
    before = {role["pid"] for role in pair.state()["roles"]}

    tally = asyncio.run(offer(port, 10.0 * peak, 2.0, request))
    assert tally.other == []
    assert len(tally.accepted) + len(tally.refused) == int(20.0 * peak)
    assert len(tally.accepted) >= peak
    assert len(tally.refused) > len(tally.accepted)

    # All is as before: nothing was started anew, nothing is owed, and who comes now is answered.
    after = asyncio.run(offer(port, 10.0, 1.0, request))
    assert (len(after.accepted), after.refused, after.other) == (10, [], [])
    assert {role["pid"] for role in pair.state()["roles"]} == before
    for role in pair.state()["roles"]:
        if role["role"] == "replica":
            with httpx2.Client(base_url=role["url"], timeout=PATIENCE) as client:
                assert metric(client, 'rung_requests_in_flight{model="seg"') == 0


async def closed(port: int, request: bytes, seconds: float) -> Tally:
    """Eight callers, each of which sends again when it has its answer."""
    until = time.monotonic() + seconds
    tally = Tally()

    async def one() -> None:
        while time.monotonic() < until:
            found = await offer(port, 1.0, 1.0, request)
            tally.accepted += found.accepted
            tally.refused += found.refused
            tally.other += found.other

    await asyncio.gather(*[one() for _ in range(8)])
    return tally


# --- clients that hold on -------------------------------------------------------------------


def test_without_file_descriptors_left_it_serves_on_and_does_not_spin(serve, tmp_path):
    served = serve(models.tiny(tmp_path / "tiny.onnx"))
    process = psutil.Process(served.process.pid)
    with httpx2.Client(base_url=served.url) as client:
        assert client.get("/livez").status_code == 200
        process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds() + 5, process.rlimit(psutil.RLIMIT_NOFILE)[1]))
        held = [socket.create_connection(("127.0.0.1", served.port), PATIENCE) for _ in range(30)]
        used, started = sum(process.cpu_times()[:2]), time.monotonic()
        while time.monotonic() - started < 1.0:
            assert client.get("/livez").status_code == 200
            time.sleep(0.05)
        assert sum(process.cpu_times()[:2]) - used < 0.4
        for one in held:
            one.close()
        until(lambda: metric(client, "rung_http_connections ") == 1)
        with httpx2.Client(base_url=served.url) as another:
            assert another.get("/livez").status_code == 200


def held_connections(port: int, count: int, first: bytes) -> list[socket.socket]:
    held = []
    for _ in range(count):
        held.append(socket.create_connection(("127.0.0.1", port), PATIENCE))
        held[-1].sendall(first)
    return held


def median_latency(client: httpx2.Client, count: int = 300) -> float:
    times = []
    for _ in range(count):
        started = time.monotonic()
        assert client.post("/predict/tiny", json=[[0.5] * 16]).status_code == 200
        times.append(time.monotonic() - started)
    return float(np.median(times))


@pytest.mark.nightly
def test_three_thousand_slow_clients_slow_nobody_down_and_are_cut_in_time(serve, tmp_path):
    served = serve(models.tiny(tmp_path / "tiny.onnx"), models.identity(tmp_path / "same.onnx", shape=(-1, 1 << 20)))
    large = np.zeros(1 << 20, np.float32).tobytes()
    head = "POST /predict/same HTTP/1.1\r\nHost: a\r\nContent-Type: application/octet-stream\r\n"
    head = f"{head}Content-Length: {len(large)}\r\n\r\n"
    kinds = {
        "head": b"GET / HTTP/1.1\r\nX: ",
        "body": head.encode() + bytes(1000),
        "reply": head.encode() + large,
    }
    with httpx2.Client(base_url=served.url, timeout=PATIENCE) as client:
        alone = median_latency(client)
        for kind, first in kinds.items():
            # A thousand replies of 4 MB that nobody takes would say more about this machine than about the door.
            held = held_connections(served.port, 100 if kind == "reply" else 1000, first)
            started = time.monotonic()
            assert median_latency(client) < 3 * alone + 0.002
            while metric(client, "rung_http_connections ") > 1:
                assert time.monotonic() - started < 11.0, f"slow {kind}"
                time.sleep(0.1)
                if kind != "reply":
                    drip(held)
            for one in held:
                one.close()


def drip(held: list[socket.socket]) -> None:
    for one in held:
        with suppress(OSError):
            one.send(b"a")


@pytest.mark.nightly
def test_ten_thousand_idle_connections_take_little_memory(serve, tmp_path):
    served = serve(models.tiny(tmp_path / "tiny.onnx"), env={"RUNG_DOOR_MAX_CONNECTIONS": "11000"})
    process = psutil.Process(served.process.pid)
    soft = process.rlimit(psutil.RLIMIT_NOFILE)[0]
    if soft < 10_500:
        pytest.skip(f"this system allows a process only {soft} files")
    with httpx2.Client(base_url=served.url) as client:
        assert client.get("/livez").status_code == 200
        before = process.memory_info().rss
        script = (
            "import socket, sys; port = int(sys.argv[1])\n"
            "held = [socket.create_connection(('127.0.0.1', port)) for _ in range(5000)]\n"
            "[one.sendall(b'GET /livez HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n') for one in held]\n"
            # The kernel takes connections before the server does.
            "[one.recv(4096) for one in held]\n"
            "print('held', flush=True); sys.stdin.read()"
        )
        helpers = [hold(script, served.port) for _ in range(2)]
        try:
            assert metric(client, "rung_http_connections ") == 10_001
            assert process.memory_info().rss - before < 200 << 20
            assert median_latency(client) < 0.05
        finally:
            for helper in helpers:
                helper.communicate(b"", PATIENCE)


def hold(script: str, port: int):
    helper = subprocess.Popen([sys.executable, "-c", script, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert helper.stdout is not None
    assert helper.stdout.readline() == b"held\n"
    return helper
