"""Moving and showing releases from the command line: the catalog's functions, with their results written out."""

import getpass
from datetime import UTC, datetime
from importlib.util import find_spec

import msgspec

from rung.catalog import releases as catalog
from rung.cli.printing import print_json, print_table
from rung.domain.errors import ConfigurationError
from rung.domain.names import check_version
from rung.domain.releases import BUCKETS, Release, Segment
from rung.settings.file import project_here
from rung.settings.project import ModelSettings, ReleaseSection
from rung.store.blobs import open_store

__all__ = ["How", "history", "list_releases", "promote", "release", "rollback"]


class How(msgspec.Struct, frozen=True):
    """What the flags of `rung release` say."""

    to: float | None = None
    stages: str = ""
    split: str = ""
    segments: tuple[str, ...] = ()
    unit: str = ""
    ladder: bool = False
    shadow: bool = False
    force: bool = False


def release(repository: str, model: str, version: int | None, how: How, because: str, *, as_json: bool) -> None:
    """Move the release of a model.

    Raises:
        ConfigurationError: the flags contradict each other or cannot be read.
        ClientError: whatever the catalog says of the move.
    """
    chosen = [flag for flag, on in _ways(how).items() if on]
    if len(chosen) > 1:
        raise ConfigurationError(f"{' and '.join(chosen)} do not go together: use one of them")
    if bool(how.split) == (version is not None):
        raise ConfigurationError("name one version, or give the shares of several with --split 1=95,2=5")
    if how.segments and not how.split:
        raise ConfigurationError("--segment goes with --split")
    store, why = open_store(repository), catalog.Why(by=_who(), reason=because)
    section = _section(model)
    # The project says what a unit is when a model gets its first release; after that the release does.
    how = msgspec.structs.replace(how, unit=how.unit or ("" if catalog.current(store, model) else section.unit))
    if how.split:
        shares = _read_shares(how.split)
        segments = tuple(_read_segment(text) for text in how.segments) or None
        moved = catalog.split(store, model, shares, unit=how.unit, segments=segments, force=how.force, **why)
    else:
        assert version is not None
        check_version(version)
        if how.shadow:
            moved = catalog.shadow(store, model, version, unit=how.unit, **why)
        elif how.ladder or how.stages:
            ladder = _read_stages(how.stages) if how.stages else section.ladder
            if not as_json:
                _forecast(model, section, ladder)
            moved = catalog.rollout(store, model, version, ladder=ladder, unit=how.unit, force=how.force, **why)
        else:
            percent = 100.0 if how.to is None else how.to
            moved = catalog.release(store, model, version, percent=percent, unit=how.unit, force=how.force, **why)
    _show(moved, as_json=as_json)


def _section(model: str) -> ReleaseSection:
    """What the project in this folder says about releases of this model."""
    return project_here().models.get(model, ModelSettings()).release


def _forecast(model: str, section: ReleaseSection, ladder: tuple[float, ...]) -> None:
    """Say how many units the rollout will need before it can decide."""
    if find_spec("scipy") is None:
        return  # the judging is done where the platform is installed
    from rung.fleet.expect import expect
    from rung.fleet.policy import read_policy

    policy = read_policy(msgspec.to_builtins(section), f"models.{model}.release")
    print("\n".join(f"expected: {line}" for line in str(expect(policy, ladder=ladder)).splitlines()))


def _ways(how: How) -> dict[str, bool]:
    return {
        "--to": how.to is not None,
        "--split": bool(how.split),
        "--shadow": how.shadow,
        "--ladder": how.ladder or bool(how.stages),
    }


def promote(repository: str, model: str, version: int | None, because: str, *, force: bool, as_json: bool) -> None:
    """Let the candidate, or a version, answer everybody."""
    moved = catalog.promote(open_store(repository), model, version, force=force, by=_who(), reason=because)
    _show(moved, as_json=as_json)


def rollback(repository: str, model: str, because: str, *, latch: bool, as_json: bool) -> None:
    """Take the candidate back, or go back to the version before."""
    moved = catalog.rollback(open_store(repository), model, latch=latch, by=_who(), reason=because)
    _show(moved, as_json=as_json)


def list_releases(repository: str, *, as_json: bool) -> None:
    """One line an arm."""
    found = catalog.list_releases(open_store(repository))
    if as_json:
        print_json(found)
        return
    if not found:
        print(f"no releases in {repository}: each model's latest version answers; move one with `rung release`")
        return
    rows = [
        (one.model, str(one.epoch), arm.name, str(arm.version), _percent(arm.share), one.at[:19], one.move.kind)
        for one in found
        for arm in one.arms
    ]
    print_table(("MODEL", "EPOCH", "ARM", "VERSION", "SHARE", "SINCE (UTC)", "MOVE"), rows)
    for one in found:
        if one.rollout is not None and one.rollout.held:
            print(f"{one.model}: version {one.rollout.candidate} is held: {one.rollout.held}")


def history(repository: str, model: str, at: str, *, as_json: bool) -> None:
    """The ledger, or the one line of it that was in force at a time."""
    store = open_store(repository)
    if at:
        when = _read_time(at)
        found = catalog.at(store, model, when)
        if as_json:
            print_json(found)
        elif found is None:
            print(f"{model} had no release at {when.isoformat(timespec='seconds')}: its latest version answered")
        else:
            print(f"at {when.isoformat(timespec='seconds')} epoch {found.epoch} was in force")
            _describe(found)
        return
    chain = catalog.history(store, model)
    if as_json:
        print_json(chain)
        return
    if not chain:
        print(f"{model} has no release yet: its latest version answers")
    for one in chain:
        _describe(one)


def _show(moved: Release, *, as_json: bool) -> None:
    if as_json:
        print_json(moved)
    else:
        _describe(moved)


def _describe(one: Release) -> None:
    arms = ", ".join(f"{arm.name} v{arm.version} {_percent(arm.share)}".rstrip() for arm in one.arms)
    print(f"{one.model} epoch {one.epoch}  {one.at[:19]}Z  {one.move.kind} by {one.move.by}: {arms}")
    rule, reason = one.move.rule, one.move.reason
    if rule != "by hand" or reason:
        print(f"    {reason if reason.startswith(f'{rule}:') else ': '.join(part for part in (rule, reason) if part)}")
    plain = {name: value for name, value in one.move.evidence.items() if isinstance(value, str | int | float) and value}
    if one.move.evidence:
        print(f"    evidence: {', '.join(f'{name} {value}' for name, value in plain.items())} (--json has all)")
    if one.keep:
        print(f"    stays loaded: {', '.join(f'v{version}' for version in one.keep)}")


def _percent(share: int) -> str:
    return f"{share * 100 / BUCKETS:g} %" if share else "-"


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"  # a container may run as a user without a name


def _read_shares(text: str) -> dict[int, float]:
    try:
        pairs = [part.split("=") for part in text.split(",")]
        shares = {int(version): float(share) for version, share in pairs}
    except ValueError:
        raise ConfigurationError(f"--split {text!r} is not VERSION=PERCENT,VERSION=PERCENT, such as 1=95,2=5") from None
    if len(shares) != len(pairs):
        raise ConfigurationError(f"--split {text!r} names a version twice")
    return shares


def _read_segment(text: str) -> Segment:
    attribute, equals, rest = text.partition("=")
    values, colon, version = rest.rpartition(":")
    if not (equals and colon and values and version.isdecimal()):
        raise ConfigurationError(f"--segment {text!r} is not ATTRIBUTE=VALUE,VALUE:VERSION, such as header:plan=beta:2")
    return Segment(attribute, tuple(value.strip() for value in values.split(",")), f"v{version}")


def _read_stages(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigurationError(f"--stages {text!r} are not percentages such as 0,1,5,25,50,100") from None


def _read_time(text: str) -> datetime:
    """A time of day is today's; without a zone it is local."""
    now = datetime.now().astimezone()
    try:
        if "T" not in text and "-" not in text.strip("-"):
            hour = datetime.strptime(text, "%H:%M:%S" if text.count(":") == 2 else "%H:%M")  # noqa: DTZ007 - a time of day
            when = now.replace(hour=hour.hour, minute=hour.minute, second=hour.second, microsecond=0)
        else:
            when = datetime.fromisoformat(text)
        return (when if when.tzinfo else when.astimezone()).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise ConfigurationError(
            f"--at {text!r} is no time: write 14:03, 2026-11-28T14:03 or ...T14:03+01:00"
        ) from None
