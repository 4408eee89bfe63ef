"""The one loop that acts on the version policy, and the table that doors look models up in.

    source.poll -> aspired versions -> policies.plan -> load | unload

Loading and unloading run in threads; the tables change on the event loop only, between two requests.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from math import inf
from time import monotonic
from typing import Any, NoReturn

import structlog

from rung.domain.errors import BundleError, ConfigurationError, NotFound, NotReady, RungError
from rung.domain.models import AspiredVersion, VersionState, VersionStatus
from rung.domain.predictions import Call, Statistics
from rung.domain.releases import Release
from rung.ports import Source
from rung.serving.assembly import Assembly, ManagerOptions
from rung.serving.background import in_background
from rung.serving.feed import Feed
from rung.serving.loader import Loaded, load
from rung.serving.policies import Entry, Load, needed, plan
from rung.serving.record import Record
from rung.serving.servable import Servable
from rung.serving.split import Split
from rung.serving.table import Table

__all__ = ["Manager"]

_DRAIN = 60.0
"""Seconds that requests on a version being unloaded may take."""
_LOADS = 4
"""Versions being loaded at once: each may need memory and cores for itself."""
_THERE = (VersionState.AVAILABLE, VersionState.UNLOADING)
_FORGIVE = 30.0
"""Seconds after which a version is tried again whose bytes could not be reached."""


class Manager:
    """`ports.Directory` over the versions that this process holds."""

    def __init__(self, sources: list[Source], options: ManagerOptions) -> None:
        self._feeds = [Feed(source, options.empty_seconds) for source in sources]
        self._options = options
        self._records: dict[AspiredVersion, Record] = {}
        self._origin: dict[AspiredVersion, Source] = {}
        self.table = Table(splitting=options.log is not None, forcing=options.forcing, report=options.report)
        self._assembly = Assembly(options)
        self._releases: dict[str, Release] = {}
        self._away: set[str] = set()
        """Models that were unloaded by hand, and stay away although a source offers them."""
        self._offered: set[str] = set()
        self._turning = asyncio.Lock()
        self._owed: set[str] = set()
        """Models that have to answer for this process to be ready: those there were at the start, and
        those that have answered since. A new one that loads, or fails to, is no reason to leave."""
        self._work: set[asyncio.Task[None]] = set()
        self._loads = asyncio.Semaphore(_LOADS)
        self._watch: asyncio.Task[None] | None = None
        self._read = False
        """Whether the sources have said what there is."""
        self._draining = False
        self._closed = False
        self._log = structlog.get_logger("rung.serving")

    # --- life -------------------------------------------------------------------------------

    async def open(self) -> None:
        """Load what the sources say now, then keep watching them. Returns when the first loads have ended.

        Raises:
            ConfigurationError: two sources offer a model of the same name.
            RungError: a source cannot be read.
        """
        await self._turn()
        if not self._records:
            # A folder that is still being copied is offered once it has held still.
            await asyncio.sleep(min(self._options.poll_seconds, 0.25))
            await self._turn()
        self._owed |= {version.name for version in self._records}
        self._read = True
        while self._work:
            await asyncio.wait(self._work)
            await self._turn()
        self._watch = asyncio.get_running_loop().create_task(self._follow())

    async def close(self) -> None:
        """Unload everything, and give up what is still being loaded. Call after the doors have drained."""
        self._draining = self._closed = True
        for task in [self._watch, *(record.loading for record in self._records.values())]:
            if task is not None:
                task.cancel()
        if self._watch is not None:
            await asyncio.gather(self._watch, return_exceptions=True)
        await asyncio.gather(*self._work, return_exceptions=True)
        await asyncio.gather(*(self._unload(r) for r in self._records.values() if r.servable is not None))
        self.table.close()
        self._assembly.close()

    def drain(self) -> None:
        """Say that this process is on its way out; models still answer."""
        self._draining = True

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._options.poll_seconds)
            try:
                await self._turn()
            except Exception as error:  # noqa: BLE001 - the reconcile loop outlives a bad turn
                self._log.warning("the models were left as they are", action="turn_failed", reason=str(error))

    async def _turn(self) -> None:
        """Observe, plan, act; one at a time, since a source is no place for two threads."""
        async with self._turning:
            offered, releases = await self._observe()
        moved, self._releases = releases != self._releases, releases
        self._offered = {version.name for version in offered}
        aspired = [version for version in offered if version.name not in self._away]
        now = monotonic()
        for known in self._records.values():
            if known.forgiven_at <= now:
                known.failures, known.forgiven_at = 0, inf
        entries = [Entry(r.version, r.state, r.failures) for r in self._records.values()]
        released = {name: needed(release, self._options.policy) for name, release in releases.items()}
        if moved:
            # Before anything is loaded or unloaded: taking a version back must not wait for that.
            self._publish()
        for action in plan(aspired, entries, self._options.policy, released):
            record = self._records.get(action.version)
            if record is None:
                record = self._records[action.version] = Record(action.version)
            if isinstance(action, Load):
                record.state, record.reason = VersionState.LOADING, ""
                record.loading = self._spawn(self._load(record))
            else:
                record.state = VersionState.UNLOADING
                self._publish()
                self._spawn(self._unload(record))
        self._forget(set(offered))
        self._owed &= {version.name for version in aspired}

    async def _observe(self) -> tuple[list[AspiredVersion], dict[str, Release]]:
        """What all sources want, each model from one of them, and the release of each model that has one."""
        aspired: list[AspiredVersion] = []
        releases: dict[str, Release] = {}
        owner: dict[str, Feed] = {}
        for feed in self._feeds:
            versions, released = await in_background(feed.look)
            releases |= {release.model: release for release in released}
            for version in versions:
                if owner.setdefault(version.name, feed) is not feed:
                    raise ConfigurationError(
                        f"two of the things to serve are called {version.name!r}: serve one of them under "
                        "another name, or put both into one repository as two versions"
                    )
                self._origin[version] = feed.source
                aspired.append(version)
        return aspired, releases

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return task

    def _forget(self, aspired: set[AspiredVersion]) -> None:
        """Drop ended versions that nobody offers any more, so that the tables do not grow for ever."""
        for version in [v for v, r in self._records.items() if r.state is VersionState.END and v not in aspired]:
            del self._records[version]
            self._origin.pop(version, None)

    async def _load(self, record: Record) -> None:
        version = record.version
        try:
            async with self._loads:
                loaded = await in_background(self._bring_up, version)
        except RungError as error:
            # Raised from another error, it is about reaching the bytes and not about the bytes.
            own = not isinstance(error.__cause__, OSError | NotReady)
            self._failed(record, str(error), own=own, final=isinstance(error, BundleError) and error.final)
            return
        except Exception as error:  # noqa: BLE001 - a version that cannot load must not stop the others
            self._log.error("a load failed unexpectedly", action="load_failed", exc_info=error)
            self._failed(record, f"{type(error).__name__}: {error}")
            return
        finally:
            record.loading = None
        self._adopt(record, loaded)
        self._owed.add(version.name)
        self._publish()
        self._log.info("a version is available", action="available", model=version.name, version=version.version)

    def _bring_up(self, version: AspiredVersion) -> Loaded:
        loaded = load(self._origin[version], version, self._options.load, self._options.objective)
        if self._closed:
            if loaded.model is not None:
                loaded.model.close()
            raise NotReady("the server is going away")
        return loaded

    def _adopt(self, record: Record, loaded: Loaded) -> None:
        record.servable, record.lanes = self._assembly.make(record.version, loaded, self.find)
        record.state, record.reason = VersionState.AVAILABLE, ""

    def _failed(self, record: Record, reason: str, *, own: bool = True, final: bool = False) -> None:
        record.state, record.reason = VersionState.END, reason
        record.failures = self._options.policy.retries + 1 if final else record.failures + 1
        # Not where trying again would take the version that answers off the stage each time.
        if not own and self._options.policy.swap == "availability":
            record.forgiven_at = monotonic() + _FORGIVE
        # A release that waited for it need not any more.
        self._publish()
        self._log.error(
            "a version was refused",
            action="refused",
            model=record.version.name,
            version=record.version.version,
            reason=reason,
        )

    async def _unload(self, record: Record) -> None:
        servable, lanes = record.servable, record.lanes
        if servable is None:
            return
        record.state = VersionState.UNLOADING
        self._publish()
        batcher = servable.batcher
        if batcher.inflight:
            idle = asyncio.Event()
            batcher.on_idle = idle.set
            with suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN):
                    await idle.wait()
        batcher.close()
        record.servable = record.lanes = None
        record.state, record.reason = VersionState.END, "unloaded"
        close = servable.model.close if servable.model is not None else batcher.close
        if self._closed:
            # Nobody waits any more: a call that hangs finds its process gone, and does not hold up the exit.
            await in_background(close)
        if lanes is not None:
            await in_background(lanes.close)
        await in_background(close)
        self._log.info(
            "a version was unloaded", action="unloaded", model=record.version.name, version=record.version.version
        )

    def _publish(self) -> None:
        """Make the look-up tables say what is available now."""
        self.table.publish(self._records.values(), self._releases, self._options.policy.retries)

    # --- for `control` ----------------------------------------------------------------------

    def offers(self, name: str) -> bool:
        """Whether a source offers this model, or did at the last look."""
        return name in self._offered or any(version.name == name for version in self._records)

    def attach(self, source: Source) -> None:
        """Take what a further source offers, from the next turn on."""
        self._feeds.append(Feed(source, 0.0))

    async def detach(self, source: Source, name: str) -> None:
        """Forget a source and the model that it offered, after that was sent away."""
        self._feeds = [feed for feed in self._feeds if feed.source is not source]
        await self._turn()
        self._away.discard(name)

    async def bring(self, name: str) -> None:
        """Load what the sources offer under a name, and forget its earlier failures. Returns when that has ended.

        Raises:
            BundleError: a version that should answer does not; the reason is the load's.
        """
        self._away.discard(name)
        for record in self._of(name):
            record.failures, record.forgiven_at = 0, inf
        # A file is believed when it is the same twice.
        await self._turn()
        await self._turn()
        await self._settle(name, (VersionState.START, VersionState.LOADING))
        failed = [record for record in self._of(name) if record.failures]
        if failed:
            raise BundleError(f"model {name!r} version {failed[-1].version.version}: {failed[-1].reason}")

    async def send_away(self, name: str) -> None:
        """Drain and unload every version of a model, and keep it away. Returns when that has ended."""
        self._away.add(name)
        self._owed.discard(name)
        await self._turn()
        await self._settle(name, (VersionState.START, VersionState.LOADING, *_THERE))

    def _of(self, name: str) -> list[Record]:
        return [record for record in self._records.values() if record.version.name == name]

    async def _settle(self, name: str, moving: tuple[VersionState, ...]) -> None:
        while self._work and any(record.state in moving for record in self._of(name)):
            await asyncio.wait(self._work, return_when=asyncio.FIRST_COMPLETED)
            await self._turn()

    # --- ports.Directory --------------------------------------------------------------------

    def find(self, name: str, version: int | None = None, call: Call | None = None) -> Servable:
        """The version that answers."""
        found = self.table.answering.get(name) if version is None else self.table.exact.get((name, version))
        if type(found) is Split:
            return found.choose(call)
        if found is None:
            self._refuse(name, version)
        return found  # type: ignore[return-value]  # no Split, by its type: cheaper than isinstance

    def _refuse(self, name: str, version: int | None) -> NoReturn:
        records = [r for r in self._records.values() if r.version.name == name and version in (None, r.version.version)]
        if any(r.state in (VersionState.START, VersionState.LOADING) for r in records):
            raise NotReady(f"model {name!r} is being loaded")
        refused = [r for r in records if r.failures]
        if refused:
            raise NotReady(f"model {name!r} version {refused[-1].version.version} is not served: {refused[-1].reason}")
        if name in self._away:
            raise NotFound(f"model {name!r} was unloaded; POST /v2/repository/models/{name}/load brings it back")
        if version is None and name in self._owed:
            raise NotReady(f"model {name!r} is between two versions")
        if version is not None and name in self.table.answering:
            raise NotFound(f"model {name!r} has no version {version} here; there are {self.versions(name)}")
        if not self._read:
            # The door is open before the sources have said what there is.
            raise NotReady(f"model {name!r} may be among those that are being looked for")
        raise NotFound(f"unknown model {name!r}; there are {sorted(self.table.answering) or 'none'}")

    def versions(self, name: str) -> list[int]:
        """Versions that can answer."""
        found = sorted(version for model, version in self.table.exact if model == name)
        if not found:
            self._refuse(name, None)
        return found

    def statuses(self) -> list[VersionStatus]:
        """Where every version stands."""
        return sorted(
            (
                VersionStatus(r.version.name, r.version.version, r.state, r.reason, r.version.digest)
                for r in self._records.values()
            ),
            key=lambda status: (status.name, status.version),
        )

    def statistics(self, name: str | None = None, version: int | None = None) -> list[Statistics]:
        """Counts and times of what can answer."""
        if name is not None:
            self.find(name, version)
        return [
            servable.batcher.recorder.read()
            for (model, number), servable in sorted(self.table.exact.items())
            if name in (None, model) and version in (None, number)
        ]

    def servables(self) -> list[Servable]:
        """Everything that can answer, for the metrics."""
        return [self.table.exact[key] for key in sorted(self.table.exact)]

    def ready(self) -> bool:
        """Whether every model answers that should."""
        return not self.problems()

    def problems(self) -> list[str]:
        """What keeps this process from being ready, in words."""
        if self._draining:
            return ["the server is draining"]
        if not self._read:
            return ["the models are being looked for"]
        # None is right where they are all unloaded, or come one by one over the wire.
        if not self._owed and self._feeds and not self._away:
            return ["no model was found"]
        return [f"{name}: {self._reason(name)}" for name in sorted(self._owed - self.table.answering.keys())]

    def _reason(self, name: str) -> str:
        reasons = [r.reason or r.state.name.lower() for r in self._records.values() if r.version.name == name]
        return "; ".join(reasons)
