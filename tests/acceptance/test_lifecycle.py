"""Swaps, starts, crashes and ends of a real server, as its callers see them."""

import http.client
import json
import os
import signal
import socket
import threading
import time

import numpy as np
import psutil
import pytest

from rung.catalog import models as catalog
from rung.store.blobs import DiskStore
from rung.testing import models

QUICK = {"RUNG_POLL_SECONDS": "0.05"}
RAW = {"Content-Type": "application/octet-stream", "Accept": "application/octet-stream"}
ONES = np.ones((1, 4), np.float32)


class Caller:
    """One keep-alive connection; reconnecting counts as a failure, so it does not."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self.connection.connect()
        self.connection.auto_open = 0

    def post(self, path, body, headers=RAW):
        self.connection.request("POST", path, body, headers)
        return self._answer()

    def get(self, path):
        self.connection.request("GET", path)
        return self._answer()

    def _answer(self):
        reply = self.connection.getresponse()
        return reply.status, dict(reply.headers), reply.read()

    def close(self):
        self.connection.close()


@pytest.fixture
def call():
    """`call(port) -> Caller`, closed at the end."""
    callers = []

    def connect(port):
        callers.append(Caller(port))
        return callers[-1]

    yield connect
    for caller in callers:
        caller.close()


def until(holds, seconds=30.0):
    end = time.monotonic() + seconds
    while not (held := holds()):
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)
    return held


def index(port):
    caller = Caller(port)
    try:
        return json.loads(caller.post("/v2/repository/index", b"")[2])
    finally:
        caller.close()


class Load:
    """Callers on keep-alive connections that ask until told to stop, and what they saw."""

    def __init__(self, port, ask, count=4):
        self.errors = []
        self.seen = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(port, ask)) for _ in range(count)]

    def _run(self, port, ask):
        try:
            caller = Caller(port)
            while not self._stop.is_set():
                self.seen.append(ask(caller))
            caller.close()
        except Exception as error:  # noqa: BLE001 - shown by whoever started it
            self.errors.append(repr(error))

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()


# --- swaps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("swaps", [3, pytest.param(20, marks=pytest.mark.nightly)])
def test_callers_do_not_notice_a_hot_swap(serve, tmp_path, swaps):
    store = DiskStore(tmp_path / "repository")

    def register(version):
        return catalog.register(store, models.scale(tmp_path / "m.onnx", version + 1.0), name="m").version

    def ask(caller):
        status, headers, body = caller.post("/predict/m", ONES.tobytes())
        assert status == 200, body
        version = int(headers["rung-version"])
        assert np.frombuffer(body, np.float32).tolist() == [version + 1.0] * 4
        return version

    register(1)
    served = serve(tmp_path / "repository", env=QUICK)
    with Load(served.port, ask) as load:
        for version in range(2, swaps + 2):
            until(lambda last=version - 1: load.errors or (load.seen and load.seen[-1] == last))
            register(version)
        until(lambda: load.errors or load.seen[-1] == swaps + 1)
    assert load.errors == []
    assert set(load.seen) == set(range(1, swaps + 2))
    until(lambda: [one["state"] for one in index(served.port)] == ["UNAVAILABLE"] * swaps + ["READY"])


def test_a_request_in_flight_finishes_on_the_version_that_began_it(serve, call, tmp_path):
    code = """
import pathlib, time
class M:
    inputs = {"x": ("FP32", [-1, 1])}
    outputs = {"y": ("FP32", [-1, 1])}
    def predict(self, x):
        if x[0, 0] == 7:
            pathlib.Path("entered").touch()
            while not pathlib.Path("go").exists():
                time.sleep(0.01)
        return {"y": x * FACTOR}
"""
    file = tmp_path / "changing.py"
    file.write_text(code.replace("FACTOR", "2"))
    served = serve("changing:M", env=QUICK)
    slow, other = call(served.port), call(served.port)
    x = np.array([[7]], np.float32).tobytes()
    slow.connection.request("POST", "/predict/m", x, RAW)
    until((tmp_path / "entered").exists)

    file.write_text(code.replace("FACTOR", "30"))
    until(lambda: sorted(one["state"] for one in index(served.port)) == ["READY", "UNLOADING"])
    body = other.post("/predict/m", np.ones(1, np.float32).tobytes())[2]
    assert np.frombuffer(body, np.float32)[0] == 30
    (tmp_path / "go").touch()
    status, _, body = slow._answer()
    assert (status, np.frombuffer(body, np.float32)[0]) == (200, 14)
    until(lambda: len(psutil.Process(served.process.pid).children()) == 1)


def test_the_index_says_why_a_version_is_refused(serve, call, tmp_path):
    store = DiskStore(tmp_path / "repository")
    model = models.scale(tmp_path / "m.onnx", 2.0)
    catalog.register(store, model, name="m")
    served = serve(tmp_path / "repository", env={**QUICK, "RUNG_LOAD_RETRIES": "0"})
    bad = tmp_path / "repository" / "m" / "2" / "model.onnx"
    bad.parent.mkdir()
    bad.write_bytes(model.read_bytes()[:-20])
    refused = until(lambda: next((one for one in index(served.port)[1:] if one["state"] == "UNAVAILABLE"), None))
    assert "model.onnx cannot be loaded" in refused["reason"] or "cut short" in refused["reason"]
    caller = call(served.port)
    status, headers, _ = caller.post("/predict/m", ONES.tobytes())
    assert (status, headers["rung-version"]) == (200, "1")
    status, _, body = caller.get("/v2/models/m/versions/2")
    assert status == 503
    assert refused["reason"] in json.loads(body)["error"]
    assert caller.get("/readyz")[0] == 200


# --- starting and ending ------------------------------------------------------------------------


GATED = """
import os, pathlib, time

def gate(name):
    pathlib.Path(name + ".entered").write_text(str(os.getpid()))
    while not pathlib.Path(name + ".open").exists():
        time.sleep(0.01)

class Gated:
    inputs = {"x": ("FP32", [-1, 1])}
    outputs = {"y": ("FP32", [-1, 1])}
    def load(self):
        gate("load")
    def predict(self, x):
        if x[0, 0] == 7:
            gate("predict")
        return {"y": x * 2}
"""


@pytest.fixture
def starting(serve, tmp_path):
    """A server whose class is being loaded: its port, its process, and the result of `serve`."""
    (tmp_path / "gated.py").write_text(GATED)
    before = {child.pid for child in psutil.Process().children()}
    results = []

    def run():
        try:
            results.append(serve("gated:Gated"))
        except AssertionError as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until((tmp_path / "load.entered").exists)
    process = next(child for child in psutil.Process().children() if child.pid not in before)
    port = next(one.laddr.port for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN)
    yield port, process, results
    (tmp_path / "load.open").touch()
    thread.join()


def test_the_port_is_open_and_says_not_ready_until_the_models_are(starting, call, tmp_path):
    port, _, results = starting
    caller = call(port)
    assert caller.get("/livez")[0] == 200
    assert caller.get("/v2/health/live")[0] == 200
    status, headers, body = caller.get("/readyz")
    assert (status, json.loads(body)["problems"]) == (503, ["gated: loading"])
    assert "retry-after" in {name.lower() for name in headers}
    for path in ("/v2/health/ready", "/v2/models/gated/ready", "/v2/models/gated"):
        assert caller.get(path)[0] == 503
    status, _, body = caller.post("/predict/gated", np.ones(1, np.float32).tobytes())
    assert (status, json.loads(body)) == (503, {"error": "model 'gated' is being loaded"})

    (tmp_path / "load.open").touch()
    until(lambda: results)
    for path in ("/readyz", "/v2/health/ready", "/v2/models/gated/ready"):
        assert caller.get(path)[0] == 200


def test_sigterm_while_a_model_loads_ends_at_once(starting, tmp_path):
    _, process, results = starting
    worker = psutil.Process(int((tmp_path / "load.entered").read_text()))
    process.send_signal(signal.SIGTERM)
    until(lambda: results, 10)
    assert "exit code 0" in str(results[0])
    until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, 5)


def test_draining_says_so_answers_what_is_owed_and_leaves(serve, call, tmp_path):
    (tmp_path / "gated.py").write_text(GATED)
    (tmp_path / "load.open").touch()
    served = serve("gated:Gated")
    slow, other = call(served.port), call(served.port)
    assert other.get("/readyz")[0] == 200
    slow.connection.request("POST", "/predict/gated", np.array([7], np.float32).tobytes(), RAW)
    until((tmp_path / "predict.entered").exists)

    served.process.send_signal(signal.SIGTERM)
    until(lambda: "draining" in served.stderr())
    status, headers, body = other.get("/readyz")
    assert (status, json.loads(body)["problems"]) == (503, ["the server is draining"])
    assert headers["connection"] == "close"
    until(lambda: refuses(served.port))
    (tmp_path / "predict.open").touch()
    status, headers, body = slow._answer()
    assert (status, np.frombuffer(body, np.float32).tolist()) == (200, [14.0])
    assert headers["connection"] == "close"
    assert served.process.wait(20) == 0


def refuses(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


# --- classes of the user's own ------------------------------------------------------------------

HAZARDS = """
import os, time
class Hazards:
    inputs = {"x": ("FP32", [-1, 1])}
    outputs = {"y": ("FP32", [-1, 1]), "pid": ("INT64", [-1, 1])}
    def predict(self, x):
        if (x == 13).any():
            os._exit(3)
        if (x == 14).any():
            time.sleep(600)
        if (x == 15).any():
            time.sleep(0.05)
        return {"y": x * 2, "pid": [[os.getpid()]] * len(x)}
"""


@pytest.fixture
def hazards(tmp_path):
    (tmp_path / "hazards.py").write_text(HAZARDS)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "other.py").write_text(HAZARDS.replace("Hazards", "Other"))


def double(caller, value, name="hazards"):
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [value]}]}
    status, _, answer = caller.post(f"/v2/models/{name}/infer", json.dumps(body), {"Content-Type": "application/json"})
    answer = json.loads(answer)
    if status != 200:
        return status, answer["error"]
    outputs = {output["name"]: output["data"][0] for output in answer["outputs"]}
    return status, outputs["y"], outputs["pid"]


@pytest.mark.usefixtures("hazards")
def test_classes_are_served_by_module_and_by_file(serve, call):
    served = serve("hazards:Hazards", "sub/other.py:Other")
    caller = call(served.port)
    status, answer, pid = double(caller, 4)
    assert (status, answer) == (200, 8)
    assert pid != served.process.pid
    assert double(caller, 5, "other")[:2] == (200, 10)
    status, _, body = caller.get("/v2/models/hazards")
    assert json.loads(body)["platform"] == "python"


@pytest.mark.usefixtures("hazards")
def test_a_crash_fails_the_request_that_caused_it_and_no_other(serve, call):
    served = serve("hazards:Hazards")
    caller = call(served.port)

    def ask(caller):
        status, answer, *_ = double(caller, 15)
        assert (status, answer) == (200, 30)

    with Load(served.port, ask) as load:
        until(lambda: load.seen)
        status, error = double(caller, 13)
        assert status == 500
        assert "exit code 3" in error or "status 3" in error
        count = len(load.seen)
        until(lambda: load.errors or len(load.seen) > count + 20)
    assert load.errors == []


@pytest.mark.usefixtures("hazards")
def test_nothing_is_lost_when_the_worker_is_killed_under_load(serve):
    served = serve("hazards:Hazards")
    killed = set()

    def ask(caller):
        status, answer, *pid = double(caller, 15)
        assert (status, answer) == (200, 30), answer
        return pid[0]

    with Load(served.port, ask) as load:
        for _ in range(2):
            pid = until(lambda: load.errors or next((pid for pid in load.seen[-1:] if pid not in killed), None))
            assert load.errors == []
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        until(lambda: load.errors or load.seen[-1] not in killed)
    assert load.errors == []
    assert len(set(load.seen)) == 3


@pytest.mark.usefixtures("hazards")
def test_a_call_that_hangs_is_ended_and_the_next_one_works(serve, call):
    served = serve("hazards:Hazards", env={"RUNG_HANG_SECONDS": "0.5"})
    caller = call(served.port)
    first = double(caller, 1)[2]
    status, error = double(caller, 14)
    assert status == 500
    assert "no answer within 0.5 seconds" in error
    status, answer, second = double(caller, 2)
    assert (status, answer) == (200, 4)
    assert first != second
    until(lambda: len(psutil.Process(served.process.pid).children()) == 1)


@pytest.mark.usefixtures("hazards")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_worker_goes_with_the_server(serve, call, number):
    served = serve("hazards:Hazards")
    worker = psutil.Process(double(call(served.port), 1)[2])
    served.process.send_signal(number)
    until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, 5)
    assert served.process.wait(5) == (-9 if number is signal.SIGKILL else 0)
