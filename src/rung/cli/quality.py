"""Body of `rung quality`."""

import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from rung.cli.places import Places
from rung.cli.printing import print_json
from rung.data.quality import How, measure
from rung.data.quality_catalog import with_catalog
from rung.data.quality_report import height, words, write
from rung.data.quality_watch import moment
from rung.domain.errors import NotFound
from rung.domain.quality import Cohort, QualityReport
from rung.domain.scorecards import Figure
from rung.settings.file import project_here
from rung.settings.project import ModelSettings
from rung.store.blobs import open_store

__all__ = ["Wanted", "run", "show"]

_WIDE = 200
_SHOWN = 40
_DAY = 86_400.0


class Wanted(msgspec.Struct, frozen=True):
    """Which predictions, and where to write; 0 stands for what is usual."""

    days: float
    cohort: float
    maturity: float
    scale: float
    out: Path | None


def run(where: Places, model: str, wanted: Wanted, *, as_json: bool) -> None:
    """Measure, print and write the page; with JSON the page is written only where a folder is named.

    Raises:
        NotFound: nothing is known of this model.
    """
    settings = project_here().models.get(model, ModelSettings())
    how = How(maturity=wanted.maturity or settings.release.maturity, cohort=wanted.cohort, scale=wanted.scale or None)
    now = time.time()
    since = now - wanted.days * _DAY if wanted.days else 0.0
    how = with_catalog(how, open_store(where.repository), model)
    report = measure(where.store(), where.log, model, now=now, since=since, how=how)
    if not report.delay.predictions and model not in where.models():
        raise NotFound(f"nothing is known of {model!r:.60}: neither its repository nor its log has it")
    if as_json:
        print_json(report)
        if wanted.out is None:
            return
    else:
        show(report)
    page = write(wanted.out or Path(".rung/quality", model), report)
    if not as_json:
        print(f"written: {page}")


def show(report: QualityReport) -> None:
    """Print a report as sentences and tables."""
    from rich.console import Console
    from rich.markup import escape

    # Into a pipe, lines are not broken: whoever reads them there has no window.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
    console.print(f"{report.model}: quality by labels, {moment(report.at)} UTC\n")
    for line in words(report):
        console.print(escape(line))
    for table in (_cohorts(report), _arms(report), _estimates(report)):
        if table is not None:
            console.print()
            console.print(table)
    console.print()
    watched = report.detector
    if watched is not None:
        sign = "[red]alarm[/]" if watched.alarm else "quiet"
        level = f", level {height(watched.level)} of {watched.run_length:,.0f}" if watched.limit is not None else ""
        console.print(f"detector on version {watched.version}: {sign}{level}: {escape(watched.why)}")
    for note in report.notes:
        console.print(f"note: {escape(note)}")


def _table(*columns: str) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(
            column, justify="left" if column in ("from", "arm", "estimate, without labels", "") else "right"
        )
    return table


def _cohorts(report: QualityReport) -> Any:
    from rich.markup import escape

    if not report.cohorts:
        return None
    errors = any(one.error for one in report.cohorts)
    titles = ["from", "version", "answers", "labelled", "coverage", "quality", *(["error"] if errors else [])]
    table = _table(*titles, "")
    shown = report.cohorts[-_SHOWN:]
    if len(shown) < len(report.cohorts):
        table.add_row(f"... {len(report.cohorts) - len(shown)} earlier ones")
    for one in shown:
        cells = [
            moment(one.start),
            str(one.version),
            f"{one.predictions:,}",
            f"{one.labelled:,}",
            f"{one.coverage:.1%}",
        ]
        cells += [escape(_figure(one.quality)), *([escape(_figure(one.error))] if errors else [])]
        table.add_row(*cells, "" if one.mature else "[dim]not mature yet[/]")
    for one in report.versions:
        table.add_row("[bold]all mature[/]", *_total(one, errors=errors))
    return table


def _total(one: Cohort, *, errors: bool) -> list[str]:
    from rich.markup import escape

    cells = [str(one.version), f"{one.predictions:,}", f"{one.labelled:,}", f"{one.coverage:.1%}"]
    return [*cells, escape(_figure(one.quality)), *([escape(_figure(one.error))] if errors else [])]


def _arms(report: QualityReport) -> Any:
    if len(report.coverage) < 2:
        return None
    table = _table("arm", "version", "mature", "labelled", "coverage", "units", "with a label")
    for one in report.coverage:
        cells = [one.arm or "-", str(one.version), f"{one.predictions:,}", f"{one.labelled:,}", f"{one.coverage:.1%}"]
        table.add_row(*cells, f"{one.units:,}", f"{one.labelled_units:,}")
    return table


def _estimates(report: QualityReport) -> Any:
    from rich.markup import escape

    if not report.estimates:
        return None
    table = _table("estimate, without labels", "version", "answers", "expected accuracy", "expected F1", "expected AUC")
    for one in report.estimates[-_SHOWN:]:
        others = ["-" if value is None else f"{value:.3f}" for value in (one.f1, one.auc)]
        table.add_row(
            moment(one.start), str(one.version), f"{one.predictions:,}", escape(_figure(one.accuracy)), *others
        )
    return table


def _figure(figure: Figure | None) -> str:
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]" if figure else "-"
