"""Tells people of alerts: a signed webhook, mail, or JSON as Slack takes it. One call is one try; jobs try again."""

import hashlib
import smtplib
import ssl
import time
from collections.abc import Mapping
from email.message import EmailMessage
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from rung.domain.alerts import Alert, Notice
from rung.domain.errors import ConfigurationError, NotReady
from rung.jobs.webhook import post, signed
from rung.settings.alerts import AlertsSection

__all__ = ["body_of", "channels_of", "send", "text_of"]

_PATIENCE = 10.0
"""Seconds that a mail server gets for each step."""


def channels_of(section: AlertsSection) -> tuple[str, ...]:
    """The channels that are set: `webhook`, `slack`, `smtp`."""
    return tuple(name for name in ("webhook", "slack", "smtp") if getattr(section, name))


def send(section: AlertsSection, arguments: Mapping[str, Any], delivery: str) -> dict[str, Any]:
    """Tell one channel: the work of a job `alerts.notify`.

    Args:
        section: who is told.
        arguments: `channel`, `at` in seconds since the epoch, and `notice`.
        delivery: the same for every try, so that a receiver can tell a repeated one.

    Raises:
        ConfigurationError: the channel is not set any more, or its address is refused.
        NotReady: it did not take it; try again.
    """
    notice = msgspec.convert(arguments["notice"], Notice)
    channel, at = str(arguments["channel"]), float(arguments["at"])
    if channel not in channels_of(section):
        raise ConfigurationError(f"[alerts] has no `{channel}` any more; nobody was told")
    if channel == "smtp":
        _mail(section.smtp, notice, at, delivery)
        return {"channel": channel}
    url = section.webhook if channel == "webhook" else section.slack
    body = body_of(notice, at) if channel == "webhook" else _slack(notice)
    headers = {"content-type": "application/json", "user-agent": "rung", "rung-delivery": delivery}
    if channel == "webhook" and section.webhook_secret:
        headers |= signed(section.webhook_secret, str(int(time.time())), body)
    status = post(url, body, headers, name=channel, section="alerts", private=section.allow_private)
    return {"channel": channel, "status": status}


def body_of(notice: Notice, at: float) -> bytes:
    """What a webhook is sent, as JSON."""
    return msgspec.json.encode(
        {
            "what": notice.what,
            "cause": notice.cause,
            "severity": notice.severity,
            "at": at,
            "alerts": [
                {
                    "id": alert.id,
                    "rule": alert.rule,
                    "labels": alert.labels,
                    "severity": alert.severity,
                    "says": alert.says,
                    "way_out": alert.way_out,
                    "value": alert.value,
                    "fired": alert.fired,
                    "resolved": alert.resolved,
                    "why": alert.why,
                }
                for alert in notice.alerts
            ],
        }
    )


def text_of(notice: Notice) -> tuple[str, str]:
    """A headline, and the whole in words."""
    first = notice.alerts[0]
    more = f" (and {len(notice.alerts) - 1} more)" if len(notice.alerts) > 1 else ""
    words = {"fired": notice.severity, "resolved": "resolved", "escalated": "nobody has acknowledged", "test": "test"}
    return f"{words[notice.what]}: {first.says}{more}", "\n\n".join(_told(notice, alert) for alert in notice.alerts)


def _told(notice: Notice, alert: Alert) -> str:
    lines = [f"{alert.rule}: {alert.says}."]
    if notice.what == "resolved":
        lines.append(f"This is over{f': {alert.why}' if alert.why else ''}.")
    else:
        lines += [f"What to do: {alert.way_out}"] if alert.way_out else []
        lines.append(f"rung alerts ack {alert.id} says that you see to it.")
    return "\n".join(lines)


def _slack(notice: Notice) -> bytes:
    """Its own characters are escaped: a label must not become a mention of everybody."""
    headline, whole = (text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for text in text_of(notice))
    block = {"type": "section", "text": {"type": "mrkdwn", "text": whole[:2900]}}
    return msgspec.json.encode({"text": headline, "blocks": [block]})


# --- mail ---------------------------------------------------------------------------------------------------------


def _mail(url: str, notice: Notice, at: float, delivery: str) -> None:
    parts = urlsplit(url)
    asked = parse_qs(parts.query)
    host, port = parts.hostname or "", parts.port or 25
    receivers = [one.strip() for one in asked["to"][0].split(",")]
    sender = asked.get("from", receivers)[0]
    headline, whole = text_of(notice)
    message = EmailMessage()
    message["Subject"] = " ".join(f"[rung] {headline}".split())[:200]
    message["From"] = sender
    message["To"] = ", ".join(receivers)
    # The same for every try: programs of mail show a repeated one once.
    message["Message-ID"] = f"<{hashlib.sha256(delivery.encode()).hexdigest()[:32]}@rung>"
    message["Date"] = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime(at))
    message.set_content(whole + "\n")
    try:
        with smtplib.SMTP(host, port, timeout=_PATIENCE) as server:
            server.ehlo()
            secure = server.has_extn("starttls")
            if secure:
                server.starttls(context=ssl.create_default_context())
                server.ehlo()
            if parts.username:
                if not secure:
                    raise ConfigurationError(
                        f"smtp: {host} offers no STARTTLS, and a password is not sent for all to read: leave it out, "
                        "or use another server"
                    )
                server.login(unquote(parts.username), unquote(parts.password or ""))
            server.send_message(message)
    except (OSError, smtplib.SMTPException) as error:
        raise NotReady(f"smtp: {host} did not take it: {error or type(error).__name__}") from None
