"""Body of `rung score`."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from rung.cli.printing import print_json
from rung.domain.errors import ConfigurationError
from rung.offline.scoring.order import Order, Scored
from rung.offline.scoring.run import Progress, score
from rung.settings.file import project_here
from rung.settings.project import ModelSettings
from rung.store.blobs import open_store
from rung.telemetry import configure_logs

__all__ = ["Wanted", "run"]

_EVERY = 10.0
"""Seconds between two lines where nobody looks at a bar."""


class Wanted(msgspec.Struct, frozen=True):
    """What the command was given."""

    source: str
    out: str
    version: int | None
    where: str
    key: str
    keep: str | None
    group: str
    as_of: str
    chunk: int
    threads: int
    resume: bool


def run(model: str, wanted: Wanted, repository: str, *, as_json: bool) -> None:
    """Score a data set, with a bar where somebody looks; raises as `rung.offline.scoring.run.score` does."""
    configure_logs(level="warning")
    settings = project_here()
    data = settings.models.get(model, ModelSettings()).dataset
    order = Order(
        model=model,
        source=_source(wanted.source),
        out=wanted.out,
        version=wanted.version,
        where=wanted.where,
        key=_names(wanted.key),
        keep=None if wanted.keep is None else _names(wanted.keep),
        group=_names(wanted.group),
        features=data.features,
        ignore=data.unseen,
        as_of=wanted.as_of,
        chunk=wanted.chunk,
        threads=wanted.threads,
        resume=wanted.resume,
    )
    with _shown(quiet=as_json) as progress:
        scored = score(order, Path(), open_store(repository), settings.project.store, progress=progress)
    if as_json:
        print_json(scored)
    else:
        _tell(scored)


def _source(given: str) -> str:
    """A folder alone means its files."""
    return f"files:{given}" if Path(given).is_dir() else given


def _names(given: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in given.split(",") if name.strip())
    if len(set(names)) != len(names):
        raise ConfigurationError(f"{given!r} names a column twice")
    return names


def _tell(scored: Scored) -> None:
    rate = (scored.read - scored.resumed) / max(scored.seconds, 1e-9)
    went_on = f"; {scored.resumed:,} of them were done before" if scored.resumed else ""
    left = f", {scored.left_out:,} left out" if scored.left_out else ""
    print(f"{scored.model} version {scored.version}: {scored.rows:,} of {scored.read:,} rows answered{left}{went_on}")
    if scored.refused:
        print(f"{scored.refused:,} refused, such as")
        for reason in scored.refusals:
            print(f"  {reason}")
    print(f"written: {scored.out} ({scored.seconds:.1f} s, {rate:,.0f} rows/s)")


@contextmanager
def _shown(*, quiet: bool) -> Iterator[Progress]:
    if quiet:
        yield lambda _done, _of: None
    elif sys.stderr.isatty():
        with _bar() as bar:
            task = bar.add_task("rows", total=None, rate="")
            began: list[tuple[float, int]] = []

            def move(done: int, of: int | None) -> None:
                began.append((time.monotonic(), done))
                seconds, first = began[-1][0] - began[0][0], began[0][1]
                rate = f"{(done - first) / seconds:,.0f} rows/s" if seconds else ""
                bar.update(task, completed=done, total=max(of, done) if of else None, rate=rate)
                del began[1:]

            yield move
    else:
        yield _lines()


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


def _lines() -> Progress:
    """A line on standard error now and then."""
    began = last = time.monotonic()
    first: int | None = None

    def tell(done: int, of: int | None) -> None:
        nonlocal last, first
        now = time.monotonic()
        first = done if first is None else first
        if now - last < _EVERY:
            return
        last = now
        rate = (done - first) / (now - began)
        left = f", about {(of - done) / rate:,.0f} s left" if of and of > done and rate else ""
        print(f"{done:,} rows{f' of about {of:,}' if of else ''}, {rate:,.0f} rows/s{left}", file=sys.stderr)

    return tell
