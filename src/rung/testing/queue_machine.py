"""Any order of puts, takes and ends on a queue, beside a model of what may come out of it."""

from itertools import count
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from rung.domain.messages import Ending, Lease, Message, Outcome
from rung.testing.queue_scenes import QueueScene, results_of, until, write_results

__all__ = ["check_queue_machine"]

_numbers = count(1)
_Kind = tuple[int, str]


class _QueueMachine(RuleBasedStateMachine):
    """One user of one queue; leases never run out."""

    def __init__(self, scene: QueueScene) -> None:
        super().__init__()
        self.scene = scene
        self.queue = scene.opening(f"machine{next(_numbers)}", 60.0)
        self.messages: dict[str, Message] = {}
        """Everything that was put, in order."""
        self.fresh: list[str] = []
        """Never taken."""
        self.tries: dict[str, int] = {}
        self.out: dict[str, Lease] = {}
        self.ended: list[str] = []

    @rule(kinds=st.lists(st.tuples(st.integers(-1, 1), st.sampled_from(["", "", "a", "b"])), min_size=1, max_size=6))
    def put(self, kinds: list[_Kind]) -> None:
        """A few at once; the first of them twice."""
        fresh = [
            Message(id=f"{next(_numbers):09d}", priority=priority, key=key, body=key.encode())
            for priority, key in kinds
        ]
        self.queue.put([*fresh, fresh[0]])
        for message in fresh:
            self.messages[message.id] = message
            self.fresh.append(message.id)

    @rule(room=st.integers(1, 7))
    def take(self, room: int) -> None:
        """What comes out is what may."""
        self._taken(self.queue.take(room), room)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def settle(self, data: Any) -> None:
        """Some of what is out, each in its way; what was settled before is not held."""
        ids = data.draw(st.lists(st.sampled_from(sorted(self.out)), unique=True, min_size=1))
        endings: list[Ending] = [data.draw(st.sampled_from(["done", "done", "dead", "again", "returned"])) for _ in ids]
        outcomes = [Outcome(self.out[id], ending) for id, ending in zip(ids, endings, strict=True)]
        assert self.queue.settle(outcomes, write_results()) == set(ids)
        assert self.queue.settle(outcomes, write_results("late")) == set()
        for id, ending in zip(ids, endings, strict=True):
            del self.out[id]
            if ending in ("done", "dead"):
                self.ended.append(id)
            elif ending == "returned" and "free return" in self.queue.means.promises:
                self.tries[id] -= 1

    @rule()
    def renew(self) -> None:
        """All that is out is held."""
        assert self.queue.renew(list(self.out.values())) == set(self.out)

    def teardown(self) -> None:
        """Whatever was put is done in the end, once, and each key in order."""

        def step() -> bool:
            leases = [*self.out.values(), *self.queue.take(50)]
            self.out = {}
            done = self.queue.settle([Outcome(lease) for lease in leases], write_results())
            self.ended += [lease.message.id for lease in leases if lease.message.id in done]
            return len(self.ended) >= len(self.messages)

        try:
            if self.messages:
                until(step, "the end of all messages")
            assert sorted(self.ended) == sorted(self.messages)
            for key in "ab":
                line = [id for id in self.ended if self.messages[id].key == key]
                assert line == sorted(line)
            found = results_of(self.scene.database)
            assert {found[id] for id in self.messages} <= {"done"}
        finally:
            self.queue.close()

    def _taken(self, leases: list[Lease], room: int) -> None:
        assert len(leases) <= room
        taken = [lease.message.id for lease in leases]
        assert len(taken) == len(set(taken))
        assert not set(taken) & (self.out.keys() | set(self.ended))
        for lease in leases:
            id = lease.message.id
            assert lease.message == self.messages[id]
            self.tries[id] = self.tries.get(id, 0) + 1
            assert lease.attempts == self.tries[id]
            self.out[id] = lease
            if lease.message.key:
                open_ones = [
                    one
                    for one, message in self.messages.items()
                    if message.key == lease.message.key and one not in self.ended
                ]
                assert open_ones[0] == id
        left = [id for id in self.fresh if id not in taken]
        news = [id for id in taken if id in self.fresh]
        self.fresh = left
        waits = [self.messages[id].priority for id in left if not self.messages[id].key]
        if waits:
            # Who finds less than it wants leaves nobody behind that is free, nor goes past one that is more urgent.
            assert len(leases) == room
            assert all(self.messages[id].priority >= max(waits) for id in news if not self.messages[id].key)
        for priority in (-1, 0, 1):
            line = [id for id in news if not self.messages[id].key and self.messages[id].priority == priority]
            behind = [id for id in left if not self.messages[id].key and self.messages[id].priority == priority]
            assert line == sorted(line)
            assert not (line and behind) or line[-1] < behind[0]


def check_queue_machine(scene: QueueScene, examples: int = 10) -> None:
    """Try so many random histories, each on a queue of its own.

    Raises:
        AssertionError: with the shortest history that was found to go wrong.
    """
    run_state_machine_as_test(
        lambda: _QueueMachine(scene),  # type: ignore[arg-type] # takes any function that makes one
        settings=settings(
            max_examples=examples,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
