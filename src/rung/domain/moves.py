"""What the next release is, worked out from the one before: pure, so that a move can be tried on paper."""

import itertools
from collections.abc import Mapping

import msgspec

from rung.domain.errors import InvalidInput
from rung.domain.releases import BUCKETS, UNIT, Arm, Move, Release, Rollout, Segment, check_attribute, divide

__all__ = ["at_stage", "begin", "buckets", "check_ladder", "check_segments", "whole"]

_MOST_KEPT = 1
"""Former versions that stay loaded: the last known good."""


def begin(before: Release | None, model: str, stable: Arm, move: Move, unit: str = "") -> Release:
    """The release before with another move, or a first one in which `stable` answers everybody.

    Raises:
        InvalidInput: `unit` is no attribute of a request; empty keeps what there is.
    """
    if unit:
        check_attribute(unit, address=True)
    if before is not None:
        return msgspec.structs.replace(before, move=move, unit=unit or before.unit)
    ranges = ((0, BUCKETS, stable.name),)
    return Release(model, 0, "", "", (stable,), move, ranges, unit=unit or UNIT, salt=f"{model}:1")


def whole(before: Release | None, model: str, version: int, digest: str, move: Move, unit: str = "") -> Release:
    """One version answers everybody; the one that did before stays loaded. Raises as `begin` does."""
    arm = Arm("stable", version, digest, "stable", BUCKETS)
    draft = begin(before, model, arm, move, unit)
    keep: tuple[int, ...] = ()
    if before is not None:
        former = before.main.version
        keep = tuple(one for one in dict.fromkeys((former, *before.keep)) if one != version)[:_MOST_KEPT]
    return msgspec.structs.replace(
        draft,
        arms=(arm,),
        ranges=((0, BUCKETS, arm.name),),
        segments=(),
        keep=keep,
        latched=tuple(one for one in draft.latched if one != digest),
        rollout=None,
    )


def at_stage(draft: Release, stable: Arm, rollout: Rollout) -> Release:
    """The candidate of `rollout` at its stage: as a shadow, or as `canary` beside a `baseline` of equal size.

    The baseline is answered by the stable version and no larger than what the canary leaves.
    """
    share = round(rollout.percent / 100 * BUCKETS)
    beside = min(share, BUCKETS - share)
    shares = {"stable": BUCKETS - share - beside, "canary": share, "baseline": beside}
    ranges = divide(draft.ranges, shares)
    arms = [Arm("stable", stable.version, stable.digest, "stable", shares["stable"])]
    if share:
        arms.append(Arm("canary", rollout.candidate, rollout.digest, "canary", share))
        arms.append(Arm("baseline", stable.version, stable.digest, "baseline", beside))
    else:
        arms.append(Arm("shadow", rollout.candidate, rollout.digest, "shadow"))
    return msgspec.structs.replace(draft, arms=tuple(arms), ranges=ranges, segments=(), rollout=rollout)


def check_ladder(ladder: tuple[float, ...]) -> tuple[float, ...]:
    """Return the stages if they rise from 0 to at most 100 percent. Raises `InvalidInput`."""
    rising = all(low < high for low, high in itertools.pairwise(ladder))
    least = 100 / BUCKETS
    # With less than a bucket there is nobody to answer, or nobody to compare with.
    if not ladder or not rising or not all(stage in (0, 100) or least <= stage <= 100 - least for stage in ladder):
        raise InvalidInput(f"the stages {list(ladder)} must rise and be percentages from 0 to 100", field="ladder")
    return ladder


def buckets(shares: Mapping[int, float]) -> dict[int, int]:
    """Percentages by version as buckets that sum to all. Raises `InvalidInput` unless they sum to 100."""
    if not shares or not all(share >= 0 for share in shares.values()) or not abs(sum(shares.values()) - 100) <= 1e-6:
        raise InvalidInput(f"the shares {dict(shares)} must be percentages that sum to 100", field="shares")
    found = {version: round(share / 100 * BUCKETS) for version, share in shares.items()}
    largest = max(found, key=lambda version: found[version])
    found[largest] += BUCKETS - sum(found.values())
    return found


def check_segments(segments: tuple[Segment, ...], arms: set[str]) -> None:
    """Raises `InvalidInput` for a segment by no attribute, or for an arm that there is not."""
    for segment in segments:
        check_attribute(segment.attribute)
        if segment.arm not in arms:
            raise InvalidInput(f"a segment goes to {segment.arm!r:.60}; there are {sorted(arms)}", field="segments")
