"""The control plane of a project: the control API beside the control loop, over the repository and the database."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import structlog

from rung.api import server
from rung.api.application import create
from rung.api.services import Services
from rung.app.access import open_issuer
from rung.app.asking import queue_of
from rung.app.certificates import open_certificate, reread
from rung.app.handlers import SUBMITTED
from rung.domain.jobs import NewJob
from rung.fleet import report
from rung.fleet.controller import RolloutController
from rung.fleet.loop import ControlLoop, Part, PartHealth
from rung.fleet.orders import send_order
from rung.fleet.policy import Policy, read_policy
from rung.fleet.ports import url
from rung.fleet.roles import Ready, Scale, Setup, tell
from rung.fleet.scaling.rules import read_policy as read_policy_of_replicas
from rung.fleet.scaling.scaler import ReplicaScaler
from rung.fleet.state import read_state
from rung.fleet.status import observe
from rung.jobs.queue import JobStore
from rung.jobs.schedule import Schedule, check, tick
from rung.loop import requests
from rung.loop.alerting import Alerting
from rung.loop.measuring import last
from rung.loop.retrainer import Retrainer
from rung.loop.triggers import read_policy as read_policy_of_retraining
from rung.offline.requests import Requests
from rung.offline.scoring.schedule import schedules as score_schedules
from rung.offline.scoring.scores import ScoreStore
from rung.ports import BlobStore
from rung.serving.background import in_background
from rung.settings import ProjectSettings
from rung.settings.project import ModelSettings
from rung.store.access import KeyStore
from rung.store.audit import AuditLog
from rung.store.blobs import open_store
from rung.store.database import open_database

__all__ = ["run"]

_REQUESTS_EVERY = 2.0
"""Seconds between two looks for deadlines that have passed, and for answers that are old enough."""
_REMEMBERED = 7 * 86_400.0
"""Seconds for which jobs that have ended can still be looked at. Dead ones stay until somebody decides."""
_EVERY_FIVE_MINUTES = "*/5 * * * *"
_ALERTS_EVERY = 5.0
"""Seconds between two looks for what somebody has to be told of."""
_CERTIFICATE_EVERY = 5.0
"""Seconds between two looks whether the files of the certificate have changed."""
_LOOK_EVERY = 2.0
"""Seconds between two looks for what asks for a retraining."""


def run(setup: Setup, announce: Callable[[Ready], None]) -> None:
    """Work until SIGTERM or SIGINT. `announce` is called once, when the API answers.

    Raises:
        ConfigurationError: the port, the database or the repository cannot be had.
        NotReady: the database is locked or out of reach.
    """
    import uvloop

    with open_database(setup.settings.project.store) as database:
        uvloop.run(_serve(setup, JobStore(database), announce))


async def _serve(setup: Setup, jobs: JobStore, announce: Callable[[Ready], None]) -> None:
    settings = setup.settings
    control = settings.control
    repository = open_store(settings.project.repository)
    retrainer = Retrainer(jobs, repository, open_store(settings.project.data), settings.models)
    # Of the loop that these parts are of, which is there by the time one of them asks.
    parts = _parts(settings, repository, jobs, retrainer, lambda: loop.health())  # noqa: PLW0108
    asked = Requests(jobs.database, queue_of(settings, jobs.database))
    parts.append(Part("requests", lambda: asked.turn(settings.offline.keep_days * 86_400.0), every=_REQUESTS_EVERY))
    stop = asyncio.Event()
    certificate = open_certificate(*settings.control_certificate)
    if certificate is not None:
        parts.append(Part("certificate", lambda: reread(certificate), every=_CERTIFICATE_EVERY))
    if setup.shared and (settings.most_replicas > settings.replicas or not settings.least_replicas):
        parts.append(Part("replicas", _scaler(settings).turn))
    loop = ControlLoop(parts, control.tick_seconds)
    issuer = open_issuer(settings.serve)
    if issuer is not None:
        await in_background(issuer.open)
    services = Services(
        repository=repository,
        jobs=jobs,
        kinds=frozenset(SUBMITTED),
        status=lambda: observe(Path(), settings.project.name, repository, jobs.counts, lambda _url: loop.health()),
        parts=loop.health,
        experiment=lambda model: _experiment(settings, repository, model),
        retrainer=retrainer,
        retrainings=lambda model: requests.retrainings(open_store(settings.project.data), model),
        keys=KeyStore(open_store(settings.serve.key_store), control.keys, issuer=issuer),
        audit=AuditLog(),
        order=lambda order: send_order(Path(), order),
        state=lambda: read_state(Path()),
        requests=asked,
        scores=ScoreStore(jobs.database),
        offline=settings.offline,
        named=frozenset(name for name, model in settings.models.items() if model.serve.model),
        closing=stop.is_set,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    host = control.host or settings.serve.host
    listener = server.listen(host, control.port, shared=setup.shared)
    port = listener.getsockname()[1]

    def opened() -> None:
        loop.open()
        announce(Ready(url=url(host, port, tls=certificate is not None)))

    tls = certificate.context if certificate is not None else None
    await server.serve(create(services), listener, control.threads, stop, opened, tls)
    loop.close()
    if issuer is not None:
        issuer.close()
    structlog.get_logger("rung").info("stopped", action="stopped")


def _parts(
    settings: ProjectSettings,
    repository: BlobStore,
    jobs: JobStore,
    retrainer: Retrainer,
    health: Callable[[], list[PartHealth]],
) -> list[Part]:
    """The duties of the control loop: a row for each."""
    schedules = [check(schedule) for schedule in _schedules(settings)]
    data = open_store(settings.project.data)
    alerting = Alerting(
        settings, repository, jobs, health, lambda: {name: last(data, name).seen for name in settings.models}
    )
    rollouts = RolloutController(
        repository,
        Path(settings.project.log),
        lambda model: _policy(settings, model),
        data=data,
    )
    return [
        Part("schedules", lambda: tick(jobs, schedules)),
        Part("rollouts", rollouts.turn),
        Part("retraining", retrainer.turn, every=_LOOK_EVERY),
        Part("alerts", alerting.turn, every=_ALERTS_EVERY),
        Part("purge", lambda: jobs.purge(_REMEMBERED), every=3600.0),
    ]


def _scaler(settings: ProjectSettings) -> ReplicaScaler:
    objective = settings.serve.objective_ms
    policies = {
        name: read_policy_of_replicas(model.serve, objective, f"models.{name}.serve.replicas")
        for name, model in settings.models.items()
    }
    # The supervisor starts and ends them.
    return ReplicaScaler(Path(), policies, lambda found: tell(Scale(replicas=found.replicas, why=found.why)))


def _schedules(settings: ProjectSettings) -> list[Schedule]:
    """Jobs of the platform's own, by the clock."""
    days = {name: model.serve.log.days for name, model in settings.models.items() if model.serve.log.days}
    project = settings.project
    arguments = {"log": project.log, "store": project.data, "days": days}
    # The key lets one run at a time.
    tables = NewJob(kind="predictions.maintain", arguments=arguments, key="predictions")
    schedules = [Schedule(name="predictions", cron=_EVERY_FIVE_MINUTES, job=tables)]
    for name, model in settings.models.items():
        policy = read_policy_of_retraining(model.retrain, f"models.{name}.retrain")
        if policy.cron:
            due = NewJob(kind="retrain.due", arguments={"model": name})
            schedules.append(Schedule(name=f"retrain:{name}", cron=policy.cron, job=due))
    return schedules + score_schedules(settings.models)


def _experiment(settings: ProjectSettings, repository: BlobStore, model: str) -> dict[str, Any]:
    project = settings.project
    policy = _policy(settings, model)
    found = report.observe(repository, Path(project.log), model, policy, data=open_store(project.data))
    return report.as_json(found)


def _policy(settings: ProjectSettings, model: str) -> Policy:
    section = settings.models.get(model, ModelSettings()).release
    return read_policy(msgspec.to_builtins(section), f"models.{model}.release")
