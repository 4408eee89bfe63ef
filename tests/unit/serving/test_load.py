import asyncio
import threading

import msgspec
import numpy as np
import pytest

from rung.domain.errors import ModelError
from rung.domain.predictions import Call, Request
from rung.domain.scaling import ReplicaLoad
from rung.protocols.exchange import Head
from rung.protocols.health import Health
from rung.serving.assembly import ManagerOptions
from rung.serving.load import load_of
from rung.serving.manager import Manager
from rung.serving.recorder import BOUNDS
from rung.testing.scripted import ScriptedModel


def ask(rows: int = 1, value: float = 1.0) -> Request:
    return Request({"x": np.full((rows, 2), value, np.float32)}, rows)


def test_it_tells_what_was_answered_what_it_took_and_what_waits(source):
    model = ScriptedModel()
    model.inline = False
    source.offer("m", 1, model)
    source.offer("other", 1)

    async def run() -> tuple[ReplicaLoad, ReplicaLoad]:
        manager = Manager([source], ManagerOptions(lanes=2))
        await manager.open()
        try:
            predict = manager.find("m").predict
            for rows in (1, 2, 3):
                await predict(ask(rows))
            with pytest.raises(ModelError):
                await predict(ask(1, 2e30))
            before = load_of(manager.servables(), ready=True)
            model.gate = threading.Event()
            waiting = [asyncio.ensure_future(predict(ask())) for _ in range(5)]
            await asyncio.sleep(0)
            during = load_of(manager.servables(), ready=True)
            model.gate.set()
            await asyncio.gather(*waiting)
            return before, during
        finally:
            await manager.close()

    before, during = asyncio.run(run())
    assert set(before.models) == {"m", "other"}
    told = before.models["m"]
    assert (told.lanes, told.in_flight, told.answered, told.failed, told.refused) == (2, 0, 3, 1, 0)
    assert told.rows >= 6
    assert told.row > 0
    assert told.busy > 0
    assert sum(told.buckets) == 3
    assert len(told.buckets) == len(before.bounds) + 1 == len(BOUNDS) + 1
    assert during.models["m"].in_flight == 5
    assert during.models["m"].wait > 0
    assert during.at >= before.at
    assert during.loop >= before.loop


def test_versions_of_a_model_are_added_up(source):
    source.offer("m", 1)

    async def run() -> ReplicaLoad:
        manager = Manager([source], ManagerOptions())
        await manager.open()
        try:
            (servable,) = manager.servables()
            await servable.predict(ask())
            return load_of([servable, servable], ready=True)
        finally:
            await manager.close()

    assert asyncio.run(run()).models["m"].answered == 2


def test_the_door_gives_it_as_json():
    load = load_of([], ready=False)
    routes = {route.pattern: route.endpoint for route in Health(list, lambda _: (b"", b""), lambda: load).routes()}
    head = Head("GET", "/loadz", "", {})
    reply = asyncio.run(routes["/loadz"](head, b"", Call()))
    assert msgspec.json.decode(reply.body, type=ReplicaLoad) == load
    assert "/loadz" not in {route.pattern for route in Health(list, lambda _: (b"", b"")).routes()}
