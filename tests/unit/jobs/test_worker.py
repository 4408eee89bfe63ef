import asyncio
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from rung.domain.errors import NotReady
from rung.domain.jobs import Handler, Job, NewJob
from rung.jobs import worker as worker_module
from rung.jobs.queue import JobStore
from rung.jobs.worker import Worker, WorkerOptions
from rung.store.database import open_database

HERE = str(Path(__file__).parent)
IN_THREADS = ("double", "fail", "write", "write_wrongly", "add_up", "number", "patient", "deaf", "odd")
IN_PROCESSES = ("crash", "leave", "allocate", "burn", "pid")


def row(name: str, *, process: bool = False, **limits: int) -> Handler:
    return Handler(f"handlers_under_test:{name}", process=process, search_path=HERE, **limits)


HANDLERS = {
    **{name: row(name) for name in IN_THREADS},
    **{name: row(name, process=True) for name in IN_PROCESSES},
    "patient_process": row("patient", process=True),
    "double_process": row("double", process=True),
    "write_process": row("write", process=True),
    "allocate": row("allocate", process=True, memory=300 << 20),
    "burn": row("burn", process=True, cpu_seconds=1),
    "absent": Handler("handlers_under_test:absent"),
}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobStore]:
    monkeypatch.syspath_prepend(HERE)
    with open_database(f"sqlite:{tmp_path}/rung.db") as database:
        yield JobStore(database)
    sys.modules.pop("handlers_under_test", None)


def work(store: JobStore, idle: float = 0.15, **options: Any) -> None:
    """Until nothing is left to do."""
    asyncio.run(Worker(store, HANDLERS, WorkerOptions(idle_seconds=idle, **options)).run())


def do(store: JobStore, kind: str, arguments: Any = None, **more: Any) -> Job:
    job = store.submit(NewJob(kind=kind, arguments=arguments, **{"max_attempts": 1, **more}))
    work(store)
    return store.get(job)


def test_results_come_back(store: JobStore) -> None:
    ids = store.submit_many([NewJob(kind="double", arguments={"x": x}) for x in range(200)])
    work(store)
    assert [store.get(id).result for id in ids] == [{"double": 2 * x} for x in range(200)]


def test_a_failure_is_tried_again_and_then_dead(store: JobStore) -> None:
    job = do(store, "fail", max_attempts=2, backoff=0.01)
    assert (job.state, job.attempts, job.error) == ("dead", 2, "ValueError: no way")


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        ("absent", None, "AttributeError: module 'handlers_under_test' has no attribute 'absent'"),
        ("odd", None, "the result of a job has to be plain JSON values"),
        ("write_wrongly", None, "no such table: nowhere"),
        ("leave", None, "ended with exit code 3"),
        ("crash", None, "was ended by SIGSEGV"),
        ("allocate", 400 << 20, "MemoryError"),
        ("burn", None, "was ended by SIGXCPU"),
        ("write_process", None, "cannot write to the job's database"),
    ],
)
def test_nothing_that_a_handler_does_stops_the_worker(store: JobStore, kind: str, arguments: Any, words: str) -> None:
    after = store.submit(NewJob(kind="double", arguments={"x": 1}, priority=-1))
    job = do(store, kind, arguments)
    assert job.state == "dead"
    assert words in job.error
    assert store.get(after).state == "done"


def test_effects_are_written_with_the_result(store: JobStore) -> None:
    assert do(store, "write").state == "done"
    query = text("SELECT count(*) FROM rung_schedules")
    assert store.database.read(lambda connection: connection.execute(query).scalar()) == 1


def test_a_process_of_its_own(store: JobStore) -> None:
    assert do(store, "double_process", {"x": 4}).result == {"double": 8}
    assert do(store, "pid").result != os.getpid()
    assert do(store, "allocate", 1 << 20).result == 1 << 20


def test_children_get_the_results_of_their_parents(store: JobStore) -> None:
    parents = store.submit_many([NewJob(kind="number", arguments=n) for n in (1, 2, 3)])
    assert do(store, "add_up", after=tuple(parents)).result == 6


@pytest.mark.parametrize("kind", ["patient", "patient_process", "deaf"])
def test_what_takes_too_long_is_ended(store: JobStore, kind: str) -> None:
    """Also where the handler does not listen; its late result does not count, and its thread is replaced."""
    jobs = store.submit_many([NewJob(kind=kind, timeout=0.6, max_attempts=1)] * 2)
    after = store.submit(NewJob(kind="double", arguments={"x": 1}))
    began = time.monotonic()
    work(store)
    assert {store.get(job).error for job in jobs} == {"it took longer than 0.6 seconds"}
    assert store.get(after).finished - store.get(jobs[0]).started < 1.5 or time.monotonic() - began < 30
    assert store.get(after).state == "done"


async def started(store: JobStore, job: int) -> None:
    while not store.get(job).note:
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("kind", ["patient", "patient_process"])
def test_who_runs_a_cancelled_job_is_told(store: JobStore, kind: str) -> None:
    async def run() -> None:
        worker = Worker(store, HANDLERS, WorkerOptions(lease_seconds=0.6, idle_seconds=0.3))
        job = store.submit(NewJob(kind=kind))
        working = asyncio.create_task(worker.run())
        await started(store, job)
        assert store.get(job).progress == 0.5
        store.cancel(job, "enough")
        await working
        assert (store.get(job).state, store.get(job).error) == ("cancelled", "enough")

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["patient", "patient_process"])
def test_a_worker_that_ends_hands_its_jobs_back(store: JobStore, kind: str) -> None:
    async def run() -> None:
        worker = Worker(store, HANDLERS, WorkerOptions())
        job = store.submit(NewJob(kind=kind))
        working = asyncio.create_task(worker.run())
        await started(store, job)
        worker.stop()
        await working
        assert (store.get(job).state, store.get(job).attempts) == ("ready", 0)

    asyncio.run(run())


def test_work_ahead_of_long_jobs_is_left_to_others(store: JobStore) -> None:
    """Short jobs made the worker claim far ahead; when long ones hold its threads, it gives them up."""

    async def run() -> None:
        worker = Worker(store, HANDLERS, WorkerOptions(concurrency=1))
        store.submit_many([NewJob(kind="double", arguments={"x": 1})] * 100)
        working = asyncio.create_task(worker.run())
        while store.counts()["double"].get("done") != 100:
            await asyncio.sleep(0.02)
        long = store.submit_many([NewJob(kind="patient")] * 4)
        await started(store, long[0])
        while store.counts()["patient"].get("leased") != 1:
            await asyncio.sleep(0.05)
        worker.stop()
        await working

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_pause_that_is_cancelled_as_it_ends_is_cancelled() -> None:
    async def run() -> None:
        changed = asyncio.Event()
        pause = asyncio.create_task(worker_module._wait(changed, 30.0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # wait_for, which would lose it, waits in a task of its own
        changed.set()
        pause.cancel()
        await pause

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run())


class Flaky(JobStore):
    """A store whose database is out of reach a few times at each acknowledgement."""

    failures = 3

    def complete_many(self, completions):  # type: ignore[no-untyped-def]
        if self.failures:
            self.failures -= 1
            raise NotReady("out of reach")
        return super().complete_many(completions)


def test_results_are_kept_while_the_database_is_out_of_reach(store: JobStore) -> None:
    flaky = Flaky(store.database)
    job = do(flaky, "double", {"x": 2})
    assert (job.result, job.attempts, flaky.failures) == ({"double": 4}, 1, 0)


def test_an_idle_worker_costs_little(store: JobStore) -> None:
    """Under 1 % of a core; this allows for imports and a busy machine."""
    work(store, idle=0.1)
    began = time.process_time()
    work(store, idle=2.0)
    assert time.process_time() - began < 0.1
