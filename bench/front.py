"""What HAProxy in front costs: the same replicas asked through it and without it, in turns.

One replica is asked on its own port and through the front. Two are asked through the front and, in a second project,
on the port that they share. The load generator, HAProxy and the replicas share the cores.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from processes import OUT
from report import table, write
from workloads import Workload, prepare
from wrk import run_wrk

from rung.catalog.models import register
from rung.store.blobs import DiskStore

__all__ = ["front", "project"]

CASES = (("tiny", "raw", 1), ("tiny", "raw", 32), ("tiny", "json", 32), ("seg", "raw", 1), ("seg", "raw", 8))


def front(rounds: int, seconds: float) -> None:
    """Measure all cases in each round, and write the ratios of neighbours."""
    models = {name: prepare(name, OUT / "models") for name in ("tiny", "seg")}
    rows: list[dict[str, object]] = []
    with TemporaryDirectory(dir=OUT) as folder, project(Path(folder) / "one", models, 1, "on") as one:
        own = next(role["url"] for role in one["roles"] if role["role"] == "replica")
        rows += _measure("one replica", {"without": own, "with": one["url"]}, models, rounds, seconds)
    with (
        TemporaryDirectory(dir=OUT) as folder,
        project(Path(folder) / "with", models, 2, "on") as two,
        project(Path(folder) / "without", models, 2, "off") as shared,
    ):
        rows += _measure("two replicas", {"without": shared["url"], "with": two["url"]}, models, rounds, seconds)
    write("front", _report(rows), rows, OUT)


@contextmanager
def project(
    folder: Path, models: dict[str, Workload], replicas: int, use: str, *, max_wait_ms: int = 60_000
) -> Iterator[dict]:
    """A project that is up; what it says of itself."""
    folder.mkdir()
    (folder / "rung.toml").write_text(
        f'[project]\nname = "bench"\nlog = ""\n\n[serve]\nmax_wait_ms = {max_wait_ms}\n\n[front]\nuse = "{use}"\n'
    )
    store = DiskStore(folder / ".rung" / "repository")
    for name, workload in models.items():
        register(store, workload.file, name=name, **workload.terms)
    command = [sys.executable, "-m", "rung", "up", "--port", "0", "--control-port", "0", "--workers", "0", "--json"]
    with (OUT / "front.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "--replicas", str(replicas)], cwd=folder, stdout=subprocess.PIPE, stderr=log, env=os.environ
        )
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield json.loads((folder / ".rung" / "up.json").read_bytes())
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stdout.close()


def _measure(
    what: str, places: dict[str, str], models: dict[str, Workload], rounds: int, seconds: float
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for number in range(rounds):
        for model, body, connections in CASES:
            # The next round begins with the other one.
            for place in sorted(places, reverse=bool(number % 2)):
                port, request = int(places[place].rpartition(":")[2]), models[model].requests[body]
                run_wrk(port, request, connections, 1.0, OUT)
                found = run_wrk(port, request, connections, seconds, OUT)
                case = f"{model} {body} {connections}"
                rows.append({"what": what, "case": case, "place": place, "round": number, **found})
    return rows


def _report(rows: list[dict[str, object]]) -> str:
    lines = []
    for what, case in dict.fromkeys((row["what"], row["case"]) for row in rows):
        mine = [row for row in rows if (row["what"], row["case"]) == (what, case)]
        with_, without = ([row for row in mine if row["place"] == place] for place in ("with", "without"))
        ratios = [a["rate"] / b["rate"] for a, b in zip(with_, without, strict=True)]
        slower = [a["p50"] / b["p50"] for a, b in zip(with_, without, strict=True)]
        line = [str(what), str(case)]
        for field, form in (("rate", ",.0f"), ("p50", ".3f"), ("p99", ".2f")):
            line += [format(median(row[field] for row in some), form) for some in (without, with_)]
        lines.append([*line, f"{median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})", f"{median(slower):.2f}"])
    head = ["", "case", "requests/s", "with front", "p50 ms", "with front", "p99 ms", "with front", "rate", "p50"]
    return table(head, lines)
