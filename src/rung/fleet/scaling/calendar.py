"""Times at which more replicas are kept: a floor by the clock, raised ahead of the hour. Pure.

    0 8 * * 1-5 for 10h: 3                      from 8:00 UTC on weekdays, for ten hours, at least three
    0 8 * * 1-5 in Europe/Vienna for 10h: 3     by the clock on the wall there, summer and winter
    */10 * * * * for 2min: 4                    two minutes of every ten

An entry is a cron expression of five fields, `in` and a time zone where it is not UTC, `for` and how long, a colon, and
how many replicas. Of entries that overlap the largest counts.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

import msgspec

from rung.domain.errors import ConfigurationError, MissingDependency
from rung.domain.scaling import Opinion
from rung.settings.scaling import parse_duration

__all__ = ["Entry", "floor", "read_entry"]

_ENTRY = re.compile(
    r"(?P<cron>\S.*?)(?:\s+in\s+(?P<zone>\S+))?\s+for\s+(?P<time>[^:]+?)\s*:\s*(?P<count>\d+)", re.ASCII
)
_SHAPE = "CRON [in ZONE] for DURATION: COUNT, such as `0 8 * * 1-5 in Europe/Vienna for 10h: 3`"
_LONGEST = 366 * 86_400.0


class Entry(msgspec.Struct, frozen=True):
    """At least so many replicas, for so long from each tick on."""

    text: str
    """As it was written."""
    cron: str
    """Five fields: minute, hour, day of month, month, day of week."""
    zone: str
    seconds: float
    replicas: int


def read_entry(text: str, where: str = "schedule") -> Entry:
    """Read one entry.

    Args:
        text: In the form that the module's documentation gives.
        where: Name of the setting, for messages.

    Raises:
        ConfigurationError: which part of it means nothing, and what would.
        MissingDependency: cronsim is not installed.
    """
    found = _ENTRY.fullmatch(text.strip())
    if found is None:
        raise ConfigurationError(f"{where} = {text!r} cannot be read: write {_SHAPE}")
    try:
        seconds = parse_duration(found["time"])
    except ConfigurationError as error:
        raise ConfigurationError(f"{where} = {text!r}: {error}") from None
    entry = Entry(text.strip(), found["cron"], found["zone"] or "UTC", seconds, int(found["count"]))
    if not 0 < seconds <= _LONGEST:
        raise ConfigurationError(f"{where} = {text!r} lasts {found['time']}: it must last longer, and a year at most")
    if len(entry.cron.split()) != 5:
        raise ConfigurationError(
            f"{where} = {text!r}: {entry.cron!r} is no cron expression of five fields: minute, hour, day of month, "
            "month, day of week"
        )
    try:
        first = next(_ticks(entry, 0.0), None)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from None
    if first is None:
        raise ConfigurationError(f"{where} = {text!r} never comes")
    return entry


def floor(entries: Sequence[Entry], now: float, lead: float = 0.0) -> Opinion | None:
    """The most that the entries in force want; None where none is in force.

    Args:
        entries: All there are.
        now: Seconds since the epoch.
        lead: Seconds by which each begins early, so that its replicas answer when its hour comes.
    """
    best: tuple[int, Entry, float] | None = None
    for entry in entries:
        # One that is in force is told of before the next one of its kind.
        begun = (_last(entry, moment) for moment in (now, now + lead))
        began = next((at for at in begun if at is not None and now < at + entry.seconds), None)
        if began is not None and (best is None or entry.replicas > best[0]):
            best = entry.replicas, entry, began
    if best is None:
        return None
    replicas, entry, began = best
    when = datetime.fromtimestamp(began, ZoneInfo(entry.zone)).strftime("%Y-%m-%d %H:%M")
    tense = f"begins in {began - now:.0f} s, at" if began > now else "is in force since"
    return Opinion("schedule", replicas, f"`{entry.text}` {tense} {when}")


def _last(entry: Entry, until: float) -> float | None:
    """The last tick at or before a moment."""
    # From a whole second on and a minute more: backwards, cronsim leaves out the moment that it starts from.
    for tick in _ticks(entry, float(int(until) + 60), backwards=True):
        at = float(tick.timestamp())
        if at <= until:
            return at
    return None


def _ticks(entry: Entry, start: float, *, backwards: bool = False) -> Iterator[datetime]:
    try:
        from cronsim import CronSim, CronSimError
    except ImportError:
        raise MissingDependency("schedules need cronsim: pip install 'rung[platform]'") from None
    try:
        moment = datetime.fromtimestamp(start, ZoneInfo(entry.zone))
    except (KeyError, ValueError, OSError):
        raise ConfigurationError(f"`{entry.text}`: there is no time zone {entry.zone!r}") from None
    try:
        yield from CronSim(entry.cron, moment, reverse=backwards)
    except CronSimError as error:
        raise ConfigurationError(f"`{entry.text}`: the cron expression {entry.cron!r} is wrong: {error}") from None
