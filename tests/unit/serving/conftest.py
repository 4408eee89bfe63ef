"""Versions of scripted models, offered by a source that says what a test tells it to."""

from pathlib import Path

import pytest

from rung import plugins
from rung.domain.errors import BundleError
from rung.domain.models import AspiredVersion, Manifest
from rung.domain.tensors import Signature
from rung.ports import Fetched
from rung.testing.scripted import ScriptedModel


class ScriptedRuntime:
    """Loads whatever model is written down for an artifact."""

    name = "scripted"
    shelf: dict[str, object] = {}

    def recognises(self, path):
        return False

    def load(self, artifact, options):
        made = self.shelf[str(artifact)]
        if isinstance(made, Exception):
            raise made
        return made


class ListedSource:
    """`offer(name, version, model)` puts a version on the list; `offered` is the list."""

    def __init__(self, shelf):
        self._shelf = shelf
        self.offered: list[AspiredVersion] = []
        self.error: Exception | None = None

    def offer(self, name, version, model=None, digest=""):
        made = AspiredVersion(name, version, digest or f"{name}/{version}")
        self._shelf[made.digest] = model or ScriptedModel()
        self.offered.append(made)
        return self._shelf[made.digest]

    def releases(self):
        return []

    def poll(self):
        if self.error is not None:
            raise self.error
        return list(self.offered)

    def fetch(self, version):
        if version not in self.offered:
            raise BundleError("it is gone")
        manifest = Manifest(version.name, version.version, "scripted", Signature((), ()), version.digest)
        return Fetched(manifest, Path(version.digest), None, inferred=True)


@pytest.fixture
def source(monkeypatch):
    """A `ListedSource`; what it offers is loaded by the scripted runtime."""
    monkeypatch.setattr(ScriptedRuntime, "shelf", {})
    monkeypatch.setitem(plugins.RUNTIMES, "scripted", "unused:unused")
    monkeypatch.setattr("rung.serving.loader.resolve", lambda table, name, kind: ScriptedRuntime)
    return ListedSource(ScriptedRuntime.shelf)
