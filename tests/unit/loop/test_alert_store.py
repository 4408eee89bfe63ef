import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import Connection, text

from rung.domain.alerts import Observation
from rung.domain.errors import NotFound
from rung.domain.jobs import Job
from rung.jobs.queue import JobStore
from rung.loop.alert_rules import RULES
from rung.loop.alert_store import KIND, AlertStore, GroupedError
from rung.store.database import Database, open_database
from rung.testing.jobs import Clock
from rung.testing.postgres import serve_postgres

FULL = Observation("disk_free_share", 0.01, {"place": "/data"})
ROOM = Observation("disk_free_share", 0.5, {"place": "/data"})
CHANNELS = ("webhook", "smtp")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serve_postgres() as url:
        yield url


def empty(connection: Connection) -> None:
    connection.execute(text("DROP SCHEMA public CASCADE"))
    connection.execute(text("CREATE SCHEMA public"))


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:{tmp_path / 'rung.db'}"
        return
    place = request.getfixturevalue("server")
    with open_database(place) as database:
        database.write(empty)
    yield place


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with open_database(url) as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(database: Database, clock: Clock) -> JobStore:
    return JobStore(database, clock)


def told(jobs: JobStore) -> list[str]:
    found: list[Job] = jobs.find(kind=KIND)
    return sorted(f"{one.arguments['channel']} {one.arguments['notice']['what']}" for one in found)


def test_fires_and_resolves_once_and_each_channel_gets_a_job(jobs: JobStore, clock: Clock) -> None:
    store = AlertStore(jobs)
    for seconds in (0, 30, 10, 10):
        clock.now += seconds
        store.turn(RULES, [FULL], CHANNELS)
    assert told(jobs) == ["smtp fired", "webhook fired"]
    [alert] = store.list_alerts()
    assert alert.says == "only 1.00% of the disk under /data is free"
    for _ in range(3):
        clock.now += 60
        store.turn(RULES, [ROOM], CHANNELS)
    assert told(jobs) == ["smtp fired", "smtp resolved", "webhook fired", "webhook resolved"]
    assert [one.status for one in store.list_alerts()] == ["resolved"]
    assert store.list_alerts(recent=False) == []


def test_two_control_planes_at_once_notify_once(url: str, clock: Clock) -> None:
    with open_database(url) as first, open_database(url) as second:
        stores = [AlertStore(JobStore(database, clock)) for database in (first, second)]
        stores[0].turn(RULES, [FULL], CHANNELS)
        clock.now += 30
        together = Barrier(2)

        def turn(store: AlertStore) -> int:
            together.wait()
            return len(store.turn(RULES, [FULL], CHANNELS))

        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(turn, stores)) == [0, 1]
        assert told(JobStore(first)) == ["smtp fired", "webhook fired"]


DYING = """
import os, signal, sys
from rung.domain.alerts import Observation
from rung.jobs.queue import JobStore
from rung.loop import alert_store
from rung.loop.alert_rules import RULES
from rung.store.database import open_database

url, where = sys.argv[1:]
store = alert_store.AlertStore(JobStore(open_database(url), lambda: 1.8e9))
if where == "between":  # the alert is written, its jobs are not
    alert_store.add = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
store.turn(RULES, [Observation("jobs_dead", 3.0, {"kind": "a"})], ["webhook"])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("where", ["between", "after"])
def test_a_kill_neither_loses_nor_repeats_a_notification(url: str, where: str) -> None:
    with open_database(url) as database:
        jobs = JobStore(database, lambda: 1.8e9 + 5)
        dying = subprocess.run([sys.executable, "-c", DYING, url, where], env=os.environ, check=False, timeout=60)
        assert dying.returncode == -signal.SIGKILL
        assert told(jobs) == ([] if where == "between" else ["webhook fired"])
        AlertStore(jobs).turn(RULES, [Observation("jobs_dead", 3.0, {"kind": "a"})], ["webhook"])
        assert told(jobs) == ["webhook fired"]


def test_acknowledging_keeps_it_from_escalating(jobs: JobStore, clock: Clock) -> None:
    store = AlertStore(jobs)
    dead = [Observation("jobs_dead", 1.0, {"kind": name}) for name in "ab"]
    store.turn(RULES, dead, ["slack"], escalate_seconds=60)
    seen = store.acknowledge(store.list_alerts()[0].id, "ann")
    clock.now += 60
    [escalated] = store.turn(RULES, dead, ["slack"], escalate_seconds=60)
    assert escalated.what == "escalated"
    assert escalated.alert.labels != seen.labels
    with pytest.raises(NotFound, match="rung alerts list"):
        store.acknowledge("nothing", "ann")


def test_a_silence_of_a_rule_replaces_the_one_before(jobs: JobStore, clock: Clock) -> None:
    store = AlertStore(jobs)
    store.silence("jobs-dead", 60, why="known")
    store.silence("jobs-dead", 600)
    [silence] = store.silences()
    assert silence.until == clock.now + 600
    assert store.turn(RULES, [Observation("jobs_dead", 1.0, {"kind": "a"})], ["slack"]) == []
    store.silence("jobs-dead", 0)
    assert len(store.turn(RULES, [Observation("jobs_dead", 1.0, {"kind": "a"})], ["slack"])) == 1


def test_a_thousand_equal_errors_are_one_report(jobs: JobStore) -> None:
    store = AlertStore(jobs)
    for source, counts in (("replica-1 9", (1, 400, 400)), ("replica-2 4", (600,))):
        for count in counts:
            found = GroupedError(
                fingerprint="f",
                source=source,
                version="1.0",
                kind="ValueError",
                place="rung.x:y",
                message="no 7",
                count=count,
                first=5.0 if "1" in source else 3.0,
                last=float(count),
            )
            store.count_errors([found])
    [report] = store.errors()
    assert (report.count, report.version, report.first, report.last) == (1000, "1.0", 3.0, 600.0)
