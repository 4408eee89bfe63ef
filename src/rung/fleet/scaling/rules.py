"""What each metric of a model asks for: a number of replicas, or no opinion where there is nothing to go by. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from math import ceil

import msgspec

from rung.domain.scaling import Opinion
from rung.fleet.scaling.calendar import Entry, floor, read_entry
from rung.fleet.scaling.forecast import Forecast
from rung.settings.cache import parse_size
from rung.settings.project import ServeSection
from rung.settings.scaling import parse_duration

__all__ = ["ModelSeen", "Policy", "opinions", "read_policy"]

_TOLERANCE = 0.1
"""By how much a metric may miss its target before anything is done about it."""
_ANSWERS = 20
"""Answers below which a 99th percentile says nothing."""
_IDLE = 0.3
"""Utilisation below which a high latency has another reason than load."""
_DRAIN = 10.0
"""Seconds in which a queue is to be done away with."""
_UTILISATION = 0.7
_WAIT = 0.1
"""Seconds of predicted wait that are too many, where there is no objective."""


class Policy(msgspec.Struct, frozen=True):
    """What a model's replicas go by, in seconds and bytes; 0 stands for a metric that is not looked at."""

    least: int = 1
    most: int = 1
    spares: int = 0
    schedule: tuple[Entry, ...] = ()
    utilisation: float = _UTILISATION
    wait: float = _WAIT
    requests: float = 0.0
    in_flight: float = 0.0
    double_above: int = 0
    cpu: float = 0.0
    memory: int = 0
    p99: float = 0.0
    period: float = 0.0
    """Of a load that repeats."""
    lead: float = 60.0
    up_seconds: float = 0.0
    down_seconds: float = 300.0
    grow: float = 4.0
    shrink: float = 0.5
    idle: float = 300.0


class ModelSeen(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of a model since the last look, over the replicas that told."""

    utilisation: float = 0.0
    """What is asked for as a share of what they can compute at their best batch size; above 1 a queue grows, or
    requests are turned away."""
    wait: float = 0.0
    """Mean predicted wait of a request, seconds."""
    rate: float = 0.0
    """Requests a second that came in, those turned away included, over all replicas."""
    refused: float = 0.0
    """Of these, turned away."""
    in_flight: int = 0
    """Over all replicas."""
    p99: float | None = None
    """Seconds; None where nothing was answered."""
    answers: int = 0
    """That the percentile rests on."""
    work: float = 0.0
    """Replicas that one request a second keeps busy; 0 before that is known."""
    cpu: float | None = None
    """Cores that a replica keeps busy, with all its models; None where that cannot be told."""
    memory: float | None = None
    """Bytes of a replica, likewise."""
    forecast: Forecast | None = None


def read_policy(section: ServeSection, objective_ms: float = 0.0, where: str = "replicas") -> Policy:
    """What `[models.NAME.serve]` says of a model's replicas.

    Args:
        section: The settings.
        objective_ms: Of the project, for a model without one of its own.
        where: Name of the section, for messages.

    Raises:
        ConfigurationError: an entry of the schedule means nothing.
        MissingDependency: there is a schedule, and cronsim is not installed.
    """
    given = section.replicas
    objective = section.objective_ms or objective_ms
    return Policy(
        least=given.min,
        most=given.most,
        spares=given.spares,
        schedule=tuple(read_entry(text, f"{where}.schedule") for text in given.schedule),
        utilisation=given.utilisation,
        wait=(given.wait_ms or objective / 2) / 1e3 or _WAIT,
        requests=given.requests,
        in_flight=given.in_flight,
        double_above=given.double_above,
        cpu=given.cpu,
        memory=parse_size(given.memory) if given.memory else 0,
        p99=given.p99_ms / 1e3,
        period=parse_duration(given.forecast) if given.forecast else 0.0,
        lead=given.lead_seconds,
        up_seconds=given.up_seconds,
        down_seconds=given.down_seconds,
        grow=given.grow,
        shrink=given.shrink,
        idle=given.idle_seconds,
    )


def opinions(
    now: float, ready: int, models: Mapping[str, ModelSeen], policies: Mapping[str, Policy]
) -> Sequence[Opinion]:
    """What every rule of every model wants. `ready` replicas answer; with none, only the clock has an opinion."""
    found: list[Opinion] = []
    for name, policy in policies.items():
        said = [floor(policy.schedule, now, policy.lead)]
        if ready and name in models:
            said += _measured(ready, models[name], policy)
        found += [msgspec.structs.replace(one, model=name) for one in said if one is not None]
    return found


def _measured(ready: int, seen: ModelSeen, policy: Policy) -> Iterator[Opinion | None]:
    yield _utilisation(ready, seen, policy)
    yield _wait(ready, seen, policy)
    yield _requests(ready, seen, policy)
    yield _in_flight(ready, seen, policy)
    yield _double(ready, seen, policy)
    yield _cpu(ready, seen, policy)
    yield _memory(ready, seen, policy)
    yield _p99(ready, seen, policy)
    yield _forecast(seen, policy)


def _scaled(ready: int, ratio: float) -> int:
    """Replicas at which a metric that is shared out among them would meet its target."""
    return ready if abs(ratio - 1) <= _TOLERANCE else ceil(ready * ratio - 1e-9)


def _utilisation(ready: int, seen: ModelSeen, policy: Policy) -> Opinion | None:
    if not policy.utilisation:
        return None
    asked = f"{seen.rate:.3g} requests/s are {seen.utilisation:.0%} of what {_replicas(ready)} can compute"
    refused = f", {seen.refused:.3g}/s of them turned away" if seen.refused else ""
    wanted = _scaled(ready, seen.utilisation / policy.utilisation)
    # The loop alone does a little all the time.
    wanted = max(wanted, 1) if seen.rate or seen.in_flight else 0
    return Opinion("utilisation", wanted, f"{asked}{refused}; {policy.utilisation:.0%} is the target")


def _wait(ready: int, seen: ModelSeen, policy: Policy) -> Opinion | None:
    """A queue asks for what does it away in a few seconds, beside what comes in; and for one more at least."""
    if not policy.wait or seen.wait <= policy.wait * (1 + _TOLERANCE):
        return None
    target = policy.utilisation or _UTILISATION
    wanted = ceil(ready * (seen.utilisation / target + seen.wait / _DRAIN) - 1e-9)
    why = f"a request waits {_time(seen.wait)} for its turn; {_time(policy.wait)} is the most"
    return Opinion("wait", max(wanted, ready + 1), why)


def _requests(ready: int, seen: ModelSeen, policy: Policy) -> Opinion | None:
    if not policy.requests:
        return None
    each = seen.rate / ready
    why = f"{each:.3g} requests/s come to each of {_replicas(ready)}; {policy.requests:g} is the target"
    return Opinion("requests", _scaled(ready, each / policy.requests), why)


def _in_flight(ready: int, seen: ModelSeen, policy: Policy) -> Opinion | None:
    if not policy.in_flight:
        return None
    each = seen.in_flight / ready
    why = f"{each:.3g} requests are in flight on each of {_replicas(ready)}; {policy.in_flight:g} is the target"
    return Opinion("in flight", _scaled(ready, each / policy.in_flight), why)


def _double(ready: int, seen: ModelSeen, policy: Policy) -> Opinion | None:
    """The rule of thumb: twice as many above a number of requests in flight, half as many when they have fallen."""
    limit, count = policy.double_above, seen.in_flight
    if not limit:
        return None
    if count > limit:
        return Opinion("double", 2 * ready, f"{count} requests are in flight, more than {limit}: twice {ready}")
    if count > limit / 2:
        return Opinion("double", ready, f"{count} requests are in flight, at most {limit} and more than half of that")
    return Opinion(
        "double", ready // 2, f"{count} requests are in flight, no more than half of {limit}: half of {ready}"
    )


def _cpu(ready: int, seen: ModelSeen, policy: Policy) -> Opinion | None:
    if not policy.cpu or seen.cpu is None:
        return None
    why = f"each of {_replicas(ready)} keeps {seen.cpu:.2f} cores busy; {policy.cpu:g} is the target"
    return Opinion("cpu", _scaled(ready, seen.cpu / policy.cpu), why)


def _memory(ready: int, seen: ModelSeen, policy: Policy) -> Opinion | None:
    if not policy.memory or seen.memory is None:
        return None
    why = f"each of {_replicas(ready)} holds {seen.memory / 1e6:.0f} MB; {policy.memory / 1e6:.0f} MB is the target"
    return Opinion("memory", _scaled(ready, seen.memory / policy.memory), why)


def _p99(ready: int, seen: ModelSeen, policy: Policy) -> Opinion | None:
    """Latency is not shared out, so it asks for more step by step, and says when more would not help."""
    if not policy.p99 or seen.p99 is None or seen.answers < _ANSWERS:
        return None
    said = f"p99 of {seen.answers} answers is {_time(seen.p99)}; {_time(policy.p99)} is the most"
    if seen.p99 <= policy.p99 * (1 + _TOLERANCE):
        # Below half of the target one less is tried, between that and the target nothing is changed.
        return Opinion("p99", ready - (seen.p99 < policy.p99 / 2), said)
    if seen.utilisation < _IDLE:
        return Opinion("p99", ready, f"{said}, but at {seen.utilisation:.0%} utilisation more replicas would not help")
    wanted = ceil(ready * min(seen.p99 / policy.p99, 2.0, policy.grow) - 1e-9)
    return Opinion("p99", max(wanted, ready + 1), said)


def _forecast(seen: ModelSeen, policy: Policy) -> Opinion | None:
    found = seen.forecast
    if not policy.period or found is None or found.rate is None or not seen.work:
        return None
    wanted = ceil(found.rate * seen.work / (policy.utilisation or 1.0) - _TOLERANCE)
    return Opinion("forecast", wanted, f"{found.why}; a replica does {1 / seen.work:.3g}/s")


def _replicas(count: int) -> str:
    return f"{count} replica{'s' if count != 1 else ''}"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds < 10 else f"{seconds:.0f} s"
