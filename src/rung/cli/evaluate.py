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
from rung.training.evaluation import examine, holdout_of
from rung.training.scorecard_report import figure_text, number, write

__all__ = ["Wanted", "run", "show"]

_OUTCOMES = {"pass": "green", "fail": "red", "inconclusive": "yellow", "better": "green", "worse": "red"}


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
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)

    def table(*columns: str, title: str = "") -> Any:
        from rich.table import Table

        made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title=title or None, title_justify="left")
        for place, column in enumerate(columns):
            made.add_column(column, justify="right" if place and column not in ("", "finding") else "left")
        return made

    head = card.headline
    counted = f"{head.rows:,} rows" + (f", {head.groups:,} groups of {card.group}" if card.group else "")
    better = "higher" if card.direction == "maximize" else "lower"
    console.print(f"{card.model} version {card.version}: {card.task} of {escape(card.held_out or counted)}")
    console.print(f"[bold]{card.metric} {figure_text(head)}[/] ({counted}; {better} is better)\n")
    figures = table("metric", "value", "95 % interval", "rows", "groups")
    for one in card.figures:
        if not one.of:
            ends = f"{number(one.low, one.unit)} to {number(one.high, one.unit)}"
            figures.add_row(one.name, number(one.value, one.unit), ends, f"{one.rows:,}", f"{one.groups:,}")
    console.print(figures)
    if card.slices:
        slices = table("slice", "rows", card.metric, "less the rest", "")
        for part in card.slices:
            said = "[red]worse[/]" if part.worse else f"[dim]{escape(part.note)}[/]"
            value = figure_text(part.figure) if part.figure else "-"
            apart = figure_text(part.difference) if part.difference else "-"
            slices.add_row(escape(part.name), f"{part.rows:,}", escape(value), escape(apart), said)
        console.print()
        console.print(slices)
    if card.comparison is not None:
        compared = table(f"against version {card.comparison.version}", "this", "other", "difference", "")
        for change in card.comparison.differences:
            ends = f"{change.figure.value:+.4g} [{change.figure.low:+.4g}, {change.figure.high:+.4g}]"
            said = f"[{_OUTCOMES[change.standing]}]{change.standing}[/]"
            compared.add_row(change.figure.name, number(change.value), number(change.other), escape(ends), said)
        console.print()
        console.print(compared)
    if card.checks:
        checks = table("check", "", "finding")
        for check in card.checks:
            checks.add_row(check.rule, f"[{_OUTCOMES[check.outcome]}]{check.outcome}[/]", escape(check.why))
        console.print()
        console.print(checks)
    console.print()
    for timed in card.latency:
        rest = f"p99 {figure_text(timed.p99)}" if timed.p99 else "p99 unknown: too few calls"
        rows = f"{timed.rows} row{'s' if timed.rows > 1 else ''}"
        console.print(escape(f"{rows} a call: p50 {figure_text(timed.p50)}, {rest} ({timed.calls} calls)"))
    console.print(f"artifact: {card.size:,} bytes")
    for note in (*card.refusals, *card.notes):
        console.print(f"note: {escape(note)}")
