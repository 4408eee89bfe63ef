"""Requests that are answered later, over every queue and both databases: each item ends once, whatever is killed."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rung.domain.inference import NewItem, NewRequest
from rung.jobs.brokers import QueuePlace, open_queue
from rung.offline.dispatch import Dispatcher, DispatchOptions
from rung.offline.door import Reply
from rung.offline.requests import Requests
from rung.ports import Queue
from rung.store.database import Database, open_database
from rung.testing.brokers import BrokerServer, serve_broker
from rung.testing.postgres import serve_postgres

LEASE = 1.0
KINDS = ("sqlite", "postgresql", "nats", "valkey")


class Echo:
    """In place of a `Door`: answers with what it is sent, refuses sevens, and notes the order."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def ask(self, request: Any, seconds: float) -> Reply:
        number = msgspec.json.decode(request.body)[0]
        self.asked.append(number)
        await asyncio.sleep(0)
        if number % 10 == 7:
            return Reply(400, {}, b'{"error": "sevens are not taken"}')
        return Reply(200, {"content-type": "application/json"}, request.body)

    def close(self) -> None:
        pass


class Scene:
    """A database, a queue's place, and its server where it has one."""

    def __init__(self, database: Database, url: str, server: BrokerServer | None) -> None:
        self.database, self.server = database, server
        self._place = QueuePlace(url, "later", LEASE)
        self._queues: list[Queue] = []

    def queue(self) -> Queue:
        self._queues.append(open_queue(self._place, self.database))
        return self._queues[-1]

    def close(self) -> None:
        for queue in self._queues:
            queue.close()


@pytest.fixture(params=KINDS)
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    kind = request.param
    with ExitStack() as stack:
        server = stack.enter_context(serve_broker(kind, tmp_path)) if kind in ("nats", "valkey") else None
        place = stack.enter_context(serve_postgres()) if kind == "postgresql" else f"sqlite:{tmp_path}/rung.db"
        database = stack.enter_context(open_database(place))
        found = Scene(database, server.url if server is not None else "sql", server)
        stack.callback(found.close)
        yield found


def asked(numbers: range, **more: Any) -> NewRequest:
    items = tuple(NewItem(b"[%d]" % number, "application/json", str(number)) for number in numbers)
    return NewRequest(model="m", items=items, **more)


@pytest.mark.timeout(300)
def test_every_item_ends_once_where_workers_end_and_the_broker_is_killed(scene: Scene) -> None:
    queue = scene.queue()
    requests = Requests(scene.database, lambda: queue)
    starts = range(0, 120, 20)
    free = [requests.accept(asked(range(start, start + 20), priority=start // 20 % 2)).id for start in starts]
    lines = [requests.accept(asked(range(start, start + 10), key="k")).id for start in range(1000, 1030, 10)]
    every = [*free, *lines]
    replicas = Echo()

    def ended() -> int:
        return sum(sum(n for state, n in requests.get(one).counts.items() if state != "waiting") for one in every)

    async def one_worker(until: int, *, killed: bool) -> None:
        """Work until so many have ended; then end, or just cease, with leases and answers in hand."""
        mine = scene.queue()
        options = DispatchOptions(in_flight=16, lease_seconds=LEASE, poll_seconds=0.02, drain_seconds=1.0)
        worker = Dispatcher(lambda: mine, scene.database, replicas, options)  # type: ignore[arg-type]
        running = asyncio.create_task(worker.run())
        async with asyncio.timeout(100):
            while await asyncio.to_thread(ended) < until:
                assert not running.done(), running.exception()
                await asyncio.to_thread(requests.turn, 1e6)
                await asyncio.sleep(0.02)
        if killed:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            mine.close()
        else:
            worker.stop()
            await running

    for step in range(1, 4):
        asyncio.run(one_worker(step * 30, killed=step % 2 == 1))
        if scene.server is not None:
            scene.server.kill()
            scene.server.start()
    asyncio.run(one_worker(150, killed=False))
    found = [item for one in every for item in requests.answers(one)]
    assert Counter(item.state for item in found) == {"done": 135, "failed": 15}
    for item in found:
        if item.state == "done":
            assert msgspec.json.decode(bytes(item.answer)) == [int(item.id)]
    firsts = list(dict.fromkeys(number for number in replicas.asked if number >= 1000))
    assert firsts == sorted(firsts), "items of a key are asked in their order"
