"""Hot swap under load: new versions go live while requests keep coming at 80 % of the peak rate.

Odd versions are one model, even versions a twin that answers otherwise, so each answer shows by its
content which version made it, and must say the same. Versions are registered beforehand, so that only
the server's own work on a swap is measured: what goes live is a folder moved into the repository.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from load import FLAT_OUT, Load, Sample
from processes import OUT, Server, serve
from report import table, verdict, write
from workloads import Workload, prepare
from wrk import run_wrk

from rung.catalog.models import register
from rung.store.blobs import DiskStore

__all__ = ["swap"]

SHARE = 0.8
CONNECTIONS = {"tiny": 32, "seg": 8}
AFTER = 0.25
"""Seconds after a version's first answer that still count as its swap, which began when it was published."""
PATIENCE = 10.0
"""Seconds in which a published version must answer."""


class Witness:
    """Reads every answer: which version it says, whether the content agrees, when each version first answered."""

    def __init__(self, odd: Workload, even: Workload) -> None:
        self._workloads = (even, odd)
        self._known: dict[bytes, tuple[int, bool]] = {}
        self.first: dict[int, float] = {}
        """Version -> when its first answer came."""
        self.mixed = 0

    def __call__(self, body: bytes, now: float) -> None:
        known = self._known.get(body)
        if known is None:
            known = self._known[body] = self._read(body)
        version, right = known
        self.mixed += not right
        if version not in self.first:
            self.first[version] = now

    def _read(self, body: bytes) -> tuple[int, bool]:
        try:
            version, values = self._workloads[1].decode("binary", body)
        except (KeyError, ValueError):
            return 0, False
        return version, self._workloads[version % 2].matches(values)


def swap(model: str, *, swaps: int = 20, interval: float = 3.0, seconds: float = 10.0) -> None:
    """Measure a steady stretch, then one with swaps, and compare."""
    odd = prepare(model, OUT / "models")
    even = prepare(model, OUT / "models", negated=True)
    with TemporaryDirectory(dir=OUT) as folder:
        publish = Publisher(Path(folder), odd, even, swaps + 1)
        publish(1)
        with serve("rung", publish.repository) as server:
            server.first_answer(odd.requests["binary"])
            data, text = asyncio.run(_measure(server, publish, odd, even, swaps, interval, seconds))
    write(f"swap-{model}", text, data, OUT)


class Publisher:
    """Registers every version beforehand in a repository aside, and moves one over when it is called."""

    def __init__(self, folder: Path, odd: Workload, even: Workload, versions: int) -> None:
        self.repository = folder / "repository"
        self._aside = folder / "aside"
        self._model = odd.model
        (self.repository / odd.model).mkdir(parents=True)
        self._aside.mkdir()
        store = DiskStore(self._aside)
        for version in range(1, versions + 1):
            register(store, (even, odd)[version % 2].file, name=odd.model, version=version)

    def __call__(self, version: int) -> None:
        """A rename: the version is there whole or not at all."""
        where = Path(self._model, str(version))
        (self._aside / where).rename(self.repository / where)


async def _measure(
    server: Server,
    publish: Callable[[int], None],
    odd: Workload,
    even: Workload,
    swaps: int,
    interval: float,
    seconds: float,
) -> tuple[dict[str, Any], str]:
    connections = CONNECTIONS[odd.model]
    closed = run_wrk(server.port, odd.requests["binary"], connections, seconds / 2, OUT)
    request = odd.requests["binary"].wire(server.port)
    witness = Witness(odd, even)
    peak = (await Load(server.port, request, FLAT_OUT, seconds / 2, connections, witness).run()).rate
    rate = SHARE * peak
    # More connections than the peak needs, so that a stall queues in the server and not in front of it.
    steady = await Load(server.port, request, rate, seconds, 4 * connections, witness).run()
    before = server.rss()
    load = Load(server.port, request, rate, swaps * interval + 2.0, 4 * connections, witness)
    running = asyncio.create_task(load.run())
    await asyncio.sleep(1.0)
    moments = [await _swap_once(publish, version, witness, load, interval) for version in range(2, swaps + 2)]
    waits = [answered - published for published, answered in moments]
    swapped = await running
    data = {
        "wrk_rate": closed["rate"],
        "peak_rate": peak,
        "rate": rate,
        "requests": len(swapped.due),
        "failed": swapped.failed,
        "statuses": swapped.statuses(),
        "unsent": swapped.unsent,
        "mixed": witness.mixed,
        "swaps": sum(wait < PATIENCE for wait in waits),
        "seconds_to_first_answer": [round(wait, 3) for wait in waits],
        "steady_failed": steady.failed,
        **_percentiles(steady, swapped, moments),
        "rss_before": before,
        "rss_after": server.rss(),
    }
    return data, _text(odd.model, swaps, data)


async def _swap_once(
    publish: Callable[[int], None], version: int, witness: Witness, load: Load, interval: float
) -> tuple[float, float]:
    """Publish, wait for the first answer, rest for what is left of the interval; return both moments."""
    started = load.now()
    publish(version)
    while version not in witness.first and load.now() - started < PATIENCE:
        await asyncio.sleep(0.005)
    answered = witness.first.get(version, started + PATIENCE)
    await asyncio.sleep(max(0.0, started + interval - load.now()))
    return started, answered


def _percentiles(steady: Sample, swapped: Sample, moments: list[tuple[float, float]]) -> dict[str, float]:
    during = np.zeros(len(swapped.due), bool)
    for published, answered in moments:
        during |= (swapped.due >= published) & (swapped.due < answered + AFTER)
    return {
        "steady_p50": steady.percentile(50),
        "steady_p99": steady.percentile(99),
        "swaps_p50": swapped.percentile(50),
        "swaps_p99": swapped.percentile(99),
        "during_p99": swapped.percentile(99, during),
        "worst": swapped.percentile(100),
    }


def _text(model: str, swaps: int, data: dict[str, Any]) -> str:
    lines = [
        ["swaps that answered", f"{data['swaps']}", f"{swaps}"],
        ["failed requests", f"{data['failed']} of {data['requests']}", verdict(data["failed"], 0, at_least=False)],
        ["never sent for want of a connection", f"{data['unsent']}", ""],
        ["answers of mixed versions", f"{data['mixed']}", verdict(data["mixed"], 0, at_least=False)],
        ["p50 ms, steady / with swaps", f"{data['steady_p50']:.2f} / {data['swaps_p50']:.2f}", ""],
        ["p99 ms, steady / with swaps", f"{data['steady_p99']:.2f} / {data['swaps_p99']:.2f}", ""],
        [
            f"p99 ms from publication to {AFTER} s after",
            f"{data['during_p99']:.2f}, {data['during_p99'] / data['steady_p99']:.1f} times steady",
            f"<= 2 times: {verdict(data['during_p99'] / data['steady_p99'], 2.0, at_least=False)}",
        ],
        ["slowest ms", f"{data['worst']:.2f}", ""],
        ["memory MB, before / after", f"{data['rss_before']:.0f} / {data['rss_after']:.0f}", ""],
    ]
    rate = f"{data['rate']:,.0f} requests/s"
    share = f"{SHARE:.0%} of this client's peak, {data['rate'] / data['wrk_rate']:.0%} of wrk's"
    return f"## {swaps} swaps on {model} at {rate}, {share}\n\n" + table(["what", "measured", ""], lines)
