from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.domain.errors import ConfigurationError
from rung.domain.jobs import NewJob
from rung.jobs.queue import JobStore
from rung.jobs.schedule import Schedule, check, plan, tick
from rung.store.database import open_database
from rung.testing.jobs import Clock

VIENNA = ZoneInfo("Europe/Vienna")


def every(cron: str, zone: str = "UTC", *, catch_up: bool = True) -> Schedule:
    return Schedule(name="s", cron=cron, zone=zone, job=NewJob(kind="a"), catch_up=catch_up)


def at(moment: str, zone: ZoneInfo | None = None) -> float:
    return datetime.fromisoformat(moment).replace(tzinfo=zone or UTC).timestamp()


def due(schedule: Schedule, last: float, now: float) -> list[float]:
    return [one.at for one in plan([schedule], {"s": last}, now)]


@pytest.mark.parametrize(
    ("cron", "last", "now", "expected"),
    [
        ("0 3 * * *", "2026-05-01T03:00", "2026-05-02T02:59:59", None),
        ("0 3 * * *", "2026-05-01T03:00", "2026-05-02T03:00", "2026-05-02T03:00"),
        ("0 3 * * 1", "2026-05-01T00:00", "2026-05-05T00:00", "2026-05-04T03:00"),
        ("*/15 * * * *", "2026-05-01T00:00", "2026-05-01T00:59", "2026-05-01T00:45"),
        ("0 0 29 2 *", "2024-02-29T00:00", "2030-01-01T00:00", "2028-02-29T00:00"),
        ("* * 1 1 *", "2020-01-01T00:00", "2026-06-01T00:00", "2026-01-01T23:59"),
        ("* * * * * *", "2020-01-01T00:00", "2026-06-01T00:00", "2026-06-01T00:00"),
        ("0 0 * * *", "2026-05-02T00:00", "2026-05-01T00:00", None),
    ],
)
def test_the_latest_missed_tick_is_due(cron: str, last: str, now: str, expected: str | None) -> None:
    assert due(every(cron), at(last), at(now)) == ([at(expected)] if expected else [])


def test_a_schedule_that_was_never_seen_is_not_due() -> None:
    assert plan([every("* * * * *")], {}, at("2026-05-01T00:00")) == []


def test_missed_ticks_can_be_left_out() -> None:
    schedule = every("0 3 * * *", catch_up=False)
    last = at("2026-05-01T03:00")
    assert [one.skipped for one in plan([schedule], {"s": last}, at("2026-05-02T03:00:30"))] == [False]
    assert [one.skipped for one in plan([schedule], {"s": last}, at("2026-05-02T04:00"))] == [True]


def days(cron: str, first: str, last: str) -> list[str]:
    """Ticks in local time, seen by a control plane that looks every ten minutes."""
    schedule = every(cron, "Europe/Vienna")
    seen, ticks = at(first, VIENNA), []
    now = seen
    while now < at(last, VIENNA):
        now += 600
        for moment in due(schedule, seen, now):
            ticks.append(datetime.fromtimestamp(moment, VIENNA).isoformat())
            seen = moment
    return ticks


def test_a_gap_in_spring_delays_a_tick_and_loses_none() -> None:
    assert days("30 2 * * *", "2026-03-28T12:00", "2026-03-30T12:00") == [
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:30:00+02:00",
    ]
    assert len(days("*/30 * * * *", "2026-03-29T00:00", "2026-03-29T06:00")) == 10


def test_an_hour_that_comes_twice_in_autumn_runs_a_daily_tick_once() -> None:
    assert days("30 2 * * *", "2026-10-24T12:00", "2026-10-26T12:00") == [
        "2026-10-25T02:30:00+02:00",
        "2026-10-26T02:30:00+01:00",
    ]
    assert len(days("*/30 * * * *", "2026-10-25T00:00", "2026-10-25T06:00")) == 14


@given(st.sampled_from(["*/7 * * * *", "30 2 * * *", "0 */2 * * *", "15,45 1-3 * * 0"]), st.data())
def test_looking_often_or_seldom_gives_the_same_last_tick(cron: str, data: st.DataObject) -> None:
    """Over the change of clocks in autumn."""
    schedule = every(cron, "Europe/Vienna")
    first = at("2026-10-24T00:00")
    looks = sorted(data.draw(st.lists(st.integers(0, 200_000), min_size=1, max_size=20)))
    seen = first
    for look in looks:
        seen = max([seen, *due(schedule, seen, first + look)])
    assert seen == max([first, *due(schedule, first, first + looks[-1])])


@pytest.mark.parametrize(
    ("cron", "zone", "words"),
    [
        ("61 * * * *", "UTC", "Bad minute"),
        ("nightly", "UTC", "Wrong number of fields"),
        ("0 0 30 2 *", "UTC", ""),
        ("0 0 * * *", "Europe/Atlantis", "no time zone"),
        ("0 0 * * *", "../etc/passwd", "no time zone"),
    ],
)
def test_mistakes_are_named(cron: str, zone: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=f"schedule 's'.*{words}"):
        check(every(cron, zone))


@pytest.fixture
def planes(tmp_path: Path) -> Iterator[tuple[Clock, list[JobStore]]]:
    """Two control planes, each with a connection of its own."""
    clock = Clock(at("2026-05-01T00:00:30"))
    databases = [open_database(f"sqlite:{tmp_path}/rung.db") for _ in range(2)]
    yield clock, [JobStore(database, clock) for database in databases]
    for database in databases:
        database.close()


def run_ticks(planes: tuple[Clock, list[JobStore]], count: int) -> None:
    clock, stores = planes
    schedules = [every("* * * * *")]
    assert [tick(store, schedules) for store in stores] == [[], []]
    for number in range(count):
        clock.now += 60
        first = number % 2
        assert [len(tick(stores[plane], schedules)) for plane in (first, 1 - first, first)] == [1, 0, 0]
    keys = [job.idempotency_key for job in stores[0].find(limit=count + 1)]
    assert len(set(keys)) == len(keys) == count
    assert keys[-1] == "a:s:2026-05-01T00:01:00Z"


def test_two_control_planes_submit_each_tick_once(planes: tuple[Clock, list[JobStore]]) -> None:
    run_ticks(planes, 150)


@pytest.mark.nightly
def test_two_control_planes_submit_each_of_ten_thousand_ticks_once(planes: tuple[Clock, list[JobStore]]) -> None:
    run_ticks(planes, 10_000)


def test_clocks_that_are_set_run_nothing_twice(planes: tuple[Clock, list[JobStore]]) -> None:
    """A day ahead, back again, and an hour back: every tick once, and the schedule does not fall silent."""
    clock, [store, other] = planes
    schedules = [every("0 * * * *")]
    tick(store, schedules)
    for jump in (86400.0, -86400.0, -3600.0):
        clock.now += jump
        for _ in range(30):
            clock.now += 600
            tick(store, schedules)
            tick(other, schedules)
    keys = [job.idempotency_key for job in store.find(limit=1000)]
    assert len(keys) == len(set(keys))
    hours = {key.split(":", 2)[2][:13] for key in keys}
    assert {f"2026-05-01T{hour:02}" for hour in range(6, 14)} <= hours
