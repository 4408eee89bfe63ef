"""What carries messages, as it is written in a setting: the job table, or the URL of a server."""

from urllib.parse import urlsplit

from rung.domain.errors import ConfigurationError

__all__ = ["check_queue"]

_SCHEMES = ("nats", "tls", "redis", "rediss", "valkey", "valkeys", "unix")


def check_queue(text: str) -> None:
    """Refuse what names no queue.

    Raises:
        ConfigurationError: saying what would; without the URL itself, which may hold a password.
    """
    if text == "sql":
        return
    for part in text.split(","):
        parts = urlsplit(part)
        try:
            named = bool(parts.path if parts.scheme == "unix" else parts.hostname) and parts.port != 0
        except ValueError:
            named = False
        if parts.scheme not in _SCHEMES or not named:
            raise ConfigurationError(
                f"the queue begins with {text.partition(':')[0]!r:.40}; it must be sql for the job table, "
                "nats://HOST:PORT (tls:// for TLS), redis://HOST:PORT/DATABASE (rediss:// for TLS), the same with "
                "valkey, or unix:///PATH/OF/SOCKET"
            )
