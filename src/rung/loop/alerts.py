"""When an alert fires, resolves and escalates: a pure plan over what is measured and what is known.

    quiet ──> pending ──> firing ──> resolved
                │            │
                └──> quiet   └──> told, escalated

A series that is not measured stays as it is, whatever it was: the time without data is an observation of its own, on
which the rule `no-data` fires. So a source that goes away neither raises nor ends an alert in silence.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from rung.domain.alerts import SEVERITIES, Alert, AlertRule, Happening, Notice, Observation, Silence, key_of

__all__ = ["FORGET_SECONDS", "NO_DATA", "Plan", "group", "plan"]

FORGET_SECONDS = 86_400.0
"""Time without a measurement after which an alert ends, and says so."""
NO_DATA = "no_data_seconds"
"""Name of the observation that is derived here: how long a series has not been measured."""


class Plan(msgspec.Struct, frozen=True):
    """What is to be written and told, together or not at all."""

    changed: tuple[Alert, ...] = ()
    gone: tuple[str, ...] = ()
    """Keys of alerts that are nothing any more."""
    happenings: tuple[Happening, ...] = ()


def plan(
    rules: Sequence[AlertRule],
    observations: Sequence[Observation],
    alerts: Mapping[str, Alert],
    silences: Sequence[Silence],
    now: float,
    *,
    escalate_seconds: float = 0.0,
    group_seconds: float = 0.0,
) -> Plan:
    """What changes now.

    Args:
        rules: all there are; an alert whose rule is not among them resolves.
        observations: what was measured, and what could not be.
        alerts: key -> what is known.
        silences: also those that are over.
        now: seconds since the epoch; may be earlier than times in `alerts`, where a clock was set.
        escalate_seconds: after which a firing alert that nobody acknowledged is told again; 0: never.
        group_seconds: how long a new alert waits for others of its cause.
    """
    known = {key: _not_later(alert, now) for key, alert in alerts.items()}
    after = dict(known)
    for rule in rules:
        if rule.metric != NO_DATA:
            _look(rule, observations, after, now)
    for rule in rules:
        if rule.metric == NO_DATA:
            _look(rule, list(_unmeasured(rules, after, now)), after, now)
    names = {rule.name for rule in rules}
    for key, alert in after.items():
        if alert.rule not in names:
            after[key] = _resolved(alert, now, "there is no such rule any more")
    happenings = list(_tell(known, after, silences, now, group_seconds))
    happenings += list(_escalate(after, silences, now, escalate_seconds))
    for happening in happenings:
        after[happening.alert.key] = happening.alert
    return Plan(
        changed=tuple(alert for key, alert in after.items() if alert != alerts.get(key) and not _is_nothing(alert)),
        gone=tuple(key for key, alert in after.items() if key in alerts and _is_nothing(alert)),
        happenings=tuple(happenings),
    )


def group(happenings: Iterable[Happening]) -> list[Notice]:
    """One notice for what happened to alerts of one cause."""
    together: dict[tuple[str, str], list[Happening]] = {}
    for one in happenings:
        together.setdefault((one.what, one.alert.cause or one.alert.rule), []).append(one)
    return [
        Notice(
            what=members[0].what,
            cause=cause,
            severity=min((one.alert.severity for one in members), key=SEVERITIES.index),
            alerts=tuple(one.alert for one in members),
        )
        for (_, cause), members in together.items()
    ]


def _not_later(alert: Alert, now: float) -> Alert:
    """An alert whose times are not in the future: a clock that was set back must not make it wait for a day."""
    times = {name: now for name in ("since", "fired", "cleared", "missing", "told") if getattr(alert, name) > now}
    return replace(alert, **times) if times else alert


def _is_nothing(alert: Alert) -> bool:
    return alert.status == "quiet" and not alert.missing


def _look(rule: AlertRule, observations: Sequence[Observation], after: dict[str, Alert], now: float) -> None:
    """Hold the observations of a rule against it."""
    own = [one for one in observations if one.metric == rule.metric and rule.labels.items() <= one.labels.items()]
    holes = [one.labels for one in own if one.value is None or one.value != one.value]
    measured = {key_of(rule.name, one.labels): one for one in own if one.value is not None and one.value == one.value}
    for key, one in measured.items():
        assert one.value is not None
        before = after.get(key, Alert(rule=rule.name, labels=one.labels))
        after[key] = _measured(rule, before, one, one.value, now)
    for key, alert in list(after.items()):
        if alert.rule != rule.name or key in measured or alert.status == "resolved":
            continue
        hidden = any(hole.items() <= alert.labels.items() for hole in holes)
        if not hidden and (rule.absent_resolves or alert.status == "quiet"):
            after[key] = _resolved(alert, now, "what it was about is gone")
        else:
            after[key] = _unseen(alert, now)
    for labels in holes:
        # One that has just ended is told first; that it is still not measured is seen at the next look.
        of_rule = [
            one for one in after.values() if one.rule == rule.name and (one.status != "resolved" or one.resolved == now)
        ]
        if not any(labels.items() <= one.labels.items() for one in of_rule):
            key = key_of(rule.name, labels)
            after[key] = replace(after.get(key, Alert(rule=rule.name, labels=labels)), status="quiet", missing=now)


def _measured(rule: AlertRule, alert: Alert, seen: Observation, value: float, now: float) -> Alert:
    if alert.missing:
        # What was not measured counts as no time at all: it neither brings an alert nearer, nor its end.
        gap = now - alert.missing
        moved = {name: getattr(alert, name) + gap for name in ("since", "cleared") if getattr(alert, name)}
        alert = replace(alert, missing=0.0, **moved)
    if alert.status == "firing":
        if not rule.clear(value):
            return replace(alert, cleared=0.0) if alert.cleared else alert
        cleared = alert.cleared or now
        if now - cleared < rule.clear_seconds:
            return replace(alert, cleared=cleared)
        return _resolved(alert, now, "")
    if not rule.breached(value):
        return _quiet(alert)
    since = alert.since if alert.status == "pending" else now
    if now - since < rule.for_seconds:
        return alert if alert.status == "pending" else replace(alert, status="pending", since=since)
    return Alert(
        rule=rule.name,
        labels=alert.labels,
        status="firing",
        number=alert.number + 1,
        since=since,
        fired=now,
        value=value,
        says=_sentence(rule, seen, value),
        severity=rule.severity,
        cause=rule.cause,
        way_out=rule.way_out,
    )


def _quiet(alert: Alert) -> Alert:
    """Nothing is wrong: what has fired before is kept in mind."""
    if alert.status == "resolved":
        return alert
    if alert.number:
        return replace(alert, status="resolved", since=0.0, missing=0.0)
    return replace(alert, status="quiet", since=0.0, missing=0.0)


def _unseen(alert: Alert, now: float) -> Alert:
    if not alert.missing:
        return replace(alert, missing=now)
    if now - alert.missing < FORGET_SECONDS:
        return alert
    return _resolved(alert, now, "it has not been measured for a day") if alert.status == "firing" else _quiet(alert)


def _resolved(alert: Alert, now: float, why: str) -> Alert:
    if alert.status != "firing":
        return _quiet(alert)
    return replace(alert, status="resolved", resolved=now, cleared=0.0, missing=0.0, why=why)


def _unmeasured(rules: Sequence[AlertRule], after: Mapping[str, Alert], now: float) -> Iterator[Observation]:
    """The time without data of each series, beyond what its rule allows."""
    allowed = {rule.name: rule.nodata_seconds for rule in rules}
    for alert in after.values():
        if alert.missing and alert.rule in allowed and now - alert.missing >= allowed[alert.rule]:
            yield Observation(NO_DATA, now - alert.missing, {"rule": alert.rule, **alert.labels})


def _sentence(rule: AlertRule, seen: Observation, value: float) -> str:
    text = rule.says or f"{rule.metric} is {{value}}"
    shown = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    for name, filled in {"value": shown, "percent": f"{value:.2%}", **seen.labels}.items():
        text = text.replace(f"{{{name}}}", filled)
    return f"{text}: {seen.detail}" if seen.detail else text


def _tell(
    known: Mapping[str, Alert], after: Mapping[str, Alert], silences: Sequence[Silence], now: float, patience: float
) -> Iterator[Happening]:
    """What began and ended. An alert that ended before anybody was told of it was none."""
    waiting: dict[str, list[Alert]] = {}
    for key, alert in after.items():
        before = known.get(key)
        if alert.status == "firing" and not alert.told and not _silent(alert, silences, now):
            waiting.setdefault(alert.cause or alert.rule, []).append(alert)
        elif alert.status == "resolved" and before is not None and before.status == "firing" and alert.told:
            yield Happening("resolved", alert)
    for together in waiting.values():
        if now - min(alert.fired for alert in together) >= patience:
            yield from (Happening("fired", replace(alert, told=now)) for alert in together)


def _escalate(
    after: Mapping[str, Alert], silences: Sequence[Silence], now: float, seconds: float
) -> Iterator[Happening]:
    for alert in after.values():
        overdue = alert.status == "firing" and alert.told and now - alert.told >= seconds > 0
        if not overdue or alert.escalated or alert.acknowledged or alert.severity == "info":
            continue
        if not _silent(alert, silences, now):
            yield Happening("escalated", replace(alert, escalated=now))


def _silent(alert: Alert, silences: Sequence[Silence], now: float) -> bool:
    return any(silence.covers(alert, now) for silence in silences)
