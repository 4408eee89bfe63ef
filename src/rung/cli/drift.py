"""Body of `rung drift`."""

import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from rung.cli.places import Places
from rung.cli.printing import print_json
from rung.data import datasets, drift
from rung.data.drift_plots import ranked
from rung.data.drift_report import HEAD, cells, words, write
from rung.data.quality import How, measure
from rung.data.quality_catalog import with_catalog
from rung.data.quality_watch import moment
from rung.domain.drift import DriftReport, Window
from rung.domain.errors import InvalidData, NotFound
from rung.domain.quality import QualityReport
from rung.settings.file import project_here
from rung.settings.project import ModelSettings
from rung.store.blobs import open_store
from rung.telemetry import configure_logs
from rung.training.skew import Skew, replay

__all__ = ["Wanted", "run", "show", "show_skew"]

_WIDE = 200
_SHOWN = 40


class Wanted(msgspec.Struct, frozen=True):
    """What to compare, and where to write; 0 and None stand for what the project says."""

    window: int
    seconds: float
    version: int | None
    against: str
    report: Path | None
    fail: bool
    replay: int


def run(where: Places, model: str, wanted: Wanted, *, as_json: bool) -> int:
    """Measure, print, and write the page; return the exit code.

    Raises:
        NotFound: there is no such model, or nothing is known of what it was trained on, and nothing can be replayed.
        InvalidData: the rows to compare with cannot be read.
    """
    configure_logs(level="warning")
    settings = project_here().models.get(model, ModelSettings())
    rule = settings.drift
    if wanted.window or wanted.seconds:
        rule = msgspec.structs.replace(rule, window=wanted.window or rule.window, seconds=wanted.seconds)
    settings = msgspec.structs.replace(settings, drift=rule)
    against = None
    if wanted.against:
        against = datasets.read(wanted.against, Path())
        if not against.height:
            raise InvalidData(f"there is no row in {wanted.against} to compare with")
    now, repository = time.time(), open_store(where.repository)
    how = with_catalog(How(maturity=settings.release.maturity), repository, model)
    quality: QualityReport = measure(where.store(), where.log, model, now=now, how=how)
    skew = None
    if wanted.replay:
        skew = replay(where.store(), where.log, repository, model, now=now, count=wanted.replay)
    try:
        found = drift.examine(
            where.store(),
            where.log,
            repository,
            model,
            settings,
            now=now,
            version=wanted.version,
            against=against,
            quality_fell=quality.fell,
            coverage_moved=quality.uneven,
        )
    except NotFound as error:
        # What it answers can be compared with what it answered, whatever it has learned from.
        if skew is None or not skew.requests or wanted.fail:
            raise
        if as_json:
            print_json({"skew": skew, "notes": [str(error)]})
        else:
            show_skew(skew)
            print(f"note: no drift is measured: {error}")
        return 0
    if as_json:
        print_json({**msgspec.to_builtins(found.report), "skew": msgspec.to_builtins(skew)} if skew else found.report)
    else:
        show(found.report)
        if skew is not None:
            show_skew(skew)
    if wanted.report is not None or not as_json:
        page = write(wanted.report or Path(".rung/drift", f"{model}.html"), found)
        if not as_json:
            print(f"written: {page}")
    return int(wanted.fail and found.report.confirmed)


def show(report: DriftReport) -> None:
    """Print a report as sentences and a table."""
    from rich.console import Console
    from rich.markup import escape

    # Into a pipe, lines are not broken: whoever reads them there has no window.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
    console.print(f"{report.model} version {report.version}: drift, {moment(report.at)} UTC\n")
    for line in words(report):
        console.print(escape(line))
    for name, windows in (("inputs", report.inputs), ("answers", report.answers)):
        if windows:
            console.print(f"\n{name}, last of {len(windows)} windows ({windows[-1].rows:,} rows)")
            console.print(_table(windows[-1]))
    colour = {"none": "green", "cannot tell": "yellow"}.get(report.triage.kind, "red")
    console.print(f"\n[{colour}]{report.triage.kind}[/]: {escape(report.triage.why)}")
    for note in report.notes:
        console.print(f"note: {escape(note)}")


def show_skew(skew: Skew) -> None:
    """Print what a replay found."""
    if skew.share is None:
        print(f"skew: none of {skew.requests:,} requests could be compared")
    else:
        how = "value by value" if skew.exact == skew.compared else f"{skew.exact:,} of them value by value"
        share = f"{skew.share.estimate:.1%} [{skew.share.low:.1%}, {skew.share.high:.1%}]"
        print(f"skew: {skew.mismatched:,} of {skew.compared:,} replayed requests come out otherwise: {share}, {how}")
    if skew.prepared:
        which = ", ".join(f"{name} differs in {count:,}" for name, count in skew.features.items())
        print(f"features: of {skew.prepared:,} requests prepared anew, {which or 'none differs'}")
    if skew.worst is not None:
        print(f"worst: {skew.worst}")
    for reason, count in skew.skipped.items():
        print(f"note: {count:,} requests are left out: {reason}")


def _table(window: Window) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in HEAD:
        table.add_column(name, justify="left" if name in ("column", "test", "verdict") else "right")
    shown = ranked(window)
    for one in shown[:_SHOWN]:
        row = [escape(cell) for cell in cells(one)]
        colour = {"drifted": "red", "underpowered": "dim"}.get(one.verdict)
        table.add_row(*row[:-1], f"[{colour}]{one.verdict}[/]" if colour else one.verdict)
    if len(shown) > _SHOWN:
        table.add_row(f"... {len(shown) - _SHOWN} more")
    return table
