"""A crash at every point where asking later writes something: each item ends once, and whoever asked is told once.

Points are before and after each call of the queue, and in each transaction before it begins, before it commits and
after it has. A process does the whole way from `accept` to the last answer and is killed at the first point; another
one goes on with what is there. Then the same with the second point, until nothing is left to be killed at.
"""

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rung.domain.inference import NewItem, NewRequest
from rung.jobs.brokers import QueuePlace, open_queue
from rung.jobs.tables import JOBS
from rung.offline.dispatch import Dispatcher, DispatchOptions
from rung.offline.door import Reply
from rung.offline.endings import CALL
from rung.offline.requests import Requests
from rung.store.database import Database, open_database
from rung.testing.brokers import serve_broker

LEASE = 0.4
ITEMS = 3
LATER = 10.0
"""Seconds by which the second process is later: beyond those after which messages are put in again."""


class Points:
    """Counts the points that are passed, and kills its process at one of them."""

    def __init__(self, fatal: int) -> None:
        self.fatal, self.passed = fatal, 0

    def step(self) -> None:
        self.passed += 1
        if self.passed == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, thing: Any, name: str) -> None:
        real = getattr(thing, name)

        def call(*arguments: Any) -> Any:
            self.step()
            done = real(*arguments)
            self.step()
            return done

        setattr(thing, name, call)

    def within(self, database: Database) -> None:
        real = database.write

        def write(work: Any) -> Any:
            def whole(connection: Any) -> Any:
                done = work(connection)
                self.step()
                return done

            self.step()
            done = real(whole)
            self.step()
            return done

        database.write = write  # type: ignore[method-assign]


class Answering:
    """In place of a `Door`: answers with what it is sent, and notes what was asked in a file."""

    def __init__(self, noted: Path) -> None:
        self._noted = noted

    async def ask(self, request: Any, seconds: float) -> Reply:
        with self._noted.open("ab") as file:
            file.write(request.body + b"\n")
        return Reply(200, {"content-type": "application/json"}, request.body)

    def close(self) -> None:
        pass


def whole_way(folder: Path, url: str, name: str, fatal: int, later: float) -> None:
    """Ask for three items in order and see them answered; the process may be killed on the way."""
    points = Points(fatal)
    with open_database(f"sqlite:{folder}/rung.db") as database:
        points.within(database)
        queue = open_queue(QueuePlace(url, name, LEASE), database)
        for call in ("put", "take", "settle"):
            points.around(queue, call)
        requests = Requests(database, lambda: queue, lambda: time.time() + later)
        items = tuple(NewItem(b"[%d]" % number, "application/json", str(number)) for number in range(ITEMS))
        new = NewRequest(model="m", items=items, key="k", idempotency_key="once", callback="https://example.org/done")
        request = requests.accept(new).id
        asyncio.run(answered(database, queue, requests, request, Answering(folder / "asked")))
        queue.close()
    os._exit(0)


async def answered(database: Database, queue: Any, requests: Requests, request: str, replicas: Any) -> None:
    options = DispatchOptions(lease_seconds=LEASE, poll_seconds=0.02, drain_seconds=1.0)
    worker = Dispatcher(lambda: queue, database, replicas, options)  # type: ignore[arg-type]
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(60):
        while requests.get(request).state == "open":
            requests.turn(1e6)
            await asyncio.sleep(0.01)
    worker.stop()
    await running


@pytest.fixture(params=["sql", "nats"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a queue."""
    with ExitStack() as stack:
        yield "sql" if request.param == "sql" else stack.enter_context(serve_broker(request.param, tmp_path)).url


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_crash_at_every_point_leaves_one_end_of_each_item(place: str, tmp_path: Path) -> None:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])
    fatal = 0
    while True:
        fatal += 1
        folder = tmp_path / str(fatal)
        folder.mkdir()
        exits = []
        for kill_at, later in ((fatal, 0.0), (0, LATER)):
            process = processes.Process(target=whole_way, args=(folder, place, f"later{fatal}", kill_at, later))
            process.start()
            process.join(90)
            exits.append(process.exitcode)
        assert exits[1] == 0, f"after a crash at point {fatal}"
        check(folder, fatal)
        if exits[0] == 0:
            break
        assert exits[0] == -signal.SIGKILL
    # Accepting is one transaction, and so are taking and ending each item.
    assert fatal > 3 * (1 + 2 * ITEMS)


def check(folder: Path, fatal: int) -> None:
    """One request, each item answered once and right, asked in order, one callback."""
    with open_database(f"sqlite:{folder}/rung.db") as database:
        requests = Requests(database, lambda: None)  # type: ignore[arg-type, return-value]
        [shown] = requests.find("m")
        found = [(item.state, bytes(item.answer)) for item in requests.answers(shown.id)]
        calls = database.read(lambda connection: connection.execute(JOBS.select().where(JOBS.c.kind == CALL)).all())
    assert found == [("done", b"[%d]" % number) for number in range(ITEMS)], f"point {fatal}"
    assert len(calls) == 1, f"point {fatal}"
    asked = [msgspec.json.decode(line)[0] for line in (folder / "asked").read_bytes().splitlines()]
    assert list(dict.fromkeys(asked)) == list(range(ITEMS)), f"point {fatal}"
    assert len(asked) <= ITEMS + 1, "one crash has one item asked again at most"
