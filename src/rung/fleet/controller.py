"""Takes candidates up their ladders, or back: observe, plan, act, once a turn.

Nothing is remembered that cannot be read again: what answers is in the chain of releases, what happened is in the
prediction log. A controller may be killed anywhere and another goes on; two at once do no harm, since a move
names the release that it was decided on, and only one can be the next link.
"""

import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import msgspec
import structlog

from rung.catalog import ledger, releases
from rung.domain.errors import Conflict, RungError
from rung.domain.records import Record
from rung.domain.releases import Release
from rung.fleet.evidence import Evidence, identity_of
from rung.fleet.past import converted
from rung.fleet.policy import Policy
from rung.fleet.rollout import Action, Advance, Hold, Promote, RollBack, Wait, began, entered, plan
from rung.ports import BlobStore
from rung.store.segments import Position, SegmentReader

__all__ = ["RolloutController", "gather"]

_BY = "controller"
_NAMES_EVERY = 2.0
"""Seconds between two looks for models that have got their first release."""
_AT_ONCE = 50_000
"""Records read in one turn; what is left is read in the next, and until then a candidate is only taken back."""
_SKEW = 3_600.0
"""Seconds by which the clocks of replicas may differ; which rollout a record belongs to, its epoch says."""


def gather(log: Path, data: BlobStore | None, model: str, since: float = 0.0) -> Iterator[Record]:
    """A model's whole log from a time on, in seconds since the epoch, up to now; feedback of any time."""
    position, old = converted(data, model, since - _SKEW)
    yield from old
    for _, record in SegmentReader(log, position):
        yield record


class _Watch(msgspec.Struct):
    """One rollout that is followed."""

    evidence: Evidence
    release: Release
    old: Iterator[Record]
    """What is in Parquet already, as far as it is still to be read."""
    position: Position | None
    """From which the segments are still to be read."""
    spent: float
    """Seconds that the stage had lasted when it was first seen."""
    since: float
    """When that was, by the steady clock."""

    def now(self, steady: float) -> float:
        """Seconds since the epoch, as far as the stage is concerned."""
        return entered(self.release) + self.spent + steady - self.since


class RolloutController:
    """Follows every rollout of a repository.

    Guarantees:
        1. What a turn does rests on the release that it names, or is not done.
        2. A wall clock that jumps ends no stage early: a stage is timed by a clock that is not set, from the
            moment it is first seen. Only a controller that starts within a stage asks the wall clock, once.
        3. A rollout that is over is not touched.
    """

    def __init__(
        self,
        store: BlobStore,
        log: Path,
        policy: Callable[[str], Policy],
        *,
        data: BlobStore | None = None,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """Of the releases in `store` and the prediction log in the folder `log`; `policy(model)` judges.

        `data` is where the log lies once it is converted: without it, what a controller has not read before its
        segments were deleted is not counted.
        """
        self._store = store
        self._log = log
        self._policy = policy
        self._data = data
        self._clock = clock
        self._steady = steady
        self._follower = ledger.ReleaseFollower(store)
        self._names: set[str] = set()
        self._names_at = float("-inf")
        self._watched: dict[str, _Watch] = {}
        self._events = structlog.get_logger("rung.rollout")

    def turn(self) -> list[tuple[str, Action]]:
        """Observe, plan and act, once; what was decided, by model.

        Raises:
            RungError: a ledger or the log cannot be read; the models that this does not concern have had their turn.
        """
        self._observe()
        decided: list[tuple[str, Action]] = []
        failed: list[RungError] = []
        for model, watch in self._watched.items():
            try:
                current = self._read(watch)
                action = self._plan(watch)
                if not current and not isinstance(action, RollBack):
                    # Harm that is seen is harm; for all else what is still unread may matter.
                    action = Wait("the log is still being read")
                decided.append((model, action))
                self._act(watch.release, action)
            except RungError as error:
                failed.append(error)
        if failed:
            raise failed[0]
        return decided

    # --- observe ----------------------------------------------------------------------------------

    def _observe(self) -> None:
        """Learn which rollouts there are, and at which stage."""
        steady = self._steady()
        if steady - self._names_at >= _NAMES_EVERY:
            self._names, self._names_at = set(ledger.models(self._store)), steady
        found = {one.model: one for one in self._follower.poll(self._names) if one.rollout is not None}
        self._watched = {model: watch for model, watch in self._watched.items() if _same(watch, found.get(model))}
        for model, release in found.items():
            watch = self._watched.get(model)
            if watch is None:
                self._watched[model] = self._watch(release)
            elif watch.release.epoch != release.epoch:
                self._moved(watch, release)

    def _watch(self, release: Release) -> _Watch:
        """From the beginning: nothing that an earlier controller knew is needed."""
        evidence = Evidence(release, maturity=self._policy(release.model).maturity)
        for one in releases.history(self._store, release.model):
            evidence.know(one)
        position, old = converted(self._data, release.model, began(release) - _SKEW)
        spent = max(self._clock() - entered(release), 0.0)
        return _Watch(evidence, release, old, position, spent, self._steady())

    def _moved(self, watch: _Watch, release: Release) -> None:
        assert watch.release.rollout is not None
        assert release.rollout is not None
        if watch.release.rollout.stage != release.rollout.stage:
            # Seen as it began, or a turn later: nobody's wall clock is asked.
            watch.spent, watch.since = 0.0, self._steady()
        watch.release = release
        for one in releases.history(self._store, release.model):
            watch.evidence.know(one)

    def _read(self, watch: _Watch) -> bool:
        """Take in what the log has got; whether that is all."""
        count = 0
        for record in islice(watch.old, _AT_ONCE):
            count += 1
            watch.evidence.feed(record)
        reader = SegmentReader(self._log, watch.position)
        asked = False
        for _, record in islice(reader, _AT_ONCE - count):
            count += 1
            if not watch.evidence.feed(record) and not asked:
                # A replica was faster than we in seeing the next release.
                asked = True
                self._catch_up(watch)
                watch.evidence.feed(record)
        watch.position = reader.position or watch.position
        return count < _AT_ONCE

    def _catch_up(self, watch: _Watch) -> None:
        for release in self._follower.poll(self._names):
            if release.model == watch.evidence.model and _same(watch, release):
                self._moved(watch, release)

    # --- plan and act -----------------------------------------------------------------------------

    def _plan(self, watch: _Watch) -> Action:
        snapshot = watch.evidence.snapshot(self._clock())
        return plan(watch.release, snapshot, self._policy(watch.release.model), watch.now(self._steady()))

    def _act(self, release: Release, action: Action) -> None:
        if isinstance(action, Wait):
            return
        why = releases.Why(by=_BY, rule=action.rule, reason=action.reason, evidence=action.evidence)
        try:
            if isinstance(action, RollBack):
                releases.rollback(self._store, release.model, seen=release, **why)
            elif isinstance(action, Hold):
                releases.hold(self._store, release, **why)
            else:
                assert isinstance(action, Advance | Promote)
                releases.advance(self._store, release, **why)
        except Conflict as error:
            # A person or another controller moved first: the next turn sees what there is now.
            self._events.info("somebody else moved first", action="overtaken", model=release.model, reason=str(error))
            return
        self._events.info(
            "a candidate moved",
            action=type(action).__name__.lower(),
            model=release.model,
            epoch=release.epoch + 1,
            rule=action.rule,
            reason=action.reason,
        )


def _same(watch: _Watch, release: Release | None) -> bool:
    return release is not None and release.rollout is not None and watch.evidence.identity == identity_of(release)
