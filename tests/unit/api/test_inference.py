"""Asking a model later over the control API; the worker is played by the test."""

import base64
import time

import msgspec
import pytest

from rung.api.inference_bodies import Options, read_items
from rung.domain.errors import InvalidInput, UnsupportedMedia
from rung.domain.messages import Outcome
from rung.jobs.brokers import QueuePlace, open_queue
from rung.offline.endings import Result, write
from rung.settings.offline import OfflineSection

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20
JOBS = "/models/tiny/jobs"


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def work(
    services, say=lambda place: Result(state="done", answer=b'{"predictions":[%d]}' % place, media="application/json")
):
    """Take all there is and end it."""
    queue = open_queue(QueuePlace("sql", "test"), services.jobs.database)
    leases = queue.take(100)
    results = {lease.message.id: say(int(lease.message.id.rpartition(".")[2])) for lease in leases}
    queue.settle([Outcome(lease) for lease in leases], lambda one, held: write(one, held, results, time.time()))


def test_a_request_is_accepted_followed_and_answered(api, services):
    reply = api.post(JOBS, json={"items": [{"rows": [[1]], "id": "a"}, [[2]]], "priority": 3})
    assert reply.status_code == 202
    asked = reply.json()
    assert reply.headers["location"] == f"{JOBS}/{asked['id']}"
    assert (asked["state"], asked["items"], asked["counts"], asked["priority"]) == ("open", 2, {"waiting": 2}, 3)
    work(services)
    url = f"{JOBS}/{asked['id']}"
    shown = api.get(url).json()
    assert (shown["state"], shown["counts"]) == ("ended", {"done": 2})
    page = api.get(f"{url}/results", params={"limit": 1}).json()
    assert page["next"] == 0
    assert (page["results"][0]["id"], page["results"][0]["answer"]) == ("a", {"predictions": [0]})
    rest = api.get(f"{url}/results", params={"after": 0}).json()
    assert (rest["next"], rest["results"][0]["answer"]) == (None, {"predictions": [1]})
    one = api.get(f"{url}/results/1")
    assert (one.text, one.headers["content-type"]) == ('{"predictions":[1]}', "application/json")
    assert [found["id"] for found in api.get(JOBS).json()] == [asked["id"]]
    assert api.get(f"/models/other/jobs/{asked['id']}").status_code == 404
    assert api.post("/models/other/jobs", json={"items": [[1]]}).status_code == 404


def test_pictures_come_as_files_or_in_base64(api, services):
    form = api.post(f"{JOBS}?priority=2&accept=image/png", files=[("file", ("a.png", PNG)), ("file", ("b.png", PNG))])
    assert (form.status_code, form.json()["items"], form.json()["priority"]) == (202, 2, 2)
    one = api.post(JOBS, content=PNG, headers={"content-type": "image/png"}).json()
    items = [{"base64": base64.b64encode(PNG).decode(), "id": "x"}]
    two = api.post(JOBS, json={"items": items}).json()
    bodies = services.jobs.database.read(
        lambda c: c.exec_driver_sql("SELECT request, name, media, body FROM rung_request_items").all()
    )
    assert {row.media for row in bodies} == {"image/png"}
    assert {bytes(row.body) for row in bodies} == {PNG}
    assert {(row.request, row.name) for row in bodies} >= {
        (two["id"], "x"),
        (one["id"], ""),
        (form.json()["id"], "b.png"),
    }
    work(services, lambda _: Result(state="done", answer=PNG, media="image/png", prediction="p", version=4))
    found = api.get(f"{JOBS}/{two['id']}/results").json()["results"][0]
    assert found["answer"] == {"base64": base64.b64encode(PNG).decode(), "type": "image/png"}
    mask = api.get(f"{JOBS}/{two['id']}/results/0")
    assert (mask.content, mask.headers["content-type"], mask.headers["rung-version"]) == (PNG, "image/png", "4")
    assert mask.headers["rung-prediction-id"] == "p"


def test_progress_is_told_until_the_end(api, services):
    asked = api.post(JOBS, json={"items": [[1]]}).json()
    events = []
    with api.stream("GET", f"{JOBS}/{asked['id']}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            events.append(line)
            if line == "event: progress":
                work(services)
    assert [line for line in events if line.startswith("event")] == ["event: progress", "event: end"]
    assert msgspec.json.decode(events[-2].removeprefix("data: "))["counts"] == {"done": 1}


def test_a_caller_deals_with_its_own_requests_and_an_operator_with_all(open_api, services):
    api = open_api(services)

    def token(name, **fields):
        return bearer(services.keys.create(name, at=time.time(), by="test", **fields)[0])

    ann, bob, eye, hand = token("ann"), token("bob"), token("eye", role="viewer"), token("hand", role="operator")
    strange = token("strange", models=("other",))
    url = f"{JOBS}/{api.post(JOBS, json={'items': [[1]]}, headers=ann).json()['id']}"
    assert [api.get(url, headers=who).status_code for who in (ann, bob, eye, hand, strange)] == [
        200,
        404,
        200,
        200,
        403,
    ]
    assert [len(api.get(JOBS, headers=who).json()) for who in (ann, bob, eye)] == [1, 0, 1]
    assert [api.get(f"{url}/{sub}", headers=bob).status_code for sub in ("results", "results/0", "events")] == [404] * 3
    assert [api.post(f"{url}/cancel", json={}, headers=who).status_code for who in (bob, eye, hand)] == [404, 404, 200]
    assert api.post(f"{url}/replay", json={"states": ["cancelled"]}, headers=ann).json()["state"] == "open"
    assert api.get("/models", headers=ann).status_code == 403
    assert list(services.audit.read()) == [], "what callers ask fills no log"


def test_what_ended_without_an_answer_says_why_and_is_replayed(api, services):
    asked = api.post(JOBS, json={"items": [[1]]}).json()
    url = f"{JOBS}/{asked['id']}"
    assert api.get(f"{url}/results/0").status_code == 503
    work(services, lambda _: Result(state="dead", error="it broke"))
    assert api.get(f"{url}/results/0").status_code == 409
    assert api.get(f"{url}/results").json()["results"][0]["error"] == "it broke"
    assert [one["id"] for one in api.get(JOBS, params={"state": "dead"}).json()] == [asked["id"]]
    assert api.post(f"{url}/replay", json={}).json()["counts"] == {"waiting": 1}
    work(services)
    assert api.get(f"{url}/results").json()["results"][0]["answer"] == {"predictions": [0]}


def test_what_is_too_large_is_refused_and_more_than_usual_is_not(api):
    row = "[" + "1," * 800_000 + "1]"
    assert (
        api.post(JOBS, content='{"items": [' + row + "]}", headers={"content-type": "application/json"}).status_code
        == 202
    )
    reply = api.post(JOBS, content=b"x" * (33 << 20), headers={"content-type": "image/png"})
    assert reply.status_code == 413
    assert api.post("/models/tiny/promote", content=b"x" * (2 << 20)).status_code == 413


def test_a_callback_takes_a_secret_and_a_public_address(open_api, services):
    offline = OfflineSection(callback_secret="0123456789abcdef")
    for section, url, why in (
        (OfflineSection(), "https://example.com/", "secret"),
        (offline, "http://example.com/", "https"),
        (offline, "https://127.0.0.1/", "private network"),
        (offline, "https://169.254.169.254/", "metadata"),
        (offline, "nonsense", "URL"),
        (offline, "https://a b/", "URL"),
    ):
        api = open_api(msgspec.structs.replace(services, offline=section))
        reply = api.post(JOBS, json={"items": [[1]], "callback": url})
        assert (reply.status_code, why in reply.json()["error"]) == (400, True), (url, reply.text)
    api = open_api(msgspec.structs.replace(services, offline=offline))
    reply = api.post(JOBS, json={"items": [[1]], "callback": "https://example.com/a?token=secret"})
    assert (reply.status_code, reply.json()["callback"]) == (202, "example.com")


@pytest.mark.parametrize(
    ("body", "media", "why"),
    [
        (b"", "application/json", "items"),
        (b"{", "application/json", "items"),
        (b"[]", "application/json", "items"),
        (b'{"rows": [1]}', "application/json", "items"),
        (b'{"items": [1], "prioriti": 3}', "application/json", "prioriti"),
        (b'{"items": [1], "priority": 0.5}', "application/json", "priority"),
        (b'{"items": [{"base64": "###"}]}', "application/json", "items"),
        (b'{"items": [{"base64": "aa==", "extra": 1}]}', "application/json", "items"),
        (b"--x\r\n", "multipart/form-data; boundary=x", "form"),
        (
            b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n1\r\n--x--',
            "multipart/form-data; boundary=x",
            "no file",
        ),
    ],
)
def test_what_cannot_be_read_says_why(body, media, why):
    with pytest.raises(InvalidInput, match=why):
        read_items(body, media, Options())


def test_a_body_says_what_it_is():
    for media in ("", "application/x-www-form-urlencoded"):
        with pytest.raises(UnsupportedMedia):
            read_items(b"x", media, Options())


def test_the_body_wins_over_the_query():
    items, options = read_items(
        b'{"items": [1], "priority": 0, "key": "k"}', "application/json", Options(priority=5, unit="u")
    )
    assert (options.priority, options.key, options.unit) == (0, "k", "u")
    assert items[0].body == b"1"


def test_large_bodies_that_do_not_fit_at_once_are_sent_again(open_api, services, monkeypatch):
    monkeypatch.setattr("rung.api.access._ROOM", 3 << 20)
    api = open_api(services)
    large = {"content": b"x" * (4 << 20), "headers": {"content-type": "image/png"}}
    reply = api.post(JOBS, **large)
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")
    large["content"] = b"x" * (2 << 20)
    assert [api.post(JOBS, **large).status_code for _ in range(3)] == [202] * 3, "what was held is given back"
