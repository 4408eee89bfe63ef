"""Who may call the data port, and how often.

A guard looks at a head when it is parsed, not when it comes again: heads are remembered, and one head has one key. What
is left for each request is whether the key is still good, and its limits. Where no key is asked for, nothing is left.
"""

from collections.abc import Callable, Coroutine, Mapping
from math import ceil
from time import time
from typing import Any

from rung.domain.access import ANY, VISITOR, Bucket, Key, Needs, Ring, allows, in_scope, permit, read_bearer
from rung.domain.errors import Forbidden, NotReady, Overloaded, RungError, Unauthenticated
from rung.domain.predictions import Call
from rung.domain.quotas import Others, Quota
from rung.protocols.compression import decompress
from rung.protocols.exchange import Endpoint, Head, Reply

__all__ = ["Grant", "Guard", "check_model"]

_ARM = b"rung-arm"
_DAY = 86_400.0
_SHARED_AGAIN = 1.0
"""Seconds after which replicas have looked at each other's claims again."""
_NOBODY = Others()
_EVERYBODY = Key(id=VISITOR, digest="", name="oidc")
"""Whoever comes with a token, in what is counted."""


class Grant:
    """A key in this process: what it has used, and what is left of its limits."""

    __slots__ = ("bucket", "calls", "key", "limited", "over", "quota", "why")

    def __init__(self, key: Key, quota: Quota | None) -> None:
        self.key = key
        self.why = ""
        """Why it is good no more; empty while it is."""
        self.bucket = Bucket(key.rate, key.at_once) if key.rate else None
        self.quota = quota
        """This replica's part of it; None where there is none."""
        self.limited = self.bucket is not None or quota is not None
        self.calls = 0
        """Requests let through since the start."""
        self.over = 0
        """Requests refused for being too many."""

    def admit(self, call: Call) -> None:
        """Let a request through.

        Raises:
            Unauthenticated: the key has ended.
            Overloaded: the caller is over its rate or its quota.
        """
        if self.why:
            raise Unauthenticated(self.why)
        if self.limited:
            self._deduct(call)
        self.calls += 1

    def _deduct(self, call: Call) -> None:
        key, quota = self.key, self.quota
        if quota is not None and quota.left <= 0:
            self.over += 1
            if quota.rest > 0:
                raise Overloaded(
                    f"what this replica may let through of the quota of the key {key.name!r} is used up; it is shared "
                    "out anew each second",
                    retry_after=_SHARED_AGAIN,
                )
            raise Overloaded(
                f"the key {key.name!r} has used up its {key.quota} requests of today (UTC)",
                retry_after=max(_DAY - time() % _DAY, 1.0),
            )
        if self.bucket is not None and (wait := self.bucket.take(call.arrived)):
            self.over += 1
            raise Overloaded(f"the key {key.name!r} is over its {key.rate:g} requests a second", retry_after=wait)
        if quota is not None:
            quota.spent += 1


class Guard:
    """The keys of a data port, as they were last read.

    Guarantees:
        1. From `wait` on nothing that takes a key is answered until the keys have been read.
        2. A request whose head came before its key ended is refused if it is whole only afterwards.
        3. What a key has used stays used when keys come and go.
        4. No more of a quota is let through than was claimed and fits beside the others' claims.
    """

    def __init__(self, *, required: bool = False, any_arm: bool = False, max_body: int = 64 << 20) -> None:
        self.active = required
        """Whether a key is asked for. Where not, no head is looked at."""
        self.on_change: Callable[[], object] = _nothing
        """Called when what was worked out for a head may be different now."""
        self.grants: dict[str, Grant] = {}
        """Id of a key -> what it has used here."""
        self.unread = ""
        """Why no key can be told from another yet; empty where that can be."""
        self._required = required
        self._any_arm = any_arm
        self._max_body = max_body
        self._ring = Ring()
        self._ended: frozenset[str] = frozenset()
        self._replicas = 1
        self._day = -1
        self._before: tuple[int, Mapping[str, int]] = (-1, {})
        self._quotas: dict[str, Quota] = {}
        """Id of a key -> this replica's part, also of keys that have not been used here yet."""

    def wait(self) -> None:
        """Answer nobody who needs a key until there are keys to go by."""
        self.active, self.unread = True, "the keys have not been read yet"
        self.on_change()

    @property
    def quotas(self) -> bool:
        """Whether any key has one."""
        return bool(self._quotas)

    def use(self, ring: Ring, replicas: int = 1) -> None:
        """Go by these keys from now on; each gets its share of its rate, as one of so many replicas."""
        now = time()
        ended = frozenset(key.id for key in ring.keys.values() if ring.why_not(key, now))
        changed = ring is not self._ring or ended != self._ended or bool(self.unread)
        self._ring, self._ended, self.unread = ring, ended, ""
        self._renew(ring, now)
        for grant in self.grants.values():
            grant.why = ring.why_not(grant.key, now)
        if replicas != self._replicas:
            self._replicas = replicas
            for grant in self.grants.values():
                self._pace(grant)
        if changed:
            self.active = self._required or ring.guards_data
            self.on_change()

    def resume(self, day: int, requests: Mapping[str, int]) -> None:
        """What this replica had let through on that day before it was started again."""
        self._before = (day, requests)

    def propose(self, replicas: int) -> tuple[int, dict[str, int], dict[str, int]]:
        """What is to be written: the day (since the epoch, UTC), and of each key with a quota what has been let
        through on it, and what this replica, as one of so many, claims of it.
        """
        claims = {key: quota.propose(replicas) for key, quota in self._quotas.items()}
        return self._day, self._spent(), claims

    def settle(self, others: Mapping[str, Others]) -> None:
        """What other replicas had written, read after that had been written."""
        for key, quota in self._quotas.items():
            quota.settle(others.get(key, _NOBODY))

    def leave(self) -> tuple[int, dict[str, int], dict[str, int]]:
        """What is to be written last: no more is claimed than was let through."""
        claims = {key: quota.yield_() for key, quota in self._quotas.items()}
        return self._day, self._spent(), claims

    def _spent(self) -> dict[str, int]:
        return {key: quota.spent for key, quota in self._quotas.items()}

    def look_at(self, head: Head, needs: Needs) -> None:
        """Put what a head may do in place of where it goes; heads that take no key stay as they are."""
        if needs == "open":
            return
        try:
            head.endpoint = self._guarded(head, *self._grant(head), needs)
        except RungError as error:
            head.refused = error
            head.endpoint = _refused(error)
        # Nothing is unpacked for somebody who has no right to it.
        head.coding = b""

    def _grant(self, head: Head) -> tuple[Key, Callable[[Call], None]]:
        """Whose head this is, and what lets each of its requests through."""
        if self.unread:
            raise NotReady(self.unread)
        key = self._ring.find(read_bearer(head.headers), time())
        if key.id.startswith(VISITOR):
            # There may be any number of visitors: they are counted together.
            return key, _until(key.expires, self._granted(_EVERYBODY).admit)
        return key, self._granted(key).admit

    def _granted(self, key: Key) -> Grant:
        grant = self.grants.get(key.id)
        if grant is None:
            grant = self.grants[key.id] = Grant(key, self._quotas.get(key.id))
            self._pace(grant)
        return grant

    def _guarded(self, head: Head, key: Key, admit: Callable[[Call], None], needs: Needs) -> Endpoint:
        permit(key, needs, head.params.get("model"))
        tester = allows(key.role, "operator")
        if _ARM in head.headers and not (tester or self._any_arm):
            raise Forbidden(f"rung-arm takes the role operator, and the key {key.name!r} has the role {key.role}")
        inner, coding, most = head.endpoint, head.coding, self._max_body
        scope = () if key.models == ANY else key.models

        # No coroutine of its own: that would cost more than the rest of this.
        def endpoint(head: Head, body: bytes, call: Call) -> Coroutine[Any, Any, Reply]:
            admit(call)
            call.caller, call.scope, call.tester = key.id, scope, tester
            if coding and coding != b"identity":
                body = call.body = decompress(body, coding, most)
            return inner(head, body, call)

        return endpoint

    def _pace(self, grant: Grant) -> None:
        if grant.bucket is not None:
            grant.bucket.pace(grant.key.rate / self._replicas, ceil(grant.key.at_once / self._replicas))

    def _renew(self, ring: Ring, now: float) -> None:
        """Begin a new day where one has begun, and have a quota for each key that says one."""
        day = int(now // _DAY)
        if day != self._day:
            self._day = day
            for quota in self._quotas.values():
                quota.begin()
        used = self._before[1] if self._before[0] == day else {}
        for key in ring.keys.values():
            if key.quota and key.id not in self._quotas:
                self._quotas[key.id] = Quota(key.quota, used.get(key.id, 0))


def check_model(call: Call, model: str) -> None:
    """Refuse a model that the caller's key is not for; for doors whose path does not name the model.

    Raises:
        Forbidden: it is not.
    """
    if call.scope and not in_scope(call.scope, model):
        raise Forbidden(f"this key is not for the model {model!r:.80}: it is for {', '.join(call.scope)}")


def _until(expires: float, admit: Callable[[Call], None]) -> Callable[[Call], None]:
    """Let requests through until a token has expired: its head may be remembered for longer."""

    def admitted(call: Call) -> None:
        if time() >= expires:
            raise Unauthenticated("this token has expired: get a new one")
        admit(call)

    return admitted


def _refused(error: RungError) -> Endpoint:
    async def endpoint(head: Head, body: bytes, call: Call) -> Reply:
        # Raised again and again, it would remember every place that it came through.
        raise error.with_traceback(None)

    return endpoint


def _nothing() -> None:
    pass
