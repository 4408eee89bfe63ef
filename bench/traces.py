"""Arrivals replayed against a whole project: what the autoscaler makes of them, beside fixed numbers and a plain rule.

    python bench/traces.py [steady] [wave] [burst] [--trace FILE --of HOURS] [--seconds S]

Each trace is squeezed into `--seconds` and sent in an open loop to the front of a real `rung up`. The model waits
instead of computing, as if an accelerator or another service stood behind it, so that four replicas do four times the
work on two cores. The same arrivals go through `rung plan`'s simulation, to say how far its paper is from the world.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
from load import FLAT_OUT, Load, Sample
from processes import OUT
from report import table, write
from trace_plots import draw
from workloads import BenchError

from rung.fleet.planning.planner import cost_model
from rung.fleet.planning.queueing import Replicas, replay
from rung.fleet.planning.traces import Trace, arrivals, read_trace
from rung.fleet.scaling.rules import Policy, read_policy
from rung.settings.project import ServeSection
from rung.settings.scaling import ReplicaCount

CALL, ROW = 0.010, 0.015
"""Seconds that the model waits for a call and for each row of it."""
MOST = 4
OBJECTIVE_MS = 300.0
MAX_WAIT_MS = 1000.0
DOWN = 8.0
QUIET = 6.0
"""Seconds without a request before a replay: longer than those that rates are taken over."""
SHAPES = ("steady", "wave", "burst")
MODEL = f"""
import time

class Waiting:
    inputs = {{"x": ("FP32", [-1, 4])}}
    outputs = {{"y": ("FP32", [-1, 4])}}
    lanes = 1

    def predict(self, x):
        time.sleep({CALL} + {ROW} * len(x))
        return {{"y": x * 2}}
"""
RULES: dict[str, dict[str, Any]] = {
    "fixed at 1": {"min": 1, "max": 1},
    f"fixed at {MOST}": {"min": MOST, "max": MOST},
    "threshold": {"min": 1, "max": MOST, "down_seconds": DOWN, "utilisation": 0.0, "wait_ms": 1e9, "double_above": 10},
    "autoscaled": {"min": 1, "max": MOST, "down_seconds": DOWN},
    "with a spare": {"min": 1, "max": MOST, "down_seconds": DOWN, "spares": 1},
}
"""Name -> `replicas` in rung.toml."""
_BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}).encode()


@dataclass
class Outcome:
    """How one run went, in the world or on paper."""

    served: int
    shed: int
    """Turned away with 429 or 503."""
    failed: int
    """Anything else that is no answer, and what never left for want of a connection."""
    p50: float
    p99: float
    """Milliseconds."""
    replica_seconds: float
    most: int
    measured: dict[str, Any] = field(default_factory=dict)
    """What the paper may be told."""
    statuses: dict[str, int] = field(default_factory=dict)
    """Status -> how often; 0 where the connection broke."""
    due: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    replicas: list[int] = field(default_factory=list)
    why: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if not isinstance(value, list)}


def main() -> int:
    chosen = _arguments()
    OUT.mkdir(exist_ok=True)
    shapes = [*chosen.shapes, *(["trace"] if chosen.trace else [])] or list(SHAPES)
    cost = _cost()
    for shape in shapes:
        times = _times(shape, chosen)
        found: dict[str, dict[str, Outcome]] = {}
        for name, rule in RULES.items():
            print(f"{shape}: {name}, {len(times):,} requests in {chosen.seconds:.0f} s", file=sys.stderr, flush=True)
            real, measured = _real(times, rule, chosen.seconds)
            found[name] = {"real": real, "paper": _paper(times, rule, cost, measured)}
            said = {"start_s": measured.start, "calm_ms": measured.calm * 1e3, "apart_ms": measured.apart * 1e3}
            said |= {f"call of {rows} ms": seconds * 1e3 for rows, seconds in measured.cost.items()}
            rounded: dict[str, Any] = {key: round(value, 2) for key, value in said.items()}
            found[name]["real"].measured = rounded | {"caps": measured.caps}
            print(f"  {found[name]['real'].measured}", file=sys.stderr, flush=True)
        write(f"traces-{shape}", _text(shape, times, chosen.seconds, found), _as_data(found), OUT)
        draw(shape, times, chosen.seconds, found, OUT / f"traces-{shape}.png")
    return 0


# --- what comes -----------------------------------------------------------------------------------


def _times(shape: str, chosen: argparse.Namespace) -> np.ndarray:
    seconds, rng = chosen.seconds, np.random.default_rng(7)
    at = np.arange(0.0, seconds, 0.5)
    if shape == "steady":
        rates = np.full(len(at), 90.0)
    elif shape == "wave":
        rates = 75.0 - 65.0 * np.cos(2 * np.pi * at / seconds)
    elif shape == "burst":
        # Ten minutes are a third of the time here: idle, then a burst for a tenth of them.
        rates = np.where(at % (seconds / 3) >= seconds / 3 * 0.7, 140.0, 1.0)
    else:
        whole = read_trace(chosen.trace).cut(chosen.start * 3600.0, chosen.of * 3600.0)
        squeezed = whole.sped(whole.seconds / seconds)
        return arrivals(squeezed.scaled(140.0 / float(squeezed.rates.max())), rng)
    return arrivals(Trace(shape, 0.0, 0.5, rates * 0.5), rng)


def _cost() -> dict[int, float]:
    """What a call takes by rows, measured as a replica does it."""
    from rung.catalog.source import open_source
    from rung.ports import LoadOptions
    from rung.serving.loader import load

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "waiting.py").write_text(MODEL)
        before = Path.cwd()
        os.chdir(folder)
        try:
            source = open_source("waiting.py:Waiting", "waiting", Path(folder))
            loaded = load(source, source.poll()[0], LoadOptions(threads=1), OBJECTIVE_MS / 1e3)
            assert loaded.model is not None
            loaded.model.close()
            return dict(loaded.cost.known)
        finally:
            os.chdir(before)


# --- in the world ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """What the paper is told of the world."""

    start: float
    """Seconds that a replica took from the wish to the answer."""
    calm: float
    """Seconds of a request that nothing holds up."""
    cost: dict[int, float]
    """Rows -> mean seconds of a call, as the replicas have counted them under the load."""
    apart: float
    """Mean seconds of an answer beside queue and call, under the load: the way to the replica and back."""
    caps: list[float]
    """Rows that each replica puts together at most: what it measured when it started says so."""


def _real(times: np.ndarray, rule: dict[str, Any], seconds: float) -> tuple[Outcome, Measured]:
    """One replay, and what was measured beside it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "waiting.py").write_text(MODEL)
        (folder / "rung.toml").write_text(_project(rule))
        with _up(folder) as port, _watched(folder) as seen:
            request = (
                b"POST /v2/models/waiting/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
            )
            time.sleep(QUIET)
            seen.began = time.time()
            sample = asyncio.run(Load(port, request, FLAT_OUT, seconds, 240, times=times).run(grace=5.0))
            seen.ended = seen.began + seconds
            counted = _counted(folder)
            # Afterwards, since the control plane remembers what was asked before.
            alone = asyncio.run(Load(port, request, FLAT_OUT, 1.5, 1).run())
        answered = sample.status == 200
        shed = int(np.isin(sample.status, (429, 503)).sum())
        return Outcome(
            served=int(answered.sum()),
            shed=shed,
            failed=len(times) - int(answered.sum()) - shed,
            p50=sample.percentile(50),
            p99=sample.percentile(99),
            replica_seconds=seen.replica_seconds(),
            most=max(seen.replicas, default=0),
            statuses={str(status): count for status, count in sample.statuses().items()},
            due=sample.due.tolist(),
            latency=[float(x) if ok else float("nan") for x, ok in zip(sample.latency, answered, strict=True)],
            at=[at - seen.began for at in seen.at],
            replicas=seen.replicas,
            why=seen.why,
        ), Measured(seen.start_seconds(), alone.percentile(50) / 1e3, *_under_load(counted, sample))


def _counted(folder: Path) -> list[dict[str, Any]]:
    """What the replicas that are there have counted."""
    found: list[dict[str, Any]] = []
    for role in json.loads((folder / ".rung/up.json").read_text())["roles"]:
        if role["role"] == "replica" and role["state"] == "ready":
            with suppress(OSError):
                with urlopen(f"{role['url']}/v2/models/stats", timeout=5) as reply:
                    stats = json.loads(reply.read())["model_stats"]
                with urlopen(f"{role['url']}/metrics", timeout=5) as reply:
                    cap = re.search(rb"^rung_batch_rows_cap\{.*\} (\S+)$", reply.read(), re.MULTILINE)
                found += [one | {"cap": float(cap[1]) if cap else 0.0} for one in stats]
    return found


def _under_load(counted: list[dict[str, Any]], sample: Sample) -> tuple[dict[int, float], float, list[float]]:
    calls: dict[int, list[float]] = {}
    whole = [0.0, 0.0]
    for one in counted:
        for batch in one["batch_stats"]:
            timing = batch["compute_infer"]
            known = calls.setdefault(int(batch["batch_size"]), [0.0, 0.0])
            known[0] += timing["count"]
            known[1] += timing["ns"] / 1e9
        stats = one["inference_stats"]
        whole[0] += stats["success"]["count"]
        whole[1] += (stats["queue"]["ns"] + stats["compute_infer"]["ns"]) / 1e9
    cost = {rows: seconds / count for rows, (count, seconds) in sorted(calls.items()) if count}
    within = whole[1] / whole[0] if whole[0] else 0.0
    apart = max(float(np.mean(sample.latency[sample.status == 200])) - within, 0.0)
    return cost, apart, [one["cap"] for one in counted]


def _project(rule: dict[str, Any]) -> str:
    fields = ", ".join(f"{name} = {value}" for name, value in rule.items())
    return f"""
[project]
name = "waiting"
[serve]
lanes = 1
max_wait_ms = {MAX_WAIT_MS}
access_log = false
[serve.door]
head_seconds = 75  # this client opens connections ahead; one that is closed for that while it sends is a lost request
[workers]
count = 0
[models.waiting.serve]
model = "waiting.py:Waiting"
objective_ms = {OBJECTIVE_MS}
replicas = {{ {fields} }}
"""


@contextmanager
def _up(folder: Path) -> Iterator[int]:
    command = [sys.executable, "-m", "rung", "up", "--port", "0", "--control-port", "0", "--json"]
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise BenchError(f"rung up ended: {(folder / 'up.log').read_text()[-500:]}")
        yield int(json.loads(line)["url"].rpartition(":")[2])
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class _Seen:
    """The replicas over time, as the supervisor's file says."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.replicas: list[int] = []
        self.why: list[str] = []
        self.began, self.ended = 0.0, float("inf")
        self.born: dict[int, float] = {}
        self.ready: dict[int, float] = {}

    def take(self, state: dict[str, Any], now: float) -> None:
        roles = [role for role in state["roles"] if role["role"] == "replica" and role["pid"]]
        for role in roles:
            self.born.setdefault(role["pid"], role["since"])
            if role["state"] == "ready":
                self.ready.setdefault(role["pid"], now)
        self.at.append(now)
        self.replicas.append(len(roles))
        if state.get("why") and (not self.why or self.why[-1].partition(": ")[2] != state["why"]):
            self.why.append(f"{now - self.began:.1f} s: {state['why']}")

    def replica_seconds(self) -> float:
        at = np.clip(np.array([*self.at, self.at[-1]]), self.began, self.ended)
        return float((np.diff(at) * np.array(self.replicas)).sum())

    def start_seconds(self) -> float:
        """Of those that were started during the load: a quiet machine starts them faster."""
        later = [self.ready[pid] - born for pid, born in self.born.items() if pid in self.ready and born > self.began]
        return float(np.median(later)) if later else 1.5


@contextmanager
def _watched(folder: Path) -> Iterator[_Seen]:
    seen, stop = _Seen(), threading.Event()

    def watch() -> None:
        while not stop.wait(0.1):
            with suppress(OSError, ValueError):
                seen.take(json.loads((folder / ".rung/up.json").read_text()), time.time())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


# --- on paper -------------------------------------------------------------------------------------


def _paper(times: np.ndarray, rule: dict[str, Any], cost: dict[int, float], measured: Measured) -> Outcome:
    # What hundreds of calls took says more than the one call of each size that a start measures.
    cost = {rows: measured.cost.get(rows, seconds) for rows, seconds in cost.items()}
    section = ServeSection(objective_ms=OBJECTIVE_MS, replicas=ReplicaCount(**rule))
    policy: Policy = read_policy(section)
    kind = Replicas(
        cost_model(cost, OBJECTIVE_MS / 1e3),
        start_seconds=measured.start,
        max_wait=MAX_WAIT_MS / 1e3,
        overhead=max(measured.calm - cost[1], 0.0),
    )
    course = replay(times, kind, policy, np.random.default_rng(0), calm=QUIET)
    return Outcome(
        served=len(times) - course.shed,
        shed=course.shed,
        failed=0,
        p50=course.quantile(0.5) * 1e3,
        p99=course.quantile(0.99) * 1e3,
        replica_seconds=course.replica_seconds,
        most=int(course.there.max()),
        due=times.tolist(),
        latency=course.latency.tolist(),
        at=course.at.tolist(),
        replicas=course.there.astype(int).tolist(),
        why=[f"{one.at:.1f} s: {one.why}" for one in course.decisions],
    )


def _text(shape: str, times: np.ndarray, seconds: float, found: dict[str, dict[str, Outcome]]) -> str:
    rows = []
    for name, both in found.items():
        for where, one in both.items():
            rows.append(
                [
                    name if where == "real" else "  on paper",
                    f"{one.served:,}",
                    f"{one.shed:,}",
                    f"{one.failed:,}",
                    f"{one.p50:,.0f}",
                    f"{one.p99:,.0f}",
                    f"{one.replica_seconds:,.0f}",
                    str(one.most),
                    "" if where == "real" else _off(both["real"], one),
                ]
            )
    head = ["rule", "served", "shed", "failed", "p50 ms", "p99 ms", "replica-seconds", "most", "paper is off by"]
    title = f"## {shape}: {len(times):,} requests in {seconds:.0f} s, a model that waits\n\n"
    return title + table(head, rows)


def _off(real: Outcome, paper: Outcome) -> str:
    def share(name: str) -> str:
        return f"{getattr(paper, name) / max(getattr(real, name), 1e-9) - 1:+.0%}"

    return f"p50 {share('p50')}, p99 {share('p99')}, replica-seconds {share('replica_seconds')}"


def _as_data(found: dict[str, dict[str, Outcome]]) -> dict[str, Any]:
    return {
        name: {where: one.summary() | {"why": one.why} for where, one in both.items()} for name, both in found.items()
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Replay arrivals against a project.")
    parser.add_argument("shapes", nargs="*", help=f"of {', '.join(SHAPES)} (default: all)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each replay")
    parser.add_argument("--trace", type=Path, help="a file of arrivals besides")
    parser.add_argument("--start", type=float, default=0.0, help="hours of it to leave out")
    parser.add_argument("--of", type=float, default=24.0, help="hours of it to take")
    chosen = parser.parse_args()
    for shape in chosen.shapes:
        if shape not in SHAPES:
            parser.error(f"there is no shape {shape!r}; choose of {', '.join(SHAPES)}")
    return chosen


if __name__ == "__main__":
    sys.exit(main())
