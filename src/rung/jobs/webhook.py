"""One delivery by HTTP: signed, to an address that was checked. One call is one try; jobs try again.

A receiver is called at an address that was checked: its host is resolved once, addresses of this machine and of private
networks are refused, and no redirect is followed. So nobody reaches through it what only this machine can reach.
"""

import hashlib
import hmac
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlsplit

from rung.domain.errors import ConfigurationError, NotReady

__all__ = ["check_address", "post", "signed"]

_PATIENCE = 10.0
"""Seconds that a receiver gets in all."""
_LARGEST_REPLY = 64 << 10
_METADATA = frozenset({"169.254.169.254", "168.63.129.16", "fd00:ec2::254", "100.100.100.200"})
"""Where clouds hand out credentials; one of them is a public address."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def signed(secret: str, timestamp: str, body: bytes) -> dict[str, str]:
    """The headers by which a receiver knows that a body came from us, and when.

    `rung-signature` is `sha256=` and HMAC-SHA256 in hex of the timestamp, a dot and the body.
    """
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return {"rung-timestamp": timestamp, "rung-signature": f"sha256={digest}"}


def check_address(address: str, section: str, *, private: bool = False) -> None:
    """Whether a webhook may be called there; `section` of the project's file says so.

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
            check_address(str(inner), section, private=private)
            if found.ipv4_mapped is None and not found.is_global:
                raise ConfigurationError(f"[{section}]: {address} is no address of the internet")
            return
    if str(found) in _METADATA or found.is_link_local or found.is_multicast or found.is_unspecified:
        raise ConfigurationError(
            f"[{section}]: {address} is multicast, link-local or a metadata service; none is called"
        )
    if not private and not found.is_global:
        raise ConfigurationError(
            f"[{section}]: {address} is of this machine or a private network; `allow_private = true` allows that"
        )


def post(url: str, body: bytes, headers: Mapping[str, str], *, name: str, section: str, private: bool) -> int:
    """Post once, and return the status. The URL is a secret: no message quotes its path.

    Args:
        url: of the receiver.
        body: what it is sent.
        headers: beside `host` and `content-length`.
        name: of the receiver in messages.
        section: of the project's file, whose `allow_private` lets it be here or in a private network.
        private: that setting.

    Raises:
        ConfigurationError: its address is refused.
        NotReady: it did not take it; try again.
    """
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    until = time.monotonic() + _PATIENCE
    try:
        addresses = [str(one[4][0]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except OSError as error:
        raise NotReady(f"{name}: {host} has no address: {error}") from None
    for address in addresses:
        check_address(address, section, private=private)  # all: the next look-up may give another one
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection = http.client.HTTPConnection(host, port)
    try:
        connection.sock = _open(addresses[0], port, host if secure else "")
    except (OSError, ValueError) as error:
        raise NotReady(f"{name}: {host} cannot be reached: {error or type(error).__name__}") from None
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
        raise NotReady(f"{name}: {host} did not take it: {late or error or type(error).__name__}") from None
    finally:
        end.cancel()
        end.join()
        connection.close()
    if not 200 <= status < 300:
        note = "; redirects are not followed" if 300 <= status < 400 else ""
        raise NotReady(f"{name}: {host} answered {status}{note}")
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
