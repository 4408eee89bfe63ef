"""Body of `rung evaluate`."""

import sys
from pathlib import Path
from typing import Any

import msgspec

from rung.catalog import models
from rung.cli.printing import print_json
from rung.domain.datasets import Split
from rung.domain.scorecards import Scorecard
from rung.settings.file import project_here
from rung.settings.project import ModelSettings
from rung.store.blobs import open_store
from rung.telemetry import configure_logs
from rung.training.evaluation import examine, holdout_of
from rung.training.scorecard_report import figure_text, grouped, number, write

__all__ = ["Wanted", "run", "show"]

_WIDE = 200
_COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow", "better": "green", "worse": "red"}


class Wanted(msgspec.Struct, frozen=True):
    """What to score on, against which version, and where to write."""

    split: Split
    source: str
    against: int | None
    out: Path | None


def run(name: str, version: int | None, wanted: Wanted, repository: str, *, as_json: bool) -> None:
    """Score a version, print the scorecard and write it; JSON is written to a folder only where one is named.

    Raises:
        NotFound: there is no such version.
        InvalidData: there are no rows to score on.
        OperatorError: the version cannot be loaded or scored.
    """
    configure_logs(level="warning")
    settings = project_here()
    store = open_store(repository)
    manifest = models.show(store, name, version)
    model = settings.models.get(name, ModelSettings())
    holdout = holdout_of(settings, Path(), manifest, split=wanted.split, source=wanted.source)
    task = manifest.task or model.task
    threads = max(model.run.threads, 1)
    found = examine(store, name, manifest.version, holdout, task=task, threads=threads, against=wanted.against)
    if as_json:
        print_json(found.card)
    else:
        show(found.card)
    if as_json and wanted.out is None:
        return
    folder = wanted.out or Path(".rung/scorecards", name, str(manifest.version))
    write(found, folder)
    if not as_json:
        print(f"written: {folder / 'scorecard.html'}")


def show(card: Scorecard) -> None:
    """Print a scorecard as tables."""
    from rich.console import Console
    from rich.markup import escape

    # Into a pipe, lines are not broken: whoever reads them there has no window.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
    head = card.headline
    counted = f"{head.rows:,} rows" + (f" in {grouped(card)}" if card.group else "")
    better = "higher" if card.direction == "maximize" else "lower"
    console.print(f"{card.model} version {card.version}: {card.task} of {escape(card.held_out or counted)}")
    console.print(f"[bold]{card.metric} {escape(figure_text(head))}[/] ({counted}; {better} is better)\n")
    for table in (_figures(card), _slices(card), _comparison(card), _checks(card)):
        if table is not None:
            console.print(table)
            console.print()
    for timed in card.latency:
        rest = f"p99 {figure_text(timed.p99)}" if timed.p99 else "p99 unknown: too few calls"
        rows = f"{timed.rows} row{'s' if timed.rows > 1 else ''}"
        console.print(escape(f"{rows} a call: p50 {figure_text(timed.p50)}, {rest} ({timed.calls} calls)"))
    console.print(f"artifact: {card.size:,} bytes")
    for note in (*card.refusals, *card.notes):
        console.print(f"note: {escape(note)}")


def _table(*columns: str) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place and column not in ("", "finding") else "left")
    return table


def _figures(card: Scorecard) -> Any:
    table = _table("metric", "value", "95 % interval", "rows", "groups")
    for one in card.figures:
        if not one.of:
            ends = f"{number(one.low, one.unit)} to {number(one.high, one.unit)}"
            table.add_row(one.name, number(one.value, one.unit), ends, f"{one.rows:,}", f"{one.groups:,}")
    return table


def _slices(card: Scorecard) -> Any:
    from rich.markup import escape

    if not card.slices:
        return None
    table = _table("slice", "rows", card.metric, "less the rest", "")
    for one in card.slices:
        said = "[red]worse[/]" if one.worse else f"[dim]{escape(one.note)}[/]"
        value = figure_text(one.figure) if one.figure else "-"
        apart = figure_text(one.difference) if one.difference else "-"
        table.add_row(escape(one.name), f"{one.rows:,}", escape(value), escape(apart), said)
    return table


def _comparison(card: Scorecard) -> Any:
    from rich.markup import escape

    found = card.comparison
    if found is None:
        return None
    table = _table(f"against version {found.version}", "this", "other", "difference", "")
    for one in found.differences:
        ends = f"{one.figure.value:+.4g} [{one.figure.low:+.4g}, {one.figure.high:+.4g}]"
        said = f"[{_COLOURS[one.standing]}]{one.standing}[/]"
        table.add_row(one.figure.name, number(one.value), number(one.other), escape(ends), said)
    return table


def _checks(card: Scorecard) -> Any:
    from rich.markup import escape

    if not card.checks:
        return None
    table = _table("check", "", "finding")
    for one in card.checks:
        table.add_row(escape(one.rule), f"[{_COLOURS[one.outcome]}]{one.outcome}[/]", escape(one.why))
    return table
