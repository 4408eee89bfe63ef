"""Versions that come, go and fail, in a manager over real repositories with real models."""

import asyncio
import threading
from pathlib import Path
from time import monotonic

import numpy as np
import psutil
import pytest

from rung.catalog import models as catalog
from rung.catalog.source import RepositorySource, open_source
from rung.domain.errors import ConfigurationError, NotFound, NotReady
from rung.domain.models import VersionState
from rung.domain.predictions import Request
from rung.serving.assembly import ManagerOptions
from rung.serving.manager import Manager
from rung.serving.policies import Policy
from rung.store.blobs import DiskStore
from rung.testing import models

pytestmark = pytest.mark.asyncio

ONES = np.ones((1, 4), np.float32)


async def test_a_version_registered_while_serving_takes_over(manage, root, register):
    register(2.0)
    async with manage(root) as manager:
        assert await manager.ask() == (1, 2.0)
        register(3.0)
        await manager.until(lambda: manager.serves(2))
        assert await manager.ask() == (2, 3.0)
        with pytest.raises(NotFound, match=r"has no version 1 here; there are \[2\]"):
            manager.find("m", 1)


async def test_the_old_version_stays_until_its_last_handle_is_returned(manage, root, register):
    register(2.0)
    async with manage(root) as manager:
        old = manager.find("m")
        old.batcher.inflight += 1
        register(3.0)
        await manager.until(lambda: manager.states().get(1) is VersionState.UNLOADING)
        assert await manager.ask() == (2, 3.0)
        await manager.turns()
        assert manager.states() == {1: VersionState.UNLOADING, 2: VersionState.AVAILABLE}
        response = await old.predict(Request({"x": ONES}, 1, arrived=monotonic()))
        assert (response.version, response.outputs["y"][0, 0]) == (1, 2.0)
        old.batcher.release()
        await manager.until(lambda: manager.serves(2))


async def test_nobody_notices_swaps(manage, root, register):
    factors = {register(2.0): 2.0}
    async with manage(root) as manager:
        seen = set()
        stop = asyncio.Event()

        async def caller():
            while not stop.is_set():
                version, factor = await manager.ask()
                assert factors[version] == factor
                seen.add(version)
                await asyncio.sleep(0)

        callers = [asyncio.ensure_future(caller()) for _ in range(8)]
        for factor in (3.0, 4.0, 5.0):
            factors[max(factors) + 1] = factor
            number = await asyncio.to_thread(register, factor)
            await manager.until(lambda number=number: manager.serves(number))
        stop.set()
        await asyncio.gather(*callers)
        assert seen == {1, 2, 3, 4}


async def test_deleting_a_version_brings_back_the_one_before(manage, root, store, register):
    register(2.0)
    register(3.0)
    async with manage(root) as manager:
        assert await manager.ask() == (2, 3.0)
        catalog.delete(store, "m", 2)
        await manager.until(lambda: manager.serves(1))
        assert await manager.ask() == (1, 2.0)


async def test_deleting_the_last_version_of_one_model_leaves_the_other_and_stays_ready(manage, root, store, register):
    register(2.0)
    register(5.0, "n")
    async with manage(root) as manager:
        catalog.delete(store, "m", 1, force=True)
        await manager.until(lambda: not manager.states())
        with pytest.raises(NotFound, match=r"unknown model 'm'; there are \['n'\]"):
            manager.find("m")
        assert await manager.ask("n") == (1, 5.0)
        assert manager.ready()


async def test_deleting_everything_unloads_it_after_a_while(manage, root, store, register):
    register(2.0)
    async with manage(root, empty_seconds=0.2) as manager:
        catalog.delete(store, "m", 1, force=True)
        await manager.turns(3)
        assert await manager.ask() == (1, 2.0)
        await manager.until(lambda: not manager.statuses())
        assert not manager.ready()
        assert manager.problems() == ["no model was found"]


async def test_two_models_come_and_go_on_their_own(manage, root, register):
    register(2.0, "a")
    register(3.0, "b")
    async with manage(root) as manager:
        assert await manager.ask("a") == (1, 2.0)
        assert await manager.ask("b") == (1, 3.0)
        register(4.0, "b")
        await manager.until(lambda: manager.serves(2, name="b"))
        assert await manager.ask("a") == (1, 2.0)
        assert await manager.ask("b") == (2, 4.0)


async def test_a_model_that_appears_does_not_touch_readiness(manage, root, register):
    register(2.0)
    async with manage(root) as manager:
        bad = root / "other" / "1"
        bad.mkdir(parents=True)
        (bad / "model.onnx").write_bytes(b"not a model")
        unready = []
        async with asyncio.timeout(30):
            while manager.states("other").get(1) is not VersionState.END:
                unready += [] if manager.ready() else [manager.problems()]
                await asyncio.sleep(0)
        assert unready == []
        with pytest.raises(NotReady, match=r"other.*not served.*model\.onnx cannot be loaded"):
            manager.find("other")


async def test_two_targets_of_one_name_are_refused(manage, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        models.scale(tmp_path / folder / "m.onnx", 2.0)
    with pytest.raises(ConfigurationError, match="two of the things to serve are called 'm'"):
        async with manage(tmp_path / "a" / "m.onnx", tmp_path / "b" / "m.onnx"):
            pass


# --- policies ---


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (Policy(), [4]),
        (Policy(versions=2), [3, 4]),
        (Policy(keep="all"), [1, 2, 3, 4]),
        (Policy(pin=(1, 3)), [1, 3]),
    ],
    ids=["latest", "latest 2", "all", "pinned"],
)
async def test_versions_kept(manage, root, register, policy, kept):
    for factor in (2.0, 3.0, 4.0, 5.0):
        register(factor)
    async with manage(root, policy=policy) as manager:
        assert manager.versions("m") == kept
        for version in kept:
            assert await manager.ask(version=version) == (version, version + 1.0)
        assert (await manager.ask())[0] == max(kept)


@pytest.mark.parametrize("swap", ["availability", "resources"])
async def test_a_swap_keeps_answers_or_memory(manage, root, register, swap):
    register(2.0)
    async with manage(root, policy=Policy(swap=swap)) as manager:
        register(3.0)
        held, gaps = set(), 0
        async with asyncio.timeout(30):
            while not manager.serves(2):
                now = [s for s in manager.states().values() if s not in (VersionState.START, VersionState.END)]
                held.add(len(now))
                try:
                    await manager.ask()
                except NotReady:  # never that there is no such model
                    gaps += 1
                await asyncio.sleep(0)
        assert await manager.ask() == (2, 3.0)
        if swap == "resources":
            assert max(held) == 1, "the new one is loaded when the old one has gone"
        else:
            assert gaps == 0


# --- repositories in trouble ---


class Flaky:
    """A store that answers as told."""

    def __init__(self, inner):
        self._inner = inner
        self.error = None

    def __getattr__(self, name):
        if self.error is not None:
            raise self.error
        return getattr(self._inner, name)


@pytest.mark.parametrize("error", [NotReady("the bucket does not answer"), OSError(5, "Input/output error")], ids=repr)
async def test_an_unreadable_repository_takes_nothing_away(manage, store, register, tmp_path, error):
    register(2.0)
    flaky = Flaky(store)
    async with manage(RepositorySource(flaky, tmp_path / "cache")) as manager:
        flaky.error = error
        register(3.0)
        await manager.turns()
        assert await manager.ask() == (1, 2.0)
        assert manager.ready()
        flaky.error = None
        await manager.until(lambda: manager.serves(2))


async def test_one_unreadable_repository_does_not_hold_up_the_other(manage, store, register, tmp_path):
    register(2.0)
    flaky = Flaky(store)
    other = DiskStore(tmp_path / "other")
    catalog.register(other, tmp_path / "next.onnx", name="n")
    async with manage(RepositorySource(flaky, tmp_path / "cache"), tmp_path / "other") as manager:
        flaky.error = NotReady("the bucket does not answer")
        catalog.register(other, tmp_path / "next.onnx", name="n")
        await manager.until(lambda: manager.serves(2, name="n"))
        assert await manager.ask() == (1, 2.0)


async def test_a_folder_that_is_moved_away_for_a_moment_takes_nothing_away(manage, root, register):
    register(2.0)
    async with manage(root) as manager:
        root.rename(root.with_name("aside"))
        await manager.turns()
        assert await manager.ask() == (1, 2.0)
        root.with_name("aside").rename(root)
        loaded = manager.find("m")
        await manager.turns()
        assert manager.find("m") is loaded, "nothing was loaded again"


async def test_a_version_whose_bytes_could_not_be_reached_is_tried_again(
    manage, store, register, tmp_path, monkeypatch
):
    monkeypatch.setattr("rung.serving.manager._FORGIVE", 0.3)
    register(2.0)
    source = RepositorySource(store, tmp_path / "cache")
    async with manage(source, policy=Policy(retries=0)) as manager:
        fetch = source.fetch
        broken = Flaky(store)
        broken.error = NotReady("the bucket does not answer")
        source.fetch = RepositorySource(broken, tmp_path / "cache").fetch
        register(3.0)
        await manager.until(lambda: manager.states().get(2) is VersionState.END)
        assert await manager.ask() == (1, 2.0)
        source.fetch = fetch
        await manager.until(lambda: manager.serves(2))


# --- leaving nothing behind ---

SLOW = """
import os, time, pathlib
class Slow:
    inputs = {"x": ("FP32", [-1, 4])}
    outputs = {"y": ("FP32", [-1, 4])}
    def load(self):
        pathlib.Path(__file__).with_suffix(".pid").write_text(str(os.getpid()))
        time.sleep(600)
    def predict(self, x):
        return {"y": x}
"""


async def test_closing_does_not_wait_for_a_load(tmp_path, monkeypatch):
    (tmp_path / "slow_class.py").write_text(SLOW)
    monkeypatch.chdir(tmp_path)
    manager = Manager([open_source("slow_class.py:Slow", None, tmp_path)], ManagerOptions(poll_seconds=0.02))
    opening = asyncio.ensure_future(manager.open())
    pid = tmp_path / "slow_class.pid"
    async with asyncio.timeout(30):
        while not (pid.exists() and pid.read_text()):
            await asyncio.sleep(0.01)
    assert manager.problems() == ["slow: loading"]
    assert not manager.ready()
    with pytest.raises(NotReady, match="'slow' is being loaded"):
        manager.find("slow")
    opening.cancel()
    async with asyncio.timeout(5):
        await manager.close()
    # Its child goes with this process; here it would outlive the test.
    psutil.Process(int(pid.read_text())).kill()


def held():
    return threading.active_count(), sum(1 for _ in Path("/proc/self/fd").iterdir())


async def cycle(manage, store, register, count):
    process = psutil.Process()
    register(1.0)
    sizes = []
    async with manage(store.root) as manager:
        for number in range(2, count + 2):
            register(float(number))
            await manager.until(lambda number=number: manager.serves(number))
            assert await manager.ask() == (number, float(number))
            catalog.delete(store, "m", number - 1)
            sizes.append(process.memory_info().rss)
            if number == 6:
                before = held()
        await manager.until(lambda: len(manager.statuses()) == 1)
        await manager.until(lambda: held()[0] <= before[0] and held()[1] <= before[1])
    return sizes


async def test_loading_and_unloading_leaves_no_thread_or_file_open(manage, store, register):
    await cycle(manage, store, register, 8)


@pytest.mark.nightly
@pytest.mark.timeout(600)
async def test_memory_is_flat_over_a_hundred_cycles(manage, store, register):
    sizes = await cycle(manage, store, register, 100)
    assert sizes[-1] - sizes[20] < 8 << 20, [size >> 20 for size in sizes]
