"""`[alerts]` of a project's `rung.toml`."""

from typing import Annotated
from urllib.parse import parse_qs, urlsplit

import msgspec

from rung.domain.alerts import Severity
from rung.domain.errors import ConfigurationError

__all__ = ["AlertSection", "AlertsSection"]


class AlertSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[alerts.rule]]`: a change to a rule that there is, by its name, or a rule of the project's own."""

    name: str
    """Of the rule; a name that there is not makes a new one, which needs `metric` and a bound."""
    off: bool = False
    """Whether this rule is not to be."""
    metric: str | None = None
    """What it is about, such as `disk_free_share`."""
    labels: dict[str, str] | None = None
    """Only series with these labels, such as `{ model = "spam" }`."""
    above: float | None = None
    """Fires above this."""
    below: float | None = None
    """Fires below this."""
    resolve: float | None = None
    """Value back at which it resolves; else the bound itself."""
    for_seconds: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """Time beyond the bound before it fires."""
    clear_seconds: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """Time back before it resolves."""
    nodata_seconds: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """Time without a measurement after which that is an alert itself."""
    severity: Severity | None = None
    """`critical`, `warning` or `info`; the last never escalates."""
    cause: str | None = None
    """Alerts of one cause are told together."""
    says: str | None = None
    """What is told; `{value}`, `{percent}` and names of labels in braces are filled in."""
    way_out: str | None = None
    """What to do about it."""
    false_alarms: str | None = None
    """How often it fires where nothing is wrong."""


class AlertsSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[alerts]`: who is told when something is wrong, and of what."""

    webhook: str = ""
    """URL that signed JSON is posted to."""
    webhook_secret: str = ""
    """What the signature is made with, at least 16 characters; better given as RUNG_ALERT_SECRET."""
    slack: str = ""
    """URL of an incoming webhook of Slack, or of anything that takes its JSON."""
    smtp: str = ""
    """Mail server: `smtp://user:password@host:port?to=ops@example.com&from=rung@example.com`."""
    allow_private: bool = False
    """Whether `webhook` and `slack` may be in this machine or a private network."""
    escalate_minutes: Annotated[float, msgspec.Meta(ge=0)] = 30.0
    """Minutes after which an alert that nobody acknowledged is told again, once; 0: never."""
    group_seconds: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    """How long a new alert waits for others of its cause, to be told together."""
    rule: tuple[AlertSection, ...] = ()
    """Changes to the rules."""

    def __post_init__(self) -> None:
        # What is wrong is not quoted: these hold secrets.
        for name in ("webhook", "slack"):
            if getattr(self, name) and not _is_address(getattr(self, name), ("http", "https")):
                raise ConfigurationError(f"`{name}` must be like https://host/path")
        if self.smtp:
            if not _is_address(self.smtp, ("smtp",)):
                raise ConfigurationError("`smtp` must be like smtp://user:password@host:port?to=...&from=...")
            asked = parse_qs(urlsplit(self.smtp).query)
            if unknown := sorted(asked.keys() - {"to", "from"}):
                raise ConfigurationError(f"`smtp` knows `to` and `from`, not {unknown[0]!r}")
            if not all("@" in one for one in asked.get("to", [""])[0].split(",")):
                raise ConfigurationError("`smtp` needs ?to=ADDRESS, or several with commas between them")
        if self.webhook_secret and len(self.webhook_secret) < 16:
            raise ConfigurationError("`webhook_secret` must be at least 16 characters")


def _is_address(url: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
