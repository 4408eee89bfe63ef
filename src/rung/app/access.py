"""How a replica follows the keys of its project, wherever they lie."""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from time import time
from typing import Any

import structlog

from rung.domain.errors import ConfigurationError, RungError
from rung.fleet.roles import Setup
from rung.fleet.state import read_state
from rung.protocols.access import Guard
from rung.protocols.tls import Certificate
from rung.serving.background import in_background
from rung.settings import ServeSettings
from rung.store.access import KeyStore
from rung.store.blobs import open_store

__all__ = ["Following", "collect_keys", "follow", "open_certificate", "reread"]

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
    ) -> None:
        self._keys = keys
        self._certificate = certificate
        self._guard = guard
        self._replica = replica
        self._replicas = replicas
        self._written: dict[str, int] = {}
        self._told = ""
        self._task: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("rung.access")

    async def open(self) -> None:
        """Look once, then go on looking. Raises nothing: until a look succeeds nobody is let in."""
        self._guard.wait()
        await in_background(self._resume)
        await self._look()
        self._task = asyncio.create_task(self._live())

    async def close(self) -> None:
        """Look no more, and write what is left to write."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._look()

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
            # Only a rate is shared out: without one nobody has to be counted.
            rated = any(key.rate for key in ring.keys.values())
            guard.use(ring, await in_background(self._replicas) if rated else 1)
            if any(key.quota for key in ring.keys.values()):
                day, used = guard.today()
                fresh = used if used != self._written else None
                guard.share(await in_background(self._keys.spend, self._replica, day, fresh))
                self._written = used
        except (RungError, OSError) as error:
            if guard.unread:
                guard.unread = f"the keys cannot be read: {error}"
            self._say(str(error))
        else:
            self._say("; ".join(ring.unreadable))

    def _resume(self) -> None:
        try:
            before = self._keys.spent(self._replica)
        except (RungError, OSError):
            return  # the first look says so
        self._guard.resume(before.day, before.requests)

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
    static = setup.settings.control.keys if setup is not None else ()
    workers = (setup.key,) if setup is not None and setup.key else ()
    keys = KeyStore(open_store(settings.key_store), static, workers)
    if setup is not None:
        return Following(keys, guard, setup.name, _replicas_here, certificate)
    # The port tells processes of one folder apart, and stays the same when one is started again.
    return Following(keys, guard, f"serve-{settings.port or f'process-{os.getpid()}'}", lambda: 1, certificate)


def open_certificate(certificate: str, key: str) -> Certificate | None:
    """The certificate that settings name; None where they name none.

    Raises:
        ConfigurationError: it cannot be used, or a key is named alone.
    """
    if not certificate:
        if key:
            raise ConfigurationError("tls_key without tls_certificate: name the file of the certificate as well")
        return None
    found = Certificate(certificate, key)
    found.open(time())
    return found


def reread(certificate: Certificate) -> None:
    """Use the files of a certificate anew if they have changed; say so, or why not."""
    log = structlog.get_logger("rung.access")
    try:
        if certificate.reload(time()):
            log.info("the certificate was read again", action="certificate", expires=certificate.expires)
    except ConfigurationError as error:
        log.warning("the old certificate stays in use", action="certificate", reason=str(error))


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
