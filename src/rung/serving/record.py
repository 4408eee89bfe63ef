"""What this process knows of one version."""

import asyncio
from math import inf

from rung.domain.models import AspiredVersion, VersionState
from rung.serving.lanes import Lanes
from rung.serving.servable import Servable

__all__ = ["Record"]


class Record:
    """Where one version stands, from the first load to the end."""

    def __init__(self, version: AspiredVersion) -> None:
        self.version = version
        self.state = VersionState.START
        self.reason = ""
        self.failures = 0
        self.forgiven_at = inf
        """When its failures are forgotten: they may not have been its own."""
        self.loading: asyncio.Task[None] | None = None
        self.servable: Servable | None = None
        self.lanes: Lanes | None = None

    @property
    def answers(self) -> bool:
        """Whether it can be called."""
        return self.state is VersionState.AVAILABLE and self.servable is not None
