"""What requests feel of work that can wait, in one process and with a model that sleeps: what `Idle` is worth.

    python bench/yielding.py [--rate 40] [--rounds 8] [--by-priority]

A model that sleeps takes no processor from anybody, so that this can be told on a busy machine too; `bench/beside.py`
asks a whole project. `--by-priority` leaves `Idle` out: the queue alone says who comes first.
"""

import argparse
import asyncio
import random
from contextlib import suppress
from time import monotonic

import numpy as np

from rung.domain.errors import Overloaded
from rung.domain.predictions import LOWEST, Request
from rung.serving.batcher import Batcher
from rung.serving.cost import CostModel
from rung.serving.idle import Idle
from rung.serving.lanes import Lanes
from rung.testing.scripted import ScriptedModel

CALL, LANES, ROUND, FEEDERS = 0.005, 2, 5.0, 16


class Eager(Idle):
    """Always says yes."""

    def wait(self, now: float) -> float:
        return 0.0


def asked(priority: int = 0) -> Request:
    return Request({"x": np.zeros((1, 2), np.float32)}, 1, priority=priority, arrived=monotonic())


async def measure(rate: float, rounds: int, idle: Idle) -> None:
    cost = CostModel()
    for power in range(6):
        cost.learn(2**power, CALL)
    lanes = Lanes(LANES, "bench")
    lanes.open()
    model = ScriptedModel(seconds=CALL)
    batcher = Batcher("m", 1, model, cost, lanes, threads=1, max_wait=5.0, idle=idle)
    backlog, answered = asyncio.Event(), 0

    async def feed() -> None:
        nonlocal answered
        pause = 0.02
        while True:
            await backlog.wait()
            try:
                await batcher(asked(LOWEST))
                answered, pause = answered + 1, 0.02
            except Overloaded:
                await asyncio.sleep(pause)
                pause = min(2 * pause, 0.5)

    latencies: dict[bool, list[float]] = {False: [], True: []}

    async def one(beside: bool) -> None:
        began = monotonic()
        await batcher(asked())
        latencies[beside].append((monotonic() - began) * 1e3)

    feeders = [asyncio.create_task(feed()) for _ in range(FEEDERS)]
    rng = random.Random(1)
    for _ in range(rounds):
        for beside in (False, True):
            if beside:
                backlog.set()
            due = monotonic()
            end, tasks = due + ROUND, []
            while due < end:
                due += rng.expovariate(rate)
                await asyncio.sleep(max(due - monotonic(), 0.0))
                tasks.append(asyncio.create_task(one(beside)))
            await asyncio.gather(*tasks)
            backlog.clear()
            await asyncio.sleep(0.6)
    for feeder in feeders:
        feeder.cancel()
        with suppress(asyncio.CancelledError):
            await feeder
    for beside, name in ((False, "alone"), (True, "beside a backlog")):
        p50, p90, p99 = np.percentile(latencies[beside], (50, 90, 99))
        print(f"{name:<18}{len(latencies[beside]):>7}   p50 {p50:6.2f}   p90 {p90:6.2f}   p99 {p99:6.2f} ms")
    ratio = np.percentile(latencies[True], 99) / np.percentile(latencies[False], 99)
    print(f"p99 with / without: {ratio:.2f}; what can wait: {answered / (rounds * ROUND):.1f}/s meanwhile")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=40.0, help="requests a second, by a Poisson process")
    parser.add_argument("--rounds", type=int, default=8, help="of 5 s, with a backlog and without in turn")
    parser.add_argument("--by-priority", action="store_true")
    options = parser.parse_args()
    asyncio.run(measure(options.rate, options.rounds, Eager() if options.by_priority else Idle()))


if __name__ == "__main__":
    main()
