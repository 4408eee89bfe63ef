"""How many replicas a project runs, and by what."""

import re
from typing import Annotated

import msgspec

from rung.domain.errors import ConfigurationError
from rung.settings.cache import parse_size

__all__ = ["ReplicaCount", "parse_duration"]

_Count = Annotated[int, msgspec.Meta(ge=0)]
_Float = Annotated[float, msgspec.Meta(ge=0)]
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|h|d|w)", re.ASCII)
_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


class ReplicaCount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`replicas = { min = 1, max = 4 }`: how many replicas may answer for a model, and what asks for more.

    Every replica holds every model: the most that any model wants counts.
    """

    min: _Count = 1
    """Replicas that always run; 0 lets the last one go after `idle_seconds`."""
    max: _Count = 0
    """Most replicas; 0 means `min`, and at least 1."""
    schedule: tuple[str, ...] = ()
    """Times at which more are kept: `CRON [in ZONE] for DURATION: COUNT`, such as `0 8 * * 1-5 for 10h: 3`."""
    utilisation: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.7
    """Share of what the replicas could compute that is to be in use; 0: not looked at."""
    wait_ms: _Float = 0.0
    """Predicted wait of a request that more replicas are to end; 0: half the objective, or 100."""
    requests: _Float = 0.0
    """Requests a second that a replica is to get; 0: not looked at."""
    in_flight: _Float = 0.0
    """Requests at once that a replica is to have; 0: not looked at."""
    double_above: _Count = 0
    """Requests in flight in all above which the replicas are doubled, and below half of which they are halved
    again; 0: not looked at."""
    cpu: _Float = 0.0
    """Cores that a replica is to keep busy; 0: not looked at."""
    memory: str = ""
    """Memory that a replica is to have, such as `2GiB`; empty: not looked at."""
    p99_ms: _Float = 0.0
    """99th percentile of the latency above which more are wanted; 0: not looked at."""
    forecast: str = ""
    """Period in which load repeats, such as `1d` or `1w`: more are started before it rises; empty: not looked at."""
    lead_seconds: _Float = 60.0
    """Time by which schedule and forecast are ahead: what a replica takes to start, and some more."""
    up_seconds: _Float = 0.0
    """How long more have to be wanted until they are started."""
    down_seconds: _Float = 300.0
    """How long fewer have to be enough until some are stopped."""
    grow: Annotated[float, msgspec.Meta(gt=1)] = 4.0
    """Most times as many replicas at once."""
    shrink: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5
    """Largest share of the replicas that is stopped at once; one always may be."""
    idle_seconds: _Float = 300.0
    """Time without a request after which the last replica goes, where `min` is 0."""
    spares: _Count = 0
    """Replicas that are kept beside those that are wanted, ready for a spike."""

    def __post_init__(self) -> None:
        if self.max and self.max < self.min:
            raise ConfigurationError(f"max = {self.max} is below min = {self.min}: write the larger one as max")
        if self.memory:
            parse_size(self.memory)
        if self.forecast and parse_duration(self.forecast) < 60:
            raise ConfigurationError(f"forecast = {self.forecast!r} is too short: a period has at least a minute")

    @property
    def most(self) -> int:
        """Most replicas."""
        return max(self.max, self.min, 1)


def parse_duration(text: str) -> float:
    """Seconds of `90s`, `15min`, `10h`, `1d`, `1w`.

    Raises:
        ConfigurationError: it is no duration; the message says what would be.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ConfigurationError(
            f"{text!r} is no duration: write a number and s, min, h, d or w, such as 90s, 15min, 10h or 1d"
        )
    return float(found[1]) * _UNITS[found[2]]
