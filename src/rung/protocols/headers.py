"""What rung's own doors read from a head besides the body: the model, the time allowed, the priority."""

import math

from rung.domain.errors import InvalidInput
from rung.domain.names import check_version
from rung.domain.predictions import NEVER
from rung.protocols.exchange import Head

__all__ = ["priority_of", "target_of", "timeout_of"]


def target_of(head: Head) -> tuple[str, int | None]:
    """Model and version that the path names. Raises `InvalidInput` for a version that is no number."""
    version = head.params.get("version")
    return head.params["model"], None if version is None else check_version(version)


def timeout_of(header: bytes | None) -> float:
    """Seconds that `rung-timeout-ms` allows; `NEVER` without it. Raises `InvalidInput`."""
    if header is None:
        return NEVER
    try:
        milliseconds = float(header)
    except ValueError:
        milliseconds = 0.0
    if not (milliseconds > 0 and math.isfinite(milliseconds)):
        raise InvalidInput("rung-timeout-ms must be a number of milliseconds above 0", field="rung-timeout-ms")
    return milliseconds / 1000


def priority_of(header: bytes | None) -> int:
    """The number in `rung-priority`; 0 without it. Raises `InvalidInput`."""
    if header is None:
        return 0
    if not (header.isdigit() and len(header) <= 3):
        raise InvalidInput("rung-priority must be a whole number, 0 to 999; 1 is served first", field="rung-priority")
    return int(header)
