"""Ports of a project: held by its supervisor, shared with its processes, and not open to strangers."""

import socket
from ipaddress import ip_address

from rung.domain.errors import ConfigurationError
from rung.settings import ProjectSettings

__all__ = ["check_exposure", "is_loopback", "reserve", "url"]


def check_exposure(settings: ProjectSettings) -> None:
    """Refuse to be reached from other machines without a key.

    A key of the settings will do for both doors, as it always has: what it means for the data port is up to the
    network around it, and `rung doctor` says where that port asks for none.

    Raises:
        ConfigurationError: naming the door, and what would do.
    """
    serve, control = settings.serve, settings.control
    hosts = {"serve.host": serve.host, "control.host": control.host or serve.host}
    for name, host in hosts.items():
        if is_loopback(host) or control.keys or serve.oidc.issuer:
            continue
        # Late: a supervisor lives long and is to stay small.
        from rung.store.access import KeyStore
        from rung.store.blobs import open_store

        ring = KeyStore(open_store(serve.key_store)).ring()
        if ring.guards_control if name == "control.host" else ring.guards_data or serve.require_key:
            continue
        role = "admin" if name == "control.host" else "caller"
        raise ConfigurationError(
            f"`{name}` = {host!r} lets other machines in, so a key is needed: make one with `rung keys create NAME "
            f"--role {role}`, or set RUNG_CONTROL_KEY to at least 16 random characters, or keep to 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def reserve(host: str, port: int, flag: str) -> socket.socket:
    """Take a port without listening, so that it stays ours while the processes behind it change.

    Raises:
        ConfigurationError: the address cannot be had, or somebody listens there.
    """
    held: socket.socket | None = None
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        if port:
            # Without SO_REUSEPORT, or we would share the port with another project's replicas.
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                probe.listen(1)
        held = socket.socket(family, socket.SOCK_STREAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(address)
    except (OSError, UnicodeError) as error:
        if held is not None:
            held.close()
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {reason}; choose another with {flag} (0 picks a free one) or --host"
        ) from None
    return held


def url(host: str, port: int, *, tls: bool = False) -> str:
    """The address as a URL."""
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
