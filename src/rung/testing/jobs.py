"""What a job table has to do, whatever database it lies in."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Connection, text

from rung.domain.errors import Conflict, InvalidInput, NotFound, TooLarge
from rung.domain.jobs import Job, NewJob
from rung.jobs.endings import Completion
from rung.jobs.queue import JobStore
from rung.store.database import Database

__all__ = ["Clock", "JobStoreConformance", "JobTableSuite", "fresh"]

_ANY = {"a": 0, "b": 0}


class Clock:
    """A wall clock that only tests move."""

    def __init__(self, now: float = 1.8e9) -> None:
        self.now = now

    def __call__(self) -> float:
        """Seconds since the epoch."""
        return self.now


class JobTableSuite:
    """What the suites of the job table start from."""

    @pytest.fixture
    def database(self) -> Iterator[Database]:
        """Replaced by whoever tests one."""
        raise NotImplementedError

    @pytest.fixture
    def clock(self) -> Clock:
        """The clock of `store`."""
        return Clock()

    @pytest.fixture
    def store(self, database: Database, clock: Clock) -> JobStore:
        """A store that looks at leases at every claim."""
        return fresh(database, clock)


class JobStoreConformance(JobTableSuite):
    """Submitting, claiming, ending. Inherit this and give it a `database` fixture: an open, empty one."""

    def test_gives_back_what_was_submitted(self, store: JobStore, clock: Clock) -> None:
        """Every field, and JSON as it was."""
        arguments = {"text": "ä\u0000'\"", "list": [1, 2.5, None, True], "deep": {"x": []}}
        new = NewJob(
            kind="a",
            arguments=arguments,
            priority=-3,
            key="k",
            owner="ann",
            idempotency_key="once",
            run_at=clock() + 5.5,
            max_attempts=7,
            backoff=0.25,
            timeout=9.0,
        )
        job = store.get(store.submit(new))
        assert job.state == "scheduled"
        assert {name: getattr(job, name) for name in new.__struct_fields__} == {
            name: getattr(new, name) for name in new.__struct_fields__
        }
        assert (job.attempts, job.token, job.created, job.started, job.result) == (0, 0, clock(), 0.0, None)

    def test_a_job_is_done_once(self, store: JobStore) -> None:
        """Claimed, completed, and gone from the queue."""
        first, second = store.submit_many([NewJob(kind="a"), NewJob(kind="b")])
        [job] = store.claim("me", {"a": 0})
        assert (job.id, job.state, job.worker, job.attempts, job.token) == (first, "leased", "me", 1, 1)
        store.complete(job, {"answer": [1]})
        done = store.get(first)
        assert (done.state, done.result, done.progress) == ("done", {"answer": [1]}, 1.0)
        assert store.claim("me", {"a": 0}) == []
        assert store.counts() == {"a": {"done": 1}, "b": {"ready": 1}}
        with pytest.raises(Conflict):
            store.complete(job, {"answer": [2]})
        assert store.get(first).result == {"answer": [1]}
        assert store.get(second).state == "ready"

    def test_all_of_a_submission_or_none(self, store: JobStore) -> None:
        """One bad job among good ones refuses them all."""
        for bad in (
            NewJob(kind=""),
            NewJob(kind="a", arguments={"x": object()}),
            NewJob(kind="a", key="line\nbreak"),
            NewJob(kind="a", owner="x" * 201),
            NewJob(kind="a", max_attempts=0),
            NewJob(kind="a", run_at=float("nan")),
            NewJob(kind="a", priority=10**7),
        ):
            with pytest.raises(InvalidInput):
                store.submit_many([NewJob(kind="a"), bad])
        with pytest.raises(TooLarge):
            store.submit_many([NewJob(kind="a"), NewJob(kind="a", arguments="x" * (5 << 20))])
        with pytest.raises(NotFound):
            store.submit_many([NewJob(kind="a"), NewJob(kind="a", after=(12345,))])
        assert store.counts() == {}

    def test_the_same_idempotency_key_is_the_same_job(self, store: JobStore) -> None:
        """Within a submission and between two, done or not; of one kind and owner only."""
        same = NewJob(kind="a", idempotency_key="x", arguments=1)
        first, second = store.submit_many([same, same])
        assert first == second == store.submit(same)
        [job] = store.claim("me", _ANY)
        store.complete(job)
        assert store.submit(same) == first
        others = [NewJob(kind="b", idempotency_key="x"), NewJob(kind="a", owner="bob", idempotency_key="x")]
        assert len({first, *store.submit_many(others)}) == 3

    def test_one_of_many_submitters_wins(self, store: JobStore) -> None:
        """All get the same id."""
        barrier = Barrier(6)

        def submit(_: int) -> list[int]:
            barrier.wait()
            return store.submit_many([NewJob(kind="a", idempotency_key=f"{n}", key=f"{n % 3}") for n in range(9)])

        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(submit, range(6)))
        assert all(ids == found[0] for ids in found)
        assert store.counts() == {"a": {"waiting": 6, "ready": 3}}

    def test_higher_priority_first_then_in_order(self, store: JobStore) -> None:
        """Of several kinds at once."""
        ids = store.submit_many([NewJob(kind="ab"[n % 2], priority=n % 3) for n in range(12)])
        claimed = [job for _ in range(6) for job in store.claim("me", _ANY, batch=2)]
        assert [job.priority for job in claimed] == [2] * 4 + [1] * 4 + [0] * 4
        assert {job.id for job in claimed} == set(ids)
        for kind in "ab":
            for priority in range(3):
                line = [job.id for job in claimed if (job.kind, job.priority) == (kind, priority)]
                assert line == sorted(line)

    def test_owners_share_what_is_free(self, store: JobStore) -> None:
        """Whoever submitted a thousand does not keep another waiting, with long jobs or short ones."""
        store.submit_many([NewJob(kind="a", owner="greedy")] * 50)
        store.submit_many([NewJob(kind="a", owner="modest")] * 10)
        batch = store.claim("me", _ANY, batch=10)
        assert [job.owner for job in batch].count("modest") == 5
        store.complete_many([Completion(job) for job in batch])
        one_by_one = []
        for _ in range(10):
            [job] = store.claim("me", _ANY)
            one_by_one.append(job.owner)
            store.complete(job)
        assert one_by_one.count("modest") == 5

    def test_limits_of_a_kind_hold_over_all_workers(self, store: JobStore) -> None:
        """However many claim at once."""
        store.submit_many([NewJob(kind="a")] * 20 + [NewJob(kind="b")] * 3)
        with ThreadPoolExecutor(4) as pool:
            batches = pool.map(lambda n: store.claim(f"w{n}", {"a": 3, "b": 0}, batch=5), range(4))
        claimed = [job for batch in batches for job in batch]
        assert sorted(job.kind for job in claimed) == ["a"] * 3 + ["b"] * 3
        store.complete(next(job for job in claimed if job.kind == "a"))
        assert len(store.claim("w", {"a": 3}, batch=5)) == 1

    def test_jobs_of_a_key_run_one_at_a_time_in_order(self, store: JobStore, clock: Clock) -> None:
        """Also past failures that are tried again, and dead ones."""
        ids = store.submit_many([NewJob(kind="a", key="k", max_attempts=2, priority=n) for n in range(4)])
        other = store.submit(NewJob(kind="a", key="other"))
        batch = store.claim("me", _ANY, batch=9)
        assert {job.id for job in batch} == {ids[0], other}
        assert "before it" in store.get(ids[1]).error
        first = next(job for job in batch if job.id == ids[0])
        assert store.fail(first, "no") == "scheduled"
        assert store.claim("me", _ANY, batch=9) == []
        clock.now += 2
        [first] = store.claim("me", _ANY, batch=9)
        assert first.id == ids[0]
        assert store.fail(first, "no") == "dead"
        [second] = store.claim("me", _ANY, batch=9)
        assert second.id == ids[1]
        store.retry(ids[0])  # goes in again, but not beside the one that runs
        assert store.claim("me", _ANY, batch=9) == []
        store.complete(second)
        order = []
        while batch := store.claim("me", _ANY, batch=9):
            [job] = batch
            order.append(job.id)
            store.complete(job)
        assert order == [ids[0], ids[2], ids[3]]

    def test_a_late_acknowledgement_is_refused(self, store: JobStore, clock: Clock) -> None:
        """Of any sort, once the lease has gone to another; the effect is not written either."""
        store.submit(NewJob(kind="a"))
        [late] = store.claim("first", _ANY, seconds=10)
        _run_out(store, clock, 11)
        [current] = store.claim("second", _ANY, seconds=10)
        assert (current.id, current.token, current.attempts) == (late.id, 2, 2)
        with pytest.raises(Conflict):
            store.complete(late, "late", effect=lambda connection: _write(connection, late, "late"))
        with pytest.raises(Conflict):
            store.fail(late, "late")
        assert store.heartbeat([late]) == set()
        assert not store.report(late, 0.5)
        store.release([late])
        store.complete(current, "right", effect=lambda connection: _write(connection, current, "right"))
        assert store.get(late.id).result == "right"
        assert _written(store) == ["right"]

    def test_effects_stand_or_fall_with_the_result(self, store: JobStore) -> None:
        """One effect that raises undoes itself and no other."""
        store.submit_many([NewJob(kind="a", arguments=n) for n in range(4)])
        jobs = store.claim("me", _ANY, batch=4)

        def effect(job: Job) -> Any:
            def run(connection: Connection) -> None:
                _write(connection, job, str(job.arguments))
                if job.arguments == 2:
                    raise ValueError("no")

            return run

        completions = [Completion(job, job.arguments, effect(job)) for job in jobs[:3]] + [Completion(jobs[3], 3)]
        problems = store.complete_many(completions)
        assert [type(problem) for problem in problems] == [type(None), type(None), ValueError, type(None)]
        assert sorted(_written(store)) == ["0", "1"]
        assert [store.get(job.id).state for job in jobs] == ["done", "done", "leased", "done"]
        assert isinstance(store.complete_many([Completion(jobs[2], object())])[0], InvalidInput)

    def test_heartbeats_keep_a_lease(self, store: JobStore, clock: Clock) -> None:
        """For as long as they come."""
        store.submit(NewJob(kind="a"))
        [job] = store.claim("me", _ANY, seconds=10)
        for _ in range(10):
            clock.now += 6
            assert store.heartbeat([job], seconds=10) == {job.id}
            assert store.claim("other", _ANY) == []
        _run_out(store, clock, 11)
        assert [again.id for again in store.claim("other", _ANY)] == [job.id]

    def test_crashes_use_up_tries(self, store: JobStore, clock: Clock) -> None:
        """A job that kills every worker ends as a dead letter, with the reason, and can be replayed."""
        job_id = store.submit(NewJob(kind="a", max_attempts=3))
        child = store.submit(NewJob(kind="a", after=(job_id,)))
        for _ in range(3):
            assert [job.id for job in store.claim("w", _ANY, seconds=5)] == [job_id]
            _run_out(store, clock, 6)
        dead = store.get(job_id)
        assert (dead.state, dead.attempts) == ("dead", 3)
        assert "did not renew its lease" in dead.error
        assert store.get(child).state == "cancelled"
        assert store.retry(job_id).attempts == 0
        [job] = store.claim("w", _ANY)
        store.complete(job)
        assert [job.id for job in store.claim("w", _ANY)] == [child]

    def test_failures_back_off(self, database: Database, clock: Clock) -> None:
        """1, 2, 4 ... seconds with up to half taken off, then dead with the last reason."""
        store = fresh(database, clock, jitter=0.5)
        job_id = store.submit(NewJob(kind="a", max_attempts=4, backoff=1.0))
        for wait in (0.75, 1.5, 3.0):
            [job] = store.claim("me", _ANY)
            assert store.fail(job, "not yet") == "scheduled"
            assert store.get(job_id).run_at == pytest.approx(clock() + wait, abs=1e-3)
            assert store.claim("me", _ANY) == []
            clock.now += wait + 0.01
        [job] = store.claim("me", _ANY)
        assert store.fail(job, "never \0") == "dead"
        assert store.get(job_id).error == "never \\0"
        assert store.claim("me", _ANY) == []

    def test_handing_back_costs_no_try(self, store: JobStore) -> None:
        """And the next lease has a new token."""
        store.submit(NewJob(kind="a", max_attempts=1))
        for token in (1, 2, 3):
            [job] = store.claim("me", _ANY)
            assert (job.token, job.attempts) == (token, 1)
            store.release([job])
        assert store.claim("me", _ANY)[0].token == 4

    def test_two_clocks_a_day_apart(self, store: JobStore, clock: Clock) -> None:
        """A clock that is set ends no lease early, and none stays for a day; what failed is tried soon."""
        day = 86400.0
        for jump in (day, -day, 3600.0, -3600.0):
            job_id = store.submit(NewJob(kind="a", max_attempts=9))
            [job] = store.claim("me", _ANY, seconds=10)
            clock.now += jump
            assert store.claim("other", _ANY) == []
            clock.now += 3
            assert store.heartbeat([job], seconds=10) == {job_id}
            _run_out(store, clock, 11)
            [job] = store.claim("other", _ANY, seconds=10)
            assert job.id == job_id
            store.complete(job)
        failed = store.submit(NewJob(kind="a"))
        [job] = store.claim("me", _ANY)
        store.fail(job, "no")
        store.submit(NewJob(kind="b"))
        [keeps_the_clock_seen] = store.claim("me", {"b": 0})
        clock.now -= day
        assert store.claim("me", _ANY) == []
        clock.now += 2
        assert [job.id for job in store.claim("me", _ANY)] == [failed]
        store.complete(keeps_the_clock_seen)

    def test_progress_is_seen(self, store: JobStore) -> None:
        """With a note, bounded to 0 and 1."""
        store.submit(NewJob(kind="a"))
        [job] = store.claim("me", _ANY)
        assert store.report(job, 1.5, "almost")
        now = store.get(job.id)
        assert (now.progress, now.note) == (1.0, "almost")

    def test_claimers_share_without_overlap(self, store: JobStore) -> None:
        """Eight at once take each job once."""
        ids = store.submit_many([NewJob(kind="a", owner=f"{n % 5}", priority=n % 3) for n in range(400)])

        def work(number: int) -> list[int]:
            done = []
            while jobs := store.claim(f"w{number}", _ANY, batch=20):
                assert not any(store.complete_many([Completion(job) for job in jobs]))
                done += [job.id for job in jobs]
            return done

        with ThreadPoolExecutor(8) as pool:
            done = [id for batch in pool.map(work, range(8)) for id in batch]
        left = store.claim("rest", _ANY, batch=400)
        assert sorted(done + [job.id for job in left]) == ids


def fresh(database: Database, clock: Clock, jitter: float = 0.0) -> JobStore:
    """A store whose every claim looks at leases."""
    store = JobStore(database, clock, lambda: jitter)
    store.look_seconds = 0.0
    return store


def _run_out(store: JobStore, clock: Clock, seconds: float) -> None:
    """Let time pass as it does while somebody polls."""
    store.claim("nobody", {"none": 0})
    for _ in range(int(seconds // 4) + 1):
        clock.now += seconds / (int(seconds // 4) + 1)
        store.claim("nobody", {"none": 0})


def _write(connection: Connection, job: Job, what: str) -> None:
    """An effect: a row of this job, of which there may be one."""
    connection.execute(text("INSERT INTO effects (job, what) VALUES (:job, :what)"), {"job": job.id, "what": what})


def _written(store: JobStore) -> list[str]:
    """What effects wrote."""
    query = text("SELECT what FROM effects ORDER BY what")
    return store.database.read(lambda connection: list(connection.execute(query).scalars()))
