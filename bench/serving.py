"""Throughput and latency of rung beside its peers, round by round.

Within a case the servers take turns, each started afresh, and the order moves on by one each round,
so that what the machine does meanwhile hits all alike. Ratios are of neighbours in one round.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TypedDict

from processes import HERE, OUT, serve
from workloads import BenchError, Workload, prepare
from wrk import run_wrk

__all__ = ["BARE", "CASES", "Case", "Row", "measure_rounds"]

BARE = "bare onnxruntime"


@dataclass(frozen=True)
class Case:
    """One kind of load: a model, the body that carries its tensor, and how many connections send it."""

    model: str
    body: str
    connections: int
    servers: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.model} {self.body} {self.connections}"


CASES = [
    Case("tiny", "raw", 32, ("rung", "probe", "mosec", "mosec unbatched")),
    Case("tiny", "json", 32, ("rung", "probe")),
    Case("tiny", "binary", 32, ("rung", "probe")),
    Case("tiny", "raw", 1, ("rung", "probe", "mosec", "mosec unbatched", BARE)),
    Case("tiny", "json", 1, ("rung", "probe")),
    Case("tiny", "binary", 1, ("rung", "probe")),
    Case("seg", "raw", 8, ("rung", BARE, "mosec unbatched", "mosec 2 workers")),
    Case("seg", "raw", 1, ("rung", BARE, "mosec unbatched", "mosec 2 workers")),
]


@dataclass(frozen=True)
class Row:
    """One server in one round of one case. `failed` says why there are no numbers."""

    case: str
    server: str
    round: int
    rate: float = 0.0
    """Answers a second."""
    p50: float = 0.0
    p99: float = 0.0
    """Milliseconds."""
    rss: float = 0.0
    """MB, after the load."""
    failed: str = ""


class Loop(TypedDict):
    """What the loop without a server prints; the fields of a `Row`."""

    rate: float
    p50: float
    p99: float
    rss: float


def measure_rounds(cases: list[Case], servers: set[str], rounds: int, seconds: float) -> list[Row]:
    """Measure every case with those of its servers that were asked for; prints each row as it comes."""
    workloads = {model: prepare(model, OUT / "models") for model in {case.model for case in cases}}
    rows = []
    for number in range(rounds):
        for case in cases:
            chosen = [server for server in case.servers if server in servers]
            turn = number % len(chosen) if chosen else 0
            for server in chosen[turn:] + chosen[:turn]:
                row = _measure(case, server, number, seconds, workloads[case.model])
                rows.append(row)
                numbers = f"{row.rate:10,.0f}/s  p50 {row.p50:8.3f} ms  p99 {row.p99:8.3f} ms  {row.rss:5.0f} MB"
                print(f"round {number + 1}  {case.name:16} {server:18} {row.failed or numbers}", flush=True)
    return rows


def _measure(case: Case, server: str, number: int, seconds: float, workload: Workload) -> Row:
    try:
        if server == BARE:
            return Row(case.name, server, number, **_bare(case, seconds, workload))
        request = workload.requests[case.body]
        with serve(server, workload.file) as running:
            _, content = running.first_answer(request)
            workload.check(case.body, content)
            run_wrk(running.port, request, case.connections, 1.0, OUT)
            load = run_wrk(running.port, request, case.connections, seconds, OUT)
            return Row(case.name, server, number, load["rate"], load["p50"], load["p99"], running.rss())
    except BenchError as error:
        return Row(case.name, server, number, failed=str(error))


def _bare(case: Case, seconds: float, workload: Workload) -> Loop:
    cores = len(os.sched_getaffinity(0))
    # What a server should choose: many callers share the cores, a lone one gets them all, a tiny call needs one.
    lanes = min(case.connections, cores)
    threads = cores if case.connections == 1 and case.model == "seg" else 1
    script = [sys.executable, str(HERE / "servers" / "bare_onnxruntime.py"), str(workload.file)]
    numbers = ["--callers", str(case.connections), "--lanes", str(lanes), "--threads", str(threads)]
    command = [*script, *numbers, "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if done.returncode:
        raise BenchError(f"{BARE} ended with status {done.returncode}: {done.stderr[-500:]}")
    result: Loop = json.loads(done.stdout)
    return result
