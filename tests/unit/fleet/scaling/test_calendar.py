import contextlib
import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.domain.errors import ConfigurationError
from rung.fleet.scaling.calendar import floor, read_entry

VIENNA = ZoneInfo("Europe/Vienna")
WORK = read_entry("0 8 * * 1-5 in Europe/Vienna for 10h: 3")


def at(text: str, zone=VIENNA) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


@pytest.mark.parametrize(
    ("when", "lead", "replicas"),
    [
        ("2026-11-27 07:58", 60, None),
        ("2026-11-27 07:59", 60, 3),  # ahead of the hour
        ("2026-11-27 08:00", 0, 3),
        ("2026-11-27 17:59:59", 0, 3),
        ("2026-11-27 18:00", 0, None),
        ("2026-11-28 12:00", 0, None),  # Saturday
        ("2026-07-01 08:00", 0, 3),  # summer: 6:00 UTC
        ("2026-01-01 07:59:30", 60, 3),
    ],
)
def test_an_entry_is_in_force_from_its_tick_on_and_a_little_before(when, lead, replicas):
    found = floor([WORK], at(when), lead)
    assert (found and found.replicas) == replicas


def test_it_says_which_entry_and_since_when():
    found = floor([WORK], at("2026-11-27 09:30"))
    assert found.why == "`0 8 * * 1-5 in Europe/Vienna for 10h: 3` is in force since 2026-11-27 08:00"
    found = floor([WORK], at("2026-11-27 07:59:20"), 60)
    assert found.why == "`0 8 * * 1-5 in Europe/Vienna for 10h: 3` begins in 40 s, at 2026-11-27 08:00"


def test_of_entries_that_overlap_the_largest_counts():
    entries = [read_entry("0 * * * * for 1h: 2"), read_entry("30 * * * * for 5min: 7")]
    assert floor(entries, at("2026-11-27 10:15")).replicas == 2
    assert floor(entries, at("2026-11-27 10:34")).replicas == 7
    assert floor(entries, at("2026-11-27 10:35")).replicas == 2


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])  # clocks go forward, and back
def test_a_change_of_clocks_moves_no_floor(day):
    night = read_entry("0 2 * * * in Europe/Vienna for 3h: 2")
    assert floor([night], at(f"{day} 03:30")).replicas == 2
    assert floor([night], at(f"{day} 12:00")) is None


def test_none_is_in_force_where_there_is_none():
    assert floor([], 0.0) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 8 * * 1-5: 3", "cannot be read: write CRON [in ZONE] for DURATION: COUNT"),
        ("0 8 * * 1-5 for 10h", "cannot be read"),
        ("0 8 * * for 10h: 3", "'0 8 * *' is no cron expression of five fields"),
        ("0 8 * * 1-5 for 10 hours: 3", "'10 hours' is no duration"),
        ("0 8 * * 1-5 in Europe/Wien for 10h: 3", "there is no time zone 'Europe/Wien'"),
        ("0 25 * * * for 10h: 3", "the cron expression '0 25 * * *' is wrong"),
        ("0 0 30 2 * for 1h: 3", "wrong"),
        ("0 8 * * * for 0h: 3", "it must last longer"),
        ("0 8 * * * for 5000d: 3", "a year at most"),
        ("0 8 * * * for 1h: -3", "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_told_with_the_setting(text, said):
    with pytest.raises(ConfigurationError, match=re.escape(said)) as error:
        read_entry(text, "models.m.serve.replicas.schedule")
    assert str(error.value).startswith("models.m.serve.replicas.schedule")


@given(st.text(max_size=40))
def test_any_text_is_an_entry_or_an_error(text):
    with contextlib.suppress(ConfigurationError):
        read_entry(text)


@given(st.integers(0, 4_000_000_000), st.floats(0, 7200))
def test_a_floor_with_a_lead_covers_the_one_without(second, lead):
    without, ahead = floor([WORK], float(second)), floor([WORK], float(second), lead)
    moment = datetime.fromtimestamp(second, VIENNA)
    plain = moment.weekday() < 5 and 8 <= moment.hour < 18
    if moment.utcoffset() == datetime.fromtimestamp(second, VIENNA).replace(hour=8).utcoffset():
        assert (without is not None) == plain
    if without is not None and floor([WORK], second + lead) is not None:
        assert ahead is not None


def test_utc_is_the_zone_where_none_is_named():
    assert floor([read_entry("0 8 * * * for 1h: 2")], at("2026-07-01 08:30", UTC)).replicas == 2
