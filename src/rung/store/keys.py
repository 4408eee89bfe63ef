"""The project's key for prediction ids: made once, readable by its owner only."""

import os
import secrets
from pathlib import Path

from rung.domain.errors import ConfigurationError
from rung.domain.identity import KEY_BYTES
from rung.store.folders import sync_folder

__all__ = ["load_key"]


def load_key(path: Path) -> bytes:
    """Read the key of this project, or make it. Of several processes that make it at once, all get the same.

    Raises:
        ConfigurationError: the file cannot be read or made, is no key, or may be read by others.
    """
    try:
        if not path.exists():
            _make(path)
        if path.stat().st_mode & 0o077:
            raise ConfigurationError(f"the key {path} may be read by others: chmod 600 {path}")
        key = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"the key {path} cannot be read: {error.strerror}") from None
    if len(key) != KEY_BYTES:
        raise ConfigurationError(
            f"{path} holds {len(key)} bytes and a key has {KEY_BYTES}: restore it from a copy; with a new one, "
            "feedback on what was answered before is refused"
        )
    return key


def _make(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return  # another process was first: its key counts
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
