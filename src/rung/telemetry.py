"""Logs and metrics of a process. A log line is a sentence with an `action` key; nothing phones home."""

import logging
import sys
from collections.abc import Callable, Iterable
from typing import Any

import orjson
import structlog

__all__ = ["Metrics", "configure_logs"]


def configure_logs(style: str = "auto", level: str = "info") -> None:
    """Write one line per event to standard error: for people on a terminal, as JSON elsewhere."""
    pretty = style == "console" or (style == "auto" and sys.stderr.isatty())
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if pretty else "iso", utc=not pretty),
    ]
    if pretty:
        processors.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()))
        factory: Any = structlog.PrintLoggerFactory(sys.stderr)
    else:
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_dumps)]
        factory = structlog.PrintLoggerFactory(sys.stderr)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )


def _dumps(event: dict[str, Any], **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()


class Metrics:
    """What `/metrics` renders: families collected when asked for, so that counting costs nothing in between."""

    content_type = b"text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, collectors: Iterable[Callable[[], Iterable[Any]]]) -> None:
        self._collectors = list(collectors)
        self._registry: Any = None

    def render(self) -> tuple[bytes, bytes]:
        """Media type and text in the Prometheus exposition format."""
        from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

        if self._registry is None:
            self._registry = CollectorRegistry()
            ProcessCollector(registry=self._registry)
            for collect in self._collectors:
                self._registry.register(_Collector(collect))
        return self.content_type, generate_latest(self._registry)


class _Collector:
    def __init__(self, collect: Callable[[], Iterable[Any]]) -> None:
        self.collect = collect

    def describe(self) -> Iterable[Any]:
        """Nothing ahead of time: names depend on what is loaded."""
        return ()
