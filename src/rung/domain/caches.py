"""What a cache of answers reports about itself."""

import msgspec

__all__ = ["CacheUsage"]


class CacheUsage(msgspec.Struct):
    """What a cache of answers holds and has done, for the metrics."""

    limit: int = 0
    """Bytes that it may hold in this process."""
    bytes: int = 0
    entries: int = 0
    oldest: float = 0.0
    """Seconds since the oldest entry was computed."""
    evictions: dict[str, int] = msgspec.field(default_factory=dict)
    """Entries dropped, or not taken, by reason: `size`, `expired`; `too_large`, `unfit`."""
    ages: list[int] = msgspec.field(default_factory=list)
    """Hits by the age of the answer, in the buckets of `rung.serving.cache.AGES`."""
    age_seconds: float = 0.0
    """Sum of these ages."""
    fetches: int = 0
    """Look-ups beyond this process."""
    fetch_seconds: float = 0.0
    """Sum of their times."""
    errors: dict[str, int] = msgspec.field(default_factory=dict)
    """What went wrong beyond this process, by kind: each was a miss."""
    away: bool = False
    """Whether what lies beyond this process is being left alone after an error."""
