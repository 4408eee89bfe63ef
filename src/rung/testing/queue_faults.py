"""What a queue has to bear when its server is killed and comes back, whatever carries its messages."""

import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import count as count_up
from threading import Event, Thread
from time import monotonic

import msgspec
import pytest
from sqlalchemy import Connection, text

from rung.domain.errors import NotReady
from rung.domain.messages import Message, Outcome
from rung.ports import Queue
from rung.testing.queue_scenes import QueueScene, results_of, until

__all__ = ["FaultScene", "QueueFaultsConformance"]

_LEASE = 1.0
_SOON = 15.0
"""Seconds within which a method has to say that the server is away."""
_PATIENCE = 300.0


class FaultScene(msgspec.Struct):
    """A queue whose server can be killed."""

    scene: QueueScene
    kill: Callable[[], None]
    """End the server as a crash would."""
    start: Callable[[], None]
    """Start it again, on the same files and the same address."""


class QueueFaultsConformance:
    """Inherit this and give it a `faults` fixture: an empty queue on a server that runs."""

    @pytest.fixture
    def faults(self) -> FaultScene:
        """Replaced by whoever tests a queue."""
        raise NotImplementedError

    def test_says_so_at_once_and_goes_on_afterwards(self, faults: FaultScene) -> None:
        """Every method, within seconds; what was accepted before is still there."""
        with faults.scene.open(_LEASE) as queue:
            queue.put([Message(id=name) for name in "abc"])
            [first] = until(lambda: queue.take(1))
            faults.kill()
            for call in (lambda: queue.put([Message(id="x")]), lambda: queue.take(1), lambda: queue.renew([first])):
                began = monotonic()
                with pytest.raises(NotReady):
                    call()
                assert monotonic() - began < _SOON
            faults.start()
            until(lambda: _done(lambda: queue.put([Message(id="later")])), "the server")
            left = {"a", "b", "c", "later"}

            def step() -> bool:
                def work() -> None:
                    leases = queue.take(9)
                    left.difference_update(queue.settle([Outcome(lease) for lease in leases]))

                _done(work)
                return not left

            until(step, "every message")

    def test_killed_and_restarted_under_load(self, faults: FaultScene) -> None:
        """Nothing is lost, nothing has two results, and keys keep their order."""
        _Storm(faults, count=400, kills=3).run()

    @pytest.mark.nightly
    @pytest.mark.timeout(600)
    def test_ten_kills_and_ten_thousand_messages(self, faults: FaultScene) -> None:
        """The same for longer."""
        _Storm(faults, count=10_000, kills=10).run()


class _Storm:
    """One thread puts, three take and write results, and the server is killed at even shares of the results."""

    def __init__(self, faults: FaultScene, *, count: int, kills: int) -> None:
        self.faults, self.kills = faults, kills
        rng = random.Random(count)  # noqa: S311 - the same keys each time
        self.messages = [
            Message(id=f"{n:06d}", key=f"k{rng.randrange(20)}" if n % 4 == 0 else "", priority=n % 3 - 1)
            for n in range(count)
        ]
        self.numbers = count_up(1)
        """Drawn by results inside their transactions: of one key, the later has the larger."""
        self.ended = Event()
        self.errors: list[BaseException] = []

    def run(self) -> None:
        """Raises AssertionError where the promise is broken."""
        with ExitStack() as stack:
            # Opened before the first kill: an open that fails is another story.
            queues = [stack.enter_context(self.faults.scene.open(_LEASE)) for _ in range(4)]
            works = [partial(self._put, queues[0]), *(partial(self._work, queue) for queue in queues[1:])]
            self._flow([Thread(target=self._guarded, args=(work,)) for work in works])
        assert not self.errors, self.errors
        ids = [message.id for message in self.messages]
        found = results_of(self.faults.scene.database)
        assert sorted(found) == ids
        for key in {message.key for message in self.messages} - {""}:
            numbers = [found[message.id] for message in self.messages if message.key == key]
            assert numbers == sorted(numbers), f"order of {key}"

    def _flow(self, threads: list[Thread]) -> None:
        for thread in threads:
            thread.start()
        try:
            for number in range(self.kills):
                self._wait(number * len(self.messages) // self.kills + 1)
                self.faults.kill()
                self.faults.start()
            self._wait(len(self.messages))
        finally:
            self.ended.set()
            for thread in threads:
                thread.join()

    def _wait(self, count: int) -> None:
        ends = monotonic() + _PATIENCE
        while (there := self._count()) < count and not self.errors:
            assert monotonic() < ends, f"{there} of {count} results after {_PATIENCE:g} seconds"
            self.ended.wait(0.05)

    def _count(self) -> int:
        query = text("SELECT count(*) FROM results")
        try:
            return int(self.faults.scene.database.read(lambda connection: connection.execute(query).scalar_one()))
        except NotReady:
            return 0

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            self.errors.append(error)

    def _put(self, queue: Queue) -> None:
        for start in range(0, len(self.messages), 20):
            part = self.messages[start : start + 20]
            while not self.ended.is_set() and not _done(partial(queue.put, part)):
                self.ended.wait(0.02)

    def _work(self, queue: Queue) -> None:
        while not self.ended.is_set():
            try:
                leases = queue.take(10)
                if leases:
                    queue.settle([Outcome(lease) for lease in leases], self._write)
                else:
                    self.ended.wait(0.01)
            except NotReady:
                self.ended.wait(0.02)

    def _write(self, connection: Connection, outcomes: Sequence[Outcome]) -> None:
        statement = text("INSERT INTO results (id, what) VALUES (:id, :what) ON CONFLICT (id) DO NOTHING")
        rows = [{"id": outcome.lease.message.id, "what": f"{next(self.numbers):09d}"} for outcome in outcomes]
        connection.execute(statement, rows)


def _done(call: Callable[[], None]) -> bool:
    try:
        call()
    except NotReady:
        return False
    return True
