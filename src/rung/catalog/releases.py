"""Which versions answer whom: the one set of functions that moves a release, for people and controllers alike.

Every move is a link of the model's chain (`ledger`). At most one candidate is under way per model: whoever wants to
start another has to end the first. Going back needs nothing that is not loaded already.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypedDict, Unpack

import msgspec

from rung.catalog import bundles, ledger
from rung.domain import moves
from rung.domain.errors import Conflict, NotFound
from rung.domain.names import check_name, check_version
from rung.domain.releases import BUCKETS, LADDER, Arm, Move, MoveKind, Ranges, Release, Rollout, Segment, divide
from rung.ports import BlobStore

__all__ = [
    "Why",
    "advance",
    "at",
    "current",
    "history",
    "hold",
    "list_releases",
    "promote",
    "release",
    "rollback",
    "rollout",
    "shadow",
    "split",
]


class Why(TypedDict, total=False):
    """Who moves a release, and what that rests on; see `Move`."""

    by: str
    rule: str
    reason: str
    evidence: dict[str, Any]


# --- asking -----------------------------------------------------------------------------------


def current(store: BlobStore, model: str) -> Release | None:
    """What answers now; None for a model without a release, whose latest version answers."""
    link = ledger.last(store, model)
    return link.release if link else None


def history(store: BlobStore, model: str) -> list[Release]:
    """Every move, first to last.

    Raises:
        NotFound: there is no such model.
        BundleError: the ledger was tampered with.
    """
    chain = [link.release for link in ledger.links(store, model)]
    if not chain and not bundles.scan(store, model):
        raise bundles.absent(store, model)
    return chain


def at(store: BlobStore, model: str, when: datetime) -> Release | None:
    """What answered at this time (with a time zone); None before the first release. Raises as `history` does."""
    return next((one for one in reversed(history(store, model)) if datetime.fromisoformat(one.at) <= when), None)


def list_releases(store: BlobStore) -> list[Release]:
    """The last link of every model that has one."""
    found = (current(store, name) for name in ledger.models(store))
    return [release for release in found if release is not None]


# --- moving by hand ---------------------------------------------------------------------------


def release(
    store: BlobStore,
    model: str,
    version: int,
    *,
    percent: float = 100.0,
    unit: str = "",
    force: bool = False,
    **why: Unpack[Why],
) -> Release:
    """Let a version answer `percent` of the units, at once.

    Below 100 it answers as the arm `canary` beside a `baseline` of equal size, and waits there for a person
    (or is taken back by its guards).

    Raises:
        NotFound: there is no such version.
        Conflict: another candidate is under way, the version was taken back before and `force` is not set, or
            somebody else moved first.
        InvalidInput: the percentage or the unit will not do.
    """
    if percent != 100.0:
        return rollout(store, model, version, ladder=(percent,), unit=unit, force=force, **why)
    digest = _digest(store, model, version)

    def build(before: Release | None) -> Release:
        if before is not None and before.rollout is not None and before.rollout.candidate != version:
            raise _busy(before)
        _refuse_latched(before, model, version, digest, force=force)
        return moves.whole(before, model, version, digest, _move("release", why), unit)

    return ledger.append(store, model, build)


def rollout(
    store: BlobStore,
    model: str,
    version: int,
    *,
    ladder: tuple[float, ...] = LADDER,
    unit: str = "",
    force: bool = False,
    **why: Unpack[Why],
) -> Release:
    """Start a candidate at the first stage of a ladder of percentages; 0 is shadow. Raises as `release` does.

    Released by force although it was taken back before, it stays latched: it goes no further by itself.
    """
    if moves.check_ladder(ladder)[0] == 100:
        return release(store, model, version, unit=unit, force=force, **why)
    digest = _digest(store, model, version)

    def build(before: Release | None) -> Release:
        if before is not None and before.rollout is not None:
            raise _busy(before)
        _refuse_latched(before, model, version, digest, force=force)
        stable = _stable(store, before, model, version)
        draft = moves.begin(before, model, stable, _move("shadow" if ladder[0] == 0 else "release", why), unit)
        # A new experiment draws new lots: nobody is the guinea pig every time.
        salt = f"{model}:{draft.epoch + 1}"
        candidate = Rollout(version, digest, ladder)
        return moves.at_stage(
            msgspec.structs.replace(draft, salt=salt, ranges=((0, BUCKETS, "stable"),)), stable, candidate
        )

    return ledger.append(store, model, build)


def shadow(store: BlobStore, model: str, version: int, *, unit: str = "", **why: Unpack[Why]) -> Release:
    """Let a version answer copies of what others are asked, also one that was taken back. Raises as `release` does."""
    return rollout(store, model, version, ladder=(0.0,), unit=unit, force=True, **why)


def split(
    store: BlobStore,
    model: str,
    shares: Mapping[int, float],
    *,
    unit: str = "",
    segments: tuple[Segment, ...] | None = None,
    force: bool = False,
    **why: Unpack[Why],
) -> Release:
    """Divide the units between versions, in percent; arms are called `v1`, `v2`, ...

    Changed shares move only the units that have to move. `segments` None keeps those there are. The version that
    answered everybody before stays loaded.

    Raises:
        NotFound, Conflict: as for `release`.
        InvalidInput: the shares do not sum to 100, or a segment goes to no arm.
    """
    buckets = moves.buckets(shares)
    digests = {version: _digest(store, model, version) for version in shares}

    def build(before: Release | None) -> Release:
        if before is not None and before.rollout is not None:
            raise _busy(before)
        for version, digest in digests.items():
            _refuse_latched(before, model, version, digest, force=force)
        named: dict[int, str] = {version: f"v{version}" for version in buckets}
        ranges: Ranges = ()
        if before is not None:
            versions = {arm.name: arm.version for arm in before.arms}
            # Under the names that they will have, so that whoever can stay stays.
            ranges = tuple((start, stop, named.get(versions[arm], "")) for start, stop, arm in before.ranges)
        arms = tuple(Arm(named[v], v, digests[v], "split", share) for v, share in buckets.items())
        kept = segments if segments is not None else (before.segments if before else ())
        kept = tuple(one for one in kept if segments is not None or one.arm in named.values())
        moves.check_segments(kept, {arm.name for arm in arms})
        draft = moves.begin(before, model, arms[0], _move("split", why), unit)
        good = None if before is None else before.stable or _last_good(store, before)
        return msgspec.structs.replace(
            draft,
            arms=arms,
            ranges=divide(ranges, {arm.name: arm.share for arm in arms}),
            segments=kept,
            keep=() if good is None or good.version in digests else (good.version,),
            latched=tuple(one for one in draft.latched if one not in digests.values()),
            rollout=None,
        )

    return ledger.append(store, model, build)


def promote(
    store: BlobStore, model: str, version: int | None = None, *, force: bool = False, **why: Unpack[Why]
) -> Release:
    """Let the candidate that is under way (or `version`) answer everybody; the former version stays loaded.

    Raises:
        NotFound: there is no such version.
        Conflict: no candidate is under way and no version was given, another candidate is under way, the version
            was taken back before and `force` is not set, or somebody else moved first.
    """
    digest = "" if version is None else _digest(store, model, version)

    def build(before: Release | None) -> Release:
        chosen, identity = version, digest
        if chosen is None:
            if before is None or before.rollout is None:
                raise Conflict(f"no candidate of {model} is under way: say which version to promote")
            chosen, identity = before.rollout.candidate, before.rollout.digest
        elif before is not None and before.rollout is not None and before.rollout.candidate != chosen:
            raise _busy(before)
        _refuse_latched(before, model, chosen, identity, force=force)
        return moves.whole(before, model, chosen, identity, _move("promote", why))

    return ledger.append(store, model, build)


def rollback(
    store: BlobStore, model: str, *, latch: bool = True, seen: Release | None = None, **why: Unpack[Why]
) -> Release:
    """Take back the candidate that is under way; without one, go back to the last known good version.

    What is taken back is latched: no controller may release the same bytes again. With `seen` it is done only while
    that is still the last link: what somebody decides on must be what it does it to.

    Raises:
        Conflict: there is nothing to go back to, the release has moved on from `seen`, or somebody else moved first.
    """

    def build(before: Release | None) -> Release:
        if seen is not None:
            before = _unmoved(before, seen)
        if before is None:
            raise Conflict(f"{model} has no release: there is nothing to go back to")
        if before.rollout is not None:
            good, keep = before.main, before.keep
        else:
            found, keep = _last_good(store, before), ()
            if found is None:
                raise Conflict(
                    f"no other version of {model} that is still there answered everybody before: "
                    "there is nothing to go back to"
                )
            good = found
        draft = moves.whole(before, model, good.version, good.digest, _move("rollback", why))
        bad = [arm.digest for arm in before.arms if arm.digest and arm.version != good.version] if latch else []
        return msgspec.structs.replace(draft, keep=keep, latched=tuple(dict.fromkeys((*draft.latched, *bad))))

    return ledger.append(store, model, build)


# --- moving by a controller ---------------------------------------------------------------------


def advance(store: BlobStore, seen: Release, **why: Unpack[Why]) -> Release:
    """Take the candidate of `seen` to the next stage of its ladder; a stage of 100 makes it the stable version.

    Raises:
        Conflict: the release has moved on from `seen`, there is no next stage, or the candidate was taken back before.
    """

    def build(before: Release | None) -> Release:
        before = _unmoved(before, seen)
        rollout, stable = before.rollout, before.stable
        if rollout is None or stable is None or rollout.stage + 1 >= len(rollout.ladder):
            raise Conflict(f"{seen.model} has no further stage to go to")
        # Also where it was started by force: only a person lets it climb.
        _refuse_latched(before, seen.model, rollout.candidate, rollout.digest, force=False)
        following = msgspec.structs.replace(rollout, stage=rollout.stage + 1, entered="", held="")
        if following.percent >= 100:
            return moves.whole(before, seen.model, rollout.candidate, rollout.digest, _move("promote", why))
        draft = msgspec.structs.replace(before, move=_move("advance", why))
        return moves.at_stage(draft, stable, following)

    return ledger.append(store, seen.model, build)


def hold(store: BlobStore, seen: Release, **why: Unpack[Why]) -> Release:
    """Say that the candidate of `seen` goes no further by itself: its stage ended without a verdict.

    Raises:
        Conflict: the release has moved on from `seen`, or has no candidate.
    """

    def build(before: Release | None) -> Release:
        before = _unmoved(before, seen)
        if before.rollout is None:
            raise Conflict(f"no candidate of {seen.model} is under way")
        held = msgspec.structs.replace(before.rollout, held=why.get("reason", "") or "inconclusive")
        return msgspec.structs.replace(before, rollout=held, move=_move("hold", why))

    return ledger.append(store, seen.model, build)


# --- parts of a move ----------------------------------------------------------------------------


def _move(kind: MoveKind, why: Why) -> Move:
    return Move(
        kind, why.get("by") or "unknown", why.get("rule", "by hand"), why.get("reason", ""), why.get("evidence", {})
    )


def _stable(store: BlobStore, before: Release | None, model: str, candidate: int) -> Arm:
    """The version that the candidate is compared with."""
    if before is not None:
        main = before.main
        if main.version == candidate:
            raise Conflict(f"version {candidate} of {model} answers everybody already")
        return Arm("stable", main.version, main.digest, "stable", BUCKETS)
    others = [number for _, number in bundles.scan(store, model) if number != candidate]
    for number in sorted(others, reverse=True):
        try:
            return Arm("stable", number, _digest(store, model, number), "stable", BUCKETS)
        except NotFound:
            continue  # withdrawn
    raise Conflict(f"{model} has no other version to compare {candidate} with: release it whole")


def _last_good(store: BlobStore, before: Release) -> Arm | None:
    """The version that answered everybody before the one that does, or before the split that there is."""
    bad = before.main.version if before.stable is not None else 0
    returned = 0
    for link in ledger.back(store, before.model):
        arm = link.release.stable
        # What a rollback went back over was taken back: it stands again at what was before that.
        if arm is None or (returned and arm.version != returned):
            continue
        returned = arm.version if link.release.move.kind == "rollback" else 0
        if arm.version != bad and arm.digest not in before.latched and _folder(store, before.model, arm.version):
            return arm
    return None


def _folder(store: BlobStore, model: str, version: int) -> bundles.VersionFolder | None:
    """Where a version lies; None where there is none that could answer."""
    folder = bundles.scan(store, check_name(model)).get((model, check_version(version)))
    return folder if folder is not None and (folder.manifest is not None or folder.foreign) else None


def _digest(store: BlobStore, model: str, version: int) -> str:
    folder = _folder(store, model, version)
    if folder is None:
        raise bundles.absent(store, model, version)
    if folder.manifest is None:
        return ""  # another server's folder: its files have no identity of their own
    return bundles.read_version(store, model, version)[1]


def _refuse_latched(before: Release | None, model: str, version: int, digest: str, *, force: bool) -> None:
    if before is not None and digest and digest in before.latched and not force:
        raise Conflict(f"version {version} of {model} was taken back before; release it again only by force")


def _busy(before: Release) -> Conflict:
    assert before.rollout is not None
    return Conflict(
        f"version {before.rollout.candidate} of {before.model} is under way (epoch {before.epoch}): "
        "promote it or roll it back first"
    )


def _unmoved(before: Release | None, seen: Release) -> Release:
    if before is None or before.epoch != seen.epoch:
        raise Conflict(f"the release of {seen.model} has moved on from epoch {seen.epoch}")
    return before
