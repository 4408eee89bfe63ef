"""A small trial of the whole way, and what it says about time and memory of the rest."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from rung.domain.errors import Cancelled
from rung.domain.runs import RunResult, RunSpec
from rung.settings.project import ProjectSettings
from rung.training.events import Event, Produced, Ready
from rung.training.run import train_model

__all__ = ["Forecast", "extrapolate", "forecast"]

_APART = 4
"""The second trial has so many times the rows of the first."""


class Forecast(msgspec.Struct, frozen=True):
    """What a whole run would take, told from two small ones."""

    rows: int
    """Training rows of the larger trial."""
    all_rows: int
    seconds: float
    """Of a whole run, start and reading of the data included."""
    memory: int
    """Bytes of a whole run at its peak."""
    measured: float
    """Seconds of the larger trial."""


def forecast(
    project: ProjectSettings,
    folder: Path,
    spec: RunSpec,
    share: float,
    *,
    on_event: Callable[[Event], None] = lambda _event: None,
    stop: Callable[[], bool] = lambda: False,
) -> Forecast:
    """Train twice, on `share` and on four times that, without registering, and draw a line through both.

    Raises:
        Cancelled: `stop` said yes.
        TrainingFailed, InvalidData, ConfigurationError: as `train_model` does.
    """
    spec = msgspec.structs.replace(spec, register=False)
    small, _ = _trial(project, folder, msgspec.structs.replace(spec, smoke=share), on_event, stop)
    # A trial has a least number of rows, which may be more than its share.
    more = min(1.0, _APART * max(share, small.rows / small.all_rows))
    large, result = _trial(project, folder, msgspec.structs.replace(spec, smoke=more), on_event, stop)
    seconds = extrapolate(small.rows, small.seconds, large.rows, large.seconds, large.all_rows)
    memory = extrapolate(small.rows, small.memory, large.rows, large.memory, large.all_rows)
    outside = max(0.0, result.seconds - large.seconds)
    return Forecast(large.rows, large.all_rows, seconds + outside, round(memory), result.seconds)


def extrapolate(rows: int, value: float, more_rows: int, more: float, all_rows: int) -> float:
    """The value at `all_rows` of the line through two points; never less than the larger of them."""
    if more_rows <= rows:
        return max(value, more)
    slope = max(0.0, (more - value) / (more_rows - rows))
    return max(value, more) + slope * max(0, all_rows - more_rows)


class _Trial(msgspec.Struct):
    rows: int = 0
    all_rows: int = 0
    seconds: float = 0.0
    memory: int = 0


def _trial(
    project: ProjectSettings,
    folder: Path,
    spec: RunSpec,
    on_event: Callable[[Event], None],
    stop: Callable[[], bool],
) -> tuple[_Trial, RunResult]:
    seen = _Trial()

    def hear(event: Event) -> None:
        if isinstance(event, Ready):
            seen.rows, seen.all_rows = event.rows["train"], event.of["train"]
        elif isinstance(event, Produced):
            seen.seconds, seen.memory = event.seconds, event.peak_memory
        on_event(event)

    result = train_model(project, folder, spec, on_event=hear, stop=stop)
    if result.ended == "stopped":
        raise Cancelled("the trial was ended before it could tell anything")
    return seen, result
