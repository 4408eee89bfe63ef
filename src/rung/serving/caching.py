"""Which versions keep their answers, and what `/metrics` shows of that."""

from collections.abc import Collection, Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from rung.domain.caches import CacheUsage
from rung.ports import CacheBackend, Predictor
from rung.serving.cache import AGES, AnswerKey, Cached, MemoryStore
from rung.serving.duplicates import Advice, DuplicateMeter, Metered
from rung.settings.cache import CachePlace

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from rung.serving.servable import Servable

__all__ = ["Caching", "advices", "collect_cache", "open_store"]

_TIMEOUT = 0.05
"""Seconds that a look-up beyond this process may take."""
_LABELS = ["model", "version"]


def open_store(place: CachePlace, ttl: float) -> CacheBackend | None:
    """The store that a setting names; None for none. Connections are opened when they are needed.

    Raises:
        MissingDependency: a URL needs the extra `redis`.
        ConfigurationError: the URL is wrong.
    """
    if not place.size:
        return None
    memory = MemoryStore(place.size, ttl)
    if not place.url:
        return memory
    from rung.serving.redis_cache import RedisStore, connect

    return RedisStore(connect(place.url, _TIMEOUT), memory, ttl, timeout=_TIMEOUT)


class Caching:
    """Puts a cache round a version, or a meter that says what one would save. A `serving.servable.Wrap`."""

    def __init__(
        self, store: CacheBackend | None, ttl: float, *, private: bool = False, models: Collection[str] = ()
    ) -> None:
        """`models` names those that keep answers; empty stands for all whose call costs more than a look-up."""
        self.store = store
        self._ttl = ttl
        self._private = private
        self._models = frozenset(models)

    def __call__(self, servable: "Servable", inner: Predictor) -> Predictor:
        """Round one version; a graph is left as it is, since its answer depends on what its models are by then."""
        if servable.model is None:
            return inner
        batcher = servable.batcher
        # What runs on the event loop costs less than a fingerprint: it is neither kept nor measured, unless named.
        cheap = getattr(batcher, "inline", False)
        name = batcher.recorder.statistics.name
        key = AnswerKey(servable.digest, private=self._private)
        if self.store is not None and (name in self._models if self._models else not cheap):
            # Only a manifest names its files by their bytes, on every machine alike.
            return Cached(inner, self.store, batcher, key, share=bool(servable.manifest.files))
        if cheap:
            return inner
        return Metered(inner, key, DuplicateMeter(name, batcher.recorder.statistics.version, self._ttl))


def advices(servables: Iterable["Servable"]) -> list[Advice]:
    """What a cache would do for those that have none, where it would pay."""
    meters = [one.base.meter for one in servables if isinstance(one.base, Metered)]
    return [advice for meter in meters if (advice := meter.advice()) is not None]


def collect_cache(servables: Iterable["Servable"], store: CacheBackend | None) -> Iterator["Metric"]:
    """Metric families of the cache, and of the duplicates where there is none."""
    served = list(servables)
    yield from _by_model([one.base for one in served if isinstance(one.base, Cached)])
    yield from _advised(advices(served))
    if store is not None:
        yield from _of_store(store.usage())


def _by_model(caches: list[Cached]) -> Iterator["Metric"]:
    from prometheus_client.core import CounterMetricFamily, Metric

    lookups = CounterMetricFamily(
        "rung_cache_lookups",
        "Requests to models with a cache: hit (this process), fetched (beyond it), joined (an equal one's), miss, "
        "bypass (a private cache that did not know whose).",
        labels=[*_LABELS, "result"],
    )
    # Raw metrics: the client library would append `_total` to counters, and Triton's names have none.
    hits = Metric("nv_cache_num_hits_per_model", "Number of cache hits per model", "unknown")
    misses = Metric("nv_cache_num_misses_per_model", "Number of cache misses per model", "unknown")
    for one in caches:
        labels = [one.name, str(one.version)]
        found = one.hits + one.fetched + one.joined
        counts = {"hit": one.hits, "fetched": one.fetched, "joined": one.joined, "miss": one.misses}
        for result, count in (counts | {"bypass": one.bypassed}).items():
            lookups.add_metric([*labels, result], count)
        named = dict(zip(_LABELS, labels, strict=True))
        hits.add_sample(hits.name, named, found)
        misses.add_sample(misses.name, named, one.misses)
    yield from (lookups, hits, misses)


def _advised(advised: list[Advice]) -> Iterator["Metric"]:
    from prometheus_client.core import GaugeMetricFamily

    share = GaugeMetricFamily(
        "rung_duplicate_ratio", "Requests that equalled an earlier one, where a cache would pay.", labels=_LABELS
    )
    size = GaugeMetricFamily("rung_duplicate_cache_bytes", "Size of the cache that would pay.", labels=_LABELS)
    saved = GaugeMetricFamily(
        "rung_duplicate_saved_seconds_per_minute", "Seconds of computation per minute it would save.", labels=_LABELS
    )
    for advice in advised:
        labels = [advice.model, str(advice.version)]
        share.add_metric(labels, advice.share)
        size.add_metric(labels, advice.size)
        saved.add_metric(labels, advice.saved)
    yield from (share, size, saved)


def _of_store(usage: CacheUsage) -> Iterator["Metric"]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    yield GaugeMetricFamily("rung_cache_bytes", "Bytes held in this process.", usage.bytes)
    yield GaugeMetricFamily("rung_cache_limit_bytes", "Bytes that may be held in this process.", usage.limit)
    yield GaugeMetricFamily("rung_cache_entries", "Answers held in this process.", usage.entries)
    yield GaugeMetricFamily("rung_cache_oldest_seconds", "Age of the oldest answer held.", usage.oldest)
    ages = HistogramMetricFamily("rung_cache_hit_age_seconds", "Age of answers when they were given again.")
    bounds = [*(repr(bound) for bound in AGES), "+Inf"]
    ages.add_metric([], list(zip(bounds, accumulate(usage.ages), strict=True)), usage.age_seconds)
    yield ages
    evictions = CounterMetricFamily(
        "rung_cache_evictions", "Answers dropped or not taken, by reason.", labels=["reason"]
    )
    for reason, count in usage.evictions.items():
        evictions.add_metric([reason], count)
    yield evictions
    errors = CounterMetricFamily(
        "rung_cache_backend_errors", "What went wrong beyond this process, by kind; each was a miss.", labels=["kind"]
    )
    for kind, count in usage.errors.items():
        errors.add_metric([kind], count)
    yield errors
    yield GaugeMetricFamily("rung_cache_backend_away", "Whether the backend is left alone after an error.", usage.away)
    yield CounterMetricFamily("rung_cache_fetches", "Look-ups beyond this process.", usage.fetches)
    yield CounterMetricFamily("rung_cache_fetch_seconds", "Seconds of these look-ups in all.", usage.fetch_seconds)
