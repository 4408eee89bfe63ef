"""From two looks at each replica's sums to what came in between. Pure."""

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import accumulate

import msgspec

from rung.domain.scaling import ModelLoad, ReplicaLoad
from rung.fleet.scaling.rules import ModelSeen

__all__ = ["CALM", "SPAN", "Look", "Looks", "Usage", "between", "latencies", "weigh"]

SPAN = 5.0
"""Seconds by which a change of the load is seen."""
CALM = 30.0
"""Seconds over which rates are taken where nothing has changed."""
_CHANCE = 3.0
"""Standard deviations of a count beyond which a change is no chance."""


class Usage(msgspec.Struct, frozen=True):
    """What the system says of a replica's processes; it knows of children that the replica does not see into."""

    seconds: float
    """Processor seconds since they started."""
    memory: int
    """Resident bytes."""


class Look(msgspec.Struct, frozen=True):
    """What one replica told at one time."""

    load: ReplicaLoad
    usage: Usage | None = None


class Looks:
    """The looks of the last `seconds`, each at all replicas."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._looks: deque[tuple[float, dict[str, Look]]] = deque()

    def add(self, now: float, told: dict[str, Look]) -> None:
        """Take in what was told at a time, and forget what is too old."""
        self._looks.append((now, told))
        while len(self._looks) > 1 and self._looks[1][0] <= now - self._seconds:
            self._looks.popleft()

    def at(self, moment: float) -> dict[str, Look]:
        """Each replica as it was at a time: the newest look before it, or the oldest of a replica that came later."""
        found: dict[str, Look] = {}
        for at, looks in self._looks:
            for name, look in looks.items():
                if at <= moment or name not in found or not _follows(found[name], look):
                    found[name] = look
        return found


class _Asked(msgspec.Struct):
    """Sums over replicas."""

    utilisation: float = 0.0
    wait: float = 0.0
    arrived: float = 0.0
    """A second."""
    refused: float = 0.0
    in_flight: int = 0


def between(
    before: Mapping[str, Look], after: Mapping[str, Look], ready: int, work: Mapping[str, float]
) -> dict[str, ModelSeen]:
    """What was asked of each model between two looks, of `ready` replicas.

    Args:
        before: Replica -> an earlier look. One that is missing here has just come and was not asked anything.
        after: Replica -> the newest look.
        ready: Replicas that answer. Those that did not tell have as much as the others.
        work: Model -> replicas that a request a second keeps busy, as known so far.
    """
    pairs = [(before[name], look) for name, look in after.items() if name in before and _later(before[name], look)]
    if not pairs or not ready:
        return {}
    cpu, memory = _usage(pairs)
    share = ready / len(after)
    found: dict[str, ModelSeen] = {}
    for model in sorted({model for _, look in pairs for model in look.load.models}):
        asked = _Asked()
        for earlier, later in pairs:
            _add(asked, earlier.load, later.load, model)
        busy = asked.utilisation
        found[model] = ModelSeen(
            utilisation=busy / len(after),
            wait=asked.wait / len(pairs),
            rate=asked.arrived * share,
            refused=asked.refused * share,
            in_flight=round(asked.in_flight * share),
            work=busy / asked.arrived if asked.arrived and busy else work.get(model, 0.0),
            cpu=cpu,
            memory=memory,
        )
    return found


def weigh(fast: ModelSeen, slow: ModelSeen, seconds: float = SPAN) -> ModelSeen:
    """What was seen in the last few seconds, with the rates of a longer time where chance explains the difference.

    By the Poisson distribution a count of n requests varies by its root. So a true change is seen at once, and a small
    load does not look like a large one for a moment.
    """
    expected = slow.rate * seconds
    if abs(fast.rate * seconds - expected) > _CHANCE * (expected + 1.0) ** 0.5:
        return fast
    return msgspec.structs.replace(fast, utilisation=slow.utilisation, rate=slow.rate, refused=slow.refused)


def _later(earlier: Look, later: Look) -> bool:
    return later.load.at > earlier.load.at and _follows(earlier, later)


def _follows(earlier: Look, later: Look) -> bool:
    """Whether both are of one life of a replica: its sums only grow."""
    if later.load.at < earlier.load.at or later.load.loop < earlier.load.loop:
        return False
    models = earlier.load.models
    return all(load.answered >= models[name].answered for name, load in later.load.models.items() if name in models)


def _add(asked: _Asked, earlier: ReplicaLoad, later: ReplicaLoad, model: str) -> None:
    now = later.models.get(model)
    if now is None:
        return
    was = earlier.models.get(model, ModelLoad())
    seconds = later.at - earlier.at
    done = now.answered - was.answered + now.failed - was.failed
    refused = now.refused - was.refused
    arrived = max(done + refused + now.in_flight - was.in_flight, 0)
    rows = now.rows - was.rows
    # What came in and has not been computed costs what the rest did; before any was, a row each.
    each = rows / done if done else 1.0
    computed = max(arrived * each, rows) * now.row / (max(now.lanes, 1) * seconds)
    asked.utilisation += max(computed, (later.loop - earlier.loop) / seconds)
    asked.wait += now.wait
    asked.arrived += arrived / seconds
    asked.refused += refused / seconds
    asked.in_flight += now.in_flight


def _usage(pairs: Sequence[tuple[Look, Look]]) -> tuple[float | None, float | None]:
    """Mean cores kept busy and mean bytes of a replica."""
    known = [
        (a, b, later.load.at - earlier.load.at)
        for earlier, later in pairs
        if (a := earlier.usage) and (b := later.usage)
    ]
    if not known:
        return None, None
    cpu = sum(max(b.seconds - a.seconds, 0.0) / seconds for a, b, seconds in known) / len(known)
    return cpu, sum(b.memory for _, b, _ in known) / len(known)


def latencies(
    before: Mapping[str, Look], after: Mapping[str, Look], model: str, share: float
) -> tuple[float | None, int]:
    """Quantile of the time that answers between two looks took, and how many there were; None without any.

    Interpolated within its bucket, as Prometheus does.
    """
    bounds: tuple[float, ...] = ()
    counts: list[int] = []
    for name, look in after.items():
        now = look.load.models.get(model)
        if now is None or not now.buckets:
            continue
        earlier = before.get(name)
        was = earlier.load.models.get(model) if earlier is not None and _follows(earlier, look) else None
        fresh = [b - a for a, b in zip(was.buckets if was else [0] * len(now.buckets), now.buckets, strict=True)]
        bounds = look.load.bounds
        counts = [a + b for a, b in zip(counts, fresh, strict=True)] if counts else fresh
    total = sum(counts)
    if total <= 0:
        return None, 0
    wanted = share * total
    for place, upto in enumerate(accumulate(counts)):
        if upto >= wanted:
            low = bounds[place - 1] if place else 0.0
            high = bounds[place] if place < len(bounds) else bounds[-1]
            return low + (high - low) * (wanted - (upto - counts[place])) / max(counts[place], 1), total
    return bounds[-1], total
