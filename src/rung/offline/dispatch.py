"""Takes items out of the queue, asks the replicas for them, and writes what came of it.

One loop decides; it speaks with database and queue through a thread of its own, and asks on this one: many items at
once, of all users, so that a replica's batches fill. Replicas turn such requests away while others ask: then fewer are
sent, down to one at a time, and more again as they are taken.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
import structlog

from rung.domain.errors import NotReady, RungError
from rung.domain.inference import AskedItem, Taken, judge
from rung.domain.messages import Lease, Outcome, failed, unfit
from rung.domain.predictions import LOWEST
from rung.offline.door import Ask, Broken, Door, Reply
from rung.offline.endings import Result, write
from rung.offline.reading import read
from rung.ports import Queue
from rung.store.database import Database

__all__ = ["DispatchOptions", "Dispatcher", "Pace"]

_T = TypeVar("_T")
_FIRST_POLL = 0.02
_PATIENCE = 5.0
"""Seconds for which an item is kept that no replica takes, where others may have it without harm."""
_SUSPECT = 2
"""Tries after which an item is asked alone."""
_log = structlog.get_logger("rung.offline")


class DispatchOptions(msgspec.Struct, frozen=True):
    """How items are asked for."""

    in_flight: int = 64
    """Most requests with the replicas at once."""
    answer_seconds: float = 300.0
    """Time that a replica gets for one."""
    lease_seconds: float = 30.0
    """Length of the queue's leases; they are renewed every third of that."""
    poll_seconds: float = 0.25
    """Longest pause between two looks at an empty queue."""
    drain_seconds: float = 10.0
    """Time that requests in flight get when this ends; then they are handed back."""
    key: str = ""
    """Key that the replicas are shown; empty: none."""


class Pace:
    """How many requests may be with the replicas at once: one more for each round that is taken, half of them and a
    pause where one is turned away (additive increase, multiplicative decrease; Chiu and Jain 1989). Pure.
    """

    def __init__(self, most: int) -> None:
        self._most = float(most)
        self._window = min(4.0, float(most))
        self._pause = 0.0
        self._until = 0.0

    @property
    def window(self) -> int:
        """Requests at once."""
        return max(1, int(self._window))

    def taken(self) -> None:
        """One was answered."""
        self._window = min(self._window + 1.0 / max(self._window, 1.0), self._most)
        self._pause = 0.0

    def refused(self, now: float, least: float = 0.0) -> None:
        """One was turned away; those of one round count once. `least` is a pause in seconds."""
        if now >= self._until:
            self._window = max(1.0, self._window / 2)
            self._pause = min(max(2 * self._pause, 0.02), 0.5)
        self._until = max(self._until, now + max(self._pause, least))

    def wait(self, now: float, in_flight: int) -> float:
        """Seconds until the next may be sent; `inf` where one has to come back first."""
        if in_flight >= self.window:
            return float("inf")
        return max(self._until - now, 0.0)


class _Held(msgspec.Struct, eq=False):
    """An item that we hold."""

    lease: Lease
    item: AskedItem
    since: float


class Dispatcher:
    """Asks for the items of one queue.

    Guarantees:
        1. An item that it has taken ends, is handed back, or is left to its lease.
        2. Its end and the end of its message are written together; what comes too late is not written.
        3. While neither database nor queue can be used, results are kept, and written once they can.
    """

    def __init__(
        self,
        queue: Callable[[], Queue],
        database: Database,
        door: Door,
        options: DispatchOptions | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._queue = queue
        self._database = database
        self._door = door
        self._options = options or DispatchOptions()
        self._clock = clock
        self._pace = Pace(self._options.in_flight)
        self._waiting: list[_Held] = []
        """Held, and not with a replica; first come, first served."""
        self._asking: dict[str, tuple[_Held, asyncio.Task[None]]] = {}
        self._outcomes: list[Outcome] = []
        self._results: dict[str, Result] = {}
        self._changed = asyncio.Event()
        self._stopping = False
        self._renewed = 0.0
        self._said = ""
        self._thread: ThreadPoolExecutor | None = None

    def stop(self) -> None:
        """End soon. Called in the thread of the loop."""
        self._stopping = True
        self._changed.set()

    async def run(self) -> None:
        """Work until `stop`."""
        self._renewed = time.monotonic()
        with ThreadPoolExecutor(1, "rung-offline") as self._thread:
            pause = _FIRST_POLL
            while not self._stopping:
                self._changed.clear()
                took = await self._turn()
                pause = _FIRST_POLL if took else min(2 * pause, self._options.poll_seconds)
                await self._wait(pause)
            await self._drain()
        self._door.close()

    async def _turn(self) -> int:
        """One round; returns how many items were taken."""
        try:
            await self._settle()
            await self._renew()
            self._give_back()
            self._send()
            took = await self._take()
        except (RungError, OSError) as error:
            self._say(f"queue or database cannot be used: {error}")
            return 0
        self._send()
        return took

    async def _wait(self, pause: float) -> None:
        if self._waiting:
            pause = min(pause, self._pace.wait(time.monotonic(), len(self._asking)))
        # Not wait_for, which in Python 3.11 loses a cancellation that comes with what it waits for.
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._changed.wait()

    async def _drain(self) -> None:
        until = time.monotonic() + self._options.drain_seconds
        while self._asking and time.monotonic() < until:
            self._changed.clear()
            with suppress(RungError, OSError):
                await self._settle()
                await self._renew()
            await self._wait(0.25)
        tasks = [task for _, task in self._asking.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._return([*self._waiting, *(held for held, _ in self._asking.values())])
        self._waiting = []
        with suppress(RungError, OSError):
            await self._settle()

    # --- taking and ending ------------------------------------------------------------------

    async def _take(self) -> int:
        # One round ahead, so that replicas do not run dry while the next is fetched.
        want = 2 * self._pace.window
        room = want - len(self._waiting) - len(self._asking)
        if 2 * room < want:
            return 0
        leases = await self._hop(lambda: self._queue().take(room))
        if not leases:
            return 0
        items = await self._hop(lambda: read(self._database, [lease.message.id for lease in leases]))
        for lease in leases:
            self._begin(lease, items)
        return len(leases)

    def _begin(self, lease: Lease, items: Mapping[str, AskedItem]) -> None:
        name = lease.message.id
        known = self._asking[name][0] if name in self._asking else None
        known = known or next((held for held in self._waiting if held.lease.message.id == name), None)
        if known is not None:
            known.lease = lease  # given to us again: only the newer lease counts
            return
        item = items.get(name)
        if item is None:
            # It has ended: given twice, cancelled, or forgotten.
            self._outcomes.append(Outcome(lease))
            self._changed.set()
            return
        if not self._unfit(lease):
            self._waiting.append(_Held(lease, item, time.monotonic()))

    def _unfit(self, lease: Lease) -> bool:
        """End what must not be asked: its deadline has passed, or it has killed its workers."""
        end, deadline = unfit(lease, self._clock()), lease.message.deadline
        if end is None:
            return False
        if deadline and self._clock() >= deadline:
            # Nothing is wrong with the message.
            self._end(Outcome(lease), Result(state="expired", error=end.reason))
        else:
            self._end(end, Result(state="dead", error=end.reason))
        return True

    def _end(self, outcome: Outcome, result: Result | None = None) -> None:
        if result is not None:
            self._results[outcome.lease.message.id] = result
        self._outcomes.append(outcome)
        self._changed.set()

    async def _settle(self) -> None:
        outcomes, self._outcomes = self._outcomes, []
        if not outcomes:
            return
        results, now = self._results, self._clock()

        def beside(connection: Any, held: Sequence[Outcome]) -> None:
            write(connection, held, results, now)

        try:
            await self._hop(lambda: self._queue().settle(outcomes, beside))
        except BaseException:
            self._outcomes = [*outcomes, *self._outcomes]
            raise
        for outcome in outcomes:
            results.pop(outcome.lease.message.id, None)

    async def _renew(self) -> None:
        if time.monotonic() - self._renewed < self._options.lease_seconds / 3:
            return
        self._renewed = time.monotonic()
        held = [*self._waiting, *(held for held, _ in self._asking.values())]
        leases = [one.lease for one in held]
        if not leases:
            return
        kept = await self._hop(lambda: self._queue().renew(leases))
        for one in held:
            name = one.lease.message.id
            if name in kept:
                continue
            _log.warning("an item was lost to this worker", action="item_lost", item=name)
            if one in self._waiting:
                self._waiting.remove(one)
            elif name in self._asking and self._asking[name][0] is one:
                self._asking.pop(name)[1].cancel()

    def _give_back(self) -> None:
        """Let others have what no replica takes, so that what is more urgent comes first when one does."""
        if not self._waiting or "free return" not in self._queue().means.promises:
            return
        late = [held for held in self._waiting if time.monotonic() - held.since > _PATIENCE]
        if late:
            self._waiting = [held for held in self._waiting if held not in late]
            self._return(late, delay=0.5)

    def _return(self, held: Sequence[_Held], delay: float = 0.0) -> None:
        self._outcomes += [Outcome(one.lease, "returned", delay=delay) for one in held]

    # --- asking -----------------------------------------------------------------------------

    def _send(self) -> None:
        while self._waiting and not self._stopping and not self._pace.wait(time.monotonic(), len(self._asking)):
            suspect = self._waiting[0].lease.attempts > _SUSPECT
            if self._asking and (suspect or any(held.lease.attempts > _SUSPECT for held, _ in self._asking.values())):
                return  # what may kill a replica must take no others with it
            held = self._waiting.pop(0)
            if self._unfit(held.lease):
                continue
            task = asyncio.create_task(self._ask(held))
            self._asking[held.lease.message.id] = (held, task)

    async def _ask(self, held: _Held) -> None:
        name = held.lease.message.id
        taken, reply = await self._reply(held)
        if self._asking.pop(name, (None, None))[0] is not held:
            return  # lost meanwhile
        self._changed.set()
        if taken.kind == "busy":
            self._waiting.insert(0, held)
            return
        self._pace.taken()
        self._said = ""
        if taken.kind == "again":
            self._try_again(held, taken.reason)
        elif taken.kind == "failed":
            self._end(Outcome(held.lease), Result(state="failed", error=taken.reason))
        else:
            assert reply is not None
            self._end(Outcome(held.lease), _result(reply))

    async def _reply(self, held: _Held) -> tuple[Taken, Reply | None]:
        seconds = self._options.answer_seconds
        if held.item.deadline:
            # What is in work when the deadline passes is ended by the replica.
            seconds = min(seconds, max(held.item.deadline - self._clock(), 0.0) + 1.0)
        try:
            reply = await self._door.ask(_written(held.item, self._options.key, self._clock()), seconds)
        except NotReady as error:
            self._say(str(error))
            self._pace.refused(time.monotonic(), 0.1)
            return Taken("busy", str(error)), None
        except Broken as error:
            return Taken("again", str(error)), None
        taken = judge(reply.status, reply.body)
        if taken.kind == "busy":
            locked = taken.locked
            if locked:
                self._say(taken.reason)
            self._pace.refused(time.monotonic(), 1.0 if locked else 0.0)
        return taken, reply

    def _try_again(self, held: _Held, reason: str) -> None:
        deadline = held.item.deadline
        if deadline and self._clock() >= deadline:
            said = "its deadline passed while it was being answered"
            self._end(Outcome(held.lease), Result(state="expired", error=said))
            return
        outcome = failed(held.lease, reason, jitter=random.random())  # noqa: S311 - spreads tries out
        self._end(outcome, Result(state="dead", error=reason) if outcome.ending == "dead" else None)

    def _say(self, wrong: str) -> None:
        """Log what is wrong, once."""
        if wrong != self._said:
            self._said = wrong
            _log.warning("items cannot be asked for now", action="offline_waits", reason=wrong)

    async def _hop(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def _written(item: AskedItem, key: str, now: float) -> Ask:
    headers = [("content-type", item.media), ("accept", item.accept), ("rung-priority", str(LOWEST))]
    if item.unit:
        headers.append(("rung-unit", item.unit))
    if item.deadline:
        # Whole seconds: replicas remember heads, and few that differ.
        headers.append(("rung-timeout-ms", str(max(int(item.deadline - now + 1.0), 1) * 1000)))
    if key:
        headers.append(("authorization", f"Bearer {key}"))
    return Ask(f"/predict/{item.model}", tuple(headers), item.body)


def _result(reply: Reply) -> Result:
    version = reply.headers.get("rung-version", "")
    return Result(
        state="done",
        answer=reply.body,
        media=reply.headers.get("content-type", ""),
        version=int(version) if version.isdigit() else 0,
        prediction=reply.headers.get("rung-prediction-id", ""),
    )
