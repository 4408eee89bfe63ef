"""Releases moved while a manager serves a real repository with real models."""

import asyncio
from collections import Counter
from time import monotonic

import numpy as np
import pytest
from structlog.testing import capture_logs

from rung.catalog import releases
from rung.catalog.source import RepositorySource
from rung.domain.errors import NotReady
from rung.domain.models import VersionState
from rung.domain.predictions import Call, Request
from rung.serving.policies import Policy

pytestmark = pytest.mark.asyncio

QUICK = {"poll_seconds": 0.05}


class Counting(RepositorySource):
    """Remembers what was loaded."""

    fetched: list[int]

    def fetch(self, version):
        self.fetched.append(version.version)
        return super().fetch(version)


@pytest.fixture
def source(store, tmp_path):
    made = Counting(store, tmp_path / "cache")
    made.fetched = []
    return made


@pytest.fixture
def move(store):
    """`await move("release", 2, percent=5.0)`: what a person does, from another thread."""

    async def one(kind, *args, **how):
        return await asyncio.to_thread(getattr(releases, kind), store, "m", *args, by="ana", **how)

    return one


async def ask(manager, unit, name="m"):
    """(arm, epoch, version) that answered; the answer is that version's own."""
    call = Call(arrived=monotonic(), headers={b"rung-unit": unit.encode()}, address="127.0.0.1")
    x = np.ones((1, 4), np.float32)
    response = await manager.find(name, None, call).predict(Request({"x": x}, 1, arrived=call.arrived, call=call))
    # The fixture's versions multiply by their number + 1.
    assert float(response.outputs["y"][0, 0]) == response.version + 1.0
    return call.arm, call.epoch, response.version


def in_force(manager, epoch):
    release = manager.table.in_force("m")
    return release is not None and release.epoch == epoch


class Load:
    """Callers that ask until they are told to stop."""

    def __init__(self, manager, callers=8):
        self._manager = manager
        self.seen = Counter()
        self.failed = []
        self._stop = False
        self._callers = [asyncio.ensure_future(self._run(number)) for number in range(callers)]

    async def _run(self, number):
        count = 0
        while not self._stop:
            count += 1
            try:
                self.seen[await ask(self._manager, f"{number}-{count % 100}")] += 1
            except Exception as error:  # noqa: BLE001 - shown by whoever started it
                self.failed.append(repr(error))
            await asyncio.sleep(0)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self._stop = True
        await asyncio.gather(*self._callers)


async def test_a_release_pins_a_version_although_a_newer_one_comes(manage, source, register, move):
    for factor in (2.0, 3.0):
        register(factor)
    await move("release", 1)
    async with manage(source, **QUICK) as manager:
        assert await ask(manager, "ana") == ("stable", 1, 1)
        assert source.fetched == [1]
        await asyncio.to_thread(register, 4.0)
        await manager.turns()
        assert manager.serves(1)
        await move("release", 2)
        began = monotonic()
        await manager.until(lambda: in_force(manager, 2))
        print(f"a release took effect {(monotonic() - began) * 1e3:.0f} ms after it was written")
        assert await ask(manager, "ana") == ("stable", 2, 2)
        await manager.until(lambda: manager.serves(1, 2))


async def test_a_canary_answers_its_units_once_it_is_loaded(manage, source, register, move):
    for factor in (2.0, 3.0):
        register(factor)
    await move("release", 1)
    async with manage(source, **QUICK) as manager:
        async with Load(manager) as load:
            await move("release", 2, percent=25.0)
            await manager.until(lambda: any(arm == "canary" for arm, _, _ in load.seen))
        assert load.failed == []
        # Before epoch 2 is in force everybody has epoch 1; after it, each arm has its version.
        assert set(load.seen) <= {("stable", 1, 1), ("stable", 2, 1), ("baseline", 2, 1), ("canary", 2, 2)}
        arms = {unit: (await ask(manager, unit))[0] for unit in map(str, range(200))}
        assert 20 < Counter(arms.values())["canary"] < 80
        assert {unit: (await ask(manager, unit))[0] for unit in arms} == arms


async def test_a_canary_that_cannot_load_leaves_its_units_with_the_main_version(
    manage, source, store, root, register, move
):
    for factor in (2.0, 3.0):
        register(factor)
    await move("release", 1)
    model = root / "m" / "2" / "next.onnx"
    model.write_bytes(model.read_bytes()[:-20] + b"?" * 20)
    async with manage(source, policy=Policy(retries=1), **QUICK) as manager:
        async with Load(manager) as load:
            await move("release", 2, percent=50.0)
            await manager.until(lambda: in_force(manager, 2))
            count = load.seen.total()
            await manager.until(lambda: load.seen.total() > count + 100)
        assert load.failed == []
        assert {version for _, _, version in load.seen} == {1}
        assert {arm for arm, epoch, _ in load.seen if epoch == 2} == {"stable"}
        assert manager.table.answering["m"].missing == ("canary",)
        assert manager.ready()
        assert source.fetched.count(2) == 2


async def test_going_back_under_load_fails_nobody_and_loads_nothing(manage, source, register, move):
    for factor in (2.0, 3.0):
        register(factor)
    await move("release", 1)
    await move("release", 2)
    async with manage(source, **QUICK) as manager:
        await manager.until(lambda: manager.serves(1, 2))
        loads = list(source.fetched)
        async with Load(manager) as load:
            await manager.until(lambda: load.seen.total() > 100)
            made = await move("rollback")
            began = monotonic()
            await manager.until(lambda: in_force(manager, made.epoch))
            took = monotonic() - began
            await manager.until(lambda: load.seen["stable", made.epoch, 1] > 100)
            await manager.until(lambda: manager.serves(1))
        assert load.failed == []
        assert set(load.seen) == {("stable", 2, 2), ("stable", 3, 1)}
        assert source.fetched == loads
        print(f"a rollback took effect {took * 1e3:.0f} ms after it was written")


async def test_until_a_first_release_is_loaded_the_latest_goes_on(manage, source, register, move):
    for factor in (2.0, 3.0):
        register(factor)
    async with manage(source, **QUICK) as manager:
        assert (await manager.ask())[0] == 2
        async with Load(manager) as load:
            await move("release", 1)
            await manager.until(lambda: load.seen["stable", 1, 1] > 10)
        assert load.failed == []
        assert set(load.seen) == {("", 0, 2), ("stable", 1, 1)}


async def test_a_hundred_moves_under_load(manage, source, register, move):
    for factor in (2.0, 3.0, 4.0):
        register(factor)
    made = {}

    def note(release):
        made[release.epoch] = {arm.name: arm.version for arm in release.arms if arm.role != "shadow"}

    note(await move("release", 1))
    async with manage(source, **QUICK) as manager:
        async with Load(manager) as load:
            for turn in range(33):
                candidate = 2 + turn % 2
                note(await move("release", candidate, percent=25.0, force=True))
                if turn % 3 == 0:
                    await manager.until(lambda: in_force(manager, max(made)))
                note(await move("promote", force=True) if turn % 2 else await move("rollback"))
                note(await move("split", {1: 50, candidate: 50}, force=True))
            note(await move("release", 1, force=True))
            await manager.until(lambda: in_force(manager, max(made)))
            await manager.until(lambda: load.seen["stable", max(made), 1] > 10)
        assert load.failed == []
        assert max(made) == 101
        assert len({epoch for _, epoch, _ in load.seen}) > 10
        # No answer mixes two releases: arm and version are those of the epoch that the call was given.
        for arm, epoch, version in load.seen:
            assert made[epoch][arm] == version, (arm, epoch, version)


async def test_a_broken_ledger_keeps_the_last_known_release_and_stops_no_other_model(
    manage, source, store, register, move
):
    for factor in (2.0, 3.0):
        register(factor)
        register(factor, "n")
    await move("release", 1)
    async with manage(source, **QUICK) as manager:
        with capture_logs() as logs:
            store.put("releases/m/000000000002.json", b'{"model": "m"')
            await manager.turns()
            await asyncio.to_thread(releases.release, store, "n", 1)
            await manager.until(lambda: manager.table.in_force("n") is not None)
            await manager.turns()
        assert await ask(manager, "ana") == ("stable", 1, 1)
        said = [line for line in logs if line["action"] == "ledger_broken"]
        assert len(said) == 1
        assert "releases/m/000000000002.json cannot be read" in said[0]["reason"]
        store.delete(["releases/m/000000000002.json"])
        await move("release", 2)
        await manager.until(lambda: in_force(manager, 2))
    # A replica that starts over a broken ledger takes the last link that can be read.
    store.put("releases/m/000000000003.json", b"")
    async with manage(RepositorySource(store, store.root.parent / "cache"), **QUICK) as manager:
        assert await ask(manager, "ana") == ("stable", 2, 2)


async def test_a_replica_that_cannot_read_the_releases_at_its_start_does_not_guess(manage, source, register, move):
    for factor in (2.0, 3.0):
        register(factor)
    await move("release", 1)

    def away():
        raise NotReady("the bucket does not answer")

    source.releases = away
    with pytest.raises(NotReady, match="the bucket does not answer"):
        async with manage(source):
            pass


async def test_where_memory_is_short_one_version_is_held_at_a_time(manage, source, register, move):
    for factor in (2.0, 3.0):
        register(factor)
    await move("release", 1)
    async with manage(source, policy=Policy(swap="resources"), **QUICK) as manager:
        await move("release", 2)
        most = 0
        async with asyncio.timeout(30):
            while not (manager.serves(2) and in_force(manager, 2)):
                states = manager.states().values()
                held = [one for one in states if one not in (VersionState.START, VersionState.END)]
                most = max(most, len(held))
                await asyncio.sleep(0)
        assert most == 1
        assert await ask(manager, "ana") == ("stable", 2, 2)
        await move("rollback")
        await manager.until(lambda: manager.serves(1))
        assert await ask(manager, "ana") == ("stable", 3, 1)


async def test_a_shadow_is_compared_and_answers_nobody(manage, source, register, move):
    for factor in (2.0, 3.0):
        register(factor)
    await move("release", 1)
    records = []
    async with manage(source, report=records.append, **QUICK) as manager:
        made = await move("shadow", 2)
        await manager.until(lambda: in_force(manager, made.epoch))
        async with Load(manager, callers=2) as load:
            await manager.until(lambda: len(records) >= 20)
        assert load.failed == []
        assert set(load.seen) == {("stable", 2, 1)}
        assert {(one.version, one.candidate, one.equal, one.difference) for one in records} == {(1, 2, False, 1.0)}
        await move("rollback")
        await manager.until(lambda: manager.serves(1))
        count = len(records)
        assert await ask(manager, "ana") == ("stable", 3, 1)
        assert len(records) == count
