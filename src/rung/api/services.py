"""What the routes work on; made by `app`, found by FastAPI."""

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from fastapi import Depends, Request

from rung.domain.retraining import Retraining
from rung.fleet.loop import PartHealth
from rung.fleet.orders import Order
from rung.fleet.state import UpState
from rung.fleet.status import ProjectStatus
from rung.jobs.queue import JobStore
from rung.loop.retrainer import Retrainer
from rung.offline.requests import Requests
from rung.offline.scoring.scores import ScoreStore
from rung.ports import BlobStore
from rung.settings.offline import OfflineSection
from rung.store.access import KeyStore
from rung.store.audit import AuditLog

__all__ = ["Needed", "Services"]


class Services(msgspec.Struct, frozen=True):
    """The parts of the platform that can be asked and changed."""

    repository: BlobStore
    jobs: JobStore
    kinds: frozenset[str]
    """Kinds of jobs that may be submitted by request."""
    status: Callable[[], ProjectStatus]
    parts: Callable[[], list[PartHealth]]
    """How the parts of the control loop are."""
    experiment: Callable[[str], dict[str, Any]]
    """How the experiment of a model stands, as plain values."""
    retrainer: Retrainer
    retrainings: Callable[[str], list[Retraining]]
    """Retrainings of a model, oldest first."""
    keys: KeyStore
    """Keys of callers; empty where only this machine can call."""
    audit: AuditLog
    order: Callable[[Order], None]
    """Tell the supervisor how many replicas there are to be, or to replace them."""
    state: Callable[[], UpState | None]
    """What the supervisor says of the project; None where it is not up."""
    requests: Requests
    """Requests that are answered later."""
    scores: ScoreStore
    """Answers to data sets, by key."""
    offline: OfflineSection = OfflineSection()
    named: frozenset[str] = frozenset()
    """Models that answer without a version in the repository."""
    closing: Callable[[], bool] = bool
    """Whether the control plane is about to end."""


def _services(request: Request) -> Services:
    found = request.app.state.services
    assert isinstance(found, Services)
    return found


Needed = Annotated[Services, Depends(_services)]
