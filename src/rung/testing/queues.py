"""What every queue has to do, whatever carries its messages."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import monotonic
from typing import Any, NoReturn

import msgspec
import pytest
from sqlalchemy import text

from rung.domain.errors import InvalidInput, TooLarge
from rung.domain.messages import ACK_MEANS, Lease, Message, Outcome, failed, unfit
from rung.ports import Queue
from rung.testing.queue_machine import check_queue_machine
from rung.testing.queue_scenes import QueueScene, drain, results_of, until, write_results

__all__ = ["QueueConformance"]

_SHORT = 0.4
"""Seconds of a lease that is meant to run out."""
_RENEWED = 0.6
"""Seconds of a lease that is renewed for twice as long."""


def _ids(leases: Sequence[Lease]) -> list[str]:
    return [lease.message.id for lease in leases]


def _messages(count: int, **fields: Any) -> list[Message]:
    return [Message(id=f"m{number:04d}", topic="t", **fields) for number in range(count)]


class QueueConformance:
    """Inherit this and give it a `scene` fixture: a place with an empty queue, and no results."""

    @pytest.fixture
    def scene(self) -> QueueScene:
        """Replaced by whoever tests a queue."""
        raise NotImplementedError

    @pytest.fixture
    def queue(self, scene: QueueScene) -> Iterator[Queue]:
        """One user of it, whose leases do not run out."""
        with scene.open() as queue:
            yield queue

    def test_has_the_shape_of_the_port(self, queue: Queue) -> None:
        """And says what its word means."""
        assert isinstance(queue, Queue)
        assert queue.means.ack in ACK_MEANS
        assert queue.means.words
        assert queue.means.largest >= 512 << 10
        queue.close()
        queue.close()

    def test_gives_back_what_was_put(self, queue: Queue) -> None:
        """Every field and byte."""
        messages = [
            Message(id="plain"),
            Message(
                id="all:fields/1",
                topic="nuclei",
                body=bytes(range(256)) * 10,
                key="k ä",
                owner="ann",
                deadline=1.9e9,
                max_attempts=7,
                replay=3,
            ),
            Message(id="text", body="ä\u0000'\"\n".encode()),
            Message(id="high", priority=3),
            Message(id="low", priority=-3),
        ]
        queue.put(messages)
        leases = queue.take(10)
        assert {lease.message.id: lease.message for lease in leases} == {one.id: one for one in messages}
        assert {lease.attempts for lease in leases} == {1}

    def test_each_comes_once_and_is_done(self, scene: QueueScene, queue: Queue) -> None:
        """However many are taken at a time; each result is there when it is settled."""
        queue.put(_messages(100))
        assert queue.take(0) == []
        while leases := queue.take(7):
            assert len(leases) <= 7
            done = queue.settle([Outcome(lease) for lease in leases], write_results())
            assert done == set(_ids(leases))
            assert done <= results_of(scene.database).keys()
        assert len(results_of(scene.database)) == 100
        assert queue.settle([]) == queue.renew([]) == set()

    def test_an_id_is_one_message(self, queue: Queue) -> None:
        """Put again, and twice at once; with another `replay` it is another one."""
        queue.put(_messages(3) + _messages(3))
        queue.put(_messages(3))
        queue.put(_messages(1, replay=1))
        assert sorted(_ids(drain(queue))) == ["m0000", "m0000", "m0001", "m0002"]

    def test_refuses_all_where_one_does_not_fit(self, queue: Queue) -> None:
        """Naming the field."""
        for field, bad in (
            ("id", Message(id="")),
            ("id", Message(id="x" * 151)),
            ("id", Message(id="a b")),
            ("key", Message(id="a", key="line\nbreak")),
            ("topic", Message(id="a", topic="x" * 201)),
            ("priority", Message(id="a", priority=10**7)),
            ("max_attempts", Message(id="a", max_attempts=0)),
            ("deadline", Message(id="a", deadline=float("nan"))),
        ):
            with pytest.raises(InvalidInput) as caught:
                queue.put([*_messages(2), bad])
            assert caught.value.field == field
        with pytest.raises(TooLarge):
            queue.put([*_messages(2), Message(id="large", body=b"x" * (queue.means.largest + 1))])
        assert queue.take(9) == []
        queue.put([Message(id="largest", body=b"\xff" * queue.means.largest)])
        [lease] = queue.take(9)
        assert lease.message.body == b"\xff" * queue.means.largest

    def test_higher_priority_first_then_in_order(self, queue: Queue) -> None:
        """Above 0, 0, below 0; each number by itself only where that is promised."""
        strict = "strict priority" in queue.means.promises
        queue.put([Message(id=f"{number:02d}", priority=(number % 5) - 2) for number in range(20)])
        leases = [lease for _ in range(4) for lease in queue.take(5)]
        ranks = [lease.message.priority for lease in leases]
        if not strict:
            ranks = [(rank > 0) - (rank < 0) for rank in ranks]
        assert ranks == sorted(ranks, reverse=True)
        for rank in {-2, -1, 0, 1, 2}:
            line = [lease.message.id for lease in leases if lease.message.priority == rank]
            assert line == sorted(line)
            assert len(line) == 4

    def test_messages_of_a_key_come_one_at_a_time_in_order(self, queue: Queue) -> None:
        """Also past tries that fail, given up ones, and ones that are handed back."""
        queue.put([Message(id=f"{key}{number}", key=key) for number in range(4) for key in "ab"])
        order: dict[str, list[str]] = {"a": [], "b": []}
        ended: dict[str, list[str]] = {"a": [], "b": []}
        endings = iter(["again", "returned", "done", "dead", "again"])

        def step() -> bool:
            leases = queue.take(9)
            keys = [lease.message.key for lease in leases]
            assert len(keys) == len(set(keys))
            for lease in leases:
                ending: Any = next(endings, "done") if lease.message.key == "a" else "done"
                assert queue.settle([Outcome(lease, ending, "because", 0.05)]) == {lease.message.id}
                order[lease.message.key].append(lease.message.id)
                if ending in ("done", "dead"):
                    ended[lease.message.key].append(lease.message.id)
            return len(ended["a"]) == len(ended["b"]) == 4

        until(step, "the end of both keys")
        assert order == {"a": ["a0", "a0", "a0", "a1", "a2", "a2", "a3"], "b": ["b0", "b1", "b2", "b3"]}
        assert ended["a"] == ["a0", "a1", "a2", "a3"]

    def test_a_failed_try_comes_again_and_counts(self, queue: Queue) -> None:
        """Not before its pause is over; after the last it is dead, and gone."""
        queue.put([Message(id="a", max_attempts=3)])
        for attempt in (1, 2, 3):
            began = monotonic()
            [lease] = until(lambda: queue.take(9), "the next try")
            assert attempt == 1 or monotonic() - began >= 0.09
            assert lease.attempts == attempt
            outcome = failed(lease, "it does not work", pause=0.1)
            assert outcome.ending == ("dead" if attempt == 3 else "again")
            outcome = msgspec.structs.replace(outcome, delay=min(outcome.delay, 0.1))
            assert queue.settle([outcome]) == {"a"}
        assert queue.take(9) == []

    def test_handing_back(self, queue: Queue) -> None:
        """It comes again at once; where that is promised, as if it had not been tried."""
        queue.put([Message(id="a")])
        free = "free return" in queue.means.promises
        for turn in (1, 2, 3):
            [lease] = until(lambda: queue.take(9), "what was handed back")
            assert lease.attempts == (1 if free else turn)
            assert queue.settle([Outcome(lease, "returned")]) == {"a"}

    def test_a_lease_is_held_by_one(self, scene: QueueScene, queue: Queue) -> None:
        """What one has taken, another does not get; and what is settled is not held any more."""
        queue.put(_messages(10))
        with scene.open() as other:
            mine, others = queue.take(6), other.take(9)
            assert sorted(_ids(mine) + _ids(others)) == [f"m{number:04d}" for number in range(10)]
            assert queue.renew(mine) == set(_ids(mine))
            assert queue.settle([Outcome(lease) for lease in mine[:3]]) == set(_ids(mine[:3]))
            assert queue.renew(mine) == set(_ids(mine[3:]))
            assert queue.settle([Outcome(lease) for lease in mine], write_results()) == set(_ids(mine[3:]))
            assert results_of(scene.database).keys() == set(_ids(mine[3:]))
            drain(other)
            queue.put([Message(id=f"k{number}", key="k") for number in range(3)])
            for number in range(3):
                one, another = (queue, other) if number % 2 else (other, queue)
                [lease] = until(partial(one.take, 9), "the next of the key")
                assert lease.message.id == f"k{number}"
                assert another.take(9) == []
                assert one.settle([Outcome(lease)]) == {f"k{number}"}

    def test_every_message_comes_twice_and_has_one_result(self, scene: QueueScene) -> None:
        """Redelivery of all of them, while the first worker still runs: it comes too late, and writes nothing."""
        count = 200
        with scene.open(_SHORT) as slow, scene.open(_SHORT) as quick:
            slow.put(_messages(count) + [Message(id=f"k{number}", key=f"{number}") for number in range(3)])
            first: dict[str, Lease] = {}
            second: dict[str, Lease] = {}

            def take_all() -> bool:
                first.update({lease.message.id: lease for lease in slow.take(count)})
                return len(first) == count + 3

            def take_again() -> bool:
                found = quick.take(50)
                second.update({lease.message.id: lease for lease in found if lease.attempts > 1})
                quick.settle([Outcome(lease) for lease in found if lease.attempts > 1], write_results("second"))
                return len(results_of(scene.database)) == count + 3

            until(take_all, "every message")
            until(take_again, "every message again")
            assert second.keys() == first.keys()
            assert slow.renew(list(first.values())) == set()
            late = [Outcome(lease) for lease in first.values()]
            assert slow.settle(late, write_results("first")) == set()
            assert set(results_of(scene.database).values()) == {"second"}
            assert until(lambda: not quick.take(9))

    def test_renewing_keeps_a_lease(self, scene: QueueScene) -> None:
        """For as long as it is done in time."""
        with scene.open(_RENEWED) as mine, scene.open(_RENEWED) as other:
            mine.put(_messages(2))
            held: set[str] = set()
            while len(held) < 2:  # again where this process was held up for longer than a lease
                leases = until(lambda: mine.take(2))
                began = monotonic()
                while monotonic() - began < 2 * _RENEWED and (held := mine.renew(leases)) == set(_ids(leases)):
                    stolen = other.take(9)
                    if stolen:
                        assert mine.renew(leases) != set(_ids(leases))
                        other.settle([Outcome(lease, "returned") for lease in stolen])
            assert mine.settle([Outcome(lease) for lease in leases]) == held

    def test_crashes_count_as_tries(self, scene: QueueScene) -> None:
        """A message that takes its workers with it is found out, and can be buried with a result."""
        with scene.open(_SHORT) as queue:
            queue.put([Message(id="poison", max_attempts=2)])
            lease = None
            for attempt in (1, 2, 3):
                [lease] = until(lambda: queue.take(1), "the next try")
                assert lease.attempts == attempt
                assert (unfit(lease, 0.0) is not None) == (attempt == 3)
            assert lease is not None
            end = unfit(lease, 0.0)
            assert end is not None
            assert queue.settle([end], write_results("dead")) == {"poison"}
        assert results_of(scene.database) == {"poison": "dead"}

    def test_what_is_written_beside_stands_or_falls_with_it(self, scene: QueueScene, queue: Queue) -> None:
        """An error there is the caller's, and nothing is accepted or settled."""

        def broken(*_: object) -> NoReturn:
            raise KeyError("no")

        with pytest.raises(KeyError):
            queue.put(_messages(1), broken)
        assert queue.take(9) == []
        queue.put(_messages(2), lambda connection: connection.execute(text("INSERT INTO results VALUES ('put', 'x')")))
        assert results_of(scene.database) == {"put": "x"}
        leases = queue.take(9)
        with pytest.raises(KeyError):
            queue.settle([Outcome(lease) for lease in leases], broken)
        assert queue.renew(leases) == {"m0000", "m0001"}
        assert queue.settle([Outcome(lease) for lease in leases], write_results()) == {"m0000", "m0001"}
        assert results_of(scene.database).keys() == {"put", "m0000", "m0001"}

    def test_many_share_without_overlap(self, scene: QueueScene) -> None:
        """Two put, four take; each message once, those of a key in order."""
        order: dict[str, list[int]] = {}

        def put(side: int) -> None:
            with scene.open() as queue:
                for start in range(0, 100, 25):
                    queue.put(
                        [
                            Message(id=f"{side}-{n}", topic=str(n), key=f"{side}k{n % 3}" if n % 2 else "")
                            for n in range(start, start + 25)
                        ]
                    )

        def work(number: int) -> list[str]:
            mine: list[str] = []
            with scene.open() as queue:

                def step() -> bool:
                    leases = queue.take(20)
                    for lease in leases:
                        order.setdefault(lease.message.key, []).append(int(lease.message.topic))
                    mine.extend(queue.settle([Outcome(lease) for lease in leases], write_results(str(number))))
                    return len(results_of(scene.database)) == 200

                until(step, "all results")
            return mine

        with ThreadPoolExecutor(6) as pool:
            putting = [pool.submit(put, side) for side in range(2)]
            done = [one for part in pool.map(work, range(4)) for one in part]
            for future in putting:
                future.result()
        assert len(done) == len(set(done)) == 200
        for key, numbers in order.items():
            assert not key or numbers == sorted(numbers)

    def test_any_history(self, scene: QueueScene) -> None:
        """Random puts, takes and ends, beside a model."""
        check_queue_machine(scene)
