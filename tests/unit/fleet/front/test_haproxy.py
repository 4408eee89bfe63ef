"""The configuration before a real HAProxy, and which requests it asks again."""

import http.client
import queue
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from rung.app.replica import Replica
from rung.fleet.front.haproxy import CERTIFICATE, FOLDER, Runtime, configuration, find_program, may_repeat, socket_of
from rung.protocols.exchange import Route
from rung.settings import ProjectSettings, ServeSettings
from rung.settings.front import FrontSection

CHANGES = {
    "/models",
    "/v2/logging",
    "/v2/models/{model}/trace/setting",
    "/v2/repository/models/{model}/load",
    "/v2/repository/models/{model}/unload",
    "/v2/trace/setting",
}
"""What is not asked again once a replica may have begun with it."""


def test_every_route_is_one_that_may_be_asked_again_or_one_that_changes_something(monkeypatch):
    routes: list[Route] = []

    class Door:
        def __init__(self, found, *_, **__) -> None:
            routes.extend(found)

    monkeypatch.setattr("rung.app.replica.HttpServer", Door)
    Replica([], ServeSettings(predict_route="/answer", log=""))
    paths = {route.pattern for route in routes if route.method == "POST"} | {"/feedback"}
    filled = {path: path.replace("{model}", "m").replace("{version}", "3") for path in paths}

    assert len(paths) > 15
    assert {path for path in paths if not may_repeat("POST", filled[path], "/answer")} == CHANGES
    assert may_repeat("GET", "/anything")
    assert not any(may_repeat(method, "/predict/m") for method in ("PUT", "DELETE", "PATCH"))


@pytest.mark.parametrize(
    "settings",
    [
        ProjectSettings(),
        ProjectSettings(
            serve=ServeSettings(predict_route="/it's (mine)"), front=FrontSection(hold=0, buffer="1MiB", threads=2)
        ),
    ],
)
def test_haproxy_takes_what_is_written(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "haproxy.cfg"
    with socket.create_server(("127.0.0.1", 0)) as door:
        file.write_text(configuration(settings, door.fileno()))
        command = [find_program(settings), "-c", "-f", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, pass_fds=[door.fileno()])

    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr


def test_tls_ends_there():
    serve = msgspec.structs.replace(ServeSettings(), tls_certificate="cert.pem")

    assert f"bind fd@7 ssl crt {CERTIFICATE} " in configuration(ProjectSettings(serve=serve), 7)


def test_a_program_that_is_named_is_the_one():
    assert find_program(ProjectSettings()).endswith("haproxy")
    assert find_program(ProjectSettings(front=FrontSection(program="no-such-program"))) is None
    assert find_program(ProjectSettings(front=FrontSection(program="sh"))).endswith("/sh")


class Backend:
    """Answers `/livez`, and holds everything else until `gate` is set."""

    def __init__(self, name: str, folder: Path) -> None:
        self.asked: queue.Queue[str] = queue.Queue()
        self.gate = threading.Event()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(folder / socket_of(name)))
        self.listener.listen(16)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._answer, args=(self.listener.accept()[0],), daemon=True).start()

    def _answer(self, caller: socket.socket) -> None:
        with caller, suppress(OSError):
            path = caller.recv(65536).split(b" ")[1].decode()
            if path != "/livez":
                self.asked.put(path)
                self.gate.wait(30)
            caller.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok")

    def end(self) -> None:
        """Take no more connections."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@pytest.fixture
def haproxy(tmp_path, monkeypatch):
    """`haproxy() -> (ask, runtime)`: `ask(path)` is the answer, in a thread."""
    monkeypatch.chdir(tmp_path)
    FOLDER.mkdir(parents=True)
    door = socket.create_server(("127.0.0.1", 0))
    (tmp_path / "haproxy.cfg").write_text(configuration(ProjectSettings(), door.fileno(), 4000))
    command = [find_program(ProjectSettings()), "-db", "-f", "haproxy.cfg"]
    process = subprocess.Popen(command, pass_fds=[door.fileno()], stderr=subprocess.PIPE)
    runtime = Runtime()
    pool = ThreadPoolExecutor(8)

    def post(path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", door.getsockname()[1], timeout=30)
        connection.request("POST", path, b"x")
        status = connection.getresponse().status
        connection.close()
        return status

    until(lambda: runtime.ask("show info"))
    yield lambda path: pool.submit(post, path), runtime
    process.kill()
    process.communicate()
    pool.shutdown()
    door.close()


def until(true) -> None:
    deadline = time.monotonic() + 30
    while True:
        with suppress(OSError):
            if true():
                return
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_that_leaves_finishes_what_it_has(haproxy, tmp_path):
    ask, runtime = haproxy
    first, second = Backend("replica-1", tmp_path), Backend("replica-2", tmp_path)
    runtime.set_states([("replica-1", "ready")])
    under_way = [ask(path) for path in ("/predict/m", "/feedback")]
    assert {first.asked.get(timeout=30) for _ in under_way} == {"/predict/m", "/feedback"}
    runtime.set_states([("replica-2", "ready"), ("replica-1", "leave")])
    first.end()
    second.gate.set()
    assert {ask("/predict/m").result() for _ in range(3)} == {200}
    first.gate.set()

    assert [one.result() for one in under_way] == [200, 200]
    assert first.asked.empty()
    second.end()


def test_what_one_had_that_is_out_is_asked_again_unless_it_changes_something(haproxy, tmp_path):
    ask, runtime = haproxy
    first, second = Backend("replica-1", tmp_path), Backend("replica-2", tmp_path)
    runtime.set_states([("replica-1", "ready")])
    paths = ("/predict/m", "/feedback", "/v2/logging")
    prediction, feedback, change = (ask(path) for path in paths)
    assert {first.asked.get(timeout=30) for _ in paths} == set(paths)
    runtime.set_states([("replica-2", "ready")])
    second.gate.set()
    first.end()  # the next look at its health fails

    assert (prediction.result(), feedback.result(), change.result()) == (200, 200, 502)
    shares = {share.name: share for share in runtime.shares()}
    assert shares["replica-1"].state == "DOWN"
    assert shares["replica-2"].requests == 2
    # It is back, at the same place.
    (tmp_path / socket_of("replica-1")).unlink()
    again = Backend("replica-1", tmp_path)
    until(lambda: {share.name: share.state for share in runtime.shares()}["replica-1"] == "UP")
    again.end()
    second.end()
    first.gate.set()


def test_a_state_that_is_none_is_refused(haproxy):
    _, runtime = haproxy
    with pytest.raises(OSError, match="No such server"):
        runtime.set_states([("replica-99", "ready")])
