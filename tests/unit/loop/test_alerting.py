import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rung.domain.alerts import Happening
from rung.domain.errors import ConfigurationError, NotReady
from rung.domain.jobs import NewJob
from rung.fleet.loop import PartHealth
from rung.jobs.queue import JobStore
from rung.loop.alert_store import KIND, AlertStore
from rung.loop.alerting import Alerting
from rung.loop.triggers import Seen
from rung.settings.alerts import AlertSection, AlertsSection
from rung.settings.project import ProjectSettings
from rung.store.blobs import open_store
from rung.store.database import Database, open_database

SECTION = AlertsSection(slack="https://hooks.example/x", group_seconds=0)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_database(f"sqlite:{tmp_path / 'rung.db'}", busy_seconds=0.2) as opened:
        yield opened


def alerting(folder: Path, database: Database, section: AlertsSection = SECTION, **measured: Seen) -> Alerting:
    return Alerting(
        ProjectSettings(alerts=section),
        open_store(str(folder / "repository")),
        JobStore(database),
        lambda: [PartHealth(name="rollouts", in_a_row=0)],
        lambda: measured,
        folder,
    )


def told(happenings: list[Happening]) -> list[str]:
    return [f"{one.what} {one.alert.rule}" for one in happenings]


def test_faults_are_told_once_and_their_end_too(tmp_path: Path, database: Database) -> None:
    jobs = JobStore(database)
    id = jobs.submit(NewJob(kind="score", max_attempts=1))
    jobs.fail(jobs.claim("w", {"score": 0})[0], "why")
    seen = alerting(tmp_path, database, m=Seen(drifted=True, evidence={"triage": "covariate drift"}))
    assert sorted(told(seen.turn())) == ["fired drift", "fired jobs-dead"]
    assert seen.turn() == []
    assert len(jobs.find(kind=KIND)) == 2
    jobs.retry(id)
    again = alerting(tmp_path, database, m=Seen(drifted=False))
    assert sorted(told(again.turn())) == ["resolved drift", "resolved jobs-dead"]
    assert len(jobs.find(kind=KIND)) == 4


def test_without_anyone_to_tell_alerts_are_kept(tmp_path: Path, database: Database) -> None:
    alerting(tmp_path, database, AlertsSection(group_seconds=0), m=Seen(worse=True)).turn()
    assert [one.rule for one in AlertStore(JobStore(database)).list_alerts()] == ["quality"]
    assert JobStore(database).find(kind=KIND) == []


def test_a_database_that_was_locked_is_told_when_it_is_not(tmp_path: Path, database: Database) -> None:
    seen = alerting(tmp_path, database, m=Seen(worse=True))
    locked, done = threading.Event(), threading.Event()
    with open_database(f"sqlite:{tmp_path / 'rung.db'}") as other:

        def hold(_: object) -> None:
            locked.set()
            done.wait(30)

        holder = threading.Thread(target=other.write, args=(hold,))
        holder.start()
        locked.wait(30)
        try:
            with pytest.raises(NotReady, match="locked"):
                seen.turn()
        finally:
            done.set()
            holder.join()
    assert sorted(told(seen.turn())) == ["fired database-locked", "fired quality"]


def test_a_rule_that_makes_no_sense_stops_the_start(tmp_path: Path, database: Database) -> None:
    with pytest.raises(ConfigurationError, match="'disk'"):
        alerting(tmp_path, database, AlertsSection(rule=(AlertSection(name="disk", above=1.0),)))
