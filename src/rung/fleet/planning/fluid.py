"""A fleet on paper in bulk: requests as a stream, step by step, for loads of which no machine could draw each one.

What a replica does at a given share of its capacity is measured once, request by request (`queueing`), and looked up;
queues and the autoscaler are followed step by step. Chance evens out where there are many replicas, so it is left out.
"""

from collections import deque
from math import ceil, inf, nan

import msgspec
import numpy as np

from rung.domain.scaling import Decision
from rung.domain.tensors import Array
from rung.fleet.planning.queueing import Replicas, replay
from rung.fleet.planning.traces import Trace
from rung.fleet.scaling.autoscaler import Fleet, Past, plan
from rung.fleet.scaling.forecast import Foresight, History
from rung.fleet.scaling.rules import ModelSeen, Policy

__all__ = ["Curve", "Flow", "flow", "flow_of_functions", "measure"]

_LOADS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.96, 0.98)
"""Shares of the capacity at which latencies are measured."""
_TOGETHER = 8
"""Replicas that are simulated together: with the least busy one chosen, more change little."""
_DRAWN = 10_000
_SHARES = np.concatenate([np.arange(0.015, 0.9, 0.03), np.arange(0.905, 0.99, 0.01), [0.9925, 0.9975]])
_WEIGHTS = np.concatenate([np.full(30, 0.03), np.full(9, 0.01), [0.005, 0.005]])
"""Quantiles by which a distribution of latencies is carried along, the tail more finely, and their weights."""
_P99 = int(np.searchsorted(np.cumsum(_WEIGHTS), 0.99 - 1e-9))
_STEPS = 20_000
_MOVES = 10_000
_MODEL = "model"
_SPREAD = 2.326
"""Standard deviations within which 99 % of a count lie."""


class Curve(msgspec.Struct, frozen=True):
    """Latency of one replica by its load."""

    capacity: float
    """Requests a second that it can answer for good."""
    loads: Array
    """Shares of the capacity, float64 [L]."""
    latency: Array
    """Seconds at each load and quantile, among others that share the load, float64 [L, Q]."""
    alone: Array
    """The same of one that has no others."""

    def at(self, load: Array, ready: Array) -> Array:
        """Latencies at loads, each of so many replicas: float64 [N], float64 [N] -> float64 [N, Q].

        Between one and 8 replicas by the inverse of their number, as waits in front of many servers fall.
        """
        place = np.interp(np.clip(load, self.loads[0], self.loads[-1]), self.loads, np.arange(len(self.loads)))
        low = np.floor(place).astype(np.int64)
        high = np.minimum(low + 1, len(self.loads) - 1)
        part = (place - low)[:, None]
        together = self.latency[low] * (1 - part) + self.latency[high] * part
        lonely = np.clip((1 / np.maximum(ready, 1.0) - 1 / _TOGETHER) / (1 - 1 / _TOGETHER), 0.0, 1.0)[:, None]
        alone = self.alone[low] * (1 - part) + self.alone[high] * part
        found: Array = together + lonely * (alone - together)
        return found

    def p99(self) -> Array:
        """Seconds at each load, float64 [L]."""
        found: Array = self.latency[:, _P99]
        return found

    def knee(self, objective: float) -> float:
        """Largest share of the capacity at which p99 holds the objective; 0 where none does."""
        holds = self.p99() <= objective
        if not holds[0]:
            return 0.0
        first = int(np.argmin(holds)) if not holds.all() else len(holds)
        if first == len(holds):
            return float(self.loads[-1])
        p99, loads = self.p99(), self.loads
        return float(np.interp(objective, p99[first - 1 : first + 1], loads[first - 1 : first + 1]))


class Flow(msgspec.Struct, frozen=True):
    """How it went, step by step; arrays are float64 [K]."""

    at: Array
    """Seconds since the start."""
    rate: Array
    """Requests a second that came."""
    there: Array
    """Replicas paid for."""
    ready: Array
    """Replicas that answer."""
    p99: Array
    """Seconds of what came in each step."""
    served: float
    shed: float
    p50_all: float
    p99_all: float
    late: float
    """Share of the answers that missed the objective."""
    replica_seconds: float
    starts: int = 0
    """Replicas, or functions, that were started on the way."""
    decisions: tuple[Decision, ...] = ()


def measure(kind: Replicas, rng: np.random.Generator) -> Curve:
    """Latencies of a replica at rising loads, by itself and among 8 that share 10,000 requests each time."""
    capacity = kind.lanes / kind.cost.row()
    # Nothing is decided, so nothing has to be looked at.
    calm = msgspec.structs.replace(kind, look_seconds=inf, max_wait=inf)

    def measured(count: int) -> Array:
        rows = []
        for load in _LOADS:
            times = np.cumsum(rng.exponential(1.0 / (load * capacity * count), _DRAWN))
            course = replay(times, calm, Policy(least=count, most=count), rng)
            rows.append(np.quantile(course.latency[_DRAWN // 10 :], _SHARES))
        # By chance a higher load may have come out lower.
        found: Array = np.maximum.accumulate(np.array(rows), axis=0)
        return found

    return Curve(capacity, np.array(_LOADS), measured(_TOGETHER), measured(1))


def flow(
    trace: Trace, kind: Replicas, curve: Curve, policy: Policy, objective: float, first: int | None = None
) -> Flow:
    """Let a trace flow through a fleet that is scaled by a policy.

    `least` equal to `most` is a fixed number. `first` replicas answer at the start; None: the least, and one at least.
    """
    steps = _steps(trace)
    state = _State(kind, curve, policy, max(policy.least, 1) if first is None else first)
    columns = np.zeros((len(steps.at), 4))
    for place, rate in enumerate(steps.rates.tolist()):
        columns[place] = state.step(place * steps.seconds, rate, steps.seconds)
    ready, there, wait, served = columns.T
    load = steps.rates / np.maximum(ready * curve.capacity, 1e-9)
    latency = curve.at(load, ready) + wait[:, None]
    found = _summed(steps, there, ready, latency, served, objective)
    return msgspec.structs.replace(found, starts=state.starts, decisions=tuple(state.moves[:_MOVES]))


class _State:
    """Queue and replicas between two steps."""

    def __init__(self, kind: Replicas, curve: Curve, policy: Policy, first: int) -> None:
        self.kind = kind
        self.capacity = curve.capacity
        self.policy = policy
        self.queue = 0.0
        self.ready = first
        self.starting: deque[tuple[float, int]] = deque()
        """When, and how many."""
        self.past: deque[Past] = deque()
        self.asked = 0.0
        self.starts = 0
        self.moves: list[Decision] = []
        self.fixed = policy.least == policy.most
        self.foresight = Foresight(History(policy.period), policy.lead) if policy.period else None

    def step(self, now: float, rate: float, step: float) -> tuple[float, float, float, float]:
        while self.starting and self.starting[0][0] <= now:
            self.ready += self.starting.popleft()[1]
        able = self.ready * self.capacity
        came = rate * step
        served = min(self.queue + came, able * step)
        left = self.queue + came - served
        most = able * self.kind.max_wait if able else came + self.queue
        shed = max(left - most, 0.0)
        # A request of this step waits for what was there at its middle.
        wait = min((self.queue + left - shed) / 2 / able, self.kind.max_wait) if able else step
        self.queue = left - shed
        there = self.ready + sum(count for _, count in self.starting)
        if not self.fixed:
            self.decide(now, rate, shed / step, there)
        return float(self.ready), float(there), wait, served

    def decide(self, now: float, rate: float, refused: float, there: int) -> None:
        able = self.ready * self.capacity
        if rate or self.queue:
            self.asked = now
        in_flight = self.queue + rate * self.kind.cost.estimate(1)
        models = (
            {
                _MODEL: ModelSeen(
                    utilisation=rate / able,
                    wait=self.queue / able,
                    rate=rate,
                    refused=refused,
                    in_flight=round(in_flight),
                    work=1.0 / self.capacity,
                    forecast=self.foresight.see(now, rate) if self.foresight is not None else None,
                )
            }
            if able
            else {}
        )
        fleet = Fleet(
            now=now, replicas=there, ready=self.ready, models=models, past=self.past, holds=True,
            held=ceil(self.queue) if not able else 0, idle=now - self.asked,
        )  # fmt: skip
        decision = plan(fleet, {_MODEL: self.policy})
        self.past.append(Past(now, decision.wanted, decision.replicas))
        while self.past[0].at < now - self.policy.down_seconds - self.policy.up_seconds - 60.0:
            self.past.popleft()
        if decision.replicas > there:
            self.starts += decision.replicas - there
            self.starting.append((now + self.kind.start_seconds, decision.replicas - there))
        elif decision.replicas < there:
            self.drop(there - decision.replicas)
        if decision.moves:
            self.moves.append(decision)

    def drop(self, count: int) -> None:
        while count and self.starting:
            due, some = self.starting.pop()
            gone = min(some, count)
            count -= gone
            if some > gone:
                self.starting.append((due, some - gone))
        self.ready -= count


def flow_of_functions(trace: Trace, kind: Replicas, idle: float, most: int, objective: float) -> Flow:
    """Let a trace flow through functions: each request has one to itself, a cold one where none is warm.

    At a rate r and s seconds a request, r s are busy on the mean and, by the Poisson distribution, so many more in 1 %
    of the moments; as many are warm as were busy at once at any time in the last `idle` seconds.
    """
    steps = _steps(trace)
    seconds, rates = kind.cost.estimate(1), steps.rates
    busy = rates * seconds
    peak = np.ceil(busy + _SPREAD * np.sqrt(busy))
    allowed = np.minimum(peak, most) if most else peak
    warm = _largest_before(allowed, max(round(idle / steps.seconds), 1))
    cold = np.maximum(allowed - warm, 0.0)
    served = np.minimum(rates, np.where(allowed < peak, allowed / seconds, inf)) * steps.seconds
    share = np.minimum(cold / np.maximum(served, 1e-9), 1.0)
    latency = np.where(_SHARES[None, :] > 1 - share[:, None], kind.start_seconds, 0.0) + seconds + kind.overhead
    found = _summed(steps, np.maximum(allowed, warm), allowed, latency, served, objective)
    return msgspec.structs.replace(found, starts=int(cold.sum()))


def _largest_before(values: Array, steps: int) -> Array:
    """Largest of the `steps` values before each."""
    found = np.zeros(len(values))
    window: deque[int] = deque()
    for place in range(1, len(values)):
        while window and values[window[-1]] <= values[place - 1]:
            window.pop()
        window.append(place - 1)
        if window[0] < place - steps:
            window.popleft()
        found[place] = values[window[0]]
    return found


class _Steps(msgspec.Struct, frozen=True):
    at: Array
    rates: Array
    seconds: float
    """Of a step."""


def _steps(trace: Trace) -> _Steps:
    step = max(1.0, trace.seconds / _STEPS) if trace.seconds > 600 else trace.seconds / 600
    at = np.arange(0.0, trace.seconds - step / 2, step)
    if step < trace.width:
        middles = (np.arange(len(trace.counts)) + 0.5) * trace.width
        return _Steps(at, np.interp(at + step / 2, middles, trace.rates), step)
    # Several intervals in a step: their mean, so that no request is lost.
    upto = np.concatenate([[0.0], np.cumsum(trace.counts)])
    edges = np.arange(len(upto)) * trace.width
    return _Steps(at, np.diff(np.interp(np.append(at, at[-1] + step), edges, upto)) / step, step)


def _summed(steps: _Steps, there: Array, ready: Array, latency: Array, served: Array, objective: float) -> Flow:
    weights = served[:, None] * _WEIGHTS[None, :]
    total = float(served.sum())
    p50, p99 = _quantiles(latency.ravel(), weights.ravel(), (0.5, 0.99))
    return Flow(
        at=steps.at,
        rate=steps.rates,
        there=there,
        ready=ready,
        p99=latency[:, _P99],
        served=total,
        shed=max(float(steps.rates.sum()) * steps.seconds - total, 0.0),
        p50_all=p50,
        p99_all=p99,
        late=float(weights[latency > objective].sum()) / total if objective and total else 0.0,
        replica_seconds=float(there.sum()) * steps.seconds,
    )


def _quantiles(values: Array, weights: Array, shares: tuple[float, ...]) -> list[float]:
    """Weighted quantiles; NaN without weight."""
    order = np.argsort(values)
    upto = np.cumsum(weights[order])
    if not len(upto) or upto[-1] <= 0:
        return [nan] * len(shares)
    places = np.searchsorted(upto, np.array(shares) * upto[-1])
    return [float(values[order[place]]) for place in places]
