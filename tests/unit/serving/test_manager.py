import asyncio
import time
from contextlib import asynccontextmanager

import numpy as np
import pytest

from rung.catalog.source import FileSource
from rung.domain.errors import BundleError, ModelError, NotFound, NotReady
from rung.domain.models import VersionState
from rung.domain.predictions import Request
from rung.ports import LoadOptions
from rung.serving.assembly import ManagerOptions
from rung.serving.feed import Feed
from rung.serving.manager import Manager
from rung.serving.policies import Policy
from rung.testing.scripted import ScriptedModel

pytestmark = pytest.mark.asyncio

X = np.ones((1, 2), np.float32)


@asynccontextmanager
async def managing(*sources, **options):
    # Turns are taken by hand: its own next look is an hour away.
    manager = Manager(list(sources), ManagerOptions(**{"poll_seconds": 3600, **options}))
    try:
        await manager.open()
        yield manager
    finally:
        await manager.close()


async def settle(manager):
    await manager._turn()
    while manager._work:
        await asyncio.wait(manager._work)
        await manager._turn()


def states(manager):
    return [(status.version, status.state, status.reason) for status in manager.statuses()]


async def test_models_are_closed_when_the_manager_is(source):
    model = source.offer("m", 1)
    async with managing(source) as manager:
        await manager.find("m").predict(Request({"x": X}))
        assert not model.closed
    assert model.closed


async def test_before_the_sources_have_said_what_there_is_a_model_is_not_unknown(source):
    source.offer("a", 1)
    manager = Manager([source], ManagerOptions())
    with pytest.raises(NotReady, match="'a' may be among those that are being looked for"):
        manager.find("a")


async def test_what_find_says(source):
    source.offer("a", 1)
    source.offer("a", 3)
    source.offer("bad", 2, BundleError("its bytes are wrong"))
    async with managing(source) as manager:
        assert manager.find("a").manifest.version == 3
        for asked, error, words in [
            (("b", None), NotFound, "unknown model 'b'; there are \\['a'\\]"),
            (("b", 1), NotFound, "unknown model 'b'"),
            (("a", 1), NotFound, "model 'a' has no version 1 here; there are \\[3\\]"),
            (("a", 2), NotFound, "model 'a' has no version 2 here"),
            (("bad", None), NotReady, "model 'bad' version 2 is not served: its bytes are wrong"),
            (("bad", 2), NotReady, "its bytes are wrong"),
        ]:
            with pytest.raises(error, match=words):
                manager.find(*asked)
        with pytest.raises(NotFound):
            manager.versions("b")
        with pytest.raises(NotFound):
            manager.statistics("b")
        with pytest.raises(NotFound):
            manager.statistics("a", 1)
        assert [(one.name, one.version) for one in manager.statistics()] == [("a", 3)]
        assert not manager.ready()
        assert manager.problems() == ["bad: its bytes are wrong"]


async def test_an_unexpected_error_stops_one_version_only(source):
    source.offer("a", 1)
    source.offer("b", 1, RuntimeError("a bug"))
    async with managing(source) as manager:
        assert manager.versions("a") == [1]
        with pytest.raises(NotReady, match="RuntimeError: a bug"):
            manager.find("b")


async def test_failed_loads_are_tried_again_so_often_and_no_more(source, monkeypatch):
    tries = []
    fetch = source.fetch
    monkeypatch.setattr(source, "fetch", lambda version: tries.append(version.version) or fetch(version))
    source.offer("m", 1)
    source.offer("m", 2, BundleError("no"))
    async with managing(source, policy=Policy(retries=2)) as manager:
        for _ in range(5):
            await settle(manager)
        assert tries == [2, 2, 2, 1]
        assert states(manager) == [(1, VersionState.AVAILABLE, ""), (2, VersionState.END, "no")]


async def test_a_version_that_hung_is_not_tried_again_until_it_is_asked_for(tmp_path, monkeypatch):
    (tmp_path / "stuck.py").write_text(
        "import time\n\n\nclass Model:\n"
        "    inputs = {'x': ('FP32', (-1, 2))}\n    outputs = {'y': ('FP32', (-1, 2))}\n\n"
        "    def predict(self, x):\n        time.sleep(3600)\n"
    )
    source = FileSource("stuck:Model", "m", tmp_path)
    tries = []
    fetch = source.fetch
    monkeypatch.setattr(source, "fetch", lambda version: tries.append(version) or fetch(version))
    options = {"load": LoadOptions(hang_after=1.0, search_path=str(tmp_path)), "policy": Policy(retries=2)}
    async with managing(source, **options) as manager:
        (status,) = manager.statuses()
        assert status.state is VersionState.END
        assert "gave no answer within 1 seconds" in status.reason
        assert "set hang_seconds (RUNG_HANG_SECONDS) higher" in status.reason
        for _ in range(3):
            await settle(manager)
        assert len(tries) == 1
        with pytest.raises(BundleError, match="hang_seconds"):
            await manager.bring("m")
        assert len(tries) == 2


async def test_tables_do_not_grow(source):
    async with managing(source, empty_seconds=0) as manager:
        for version in range(1, 20):
            source.offered.clear()
            source.offer("m", version)
            await settle(manager)
        assert states(manager) == [(19, VersionState.AVAILABLE, "")]
        assert len(manager._origin) <= 2
        source.offered.clear()
        await settle(manager)
        await settle(manager)
        assert manager.statuses() == []


async def test_draining_is_said_and_models_still_answer(source):
    source.offer("m", 1)
    async with managing(source) as manager:
        assert manager.ready()
        manager.drain()
        assert not manager.ready()
        assert manager.problems() == ["the server is draining"]
        assert (await manager.find("m").predict(Request({"x": X}))).version == 1


async def test_nothing_to_serve_is_not_ready(source):
    async with managing(source, poll_seconds=0.001) as manager:
        assert not manager.ready()
        assert manager.problems() == ["no model was found"]


async def test_a_model_between_two_versions_is_not_unknown(source):
    source.offer("m", 1)
    async with managing(source, policy=Policy(swap="resources")) as manager:
        manager.find("m").batcher.inflight += 1
        old = manager.find("m")
        source.offer("m", 2)
        await manager._turn()
        with pytest.raises(NotReady, match="'m' is between two versions"):
            manager.find("m")
        assert not manager.ready()
        old.batcher.release()
        await settle(manager)
        assert manager.find("m").manifest.version == 2


async def test_a_version_that_does_not_drain_is_unloaded_in_the_end(source, monkeypatch):
    monkeypatch.setattr("rung.serving.manager._DRAIN", 0.01)
    model = source.offer("m", 1)
    async with managing(source) as manager:
        manager.find("m").batcher.inflight += 1
        source.offer("m", 2)
        await settle(manager)
        assert model.closed
        assert manager.versions("m") == [2]


class Wide(ScriptedModel):
    """Takes 20 ms, or `factor` of that on several threads."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor
        self.threads = 0

    def predict(self, inputs, threads=1):
        self.threads = threads
        time.sleep(0.02 * (self.factor if threads > 1 else 1))
        return {"y": inputs["x"]}


@pytest.mark.parametrize(("factor", "threads"), [(0.2, 2), (5.0, 1)])
async def test_a_lone_call_is_spread_only_where_that_pays(source, factor, threads):
    model = source.offer("m", 1, Wide(factor))
    async with managing(source, lanes=2, load=LoadOptions(threads=2)) as manager:
        await manager.find("m").predict(Request({"x": X}))
    assert model.threads == threads


async def test_a_feed_keeps_what_was_said(source):
    now = [0.0]
    feed = Feed(source, 5.0, lambda: now[0])
    source.error = NotReady("the bucket does not answer")
    with pytest.raises(NotReady):
        feed.read()
    source.error = None
    assert feed.read() == [], "nothing at first is nothing"
    source.offer("m", 1)
    said = feed.read()
    assert [one.version for one in said] == [1]
    source.error = ModelError("whatever")
    assert feed.read() == said
    source.error = None
    source.offered.clear()
    assert feed.read() == said
    now[0] = 4.9
    assert feed.read() == said
    now[0] = 5.1
    assert feed.read() == []
    source.offer("m", 2)
    assert [one.version for one in feed.read()] == [2]


async def test_emptiness_is_counted_from_anew_each_time(source):
    now = [0.0]
    feed = Feed(source, 5.0, lambda: now[0])
    source.offer("m", 1)
    said = feed.read()
    for start in (0.0, 4.0, 8.0):
        now[0] = start
        source.offered.clear()
        assert feed.read() == said
        source.offered.extend(said)
        assert feed.read() == said
