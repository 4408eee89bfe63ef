"""Who gets through to the control API: every route of its document with every role, and what is remembered of it."""

import time

import msgspec
import pytest

from rung.api.application import document
from rung.domain.access import ROLES, allows
from rung.domain.errors import NotReady
from rung.store.access import KeyStore
from rung.store.blobs import open_store

KEY = "a-key-that-nobody-guesses"
OPERATIONS = [
    (method.upper(), path, operation["x-rung-role"])
    for path, operations in document()["paths"].items()
    for method, operation in operations.items()
]


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.fixture
def tokens(services):
    """Role -> a key of it."""
    return {role: services.keys.create(role, at=time.time(), by="test", role=role)[0] for role in ROLES}


def concrete(path: str) -> str:
    values = {"model": "tiny", "version": "1", "job": "1", "key": "nobody", "request": "0" * 23, "place": "0"}
    for name, value in values.items():
        path = path.replace(f"{{{name}}}", value)
    return path


# --- the matrix ---------------------------------------------------------------------------------------


def test_every_route_with_every_role(open_api, services, tokens):
    api = open_api(services)
    seen = set()
    for method, path, needs in OPERATIONS:
        # Broken on purpose: a role is looked at before what was sent is.
        send = {"method": method, "url": concrete(path), "content": b"{" if method == "POST" else None}
        stranger = api.request(**send)
        assert (stranger.status_code == 401) == (needs != "open"), (method, path)
        for role in ROLES:
            reply = api.request(**send, headers=bearer(tokens[role]))
            seen.add(reply.status_code)
            assert (reply.status_code == 403) == (not allows(role, needs)), (method, path, role)
            assert reply.status_code not in (401, 500), (method, path, role, reply.text)
            if reply.status_code == 403:
                assert reply.json()["error"] == f"this takes the role {needs}, and the key {role!r} has the role {role}"
    assert {200, 400, 403, 404} <= seen
    assert {needs for *_, needs in OPERATIONS} == {"open", *ROLES}


def test_what_changes_something_takes_more_than_looking_and_keys_take_an_admin():
    for method, path, needs in OPERATIONS:
        if method != "GET" and not path.startswith("/models/{model}/jobs"):
            assert needs in ("operator", "deployer", "admin"), path
        if path.startswith(("/keys", "/audit")):
            assert needs == "admin", path
    roles = {path: needs for method, path, needs in OPERATIONS if method == "POST"}
    assert (roles["/models/{model}/promote"], roles["/models/{model}/rollback"]) == ("deployer", "operator")


def test_a_scope_holds_for_moves_and_jobs(open_api, services):
    token, _ = services.keys.create("spam", at=time.time(), by="test", role="deployer", models=("spam",))
    api = open_api(services)

    refused = api.post("/models/tiny/promote", json={"version": 1}, headers=bearer(token))
    assert (refused.status_code, services.repository.list("releases")) == (403, [])
    assert "not for the model 'tiny'" in refused.json()["error"]
    assert api.post("/models/spam/promote", json={"version": 1}, headers=bearer(token)).status_code == 404


def test_kinds_of_jobs_that_take_more_than_an_operator(open_api, services, tokens):
    api = open_api(msgspec.structs.replace(services, kinds=frozenset({"echo", "models.train", "predictions.erase"})))

    def submit(role: str, kind: str) -> int:
        return api.post("/jobs", json={"kind": kind}, headers=bearer(tokens[role])).status_code

    assert [submit(role, "echo") for role in ("operator", "deployer")] == [200, 200]
    assert [submit(role, "models.train") for role in ("operator", "deployer")] == [403, 200]
    assert [submit(role, "predictions.erase") for role in ("deployer", "admin")] == [403, 200]


# --- keys ---------------------------------------------------------------------------------------------


def test_with_keys_every_path_but_the_probes_wants_one(open_api, services):
    keys = KeyStore(open_store("memory:"), ("another-key-of-theirs", KEY))
    api = open_api(msgspec.structs.replace(services, keys=keys))

    for path in ("/models", "/status", "/openapi.json", "/nothing"):
        for header in ({}, bearer(f"{KEY}x"), {"authorization": f"Basic {KEY}"}):
            reply = api.get(path, headers=header)
            assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
            assert "key" in reply.json()["error"]
    assert api.get("/models", headers={"authorization": f"bearer {KEY}"}).status_code == 200
    assert api.get("/healthz").status_code == 200
    assert api.get("/readyz").status_code == 200
    # Who has a key may come under any name: a proxy may stand between.
    assert api.get("/models", headers={**bearer(KEY), "host": "example.org"}).status_code == 200


def test_a_key_of_a_caller_leaves_the_control_api_as_it_was(open_api, services):
    services.keys.create("web", at=time.time(), by="test")
    assert open_api(services).get("/models").status_code == 200


def test_a_key_is_made_used_and_ended_over_the_api(open_api, services):
    root, _ = services.keys.create("root", at=time.time(), by="test", role="admin")
    api = open_api(services)

    made = api.post("/keys", json={"name": "ana", "role": "viewer"}, headers=bearer(root))
    token = made.json()["key"]
    assert (made.status_code, made.json()["shown"]["by"]) == (200, "root")
    until(lambda: api.get("/models", headers=bearer(token)).status_code == 200)
    assert token not in api.get("/keys", headers=bearer(root)).text

    began = time.monotonic()
    assert api.post("/keys/ana/revoke", json={"reason": "left"}, headers=bearer(root)).status_code == 200
    until(lambda: api.get("/models", headers=bearer(token)).status_code == 401)
    assert time.monotonic() - began < 5.0
    shown = {key["name"]: key["ended"] for key in api.get("/keys", headers=bearer(root)).json()}
    assert shown["root"] == ""
    assert "revoked" in shown["ana"]


def test_keys_that_cannot_be_read_let_nobody_in_and_those_read_before_stay(open_api, services):
    class Away(KeyStore):
        away = True

        def ring(self):
            if self.away:
                raise NotReady("the bucket is away")
            return super().ring()

    keys = Away(open_store("memory:"), (KEY,))
    api = open_api(msgspec.structs.replace(services, keys=keys))
    reply = api.get("/models", headers=bearer(KEY))
    assert (reply.status_code, reply.json()["error"]) == (503, "the keys cannot be read: the bucket is away")
    keys.away = False
    assert api.get("/models", headers=bearer(KEY)).status_code == 200


# --- what is remembered -------------------------------------------------------------------------------


def test_every_change_leaves_a_line_and_a_look_none(open_api, services, tokens):
    api = open_api(services)
    api.get("/models", headers=bearer(tokens["viewer"]))
    api.post("/models/tiny/promote", json={"version": 1}, headers=bearer(tokens["viewer"]))
    api.post("/models/tiny/promote", json={"version": 9}, headers=bearer(tokens["deployer"]))
    moved = api.post("/models/tiny/promote", json={"version": 1}, headers=bearer(tokens["deployer"]))
    api.post("/models/tiny/promote", json={"version": 1})

    lines = api.get("/audit", headers=bearer(tokens["admin"])).json()
    assert [(line["outcome"], line.get("by", ""), line.get("role", "")) for line in reversed(lines)] == [
        ("refused", "viewer", "viewer"),
        ("failed", "deployer", "deployer"),
        ("done", "deployer", "deployer"),
        ("refused", "", ""),
    ]
    assert {line["what"] for line in lines} == {"POST /models/tiny/promote"}
    assert lines[3]["why"] == "this takes the role deployer, and the key 'viewer' has the role viewer"
    assert moved.json()["move"]["by"] == "deployer"
    named = api.post("/models/tiny/promote", json={"version": 2, "by": "ana"}, headers=bearer(tokens["deployer"]))
    assert named.json()["move"]["by"] == "ana (key deployer)"


def test_strangers_cannot_write_the_audit_log_full(open_api, services, tokens):
    api = open_api(services)
    for _ in range(130):
        api.post("/jobs")
    assert 100 <= len(list(services.audit.read())) < 125


def until(true) -> None:
    deadline = time.monotonic() + 10.0
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- without keys -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:8080"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example:8080"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "localhost:8080", "origin": "http://localhost:8080"}, 200),
        ({"host": "localhost:8080", "origin": "http://localhost:9090"}, 403),
    ],
)
def test_without_keys_a_web_page_is_kept_out(api, headers, status):
    assert api.get("/models", headers=headers).status_code == status


def test_a_form_of_a_web_page_moves_nothing(api):
    reply = api.post("/models/tiny/release", content='{"version": 1}', headers={"content-type": "text/plain"})

    assert reply.status_code == 400
    assert api.get("/releases").json() == []


def test_a_body_without_a_length_is_cut_off(api):
    def chunks():
        for _ in range(40):
            yield b" " * (64 << 10)

    assert api.post("/jobs", content=chunks()).status_code == 413
