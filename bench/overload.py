"""Ten times more than can be served: how much is still answered well, how fast the rest is told, what remains.

Runs on the segmentation model, whose peak one client process exceeds by far: on a lone replica, and on two behind the
project's front. The load generator shares the cores, and what sending ten times the peak takes of them the models
lack: so it is said how much that was.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
from front import project
from load import FLAT_OUT, Load, Sample
from processes import OUT, serve
from report import table, write
from workloads import BenchError, Request, Workload, prepare

__all__ = ["overload"]

TIMES = 10.0
CALM = 0.5
"""Share of the peak before and after."""
CONNECTIONS = 1000
"""An open loop needs one for each request that the server keeps waiting."""
TOO_MANY = 429
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
    workload = prepare("seg", OUT / "models")
    found: dict[str, dict[str, Any]] = {}
    for place in (_alone, _front):
        with place(workload) as (where, request):
            found[where.name] = asyncio.run(_measure(where, request.wire(where.port), seconds))
    write("overload", "\n\n".join(_text(name, data) for name, data in found.items()), found, OUT)


@contextmanager
def _alone(workload: Workload) -> Iterator[tuple[Place, Request]]:
    with serve("rung", workload.file) as server:
        server.first_answer(workload.requests["raw"])
        yield Place("a lone replica", server.port, psutil.Process(server.process.pid)), workload.requests["raw"]


@contextmanager
def _front(workload: Workload) -> Iterator[tuple[Place, Request]]:
    with (
        TemporaryDirectory(dir=OUT) as folder,
        project(Path(folder) / "two", {"seg": workload}, 2, "on", max_wait_ms=1000) as up,
    ):
        port = int(up["url"].rpartition(":")[2])
        yield Place("two replicas behind the front", port, psutil.Process(up["pid"])), workload.requests["raw"]


async def _measure(place: Place, request: bytes, seconds: float) -> dict[str, Any]:
    peak = (await Load(place.port, request, FLAT_OUT, seconds, 8).run()).rate
    if not peak:
        raise BenchError(f"{place.name} answered nothing")
    before = await Load(place.port, request, CALM * peak, seconds, 32).run()
    rss, own, theirs = place.rss(), time.process_time(), place.cpu()
    flood = await Load(place.port, request, TIMES * peak, seconds, CONNECTIONS).run(grace=30.0)
    own, theirs = time.process_time() - own, place.cpu() - theirs
    answered = flood.status == 200
    last = float(np.max((flood.due + flood.latency)[answered])) if answered.any() else float("nan")
    after = await Load(place.port, request, CALM * peak, max(seconds, SOON + 2.0), 32).run()
    return {
        "peak_rate": peak,
        "offered_rate": TIMES * peak,
        "sent_rate": len(flood.due) / seconds,
        "goodput": flood.rate,
        "generator_cores": own / seconds,
        "server_cores": theirs / seconds,
        "statuses": flood.statuses(),
        "unsent": flood.unsent,
        "accepted_p50": flood.percentile(50),
        "accepted_p99": flood.percentile(99),
        "rejected_p50": flood.percentile(50, status=TOO_MANY),
        "rejected_p99": flood.percentile(99, status=TOO_MANY),
        "drained_after": last - seconds,
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
        ["offered / sent requests/s", f"{data['offered_rate']:,.0f} / {data['sent_rate']:,.0f}"],
        ["goodput / peak requests/s", f"{data['goodput']:,.1f} / {data['peak_rate']:,.1f}"],
        ["goodput of the peak", f"{data['goodput'] / data['peak_rate']:.0%}"],
        ["cores that the generator / the servers took", f"{data['generator_cores']:.2f} / {data['server_cores']:.2f}"],
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
    title = f"## overload, {TIMES:.0f} times the peak of the segmentation model: {name}\n\n"
    return title + table(["what", "measured"], lines)
