"""Tells people of alerts: a signed webhook, mail, or JSON as Slack takes it. One call is one try; jobs try again.

A webhook is called at an address that was checked: its host is resolved once, addresses of this machine and of private
networks are refused, and no redirect is followed. So nobody reaches through it what only this machine can reach.
"""

import hashlib
import hmac
import http.client
import ipaddress
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from email.message import EmailMessage
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from rung.domain.alerts import Alert, Notice
from rung.domain.errors import ConfigurationError, NotReady
from rung.settings.alerts import AlertsSection

__all__ = ["body_of", "channels_of", "check_address", "send", "sign", "text_of"]

_PATIENCE = 10.0
"""Seconds that a receiver gets in all."""
_LARGEST_REPLY = 64 << 10
_METADATA = frozenset({"169.254.169.254", "168.63.129.16", "fd00:ec2::254", "100.100.100.200"})
"""Where clouds hand out credentials; one of them is a public address."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


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
        stamp = str(int(time.time()))
        headers |= {"rung-timestamp": stamp, "rung-signature": sign(section.webhook_secret, stamp, body)}
    status = _post(url, channel, body, headers, private=section.allow_private)
    return {"channel": channel, "status": status}


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """The header `rung-signature`: `sha256=` and HMAC-SHA256 in hex of the timestamp, a dot and the body."""
    return "sha256=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


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


# --- HTTP ---------------------------------------------------------------------------------------------------------


def check_address(address: str, *, private: bool = False) -> None:
    """Whether a webhook may be called there.

    Raises:
        ConfigurationError: it is of this machine or a private network without `private`; or it is multicast,
            link-local or a cloud's metadata service, which is never allowed.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        # An IPv4 address in other clothes.
        inner = found.ipv4_mapped or found.sixtofour
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            check_address(str(inner), private=private)
            if found.ipv4_mapped is None and not found.is_global:
                raise ConfigurationError(f"[alerts]: {address} is no address of the internet")
            return
    if str(found) in _METADATA or found.is_link_local or found.is_multicast or found.is_unspecified:
        raise ConfigurationError(f"[alerts]: {address} is multicast, link-local or a metadata service; none is called")
    if not private and not found.is_global:
        raise ConfigurationError(
            f"[alerts]: {address} is of this machine or a private network; `allow_private = true` allows that"
        )


def _post(url: str, channel: str, body: bytes, headers: Mapping[str, str], *, private: bool) -> int:
    """Post once, and return the status. The URL is a secret: no message quotes its path."""
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    until = time.monotonic() + _PATIENCE
    try:
        addresses = [str(one[4][0]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except OSError as error:
        raise NotReady(f"{channel}: {host} has no address: {error}") from None
    for address in addresses:
        check_address(address, private=private)  # all: the next look-up may give another one
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection = http.client.HTTPConnection(host, port)
    try:
        connection.sock = _open(addresses[0], port, host if secure else "")
    except (OSError, ValueError) as error:
        raise NotReady(f"{channel}: {host} cannot be reached: {error or type(error).__name__}") from None
    # A socket's own time limit begins anew with each byte; this one does not.
    end = threading.Timer(max(until - time.monotonic(), 0.0), _hang_up, [connection.sock])
    end.start()
    try:
        connection.auto_open = 0  # never by name again
        named = host if ":" not in host else f"[{host}]"
        usual = parts.port is None
        connection.request("POST", path, body, {"host": named if usual else f"{named}:{port}", **headers})
        with connection.getresponse() as answer:
            status = answer.status
            answer.read(_LARGEST_REPLY)
    except (OSError, http.client.HTTPException, ValueError) as error:
        late = f"it has not answered in {_PATIENCE:g} seconds" if time.monotonic() >= until else ""
        raise NotReady(f"{channel}: {host} did not take it: {late or error or type(error).__name__}") from None
    finally:
        end.cancel()
        end.join()
        connection.close()
    if not 200 <= status < 300:
        note = "; redirects are not followed" if 300 <= status < 400 else ""
        raise NotReady(f"{channel}: {host} answered {status}{note}")
    return status


def _open(address: str, port: int, secure_for: str) -> socket.socket:
    """A connection to this very address; with TLS, and a certificate for that name, where one is given."""
    plain = socket.create_connection((address, port), timeout=_PATIENCE)
    if not secure_for:
        return plain
    try:
        return ssl.create_default_context().wrap_socket(plain, server_hostname=secure_for)
    except BaseException:
        plain.close()
        raise


def _hang_up(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


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
