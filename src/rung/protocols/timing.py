"""The `Server-Timing` header of the doors that take and give tensors."""

from rung.domain.predictions import Response

__all__ = ["server_timing", "steps_timing"]


def server_timing(
    response: Response, arrived: float, parsed: float, answered: float, encoded: float
) -> tuple[bytes, bytes]:
    """Write the parts in milliseconds, from readings of one clock in seconds.

    The parts sum to the total: all waiting between parse and encode counts as queue.
    """
    compute = min(response.computed, answered - parsed)
    parts = {
        "parse": parsed - arrived,
        "queue": answered - parsed - compute,
        "compute": compute,
        "encode": encoded - answered,
        "total": encoded - arrived,
    }
    return b"Server-Timing", ", ".join(
        [*(f"{name};dur={part * 1e3:.4f}" for name, part in parts.items()), *steps_timing(response.steps)]
    ).encode()


def steps_timing(steps: tuple[tuple[str, float, float], ...]) -> list[str]:
    """Entries for the models of a graph, whose times lie within `compute`: `compute.NAME;dur=MS`."""
    return [f"compute.{name};dur={(queued + computed) * 1e3:.4f}" for name, queued, computed in steps]
