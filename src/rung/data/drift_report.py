"""A report on drift as sentences, and as one page that opens anywhere. No script, no address."""

import base64
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

from rung.data.drift import Examined
from rung.data.drift_plots import draw, ranked, title
from rung.data.quality_watch import moment
from rung.domain.drift import ColumnDrift, DriftReport, Window

__all__ = ["HEAD", "as_html", "cells", "p_value", "words", "write"]

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1f2937;max-width:66rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2.2rem 0 .6rem;border-bottom:1px solid #e5e7eb}
.sub{color:#6b7280;margin:.2rem 0 1.2rem}table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.28rem .7rem .28rem 0;border-bottom:1px solid #f3f4f6;vertical-align:top}
th{color:#6b7280;font-weight:500}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.drifted{color:#b3261e;font-weight:600}.underpowered{color:#6b7280}
.state{border-left:4px solid #2a7f4f;background:#f0fdf4;padding:.5rem .8rem;margin:.6rem 0}
.state.bad{border-color:#b3261e;background:#fef2f2}.state.open{border-color:#6b7280;background:#f9fafb}
img{max-width:100%;height:auto;display:block;margin:.6rem 0}
"""
_PICTURES = {
    "columns.png": "Before and now",
    "effects.png": "How far each column moved",
    "windows.png": "Over the windows",
}
HEAD = ("column", "effect", "at least", "margin", "p", "test", "rows worth", "verdict")
_NUMBERS = {"effect", "at least", "margin", "p", "rows worth"}
_UNITS = {"standard deviations": "sd", "total variation": "tv", "area under the curve": "auc"}


def write(page: Path, found: Examined) -> Path:
    """Write the page, with its pictures inside.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    pictures = draw(found)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(as_html(found.report, pictures), encoding="utf-8")
    return page


def words(report: DriftReport) -> Iterator[str]:
    """What was found, in sentences."""
    if report.inputs:
        rows = sum(window.rows for window in report.inputs)
        count = f"{len(report.inputs)} window" + ("s" if len(report.inputs) > 1 else "")
        yield f"{rows:,} rows in {count} against {report.reference} ({report.reference_rows:,} rows)"
    yield _said(report)
    if report.worst and report.inputs:
        worst = next(one for one in ranked(report.inputs[-1]) if one.column == report.worst)
        yield f"the column that moved most is {report.worst}: {_amount(worst)}, at least {_amount(worst, low=True)}"
    if report.answers:
        moved = ", ".join(report.persistent_answers)
        yield f"answers have moved: {moved}" if moved else "answers have not moved, confirmed over windows"
    if report.labels is not None:
        yield f"labels: {report.labels.verdict} ({_amount(report.labels)})"
    yield (
        f"where nothing changes, drift is confirmed falsely once in {report.run_length:,.0f} windows or more: a window "
        f"has a false alarm with probability {report.alpha:g} at most, and {report.need} of {report.of} are needed"
    )


def _said(report: DriftReport) -> str:
    need = f"{report.need} of {report.of} windows"
    if report.outlook is None:
        return "nothing was asked that could be compared"
    if report.outlook == "drifted":
        return f"drift is confirmed in {need}: {', '.join(report.persistent)}"
    if report.outlook == "quiet":
        return "inputs are quiet: no column moved by more than the margin, and the windows would have shown it"
    small = [one for window in report.inputs for one in window.columns if one.verdict == "underpowered"]
    drifted = sorted({one.column for window in report.inputs for one in window.columns if one.verdict == "drifted"})
    if drifted:
        return f"drift is not confirmed: {', '.join(drifted)} drifted, but not in {need}"
    least = max((one.detectable for one in small if one.kind == "number" and one.detectable is not None), default=None)
    most = f": a shift below {least:.2f} standard deviations would not be seen" if least is not None else ""
    return f"it cannot be told yet: the windows are too small{most}"


def _amount(one: ColumnDrift, *, low: bool = False) -> str:
    return f"{one.low if low else one.effect:.2f} {one.measure}" if not low else f"{one.low:.2f}"


def p_value(p: float) -> str:
    """For people."""
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def cells(one: ColumnDrift) -> list[str]:
    """A row under `HEAD`."""
    unit = _UNITS[one.measure]
    figures = [f"{one.effect:.3f} {unit}", f"{one.low:.3f}", f"{one.margin:.3f}", p_value(one.p)]
    return [title(one), *figures, one.test, f"{one.rows:,.0f}", one.verdict]


def as_html(report: DriftReport, pictures: Mapping[str, bytes]) -> str:
    """The page."""
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(report.model)}: drift</title>',
        f"<style>{_STYLE}</style><h1>{escape(report.model)}: drift</h1>",
        f'<p class="sub">of version {report.version}, as of {moment(report.at)} UTC</p>',
        _state(report),
        *(f"<p>{escape(line[0].upper() + line[1:])}.</p>" for line in words(report)),
        *(f'<div class="state open">{escape(note)}</div>' for note in report.notes),
    ]
    for name, heading in _PICTURES.items():
        if name in pictures:
            image = base64.b64encode(pictures[name]).decode()
            parts.append(f'<h2>{heading}</h2><img alt="{heading}" src="data:image/png;base64,{image}">')
    if report.inputs:
        parts.append(f"<h2>Inputs, last window</h2>{_table(report.inputs[-1])}")
        parts.append(f'<p class="sub">{_LEGEND}</p>')
    if report.answers:
        parts.append(f"<h2>Answers, last window</h2>{_table(report.answers[-1])}")
    return "".join(parts) + "</html>\n"


_LEGEND = (
    "sd: Wasserstein distance in standard deviations of before. tv: total variation, the share of rows that would have "
    "to change. auc: how well a classifier tells rows of now from rows of before; 0.5 is not at all. Drifted is what "
    "is significant after Benjamini and Hochberg's correction and whose effect is surely above the margin. Rows worth: "
    "rows of one user are alike, and count as fewer."
)


def _state(report: DriftReport) -> str:
    kind = {"none": "", "cannot tell": " open"}.get(report.triage.kind, " bad")
    if report.outlook == "quiet" and report.triage.kind == "cannot tell":
        kind = ""
    name = report.triage.kind
    return f'<div class="state{kind}"><b>{escape(name[0].upper() + name[1:])}.</b> {escape(report.triage.why)}</div>'


def _table(window: Window) -> str:
    style = [' class="n"' if name in _NUMBERS else "" for name in HEAD]
    top = "".join(f"<th{kind}>{name}" for kind, name in zip(style, HEAD, strict=True))
    rows = []
    for one in ranked(window):
        made = [f"<td{kind}>{escape(cell)}" for kind, cell in zip(style, cells(one), strict=True)]
        made[-1] = f'<td class="{one.verdict}">{one.verdict}'
        rows.append("<tr>" + "".join(made))
    return f"<table><tr>{top}{''.join(rows)}</table>"
