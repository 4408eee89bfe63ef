"""What somebody has to be told: rules, what was measured, and alerts in their states. Values only."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Literal, get_args

import msgspec

from rung.domain.errors import ConfigurationError

__all__ = [
    "SEVERITIES",
    "Alert",
    "AlertRule",
    "Happening",
    "Notice",
    "Observation",
    "Severity",
    "Silence",
    "What",
    "key_of",
]

Severity = Literal["critical", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""`critical`: users suffer or data is being lost; `warning`: they soon will; `info`: worth knowing, never escalates."""
What = Literal["fired", "resolved", "escalated", "test"]
Status = Literal["quiet", "pending", "firing", "resolved"]


class AlertRule(msgspec.Struct, frozen=True, kw_only=True):
    """When an alert fires, and what it says.

    Raises:
        ConfigurationError: it has no bound or two, or its bounds overlap.
    """

    name: str
    metric: str
    """Name of an observation, such as `disk_free_share`."""
    labels: dict[str, str] = {}
    """Only series with these labels."""
    above: float | None = None
    """Fires above this..."""
    below: float | None = None
    """...or below this."""
    resolve: float | None = None
    """The value back at which it resolves; None: the bound itself."""
    for_seconds: float = 0.0
    """Time beyond the bound before it fires."""
    clear_seconds: float = 0.0
    """Time back before it resolves."""
    nodata_seconds: float = 600.0
    """Time without a measurement after which that is an alert itself."""
    absent_resolves: bool = False
    """Whether a series that a working source does not name any more is over: what it was about is gone."""
    severity: Severity = "warning"
    cause: str = ""
    """Alerts of one cause are told together; empty: the rule's name."""
    says: str = ""
    """A sentence; `{value}` and the names of labels in braces are filled in."""
    way_out: str = ""
    """What to do about it."""
    false_alarms: str = "none: it states a fact"
    """How often it fires where nothing is wrong, and how that is known."""

    def __post_init__(self) -> None:
        where = f"alert rule {self.name!r}"
        if (self.above is None) == (self.below is None):
            raise ConfigurationError(f"{where}: give one of `above` and `below`")
        if not self.metric:
            raise ConfigurationError(f"{where}: `metric` is missing: name what it is about")
        if min(self.for_seconds, self.clear_seconds, self.nodata_seconds) < 0:
            raise ConfigurationError(f"{where}: `for_seconds`, `clear_seconds` and `nodata_seconds` must be at least 0")
        if self.resolve is not None and (
            (self.above is not None and self.resolve > self.above)
            or (self.below is not None and self.resolve < self.below)
        ):
            raise ConfigurationError(f"{where}: `resolve` = {self.resolve:g} is a value at which it fires")

    def breached(self, value: float) -> bool:
        """Whether it is beyond the bound; NaN is not."""
        return value > self.above if self.above is not None else value < (self.below or 0.0)

    def clear(self, value: float) -> bool:
        """Whether it is back where the alert resolves; NaN is not."""
        if self.above is not None:
            return value <= (self.above if self.resolve is None else self.resolve)
        return value >= ((self.below or 0.0) if self.resolve is None else self.resolve)


class Observation(msgspec.Struct, frozen=True):
    """One measured value; None where its source did not answer, for all series with these labels."""

    metric: str
    value: float | None
    labels: dict[str, str] = {}
    detail: str = ""
    """What a person wants to know besides."""


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One rule on one series, as it is. Times are seconds since the epoch, 0 where it has not come to that."""

    rule: str
    labels: dict[str, str] = {}
    status: Status = "quiet"
    number: int = 0
    """How many times it has fired."""
    since: float = 0.0
    """When the value went beyond the bound."""
    fired: float = 0.0
    cleared: float = 0.0
    """Since when the value is back."""
    missing: float = 0.0
    """Since when it is not measured."""
    resolved: float = 0.0
    told: float = 0.0
    """When a notification of this firing was submitted."""
    escalated: float = 0.0
    acknowledged: str = ""
    """Who has seen to it."""
    value: float = 0.0
    """When its status last changed."""
    says: str = ""
    severity: Severity = "warning"
    cause: str = ""
    way_out: str = ""
    why: str = ""
    """Why it resolved, where the value does not say so."""

    @property
    def key(self) -> str:
        """Rule and labels: the same for everyone who sees the same thing."""
        return key_of(self.rule, self.labels)

    @property
    def id(self) -> str:
        """The key in eight hexadecimal digits, to be typed."""
        return sha256(self.key.encode()).hexdigest()[:8]


class Silence(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing is told of some alerts until a time. They go on firing and resolving."""

    id: str
    rule: str
    """Name of a rule; `*`: all."""
    labels: dict[str, str] = {}
    """Only alerts with these labels."""
    until: float
    why: str = ""

    def covers(self, alert: Alert, now: float) -> bool:
        """Whether nothing may be told of this alert now."""
        return now < self.until and self.rule in ("*", alert.rule) and self.labels.items() <= alert.labels.items()


class Happening(msgspec.Struct, frozen=True):
    """Something to be told of one alert."""

    what: What
    alert: Alert


class Notice(msgspec.Struct, frozen=True):
    """One notification: what happened to alerts of one cause at once."""

    what: What
    cause: str
    severity: Severity
    """The worst of them."""
    alerts: tuple[Alert, ...]

    @property
    def identity(self) -> str:
        """The same for everyone who would tell the same."""
        told = sorted(f"{alert.key} {alert.number} {alert.fired}" for alert in self.alerts)
        return sha256("\n".join([self.what, *told]).encode()).hexdigest()[:32]


def key_of(rule: str, labels: Mapping[str, str]) -> str:
    """A rule and labels as one text."""
    return rule + msgspec.json.encode(dict(sorted(labels.items()))).decode()
