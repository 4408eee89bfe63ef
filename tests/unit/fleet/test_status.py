import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import orjson
import pytest

from rung.catalog import models as catalog
from rung.catalog import releases
from rung.domain.errors import NotReady
from rung.fleet.state import RoleState, UpState, started_at, write_state
from rung.fleet.status import observe
from rung.store.blobs import DiskStore
from rung.testing.models import tiny

METRICS = """
rung_duplicate_ratio{model="tiny",version="2"} 0.31
rung_duplicate_cache_bytes{model="tiny",version="2"} 6.7108864e+07
rung_duplicate_saved_seconds_per_minute{model="tiny",version="2"} 4.25
rung_log_shed_total{model="tiny",reason="buffer full"} 12.0
rung_log_failing{reason="disk: No space left on device"} 1.0
"""


@pytest.fixture
def replica():
    """What a replica with two versions answers."""
    counts = {"success": {"count": 7}, "fail": {"count": 3}}
    pages = {
        "/v2/models/stats": {
            "model_stats": [{"name": "tiny", "version": str(v), "inference_stats": counts} for v in (1, 2)]
        },
        "/readyz": {"ready": False, "problems": ["other: it is being loaded"]},
    }

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            body = METRICS.encode() if self.path == "/metrics" else orjson.dumps(pages[self.path])
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def repository(tmp_path):
    store = DiskStore(tmp_path / "repository")
    for _ in range(2):
        catalog.register(store, tiny(tmp_path / "tiny.onnx"), name="tiny")
    return store


def up(folder, url):
    (folder / ".rung").mkdir()
    pid = os.getpid()
    mine = {"pid": pid, "started": started_at(pid), "since": 1.0}
    roles = [
        RoleState(name="control", role="control", state="broken", reason="ended by SIGSEGV", restarts=9),
        RoleState(name="replica-1", role="replica", state="ready", url=url, **mine),
        RoleState(name="replica-2", role="replica", state="ready", url="http://127.0.0.1:1", **mine),
    ]
    write_state(folder, UpState(project="p", url="http://127.0.0.1:8000", roles=roles, **mine))


def test_the_whole_project_is_put_together(tmp_path, repository, replica):
    up(tmp_path, replica)
    releases.release(repository, "tiny", 1, by="t")
    releases.release(repository, "tiny", 2, percent=5, by="t")

    status = observe(tmp_path, "p", repository, lambda: {"echo": {"ready": 1, "dead": 2}})

    assert [(one.name, one.state, one.restarts) for one in status.roles] == [
        ("supervisor", "ready", 0),
        ("control", "broken", 9),
        ("replica-1", "ready", 0),
        ("replica-2", "ready", 0),
    ]
    assert status.roles[2].rss >= status.roles[2].pss > 0
    arms = [(one.version, one.arm, one.share, one.loaded, one.requests, one.failures) for one in status.models]
    assert arms == [
        (1, "stable", 90.0, ["replica-1"], 10, 3),
        (1, "baseline", 5.0, ["replica-1"], 10, 3),
        (2, "canary", 5.0, ["replica-1"], 10, 3),
    ]
    assert status.jobs == {"echo": {"ready": 1, "dead": 2}}
    assert status.advice == [
        (
            "31% of the requests to tiny version 2 repeat an earlier one: "
            'cache = "64MiB" in [models.tiny.serve] would save 4.2 s of computation per minute'
        )
    ]
    assert status.problems[0] == "control is broken (it ended five times in a row): ended by SIGSEGV"
    assert status.problems[1] == "replica-1: other: it is being loaded"
    assert status.problems[2:4] == [
        "replica-1: 12 records of tiny are missing from the prediction log: buffer full",
        "replica-1: the prediction log cannot be written: disk: No space left on device",
    ]
    assert status.problems[4].startswith("replica-2: it does not answer: ")
    assert status.problems[5] == "2 jobs are dead: `rung jobs list --state dead`"


def test_what_is_away_is_a_problem_and_no_error(tmp_path, repository):
    class Away:
        def list(self, prefix=""):
            raise NotReady("the bucket is out of reach")

    def locked():
        raise NotReady("the database is locked")

    status = observe(tmp_path, "p", Away(), locked)
    assert not status.up
    assert status.problems == [
        "the repository cannot be read: the bucket is out of reach",
        "the jobs cannot be counted: the database is locked",
    ]
    status = observe(tmp_path, "p", repository, dict)
    assert [(one.version, one.role, one.share) for one in status.models] == [(2, "latest", 100.0)]
    assert status.problems == []


def test_a_killed_supervisor_is_told_from_a_running_one(tmp_path, repository):
    (tmp_path / ".rung").mkdir()
    write_state(tmp_path, UpState(project="p", pid=os.getpid(), started=1, since=1.0))

    status = observe(tmp_path, "p", repository, dict)
    assert (status.up, status.roles) == (False, [])
    assert "was killed" in status.problems[0]
