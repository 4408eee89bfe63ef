"""Who changed what: one line of JSON for each change that was made, refused or failed, in `.rung/audit`.

Lines are only added. A full file is put aside under the time of its end, and the oldest are removed, so that the log
takes `largest * (kept + 1)` bytes at most. Predictions are not in it: they have a log of their own.
"""

import fcntl
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

__all__ = ["AUDIT", "AuditLine", "AuditLog", "Outcome"]

Outcome = Literal["done", "refused", "failed"]
AUDIT = Path(".rung/audit")
"""The audit log of the project in this folder."""
_CURRENT = "audit.jsonl"
_LOCK = ".lock"
_LONGEST = 2000
"""Characters of a text in a line: what is audited may have been sent by anybody."""
_encode = msgspec.json.Encoder().encode


class AuditLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change."""

    at: str = ""
    """When, RFC 3339 in UTC; set when it is written."""
    by: str = ""
    """Name of the key, or the user of this machine; empty for a caller without a valid key."""
    key: str = ""
    """Id of the key, where there was one."""
    role: str = ""
    via: Literal["api", "cli"]
    what: str
    """Method and path, or the command."""
    outcome: Outcome
    why: str = ""
    """Why it was refused or failed."""
    address: str = ""
    """Whence, where it came over the network."""


class AuditLog:
    """The lines of one folder; several processes may write at once."""

    def __init__(self, folder: Path = AUDIT, *, largest: int = 8 << 20, kept: int = 9) -> None:
        self._folder = folder
        self._largest = largest
        self._kept = kept

    def write(self, line: AuditLine) -> None:
        """Add a line; it is on the disk when this returns.

        Raises:
            OSError: it could not be written.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = msgspec.structs.replace(line, at=now, what=line.what[:_LONGEST], why=line.why[:_LONGEST])
        data = _encode(line) + b"\n"
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._make_room(len(data))
            file = os.open(self._folder / _CURRENT, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(file, data)
                os.fsync(file)
            finally:
                os.close(file)
        finally:
            os.close(lock)

    def read(self) -> Iterator[AuditLine]:
        """Every line, the newest first. One that was cut off by a crash is left out."""
        for path in [self._folder / _CURRENT, *reversed(self._aside())]:
            try:
                text = path.read_bytes()
            except FileNotFoundError:
                continue
            for line in reversed(text.splitlines()):
                try:
                    yield msgspec.json.decode(line, type=AuditLine)
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    continue

    def _make_room(self, size: int) -> None:
        current = self._folder / _CURRENT
        try:
            full = current.stat().st_size + size > self._largest
        except FileNotFoundError:
            return
        if full:
            stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
            current.rename(self._folder / f"audit-{stamp}.jsonl")
            for path in self._aside()[: -self._kept or None]:
                path.unlink(missing_ok=True)

    def _aside(self) -> list[Path]:
        """Full files, the oldest first."""
        return sorted(self._folder.glob("audit-*.jsonl"))
