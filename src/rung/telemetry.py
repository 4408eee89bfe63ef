"""Logs and metrics of a process. A log line is a sentence with an `action` key; nothing phones home."""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from threading import Lock
from time import time
from types import TracebackType
from typing import Any, TextIO

import orjson
import structlog

__all__ = ["Exceptions", "Metrics", "configure_logs", "exceptions", "log_levels", "say", "set_log_level"]

_levels = {"debug": False, "info": True, "warning": True, "error": True}
"""Which lines are written. A table and not a threshold, since Triton's log settings switch each level alone."""


_VARIABLE = re.compile(r"'[^']*'|\"[^\"]*\"|0x[0-9a-fA-F]+|\d+(?:\.\d+)?")
"""What differs between errors that are the same: numbers, and what is quoted."""


class Exceptions:
    """Counts exceptions, equal ones together: those of the same class, place and message but for its numbers.

    May be used from any thread. Of more than `most` different ones the further ones are counted as one.
    """

    def __init__(self, most: int = 100) -> None:
        self._most = most
        self._lock = Lock()
        self._counts: dict[tuple[str, str, str, str], list[float]] = {}
        """Class, place, message and version -> how many, and when the first was."""

    def count(self, error: BaseException, version: str = "") -> None:
        """One more. `version` is that of the model, or whatever else may have brought it in."""
        message = _VARIABLE.sub("_", str(error))[:160]
        key = (type(error).__name__, _place(error.__traceback__), message, version)
        with self._lock:
            if key not in self._counts and len(self._counts) >= self._most:
                key = ("Other", "", "", "")
            self._counts.setdefault(key, [0, time()])[0] += 1

    def collect(self) -> Iterator[Any]:
        """A metric family of prometheus-client; none while there was no exception."""
        with self._lock:
            counts = {key: tuple(found) for key, found in self._counts.items()}
        if not counts:
            return
        from prometheus_client.core import CounterMetricFamily

        labels = ["fingerprint", "type", "place", "message", "version", "first"]
        family = CounterMetricFamily("rung_exceptions", "Exceptions, equal ones together.", labels=labels)
        for (kind, place, message, version), (count, first) in counts.items():
            fingerprint = sha256(f"{kind}\n{place}\n{message}".encode()).hexdigest()[:12]
            family.add_metric([fingerprint, kind, place, message, version, f"{first:.3f}"], count)
        yield family


def _place(trace: TracebackType | None) -> str:
    """The innermost function of rung in a traceback, else the innermost of all."""
    found = ""
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] == "rung" or not found.startswith("rung."):
            found = f"{module}:{trace.tb_frame.f_code.co_name}"
        trace = trace.tb_next
    return found


exceptions = Exceptions()
"""Those of this process; `Metrics` shows them."""


_processors: list[Any] = []
"""One list for ever: a logger that was used before holds it, and follows what is changed."""


def configure_logs(style: str = "auto", level: str = "info") -> None:
    """Write one line per event to standard error: for people on a terminal, as JSON elsewhere."""
    pretty = style == "console" or (style == "auto" and sys.stderr.isatty())
    order = list(_levels)
    for name in order:
        _levels[name] = order.index(name) >= order.index(level)
    _processors[:] = [
        _counted,
        _wanted,
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if pretty else "iso", utc=not pretty),
    ]
    if pretty:
        _processors.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()))
    else:
        _processors.extend([structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_dumps)])
    structlog.configure(
        processors=_processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=lambda *_: _Lines(),
        cache_logger_on_first_use=True,
    )


def log_levels() -> dict[str, bool]:
    """Whether lines are written of `debug`, `info`, `warning` and `error`."""
    return dict(_levels)


def set_log_level(name: str, *, on: bool) -> None:
    """Write lines of this level, or do not, from the next one on. Raises `KeyError` for a level that is none."""
    if name not in _levels:
        raise KeyError(name)
    _levels[name] = on


def _wanted(logger: Any, method: str, event: Any) -> Any:
    # What is worse than an error is written like one.
    if not _levels.get("warning" if method == "warn" else method, _levels["error"]):
        raise structlog.DropEvent
    return event


def _counted(logger: Any, method: str, event: Any) -> Any:
    error = event.get("exc_info")
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, BaseException):
        exceptions.count(error)
    return event


def say(stream: TextIO | None, text: str) -> None:
    """Write a line at once, to whoever is there: a reader that has left, or a full disk, must not stop a server."""
    if stream is None:
        return  # closed before we were started
    try:
        stream.write(text + "\n")
        stream.flush()
    except BrokenPipeError:
        # It will not come back: what is left in the buffer, and all that follows, goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except OSError:
        pass


class _Lines:
    """What structlog writes to: standard error as it is at that moment, a line per event."""

    def msg(self, text: str) -> None:
        """Write one line."""
        say(sys.stderr, text)

    log = debug = info = warn = warning = error = critical = exception = fatal = msg


def _dumps(event: dict[str, Any], **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()


class Metrics:
    """What `/metrics` renders: families collected when asked for, so that counting costs nothing in between."""

    content_type = b"text/plain; version=0.0.4; charset=utf-8"
    open_content_type = b"application/openmetrics-text; version=1.0.0; charset=utf-8"

    def __init__(self, collectors: Iterable[Callable[[], Iterable[Any]]]) -> None:
        self._collectors = [*collectors, exceptions.collect]
        self._registry: Any = None

    def render(self, accept: bytes = b"") -> tuple[bytes, bytes]:
        """Media type and text in the Prometheus exposition format, or OpenMetrics where the Accept header names it.

        Only OpenMetrics shows exemplars.
        """
        from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

        if self._registry is None:
            self._registry = CollectorRegistry()
            ProcessCollector(registry=self._registry)
            for collect in self._collectors:
                self._registry.register(_Collector(collect))
        if b"application/openmetrics-text" in accept:
            from prometheus_client.openmetrics import exposition

            page: bytes = exposition.generate_latest(self._registry)  # type: ignore[no-untyped-call]  # theirs has none
            return self.open_content_type, page
        return self.content_type, generate_latest(self._registry)


class _Collector:
    def __init__(self, collect: Callable[[], Iterable[Any]]) -> None:
        self.collect = collect

    def describe(self) -> Iterable[Any]:
        """Nothing ahead of time: names depend on what is loaded."""
        return ()
