"""The job table end to end: submitted in batches, claimed in batches by worker processes, done with a result.

On SQLite in a file and on PostgreSQL, with small messages that cost nothing, so that only the queue is measured.
`python jobs.py URL` is one of the worker processes.
"""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rung.domain.jobs import Handler, NewJob
from rung.jobs.context import JobContext
from rung.jobs.queue import JobStore
from rung.jobs.worker import Worker, WorkerOptions
from rung.store.database import open_database
from rung.telemetry import configure_logs
from rung.testing.postgres import serve_postgres

__all__ = ["answer", "jobs"]

WORKERS = 1
"""Processes beside the one that submits: a core each."""
SUBMITTED_AT_ONCE = 500
TARGETS = {"sqlite": 3000, "postgresql": 5000}
"""Messages a second, end to end, on two cores."""


def answer(context: JobContext) -> dict[str, int]:
    """A job that costs nothing."""
    return {"answer": context.arguments["number"]}


def jobs(*, messages: int = 30_000, rounds: int = 3) -> None:
    """Measure both databases, in turn."""
    from processes import OUT
    from report import table, write

    rows: list[dict[str, Any]] = [
        {"round": number, "engine": engine, "keyed": keyed, **_measure(engine, messages, keyed)}
        for number in range(rounds)
        for engine in TARGETS
        for keyed in (False, True)
    ]
    lines = []
    for engine, target in TARGETS.items():
        for keyed in (False, True):
            mine = [row for row in rows if (row["engine"], row["keyed"]) == (engine, keyed)]
            rates = sorted(row["rate"] for row in mine)
            middle = rates[len(rates) // 2]
            lines.append(
                [
                    engine,
                    "in order by 100 keys" if keyed else "no order",
                    f"{middle:,.0f}",
                    f"{rates[0]:,.0f} to {rates[-1]:,.0f}",
                    f"{sum(row['submitted'] for row in mine) / len(mine):,.0f}",
                    "" if keyed else f"{'reached' if middle >= target else 'missed'}: {target:,}",
                ]
            )
    head = ["database", "messages", "end to end/s", "spread", "submitted alone/s", "target"]
    write("jobs", f"## Job table, {messages:,} messages, {WORKERS} worker\n\n" + table(head, lines), rows, OUT)


def _measure(engine: str, messages: int, keyed: bool) -> dict[str, float]:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        url = f"sqlite:{folder}/rung.db" if engine == "sqlite" else stack.enter_context(serve_postgres())
        store = JobStore(stack.enter_context(open_database(url)))
        # How fast one process submits while nobody works.
        alone = _submit(store, "other", messages // 5, keyed)
        command = [sys.executable, str(Path(__file__)), url]
        workers = [subprocess.Popen(command, cwd=Path(__file__).parent) for _ in range(WORKERS)]
        try:
            # Once each has done something, all are up.
            first = store.submit_many([NewJob(kind="answer", arguments={"number": n}) for n in range(100 * WORKERS)])
            _until(lambda: store.counts()["answer"].get("done", 0) == len(first))
            began = time.perf_counter()
            _submit(store, "answer", messages, keyed)
            _until(lambda: store.counts()["answer"].get("done", 0) == messages + len(first))
            rate = messages / (time.perf_counter() - began)
        finally:
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
                worker.wait()
    return {"rate": rate, "submitted": alone}


def _submit(store: JobStore, kind: str, messages: int, keyed: bool) -> float:
    began = time.perf_counter()
    for start in range(0, messages, SUBMITTED_AT_ONCE):
        numbers = range(start, min(start + SUBMITTED_AT_ONCE, messages))
        store.submit_many(
            [NewJob(kind=kind, arguments={"number": n}, key=f"{kind}{n % 100}" if keyed else "") for n in numbers]
        )
    return messages / (time.perf_counter() - began)


def _until(done: Callable[[], bool]) -> None:
    while not done():
        time.sleep(0.05)


def _work(url: str) -> None:
    configure_logs(level="error")
    handlers = {"answer": Handler("jobs:answer")}

    async def run() -> None:
        with open_database(url) as database:
            worker = Worker(JobStore(database), handlers, WorkerOptions(), name=f"bench-{os.getpid()}")
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
            await worker.run()

    asyncio.run(run())


if __name__ == "__main__":
    _work(sys.argv[1])
