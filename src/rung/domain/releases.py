"""A release: which versions of a model answer whom. A value, and the arithmetic of dividing callers.

Callers are divided by *unit* (a user, say), never by request: blake2b(salt, unit) puts each unit into one of a
million buckets, and a release says which arm each range of buckets belongs to. That needs no memory, so a unit keeps
its arm over restarts and replicas.
"""

import hashlib
from typing import Any, Literal

import msgspec

from rung.domain.errors import InvalidInput

__all__ = [
    "BUCKETS",
    "LADDER",
    "UNIT",
    "Arm",
    "Move",
    "MoveKind",
    "Ranges",
    "Release",
    "Rollout",
    "Segment",
    "arm_at",
    "bucket",
    "check_attribute",
    "divide",
    "shares_of",
]

BUCKETS = 1_000_000
LADDER = (0.0, 1.0, 5.0, 25.0, 50.0, 100.0)
"""Percent of the units at each stage of a rollout; 0 answers copies only (shadow)."""
UNIT = "header:rung-unit"
_ATTRIBUTES = ("header", "cookie", "json")

Role = Literal["stable", "canary", "baseline", "shadow", "split"]
MoveKind = Literal["release", "split", "shadow", "promote", "rollback", "advance", "hold"]
Ranges = tuple[tuple[int, int, str], ...]


class Arm(msgspec.Struct, frozen=True):
    """One group of units and the version that answers them."""

    name: str
    version: int
    digest: str
    """Identity of the version's bytes, as far as it was known."""
    role: Role
    share: int = 0
    """Buckets of the `BUCKETS`; 0 for a shadow, which answers nobody."""


class Segment(msgspec.Struct, frozen=True):
    """Units that an attribute sends to an arm whatever their bucket: an audience."""

    attribute: str
    """`header:NAME`, `cookie:NAME` or `json:FIELD`."""
    values: tuple[str, ...]
    arm: str


class Rollout(msgspec.Struct, frozen=True):
    """A candidate on its way up a ladder of shares."""

    candidate: int
    digest: str
    ladder: tuple[float, ...] = LADDER
    """Percent of the units at each stage, rising; 0 is shadow. One that does not end at 100 waits at its end
    for a person."""
    stage: int = 0
    began: str = ""
    """When the rollout began, RFC 3339 UTC."""
    entered: str = ""
    """When this stage began."""
    held: str = ""
    """Why it goes no further by itself; empty while it may."""

    @property
    def percent(self) -> float:
        """Share of the units that the candidate answers at this stage."""
        return self.ladder[self.stage]


class Move(msgspec.Struct, frozen=True):
    """Why a release is as it is: a line of the ledger."""

    kind: MoveKind
    by: str
    """Who or what: a person, or the name of a controller."""
    rule: str = "by hand"
    reason: str = ""
    evidence: dict[str, Any] = {}
    """Counts, intervals and verdicts that the move rests on."""


class Release(msgspec.Struct, frozen=True):
    """Which versions of a model answer now: one link of the model's chain of releases."""

    model: str
    epoch: int
    previous: str
    """sha256 of the predecessor's bytes, in hex; empty for the first."""
    at: str
    """RFC 3339, UTC."""
    arms: tuple[Arm, ...]
    move: Move
    ranges: Ranges = ()
    """`[start, stop)` of the buckets, and the name of their arm; they cover all buckets in order."""
    segments: tuple[Segment, ...] = ()
    unit: str = UNIT
    """What a unit is: `header:NAME`, `cookie:NAME`, `json:FIELD` or `address`."""
    salt: str = ""
    keep: tuple[int, ...] = ()
    """Versions that stay loaded without an arm, so that going back to them needs no download."""
    latched: tuple[str, ...] = ()
    """Digests that were taken back: only a person may release them again."""
    rollout: Rollout | None = None
    format: int = 1

    @property
    def stable(self) -> Arm | None:
        """The arm of whoever is in no experiment; None in a plain split."""
        return next((arm for arm in self.arms if arm.role == "stable"), None)

    @property
    def shadow(self) -> Arm | None:
        """The arm that gets copies and answers nobody."""
        return next((arm for arm in self.arms if arm.role == "shadow"), None)

    @property
    def main(self) -> Arm:
        """The stable arm, or the largest of a plain split."""
        return self.stable or max(self.arms, key=lambda arm: arm.share)

    def arm(self, name: str) -> Arm | None:
        """The arm of this name."""
        return next((arm for arm in self.arms if arm.name == name), None)

    @property
    def versions(self) -> tuple[int, ...]:
        """Versions that have to be loaded, ascending."""
        return tuple(sorted({arm.version for arm in self.arms} | set(self.keep)))


def bucket(salt: str, unit: str) -> int:
    """The bucket of a unit, 0 to `BUCKETS` - 1: uniform, and independent between salts."""
    key = hashlib.blake2b(f"{salt}\0{unit}".encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(key, "big") % BUCKETS


def arm_at(ranges: Ranges, number: int) -> str:
    """Name of the arm that a bucket belongs to."""
    for _, stop, name in ranges:
        if number < stop:
            return name
    raise ValueError(f"no range covers bucket {number}")


def shares_of(ranges: Ranges) -> dict[str, int]:
    """Arm -> number of its buckets."""
    shares: dict[str, int] = {}
    for start, stop, name in ranges:
        shares[name] = shares.get(name, 0) + stop - start
    return shares


def divide(ranges: Ranges, shares: dict[str, int]) -> Ranges:
    """New ranges with these shares that move as few buckets as possible.

    An arm that grows keeps all it has; an arm that shrinks gives up the end of its last ranges. So exactly
    the buckets change hands that have to. `ranges` may be empty.

    Raises:
        InvalidInput: the shares are negative or do not sum to `BUCKETS`.
    """
    if sum(shares.values()) != BUCKETS or min(shares.values()) < 0:
        raise InvalidInput(f"shares must be at least 0 and sum to {BUCKETS}, not {shares}", field="shares")
    kept: list[tuple[int, int, str]] = []
    free: list[tuple[int, int]] = [] if ranges else [(0, BUCKETS)]
    left = dict(shares)
    for start, stop, name in ranges:
        take = min(stop - start, left.get(name, 0))
        left[name] = left.get(name, 0) - take
        if take:
            kept.append((start, start + take, name))
        if start + take < stop:
            free.append((start + take, stop))
    for name in shares:
        while left[name]:
            start, stop = free.pop(0)
            take = min(stop - start, left[name])
            kept.append((start, start + take, name))
            left[name] -= take
            if start + take < stop:
                free.insert(0, (start + take, stop))
    return _joined(sorted(kept))


def _joined(ranges: list[tuple[int, int, str]]) -> Ranges:
    joined: list[tuple[int, int, str]] = []
    for start, stop, name in ranges:
        if joined and joined[-1][2] == name and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop, name)
        else:
            joined.append((start, stop, name))
    return tuple(joined)


def check_attribute(attribute: str, *, address: bool = False) -> str:
    """Return what a unit or a segment goes by. Raises `InvalidInput` unless it is `header:NAME` or its like."""
    kind, colon, name = attribute.partition(":")
    plain = name.isprintable() and not (kind == "json" and set(name) & {'"', "\\"})
    if (address and attribute == "address") or (kind in _ATTRIBUTES and colon and name and plain):
        return attribute
    forms = [f"{kind}:NAME" for kind in _ATTRIBUTES] + (["address"] if address else [])
    raise InvalidInput(f"{attribute!r:.80} is none of {', '.join(forms)}", field="unit")
