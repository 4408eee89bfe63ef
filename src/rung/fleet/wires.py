"""Trip-wires: what takes a candidate back within seconds, on a handful of units, without waiting for a guard.

A guard asks how much worse a candidate is. A wire asks whether it is broken: answers that are no numbers, one answer
to everything, processes that die, inputs refused that the stable version takes. Some of that can be an input's fault or
the data's nature, so it trips on three units at least, at twice the stable version's rate at least, and only where so
many would come once in a million times if both were alike (Fisher's exact test against all that the stable version
answered).
"""

import math
from typing import Any

from rung.domain.rules import Verdict
from rung.fleet.evidence import ArmEvidence, Snapshot

__all__ = ["UNITS", "tripped"]

UNITS = 3
"""Units that a wire needs at least: one caller with odd inputs is not enough."""
_CHANCE = 1e-6
_SAME_RUN = 30
"""Distinct inputs in a row with the same output, at least."""
_SAME_CHANCE = 1e-9

_RATIO = 2.0
_WIRES = {
    "not finite": (0.0, "answered NaN or an infinity to"),
    "crash": (0.0, "died or was not ready for"),
    "refused": (0.1, "refused as invalid what came from"),
    "constant": (0.5, "gave outputs that are one constant value to"),
    "errors": (0.5, "failed for"),
}
"""Wire -> share of the candidate's units from which on it can trip, and how to say so. Less is for a guard."""


def tripped(snapshot: Snapshot, arm: str, units: int = UNITS) -> Verdict | None:
    """The first wire that the arm of the candidate has tripped; None if it has tripped none."""
    candidate = snapshot.arm(arm)
    known = (snapshot.arm("stable"), snapshot.arm("baseline"))
    before = sum(one.units for one in known)
    for name, (least, said) in _WIRES.items():
        hit, hit_before = candidate.of(name), sum(one.of(name) for one in known)
        if hit < max(units, least * candidate.units) or hit * before < _RATIO * hit_before * candidate.units:
            continue
        chance = _tail(hit, candidate.units, hit_before, before)
        if chance < _CHANCE:
            why = (
                f"The candidate {said} {hit} of {candidate.units} units; the stable version {hit_before} of {before}. "
                f"Were they alike, so many would come with probability {chance:.1g}."
            )
            return Verdict(
                "fail", f"wire: {name}", why, _evidence(chance, arm, hit, candidate.units, hit_before, before)
            )
    return _same_answer(candidate, known, arm)


def _same_answer(candidate: ArmEvidence, known: tuple[ArmEvidence, ...], arm: str) -> Verdict | None:
    inputs = sum(one.inputs for one in known)
    if candidate.run < _SAME_RUN or inputs < _SAME_RUN:
        return None
    # A model that says "no spam" to nine of ten gives long runs by nature.
    share = (sum(one.commonest for one in known) + 1) / (inputs + 2)
    chance = share**candidate.run
    if chance >= _SAME_CHANCE:
        return None
    why = (
        f"The candidate gave the same answer to {candidate.run} different inputs in a row; the stable version's most "
        f"frequent answer is {100 * share:.3g} % of its answers."
    )
    evidence = {"arm": arm, "chance": chance, "run": candidate.run, "commonest": share, "inputs": inputs}
    return Verdict("fail", "wire: same answer", why, evidence)


def _evidence(chance: float, arm: str, hit: int, units: int, hit_before: int, before: int) -> dict[str, Any]:
    return {
        "method": "Fisher's exact test on units, at a chance of 1e-6",
        "arm": arm,
        "p": chance,
        "counts": {"candidate": units, "stable": before},
        "events": {"candidate": hit, "stable": hit_before},
    }


def _tail(hit: int, units: int, hit_before: int, before: int) -> float:
    """P(at least `hit` of the events fall to the candidate), given how many there are in all."""
    events, total = hit + hit_before, units + before
    if hit * total <= events * units:
        return 1.0

    def log_chance(count: int) -> float:
        return _choose(units, count) + _choose(before, events - count) - _choose(total, events)

    # The terms fall from here on, so that a few are all.
    sum_, count = 0.0, hit
    while count <= min(units, events):
        term = math.exp(log_chance(count))
        sum_ += term
        if term < sum_ * 1e-9:
            break
        count += 1
    return min(sum_, 1.0)


def _choose(total: int, count: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(count + 1) - math.lgamma(total - count + 1)
