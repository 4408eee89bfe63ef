"""Where the things of a project lie, for commands that read its log: `rung.toml`, else the defaults, else flags."""

import os
from pathlib import Path

import msgspec

from rung.catalog import ledger, models
from rung.data.parts import current
from rung.domain.identity import Keyring
from rung.ports import BlobStore
from rung.settings.file import project_here
from rung.store.blobs import open_store
from rung.store.keys import load_key
from rung.store.segments import SegmentReader

__all__ = ["Places", "places"]


class Places(msgspec.Struct, frozen=True):
    """Opened when asked for."""

    log: Path
    data: str
    repository: str
    key: Path

    def store(self) -> BlobStore:
        """Where the tables of the log lie."""
        return open_store(self.data)

    def keyring(self) -> Keyring | None:
        """The project's key; None where there is none yet, so that no command makes one."""
        return Keyring(load_key(self.key)) if self.key.exists() else None

    def models(self) -> set[str]:
        """Every model that this project knows of: in its repository, its ledger or its log."""
        repository = open_store(self.repository)
        names = {entry.name for entry in models.list_models(repository)} | set(ledger.models(repository))
        state = current(self.store())
        logged = {getattr(record, "model", "") for _, record in SegmentReader(self.log, state.place)}
        return (names | logged | {part.model for part in state.parts}) - {""}


def places(log: str = "", data: str = "", repository: str = "", key: str = "") -> Places:
    """Flags beat the project file of this folder, which beats the defaults.

    Raises:
        ConfigurationError: the project file is wrong.
    """
    settings = project_here()
    key = key or os.environ.get("RUNG_LOG_KEY", "") or settings.serve.log_key
    return Places(
        Path(log or os.environ.get("RUNG_LOG", "") or settings.project.log),
        data or settings.project.data,
        repository or os.environ.get("RUNG_REPOSITORY", "") or settings.project.repository,
        Path(key),
    )
