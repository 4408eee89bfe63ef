"""Where studies are kept: a journal in the project's folder, or PostgreSQL; and who may touch them at one time."""

import fcntl
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rung.domain.errors import ConfigurationError, MissingDependency

try:
    import optuna
    from optuna.storages import journal
except ImportError:
    raise MissingDependency("rung tune needs Optuna: pip install 'rung[tune]'") from None

__all__ = ["FOLDER", "close", "experimental", "journal_of", "locked", "names", "open_storage"]

FOLDER = Path(".rung", "studies")
"""Within the project's."""
_HEARTBEAT, _GRACE = 10, 40
"""Seconds between two heartbeats in PostgreSQL, and after which a silent trial counts as dead."""
_SCHEMA = "rung_studies"


class _Lock:
    """The kernel's lock on a file. Optuna's own, a link, would outlive a process that was killed."""

    def __init__(self, path: Path) -> None:
        self._path, self._descriptor = path, -1

    def acquire(self) -> bool:
        """Wait until nobody holds it."""
        self._descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Let it go."""
        os.close(self._descriptor)


def names(project: Path) -> list[str]:
    """The studies in the project's folder, the newest last."""
    found = sorted((project / FOLDER).glob("*.journal"), key=lambda path: path.stat().st_mtime)
    return [path.stem for path in found]


def journal_of(project: Path, name: str) -> Path:
    """The file of a study."""
    return project / FOLDER / f"{name}.journal"


def open_storage(project: Path, storage: str, name: str, retry: Callable[[Any, Any], None]) -> Any:
    """Optuna's storage for a study; `retry(study, trial)` is called for trials whose heart no longer beats.

    Raises:
        ConfigurationError: it is no place for studies, or it cannot be reached.
        MissingDependency: its driver is not installed.
    """
    if not storage:
        path = journal_of(project, name)
        lock: Any = _Lock(path.with_suffix(".lock"))
        file = journal.JournalFileBackend(str(path), lock)
        return optuna.storages.JournalStorage(file)
    if not storage.startswith("postgresql://"):
        raise ConfigurationError(
            f"storage = {storage!r} will not do: write postgresql://USER@HOST/DATABASE, or leave it empty for a file "
            "in the project's folder"
        )
    return _postgres(storage, retry)


def _postgres(url: str, retry: Callable[[Any, Any], None]) -> Any:
    try:
        import psycopg
        import sqlalchemy.exc
    except ImportError:
        raise MissingDependency("studies in PostgreSQL need its driver: pip install 'rung[postgres]'") from None
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            # A schema of its own: Optuna's tables of migrations and rung's have one name.
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {_SCHEMA}")
        with experimental():
            return optuna.storages.RDBStorage(
                url.replace("postgresql://", "postgresql+psycopg://", 1),
                engine_kwargs={"connect_args": {"options": f"-csearch_path={_SCHEMA}"}, "pool_pre_ping": True},
                heartbeat_interval=_HEARTBEAT,
                grace_period=_GRACE,
                heartbeat_stale_trial_callback=retry,
            )
    except (psycopg.Error, sqlalchemy.exc.SQLAlchemyError) as error:
        raise ConfigurationError(f"the storage of studies cannot be used: {error}") from None


@contextmanager
def experimental() -> Iterator[None]:
    """What Optuna calls experimental is what its manual recommends for this."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


@contextmanager
def locked(path: Path) -> Iterator[Callable[[], None]]:
    """Hold a lock among the processes of this machine; what is yielded lets it go before the end."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    held = [descriptor]

    def release() -> None:
        if held:
            os.close(held.pop())

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield release
    finally:
        release()


def close(storage: Any) -> None:
    """Part from a storage. Twice is no error."""
    storage.remove_session()
    if isinstance(storage, optuna.storages.RDBStorage):
        storage.engine.dispose()
