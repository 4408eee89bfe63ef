"""The part of the control loop that asks for retrainings and keeps them going."""

import time
from collections.abc import Callable, Mapping

import structlog

from rung.catalog import releases
from rung.domain.errors import InvalidInput, RungError
from rung.domain.jobs import NewJob
from rung.domain.retraining import Request, Retraining
from rung.jobs.queue import JobStore
from rung.loop import chain, measuring, requests
from rung.loop.triggers import Plan, Policy, plan, read_policy
from rung.ports import BlobStore
from rung.settings.project import ModelSettings

__all__ = ["Retrainer"]

_BUSY = 300.0
"""Seconds between two measurements while a retraining is under way, at least."""
_LONGEST = 3600.0
"""Seconds that a measurement may take."""
_LOST_AFTER = 120.0
"""Seconds after which a measurement that has not come is asked for again."""


class Retrainer:
    """Watches the models of a project that are trained again.

    What is remembered is only what does not change any more and can be read again: requests and decisions lie in the
    store, the chain in the job table. It may be killed anywhere, and two at once do no harm.
    """

    def __init__(
        self,
        jobs: JobStore,
        repository: BlobStore,
        data: BlobStore,
        models: Mapping[str, ModelSettings],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._jobs, self._repository, self._data, self._clock = jobs, repository, data, clock
        self._models = models
        self._over: dict[str, dict[int, Retraining]] = {}
        """Model -> number -> retrainings that are over."""
        self._chains: dict[tuple[str, int], list[int]] = {}
        """Model and number of what is under way -> its jobs."""
        self._events = structlog.get_logger("rung.loop")

    def turn(self) -> list[tuple[str, Plan]]:
        """Go on with what is under way, and ask for what is due; what was decided, by model.

        Raises:
            RungError: a store cannot be read; the models that this does not concern have had their turn.
        """
        plans: list[tuple[str, Plan]] = []
        failed: list[RungError] = []
        for name, model in self._models.items():
            if not model.train:
                continue
            try:
                plans.append((name, self._look(name, self.policy(name))))
            except RungError as error:
                failed.append(error)
        if failed:
            raise failed[0]
        return plans

    def policy(self, name: str) -> Policy:
        """What may start a retraining of a model."""
        return read_policy(self._models[name].retrain, f"models.{name}.retrain")

    def due(self, name: str, tick: float) -> Plan:
        """Ask for what the schedule says at `tick`, unless something stands in the way."""
        return self._look(name, self.policy(name), tick)

    def ask(self, name: str, by: str, why: str) -> Retraining:
        """Ask for a retraining by hand.

        Raises:
            InvalidInput: the project has no such model, or does not say how it is trained.
        """
        if name not in self._models or not self._models[name].train:
            there = ", ".join(one for one, model in self._models.items() if model.train) or "none"
            raise InvalidInput(f"{name!r:.80} is no model that rung.toml says how to train; there are {there}")
        now = self._clock()
        request = Request("manual", f"{now:.6f}", why or "asked for by hand", now, by)
        made = requests.ask(self._data, name, request)
        self._start(made)
        return made

    def _look(self, name: str, policy: Policy, tick: float | None = None) -> Plan:
        now = self._clock()
        over = self._over.setdefault(name, {})
        past = requests.retrainings(self._data, name, known=over)
        if past and not past[-1].over:
            past[-1] = chain.follow(self._jobs, self._data, past[-1], self._start(past[-1]), now)
        over |= {one.number: one for one in past if one.over}
        current = releases.current(self._repository, name)
        rolling = current is not None and current.rollout is not None
        seen = measuring.last(self._data, name).seen
        section = self._models[name]
        every = section.retrain.watch
        if past and not past[-1].over:
            # Nothing can be asked for now, and who trains needs the cores.
            every = max(every, _BUSY)
        # A measurement of the future was made before the clock was set back.
        if (policy.watches or section.drift.replay) and not 0 <= now - seen.at < every:
            self._watch(name, seen.at, now)
        decided = plan(policy, seen, past, now, tick=tick, rolling=rolling)
        if decided.request is not None:
            made = requests.ask(self._data, name, decided.request)
            self._start(made)
            self._events.info(
                "a retraining was asked for", action="retrain", model=name, number=made.number, reason=decided.why
            )
        return decided

    def _start(self, retraining: Retraining) -> list[int]:
        """Its jobs, submitted where that has not been done or nobody knows."""
        key = (retraining.model, retraining.number)
        if key not in self._chains:
            self._chains = {other: ids for other, ids in self._chains.items() if other[0] != retraining.model}
            self._chains[key] = chain.start(self._jobs, retraining, self._models[retraining.model].retrain.longest)
        return self._chains[key]

    def _watch(self, name: str, last: float, now: float) -> None:
        """Have it measured: once after each measurement, and again where that job has been lost."""
        slot = int(now // max(self._models[name].retrain.watch, _LOST_AFTER))
        key = f"{name}/{last:.3f}/{slot}"
        watch = NewJob(
            kind="models.watch", arguments={"model": name}, idempotency_key=key, max_attempts=3, timeout=_LONGEST
        )
        self._jobs.submit(watch)
