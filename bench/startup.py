"""Cold start to the first answer, and the memory of a server that has been under load."""

import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

from processes import OUT, serve
from report import table, verdict, write
from workloads import Workload, prepare
from wrk import run_wrk

__all__ = ["startup"]

MAX_SECONDS, MAX_MB = 0.4, 100.0
FLOOR = "import onnxruntime, one answer, end"
_FLOOR_CODE = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
session.run(None, {"x": numpy.zeros((1, 16), numpy.float32)})
"""


def startup(servers: set[str], *, starts: int = 7, seconds: float = 5.0) -> None:
    """Start each server on the tiny model so many times; load the last one of each before it is weighed."""
    workload = prepare("tiny", OUT / "models")
    order: list[str] = [name for name in ("rung", "probe", "mosec") if name in servers]
    times: dict[str, list[float]] = {name: [] for name in [*order, FLOOR]}
    memory: dict[str, list[float]] = {}
    for number in range(starts):
        for name in order:
            with serve(name, workload.file) as server:
                took, _ = server.first_answer(workload.requests["raw"])
                times[name].append(took)
                if number == starts - 1:
                    fresh = server.rss()
                    run_wrk(server.port, workload.requests["raw"], 32, seconds, OUT)
                    memory[name] = [fresh, server.rss()]
        times[FLOOR].append(_floor(workload))
    lines = []
    for name, taken in times.items():
        fresh, loaded = memory.get(name, [0.0, 0.0])
        weights = [f"{fresh:.0f}", f"{loaded:.0f}"] if name in memory else ["", ""]
        lines.append([name, f"{median(taken):.3f}", f"{min(taken):.3f} - {max(taken):.3f}", *weights])
    head = ["server", "cold start s", "lowest - highest", "memory MB, fresh", "after 32 connections"]
    text = "## cold start and memory, tiny model\n\n" + table(head, lines)
    if "rung" in memory:
        cold = verdict(median(times["rung"]), MAX_SECONDS, at_least=False)
        heavy = verdict(memory["rung"][1], MAX_MB, at_least=False)
        text += f"\n\ncold start within {MAX_SECONDS} s: {cold}; memory within {MAX_MB:.0f} MB: {heavy}"
    write("startup", text, {"seconds": times, "rss_mb": memory}, OUT)


def _floor(workload: Workload) -> float:
    started = perf_counter()
    subprocess.run([sys.executable, "-c", _FLOOR_CODE, str(Path(workload.file))], check=True, timeout=60)
    return perf_counter() - started
