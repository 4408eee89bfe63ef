"""A report on live quality as sentences, and as one page that opens anywhere. No script, no address.

Truth and estimate never share a chart, let alone a line.
"""

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

import msgspec

from rung.data.quality_plots import draw
from rung.data.quality_watch import moment
from rung.domain.quality import ASSUMPTION, QualityReport, Watch
from rung.domain.scorecards import Figure

__all__ = ["as_html", "height", "span", "words", "write"]

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1f2937;max-width:66rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2.2rem 0 .6rem;border-bottom:1px solid #e5e7eb}
.sub{color:#6b7280;margin:.2rem 0 1.2rem}table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.28rem .7rem .28rem 0;border-bottom:1px solid #f3f4f6}th{color:#6b7280;font-weight:500}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}.quiet{color:#6b7280}
.state{border-left:4px solid #2a7f4f;background:#f0fdf4;padding:.5rem .8rem;margin:.6rem 0}
.state.fail{border-color:#b3261e;background:#fef2f2}.state.inconclusive{border-color:#6b7280;background:#f9fafb}
.estimate{border:1px dashed #9ca3af;border-radius:.4rem;padding:.2rem 1rem;margin-top:1rem}
img{max-width:100%;height:auto;display:block;margin:.6rem 0}
"""
_PICTURES = {
    "quality.png": "Quality",
    "error.png": "Error",
    "delay.png": "Delay of labels",
    "coverage.png": "Labels by arm",
}


def write(folder: Path, report: QualityReport) -> Path:
    """Write `quality.html`, `quality.json` and the pictures; the page is returned.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    pictures = draw(report)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in pictures.items():
        (folder / name).write_bytes(data)
    (folder / "quality.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    page = folder / "quality.html"
    page.write_text(as_html(report, pictures))
    return page


def words(report: QualityReport) -> Iterator[str]:
    """How labels come, in sentences."""
    delay = report.delay
    if not delay.predictions:
        yield "no prediction is logged in this time"
        return
    yield f"{delay.labels:,} of {delay.predictions:,} predictions have a label so far"
    if delay.arrived:
        last = delay.arrived[-1]
        said = f"of 100 predictions about {100 * last[1]:.0f} have a label by the age of {span(last[0])}"
        half = next((seconds for seconds, share in delay.curve if share >= 0.5), None)
        yield f"{said}; half of the labels come within {span(half)}" if half is not None else said
    if report.maturity_seconds is None:
        yield f"from which age on a prediction counts: {delay.why}; until then there is no figure"
    else:
        yield f"a prediction counts from an age of {span(report.maturity_seconds)} on: {delay.why}"
    young = sum(not one.mature for one in report.cohorts)
    if young:
        yield f"{young} of {len(report.cohorts)} cohorts are not mature yet and have no figure"
    for one in report.checks:
        gap = one.difference
        yield (
            f"the estimate of version {one.version} was {one.estimated:.3f} where {one.true:.3f} was true: "
            f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"
        )
    if report.imbalance.outcome == "fail" or len(report.coverage) > 1:
        yield report.imbalance.why


def span(seconds: float) -> str:
    """A stretch of time for people, such as `14 min`."""
    for limit, size, unit in ((120.0, 1.0, "s"), (7_200.0, 60.0, "min"), (172_800.0, 3_600.0, "h")):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86_400:.3g} days"


def height(level: float) -> str:
    """The level of a detector; how far beyond a million it is says nothing more."""
    return "over 1,000,000" if level > 1e6 else f"{level:,.4g}" if level < 1_000 else f"{level:,.0f}"


def as_html(report: QualityReport, pictures: Mapping[str, bytes]) -> str:
    """The page."""
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(report.model)}: quality</title>',
        f"<style>{_STYLE}</style><h1>{escape(report.model)}: live quality</h1>",
        f'<p class="sub">by labels, as of {moment(report.at)} UTC</p>',
        *(f"<p>{escape(line)}</p>" for line in words(report)),
        *([_state(report.detector)] if report.detector else []),
    ]
    if report.imbalance.outcome == "fail":
        parts.append(f'<div class="state fail">{escape(report.imbalance.why)}</div>')
    parts += [f'<div class="state inconclusive">{escape(note)}</div>' for note in report.notes]
    for name, title in _PICTURES.items():
        if name in pictures:
            parts.append(f"<h2>{title}</h2>{_image(pictures[name], title)}")
        if name == "error.png" or (name == "quality.png" and "error.png" not in pictures):
            parts.append(_cohorts(report))
    if "estimate.png" in pictures:
        parts.append(
            f'<div class="estimate"><h2>Estimate, without labels</h2><p class="quiet">{escape(ASSUMPTION)}</p>'
            f"{_image(pictures['estimate.png'], 'Estimate')}{_estimates(report)}</div>"
        )
    return "".join(parts) + "</html>\n"


def _state(watch: Watch) -> str:
    if watch.limit is None:
        kind, level = "inconclusive", ""
    else:
        kind = "fail" if watch.alarm else "pass"
        level = f" Level {height(watch.level)}; an alarm is raised above {watch.run_length:,.0f}."
    said = "Alarm" if watch.alarm else "No alarm"
    when = f" at {moment(watch.at)}" if watch.at is not None else ""
    return (
        f'<div class="state {kind}"><b>{said}{when}</b> on version {watch.version}: {escape(watch.why)}.{level}</div>'
    )


def _image(data: bytes, title: str) -> str:
    import base64

    return f'<img alt="{escape(title)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'


def _cohorts(report: QualityReport) -> str:
    errors = any(one.error for one in report.cohorts)
    head = ["from", "version", "answers", "labelled", "coverage", "quality", *(["error"] if errors else []), ""]
    rows = []
    for one in reversed(report.cohorts):
        cells = [
            moment(one.start),
            str(one.version),
            f"{one.predictions:,}",
            f"{one.labelled:,}",
            f"{one.coverage:.1%}",
        ]
        cells += [_figure(one.quality), *([_figure(one.error)] if errors else [])]
        rows.append([*cells, "" if one.mature else "not mature yet"])
    return _table(head, rows)


def _estimates(report: QualityReport) -> str:
    head = ["from", "version", "answers", "expected accuracy", "expected F1", "expected AUC"]
    rows = [
        [
            moment(one.start),
            str(one.version),
            f"{one.predictions:,}",
            _figure(one.accuracy),
            "-" if one.f1 is None else f"{one.f1:.3f}",
            "-" if one.auc is None else f"{one.auc:.3f}",
        ]
        for one in reversed(report.estimates)
    ]
    return _table(head, rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    number = [' class="n"' if place else "" for place in range(len(head))]
    top = "".join(f"<th{kind}>{escape(cell)}" for kind, cell in zip(number, head, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}" for kind, cell in zip(number, row, strict=True)) for row in rows
    )
    return f"<table><tr>{top}{body}</table>"


def _figure(figure: Figure | None) -> str:
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]" if figure else "-"
