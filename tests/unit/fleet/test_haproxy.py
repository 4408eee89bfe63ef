"""The configuration before a real HAProxy, and which requests it asks again."""

import socket
import subprocess

import msgspec
import pytest

from rung.app.replica import Replica
from rung.fleet.haproxy import CERTIFICATE, configuration, find_program, may_repeat
from rung.protocols.exchange import Route
from rung.settings import ProjectSettings, ServeSettings
from rung.settings.front import FrontSection

CHANGES = {
    "/feedback",
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
