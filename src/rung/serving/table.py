"""The tables that doors look models up in: exact versions, and what answers where none is named.

They change on the event loop only, between two requests. A release takes effect here when every version that it
needs has been loaded, or has failed for good; until then whoever answered goes on.
"""

from collections.abc import Callable, Iterable

import structlog

from rung.domain.models import VersionState
from rung.domain.records import ShadowRecord
from rung.domain.releases import Release
from rung.serving.record import Record
from rung.serving.servable import Servable
from rung.serving.shadow import Mirror
from rung.serving.split import Split

__all__ = ["Table"]

_log = structlog.get_logger("rung.serving")


class Table:
    """What can answer now."""

    def __init__(self, *, splitting: bool, forcing: bool, report: Callable[[ShadowRecord], object] | None) -> None:
        self.exact: dict[tuple[str, int], Servable] = {}
        self.answering: dict[str, Servable | Split] = {}
        """Model -> what answers a request that names no version."""
        self.mirrors: dict[str, Mirror] = {}
        """Model -> copies of its requests for a candidate."""
        self._splitting = splitting
        """Whether callers are told apart also where no release asks for it: the log wants their units."""
        self._forcing = forcing
        self._report = report or (lambda record: None)
        self._in_force: dict[str, Release] = {}

    def publish(self, records: Iterable[Record], releases: dict[str, Release], retries: int) -> None:
        """Make the tables say what is available now."""
        mine: dict[str, list[Record]] = {}
        for record in sorted(records, key=lambda one: one.version.version):
            mine.setdefault(record.version.name, []).append(record)
        exact: dict[tuple[str, int], Servable] = {}
        answering: dict[str, Servable | Split] = {}
        for name, versions in mine.items():
            servables = {one.version.version: one.servable for one in versions if one.answers and one.servable}
            if not servables:
                continue
            exact |= {(name, number): servable for number, servable in servables.items()}
            newest = releases.get(name)
            if newest is None or not self._lacks(newest, versions, retries):
                answering[name] = self._answer(name, self._enforce(name, newest), servables)
                continue
            before, former = self._in_force.get(name), self._former(name, servables)
            if before is not None and before.main.version in servables:
                answering[name] = self._answer(name, before, servables)
            elif former is not None:
                answering[name] = self._answer(name, before, servables, former)
            elif newest.main.version not in _coming(versions, retries):
                answering[name] = self._answer(name, self._enforce(name, newest), servables)
            # Else it is a start, and nobody but the main version may answer for everybody.
        self._in_force = {name: release for name, release in self._in_force.items() if name in answering}
        self.exact, self.answering = exact, answering
        for name in self.mirrors.keys() - {name for name, one in answering.items() if self._shadowed(one)}:
            self.mirrors.pop(name).close()

    @staticmethod
    def _lacks(newest: Release, versions: list[Record], retries: int) -> bool:
        """Whether a version that answers in it is still on its way."""
        there = {one.version.version for one in versions if one.answers}
        ended = {one.version.version for one in versions if one.failures > retries and one.state is VersionState.END}
        # Also those that nobody has begun to load: this may be the first that is heard of them.
        return not {arm.version for arm in newest.arms} <= there | ended

    def _former(self, name: str, servables: dict[int, Servable]) -> Servable | None:
        """What answers now whoever is in no experiment, if it still can."""
        known = self.answering.get(name)
        servable = known.servable if isinstance(known, Split) else known
        return servable if servable in servables.values() else None

    def _enforce(self, name: str, newest: Release | None) -> Release | None:
        before = self._in_force.get(name)
        if newest is None:
            self._in_force.pop(name, None)
            return None
        if before is None or before.epoch != newest.epoch:
            _log.info(
                "a release is in force",
                action="release",
                model=name,
                epoch=newest.epoch,
                arms={arm.name: f"v{arm.version} {arm.share / 1e4:g} %" for arm in newest.arms},
                move=newest.move.kind,
                by=newest.move.by,
            )
            self._in_force[name] = newest
        return self._in_force[name]

    def _answer(
        self, name: str, release: Release | None, servables: dict[int, Servable], latest: Servable | None = None
    ) -> Servable | Split:
        latest = latest or servables[max(servables)]
        if release is None and not self._splitting:
            self._mirror(name, None, list(servables.values()))
            return latest
        known = self.answering.get(name)
        fresh = Split(release, servables, latest, forcing=self._forcing)
        # The same arms over the same versions: keep the counts and what is remembered of units.
        if isinstance(known, Split) and known.release is release and known.equals(fresh):
            fresh = known
        shadow = release.shadow if release else None
        self._mirror(name, servables.get(shadow.version) if shadow else None, list(servables.values()))
        return fresh

    def _mirror(self, name: str, candidate: Servable | None, servables: list[Servable]) -> None:
        mirror = self.mirrors.get(name)
        if candidate is None or (mirror is not None and mirror.candidate is not candidate):
            if mirror is not None:
                self.mirrors.pop(name).close()
            mirror = None
        if candidate is not None and mirror is None:
            mirror = self.mirrors[name] = Mirror(candidate, self._report)
        for servable in servables:
            servable.compose(None if servable is candidate else mirror)

    @staticmethod
    def _shadowed(one: Servable | Split) -> bool:
        return isinstance(one, Split) and one.release is not None and one.release.shadow is not None

    def in_force(self, name: str) -> Release | None:
        """The release that divides this model's callers here."""
        return self._in_force.get(name)

    def splits(self) -> list[tuple[str, Split]]:
        """Models whose callers are told apart, by name."""
        return [(name, one) for name, one in sorted(self.answering.items()) if isinstance(one, Split)]

    def close(self) -> None:
        """End the copies."""
        for mirror in self.mirrors.values():
            mirror.close()


def _coming(versions: list[Record], retries: int) -> set[int]:
    """Versions that are being loaded, or will be tried again."""
    waiting = (VersionState.START, VersionState.LOADING)
    return {
        one.version.version
        for one in versions
        if one.state in waiting or (one.state is VersionState.END and 0 < one.failures <= retries)
    }
