"""The job table against a model of it that fits on a page, under any order of calls."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from rung.domain.errors import Conflict
from rung.domain.jobs import Job, NewJob
from rung.store.database import open_database
from rung.testing.jobs import Clock, fresh

KINDS = {"a": 0, "b": 2}
OPEN = ("waiting", "scheduled", "ready", "leased")


class Queue(RuleBasedStateMachine):
    """What a row should say after each call is kept in dicts; `ready` is worked out anew each time."""

    ids = Bundle("ids")
    leases = Bundle("leases")

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.database = open_database(f"sqlite:{Path(self.folder.name)}/rung.db")
        self.clock = Clock()
        self.store = fresh(self.database, self.clock)
        self.jobs: dict[int, NewJob] = {}
        self.state: dict[int, str] = {}
        self.token: dict[int, int] = {}
        self.attempts: dict[int, int] = {}
        self.run_at: dict[int, float] = {}
        self.cause: dict[int, int] = {}
        self.known: dict[str, int] = {}

    def teardown(self) -> None:
        self.database.close()
        self.folder.cleanup()

    @rule(
        target=ids,
        kind=st.sampled_from("ab"),
        priority=st.integers(0, 2),
        key=st.sampled_from(["", "", "k", "l"]),
        name=st.sampled_from(["", "", "x", "y"]),
        parents=st.lists(ids, max_size=2),
        delay=st.sampled_from([0, 0, 3]),
    )
    def submit(self, kind: str, priority: int, key: str, name: str, parents: list[int], delay: int) -> int:
        run_at = self.clock() + delay if delay else 0.0
        job = NewJob(
            kind=kind,
            priority=priority,
            key=key,
            idempotency_key=name,
            after=tuple(parents),
            run_at=run_at,
            max_attempts=2,
        )
        id = self.store.submit(job)
        identity = f"{kind}{name}"
        if name and identity in self.known:
            assert id == self.known[identity]
            return id
        assert id == len(self.jobs) + 1
        self.known[identity] = id
        self.jobs[id], self.token[id], self.attempts[id] = job, 0, 0
        self.run_at[id] = run_at or self.clock()
        lost = [parent for parent in sorted(set(parents)) if self.state[parent] in ("dead", "cancelled")]
        self.state[id] = "cancelled" if lost else "open"
        if lost:
            self.cause[id] = lost[0]
        return id

    def expected(self, id: int) -> str:
        """The state by the rules: parents first, then the key, then time."""
        if self.state[id] != "open":
            return self.state[id]
        job = self.jobs[id]
        if any(self.state[parent] != "done" for parent in job.after):
            return "waiting"
        if job.key and not self.heads(job.key, id):
            return "waiting"
        return "scheduled" if self.run_at[id] > self.clock() else "ready"

    def heads(self, key: str, id: int) -> bool:
        """Whether a job is the one of its key that may run."""
        row = self.store.get(id)
        others = [
            other
            for other, job in self.jobs.items()
            if job.key == key and other != id and self.state[other] in ("open", "leased")
        ]
        if row.state != "waiting":  # started before a lower one was replayed
            return all(self.store.get(other).state == "waiting" for other in others)
        return not any(other < id or self.store.get(other).state != "waiting" for other in others)

    @invariant()
    def rows_say_what_the_model_says(self) -> None:
        for job in self.store.find(limit=10_000):
            expected = self.expected(job.id)
            # What is due becomes ready at the next claim.
            allowed = {expected, "scheduled"} if expected == "ready" else {expected}
            assert job.state in allowed, (job, expected)
            assert (job.token, job.attempts) == (self.token[job.id], self.attempts[job.id])

    @invariant()
    def one_of_a_key_at_a_time(self) -> None:
        active = [job.key for job in self.store.find(limit=10_000) if job.key and job.state in OPEN[1:]]
        assert len(active) == len(set(active))

    @rule(target=leases, batch=st.integers(1, 4))
    def claim(self, batch: int) -> Any:
        could = sorted((-self.jobs[id].priority, id) for id in self.jobs if self.expected(id) == "ready")
        busy = sum(self.state[id] == "leased" and self.jobs[id].kind == "b" for id in self.jobs)
        claimed = self.store.claim("me", KINDS, batch=batch, seconds=5.0)
        room = 2 - busy
        allowed = [id for _, id in could if self.jobs[id].kind == "a"]
        allowed_b = [id for _, id in could if self.jobs[id].kind == "b"][:room]
        assert len(claimed) == min(batch, len(allowed) + len(allowed_b))
        for kind, line in (("a", allowed), ("b", allowed_b)):
            mine = [job.id for job in claimed if job.kind == kind]
            assert mine == line[: len(mine)], "priority, then order"
        if claimed:
            least = min(job.priority for job in claimed)
            left = set(allowed + allowed_b) - {job.id for job in claimed}
            assert all(self.jobs[id].priority <= least for id in left)
        for job in claimed:
            self.state[job.id] = "leased"
            self.token[job.id] += 1
            self.attempts[job.id] += 1
            assert (job.token, job.attempts) == (self.token[job.id], self.attempts[job.id])
        return multiple(*claimed)

    def held(self, job: Job) -> bool:
        return self.state[job.id] == "leased" and self.token[job.id] == job.token

    def lose(self, id: int, state: str) -> None:
        self.state[id] = state
        for child, job in sorted(self.jobs.items()):
            waits_for_lost = any(
                parent == id or self.cause.get(parent) == id for parent in job.after if self.state[parent] != "done"
            )
            if self.state[child] == "open" and waits_for_lost:
                self.state[child], self.cause[child] = "cancelled", id

    @rule(job=leases)
    def complete(self, job: Job) -> None:
        if self.held(job):
            self.store.complete(job, job.token)
            self.state[job.id] = "done"
            assert self.store.get(job.id).result == job.token
        else:
            with pytest.raises(Conflict):
                self.store.complete(job)

    @rule(job=leases, again=st.booleans())
    def fail(self, job: Job, again: bool) -> None:
        if not self.held(job):
            with pytest.raises(Conflict):
                self.store.fail(job, "no", again=again)
            return
        state = self.store.fail(job, "no", again=again)
        if again and job.attempts < 2:
            assert state == "scheduled"
            self.state[job.id], self.run_at[job.id] = "open", self.clock() + 2 ** (job.attempts - 1)
        else:
            assert state == "dead"
            self.lose(job.id, "dead")

    @rule(job=consumes(leases))
    def release(self, job: Job) -> None:
        self.store.release([job])
        if self.held(job):
            self.state[job.id] = "open"
            self.attempts[job.id] -= 1

    @rule(job=leases)
    def heartbeat(self, job: Job) -> None:
        assert self.store.heartbeat([job], seconds=5.0) == ({job.id} if self.held(job) else set())

    @rule(id=ids)
    def cancel(self, id: int) -> None:
        if self.state[id] in ("open", "leased"):
            self.store.cancel(id)
            self.lose(id, "cancelled")
        else:
            with pytest.raises(Conflict):
                self.store.cancel(id)

    @rule(id=ids)
    def retry(self, id: int) -> None:
        lost = [parent for parent in self.jobs[id].after if self.state[parent] in ("dead", "cancelled")]
        if self.state[id] not in ("dead", "cancelled") or lost:
            with pytest.raises(Conflict):
                self.store.retry(id)
            return
        self.store.retry(id)
        self.state[id], self.attempts[id], self.run_at[id] = "open", 0, self.clock()
        self.cause.pop(id, None)
        below = {id}
        for child, job in sorted(self.jobs.items()):
            if not below & set(job.after):
                continue
            below.add(child)
            if self.state[child] == "cancelled" and self.cause.get(child) == id:
                lost = sorted(parent for parent in set(job.after) if self.state[parent] in ("dead", "cancelled"))
                if lost:
                    self.cause[child] = lost[0]
                else:
                    self.state[child] = "open"
                    del self.cause[child]

    @rule(seconds=st.sampled_from([1, 2, 6]))
    def wait(self, seconds: int) -> None:
        """Everyone who holds a lease renews it, so that none runs out: the conformance suite has those that do."""
        held = self.store.find(state="leased", limit=10_000)
        self.clock.now += seconds
        self.store.heartbeat(held, seconds=5.0)


Queue.TestCase.settings = settings(max_examples=8, stateful_step_count=40, deadline=None)
TestQueue = Queue.TestCase
