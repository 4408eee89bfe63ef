"""Which replicas to start and which to end, so that there are as many as wanted, and none of before a restart. Pure."""

from collections.abc import Iterable, Sequence

import msgspec

__all__ = ["End", "Place", "Start", "plan"]


class Place(msgspec.Struct, frozen=True):
    """A replica that runs, comes up, or goes."""

    number: int
    """Counts from 1."""
    ready: bool = False
    """Whether it answers."""
    leaving: bool = False
    """Whether it was told to end."""
    old: bool = False
    """Whether it began before a restart was asked for, so that another has to take its place."""


class Start(msgspec.Struct, frozen=True):
    """Start a replica under this number."""

    number: int


class End(msgspec.Struct, frozen=True):
    """End this one: no new requests, then what it owes, then the end."""

    number: int


def plan(places: Sequence[Place], wanted: int) -> list[Start | End]:
    """What to do now; called again whenever a replica has become ready or has ended.

    As many as `wanted` stay. Of too many those go first that do not answer, then the highest numbers. A restart goes
    one by one: a new one has to answer before an old one goes, so that there are never fewer than before. Where a new
    one never answers, the old ones stay.
    """
    staying = [place for place in places if not place.leaving]
    old = [place for place in staying if place.old]
    if old and wanted:
        return _replace(places, staying, old, wanted)
    spare = len(staying) - wanted
    if spare > 0:
        return [End(place.number) for place in sorted(staying, key=_worth)[:spare]]
    return [Start(number) for number in _free(places, -spare)]


def _replace(places: Sequence[Place], staying: list[Place], old: list[Place], wanted: int) -> list[Start | End]:
    idle = [place for place in old if not place.ready]
    if idle:
        # Nobody misses one that does not answer.
        return [End(place.number) for place in idle]
    if len(staying) < wanted:
        return [Start(number) for number in _free(places, wanted - len(staying))]
    if len(staying) > wanted + 1:
        return [End(place.number) for place in sorted(staying, key=_worth)[: len(staying) - wanted - 1]]
    if len(staying) < len(places) or not all(place.ready for place in staying):
        return []  # one at a time
    if len(staying) > wanted:
        return [End(min(place.number for place in old))]
    return [Start(number) for number in _free(places, 1)]


def _worth(place: Place) -> tuple[bool, bool, int]:
    """Least first."""
    return place.ready, not place.old, -place.number


def _free(places: Iterable[Place], count: int) -> list[int]:
    """The lowest numbers that nobody has."""
    taken = {place.number for place in places}
    found: list[int] = []
    number = 1
    while len(found) < count:
        if number not in taken:
            found.append(number)
        number += 1
    return found
