"""The log of several processes as one: every line says which of them wrote it."""

import queue
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec

__all__ = ["Lines"]

_MOST = 10_000
"""Lines that wait for a slow reader; further ones are counted and dropped, lest a reader stop a server."""


class Lines:
    """Writes log lines to standard error, in a thread: as JSON, or for people."""

    def __init__(self, *, pretty: bool) -> None:
        self._pretty = pretty
        self._waiting: queue.Queue[str | None] = queue.Queue(_MOST)
        self._dropped = 0
        self._writer = threading.Thread(target=self._write, name="rung-log", daemon=True)

    def open(self) -> None:
        """Start writing."""
        self._writer.start()

    def close(self) -> None:
        """Write what waits, as far as somebody reads."""
        self._put(None)
        self._writer.join(1.0)

    @property
    def waiting(self) -> int:
        """Lines that are not written yet."""
        return self._waiting.qsize()

    def forward(self, role: str, line: bytes) -> None:
        """Pass a line of a role on. What is no JSON object becomes the text of an event."""
        try:
            event = msgspec.json.decode(line)
        except msgspec.MsgspecError:
            event = None
        if not isinstance(event, dict):
            text = line.decode(errors="replace")
            event = {"event": text, "level": "info", "timestamp": _now()}
        self._put(self._shown({**event, "role": role}))

    def event(self, level: str, text: str, **facts: Any) -> None:
        """Write an event of our own."""
        self._put(self._shown({**facts, "level": level, "timestamp": _now(), "event": text}))

    def _shown(self, event: dict[str, Any]) -> str:
        if not self._pretty:
            return msgspec.json.encode(event, enc_hook=str).decode()
        rest = dict(event)
        time, role = str(rest.pop("timestamp", ""))[11:19], rest.pop("role", "up")
        level, text = rest.pop("level", ""), rest.pop("event", "")
        trace = rest.pop("exception", "")
        facts = " ".join(f"{name}={value}" for name, value in rest.items() if name != "action")
        line = f"{time} {role:<10} {level:<8} {text}  {facts}".rstrip()
        return f"{line}\n{trace}" if trace else line

    def _put(self, line: str | None) -> None:
        try:
            if self._dropped and line is not None:
                note = {"level": "warning", "timestamp": _now(), "event": f"{self._dropped} log lines were dropped"}
                self._waiting.put_nowait(self._shown(note))
                self._dropped = 0
            self._waiting.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def _write(self) -> None:
        while (line := self._waiting.get()) is not None:
            # Whoever read may be gone, and a disk may be full.
            with suppress(OSError, ValueError):
                sys.stderr.write(line + "\n")
                sys.stderr.flush()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
