"""Where answers are cached, as it is written in a setting: a size, a URL, or both."""

import re
from urllib.parse import urlsplit

import msgspec

from rung.domain.errors import ConfigurationError

__all__ = ["CachePlace", "cache_place", "parse_size"]

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]i?b|b)?", re.ASCII | re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_SCHEMES = ("redis", "rediss", "valkey", "valkeys", "unix")
_MEMORY = 64 << 20
"""Bytes of `memory`, and of the store in front of a URL where no size is given."""


class CachePlace(msgspec.Struct, frozen=True):
    """Where answers are kept."""

    size: int = 0
    """Bytes in the memory of each replica; 0: nothing is kept."""
    url: str = ""
    """Redis or Valkey, which replicas share; empty: none."""


def parse_size(text: str) -> int:
    """Bytes of `64MiB`, `1.5GB`, `4096`. KB, MB and GB are powers of 1000, KiB, MiB and GiB of 1024.

    Raises:
        ConfigurationError: it is no size; the message says what would be.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ConfigurationError(f"{text!r} is no size: write a number and a unit, such as 64MiB, 1.5GB or 4096")
    return int(float(found[1]) * _UNITS[(found[2] or "").lower()])


def cache_place(text: str) -> CachePlace:
    """Read `64MiB`, `memory`, `redis://host:6379/0` or `64MiB,redis://host:6379/0`; empty and `0` are off.

    Raises:
        ConfigurationError: it is neither; the message says what would be.
    """
    text = text.strip()
    if not text:
        return CachePlace()
    first, _, rest = text.partition(",")
    size, url = (_MEMORY, text) if "://" in first else (_MEMORY if first == "memory" else -1, rest.strip())
    parts = urlsplit(url)
    if url and (parts.scheme not in _SCHEMES or not (parts.path if parts.scheme == "unix" else parts.hostname)):
        # Without the URL itself: it may hold a password.
        raise ConfigurationError(
            f"the cache's URL begins with {url.partition(':')[0]!r}; it must be redis://HOST:PORT/DATABASE, rediss:// "
            "for TLS, the same with valkey, or unix:///PATH/OF/SOCKET"
        )
    try:
        return CachePlace(parse_size(first) if size < 0 else size, url)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"the cache must be a size, a URL (redis://HOST:PORT/DATABASE) or both with a comma between: {error}"
        ) from None
