"""What each queue carries: put in batches, taken in batches by another process, settled with a result in a database.

Tiny messages that cost nothing, so that only the queue and the results are measured. `python offline.py QUEUE
DATABASE` is the other process.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from sqlalchemy import Connection, text

from rung.domain.messages import Message, Outcome
from rung.jobs.brokers import QueuePlace, open_queue
from rung.ports import Queue
from rung.store.database import Database, open_database
from rung.testing.brokers import serve_broker
from rung.testing.postgres import serve_postgres
from rung.testing.queue_scenes import with_results, write_results

__all__ = ["offline"]

AT_ONCE = 500
NAME = "bench"


class Case(NamedTuple):
    """A queue, and where its results go."""

    queue: str
    database: str
    target: int = 0
    """Messages a second, end to end, on two cores; 0: none is set."""


CASES = (
    Case("sql", "sqlite", 3000),
    Case("sql", "postgresql", 5000),
    Case("nats", "sqlite"),
    Case("nats", "postgresql"),
    Case("valkey", "sqlite"),
    Case("valkey", "postgresql"),
)


def offline(*, messages: int = 20_000, rounds: int = 3) -> None:
    """Measure every queue, in turn."""
    from processes import OUT
    from report import table, write

    rows: list[dict[str, Any]] = [
        {"round": number, "queue": case.queue, "database": case.database, "keyed": keyed, **_measure(case, count)}
        for number in range(rounds)
        for case in CASES
        for keyed, count in ((False, _messages(messages)), (True, _messages(messages // 5, keys=100)))
    ]
    lines = []
    for case in CASES:
        for keyed in (False, True):
            mine = [row for row in rows if (row["queue"], row["database"], row["keyed"]) == (*case[:2], keyed)]
            rates = sorted(row["rate"] for row in mine)
            middle = rates[len(rates) // 2]
            verdict = f"{'reached' if middle >= case.target else 'missed'}: {case.target:,}" if case.target else ""
            lines.append(
                [
                    case.queue,
                    case.database,
                    "in order by 100 keys" if keyed else "no order",
                    f"{middle:,.0f}",
                    f"{rates[0]:,.0f} to {rates[-1]:,.0f}",
                    *(f"{sorted(row[what] for row in mine)[len(mine) // 2]:,.0f}" for what in ("put", "taken", "cost")),
                    "" if keyed else verdict,
                ]
            )
    head = [
        "queue",
        "results in",
        "messages",
        "end to end/s",
        "spread",
        "put alone/s",
        "taken alone/s",
        "processor us",
        "target",
    ]
    title = f"## Queues, {messages:,} messages (a fifth in order), {AT_ONCE} at once, one taker"
    write("offline", f"{title}\n\n{table(head, lines)}", rows, OUT)


def _messages(count: int, keys: int = 0) -> list[Message]:
    return [
        Message(
            id=f"m{number:07d}", topic="t", body=b'{"number": %d}' % number, key=f"k{number % keys}" if keys else ""
        )
        for number in range(count)
    ]


def _measure(case: Case, messages: Sequence[Message]) -> dict[str, float]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = "sql" if case.queue == "sql" else stack.enter_context(serve_broker(case.queue, folder / "broker")).url
        results = f"sqlite:{folder}/rung.db" if case.database == "sqlite" else stack.enter_context(serve_postgres())
        database = with_results(stack.enter_context(open_database(results)))
        # Each alone: nobody takes while one process puts, then it takes what it has put.
        alone = open_queue(QueuePlace(url, "alone", 60.0), database)
        put, taken = _timed(lambda: _put(alone, messages)), _timed(lambda: _drain(alone, len(messages)))
        alone.close()
        queue = open_queue(QueuePlace(url, NAME, 60.0), database)
        with _taker(url, results):
            first = [Message(id=f"first{number}") for number in range(100)]
            queue.put(first)
            _until(lambda: _count(database) == len(first))
            worked, began = _processor(), time.perf_counter()
            _put(queue, messages)
            _until(lambda: _count(database) == len(first) + len(messages))
            both, cost = time.perf_counter() - began, _processor() - worked
        queue.close()
    rates = {what: len(messages) / seconds for what, seconds in (("rate", both), ("put", put), ("taken", taken))}
    return {**rates, "cost": cost / len(messages) * 1e6}


def _put(queue: Queue, messages: Sequence[Message]) -> None:
    for start in range(0, len(messages), AT_ONCE):
        queue.put(messages[start : start + AT_ONCE])


def _drain(queue: Queue, count: int) -> None:
    while count:
        leases = queue.take(AT_ONCE)
        count -= len(queue.settle([Outcome(lease) for lease in leases]))


def _count(database: Database) -> int:
    def look(connection: Connection) -> int:
        return int(connection.execute(text("SELECT count(*) FROM results")).scalar_one())

    return database.read(look)


def _processor() -> float:
    """Seconds of processors that this process, the taker and the servers have used."""
    me = psutil.Process()
    total = 0.0
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _until(done: Callable[[], bool]) -> None:
    while not done():
        time.sleep(0.05)


@contextmanager
def _taker(url: str, results: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, str(Path(__file__)), url, results], cwd=Path(__file__).parent)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _take(url: str, results: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    with open_database(results) as database:
        queue = open_queue(QueuePlace(url, NAME, 60.0), database)
        while True:
            leases = queue.take(AT_ONCE)
            if leases:
                queue.settle([Outcome(lease) for lease in leases], write_results())
            else:
                time.sleep(0.005)


if __name__ == "__main__":
    _take(sys.argv[1], sys.argv[2])
