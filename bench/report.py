"""Medians, spread, ratios and the verdict on each target, as Markdown and JSON."""

import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

from serving import BARE, CASES, Row

__all__ = ["machine", "serving_report", "table", "verdict", "write"]

# What was measured of the Open Inference Protocol's other servers, as shares of the probe on the same machine and
# day (requests/s at 32 connections): Triton's Python backend 15,700 of 103,000 in JSON; PyTriton 6,000 of 110,000
# in binary. They are too large to install for each run, so the targets against them are stated on the probe.
TRITON_PYTHON_OF_PROBE = 15_700 / 103_000
PYTRITON_OF_PROBE = 6_000 / 110_000


@dataclass(frozen=True)
class Target:
    """A bound on one number, computed from rung's row and its peer's in each round."""

    case: str
    peer: str
    what: str
    value: Callable[[Row, Row], float]
    bound: float
    at_least: bool = True
    every_round: bool = False
    """The worst round counts, not the median."""


def _rate(rung: Row, peer: Row) -> float:
    return rung.rate / peer.rate


TARGETS = [
    Target("tiny raw 32", "mosec", "requests/s, times mosec's with batching", _rate, 2.0),
    Target("tiny raw 32", "probe", "requests/s, times the probe's", _rate, 0.7),
    Target("tiny json 32", "probe", "the same: 4 times Triton's Python backend", _rate, 4 * TRITON_PYTHON_OF_PROBE),
    Target("tiny binary 32", "probe", "the same: 10 times PyTriton", _rate, 10 * PYTRITON_OF_PROBE),
    Target("tiny raw 1", "rung", "p50, ms", lambda rung, _: rung.p50, 0.12, at_least=False),
    Target("tiny raw 1", "mosec unbatched", "p50, times its", lambda a, b: a.p50 / b.p50, 0.12 / 0.155, at_least=False),
    Target("tiny raw 1", "mosec", "p50, times its", lambda a, b: a.p50 / b.p50, 0.12 / 2.4, at_least=False),
    Target("seg raw 8", BARE, "requests/s, times its, worst round", _rate, 0.95, every_round=True),
    Target("seg raw 8", "rung", "p99 / p50", lambda rung, _: rung.p99 / rung.p50, 1.5, at_least=False),
    Target("seg raw 1", BARE, "p50, ms more than it", lambda a, b: a.p50 - b.p50, 1.0, at_least=False),
]


def machine() -> dict[str, object]:
    """What the numbers depend on besides the code."""
    model = next((x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), "")
    return {
        "cpu": model.partition(":")[2].strip() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("onnxruntime", "numpy", "uvloop", "httptools")},
        "load_before": os.getloadavg()[0],
    }


def serving_report(rows: list[Row]) -> str:
    """One table per case, then the targets."""
    parts = [_case_table(case.name, rows) for case in CASES if any(row.case == case.name for row in rows)]
    verdicts = [line for line in (_judge(target, rows) for target in TARGETS) if line]
    if verdicts:
        parts.append("## targets\n\n" + table(["case", "against", "what", "measured", "target", ""], verdicts))
    failures = [f"- {row.case}, {row.server}, round {row.round + 1}: {row.failed}" for row in rows if row.failed]
    if failures:
        parts.append("## failed\n\n" + "\n".join(failures))
    return "\n\n".join(parts)


def table(head: list[str], lines: list[list[str]]) -> str:
    """A Markdown table with aligned columns."""
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    rule = ["-" * width for width in widths]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in [head, rule, *lines]]
    return "\n".join("| " + " | ".join(line) + " |" for line in padded)


def verdict(measured: float, bound: float, *, at_least: bool) -> str:
    """`met`, or by which part of the bound it was missed."""
    if measured >= bound if at_least else measured <= bound:
        return "met"
    return f"missed by {abs(measured - bound) / abs(bound):.0%}" if bound else "missed"


def write(name: str, text: str, data: object, folder: Path) -> None:
    """Print the text, and keep it beside the data."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(text + "\n")
    (folder / f"{name}.json").write_text(json.dumps({"machine": machine(), "data": data}, indent=2, default=asdict))
    print(f"\n{text}\n\nwritten to {folder / name}.md and .json")


def _case_table(case: str, rows: list[Row]) -> str:
    good = [row for row in rows if row.case == case and not row.failed]
    servers = list(dict.fromkeys(row.server for row in good))
    lines = []
    for server in sorted(servers, key=lambda name: name != "rung"):
        mine = [row for row in good if row.server == server]
        ratios = [rung.rate / peer.rate for rung, peer in _pairs(case, server, rows)]
        rates = [row.rate for row in mine]
        p50, p99, rss = (median(getattr(row, field) for row in mine) for field in ("p50", "p99", "rss"))
        ratio = f"{median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})" if ratios and server != "rung" else ""
        spread = f"{min(rates):,.0f} - {max(rates):,.0f}"
        lines.append([server, f"{median(rates):,.0f}", spread, f"{p50:.3f}", f"{p99:.3f}", f"{rss:.0f}", ratio])
    head = ["server", "requests/s", "lowest - highest", "p50 ms", "p99 ms", "memory MB", "rung / it"]
    return f"## {case} connection{'' if case.endswith(' 1') else 's'}\n\n" + table(head, lines)


def _judge(target: Target, rows: list[Row]) -> list[str]:
    values = [target.value(rung, peer) for rung, peer in _pairs(target.case, target.peer, rows)]
    if not values:
        return []
    worst = min(values) if target.at_least else max(values)
    measured = worst if target.every_round else median(values)
    bound = f"{'>=' if target.at_least else '<='} {target.bound:.3g}"
    said = verdict(measured, target.bound, at_least=target.at_least)
    return [target.case, target.peer, target.what, f"{measured:.3g}", bound, said]


def _pairs(case: str, peer: str, rows: list[Row]) -> list[tuple[Row, Row]]:
    """rung's row and the peer's of each round in which both succeeded."""
    found = {(row.server, row.round): row for row in rows if row.case == case and not row.failed}
    rounds = sorted({number for _, number in found})
    return [
        (found["rung", number], found[peer, number])
        for number in rounds
        if ("rung", number) in found and (peer, number) in found
    ]
