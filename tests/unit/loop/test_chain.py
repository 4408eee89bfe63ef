import pytest

from rung.domain.retraining import STEPS, Decision, Request
from rung.jobs.queue import JobStore
from rung.loop import chain, requests
from rung.store.blobs import DiskStore
from rung.store.database import open_database


@pytest.fixture
def jobs(tmp_path):
    with open_database(f"sqlite:///{tmp_path}/rung.db") as database:
        yield JobStore(database)


@pytest.fixture
def store(tmp_path):
    return DiskStore(tmp_path / "data")


def ask(store, occasion="a"):
    return requests.ask(store, "m", Request("manual", occasion, "why not", 1.0))


def done(jobs):
    """Claim what is ready and finish it; the steps that were done."""
    steps = []
    for job in jobs.claim("w", dict.fromkeys(chain.KINDS, 0), batch=10):
        steps.append((chain.KINDS[job.kind], job.arguments["number"]))
        jobs.complete(job, {})
    return steps


def test_steps_come_one_after_the_other_and_a_chain_after_the_one_before(jobs, store):
    for occasion in "ab":
        chain.start(jobs, ask(store, occasion), 60.0)
    seen = []
    while steps := done(jobs):
        assert len(steps) == 1
        seen += steps
    assert seen == [(step, number) for number in (1, 2) for step in STEPS]


def test_submitted_again_it_is_the_same(jobs, store):
    one = ask(store)
    ids = chain.start(jobs, one, 60.0)
    assert chain.start(jobs, one, 60.0) == ids
    done(jobs)
    assert chain.follow(jobs, store, one, ids, 9.0) == one
    assert chain.start(jobs, one, 60.0) == ids


def test_a_dead_job_ends_it_with_the_reason(jobs, store):
    one = ask(store)
    ids = chain.start(jobs, one, 60.0)
    (job,) = jobs.claim("w", dict.fromkeys(chain.KINDS, 0), batch=10)
    jobs.fail(job, "the disk is gone", again=False)
    ended = chain.follow(jobs, store, one, ids, 9.0)
    assert ended.over
    assert "the disk is gone" in ended.decisions["extract"].why
    assert requests.find(store, "m", 1).standing == "ended at extract"


def test_a_cancelled_step_ends_it(jobs, store):
    one = ask(store)
    ids = chain.start(jobs, one, 60.0)
    requests.decide(store, "m", 1, "extract", Decision("pass", "", 2.0))
    done(jobs)
    jobs.cancel(ids[1], "by hand")
    ended = chain.follow(jobs, store, requests.find(store, "m", 1), ids, 9.0)
    assert ended.stopped is not None
    assert "cancelled" in ended.stopped.why


def test_a_step_that_hangs_is_ended(jobs, store):
    for id in chain.start(jobs, ask(store), 60.0):
        assert jobs.get(id).timeout == 60.0
