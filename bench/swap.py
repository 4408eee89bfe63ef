"""Hot swap under load: new versions go live while requests keep coming at 80 % of the peak rate.

Odd versions are one model, even versions a twin that answers otherwise, so each answer shows by its
content which version made it, and must say the same. A version is published as users publish it: its
folder is moved into the repository whole.
"""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from load import FLAT_OUT, Load, Sample
from processes import OUT, Server, serve
from report import table, verdict, write
from workloads import Workload, prepare

__all__ = ["swap"]

SHARE = 0.8
CONNECTIONS = {"tiny": 32, "seg": 8}
WINDOW = 0.25
"""Seconds on either side of a swap that count as its neighbourhood."""
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


def swap(model: str, *, swaps: int = 20, interval: float = 1.0, seconds: float = 10.0) -> None:
    """Measure a steady stretch, then one with swaps, and compare."""
    odd = prepare(model, OUT / "models")
    even = prepare(model, OUT / "models", negated=True)
    with TemporaryDirectory(dir=OUT) as folder:
        repository = Path(folder) / "repository"
        publish = Publisher(repository, Path(folder) / "next", odd, even)
        publish(1)
        with serve("rung", repository) as server:
            server.first_answer(odd.requests["binary"])
            data, text = asyncio.run(_measure(server, publish, odd, even, swaps, interval, seconds))
    write(f"swap-{model}", text, data, OUT)


class Publisher:
    """Puts versions into a repository folder."""

    def __init__(self, repository: Path, scratch: Path, odd: Workload, even: Workload) -> None:
        self._models = repository / odd.model
        self._models.mkdir(parents=True)
        self._scratch = scratch
        self._workloads = (even, odd)

    def __call__(self, version: int) -> None:
        self._scratch.mkdir()
        shutil.copy(self._workloads[version % 2].file, self._scratch / "model.onnx")
        self._scratch.rename(self._models / str(version))


async def _measure(
    server: Server,
    publish: Callable[[int], None],
    odd: Workload,
    even: Workload,
    swaps: int,
    interval: float,
    seconds: float,
) -> tuple[dict[str, object], str]:
    connections = CONNECTIONS[odd.model]
    request = odd.requests["binary"].wire(server.port)
    peak = (await Load(server.port, request, FLAT_OUT, seconds / 2, connections).run()).rate
    rate = SHARE * peak
    # More connections than the peak needs, so that a stall queues in the server and not in front of it.
    steady = await Load(server.port, request, rate, seconds, 4 * connections).run()
    before = server.rss()
    witness = Witness(odd, even)
    load = Load(server.port, request, rate, swaps * interval + 2.0, 4 * connections, witness)
    running = asyncio.create_task(load.run())
    await asyncio.sleep(1.0)
    waits = [await _swap_once(publish, version, witness, load, interval) for version in range(2, swaps + 2)]
    swapped = await running
    data = {
        "peak_rate": peak,
        "rate": rate,
        "requests": len(swapped.due),
        "failed": swapped.failed,
        "statuses": swapped.statuses(),
        "mixed": witness.mixed,
        "swaps": sum(wait < PATIENCE for wait in waits),
        "seconds_to_first_answer": [round(wait, 3) for wait in waits],
        "steady_failed": steady.failed,
        **_percentiles(steady, swapped, witness),
        "rss_before": before,
        "rss_after": server.rss(),
    }
    return data, _text(odd.model, swaps, data)


async def _swap_once(
    publish: Callable[[int], None], version: int, witness: Witness, load: Load, interval: float
) -> float:
    """Publish, wait for the first answer, rest for what is left of the interval; return the wait."""
    started = load.now()
    publish(version)
    while version not in witness.first and load.now() - started < PATIENCE:
        await asyncio.sleep(0.005)
    wait = load.now() - started
    await asyncio.sleep(max(0.0, interval - wait))
    return wait


def _percentiles(steady: Sample, swapped: Sample, witness: Witness) -> dict[str, float]:
    near = np.zeros(len(swapped.due), bool)
    for version, moment in witness.first.items():
        if version > 1:
            near |= abs(swapped.due - moment) < WINDOW
    return {
        "steady_p50": steady.percentile(50),
        "steady_p99": steady.percentile(99),
        "swaps_p50": swapped.percentile(50),
        "swaps_p99": swapped.percentile(99),
        "near_p99": swapped.percentile(99, near),
        "worst": swapped.percentile(100),
    }


def _text(model: str, swaps: int, data: dict) -> str:
    lines = [
        ["swaps that answered", f"{data['swaps']}", f"{swaps}"],
        ["failed requests", f"{data['failed']} of {data['requests']}", verdict(data["failed"], 0, at_least=False)],
        ["answers of mixed versions", f"{data['mixed']}", verdict(data["mixed"], 0, at_least=False)],
        ["p50 ms, steady / with swaps", f"{data['steady_p50']:.2f} / {data['swaps_p50']:.2f}", ""],
        ["p99 ms, steady / with swaps", f"{data['steady_p99']:.2f} / {data['swaps_p99']:.2f}", ""],
        [
            f"p99 ms within {WINDOW} s of a swap",
            f"{data['near_p99']:.2f}, {data['near_p99'] / data['steady_p99']:.1f} times steady",
            f"<= 2 times: {verdict(data['near_p99'] / data['steady_p99'], 2.0, at_least=False)}",
        ],
        ["slowest ms", f"{data['worst']:.2f}", ""],
        ["memory MB, before / after", f"{data['rss_before']:.0f} / {data['rss_after']:.0f}", ""],
    ]
    title = f"## {swaps} swaps on {model} at {data['rate']:,.0f} requests/s, {SHARE:.0%} of the peak of this load\n\n"
    return title + table(["what", "measured", ""], lines)
