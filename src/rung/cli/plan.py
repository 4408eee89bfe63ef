"""Body of `rung plan`."""

import re
from math import isnan
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec

from rung.cli.printing import print_json, print_table
from rung.domain.errors import ConfigurationError, InvalidInput, NotFound
from rung.domain.names import rather
from rung.fleet.planning.planner import Option, Plan, Question, answer
from rung.fleet.planning.prices import Platform, Prices, read_prices
from rung.fleet.planning.traces import Trace, read_trace
from rung.fleet.scaling.rules import read_policy
from rung.settings.file import project_here
from rung.settings.project import ModelSettings, ProjectSettings
from rung.telemetry import configure_logs

if TYPE_CHECKING:
    from rung.catalog.source import RepositorySource
    from rung.domain.models import AspiredVersion

__all__ = ["Wanted", "run"]

_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s)", re.ASCII)
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_LOADS = 3
"""Starts by which the cost of a call is measured."""
_NO_PRICES = Prices({"here": Platform("container", start_seconds=2.0)})
"""Without prices: what a replica of `rung up` is like."""


class Wanted(msgspec.Struct, frozen=True):
    """What was asked for."""

    trace: Path
    objective: str
    prices: Path | None
    model: str
    cost: str
    lanes: int
    peak: float | None
    start: float
    hours: float | None
    out: Path | None


def run(wanted: Wanted, repository: str, *, as_json: bool) -> None:
    """Plan, print, and draw where a file is named.

    Raises:
        InvalidData: the trace cannot be read.
        InvalidInput: the objective or the cost cannot be read.
        ConfigurationError: the prices cannot be read.
        NotFound: there is no such model.
    """
    configure_logs(level="warning")
    objective = _seconds(wanted.objective, "objective")
    trace = read_trace(wanted.trace)
    if wanted.start or wanted.hours is not None:
        hours = wanted.hours if wanted.hours is not None else trace.seconds / 3600
        trace = trace.cut(wanted.start * 3600, hours * 3600)
    if wanted.peak is not None:
        trace = trace.scaled(wanted.peak / max(float(trace.rates.max()), 1e-9))
    prices = read_prices(wanted.prices) if wanted.prices is not None else _NO_PRICES
    settings = project_here()
    if wanted.cost:
        name, cost = wanted.model, _read_cost(wanted.cost)
    else:
        name, cost = _measured(repository, wanted.model, objective)
    section = settings.models.get(name, ModelSettings()).serve
    policy = read_policy(section, settings.serve.objective_ms, f"models.{name}.serve.replicas")
    # On paper there is room: the plan is to say how many it would take.
    policy = msgspec.structs.replace(
        policy, most=1_000_000, wait=policy.wait if section.objective_ms else objective / 2
    )
    question = Question(trace, cost, objective, prices.platforms, policy, wanted.lanes, max_wait=_wait(settings))
    found = answer(question)
    if wanted.out is not None:
        from rung.fleet.planning.plots import draw

        draw(question, found, wanted.out)
    if as_json:
        print_json(_as_json(question, found))
    else:
        _show(question, found, prices.currency, name)
        if wanted.out is not None:
            print(f"\nwritten: {wanted.out}")


def _wait(settings: ProjectSettings) -> float:
    return settings.serve.max_wait_ms / 1e3


def _seconds(text: str, field: str) -> float:
    found = _TIME.fullmatch(text.strip())
    if found is None or not float(found[1]):
        raise InvalidInput(f"{field} {text!r} is no time: write a number and us, ms or s, such as 200ms", field=field)
    return float(found[1]) * _SECONDS[found[2]]


def _read_cost(text: str) -> dict[int, float]:
    found: dict[int, float] = {}
    for entry in text.split(","):
        rows, equals, time = entry.partition("=")
        if not equals or not rows.strip().isdigit() or not int(rows):
            raise InvalidInput(f"cost {entry!r} cannot be read: write ROWS=TIME, such as 8=90ms", field="cost")
        found[int(rows)] = _seconds(time, "cost")
    if 1 not in found:
        raise InvalidInput("cost must say what a call of one row takes, such as 1=20ms", field="cost")
    return found


def _measured(repository: str, name: str, objective: float) -> tuple[str, dict[int, float]]:
    """Load the model that answers, as a replica does, and take what its calls cost: the median of several starts, since
    one measures a slow model's call once, and a plan that goes by a call which was held up is wrong throughout.
    """
    from rung.catalog.source import RepositorySource
    from rung.store.blobs import open_store

    source = RepositorySource(open_store(repository), Path(".rung/cache"))
    offered = source.poll()
    names = sorted({version.name for version in offered})
    if not name and len(names) != 1:
        there = f"there are {', '.join(names)}" if names else "there is none here"
        raise NotFound(f"say which model is planned for, with --model NAME or --cost: {there}")
    name = name or names[0]
    if name not in names:
        raise NotFound(f"there is no model {name!r}; {rather(name, names)}")
    latest = max((version for version in offered if version.name == name), key=lambda version: version.version)
    costs = [_cost(source, latest, objective) for _ in range(_LOADS)]
    sizes = sorted(set.intersection(*map(set, costs)))
    return name, {rows: median(one[rows] for one in costs) for rows in sizes}


def _cost(source: "RepositorySource", version: "AspiredVersion", objective: float) -> dict[int, float]:
    """What calls cost by one start's measurement."""
    from rung.ports import LoadOptions
    from rung.serving.loader import load

    loaded = load(source, version, LoadOptions(threads=1), objective)
    if loaded.model is None:
        raise ConfigurationError(f"{version.name} is a graph: plan for its models, or give its cost with --cost")
    try:
        return dict(loaded.cost.known)
    finally:
        loaded.model.close()


# --- printing -------------------------------------------------------------------------------------


def _show(question: Question, plan: Plan, currency: str, name: str) -> None:
    trace, lanes = question.trace, question.lanes
    calls = ", ".join(f"{rows} row{'s' if rows > 1 else ''} {_time(s)}" for rows, s in sorted(question.cost.items()))
    mean, peak = trace.total / trace.seconds, float(trace.rates.max())
    print(
        f"{trace.name}: {trace.total:,.0f} requests in {_span(trace.seconds)}, {mean:,.4g}/s, {peak:,.4g}/s at the peak"
    )
    print(f"{name or 'a model'}: a call of {calls}; {lanes} lane{'s' if lanes > 1 else ''} a replica")
    if plan.knee:
        most = plan.curve.capacity
        print(
            f"the knee: one replica holds {_time(question.objective)} for 99 % up to {plan.knee:,.3g} requests/s, "
            f"{plan.knee / most:.0%} of the {most:,.3g}/s that it can compute"
        )
    else:
        print(f"the knee: no load is so low that {_time(question.objective)} would hold for 99 %")
    print()
    head = (
        "PLATFORM",
        "POLICY",
        "REPLICAS",
        "MEAN",
        "SHED",
        "P50",
        "P99",
        "LATE",
        "STARTS",
        "REPLICA-H",
        *(("PRICE", "PER 1,000") if _priced(plan) else ()),
        "",
    )
    print_table(head, [_row(one, plan, currency) for one in plan.options])
    print()
    if plan.best is not None:
        cost = f" at {_money(plan.best.per_thousand, currency)} per 1,000 predictions" if _priced(plan) else ""
        print(f"cheapest that holds the objective: {plan.best.policy} on {plan.best.platform}{cost}")
    else:
        print(
            "no option holds the objective: a faster model, a longer objective, or a platform that starts sooner would"
        )
    looks = f"a look and a decision each {plan.step:.3g} s"
    how = "each request was simulated" if plan.singly else "the load was followed as a stream: a start takes a step"
    print(f"on paper: {how}, {looks}; cores are taken to be there for every lane")


def _priced(plan: Plan) -> bool:
    return any(one.price for one in plan.options)


def _row(one: Option, plan: Plan, currency: str) -> tuple[str, ...]:
    count = f"{one.least:,}" if one.least == one.most else f"{one.least:,} to {one.most:,}"
    price = (_money(one.price, currency), _money(one.per_thousand, currency)) if _priced(plan) else ()
    said = "cheapest" if one is plan.best else "" if one.holds else "misses it"
    return (
        one.platform,
        one.policy,
        count,
        f"{one.mean:,.1f}",
        f"{one.shed:.2%}",
        _time(one.p50),
        _time(one.p99),
        f"{one.late:.2%}",
        f"{one.starts:,}",
        f"{one.replica_hours:,.2f}",
        *price,
        said,
    )


def _money(value: float, currency: str) -> str:
    return f"{value:,.4g}{f' {currency}' if currency else ''}"


def _time(seconds: float) -> str:
    if isnan(seconds):
        return "-"
    return (
        f"{seconds * 1e6:.0f} us"
        if seconds < 1e-3
        else f"{seconds * 1e3:.3g} ms"
        if seconds < 1
        else f"{seconds:.3g} s"
    )


def _span(seconds: float) -> str:
    return (
        f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.0f} h"
        if seconds < 172_800
        else f"{seconds / 86_400:.0f} days"
    )


def _as_json(question: Question, plan: Plan) -> dict[str, Any]:
    trace: Trace = question.trace
    return {
        "trace": {
            "name": trace.name,
            "requests": trace.total,
            "seconds": trace.seconds,
            "peak": float(trace.rates.max()),
        },
        "cost": {str(rows): seconds for rows, seconds in question.cost.items()},
        "objective": question.objective,
        "knee": plan.knee,
        "capacity": plan.curve.capacity,
        "simulated": "requests" if plan.singly else "stream",
        "best": {"platform": plan.best.platform, "policy": plan.best.policy} if plan.best else None,
        "options": [_option(one) for one in plan.options],
    }


def _option(one: Option) -> dict[str, Any]:
    series = ("at", "replicas", "latency", "decisions")
    found = {name: getattr(one, name) for name in one.__struct_fields__ if name not in series}
    found["per_thousand"] = one.per_thousand
    return {name: None if isinstance(value, float) and isnan(value) else value for name, value in found.items()}
