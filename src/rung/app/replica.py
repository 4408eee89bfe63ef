"""The composition root: the only module that knows every part.

`Replica` is one serving process: sources -> manager <- protocols <- HTTP door.
"""

import asyncio
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import structlog

from rung import __version__
from rung.app.access import Following, collect_keys, follow
from rung.app.certificates import open_certificate
from rung.app.recording import open_log, policies_of
from rung.domain.errors import OperatorError
from rung.domain.records import ShadowRecord
from rung.domain.scaling import ReplicaLoad
from rung.fleet.roles import Setup
from rung.ports import LoadOptions, Source
from rung.protocols.access import Guard
from rung.protocols.batch import Batch
from rung.protocols.exchange import Route
from rung.protocols.feedback import Feedback
from rung.protocols.health import Health
from rung.protocols.kserve_v1 import KserveV1
from rung.protocols.mlflow import Mlflow
from rung.protocols.native import Native
from rung.protocols.oip_rest import OipRest
from rung.protocols.repository import Repository
from rung.protocols.server import HttpServer
from rung.protocols.tfserving import TfServing
from rung.protocols.tls import Certificate
from rung.protocols.torchserve import TorchServe
from rung.protocols.vertex import Vertex
from rung.serving.assembly import ManagerOptions
from rung.serving.background import in_background
from rung.serving.caching import Caching, collect_cache, open_store
from rung.serving.control import Control
from rung.serving.lanes import cores
from rung.serving.load import load_of
from rung.serving.log import Logged, PredictionLog
from rung.serving.log_metrics import collect as collect_log
from rung.serving.manager import Manager
from rung.serving.metrics import collect, collect_releases
from rung.serving.policies import Policy
from rung.settings import ServeSettings, cache_place
from rung.telemetry import Metrics, log_levels, set_log_level

__all__ = ["Replica", "may_control", "may_force", "run"]

_CACHE = Path(".rung/cache")


class Replica:
    """One serving process.

    Guarantees:
        1. The port is open before models load, and answers `/readyz` with 503 until all have.
        2. `close` loses no request that was read: not ready, drain the door, unload.
    """

    def __init__(self, sources: Sequence[Source], settings: ServeSettings, log: PredictionLog | None = None) -> None:
        self.settings = settings
        self._sources = sources
        self.log = log
        """Already open; closed with the replica."""
        self.caching = Caching(
            open_store(cache_place(settings.cache), settings.cache_ttl_seconds),
            settings.cache_ttl_seconds,
            private=settings.cache_private,
            models=settings.cache_models,
        )
        self._parallel = settings.lanes or cores(), settings.threads or cores()
        lanes, threads = self._parallel
        self.manager = Manager(
            list(sources),
            ManagerOptions(
                policy=Policy(settings.keep, settings.versions, settings.pin, settings.swap, settings.load_retries),
                load=LoadOptions(
                    threads=threads,
                    memory=settings.worker_memory,
                    hang_after=settings.hang_seconds,
                ),
                lanes=lanes,
                objective=settings.objective_ms / 1e3,
                max_wait=settings.max_wait_ms / 1e3,
                coalesce=settings.coalesce,
                poll_seconds=settings.poll_seconds,
                forcing=may_force(settings),
                cache=self.caching,
                log=None
                if log is None
                else lambda servable, inner: Logged(inner, log, servable.manifest, servable.digest),
                report=self._shadowed,
            ),
        )
        metrics = Metrics(
            [
                lambda: collect(self.manager.servables()),
                lambda: collect_releases(self.manager.table),
                lambda: collect_cache(self.manager.servables(), self.caching.store),
                lambda: collect_log(log) if log is not None else (),
                lambda: collect_keys(self.guard),
                self._door_metrics,
            ]
        )
        self.guard = Guard(
            required=settings.require_key, any_arm=settings.arm_header == "on", max_body=settings.door.max_body
        )
        self._keys: Following | None = None
        self.certificate: Certificate | None = None
        self.door = HttpServer(self._routes(metrics), settings.door, access_log=settings.access_log, guard=self.guard)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.port = 0
        self.own_port = 0
        """Where this replica alone answers, on the loopback address; 0 where it has no others beside it."""

    def _routes(self, metrics: Metrics) -> list[Route]:
        """Every door."""
        settings, log = self.settings, self.log
        control = Control(self.manager, settings.model_store, _CACHE, allowed=may_control(settings))
        routes = [
            *OipRest(self.manager, server_name=settings.server_name, version=__version__).routes(),
            *Native(self.manager, scheme="https" if settings.tls_certificate else "http").routes(),
            *Batch(self.manager).routes(),
            *TfServing(self.manager, metrics.render).routes(),
            *KserveV1(self.manager).routes(),
            *Repository(self.manager, control, log_levels, set_log_level).routes(),
            *Mlflow(self.manager, self.manager.problems, __version__).routes(),
            *TorchServe(self.manager, control, __version__).routes(),
            *Health(self.manager.problems, metrics.render, self._load).routes(),
            *(Feedback(log).routes() if log is not None else ()),
        ]
        vertex = Vertex(self.manager, self.manager.problems, settings.health_route, settings.predict_route)
        return [*routes, *vertex.routes(routes)]

    async def open(self, setup: Setup | None = None) -> None:
        """Listen, then load. A replica of a project has a `setup`: it may be without models, and share its port.

        Raises:
            ConfigurationError: the port cannot be had.
            OperatorError: not one model could be loaded; the message gives each reason.
        """
        self._loop = asyncio.get_running_loop()
        self.certificate = open_certificate(self.settings.tls_certificate, self.settings.tls_key)
        self._keys = follow(self.settings, setup, self.guard, self.certificate)
        await self._keys.open()
        if setup is not None:
            self.own_port = await self.door.open("127.0.0.1", 0)
        if setup is None or not setup.late:
            await self._listen(setup)
        await self.manager.open()
        if setup is not None:
            if setup.late:
                await self._listen(setup)
            return
        # None is right where they come one by one over the wire.
        if self._sources and not self.manager.servables():
            problems = self.manager.problems()
            await self.close()
            raise OperatorError("no model could be loaded: " + "; ".join(problems))

    async def _listen(self, setup: Setup | None) -> None:
        if setup is not None and setup.socket:
            await self.door.open_front(setup.socket)
            return
        shared = setup is not None and setup.shared
        tls = self.certificate.context if self.certificate is not None else None
        self.port = await self.door.open(self.settings.host, self.settings.port, reuse_port=shared, tls=tls)

    async def close(self) -> None:
        """Say not ready, answer what is owed, unload."""
        self.manager.drain()
        await self.door.drain()
        if self._keys is not None:
            await self._keys.close()
        await self.manager.close()
        if self.caching.store is not None:
            await self.caching.store.close()
        if self.log is not None:
            await in_background(self.log.close)

    def _load(self) -> ReplicaLoad:
        return load_of(self.manager.servables(), ready=self.manager.ready())

    def _shadowed(self, record: ShadowRecord) -> None:
        """Take what a shadow's thread found to the event loop, which the log belongs to."""
        if self.log is not None and self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: so is the log
                self._loop.call_soon_threadsafe(self.log.shadowed, record)

    @property
    def url(self) -> str:
        """Where it answers."""
        host, scheme = self.settings.host, "https" if self.certificate is not None else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    def _door_metrics(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

        replies = CounterMetricFamily("rung_http_replies", "Replies by HTTP status.", labels=["status"])
        for code, count in sorted(self.door.statuses.items()):
            replies.add_metric([str(code)], count)
        yield replies
        yield GaugeMetricFamily("rung_http_connections", "Open connections.", self.door.connections)
        lanes, threads = self._parallel
        yield GaugeMetricFamily("rung_lanes", "Model calls at once of a model; each takes a core.", lanes)
        yield GaugeMetricFamily("rung_threads", "Cores that a lone call spreads over.", threads)
        yield GaugeMetricFamily("rung_ready", "Whether every model that should answer can.", self.manager.ready())
        yield InfoMetricFamily("rung_build", "Version of rung.", {"version": __version__})


def may_control(settings: ServeSettings) -> bool:
    """Whether requests may load, unload and add models under these settings."""
    if settings.model_control != "auto":
        return settings.model_control == "on"
    return _is_loopback(settings.host) or bool(settings.model_store)


def may_force(settings: ServeSettings) -> bool:
    """Whether requests may pick their arm of a release under these settings."""
    return settings.arm_header == "on" or (settings.arm_header == "auto" and _is_loopback(settings.host))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def run(
    sources: Sequence[Source],
    settings: ServeSettings,
    announce: Callable[[Replica], None],
    setup: Setup | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT. `announce` is called once, when everything answers.

    Raises:
        ConfigurationError: the log's folder or key cannot be used; beside what `Replica.open` raises.
    """
    import uvloop

    name, policies = (setup.name, policies_of(setup.settings)) if setup is not None else ("", None)
    replica = Replica(sources, settings, open_log(settings, name, policies))
    uvloop.run(_serve(replica, announce, setup))


async def _serve(replica: Replica, announce: Callable[[Replica], None], setup: Setup | None) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    opening = loop.create_task(replica.open(setup))
    stopping = loop.create_task(stop.wait())
    await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not stop.is_set():
        try:
            await opening
        except BaseException:
            stopping.cancel()
            raise
        announce(replica)
        await stopping
    log = structlog.get_logger("rung")
    log.info("draining", action="drain", connections=replica.door.connections)
    # A second signal ends it at once.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)
    opening.cancel()  # a load may take minutes more
    await asyncio.gather(opening, return_exceptions=True)
    await replica.close()
    log.info("stopped", action="stopped")
