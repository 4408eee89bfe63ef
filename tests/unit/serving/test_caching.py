import asyncio
from contextlib import asynccontextmanager

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from rung.domain.errors import MissingDependency
from rung.domain.predictions import Request
from rung.serving.assembly import ManagerOptions
from rung.serving.cache import Cached, MemoryStore
from rung.serving.caching import Caching, advices, collect_cache, open_store
from rung.serving.duplicates import Metered
from rung.serving.manager import Manager
from rung.serving.policies import Policy
from rung.settings import CachePlace
from rung.telemetry import Metrics
from rung.testing.scripted import ScriptedModel


class Scaled(ScriptedModel):
    """Multiplies by a factor, on a lane."""

    inline = False

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def predict(self, inputs, threads=1):
        return {"y": super().predict(inputs, threads)["y"] * np.float32(self.factor / 2)}


def request(value: float = 1.0) -> Request:
    return Request({"x": np.full((1, 2), value, np.float32)})


@asynccontextmanager
async def managing(source, caching, **options):
    manager = Manager([source], ManagerOptions(poll_seconds=3600, cache=caching, **options))
    await manager.open()
    try:
        yield manager
    finally:
        await manager.close()


def cache(store=True, **options) -> Caching:
    return Caching(MemoryStore(1 << 20, 60.0) if store else None, 60.0, **options)


@pytest.mark.asyncio
async def test_what_is_cached_and_what_is_measured(source):
    source.offer("slow", 1, Scaled(2))
    source.offer("tiny", 1, ScriptedModel())
    kinds = {
        "all": (cache(), Cached, None),
        "named": (cache(models=["tiny"]), Metered, Cached),
        "off": (cache(store=False), Metered, None),
    }
    for caching, slow, tiny in kinds.values():
        async with managing(source, caching) as manager:
            for name, kind in (("slow", slow), ("tiny", tiny)):
                servable = manager.find(name)
                if kind is None:
                    assert servable.batcher.inline
                    assert servable.base == servable.batcher.__call__
                else:
                    assert type(servable.base) is kind
                answer = await servable.predict(request(3))
                assert answer.outputs["y"].tolist() == [[6, 6]]


@pytest.mark.asyncio
async def test_versions_side_by_side_and_one_that_changed_answer_for_themselves(source):
    models = {1: Scaled(2), 2: Scaled(3)}
    for number, model in models.items():
        source.offer("m", number, model)
    caching = cache()
    async with managing(source, caching, policy=Policy(keep="all")) as manager:
        for _ in range(3):
            for number, factor in ((1, 2), (2, 3)):
                assert (await manager.find("m", number).predict(request())).outputs["y"][0, 0] == factor
        for number in models:
            base = manager.find("m", number).base
            assert (base.misses, base.hits) == (1, 2)
        # The same name and number with other bytes, as when a file is overwritten.
        source.offered = [one for one in source.offered if one.version == 1]
        source.offer("m", 2, Scaled(5), digest="other bytes")
        for _ in range(20):
            await manager._turn()
            while manager._work:
                await asyncio.wait(manager._work)
        assert (await manager.find("m", 2).predict(request())).outputs["y"][0, 0] == 5


@pytest.mark.asyncio
async def test_what_the_metrics_say(source):
    source.offer("m", 3, Scaled(2))
    caching = cache()
    async with managing(source, caching) as manager:
        predict = manager.find("m").predict
        await asyncio.gather(*(_answer(predict) for _ in range(4)))
        for _ in range(5):
            await predict(request())
        _, text = Metrics([lambda: collect_cache(manager.servables(), caching.store)]).render()
    samples = {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }
    results = {"hit": 5, "fetched": 0, "joined": 3, "miss": 1, "bypass": 0}
    for result, count in results.items():
        assert samples["rung_cache_lookups_total", "m", result, "3"] == count
    # Triton's names: a request that waited for an equal one was not computed.
    assert samples["nv_cache_num_hits_per_model", "m", "3"] == 8
    assert samples["nv_cache_num_misses_per_model", "m", "3"] == 1
    assert samples["rung_cache_entries",] == 1
    assert 0 < samples["rung_cache_bytes",] < samples["rung_cache_limit_bytes",] == 1 << 20
    assert samples["rung_cache_hit_age_seconds_count",] == 5
    assert samples["rung_cache_backend_away",] == 0


async def _answer(predict):
    return await predict(request())


@pytest.mark.asyncio
async def test_advice_shows_where_there_is_no_cache(source):
    source.offer("m", 3, Scaled(2))
    async with managing(source, cache(store=False)) as manager:
        base = manager.find("m").base
        meter = base.meter
        now = [0.0]
        meter._clock, meter._every = (lambda: now[0]), 1
        for number in range(300):
            now[0] += 0.1
            response = await base(request(number % 3))
            response.computed = 0.05
            meter.saw(b"%d" % (number % 3), response, 1, 1e-6)
        [advice] = advices(manager.servables())
        assert (advice.model, advice.version) == ("m", 3)
        _, text = Metrics([lambda: collect_cache(manager.servables(), None)]).render()
        assert 'rung_duplicate_cache_bytes{model="m",version="3"} 1.048576e+06' in text.decode()
        assert "rung_cache_bytes" not in text.decode()


def test_the_store_that_a_setting_names(monkeypatch):
    assert open_store(CachePlace(), 60.0) is None
    assert isinstance(open_store(CachePlace(1 << 20), 60.0), MemoryStore)
    shared = open_store(CachePlace(1 << 20, "valkey://localhost:1/0"), 60.0)
    assert shared.usage().limit == 1 << 20
    monkeypatch.setitem(__import__("sys").modules, "redis.asyncio", None)
    with pytest.raises(MissingDependency, match=r"rung\[redis\]"):
        open_store(CachePlace(1 << 20, "redis://localhost:1/0"), 60.0)
