"""What a load would take: a trace played against policies and platforms on paper, from what the model costs a call.

    function     a function a request
    fixed        as many replicas all the time as the objective takes at the peak
    autoscaled   rung's own plan, as the settings have it
    predictive   the same with a forecast by the day, where the trace is long enough for one
    threshold    doubled above so many requests in flight, halved below half of that
    least        the least number, all the time

Of a few hours with up to 100,000 requests each is simulated (`queueing`), beyond that the stream is (`fluid`).
"""

from collections.abc import Mapping
from itertools import pairwise
from math import ceil, nan
from typing import Literal

import msgspec
import numpy as np

from rung.domain.errors import InvalidData
from rung.domain.scaling import Decision
from rung.domain.tensors import Array
from rung.fleet.planning.fluid import Curve, Flow, flow, flow_of_functions, measure
from rung.fleet.planning.prices import Platform
from rung.fleet.planning.queueing import Course, Replicas, replay
from rung.fleet.planning.traces import Trace, arrivals
from rung.fleet.scaling.rules import Policy
from rung.serving.cost import CostModel

__all__ = ["Option", "Plan", "PolicyName", "Question", "answer", "cost_model"]

PolicyName = Literal["function", "fixed", "autoscaled", "predictive", "threshold", "least"]
_SINGLY = 100_000
"""Requests up to which each is simulated."""
_LONGEST = 6 * 3600.0
"""Seconds of a trace up to which that is done, with a look at the replicas each second."""
_HOUR = 3600.0
_DAY = 86_400.0
_PERIODS = 3.0
"""Days of a trace from which on a forecast, which learns for two, can show what it does."""
_SHED = 0.001
"""Share of the requests that an option may turn away and still count as holding the objective."""
_LATE = 0.01
_SERIES = 2000
"""Points of a series that is kept for a picture."""


class Question(msgspec.Struct, frozen=True):
    """What is to be planned."""

    trace: Trace
    cost: Mapping[int, float]
    """Rows -> seconds of a call."""
    objective: float
    """Seconds within which 99 % of the answers are to come."""
    platforms: Mapping[str, Platform]
    policy: Policy = Policy(least=1, most=1_000_000)
    """By which the autoscaler goes."""
    lanes: int = 1
    overhead: float = 0.002
    """Seconds of an answer beside queue and call: measured through HAProxy, on a machine with other work."""
    max_wait: float = 5.0
    threshold: int = 100
    """Requests in flight of the plain rule."""
    seed: int = 0


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """How one policy would do on one platform."""

    platform: str
    policy: PolicyName
    least: int
    mean: float
    most: int
    """Replicas, or functions at once, over the time of the trace."""
    served: float
    shed: float
    """Share of the requests that were turned away."""
    p50: float
    p99: float
    """Seconds."""
    late: float
    """Share of the answers that missed the objective."""
    replica_hours: float
    starts: int
    """On the way; for functions, requests that met a cold one."""
    price: float
    """Of the whole trace."""
    holds: bool
    """Whether 99 % of the answers keep the objective and at most one request in a thousand is turned away."""
    at: Array
    replicas: Array
    latency: Array
    """Series for pictures: seconds since the start, replicas paid for, p99 in seconds; float64 [K]."""
    decisions: tuple[Decision, ...] = ()

    @property
    def per_thousand(self) -> float:
        """Price of 1,000 predictions; NaN where none was served."""
        return 1000 * self.price / self.served if self.served else nan


class Plan(msgspec.Struct, frozen=True):
    """The answer."""

    options: tuple[Option, ...]
    best: Option | None
    """The cheapest that holds the objective."""
    curve: Curve
    """Of one replica, where it was measured."""
    knee: float
    """Requests a second of one replica up to which p99 holds the objective; 0: it never does."""
    singly: bool
    """Whether each request was simulated."""
    step: float
    """Seconds between two looks of the autoscaler, and of a step where the stream was followed."""


def cost_model(cost: Mapping[int, float], objective: float, speed: float = 1.0) -> CostModel:
    """The model that a replica would learn: which batch pays under the objective.

    Raises:
        InvalidData: no size is given, or a time is not above zero.
    """
    if not cost or min(cost.values()) <= 0 or min(cost) < 1:
        raise InvalidData("a model's cost must say what a call of one row takes, in more than no time")
    given = sorted(cost)
    model = CostModel(objective, largest=max(given))
    sizes = [1 << power for power in range(given[-1].bit_length()) if 1 << power <= given[-1]]
    for size, seconds in zip(sizes, np.interp(sizes, given, [cost[rows] for rows in given]).tolist(), strict=True):
        model.learn(size, seconds / speed)
    return model


def answer(question: Question) -> Plan:
    """Play the trace on every platform under every policy that fits it.

    Raises:
        InvalidData: the trace has no requests.
    """
    trace = question.trace
    if not trace.total:
        raise InvalidData(f"{trace.name} holds no requests")
    rng = np.random.default_rng(question.seed)
    singly = trace.total <= _SINGLY and trace.seconds <= _LONGEST
    times = arrivals(trace, rng) if singly else np.zeros(0)
    own = _replicas(question, Platform("container", start_seconds=0.0))
    curve = measure(own, rng)
    found: list[Option] = []
    step = own.look_seconds
    for name, platform in question.platforms.items():
        kind = _replicas(question, platform)
        if platform.kind == "function":
            went = flow_of_functions(trace, kind, platform.idle_seconds, platform.most, question.objective)
            found.append(_option(question, name, platform, "function", went))
            continue
        of_kind = curve if platform.speed == 1.0 else measure(kind, rng)
        for policy_name, policy in _policies(question, platform, of_kind, kind).items():
            first = _first(question, of_kind, policy)
            if singly:
                course = replay(times, kind, policy, np.random.default_rng(question.seed), first=first)
                went = _as_flow(course, times, question.objective)
            else:
                went = flow(trace, kind, of_kind, policy, question.objective, first)
                step = float(went.at[1] - went.at[0])
            found.append(_option(question, name, platform, policy_name, went))
    holding = [one for one in found if one.holds]
    best = min(holding, key=lambda one: (one.price, one.replica_hours), default=None)
    return Plan(tuple(found), best, curve, curve.knee(question.objective) * curve.capacity, singly, step)


def _replicas(question: Question, platform: Platform) -> Replicas:
    return Replicas(
        cost=cost_model(question.cost, question.objective, platform.speed),
        lanes=question.lanes,
        start_seconds=platform.start_seconds,
        max_wait=question.max_wait,
        overhead=question.overhead,
    )


def _policies(question: Question, platform: Platform, curve: Curve, kind: Replicas) -> dict[PolicyName, Policy]:
    most = platform.most or max(question.policy.most, 1)
    least = min(question.policy.least, most)
    share = curve.knee(question.objective) or 0.5
    # The busiest ten seconds, or the busiest interval where that is longer.
    smooth = max(round(10.0 / question.trace.width), 1)
    peak = float(np.convolve(question.trace.rates, np.ones(smooth) / smooth, "valid").max(initial=0.0))
    fixed = min(max(ceil(peak / (share * curve.capacity)), 1), most)
    scaled = msgspec.structs.replace(question.policy, least=least, most=most)
    plain = Policy(
        least=max(least, 1),
        most=most,
        utilisation=0.0,
        wait=0.0,
        double_above=question.threshold,
        down_seconds=question.policy.down_seconds,
    )
    found: dict[PolicyName, Policy] = {
        "fixed": Policy(least=fixed, most=fixed),
        "autoscaled": scaled,
        "predictive": msgspec.structs.replace(scaled, period=_DAY, lead=max(scaled.lead, platform.start_seconds)),
        "threshold": plain,
        "least": Policy(least=max(least, 1), most=max(least, 1)),
    }
    if scaled.period or question.trace.seconds < _PERIODS * _DAY:
        del found["predictive"]
    if fixed == max(least, 1):
        del found["least"]  # it is the same
    return found


def _first(question: Question, curve: Curve, policy: Policy) -> int:
    """Replicas at the start: what the first minute takes, as if the load had not begun just now."""
    width = question.trace.width
    begins = float(question.trace.rates[: max(round(60.0 / width), 1)].mean())
    needed = ceil(begins / (curve.capacity * (question.policy.utilisation or 0.7)))
    return min(max(needed, policy.least, 1), policy.most)


def _as_flow(course: Course, times: Array, objective: float) -> Flow:
    served = ~np.isnan(course.latency)
    place = np.clip(np.searchsorted(course.at, times, "right") - 1, 0, None)
    started = np.maximum(np.diff(course.there, prepend=course.there[:1]), 0.0).sum()
    return Flow(
        at=course.at,
        rate=np.bincount(place, minlength=len(course.at)).astype(float),
        there=course.there,
        ready=course.ready,
        p99=_percentiles(place[served], course.latency[served], len(course.at)),
        served=float(served.sum()),
        shed=float(course.shed),
        p50_all=course.quantile(0.5),
        p99_all=course.quantile(0.99),
        late=float((course.latency[served] > objective).mean()) if objective and served.any() else 0.0,
        replica_seconds=course.replica_seconds,
        starts=int(started),
        decisions=course.decisions,
    )


def _percentiles(place: Array, latency: Array, looks: int) -> Array:
    """p99 of the answers of each look, or of a few looks together where there are many; NaN where there was none."""
    found = np.full(looks, nan)
    together = max(looks // _SERIES, 1)
    order = np.argsort(place, kind="stable")
    edges = np.searchsorted(place[order], np.arange(0, looks + together, together))
    for number, (first, last) in enumerate(pairwise(edges.tolist())):
        if first < last:
            some = latency[order[first:last]]
            found[number * together : (number + 1) * together] = np.sort(some)[int(0.99 * (len(some) - 1))]
    return found


def _option(question: Question, name: str, platform: Platform, policy: PolicyName, went: Flow) -> Option:
    came = went.served + went.shed
    seconds = question.trace.seconds
    if platform.kind == "function":
        alone = cost_model(question.cost, question.objective, platform.speed).estimate(1)
        price = came * platform.request + (went.served * alone + went.starts * platform.start_seconds) * platform.second
    else:
        # Machines are paid whole.
        machines = np.ceil(went.there / platform.replicas)
        price = float(machines.mean()) * seconds / _HOUR * platform.hour + came * platform.request
    shed = went.shed / came if came else 0.0
    keep = max(len(went.at) // _SERIES, 1)
    return Option(
        platform=name,
        policy=policy,
        least=int(went.there.min()),
        mean=went.replica_seconds / seconds,
        most=int(went.there.max()),
        served=went.served,
        shed=shed,
        p50=went.p50_all,
        p99=went.p99_all,
        late=went.late,
        replica_hours=went.replica_seconds / _HOUR,
        starts=went.starts,
        price=price,
        holds=shed <= _SHED and went.late <= _LATE and went.served > 0,
        at=went.at[::keep],
        replicas=went.there[::keep],
        latency=went.p99[::keep],
        decisions=went.decisions,
    )
