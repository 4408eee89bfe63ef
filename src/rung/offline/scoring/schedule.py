"""Data sets that are scored by the clock: `[models.NAME.score.JOB]` as schedules, and each tick as an order."""

from collections.abc import Mapping
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from rung.domain.errors import NotFound
from rung.domain.jobs import NewJob
from rung.jobs.schedule import Schedule
from rung.offline.scoring.order import Order
from rung.settings.project import ModelSettings

__all__ = ["KIND", "order_of", "schedules"]

KIND = "models.score"
"""Kind of the jobs that score."""
_TRIES = 10


def schedules(models: Mapping[str, ModelSettings]) -> list[Schedule]:
    """When which data set is scored. A period that was missed altogether is caught up with once."""
    return [
        Schedule(
            name=f"score:{model}:{name}",
            cron=section.cron,
            zone=section.zone,
            # One key: two runs into one place would be in each other's way.
            job=NewJob(
                kind=KIND,
                arguments={"model": model, "name": name},
                key=f"score:{model}:{name}",
                max_attempts=_TRIES,
                backoff=10.0,
            ),
        )
        for model, settings in models.items()
        for name, section in settings.score.items()
    ]


def order_of(models: Mapping[str, ModelSettings], model: str, name: str, moment: float) -> Order:
    """What the tick at `moment` (seconds since the epoch) scores: as of the day that it was there.

    Raises:
        NotFound: rung.toml has no such section.
    """
    settings = models.get(model, ModelSettings())
    section = settings.score.get(name)
    if section is None:
        known = ", ".join(settings.score) or "none"
        raise NotFound(f"rung.toml has no [models.{model}.score.{name}]; there are {known}")
    data = settings.dataset
    return Order(
        model=model,
        source=section.source,
        out=section.out,
        where=section.where,
        key=section.key,
        keep=() if section.out == "scores:" else section.keep,
        group=section.group,
        features=data.features,
        ignore=data.unseen,
        as_of=datetime.fromtimestamp(moment, UTC).astimezone(ZoneInfo(section.zone)).date().isoformat(),
        days=section.days,
        # Tried again, it goes on where the try before was cut off.
        resume=True,
    )
