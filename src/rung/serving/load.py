"""What a replica tells of its load, read off the counts that it keeps anyway."""

from collections import Counter
from collections.abc import Iterable
from time import monotonic, thread_time

from rung.domain.scaling import ModelLoad, ReplicaLoad
from rung.serving.recorder import BOUNDS
from rung.serving.servable import Servable

__all__ = ["load_of"]


def load_of(servables: Iterable[Servable], *, ready: bool) -> ReplicaLoad:
    """The load of these versions, added up by model. Call on the event loop: its own time is part of it."""
    versions: dict[str, list[Servable]] = {}
    for one in servables:
        versions.setdefault(one.manifest.name, []).append(one)
    models = {name: _model(members) for name, members in versions.items()}
    return ReplicaLoad(monotonic(), ready, thread_time(), BOUNDS, models)


def _model(versions: list[Servable]) -> ModelLoad:
    found = [one.batcher.recorder.read() for one in versions]
    failures: Counter[str] = Counter()
    for statistics in found:
        failures.update(statistics.failures)
    refused = failures.pop("Overloaded", 0)
    counts = zip(*(one.batcher.recorder.total.counts for one in versions), strict=True)
    # Where several versions answer, rows cost what they do in the one that computes most.
    busiest = max(versions, key=lambda one: one.batcher.recorder.statistics.inferences).batcher
    return ModelLoad(
        lanes=busiest.lanes,
        in_flight=sum(one.batcher.inflight for one in versions),
        wait=max(one.batcher.wait() for one in versions),
        row=busiest.cost.row(),
        rows=sum(statistics.inferences for statistics in found),
        busy=sum(timing.ns for statistics in found for timing in statistics.batches.values()) / 1e9,
        answered=sum(statistics.success.count for statistics in found),
        failed=sum(failures.values()),
        refused=refused,
        buckets=tuple(map(sum, counts)),
    )
