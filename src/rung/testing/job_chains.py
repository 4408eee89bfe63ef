"""What waits for what in a job table, whatever database it lies in."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from rung.domain.errors import Conflict, NotFound
from rung.domain.jobs import NewJob
from rung.jobs.endings import Completion
from rung.jobs.queue import JobStore
from rung.jobs.schedule import Schedule, tick
from rung.store.database import Database
from rung.testing.jobs import Clock, JobTableSuite, fresh

__all__ = ["JobChainConformance"]

_ANY = {"a": 0, "b": 0}


class JobChainConformance(JobTableSuite):
    """Chains, cancelling, forgetting, schedules. Inherit this and give it a `database` fixture: an open, empty one."""

    def test_fan_out_and_fan_in(self, store: JobStore) -> None:
        """A child starts when all its parents are done, and not before."""
        root = store.submit(NewJob(kind="a"))
        middle = store.submit_many([NewJob(kind="a", after=(root,)) for _ in range(3)])
        last = store.submit(NewJob(kind="a", after=(*middle, root)))
        assert store.get(last).error == f"it waits for jobs {root}, {middle[0]}, {middle[1]}, {middle[2]}"
        [job] = store.claim("me", _ANY, batch=9)
        store.complete(job)
        jobs = store.claim("me", _ANY, batch=9)
        assert [job.id for job in jobs] == middle
        for job in jobs[:2]:
            store.complete(job)
        assert store.claim("me", _ANY) == []
        store.complete(jobs[2])
        assert [job.id for job in store.claim("me", _ANY)] == [last]
        assert store.get(store.submit(NewJob(kind="a", after=(root,)))).state == "ready"

    def test_parents_that_end_at_once_both_count(self, store: JobStore) -> None:
        """Two workers, many children in common."""
        parents = store.submit_many([NewJob(kind="a")] * 4)
        children = store.submit_many([NewJob(kind="b", after=tuple(parents), key=f"{n % 2}") for n in range(10)])
        jobs = store.claim("me", {"a": 0}, batch=4)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(store.complete, jobs))
        done = []
        while batch := store.claim("me", {"b": 0}, batch=9):
            done += [job.id for job in batch]
            store.complete_many([Completion(job) for job in batch])
        assert sorted(done) == children

    def test_what_waits_for_a_lost_job_is_cancelled_and_comes_back_with_it(self, store: JobStore) -> None:
        """With the reason, down the whole chain, but not past a second lost parent."""
        one, two = store.submit_many([NewJob(kind="a"), NewJob(kind="b")])
        child = store.submit(NewJob(kind="a", after=(one,)))
        both = store.submit(NewJob(kind="a", after=(child, two)))
        [job] = store.claim("me", {"a": 0})
        assert store.fail(job, "no", again=False) == "dead"
        assert store.get(child).error == f"it waited for job {one}, which is dead"
        assert (store.get(both).state, store.get(both).error) == ("cancelled", store.get(child).error)
        late = store.get(store.submit(NewJob(kind="a", after=(child,))))
        assert (late.state, late.error) == ("cancelled", f"it waited for job {child}, which is cancelled")
        with pytest.raises(Conflict, match="retry that one"):
            store.retry(child)
        store.cancel(two, "not wanted")
        assert store.retry(one).state == "ready"
        assert [store.get(id).state for id in (child, both)] == ["waiting", "cancelled"]
        assert store.get(both).error == f"it waited for job {two}, which is cancelled"
        store.retry(two)
        assert store.get(both).state == "waiting"
        for _ in range(4):
            for job in store.claim("me", _ANY, batch=9):
                store.complete(job)
        assert store.get(both).state == "done"

    def test_cancelling(self, store: JobStore) -> None:
        """In every state; who runs it is told, and cannot end it any more."""
        waiting_on, running, later = store.submit_many([NewJob(kind="a"), NewJob(kind="a"), NewJob(kind="b")])
        child = store.submit(NewJob(kind="b", after=(waiting_on,)))
        jobs = store.claim("me", {"a": 0}, batch=2)
        cancelled = store.cancel(running, "changed my mind")
        assert (cancelled.state, cancelled.error) == ("cancelled", "changed my mind")
        assert store.heartbeat(jobs) == {waiting_on}
        with pytest.raises(Conflict):
            store.complete(jobs[1])
        store.cancel(later)
        store.cancel(child)
        assert store.claim("me", _ANY) == []
        with pytest.raises(Conflict):
            store.cancel(later)
        with pytest.raises(NotFound):
            store.cancel(999)
        store.complete(jobs[0])
        assert store.get(child).state == "cancelled"
        with pytest.raises(Conflict):
            store.retry(waiting_on)

    def test_finding_and_forgetting(self, store: JobStore, clock: Clock) -> None:
        """Newest first, by page; old ends go, unless somebody waits for them."""
        ids = store.submit_many([NewJob(kind="a", owner="ann", idempotency_key=f"{n}") for n in range(5)])
        assert [job.id for job in store.find(limit=2)] == ids[:2:-1]
        assert [job.id for job in store.find(limit=9, before=ids[2], owner="ann")] == [ids[1], ids[0]]
        assert store.find(kind="b") == store.find(state="dead") == store.find(owner="bob") == []
        jobs = store.claim("me", _ANY, batch=4)
        for job in jobs[:3]:
            store.complete(job)
        store.fail(jobs[3], "no", again=False)
        store.submit(NewJob(kind="b", after=(ids[0], ids[4])))
        clock.now += 100
        assert store.purge(200) == 0
        assert store.purge(50) == 2
        assert [job.id for job in store.find(kind="a")] == [ids[4], ids[3], ids[0]]
        assert store.submit(NewJob(kind="a", owner="ann", idempotency_key="1")) > ids[4]

    def test_two_control_planes_submit_a_tick_once(self, database: Database, clock: Clock) -> None:
        """Each of 50 ticks, racing; the job says which tick."""
        schedule = Schedule(name="nightly", cron="*/5 * * * *", job=NewJob(kind="a"))
        planes = [fresh(database, clock), fresh(database, clock)]
        assert tick(planes[0], [schedule]) == []
        with ThreadPoolExecutor(2) as pool:
            for _ in range(50):
                clock.now += 300
                submitted = list(pool.map(lambda plane: tick(plane, [schedule]), planes))
                assert sum(map(len, submitted)) == 1
        assert planes[0].counts() == {"a": {"ready": 50}}
