"""The guard of the data port: who gets in, who is paced, and that it is not there where nobody made a key."""

import asyncio
import gzip

import pytest

from rung.domain.access import Key, Revocation, Ring, write_token
from rung.domain.errors import Forbidden, NotReady, Overloaded, Unauthenticated
from rung.domain.predictions import Call
from rung.domain.quotas import Others
from rung.protocols.access import Guard, check_model
from rung.protocols.exchange import Head, Reply, Route
from rung.protocols.router import Router


async def answer(head, body, call):
    return Reply(200, body)


ROUTES = [
    Route("POST", "/predict/{model}", answer),
    Route("POST", "/invocations", answer),
    Route("GET", "/livez", answer, needs="open"),
    Route("POST", "/load/{model}", answer, needs="deployer"),
]


def made(number: int = 1, **fields) -> tuple[str, Key]:
    token, key_id, digest = write_token(bytes([number] * 5), bytes([number] * 32))
    return token, Key(id=key_id, digest=digest, **{"name": f"key-{number}", **fields})


class Door:
    """A guard before a router."""

    def __init__(self, ring: Ring | None = None, **options) -> None:
        self.guard = Guard(**options)
        self.router = Router(ROUTES, self.guard)
        if ring is not None:
            self.guard.use(ring)

    def head(self, path: str = "/predict/m", token: str = "", method: str = "POST", **headers: str) -> Head:
        given = {name.replace("_", "-").encode(): text.encode() for name, text in headers.items()}
        if token:
            given[b"authorization"] = f"Bearer {token}".encode()
        head = Head(method, path, "", given)
        self.router.resolve(head, path)
        return head

    def ask(self, head: Head, body: bytes = b"x", arrived: float = 100.0) -> Call:
        call = Call(arrived, head.headers, body)
        reply = asyncio.run(run(head, body, call))
        assert reply.status == 200
        call.body = reply.body
        return call


async def run(head, body, call):
    return await head.endpoint(head, body, call)


def test_without_a_key_of_a_caller_no_head_is_touched():
    door = Door(Ring([made(role="admin")[1]]))

    assert not door.guard.active
    assert door.head().endpoint is answer


def test_a_key_is_asked_for_from_the_first_one_on():
    token, key = made()
    door = Door(Ring())
    cleared = []
    door.guard.on_change = lambda: cleared.append(True)
    assert door.head().endpoint is answer

    door.guard.use(Ring([key]))

    assert cleared
    with pytest.raises(Unauthenticated, match="Bearer KEY"):
        door.ask(door.head())
    call = door.ask(door.head(token=token))
    assert (call.caller, call.scope, call.tester) == (key.id, (), False)
    door.ask(door.head(x_api_key=token))
    assert door.head("/livez", method="GET").endpoint is answer
    for path in ("/nothing", "/livez"):
        with pytest.raises(Unauthenticated):
            door.ask(door.head(path))


def test_before_the_keys_are_read_nobody_is_let_in():
    door = Door()
    assert door.head().endpoint is answer
    door.guard.wait()
    with pytest.raises(NotReady, match="have not been read"):
        door.ask(door.head(token=made()[0]))
    assert door.head("/livez", method="GET").endpoint is answer


def test_a_key_may_be_required_before_there_is_one():
    door = Door(Ring(), required=True)
    with pytest.raises(Unauthenticated):
        door.ask(door.head())


def test_a_remembered_head_and_one_under_way_end_with_their_key():
    token, key = made()
    door = Door(Ring([key]))
    head = door.head(token=token)
    door.ask(head)

    door.guard.use(Ring([key], [Revocation(id=key.id, at=0.0)]))

    for one in (head, door.head(token=token)):
        with pytest.raises(Unauthenticated, match="revoked"):
            door.ask(one)
    door.guard.use(Ring())
    with pytest.raises(Unauthenticated, match="no longer here"):
        door.ask(head)


def test_a_key_expires_without_a_change_of_the_files(monkeypatch):
    token, key = made(expires=1000.0)
    ring = Ring([key])
    monkeypatch.setattr("rung.protocols.access.time", lambda: 999.0)
    door = Door(ring)
    head = door.head(token=token)
    door.ask(head)

    monkeypatch.setattr("rung.protocols.access.time", lambda: 1000.0)
    door.guard.use(ring)

    for one in (head, door.head(token=token)):
        with pytest.raises(Unauthenticated, match="expired"):
            door.ask(one)


def test_a_key_is_for_its_models_and_its_role():
    token, key = made(models=("m",))
    deployer, other = made(2, role="deployer")
    door = Door(Ring([key, other]))

    assert door.ask(door.head(token=token)).scope == ("m",)
    with pytest.raises(Forbidden, match="not for the model 'n'"):
        door.ask(door.head("/predict/n", token))
    call = door.ask(door.head("/invocations", token))
    check_model(call, "m")
    with pytest.raises(Forbidden, match="not for the model 'n'"):
        check_model(call, "n")
    with pytest.raises(Forbidden, match="takes the role deployer"):
        door.ask(door.head("/load/m", token))
    door.ask(door.head("/load/m", deployer))


def test_an_operator_may_pick_an_arm():
    (caller, one), (operator, other) = made(1), made(2, role="operator")
    ring = Ring([one, other])

    assert Door(ring).ask(Door(ring).head(token=operator, rung_arm="canary")).tester
    with pytest.raises(Forbidden, match="rung-arm takes the role operator"):
        Door(ring).ask(Door(ring).head(token=caller, rung_arm="canary"))
    Door(ring).ask(Door(ring, any_arm=True).head(token=caller, rung_arm="canary"))


def test_a_caller_is_paced_and_told_when_to_come_again():
    token, key = made(rate=2.0, burst=2)
    other, free = made(2)
    door = Door(Ring([key, free]))
    head, theirs = door.head(token=token), door.head(token=other)

    door.ask(head)
    door.ask(door.head("/invocations", token))  # another head, one bucket
    with pytest.raises(Overloaded, match="over its 2 requests a second") as caught:
        door.ask(head)
    assert caught.value.retry_after == pytest.approx(0.5, abs=1e-3)
    door.ask(theirs)
    door.ask(head, arrived=100.5)
    assert (door.guard.grants[key.id].calls, door.guard.grants[key.id].over) == (3, 1)


def test_several_replicas_share_a_rate():
    token, key = made(rate=8.0, burst=8)
    door = Door(Ring([key]))
    head = door.head(token=token)
    door.guard.use(Ring([key]), replicas=4)

    for _ in range(2):
        door.ask(head)
    with pytest.raises(Overloaded):
        door.ask(head)
    door.ask(head, arrived=100.5)


def test_a_quota_is_let_through_as_far_as_it_was_claimed_and_begins_anew_with_the_day(monkeypatch):
    token, key = made(quota=6)
    ring = Ring([key])
    monkeypatch.setattr("rung.protocols.access.time", lambda: 86_400.0 * 7 + 86_000)
    door = Door()
    door.guard.resume(7, {key.id: 1})
    door.guard.use(ring)
    assert door.guard.propose(2) == (7, {key.id: 1}, {key.id: 4})
    head = door.head(token=token)
    with pytest.raises(Overloaded, match="shared out anew each second") as caught:
        door.ask(head)  # it was not read yet whether that fits
    assert caught.value.retry_after == 1.0
    door.guard.settle({key.id: Others(spent=2, claimed=3)})
    with pytest.raises(Overloaded, match="shared out anew"):
        door.ask(head)
    assert door.guard.propose(2) == (7, {key.id: 1}, {key.id: 3})
    door.guard.settle({key.id: Others(spent=2, claimed=3)})
    for _ in range(2):
        door.ask(head)
    with pytest.raises(Overloaded, match="shared out anew"):
        door.ask(head)
    door.guard.propose(2)
    door.guard.settle({key.id: Others(spent=3, claimed=3)})

    with pytest.raises(Overloaded, match="used up its 6 requests of today") as caught:
        door.ask(head)
    assert caught.value.retry_after == pytest.approx(400)
    assert door.guard.leave() == (7, {key.id: 3}, {key.id: 3})

    monkeypatch.setattr("rung.protocols.access.time", lambda: 86_400.0 * 8 + 1)
    door.guard.use(ring)
    door.guard.propose(1)
    door.guard.settle({})
    for _ in range(6):
        door.ask(head)
    with pytest.raises(Overloaded):
        door.ask(head)
    assert door.guard.leave() == (8, {key.id: 6}, {key.id: 6})


def test_nothing_is_unpacked_for_whoever_is_refused():
    token, key = made(rate=1.0)
    door = Door(Ring([key]), max_body=100)
    packed = gzip.compress(b"hello")
    head = door.head(token=token, content_encoding="gzip")

    assert head.coding == b""  # the door leaves it to the guard
    assert door.ask(head, packed).body == b"hello"
    with pytest.raises(Overloaded):
        door.ask(head, b"no gzip at all")
    with pytest.raises(Unauthenticated):
        door.ask(door.head(content_encoding="gzip"), b"no gzip at all")


def test_who_comes_with_a_token_is_let_in_until_it_expires(monkeypatch):
    visitors = {
        "a.b.c": Key(id="oidc:1", digest="", name="ana", models=("m",), expires=1000.0),
        "d.e.f": Key(id="oidc:2", digest="", name="ben", role="deployer", expires=2000.0),
    }

    def read(token: str, now: float) -> Key:
        if token not in visitors:
            raise Unauthenticated("this token's signature is not the issuer's")
        return visitors[token]

    monkeypatch.setattr("rung.protocols.access.time", lambda: 999.0)
    door = Door(Ring(tokens=read))
    head = door.head(token="a.b.c")
    call = door.ask(head)
    assert (call.caller, call.scope, call.tester) == ("oidc:1", ("m",), False)
    assert door.ask(door.head("/load/n", "d.e.f")).caller == "oidc:2"
    with pytest.raises(Forbidden, match="not for the model 'n'"):
        door.ask(door.head("/predict/n", "a.b.c"))
    for token in ("x.y.z", "", "no token"):
        with pytest.raises(Unauthenticated):
            door.ask(door.head(token=token))
    # They are counted, all together.
    assert {key: grant.calls for key, grant in door.guard.grants.items()} == {"oidc:": 2}

    door.guard.use(Ring(tokens=read))
    monkeypatch.setattr("rung.protocols.access.time", lambda: 1000.0)
    with pytest.raises(Unauthenticated, match="has expired"):
        door.ask(head)  # its head was remembered
    door.guard.use(Ring([made()[1]]))
    with pytest.raises(Unauthenticated, match="no longer taken here"):
        door.guard.grants["oidc:"].admit(Call(0.0, {}, b""))
