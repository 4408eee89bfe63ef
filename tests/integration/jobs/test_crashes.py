"""Every accepted job has exactly one effect, whatever dies when."""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rung.domain.jobs import NewJob

Open = Callable[[str], Any]
Start = Callable[[str, float], Any]
Until = Callable[..., None]


def storm(scene: Any, workers: Any, until: Until, *, count: int, kills: int, patience: float = 100.0) -> None:
    """Let `count` jobs flow while workers are killed at random; compare what was accepted with what was done."""
    rng = random.Random(count)
    jobs = [
        NewJob(
            kind="insert",
            key=f"k{rng.randrange(40)}" if number % 4 == 0 else "",
            arguments={"seconds": 0.001 if number % 3 else 0},
            priority=number % 2,
            max_attempts=1000,
        )
        for number in range(count)
    ]
    accepted: list[int] = []
    for start in range(0, count, 500):
        accepted += scene.store.submit_many(jobs[start : start + 500])
    for _ in range(3):
        workers.start()
    killed = 0

    def step() -> bool:
        nonlocal killed
        done = scene.store.counts().get("insert", {}).get("done", 0)
        # Spread over the whole flow, so that the last kill does not come after the last job.
        if killed < kills and done >= killed * count // kills and workers.pids:
            workers.kill(rng.choice(workers.pids))
            workers.start()
            killed += 1
        return done == count

    until(step, "the flow", patience)
    effects = scene.effects()
    assert killed == kills
    assert Counter(job for job, _, _ in effects) == Counter(accepted)
    for key in {job.key for job in jobs} - {""}:
        line = [job for job, _, of in effects if of == key]
        assert line == sorted(line), f"order of {key}"
    states = scene.store.counts()["insert"]
    assert states == {"done": count}


def test_killed_workers_lose_and_double_nothing(open_scene: Open, start_workers: Start, until: Until) -> None:
    scene = open_scene("sqlite")
    storm(scene, start_workers(scene.url, 1.0), until, count=2000, kills=20)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_ten_thousand_jobs_two_hundred_kills(engine: str, open_scene: Open, start_workers: Start, until: Until) -> None:
    scene = open_scene(engine)
    storm(scene, start_workers(scene.url, 1.0), until, count=10_000, kills=200, patience=1500.0)


POINTS = [
    "after the claim",
    "in the handler",
    "in the effect",
    "before the acknowledgement",
    "after the acknowledgement",
]


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_a_crash_at_every_step(engine: str, open_scene: Open, start_workers: Start, until: Until) -> None:
    """Claim, handler, effect, acknowledgement: killed at each, the job still has one effect, under one token."""
    scene = open_scene(engine)
    workers = start_workers(scene.url, 0.5)
    expected = []
    for point in POINTS:
        job = scene.store.submit(NewJob(kind="insert", key="line"))
        pid = workers.start(point)
        until(lambda pid=pid: workers.gone(pid), f"death {point}")
        workers.pids.remove(pid)
        survived = point == "after the acknowledgement"
        assert scene.store.get(job).state == ("done" if survived else "leased")
        assert len(scene.effects()) == len(expected) + survived
        pid = workers.start()
        until(lambda job=job: scene.store.get(job).state == "done", "the second try")
        expected.append((job, 1 if survived else 2, "line"))
        assert scene.effects() == expected
        workers.kill(pid, signal.SIGTERM)
        until(lambda pid=pid: workers.gone(pid), "the end")
        workers.pids.remove(pid)


def test_a_worker_that_slept_through_its_lease_is_refused(
    open_scene: Open, start_workers: Start, until: Until, tmp_path: Path
) -> None:
    scene = open_scene("sqlite")
    workers = start_workers(scene.url, 1.0)
    go = tmp_path / "go"
    job = scene.store.submit(NewJob(kind="wait_once", arguments={"file": str(go)}))
    sleeper = workers.start()
    until(lambda: scene.store.get(job).state == "leased", "the claim")
    workers.kill(sleeper, signal.SIGSTOP)
    workers.start()
    until(lambda: scene.store.get(job).state == "done", "the second worker")
    go.touch()
    workers.kill(sleeper, signal.SIGCONT)
    workers.kill(sleeper, signal.SIGTERM)
    until(lambda: workers.gone(sleeper), "the end of the sleeper")
    workers.pids.remove(sleeper)
    assert scene.effects() == [(job, 2, "")]
    assert scene.store.get(job).result == 2


def test_sigterm_hands_back_what_has_not_begun(open_scene: Open, start_workers: Start, until: Until) -> None:
    """And finishes what has: nothing is left to run out, no try is lost."""
    scene = open_scene("sqlite")
    jobs = scene.store.submit_many([NewJob(kind="insert", arguments={"seconds": 0.2})] * 30)
    workers = start_workers(scene.url, 30.0)
    pid = workers.start()
    until(lambda: scene.store.get(jobs[2]).state == "done", "the first jobs")
    began = time.monotonic()
    workers.kill(pid, signal.SIGTERM)
    until(lambda: workers.gone(pid), "the end")
    assert time.monotonic() - began < 10
    workers.pids.remove(pid)
    found = scene.store.find(limit=100)
    assert {job.state for job in found} == {"done", "ready"}
    assert all(job.attempts == (job.state == "done") for job in found)
    assert len(scene.effects()) == sum(job.state == "done" for job in found)
