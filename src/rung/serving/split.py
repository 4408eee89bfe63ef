"""Which version of a model answers a request: the release, decided here, so that any load balancer will do.

The arm is a function of the unit and the release alone, so it is the same in every replica and after every restart.
What has been worked out for a unit is remembered until the release moves.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from rung.domain.errors import InvalidInput, Unsupported
from rung.domain.predictions import Call
from rung.domain.releases import BUCKETS, Release, arm_at, bucket
from rung.serving.servable import Servable

__all__ = ["Choice", "Split", "reader"]

_REMEMBERED = 1 << 16
"""Units whose arm is remembered at once."""
_LONGEST = 256
"""Characters of a unit that is remembered: callers choose theirs, and memory is not theirs to fill."""
_FORCE = b"rung-arm"

Read = Callable[[Call], str]
"""What an attribute says about a request; empty where it says nothing."""


class Choice(msgspec.Struct):
    """One arm as it stands in this process."""

    arm: str
    servable: Servable
    propensity: float
    version: int
    requests: int = 0
    """Requests that it was chosen for."""


class Split:
    """The arms of a release over the versions that this process holds.

    Guarantees:
        1. Every request with the same unit gets the same arm, as long as its range does not move.
        2. A unit whose arm's version is not loaded is answered by the main arm, and counts as that arm's; the baseline
           waits for the canary.
        3. While that of the main arm is not loaded, the version that is kept to go back to stands in, else `latest`.
        4. Without a release everybody gets `latest`; the arm is then the empty name.
    """

    def __init__(
        self, release: Release | None, servables: Mapping[int, Servable], latest: Servable, *, forcing: bool
    ) -> None:
        self.release = release
        self.epoch = release.epoch if release else 0
        self._forcing = forcing
        self._main = Choice("", latest, 1.0, latest.manifest.version)
        self._choices: dict[str, Choice] = {}
        self.missing: tuple[str, ...] = ()
        """Arms whose version is not loaded here."""
        if release is not None:
            main = release.main
            here = [arm for arm in release.arms if arm.version in servables and arm.role != "shadow"]
            if release.arm("canary") not in here:
                # Two arms are compared, over the same time: one does not begin before the other.
                here = [arm for arm in here if arm.role != "baseline"]
            answering = [arm for arm in release.arms if arm is main or arm in here]
            self.missing = tuple(arm.name for arm in release.arms if arm.version not in servables)
            shares = {arm.name: arm.share for arm in answering}
            # Whoever should get an arm that is not here gets this one.
            shares[main.name] += BUCKETS - sum(shares.values())
            stand_in = next((servables[number] for number in release.keep if number in servables), latest)
            for arm in answering:
                one = servables.get(arm.version, stand_in)
                self._choices[arm.name] = Choice(arm.name, one, shares[arm.name] / BUCKETS, one.manifest.version)
            self._main = self._choices[main.name]
        self._known: dict[str, Choice] = {}
        self._unit = reader(release.unit if release else "header:rung-unit")
        segments = release.segments if release else ()
        self._segments = [(reader(one.attribute), frozenset(one.values), one.arm) for one in segments]

    @property
    def servable(self) -> Servable:
        """What answers whoever is in no experiment."""
        return self._main.servable

    @property
    def choices(self) -> list[Choice]:
        """The arms that answer here."""
        return [*self._choices.values()] or [self._main]

    def equals(self, other: "Split") -> bool:
        """Whether both answer with the same loaded versions."""
        mine = {name: one.servable for name, one in self._choices.items()} | {"": self._main.servable}
        return mine == {name: one.servable for name, one in other._choices.items()} | {"": other._main.servable}

    def choose(self, call: Call | None) -> Servable:
        """The version for this request; writes unit, arm, epoch and propensity into the call.

        Raises:
            InvalidInput: `rung-arm` names no arm.
            Unsupported: `rung-arm` is not allowed here.
        """
        if call is None:
            return self._main.servable
        unit = call.unit = self._unit(call) or call.address
        call.epoch = self.epoch
        if _FORCE in call.headers or self._segments:
            choice, propensity = self._special(call, unit)
        else:
            choice = self._known.get(unit) or self._place(unit)
            propensity = choice.propensity
        choice.requests += 1
        call.arm, call.propensity = choice.arm, propensity
        return choice.servable

    def _place(self, unit: str) -> Choice:
        release = self.release
        choice = self._main
        if release is not None and len(release.ranges) > 1:
            choice = self._choices.get(arm_at(release.ranges, bucket(release.salt, unit)), self._main)
        if len(unit) <= _LONGEST:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[unit] = choice
        return choice

    def _special(self, call: Call, unit: str) -> tuple[Choice, float]:
        """A tester's arm, which no lot drew, or a segment's."""
        forced = call.headers.get(_FORCE)
        if forced is not None:
            name = forced.decode("latin-1")
            if not (self._forcing or call.tester):
                raise Unsupported(
                    "rung-arm is not allowed here: it is for testers on this machine or with the key of an operator, "
                    "or set arm_header"
                )
            if name not in self._choices:
                arms = sorted(self._choices) or "no release, so none"
                raise InvalidInput(f"rung-arm is {name!r:.60}; there are {arms}", field="rung-arm")
            return self._choices[name], 0.0
        for read, values, arm in self._segments:
            if read(call) in values:
                return self._choices.get(arm, self._main), 1.0
        choice = self._known.get(unit) or self._place(unit)
        return choice, choice.propensity


def reader(attribute: str) -> Read:
    """How to read `header:NAME`, `cookie:NAME`, `json:FIELD` or `address` off a request."""
    kind, _, name = attribute.partition(":")
    return {"header": _header, "cookie": _cookie, "json": _field}.get(kind, _address)(name)


def _header(name: str) -> Read:
    key = name.lower().encode("latin-1", "replace")

    def read(call: Call) -> str:
        value = call.headers.get(key)
        return "" if value is None else value.decode("latin-1")

    return read


def _cookie(name: str) -> Read:
    prefix = f"{name}=".encode("latin-1", "replace")

    def read(call: Call) -> str:
        for part in call.headers.get(b"cookie", b"").split(b";"):
            if part.strip().startswith(prefix):
                return part.strip()[len(prefix) :].decode("latin-1")
        return ""

    return read


def _field(name: str) -> Read:
    # Only this field is built: the rest of a body, however large, is skipped over.
    body = msgspec.defstruct("Body", [("value", Any, None)], rename={"value": name})
    decode = msgspec.json.Decoder(body).decode

    def read(call: Call) -> str:
        if call.body[:1] not in (b"{", b" ", b"\n", b"\t", b"\r"):
            return ""
        try:
            value = decode(call.body).value  # type: ignore[attr-defined]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return ""  # a binary body, or one that its door refuses with the reason
        if isinstance(value, bool):
            return "true" if value else "false"
        return str(value) if isinstance(value, str | int) else ""

    return read


def _address(name: str) -> Read:
    return lambda call: call.address
