"""Ten times more than can be served: how much is still answered well, how fast the rest is told, what remains.

Runs on two segmentation models, whose peak one client process exceeds by far: a small one that takes tensors, with few
milliseconds for each 200 kB, and one that takes pictures; on a lone replica, and on two behind the project's front. The
load generator shares the cores, and what sending ten times the peak takes of them the models lack: so it is said how
much that was.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
from front import project
from load import FLAT_OUT, Load, Sample
from processes import OUT, serve
from report import table, write
from workloads import BenchError, Request, Workload, pictures, prepare

from rung.catalog.models import register
from rung.store.blobs import DiskStore

__all__ = ["overload"]

TIMES = 10.0
CALM = 0.5
"""Share of the peak before and after."""
CONNECTIONS = 1000
"""An open loop needs one for each request that the server keeps waiting."""
TURNS = 3
REFUSED = (429, 503)
SOON = 5.0
"""Seconds after the end within which all is to be as before."""


@dataclass
class Place:
    """Where the load goes."""

    name: str
    port: int
    root: psutil.Process
    """Of the processes that answer."""

    def family(self) -> list[psutil.Process]:
        return [self.root, *self.root.children(recursive=True)]

    def rss(self) -> float:
        """Resident memory of all its processes, MB."""
        return sum(one.memory_info().rss for one in self.family()) / 1e6

    def cpu(self) -> float:
        """Processor seconds of all its processes."""
        return sum(sum(one.cpu_times()[:2]) for one in self.family())


def overload(*, seconds: float = 10.0) -> None:
    """Measure calm, overload, calm again, at both places."""
    found: dict[str, dict[str, Any]] = {}
    for workload in (prepare("seg", OUT / "models"), pictures(OUT / "models")):
        for place in (_alone, _front):
            with place(workload) as (where, request):
                what = f"{workload.model}, {len(request.body) / 1e3:,.0f} kB: {where.name}"
                found[what] = asyncio.run(_measure(where, request.wire(where.port), seconds))
    write("overload", "\n\n".join(_text(name, data) for name, data in found.items()), found, OUT)


def _request(workload: Workload) -> Request:
    """As people send it."""
    return workload.requests.get("png") or workload.requests["raw"]


@contextmanager
def _alone(workload: Workload) -> Iterator[tuple[Place, Request]]:
    with TemporaryDirectory(dir=OUT) as folder:
        register(DiskStore(Path(folder)), workload.file, name=workload.model, **workload.terms)
        with serve("rung", Path(folder)) as server:
            server.first_answer(_request(workload))
            yield Place("a lone replica", server.port, psutil.Process(server.process.pid)), _request(workload)


@contextmanager
def _front(workload: Workload) -> Iterator[tuple[Place, Request]]:
    with (
        TemporaryDirectory(dir=OUT) as folder,
        project(Path(folder) / "two", {workload.model: workload}, 2, "on", max_wait_ms=1000) as up,
    ):
        port = int(up["url"].rpartition(":")[2])
        yield Place("two replicas behind the front", port, psutil.Process(up["pid"])), _request(workload)


@dataclass
class Stretch:
    """Some seconds of load."""

    rate: float
    """Answers a second."""
    cores: float
    """That the servers took."""
    generator: float
    """Cores that sending took."""

    @property
    def each(self) -> float:
        """Processor seconds of the servers for an answer, all that they did besides included."""
        return self.cores / self.rate


async def _stretch(place: Place, load: Load, grace: float = 10.0) -> tuple[Stretch, Sample]:
    own, theirs, began = time.process_time(), place.cpu(), time.perf_counter()
    sample = await load.run(grace)
    took = time.perf_counter() - began
    return Stretch(sample.rate, (place.cpu() - theirs) / took, (time.process_time() - own) / took), sample


async def _measure(place: Place, request: bytes, seconds: float) -> dict[str, Any]:
    """Peak and flood in turns, since others may use the machine as well; calm before the first and after the last."""
    pairs: list[tuple[Stretch, Stretch]] = []
    floods: list[Sample] = []
    peak, _ = await _stretch(place, Load(place.port, request, FLAT_OUT, seconds, 8))
    if not peak.rate:
        raise BenchError(f"{place.name} answered nothing")
    before = await Load(place.port, request, CALM * peak.rate, seconds, 32).run()
    rss = place.rss()
    for _ in range(TURNS):
        peak, _ = await _stretch(place, Load(place.port, request, FLAT_OUT, seconds, 8))
        flood, sample = await _stretch(
            place, Load(place.port, request, TIMES * peak.rate, seconds, CONNECTIONS), grace=30.0
        )
        pairs.append((peak, flood))
        floods.append(sample)
    last = floods[-1]
    answered = last.status == 200
    drained = float(np.max((last.due + last.latency)[answered])) - seconds if answered.any() else float("nan")
    calm = CALM * pairs[-1][0].rate
    after = await Load(place.port, request, calm, max(seconds, SOON + 2.0), 32).run()
    whole = {
        "accepted": np.concatenate([one.latency[one.status == 200] for one in floods]),
        "rejected": np.concatenate([one.latency[np.isin(one.status, REFUSED)] for one in floods]),
    }
    return {
        "turns": [[asdict(peak), asdict(flood)] for peak, flood in pairs],
        "peak_rate": median(peak.rate for peak, _ in pairs),
        "goodput": median(flood.rate for _, flood in pairs),
        "goodput_of_peak": median(flood.rate / peak.rate for peak, flood in pairs),
        "answer_costs": median(flood.each / peak.each for peak, flood in pairs),
        "generator_cores": median(flood.generator for _, flood in pairs),
        "server_cores": [median(peak.cores for peak, _ in pairs), median(flood.cores for _, flood in pairs)],
        "statuses": dict(sorted(sum((Counter(one.statuses()) for one in floods), Counter()).items())),
        "unsent": sum(one.unsent for one in floods),
        **{
            f"{name}_p{share}": float(np.percentile(some, share) * 1e3) if len(some) else float("nan")
            for name, some in whole.items()
            for share in (50, 99)
        },
        "drained_after": drained,
        "recovered_after": _recovered(before, after),
        "before": {"failed": before.failed, "p50": before.percentile(50), "p99": before.percentile(99)},
        "after": {"failed": after.failed, "p50": after.percentile(50), "p99": after.percentile(99)},
        "rss_before": rss,
        "rss_after": place.rss(),
    }


def _recovered(before: Sample, after: Sample) -> float:
    """Seconds of calm load until it is answered as before: since the last that failed or took twice as long as 99 %."""
    late = (after.status != 200) | (after.latency > 2.0 * before.percentile(99) / 1e3)
    return float((after.due + np.nan_to_num(after.latency))[late].max()) if late.any() else 0.0


def _text(name: str, data: dict[str, Any]) -> str:
    before, after = data["before"], data["after"]
    lines = [
        ["goodput / peak requests/s", f"{data['goodput']:,.1f} / {data['peak_rate']:,.1f}"],
        ["goodput of the peak, median of turns", f"{data['goodput_of_peak']:.0%}"],
        ["processor time for an answer, of that at the peak", f"{data['answer_costs']:.0%}"],
        [
            "cores: the servers at the peak / in the flood, the generator",
            f"{data['server_cores'][0]:.2f} / {data['server_cores'][1]:.2f}, {data['generator_cores']:.2f}",
        ],
        ["answers by status (0: broken or none)", ", ".join(f"{k}: {v:,}" for k, v in data["statuses"].items())],
        ["never sent for want of a connection", f"{data['unsent']:,}"],
        ["answered: p50 / p99 ms", f"{data['accepted_p50']:,.0f} / {data['accepted_p99']:,.0f}"],
        ["rejected: p50 / p99 ms", f"{data['rejected_p50']:,.1f} / {data['rejected_p99']:,.1f}"],
        ["last answer after the end, s", f"{data['drained_after']:.2f}"],
        ["as before after, s", f"{data['recovered_after']:.2f}"],
        [f"{CALM:.0%} load before: p50 / p99 ms", f"{before['p50']:.1f} / {before['p99']:.1f}"],
        [f"{CALM:.0%} load after: p50 / p99 ms", f"{after['p50']:.1f} / {after['p99']:.1f}"],
        ["failed before / after", f"{before['failed']} / {after['failed']}"],
        ["memory MB, before / after", f"{data['rss_before']:.0f} / {data['rss_after']:.0f}"],
    ]
    title = f"## overload, {TIMES:.0f} times the peak of {name}\n\n"
    return title + table(["what", "measured"], lines)
