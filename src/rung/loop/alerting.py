"""The part of the control plane that watches and tells: measure, plan, write."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog

from rung.domain.alerts import Happening
from rung.domain.errors import NotReady
from rung.fleet.loop import PartHealth
from rung.jobs.queue import JobStore
from rung.loop.alert_rules import rules_of
from rung.loop.alert_store import AlertStore, GroupedError
from rung.loop.notify import channels_of
from rung.loop.triggers import Seen
from rung.loop.watching import Sources, Watcher
from rung.ports import BlobStore
from rung.settings.project import ProjectSettings

__all__ = ["Alerting"]


class Alerting:
    """Gives alerts their turns. Any number of control planes may do so: each thing is told once.

    Raises:
        ConfigurationError: a rule in `[alerts]` makes no sense.
    """

    def __init__(
        self,
        settings: ProjectSettings,
        repository: BlobStore,
        jobs: JobStore,
        parts: Callable[[], Sequence[PartHealth]],
        measured: Callable[[], Mapping[str, Seen]],
        folder: Path = Path(),
    ) -> None:
        self._section = settings.alerts
        self._rules = rules_of(settings.alerts.rule)
        self._channels = channels_of(settings.alerts)
        self._store = AlertStore(jobs)
        self._counted: dict[tuple[str, str, str], int] = {}
        """Grouped error -> how often it was written down to be met."""
        self._watcher = Watcher(
            Sources(settings=settings, folder=folder, repository=repository, jobs=jobs, parts=parts, measured=measured)
        )
        self._log = structlog.get_logger("rung.alerts")

    def turn(self) -> list[Happening]:
        """Measure, and tell what is new.

        Raises:
            NotReady: the database cannot be written; once it can be, that is told.
            StorageFull: nothing was written.
        """
        observations = self._watcher.observe(time.time())
        try:
            told = self._store.turn(
                self._rules,
                observations,
                self._channels,
                escalate_seconds=self._section.escalate_minutes * 60,
                group_seconds=self._section.group_seconds,
            )
            # Nothing is written while nothing new is met.
            grown = [one for one in self._watcher.errors if self._counted.get(_name(one), 0) < one.count]
            self._store.count_errors(grown)
            self._counted |= {_name(one): one.count for one in grown}
        except NotReady:
            self._watcher.locked()
            raise
        for one in told:
            write = self._log.info if one.what == "resolved" else self._log.warning
            write(
                "an alert " + ("was not acknowledged" if one.what == "escalated" else one.what),
                action=f"alert_{one.what}",
                rule=one.alert.rule,
                id=one.alert.id,
                says=one.alert.says,
                **{f"label_{name}": value for name, value in one.alert.labels.items()},
            )
        return told


def _name(error: GroupedError) -> tuple[str, str, str]:
    return error.fingerprint, error.source, error.version
