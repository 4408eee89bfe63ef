"""Asking a model later, as a caller meets it: a project that is up, and whatever dies in it."""

import hashlib
import hmac
import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import numpy as np
import orjson
import pytest

from rung.store.access import KeyStore
from rung.store.blobs import DiskStore

from .projects import Project

SECRET = "0123456789abcdef"


def item(number: int) -> dict[str, Any]:
    """A row whose answer tells it from all others."""
    return {"rows": [[float(number)] + [0.0] * 15], "id": str(number)}


def answer_of(url: str, numbers: list[int]) -> dict[int, Any]:
    """What the data port answers now."""
    rows = [[float(number)] + [0.0] * 15 for number in numbers]
    reply = httpx2.post(f"{url}/predict/tiny", json={"rows": rows}, timeout=60)
    return dict(zip(numbers, reply.json()["predictions"], strict=True))


def submit(project: Project, numbers: list[int], headers: dict[str, str] | None = None, **more: Any) -> str:
    body = {"items": [item(number) for number in numbers], **more}
    reply = httpx2.post(f"{project.control}/models/tiny/jobs", json=body, headers=headers, timeout=60)
    assert reply.status_code == 202, reply.text
    return str(reply.json()["id"])


def shown(project: Project, request: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = httpx2.get(
        f"{project.control}/models/tiny/jobs/{request}", headers=headers, timeout=60
    ).json()
    return found


def results(project: Project, request: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after: int | None = -1
    while after is not None:
        page = httpx2.get(
            f"{project.control}/models/tiny/jobs/{request}/results", params={"after": after}, timeout=60
        ).json()
        found += page["results"]
        after = page["next"]
    return found


def settle(project: Project, *requests: str) -> None:
    project.until(lambda: all(shown(project, one)["state"] != "open" for one in requests))


def configure(project: Project, text: str) -> None:
    with (project.folder / "rung.toml").open("a") as file:
        file.write(text)


class Hook(BaseHTTPRequestHandler):
    """Refuses the first call, takes the second."""

    seen: list[tuple[dict[str, str], bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        type(self).seen.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(500 if len(type(self).seen) == 1 else 204)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.mark.timeout(240)
def test_each_item_is_answered_and_whoever_asked_is_told(project):
    hook = type("OwnHook", (Hook,), {"seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), hook)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    configure(project, "\n[offline]\nallow_private = true\n")
    try:
        project.up(RUNG_OFFLINE_CALLBACK_SECRET=SECRET)
        expected = answer_of(project.url, list(range(50)))
        body = {"items": [*map(item, range(50)), {"rows": [[1.0]], "id": "short"}]}
        body["callback"] = f"http://127.0.0.1:{server.server_address[1]}/"
        request = httpx2.post(f"{project.control}/models/tiny/jobs", json=body, timeout=60).json()["id"]
        with httpx2.stream("GET", f"{project.control}/models/tiny/jobs/{request}/events", timeout=60) as stream:
            events = [line for line in stream.iter_lines() if line.startswith("event")]
        assert events[-1] == "event: end"
        found = results(project, request)
        assert {int(one["id"]): one["answer"]["predictions"][0] for one in found[:50]} == expected
        assert {one["version"] for one in found[:50]} == {1}
        assert found[50]["state"] == "failed"
        assert "16" in found[50]["error"]
        project.until(lambda: len(hook.seen) == 2)
        (first, told), (second, again) = hook.seen
        assert first["rung-delivery"] == second["rung-delivery"]
        signed = second["rung-timestamp"].encode() + b"." + again
        assert second["rung-signature"] == "sha256=" + hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
        assert told == again
        said = orjson.loads(again)
        assert (said["id"], said["counts"]) == (request, {"done": 50, "failed": 1})
        # Pictures, masks and tensors travel as bytes.
        row = np.zeros(16, np.float32).tobytes()
        headers = {"content-type": "application/octet-stream"}
        raw = httpx2.post(
            f"{project.control}/models/tiny/jobs?accept=application/octet-stream", content=row, headers=headers
        ).json()["id"]
        settle(project, raw)
        one = httpx2.get(f"{project.control}/models/tiny/jobs/{raw}/results/0")
        assert one.headers["content-type"].startswith("application/octet-stream")
        assert one.content == httpx2.post(f"{project.url}/predict/tiny", content=row, headers=headers).content
        assert project.end() == 0
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.timeout(240)
def test_where_keys_are_asked_for_workers_have_their_own(project):
    keys = KeyStore(DiskStore(project.folder / ".rung/access"))
    tokens = {name: keys.create(name, at=time.time(), by="test", quota=3)[0] for name in ("ann", "bob")}
    keys.create("root", at=time.time(), by="test", role="admin")
    ann, bob = ({"authorization": f"Bearer {tokens[name]}"} for name in ("ann", "bob"))
    project.up()
    request = submit(project, [1, 2, 3], ann)
    project.until(lambda: shown(project, request, ann)["state"] == "ended")
    assert shown(project, request, ann)["counts"] == {"done": 3}
    assert "error" in shown(project, request, bob)
    more = httpx2.post(f"{project.control}/models/tiny/jobs", json={"items": [item(4)]}, headers=ann, timeout=60)
    assert (more.status_code, "quota of 3" in more.json()["error"]) == (429, True)
    assert int(more.headers["retry-after"]) > 0
    assert project.predict() == 401
    assert project.end() == 0


@pytest.mark.timeout(240)
def test_what_waits_survives_a_restart_of_everything(project):
    project.up(RUNG_WORKERS_COUNT="0")
    request = submit(project, list(range(20)), idempotency_key="night")
    expected = answer_of(project.url, list(range(20)))
    project.end(signal.SIGKILL)
    project.up()
    assert submit(project, list(range(20)), idempotency_key="night") == request
    settle(project, request)
    assert {int(one["id"]): one["answer"]["predictions"][0] for one in results(project, request)} == expected
    assert project.end() == 0


def flow(project: Project, count: int, kills: int, replicas: int) -> None:
    """Let `count` items flow, some in order, while workers, control plane and replicas are killed at random."""
    rng = random.Random(count)
    most, wanted = {"front": 0, "control": 4}, kills
    configure(project, "\n[offline]\nlease_seconds = 2\n")
    project.up("--replicas", str(replicas), RUNG_WORKERS_COUNT="2")
    expected: dict[int, Any] = {}
    for start in range(0, count, 500):
        expected |= answer_of(project.url, list(range(start, min(start + 500, count))))
    requests: dict[str, list[int]] = {}
    size = 100
    every = max(count // size // (kills + 1), 1)
    killed: Counter[str] = Counter()

    def kill() -> None:
        nonlocal kills
        # Whatever ends five times in a row is started again only after a minute.
        victims = [
            one for one in project.state()["roles"] if one["pid"] and killed[one["name"]] < most.get(one["role"], 99)
        ]
        if not victims:
            return  # all of them are being started again
        victim = rng.choice(victims)
        with suppress(ProcessLookupError):
            os.kill(victim["pid"], signal.SIGKILL)
        killed[victim["name"]] += 1
        kills -= 1

    for number, start in enumerate(range(0, count, size)):
        numbers = list(range(start, min(start + size, count)))
        key = {"key": f"k{number % 2}", "priority": 0} if number % 5 == 0 else {"priority": number % 2}
        name = f"r{number}"
        while True:
            try:
                request = submit(project, numbers, idempotency_key=name, **key)
                break
            except (httpx2.HTTPError, OSError):
                time.sleep(0.05)  # the control plane is being started again
        requests[request] = numbers
        if number and kills and number % every == 0:
            kill()

    def all_ended() -> bool:
        open_ = [one for one in requests if shown(project, one)["state"] == "open"]
        if kills and open_:
            kill()
            time.sleep(0.5)
        return not open_

    deadline = time.monotonic() + 60 + count / 20
    while True:
        try:
            if all_ended():
                break
        except (httpx2.HTTPError, OSError):
            pass
        assert time.monotonic() < deadline, project.log
        time.sleep(0.1)
    for request, numbers in requests.items():
        found = results(project, request)
        assert [int(one["id"]) for one in found] == numbers
        assert [(one["state"], one.get("error")) for one in found] == [("done", None)] * len(numbers)
        assert [one["answer"]["predictions"][0] for one in found] == [expected[number] for number in numbers]
    assert killed.total() >= wanted * 2 // 3
    for key in (0, 1):
        line = [one for number, one in enumerate(requests) if number % 5 == 0 and number % 2 == key]
        ends = [one["finished"] for request in line for one in results(project, request)]
        assert ends == sorted(ends), "items of a key end in their order, over all requests"
    assert project.end() == 0
    with sqlite3.connect(project.folder / ".rung/rung.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()


@pytest.mark.timeout(400)
def test_whatever_is_killed_each_item_has_one_answer(project):
    flow(project, 1500, kills=3, replicas=1)


@pytest.mark.nightly
@pytest.mark.timeout(3000)
def test_ten_thousand_items_and_thirty_kills(project):
    flow(project, 10_000, kills=30, replicas=2)
