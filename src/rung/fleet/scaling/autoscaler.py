"""How many replicas there should be: a plan over what was seen of them. Pure; acting twice does no harm.

In this order:
    1. Each rule of each model has an opinion, or nothing to go by (`scaling_rules`).
    2. The largest counts, with the spares on top, between the least and the most that the settings allow.
    3. What is wanted more takes effect once it has been wanted for all of `up_seconds`; what is wanted less once
       nothing more was wanted for all of `down_seconds`. So no `down_seconds` see more than one change of direction.
    4. Within a quarter of a minute there are at most `grow` times as many, or at most the share `shrink` less.
    5. The last replica goes only where all models allow it, nobody has asked for `idle_seconds`, and something holds
       the requests that come while there is none.
"""

from collections.abc import Mapping, Sequence

import msgspec

from rung.domain.scaling import Decision, Opinion
from rung.fleet.scaling.rules import ModelSeen, Policy, opinions

__all__ = ["Fleet", "Past", "plan"]


_STEP = 15.0
"""Seconds in which steps add up to one."""
_SILENT = Opinion("rules", 0, "nobody has asked for long enough")
_AHEAD = ("schedule", "forecast")
"""Rules that speak of what is to come."""


class Past(msgspec.Struct, frozen=True):
    """What was planned before."""

    at: float
    """Seconds since the epoch."""
    wanted: int
    """What the rules wanted, up to the most that is allowed."""
    replicas: int
    """What came of it."""


class Fleet(msgspec.Struct, frozen=True):
    """What is known of the replicas at one moment."""

    now: float
    """Seconds since the epoch."""
    replicas: int
    """That are there or being started."""
    ready: int
    """Of these, that answer."""
    models: Mapping[str, ModelSeen] = {}
    past: Sequence[Past] = ()
    """Earlier wants, oldest first, for at least the longest window; fewer after a start."""
    held: int = 0
    """Requests that wait for a replica to be there."""
    holds: bool = False
    """Whether something in front would hold requests while there is no replica."""
    idle: float = 0.0
    """Seconds since the last request of any model came."""


def plan(fleet: Fleet, policies: Mapping[str, Policy]) -> Decision:
    """How many replicas there are to be, and why.

    Args:
        fleet: What was seen.
        policies: Of every model of the project.
    """
    least = max((policy.least for policy in policies.values()), default=1)
    most = max((policy.most for policy in policies.values()), default=1)
    spares = max((policy.spares for policy in policies.values()), default=0)
    if not fleet.replicas:
        return _wake(fleet, policies, least, most)
    found = opinions(fleet.now, fleet.ready, fleet.models, policies)
    asleep = not least and _may_end(fleet, policies)
    # What rates still tell of who has left for good is no reason to stay.
    heard = [one for one in found if one.by in _AHEAD] if asleep else [*found, *_unknown(fleet)]
    loudest = max(heard, key=lambda one: one.replicas, default=_SILENT)
    spared = spares if loudest in found and loudest.replicas else 0
    raw = min(loudest.replicas + spared, most)
    why = f"{_name(loudest)}: {loudest.why}" + (f", and {spared} to spare" if spared else "")
    floor = least or int(not asleep)
    if raw < floor:
        why = _at_least(fleet, floor, least, why)
    elif loudest.replicas + spared > most:
        why = f"{why}; {most} is the most allowed, where {loudest.replicas + spared} are wanted"
    replicas, held = _steady(fleet, policies, max(raw, floor), floor)
    return Decision(
        replicas=replicas,
        why=_sentence(fleet.replicas, replicas, why, held),
        before=fleet.replicas,
        wanted=raw,
        at=fleet.now,
        opinions=tuple(found),
    )


def _unknown(fleet: Fleet) -> list[Opinion]:
    """Where no replica tells anything, none is taken away for that."""
    if fleet.ready and fleet.models:
        return []
    return [Opinion("replicas", fleet.replicas, "none tells of its load")]


def _wake(fleet: Fleet, policies: Mapping[str, Policy], least: int, most: int) -> Decision:
    """There is no replica: whether one is needed."""
    found = opinions(fleet.now, 0, {}, policies)
    asked = max((one.replicas for one in found), default=0)
    wanted = min(max(least, asked, int(fleet.held > 0)), most)
    if fleet.held and wanted:
        why = f"{fleet.held} request{'s' if fleet.held > 1 else ''} wait for a replica"
    elif asked >= max(wanted, 1):
        why = next(f"{_name(one)}: {one.why}" for one in found if one.replicas == asked)
    else:
        why = f"{least} is the least allowed" if least else "nobody has asked"
    decision = _sentence(0, wanted, why, "")
    return Decision(wanted, decision, before=0, wanted=wanted, at=fleet.now, opinions=tuple(found))


def _may_end(fleet: Fleet, policies: Mapping[str, Policy]) -> bool:
    """Whether no replica at all is right now, unless the clock wants one."""
    idle = max((policy.idle for policy in policies.values()), default=0.0)
    in_flight = sum(seen.in_flight for seen in fleet.models.values())
    return fleet.holds and not in_flight and not fleet.held and fleet.idle >= idle


def _at_least(fleet: Fleet, floor: int, least: int, why: str) -> str:
    if least:
        return f"{floor} is the least allowed ({why})"
    if not fleet.holds:
        return f"1 stays, since nothing would hold requests while there is none ({why})"
    return f"1 stays until nobody has asked for long enough; the last request came {fleet.idle:.0f} s ago"


def _steady(fleet: Fleet, policies: Mapping[str, Policy], wanted: int, floor: int) -> tuple[int, str]:
    """The number after windows and steps, and what holds it back."""
    before, now, each = fleet.replicas, fleet.now, policies.values()
    if wanted > before:
        seconds = min((policy.up_seconds for policy in each), default=0.0)
        earlier = _since(fleet, now - seconds) if _covers(fleet, now - seconds) else [before]
        target = max(min([wanted, *earlier]), before, floor)
        if target < wanted:
            return target, f"held until it has been wanted for {seconds:.0f} s"
        grow, base = max((policy.grow for policy in each), default=4.0), min(_recent(fleet, seconds=_STEP))
        limit = max(int(base * grow), base + 1, before)
        return (limit, f"at most {grow:g} times as many at once") if target > limit else (target, "")
    if wanted < before:
        seconds = max((policy.down_seconds for policy in each), default=0.0)
        earlier = _since(fleet, now - seconds) if _covers(fleet, now - seconds) else [before]
        target = min(max([wanted, *earlier]), before)
        if target > wanted and target == before:
            return target, f"held until no more was wanted for {seconds:.0f} s"
        shrink, base = (
            min((policy.shrink for policy in each), default=0.5),
            max(_recent(fleet, seconds=min(_STEP, seconds))),
        )
        limit = min(base - max(int(base * shrink), 1), before)
        return (limit, f"at most {shrink:.0%} less at once") if target < limit else (target, "")
    return before, ""


def _since(fleet: Fleet, start: float) -> list[int]:
    return [past.wanted for past in fleet.past if start <= past.at <= fleet.now]


def _recent(fleet: Fleet, seconds: float) -> list[int]:
    """How many there were lately, now included."""
    return [fleet.replicas, *(past.replicas for past in fleet.past if fleet.now - seconds < past.at <= fleet.now)]


def _covers(fleet: Fleet, start: float) -> bool:
    """Whether the past reaches back so far; after a start of the control plane it may not."""
    return start >= fleet.now or any(past.at <= start for past in fleet.past)


def _name(opinion: Opinion) -> str:
    return f"{opinion.model} {opinion.by}" if opinion.model else opinion.by


def _sentence(before: int, replicas: int, why: str, held: str) -> str:
    move = f"stay at {replicas}" if before == replicas else f"{before} -> {replicas}"
    return f"{move}: {why}" + (f" ({held})" if held else "")
