"""Replicas are ordered over the API as `rung scale` does, by whoever may, and a scraper is told where they are."""

import threading
import time

import httpx2
import msgspec
import pytest

from rung.fleet.orders import Order, OrderDesk, send_order
from rung.fleet.state import RoleState, UpState, read_state, write_state


@pytest.fixture
def desk(tmp_path):
    """A supervisor's desk in the folder, and the orders that it took."""
    (tmp_path / ".rung").mkdir()
    desk, taken, stop = OrderDesk(tmp_path), [], threading.Event()
    desk.open()

    def work() -> None:
        while not stop.wait(0.001):
            if (came := desk.take()) is not None:
                taken.append(came[0])
                desk.answer(came[1], "here the number of replicas does not change" if came[0].replicas == 64 else "")

    thread = threading.Thread(target=work)
    thread.start()
    yield taken
    stop.set()
    thread.join()
    desk.close()


@pytest.fixture
def project(open_api, services, tmp_path) -> httpx2.Client:
    """The API over this folder's own supervisor."""
    return open_api(
        msgspec.structs.replace(
            services, order=lambda order: send_order(tmp_path, order), state=lambda: read_state(tmp_path)
        )
    )


def up(folder, **fields) -> None:
    (folder / ".rung").mkdir(exist_ok=True)
    roles = [
        RoleState(name="control", role="control", state="ready", url="http://127.0.0.1:1"),
        RoleState(name="replica-1", role="replica", state="ready", pid=7, url="http://127.0.0.1:4001"),
        RoleState(name="replica-2", role="replica", state="starting", pid=8),
    ]
    write_state(folder, UpState(project="p", pid=1, started=1, since=1.0, roles=roles, replicas=2, **fields))


def test_an_order_is_what_rung_scale_gives_and_says_whose_key_it_was(desk, project, services, tmp_path):
    up(tmp_path, why="ana said so", by_hand=True)
    shown = project.post("/replicas", json={"replicas": 3, "by": "ana"})
    assert shown.status_code == 200
    assert (shown.json()["wanted"], shown.json()["why"], shown.json()["by_hand"]) == (2, "ana said so", True)
    assert [role["name"] for role in shown.json()["replicas"]] == ["replica-1", "replica-2"]
    assert project.post("/replicas", json={"replicas": "auto"}).status_code == 200
    assert project.post("/replicas/restart", json={}).status_code == 200
    assert desk == [Order(replicas=3, by="ana"), Order(auto=True, by="api"), Order(restart=True, by="api")]

    made = {
        role: services.keys.create(role, at=time.time(), by="test", role=role)[0] for role in ("viewer", "operator")
    }

    def scale(role: str) -> int:
        headers = {"authorization": f"Bearer {made[role]}"}
        return project.post("/replicas", json={"replicas": 2, "by": "ben"}, headers=headers).status_code

    deadline = time.monotonic() + 20
    while scale("viewer") != 403:  # keys are read once a second
        assert time.monotonic() < deadline
    assert scale("operator") == 200
    assert desk[-1] == Order(replicas=2, by="ben (key operator)")
    wanted = {("operator", "POST /replicas", "done"), ("viewer", "POST /replicas", "refused")}
    # Each is written once its answer has gone, whichever comes first.
    while {(line.by, line.what, line.outcome) for line in list(services.audit.read())[:2]} != wanted:
        assert time.monotonic() < deadline


def test_what_a_supervisor_refuses_and_where_there_is_none_is_told(desk, project, tmp_path):
    refused = project.post("/replicas", json={"replicas": 64})
    assert (refused.status_code, refused.json()["error"]) == (409, "here the number of replicas does not change")
    for replicas in (0, 65, "all", None, 1.5):
        assert project.post("/replicas", json={"replicas": replicas}).status_code == 400, replicas
    assert project.get("/replicas").status_code == 503
    assert project.get("/sd").json() == []


def test_a_scraper_finds_each_replica_that_answers(project, tmp_path):
    up(tmp_path)
    found = project.get("/sd")
    assert found.headers["content-type"] == "application/json"
    assert found.json() == [{"targets": ["127.0.0.1:4001"], "labels": {"project": "p", "replica": "replica-1"}}]
