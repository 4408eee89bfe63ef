"""Requests in a SQLite file, with the SQL queue or one that may lose messages, and replicas that follow a script."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from rung.domain.errors import NotReady
from rung.domain.messages import Lease, Means
from rung.jobs.brokers import QueuePlace, open_queue
from rung.offline.dispatch import Dispatcher, DispatchOptions
from rung.offline.door import Broken, Reply
from rung.offline.requests import Requests
from rung.store.database import open_database


class Clock:
    def __init__(self) -> None:
        self.now = 1.8e9

    def __call__(self) -> float:
        return self.now


class Away:
    """A queue apart from the database, which may be out of reach, lose what it holds, and give things twice."""

    def __init__(self, database: Any) -> None:
        self.database = database
        self.means = Means(ack="memory", words="for tests", largest=1 << 20)
        self.held: list[Any] = []
        self.away = False

    def put(self, messages: Any, beside: Any = None) -> None:
        if beside is not None:
            self.database.write(beside)
        if self.away:
            raise NotReady("the queue is away")
        self.held += messages

    def take(self, count: int) -> list[Lease]:
        taken, self.held = self.held[:count], self.held[count:]
        return [Lease(one, 1) for one in taken]

    def renew(self, leases: Any) -> set[str]:
        return {lease.message.id for lease in leases}

    def settle(self, outcomes: Any, beside: Any = None) -> set[str]:
        if beside is not None:
            self.database.write(lambda connection: beside(connection, outcomes))
        self.held += [one.lease.message for one in outcomes if one.ending in ("again", "returned")]
        return {one.lease.message.id for one in outcomes}

    def close(self) -> None:
        pass


class Replicas:
    """In place of a `Door`: answers as `say` does, which gets the body and how often that was asked."""

    def __init__(self, say: Callable[[bytes, int], Any] | None = None) -> None:
        self.say = say or (lambda body, _: body)
        self.asked: list[Any] = []
        self.bodies: Counter[bytes] = Counter()
        self.gate: asyncio.Event | None = None

    async def ask(self, request: Any, seconds: float) -> Reply:
        self.asked.append(request)
        self.bodies[request.body] += 1
        said = self.say(request.body, self.bodies[request.body])
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(0)
        if isinstance(said, Exception):
            raise said
        if isinstance(said, int):
            return Reply(said, {}, msgspec.json.encode({"error": f"it said {said}"}))
        return Reply(200, {"content-type": "application/json", "rung-version": "3"}, said)

    def close(self) -> None:
        pass


class Bench:
    """All of it, with a clock to set."""

    def __init__(self, database: Any, queue: Any, clock: Clock) -> None:
        self.database, self.queue, self.clock = database, queue, clock
        self.requests = Requests(database, lambda: queue, clock)

    async def work(self, replicas: Replicas, until: Callable[[], object], **options: Any) -> None:
        """Run a dispatcher until something is so."""
        options = {"poll_seconds": 0.01, **options}
        dispatcher = Dispatcher(
            lambda: self.queue,
            self.database,
            replicas,
            DispatchOptions(**options),
            self.clock,  # type: ignore[arg-type]
        )
        running = asyncio.create_task(dispatcher.run())
        async with asyncio.timeout(30):
            while not until():
                assert not running.done(), running.result()
                await asyncio.sleep(0.005)
        dispatcher.stop()
        await running

    def ended(self, *requests: str) -> Callable[[], bool]:
        return lambda: all(self.requests.get(one).state != "open" for one in requests)


@pytest.fixture
def database(tmp_path):
    with open_database(f"sqlite:///{tmp_path}/rung.db") as found:
        yield found


@pytest.fixture
def bench(database):
    return Bench(database, open_queue(QueuePlace("sql", "test"), database), Clock())


@pytest.fixture
def lossy(database):
    return Bench(database, Away(database), Clock())


@pytest.fixture
def replicas():
    return Replicas


@pytest.fixture
def broken():
    return Broken("the connection ended")
