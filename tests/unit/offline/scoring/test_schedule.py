"""Once in each period, whoever looks and however often, and as of the day of the tick."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from rung.domain.errors import ConfigurationError, NotFound
from rung.jobs.queue import JobStore
from rung.jobs.schedule import moment_of, tick
from rung.offline.scoring.schedule import KIND, order_of, schedules
from rung.settings.file import parse
from rung.store.database import open_database

PROJECT = """
[models.flats.score.all]
source = "csv:flats.csv"
every = "{every}"
at = "03:30"
zone = "Europe/Vienna"
key = ["id"]
group = ["town"]
"""


class Clock:
    """A time that the test sets."""

    now = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def __call__(self) -> float:
        return self.now.timestamp()


@pytest.mark.parametrize(("every", "days", "count"), [("daily", 30, 30), ("weekly", 42, 6), ("monthly", 120, 4)])
def test_a_data_set_is_scored_once_in_each_period_over_restarts(
    tmp_path: Path, every: str, days: int, count: int
) -> None:
    models = parse(PROJECT.format(every=every)).models
    clock = Clock()
    with open_database(f"sqlite:{tmp_path / 'rung.db'}") as database:
        jobs = JobStore(database, clock=clock)
        tick(jobs, schedules(models))
        for _ in range(days * 4):
            clock.now += timedelta(hours=6)
            # A control plane that has just been started again, beside another.
            for _ in range(2):
                tick(JobStore(database, clock=clock), schedules(models))
        found = jobs.find(kind=KIND, limit=1000)

    assert len(found) == count
    days_of = [order_of(models, "flats", "all", moment_of(job)).as_of for job in found]
    assert len(set(days_of)) == count
    assert all(job.key == "score:flats:all" for job in found)


def test_a_tick_that_is_done_late_is_as_of_its_own_day(tmp_path: Path) -> None:
    models = parse(PROJECT.format(every="daily")).models
    clock = Clock()
    with open_database(f"sqlite:{tmp_path / 'rung.db'}") as database:
        jobs = JobStore(database, clock=clock)
        tick(jobs, schedules(models))
        clock.now = datetime(2026, 1, 4, 1, tzinfo=UTC)  # off for two days, on again before the fourth's run
        [id] = tick(jobs, schedules(models))
        order = order_of(models, "flats", "all", moment_of(jobs.get(id)))

    assert order.as_of == "2026-01-03"
    assert (order.out, order.key, order.group, order.resume) == ("scores:", ("id",), ("town",), True)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="no time of the day"):
        parse(PROJECT.format(every="daily").replace("03:30", "25:00"))
    with pytest.raises(ConfigurationError, match="needs a key"):
        parse(PROJECT.format(every="daily").replace('key = ["id"]', ""))
    with pytest.raises(ConfigurationError, match="hourly"):
        parse(PROJECT.format(every="hourly"))
    with pytest.raises(NotFound, match=r"no \[models.flats.score.some\]; there are all"):
        order_of(parse(PROJECT.format(every="daily")).models, "flats", "some", 0.0)
    assert msgspec.json.encode(order_of(parse(PROJECT.format(every="daily")).models, "flats", "all", 0.0))
