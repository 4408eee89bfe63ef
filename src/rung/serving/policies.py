"""Which versions to load and unload next. Pure: a snapshot in, actions out; acting twice does no harm.

After TF Serving's aspired-version policies: what is wanted is stated as a whole list each time, and
a version that is not in it is to be unloaded.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

from rung.domain.models import AspiredVersion, VersionState
from rung.domain.releases import Release

__all__ = ["Action", "Entry", "Load", "Policy", "Unload", "needed", "plan"]


class Policy(msgspec.Struct, frozen=True):
    """Which versions of a model to serve, and in what order to swap them."""

    keep: Literal["latest", "all"] = "latest"
    versions: int = 1
    pin: tuple[int, ...] = ()
    swap: Literal["availability", "resources"] = "availability"
    retries: int = 2


class Entry(msgspec.Struct, frozen=True):
    """One version that this process has loaded, is loading or has failed to load."""

    version: AspiredVersion
    state: VersionState
    failures: int = 0
    """Loads of these very bytes that failed."""


class Load(msgspec.Struct, frozen=True):
    """Load this version."""

    version: AspiredVersion


class Unload(msgspec.Struct, frozen=True):
    """Drain and unload this version."""

    version: AspiredVersion


Action = Load | Unload

_NONE: Mapping[str, tuple[int, ...]] = {}
_LIVE = (VersionState.START, VersionState.LOADING, VersionState.AVAILABLE)


def plan(
    aspired: list[AspiredVersion],
    entries: list[Entry],
    policy: Policy,
    released: Mapping[str, tuple[int, ...]] = _NONE,
) -> list[Action]:
    """What to do now, model by model. `released` has the versions that each model's release needs.

    Guarantees:
        1. With `swap = availability` a version that answers is unloaded only when every wanted
           version that can be loaded is available, so the model never stops answering.
        2. With `swap = resources` nothing is loaded while a version that is not wanted still holds memory.
        3. A version that failed `retries + 1` times counts as absent until its bytes change, so the
           next best one is wanted instead.
        4. A model with a release keeps that release's versions, and what `pin` or `keep = all` adds; if none of
           its versions is there, it is treated as if it had no release, rather than not answering.
    """
    names = sorted({one.name for one in aspired} | {entry.version.name for entry in entries})
    actions: list[Action] = []
    for name in names:
        mine = [entry for entry in entries if entry.version.name == name]
        spent = {entry.version for entry in mine if entry.failures > policy.retries}
        there = [one for one in aspired if one.name == name and one not in spent]
        wanted = _released(there, policy, released.get(name, ())) or _wanted(there, policy)
        actions += _swap(wanted, mine, policy)
    return actions


def needed(release: Release, policy: Policy) -> tuple[int, ...]:
    """Versions to be loaded for a release: with `swap = resources`, where memory is short, none that answers nobody."""
    if policy.swap == "resources":
        return tuple(sorted({arm.version for arm in release.arms}))
    return release.versions


def _released(aspired: list[AspiredVersion], policy: Policy, versions: tuple[int, ...]) -> list[AspiredVersion]:
    needed = [one for one in aspired if one.version in versions]
    if not needed:
        return []
    more = [one for one in aspired if one not in needed and (policy.keep == "all" or one.version in policy.pin)]
    return sorted([*needed, *more], key=lambda one: one.version, reverse=True)


def _wanted(aspired: list[AspiredVersion], policy: Policy) -> list[AspiredVersion]:
    if policy.pin:
        return [one for one in aspired if one.version in policy.pin]
    newest = sorted(aspired, key=lambda one: one.version, reverse=True)
    return newest if policy.keep == "all" else newest[: policy.versions]


def _swap(wanted: list[AspiredVersion], entries: list[Entry], policy: Policy) -> list[Action]:
    states = {entry.version: entry.state for entry in entries}
    missing = [one for one in wanted if states.get(one, VersionState.END) is VersionState.END]
    surplus = [entry.version for entry in entries if entry.state in _LIVE and entry.version not in wanted]
    if policy.swap == "resources":
        leaving = any(entry.state is VersionState.UNLOADING for entry in entries)
        return [*map(Unload, surplus)] if surplus else [] if leaving else [*map(Load, missing)]
    ready = all(states.get(one) is VersionState.AVAILABLE for one in wanted)
    # Loading surplus is stopped by nobody: it becomes available first and is unloaded then.
    unload = [one for one in surplus if ready and states[one] is VersionState.AVAILABLE]
    return [*map(Load, missing), *map(Unload, unload)]
