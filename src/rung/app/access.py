"""How a replica follows the keys of its project, wherever they lie."""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from rung.app.certificates import reread
from rung.domain.errors import RungError
from rung.domain.quotas import Others
from rung.fleet.roles import Setup
from rung.fleet.state import read_state
from rung.protocols.access import Guard
from rung.protocols.tls import Certificate
from rung.serving.background import in_background
from rung.settings import ServeSettings
from rung.store.access import KeyStore, Spent
from rung.store.blobs import open_store

if TYPE_CHECKING:
    from rung.store.issuer import Issuer

__all__ = ["Following", "collect_keys", "follow", "open_issuer"]

_EVERY = 1.0
"""Seconds between two looks; a key is refused everywhere within 5 after it was revoked."""


class Following:
    """Reads the keys again and again, and tells the guard. Keys that cannot be read stay as they were."""

    def __init__(
        self,
        keys: KeyStore,
        guard: Guard,
        replica: str,
        replicas: Callable[[], int],
        certificate: Certificate | None = None,
        sharers: int = 0,
        issuer: "Issuer | None" = None,
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._certificate = certificate
        self._guard = guard
        self._replica = replica
        self._replicas = replicas
        self._written: Spent | None = None
        self._resumed = False
        """Whether it is known what this replica let through before it was started again."""
        self._sharers = sharers
        """Other replicas that claim a part of a quota today; before the first look, those beside this one."""
        self._told = ""
        self._task: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("rung.access")

    async def open(self) -> None:
        """Look once, then go on looking. Until a look succeeds nobody is let in.

        Raises:
            MissingDependency: tokens are to be taken, and the extra `oidc` is not installed.
        """
        self._guard.wait()
        if self._issuer is not None:
            await in_background(self._issuer.open)
        await self._look()
        self._task = asyncio.create_task(self._live())

    async def close(self) -> None:
        """Look no more, and write what was used."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._leave()
        if self._issuer is not None:
            self._issuer.close()

    async def _live(self) -> None:
        while True:
            await asyncio.sleep(_EVERY)
            await self._look()
            if self._certificate is not None:
                reread(self._certificate)

    async def _look(self) -> None:
        guard = self._guard
        try:
            ring = await in_background(self._keys.ring)
            if not self._resumed:
                before = await in_background(self._keys.spent, self._replica)
                guard.resume(before.day, before.requests)
                self._resumed = True
            # Only a limit is shared out: without one nobody has to be counted.
            limited = any(key.rate or key.quota for key in ring.keys.values())
            replicas = await in_background(self._replicas) if limited else 1
            guard.use(ring, replicas)
            if guard.quotas:
                await self._share(replicas)
        except (RungError, OSError) as error:
            if guard.unread:
                guard.unread = f"the keys cannot be read: {error}"
            self._say(str(error))
        else:
            self._say("; ".join(ring.unreadable))

    async def _share(self, replicas: int) -> None:
        """Claim a part of each quota, beside what the others claim."""
        said = Spent(*self._guard.propose(max(replicas, 1 + self._sharers)))
        self._sharers, others = await in_background(self._spend, said)
        self._guard.settle(others)

    async def _leave(self) -> None:
        """Let the others have what was claimed here and not used."""
        if not self._guard.quotas:
            return
        try:
            await in_background(self._spend, Spent(*self._guard.leave()))
        except (RungError, OSError) as error:
            self._say(str(error))

    def _spend(self, said: Spent) -> tuple[int, dict[str, Others]]:
        found = self._keys.spend(self._replica, None if said == self._written else said, said.day)
        self._written = said  # only now: what could not be written has to be before it counts
        return found

    def _say(self, wrong: str) -> None:
        """Log what is wrong, once."""
        if wrong != self._told:
            self._told = wrong
            if wrong:
                self._log.warning("the keys cannot be followed", action="keys_unread", reason=wrong)


def follow(
    settings: ServeSettings, setup: Setup | None, guard: Guard, certificate: Certificate | None = None
) -> Following:
    """What makes this guard follow the keys that the settings name.

    Raises:
        ConfigurationError: `key_store` names no store.
    """
    issuer = open_issuer(settings)
    static = setup.settings.control.keys if setup is not None else ()
    workers = (setup.key,) if setup is not None and setup.key else ()
    keys = KeyStore(open_store(settings.key_store), static, workers=workers, issuer=issuer)
    if setup is not None:
        beside = setup.replicas - 1
        return Following(keys, guard, setup.name, _replicas_here, certificate, sharers=beside, issuer=issuer)
    # The port tells processes of one folder apart, and stays the same when one is started again.
    name = f"serve-{settings.port or f'process-{os.getpid()}'}"
    return Following(keys, guard, name, lambda: 1, certificate, issuer=issuer)


def open_issuer(settings: ServeSettings) -> "Issuer | None":
    """The identity provider whose tokens are taken, to be opened; None where there is none."""
    if not settings.oidc.issuer:
        return None
    from rung.store.issuer import Issuer

    return Issuer(settings.oidc)


def collect_keys(guard: Guard) -> Iterator[Any]:
    """What each key has been used for here, for the metrics."""
    from prometheus_client.core import CounterMetricFamily

    if not guard.grants:
        return
    passed = CounterMetricFamily(
        "rung_key_requests", "Requests let through by the key of their caller.", labels=["key"]
    )
    over = CounterMetricFamily("rung_key_refused", "Requests over the rate or the quota of a key.", labels=["key"])
    for grant in guard.grants.values():
        passed.add_metric([grant.key.name], grant.calls)
        over.add_metric([grant.key.name], grant.over)
    yield passed
    yield over


def _replicas_here() -> int:
    """Replicas of the project in this folder that are to answer now; 1 where none is up."""
    state = read_state(Path())
    roles = state.roles if state is not None else []
    return max(1, sum(role.role == "replica" and role.state == "ready" for role in roles))
