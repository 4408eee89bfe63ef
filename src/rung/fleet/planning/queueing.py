"""A fleet on paper, request by request: the queues, lanes and batches of rung's replicas, and its own autoscaler.

Everything is drawn or given, nothing is waited for: an hour of ten requests a second takes part of a second. Where
there are millions, `fluid` has the same in bulk.
"""

from bisect import insort
from collections import deque
from heapq import heappop, heappush
from math import ceil, inf, nan

import msgspec
import numpy as np

from rung.domain.scaling import Decision, ModelLoad, ReplicaLoad
from rung.domain.tensors import Array
from rung.fleet.scaling.autoscaler import Fleet, Past, plan
from rung.fleet.scaling.forecast import Foresight, History
from rung.fleet.scaling.reading import CALM, SPAN, Look, Looks, between, weigh
from rung.fleet.scaling.rules import Policy
from rung.serving.cost import CostModel

__all__ = ["Course", "Replicas", "replay"]

_MODEL = "model"
_FEW = 16
"""Replicas up to which each request goes to the one with the fewest in flight, as the front does it; among more, to the
better of two drawn ones."""


_MOVES = 10_000
_PATIENCE = 3600.0
"""Seconds after the last arrival at which a run that cannot end is given up."""


class Replicas(msgspec.Struct, frozen=True):
    """What one replica is like."""

    cost: CostModel
    """Seconds of a call by rows, and the rows that pay."""
    lanes: int = 1
    """Calls at once."""
    start_seconds: float = 1.0
    """From the wish for a replica until it answers."""
    max_wait: float = 5.0
    """Predicted wait above which a request is turned away."""
    overhead: float = 0.001
    """Seconds on the way there and back, beside queue and call."""
    look_seconds: float = 1.0
    """Between two decisions."""


class Course(msgspec.Struct, frozen=True):
    """How it went."""

    latency: Array
    """Seconds of each request in order of arrival, NaN for one turned away, float64 [N]."""
    at: Array
    """Time of each look, seconds since the start, float64 [K]."""
    there: Array
    """Replicas that are paid for at each look: starting, answering, or finishing what they have, float64 [K]."""
    ready: Array
    """Replicas that answer at each look, float64 [K]."""
    replica_seconds: float
    """Paid for, until the last arrival."""
    decisions: tuple[Decision, ...] = ()
    """Those that moved."""

    @property
    def shed(self) -> int:
        """Requests turned away."""
        return int(np.isnan(self.latency).sum())

    def quantile(self, share: float) -> float:
        """Seconds within which this share of the answers came; NaN without any."""
        served = self.latency[~np.isnan(self.latency)]
        return float(np.quantile(served, share)) if len(served) else nan


class _Replica:
    """One of them, with the sums that it would tell."""

    __slots__ = ("answered", "busy", "due", "free", "leaving", "name", "queue", "refused", "rows")

    def __init__(self, name: str, lanes: int, due: float) -> None:
        self.name = name
        self.free = lanes
        self.due = due
        """When it answers."""
        self.queue: deque[int] = deque()
        self.rows = self.answered = self.refused = 0
        self.busy = 0.0
        self.leaving = False


class _Run:
    def __init__(self, times: Array, kind: Replicas, policy: Policy, rng: np.random.Generator) -> None:
        self.times = times
        self.kind = kind
        self.policy = policy
        self.rng = rng
        self.latency = np.full(len(times), nan)
        self.ends: list[tuple[float, int, _Replica, list[int]]] = []
        """Calls under way, soonest first."""
        self.calls = 0
        self.started = 0
        self.there: list[_Replica] = []
        self.gone: list[_Replica] = []
        """Leaving, with something still to finish."""
        self.front: deque[int] = deque()
        """Requests that came while no replica answered."""
        self.looks = Looks(CALM)
        self.past: deque[Past] = deque()
        self.work = {_MODEL: 0.0}
        self.foresight = Foresight(History(policy.period), policy.lead) if policy.period else None
        self.asked = 0.0
        cost = kind.cost
        self.cap = max(cost.cap, 1)
        # A replica plans by powers of two; what a call of a size in between takes lies between them.
        known = sorted(cost.known.items())
        between_sizes = np.interp(np.arange(self.cap + 1), [rows for rows, _ in known], [one for _, one in known])
        self.seconds = between_sizes.tolist()
        self.row = cost.row()

    # --- requests -----------------------------------------------------------------------------

    def arrive(self, number: int, now: float) -> None:
        self.asked = now
        there = self.there
        # In the order in which they answer, so that mostly one look is enough.
        ready = there if there and there[-1].due <= now else [one for one in there if one.due <= now]
        if not ready:
            self.front.append(number)
            return
        chosen = self.choose(ready)
        lanes = self.kind.lanes
        if not chosen.free:
            wait = (len(chosen.queue) + lanes) * self.row / lanes
            if wait > self.kind.max_wait:
                chosen.refused += 1
                return
        chosen.queue.append(number)
        self.release(chosen, now)

    def choose(self, ready: list[_Replica]) -> _Replica:
        if len(ready) > _FEW:
            picks = self.rng.integers(len(ready), size=2)
            ready = [ready[picks[0]], ready[picks[1]]]
        return min(ready, key=lambda one: len(one.queue) + one.rows - one.answered)

    def release(self, one: _Replica, now: float) -> None:
        """Give each free lane what waits, as the batcher does."""
        while one.free and one.queue:
            size = min(self.cap, ceil(len(one.queue) / one.free))
            batch = [one.queue.popleft() for _ in range(size)]
            seconds = self.seconds[size]
            one.free -= 1
            one.rows += size
            one.busy += seconds
            self.calls += 1
            heappush(self.ends, (now + seconds, self.calls, one, batch))

    def finish(self) -> float:
        now, _, one, batch = heappop(self.ends)
        one.free += 1
        one.answered += len(batch)
        self.latency[batch] = now - self.times[batch] + self.kind.overhead
        self.release(one, now)
        if one.leaving and one.free == self.kind.lanes:
            self.gone.remove(one)
        return now

    # --- replicas -----------------------------------------------------------------------------

    def resize(self, count: int, now: float, ready_in: float) -> None:
        while len(self.there) < count:
            self.started += 1
            insort(
                self.there,
                _Replica(f"replica-{self.started}", self.kind.lanes, now + ready_in),
                key=lambda one: one.due,
            )
        while len(self.there) > count:
            one = self.there.pop()
            one.leaving = True
            if one.free < self.kind.lanes:
                self.gone.append(one)

    def look(self, now: float) -> Decision:
        ready = [one for one in self.there if one.due <= now]
        told = {one.name: Look(self.load(one, now)) for one in ready}
        seen = between(self.looks.at(now - SPAN), told, len(ready), self.work)
        slow = between(self.looks.at(now - CALM), told, len(ready), self.work)
        for name, model in seen.items():
            weighed = weigh(model, slow[name]) if name in slow else model
            ahead = self.foresight.see(now, weighed.rate) if self.foresight is not None else None
            seen[name] = msgspec.structs.replace(weighed, forecast=ahead)
            self.work[name] = model.work
        self.looks.add(now, told)
        fleet = Fleet(
            now=now,
            replicas=len(self.there),
            ready=len(ready),
            models=seen,
            past=self.past,
            held=len(self.front),
            holds=True,
            idle=now - self.asked,
        )
        decision = plan(fleet, {_MODEL: self.policy})
        self.past.append(Past(now, decision.wanted, decision.replicas))
        while self.past[0].at < now - self.policy.down_seconds - self.policy.up_seconds - 60.0:
            self.past.popleft()
        self.resize(decision.replicas, now, self.kind.start_seconds)
        return decision

    def rest(self, seconds: float) -> None:
        """Remember so many seconds of looks at replicas that nobody asked."""
        for back in range(int(seconds / self.kind.look_seconds), 0, -1):
            now = -back * self.kind.look_seconds
            self.looks.add(now, {one.name: Look(self.load(one, now)) for one in self.there})

    def load(self, one: _Replica, now: float) -> ReplicaLoad:
        lanes = self.kind.lanes
        waiting = len(one.queue)
        model = ModelLoad(
            lanes=lanes,
            in_flight=waiting + one.rows - one.answered,
            wait=0.0 if one.free and not waiting else (waiting + lanes - one.free) * self.row / lanes,
            row=self.row,
            rows=one.rows,
            busy=one.busy,
            answered=one.answered,
            refused=one.refused,
        )
        return ReplicaLoad(now, models={_MODEL: model})

    def take_held(self, now: float) -> None:
        """A replica answers again: what waited in front of it comes in, unless it gave up."""
        held, self.front = self.front, deque()
        for number in held:
            if now - self.times[number] <= self.kind.max_wait:
                self.arrive(number, now)


class _Seen:
    """What the looks found."""

    def __init__(self, end: float) -> None:
        self.end = end
        """Of the arrivals: what is paid for later is no matter."""
        self.paid = self._last = 0.0
        self.at: list[float] = []
        self.there: list[int] = []
        self.ready: list[int] = []
        self.moves: list[Decision] = []

    def pay(self, run: _Run, now: float) -> None:
        until = min(now, self.end)
        self.paid += (len(run.there) + len(run.gone)) * max(until - self._last, 0.0)
        self._last = until

    def note(self, run: _Run, now: float, decision: Decision) -> None:
        if decision.moves and len(self.moves) < _MOVES:
            self.moves.append(decision)
        self.at.append(now)
        self.there.append(len(run.there) + len(run.gone))
        self.ready.append(sum(one.due <= now for one in run.there))


def replay(
    times: Array,
    kind: Replicas,
    policy: Policy,
    rng: np.random.Generator,
    *,
    first: int | None = None,
    calm: float = 0.0,
) -> Course:
    """Let requests come at these times, and scale by this policy.

    Args:
        times: Seconds since the start, in order, float64 [N].
        kind: What a replica is like.
        policy: With `least` equal to `most`, a fixed number.
        rng: Where chance comes from.
        first: Replicas that answer at the start; None for the least, and at least one.
        calm: Seconds before the start for which they were there, were looked at, and nobody asked: what comes then is
            seen more slowly, since rates are taken over some seconds. 0 where the load had begun before.
    """
    run = _Run(times, kind, policy, rng)
    run.resize(max(policy.least, 1) if first is None else first, 0.0, 0.0)
    run.rest(calm)
    seen = _Seen(float(times[-1]) if len(times) else 0.0)
    number, count, look = 0, len(times), 0.0
    listed = times.tolist()
    while number < count or run.ends or run.front:
        due = min((one.due for one in run.there), default=inf) if run.front else inf
        arrival = listed[number] if number < count else inf
        finish = run.ends[0][0] if run.ends else inf
        now = min(arrival, finish, look, due)
        if now > seen.end + _PATIENCE:
            break  # nothing will ever answer what is held
        if finish <= now:
            run.finish()
        elif due <= now:
            run.take_held(now)
        elif look <= now:
            seen.pay(run, now)
            seen.note(run, now, run.look(now))
            look = now + kind.look_seconds
        else:
            run.arrive(number, arrival)
            number += 1
    seen.pay(run, seen.end)
    at, there, ready = (np.array(series, float) for series in (seen.at, seen.there, seen.ready))
    return Course(run.latency, at, there, ready, seen.paid, tuple(seen.moves))
