"""Managers over real repositories with real models."""

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import numpy as np
import pytest

from rung.catalog import models as catalog
from rung.catalog.source import open_source
from rung.domain.models import VersionState
from rung.domain.predictions import Request
from rung.serving.assembly import ManagerOptions
from rung.serving.manager import Manager
from rung.store.blobs import DiskStore
from rung.testing import models


class Watched(Manager):
    """A manager that can be asked what a test wants to know."""

    async def ask(self, name="m", version=None):
        """(version that answered, factor it multiplied by)."""
        x = np.ones((1, 4), np.float32)
        response = await self.find(name, version).predict(Request({"x": x}, 1, arrived=monotonic()))
        return response.version, float(response.outputs["y"][0, 0])

    async def until(self, holds, seconds=30.0):
        """Wait for what will be true."""
        end = monotonic() + seconds
        while not holds():
            assert monotonic() < end, self.statuses()
            await asyncio.sleep(0.01)

    def states(self, name="m"):
        return {status.version: status.state for status in self.statuses() if status.name == name}

    def serves(self, *versions, name="m"):
        """Whether exactly these are loaded and nothing is on its way."""
        alive = {version: state for version, state in self.states(name).items() if state is not VersionState.END}
        return alive == dict.fromkeys(versions, VersionState.AVAILABLE)

    async def turns(self, count=5):
        """Look so many times more."""
        for _ in range(count):
            await self._turn()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "repository"


@pytest.fixture
def store(root):
    return DiskStore(root)


@pytest.fixture
def register(store, tmp_path):
    """`register(factor, name="m")`: the next version, which multiplies by `factor`."""

    def one(factor, name="m"):
        return catalog.register(store, models.scale(tmp_path / "next.onnx", factor), name=name).version

    return one


@pytest.fixture
def manage(tmp_path):
    """`async with manage(target or source...) -> Watched`, open, looking 50 times a second."""

    @asynccontextmanager
    async def run(*targets, **options):
        sources = [
            open_source(str(target), None, tmp_path / "cache") if isinstance(target, str | Path) else target
            for target in targets
        ]
        manager = Watched(sources, ManagerOptions(**{"poll_seconds": 0.02, **options}))
        try:
            await manager.open()
            yield manager
        finally:
            await manager.close()

    return run
