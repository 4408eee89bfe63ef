"""Takes candidates up their ladders, or back: observe, plan, act, once a turn.

Nothing is remembered that cannot be read again: what answers is in the chain of releases, what happened is in the
prediction log. A controller may be killed anywhere and another goes on; two at once do no harm, since a move
names the release that it was decided on, and only one can be the next link.
"""

import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import msgspec
import structlog

from rung.catalog import ledger, releases
from rung.domain.errors import Conflict
from rung.domain.records import Record
from rung.domain.releases import Release
from rung.fleet.evidence import Evidence, identity_of
from rung.fleet.policy import Policy
from rung.fleet.rollout import Action, Advance, Hold, Promote, RollBack, Wait, entered, plan
from rung.ports import BlobStore
from rung.store.segments import Position, SegmentReader

__all__ = ["RolloutController", "gather"]

_BY = "controller"
_NAMES_EVERY = 2.0
"""Seconds between two looks for models that have got their first release."""
_AT_ONCE = 100_000
"""Records read in one turn; what is left is read in the next, and nothing is decided before."""


def gather(log: Path, history: Iterable[Release], evidence: Evidence) -> Evidence:
    """Feed the whole log to `evidence`, which learns the releases of `history` first; it comes back."""
    for release in history:
        evidence.know(release)
    for _, record in SegmentReader(log):
        evidence.feed(record)
    return evidence


class _Watch(msgspec.Struct):
    """One rollout that is followed."""

    evidence: Evidence
    release: Release
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
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """Of the releases in `store` and the prediction log in the folder `log`; `policy(model)` judges."""
        self._store = store
        self._log = log
        self._policy = policy
        self._clock = clock
        self._steady = steady
        self._follower = ledger.ReleaseFollower(store)
        self._names: set[str] = set()
        self._names_at = float("-inf")
        self._watched: dict[str, _Watch] = {}
        self._position: Position | None = None
        self._events = structlog.get_logger("rung.rollout")

    def turn(self) -> list[tuple[str, Action]]:
        """Observe, plan and act, once; what was decided, by model.

        Raises:
            BundleError: a ledger cannot be read; nothing was done.
        """
        self._observe()
        if not self._watched or not self._read():
            return []
        decided = [(model, self._plan(watch)) for model, watch in self._watched.items()]
        for model, action in decided:
            self._act(self._watched[model].release, action)
        return decided

    # --- observe ----------------------------------------------------------------------------------

    def _observe(self) -> None:
        """Learn which rollouts there are, and at which stage."""
        steady = self._steady()
        if steady - self._names_at >= _NAMES_EVERY:
            self._names, self._names_at = set(ledger.models(self._store)), steady
        found = {one.model: one for one in self._follower.poll(self._names) if one.rollout is not None}
        known = {model: watch for model, watch in self._watched.items() if _same(watch, found.get(model))}
        if known.keys() != found.keys():
            # A new rollout needs the log from its beginning, and what came before teaches how long labels take.
            self._position = None
            for model, watch in known.items():
                watch.evidence = self._evidence(found[model])
        self._watched = known
        for model, release in found.items():
            if model not in known:
                spent = max(self._clock() - entered(release), 0.0)
                self._watched[model] = _Watch(self._evidence(release), release, spent, steady)
            elif known[model].release.epoch != release.epoch:
                self._moved(known[model], release)

    def _moved(self, watch: _Watch, release: Release) -> None:
        assert watch.release.rollout is not None
        assert release.rollout is not None
        if watch.release.rollout.stage != release.rollout.stage:
            # Seen as it began, or a turn later: nobody's wall clock is asked.
            watch.spent, watch.since = 0.0, self._steady()
        watch.release = release
        for one in releases.history(self._store, release.model):
            watch.evidence.know(one)

    def _evidence(self, release: Release) -> Evidence:
        evidence = Evidence(release, maturity=self._policy(release.model).maturity)
        for one in releases.history(self._store, release.model):
            evidence.know(one)
        return evidence

    def _read(self) -> bool:
        """Take in what the log has got; whether that is all."""
        reader = SegmentReader(self._log, self._position)
        count = 0
        asked: set[str] = set()
        for _, record in islice(reader, _AT_ONCE):
            count += 1
            watch = self._watched.get(getattr(record, "model", ""))
            if watch is not None:
                self._feed(watch, record, asked)
        self._position = reader.position
        return count < _AT_ONCE

    def _feed(self, watch: _Watch, record: Record, asked: set[str]) -> None:
        model = watch.evidence.model
        if watch.evidence.feed(record) or model in asked:
            return
        # A replica was faster than we in seeing the next release.
        asked.add(model)
        for release in self._follower.poll(self._names):
            if release.model == model and _same(watch, release):
                self._moved(watch, release)
        watch.evidence.feed(record)

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
