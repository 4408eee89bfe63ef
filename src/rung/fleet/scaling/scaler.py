"""The part of the control plane that decides how many replicas there are: looks at them, plans, tells the supervisor.

What it knows is soon seen again: after a start it only waits one window before it takes a replica away.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec

from rung.domain.scaling import Decision, ReplicaLoad
from rung.fleet.pages import fetch
from rung.fleet.scaling.autoscaler import Fleet, Past, plan
from rung.fleet.scaling.decisions import FOLDER, append
from rung.fleet.scaling.forecast import Forecast, Foresight, History
from rung.fleet.scaling.reading import CALM, SPAN, Look, Looks, Usage, between, latencies, weigh
from rung.fleet.scaling.rules import ModelSeen, Policy
from rung.fleet.state import RoleState, read_state

__all__ = ["ReplicaScaler"]

_QUIET = 10.0
"""Least seconds between two lines of the log that move nothing."""
_ASKED_AT_ONCE = 16


class ReplicaScaler:
    """Decides once a turn.

    Args:
        folder: Of the project.
        policies: Of each of its models.
        tell: Called with a decision that changes the number.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        folder: Path,
        policies: Mapping[str, Policy],
        tell: Callable[[Decision], object],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._policies = policies
        self._tell = tell
        self._clock = clock
        self._weighs = any(policy.cpu or policy.memory for policy in policies.values())
        self._keeps = max((policy.down_seconds + policy.up_seconds for policy in policies.values()), default=0.0) + 60.0
        self._looks = Looks(CALM)
        self._past: deque[Past] = deque()
        self._work: dict[str, float] = {}
        self._foresights = {
            name: Foresight(history, policies[name].lead) for name, history in _read_histories(folder, policies).items()
        }
        self._asked = clock()
        """When somebody was last seen to have asked."""
        self._counts: dict[str, int] = {}
        """Replica -> requests of its last look."""
        self._logged: Decision | None = None
        self._pool = ThreadPoolExecutor(_ASKED_AT_ONCE, thread_name_prefix="rung-loads")

    def turn(self) -> Decision | None:
        """Observe, plan, act; None where no project runs here, or a person has said how many there are to be."""
        state = read_state(self._folder)
        if state is None:
            return None
        now = self._clock()
        there = [role for role in state.roles if role.role == "replica" and role.state == "ready" and role.url]
        looks = dict(self._pool.map(self._look, there))
        told = {name: look for name, look in looks.items() if look is not None}
        # One that does not answer now is told for by the others, and has not left for that.
        ready = sum(look is None or look.load.ready for look in looks.values())
        seen = self._seen(now, told, ready)
        self._looks.add(now, told)
        counts = {name: _requests(look.load) for name, look in told.items()}
        if state.waiting or any(count != self._counts.get(name, 0) for name, count in counts.items()):
            self._asked = now
        self._counts = counts
        if state.by_hand:
            return None
        fleet = Fleet(
            now=now,
            replicas=state.replicas,
            ready=ready,
            models=seen,
            past=tuple(self._past),
            held=state.waiting,
            holds=any(role.role == "front" and role.state == "ready" for role in state.roles),
            idle=now - self._asked,
        )
        decision = plan(fleet, self._policies)
        self._remember(now, decision)
        if decision.moves:
            self._tell(decision)
        return decision

    def _look(self, role: RoleState) -> tuple[str, Look | None]:
        try:
            load = msgspec.json.decode(fetch(role.url, "/loadz"), type=ReplicaLoad)
        except (OSError, msgspec.MsgspecError):
            return role.name, None
        return role.name, Look(load, _usage(role.pid) if self._weighs else None)

    def _seen(self, now: float, told: dict[str, Look], ready: int) -> dict[str, ModelSeen]:
        found = between(self._looks.at(now - SPAN), told, ready, self._work)
        slow = between(self._looks.at(now - CALM), told, ready, self._work)
        for name, fast in found.items():
            seen = weigh(fast, slow[name]) if name in slow else fast
            self._work[name] = seen.work
            found[name] = seen
            policy = self._policies.get(name)
            if policy is None:
                continue
            changes: dict[str, object] = {}
            if policy.p99:
                changes["p99"], changes["answers"] = latencies(self._looks.at(now - CALM), told, name, 0.99)
            if policy.period:
                changes["forecast"] = self._forecast(name, now, seen.rate)
            found[name] = msgspec.structs.replace(seen, **changes)
        return found

    def _forecast(self, name: str, now: float, rate: float) -> Forecast:
        foresight = self._foresights[name]
        bin_before = foresight.history.last
        found = foresight.see(now, rate)
        if foresight.history.last != bin_before:
            _write_histories(self._folder, {name: one.history for name, one in self._foresights.items()})
        return found

    def _remember(self, now: float, decision: Decision) -> None:
        self._past.append(Past(now, decision.wanted, decision.replicas))
        while self._past[0].at < now - self._keeps:
            self._past.popleft()
        last = self._logged
        if last is None or decision.moves or (decision.wanted != last.wanted and now - last.at >= _QUIET):
            append(self._folder, decision)
            self._logged = decision

    def close(self) -> None:
        """Ask nobody any more."""
        self._pool.shutdown(wait=False)


def _requests(load: ReplicaLoad) -> int:
    """Requests that a replica has had since it started."""
    return sum(one.answered + one.failed + one.refused + one.in_flight for one in load.models.values())


def _usage(pid: int) -> Usage | None:
    """Processor seconds and memory of a process with those below it."""
    import psutil

    seconds, memory = 0.0, 0
    try:
        top = psutil.Process(pid)
        for process in [top, *top.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                seconds += times.user + times.system
                memory += process.memory_info().rss
    except psutil.Error:
        return None
    return Usage(seconds, memory)


# --- rates, remembered over a restart -------------------------------------------------------------


def _read_histories(folder: Path, policies: Mapping[str, Policy]) -> dict[str, History]:
    known: dict[str, History] = {}
    with suppress(OSError, msgspec.MsgspecError):
        # JSON has no NaN: a bin that nobody saw is null.
        stored = msgspec.json.decode((folder / FOLDER / _RATES).read_bytes(), type=dict[str, _Stored])
        known = {name: one.history() for name, one in stored.items()}
    return {
        name: known[name] if name in known and known[name].period == policy.period else History(policy.period)
        for name, policy in policies.items()
        if policy.period
    }


_RATES = "rates.json"


class _Stored(msgspec.Struct):
    period: float
    rates: list[float | None]
    last: int

    def history(self) -> History:
        rates = tuple(float("nan") if rate is None else rate for rate in self.rates)
        # The bin under way is lost; counting it as unseen keeps the others in their places.
        return History(self.period, rates, self.last, float("nan"), 1)


def _write_histories(folder: Path, histories: Mapping[str, History]) -> None:
    path = folder / FOLDER / _RATES
    stored = {
        name: _Stored(one.period, [rate if rate == rate else None for rate in one.rates], one.last)
        for name, one in histories.items()
    }
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(msgspec.json.encode(stored))
        temporary.replace(path)
