"""How a replica follows the keys of its project, and which role each of its routes takes."""

import asyncio
import re
import time
from contextlib import suppress

import pytest

from rung.app.access import Following
from rung.app.replica import Replica
from rung.domain.access import allows
from rung.domain.errors import NotReady, Overloaded
from rung.domain.predictions import Call
from rung.protocols.access import Guard
from rung.protocols.exchange import Head, Route
from rung.settings import ServeSettings
from rung.store.access import KeyStore
from rung.store.blobs import DiskStore

PROBES = r"/(livez|readyz|loadz|metrics|ping|health|version)$|^/v2/health/|/ready$|/stats$|^/monitoring/"
CHANGES = {
    "/v2/repository/models/{model}/load": "deployer",
    "/v2/repository/models/{model}/unload": "deployer",
    "/models": "deployer",
    "/models/{model}": None,
    "/models/{model}/{version}": None,
    "/models/{model}/{version}/set-default": "deployer",
    "/v2/logging": "operator",
    "/v2/trace/setting": "operator",
    "/v2/models/{model}/trace/setting": "operator",
}


def routes(node: dict) -> list[Route]:
    found = list(node.get("\0methods", {}).values())
    return found + [route for key, below in node.items() if key != "\0methods" for route in routes(below)]


def test_every_route_of_the_data_port_takes_a_role_that_fits():
    replica = Replica([], ServeSettings(port=0))
    every = routes(replica.door.memory.router._tree)

    assert len(every) > 50
    for route in every:
        name = f"{route.method} {route.pattern}"
        if re.search(PROBES, route.pattern):
            assert route.needs == "open", name
        elif route.method in ("PUT", "DELETE") or (route.method == "POST" and route.pattern in CHANGES):
            assert allows(route.needs, "operator"), name
            assert route.needs == CHANGES[route.pattern] or CHANGES[route.pattern] is None, name
        else:
            assert route.needs == "caller", name


# --- following ----------------------------------------------------------------------------------------


class Away(KeyStore):
    away = False

    def ring(self):
        if self.away:
            raise NotReady("the bucket is away")
        return super().ring()


def keys(tmp_path) -> Away:
    return Away(DiskStore(tmp_path / "access"))


def status(guard: Guard, token: str) -> str:
    head = Head("POST", "/predict/m", "", {b"x-api-key": token.encode()})
    guard.look_at(head, "caller")
    return type(head.refused).__name__


@pytest.mark.asyncio
async def test_keys_that_cannot_be_read_keep_the_door_shut_until_they_can(tmp_path):
    store, guard = keys(tmp_path), Guard()
    token, _ = store.create("web", at=time.time(), by="test")
    store.away = True
    following = Following(store, guard, "replica-1", lambda: 1)
    await following.open()
    assert guard.active
    assert (status(guard, token), guard.unread) == ("NotReady", "the keys cannot be read: the bucket is away")

    store.away = False
    await following._look()
    assert status(guard, token) == "NoneType"
    # What was read before holds while the store is away again.
    store.away = True
    await following._look()
    assert status(guard, token) == "NoneType"
    await following.close()


def use(guard: Guard, token: str, most: int) -> int:
    """How many of so many requests are let through."""
    head = Head("POST", "/predict/m", "", {b"x-api-key": token.encode()})
    guard.look_at(head, "caller")
    grant, passed = guard.grants[token.split("_")[1]], 0
    for _ in range(most):
        with suppress(Overloaded):
            grant.admit(Call(0.0, {}, b""))
            passed += 1
    return passed


@pytest.mark.asyncio
async def test_replicas_let_a_quota_through_together_and_over_a_restart(tmp_path):
    token, _ = keys(tmp_path).create("web", at=time.time(), by="test", quota=90)
    guards = [Guard(), Guard()]
    followers = [Following(keys(tmp_path), guard, f"r{n}", lambda: 1, sharers=1) for n, guard in enumerate(guards)]
    for following in followers:
        await following.open()

    passed = [use(guard, token, 100) for guard in guards]
    assert passed == [45, 45]
    for following in followers:
        await following._look()
    assert [use(guard, token, 100) for guard in guards] == [0, 0]

    # One that is started again has let through what it had.
    await followers[0].close()
    again = Guard()
    following = Following(keys(tmp_path), again, "r0", lambda: 1)
    await following.open()
    assert use(again, token, 100) == 0
    await following.close()
    await followers[1].close()


@pytest.mark.asyncio
async def test_what_one_replica_does_not_use_another_gets(tmp_path):
    token, _ = keys(tmp_path).create("web", at=time.time(), by="test", quota=90)
    guards = [Guard(), Guard()]
    followers = [Following(keys(tmp_path), guard, f"r{n}", lambda: 2) for n, guard in enumerate(guards)]
    for following in followers:
        await following.open()
    passed = 0
    for _ in range(16):
        passed += use(guards[0], token, 100)
        for following in reversed(followers):
            await following._look()
    assert 88 <= passed <= 90
    # It ends and leaves the rest.
    await followers[1].close()
    for _ in range(4):
        await followers[0]._look()
        passed += use(guards[0], token, 100)
    assert passed == 90
    await followers[0].close()


class Full(KeyStore):
    """Takes no claim."""

    full = False

    def spend(self, replica, mine, day):
        if self.full and mine is not None:
            raise OSError("the disk is full")
        return super().spend(replica, mine, day)


@pytest.mark.asyncio
async def test_a_claim_that_cannot_be_written_counts_for_nothing(tmp_path):
    token, _ = keys(tmp_path).create("web", at=time.time(), by="test", quota=10)
    store, guard = Full(DiskStore(tmp_path / "access")), Guard()
    store.full = True
    following = Following(store, guard, "r0", lambda: 1)
    await following.open()
    await following._look()
    assert use(guard, token, 20) == 0
    store.full = False
    await following._look()
    assert use(guard, token, 20) == 10
    await following.close()


@pytest.mark.asyncio
async def test_a_revoked_key_is_refused_within_five_seconds(tmp_path):
    store, guard = keys(tmp_path), Guard()
    token, _ = store.create("web", at=time.time(), by="test")
    following = Following(keys(tmp_path), guard, "r", lambda: 1)
    await following.open()
    assert status(guard, token) == "NoneType"

    store.revoke("web", at=time.time(), by="test")
    async with asyncio.timeout(5.0):
        while status(guard, token) == "NoneType":
            await asyncio.sleep(0.01)
    await following.close()
