"""A scorecard for people: lines for a terminal, one HTML page that needs nothing else, and a folder of files."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import msgspec

from rung.domain.rules import Verdict
from rung.domain.scorecards import Figure, Scorecard, SliceScore
from rung.training.evaluation import Evaluation
from rung.training.scorecard_plots import draw

__all__ = ["as_html", "figure_text", "grouped", "number", "write"]

_CLASSES = 12
"""Classes whose figures are shown; all are in scorecard.json."""
_ABOUT_SLICES = (
    "A slice is called worse where it is worse than all other rows; over all slices together the probability of one "
    "wrong call is 5 %. A slice with too few rows is not known to be as good as the rest."
)

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1f2937;max-width:64rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2.2rem 0 .6rem;border-bottom:1px solid #e5e7eb}
.sub{color:#6b7280;margin:.2rem 0 1.2rem}.head{font-size:2.4rem;font-weight:600;line-height:1.2}
.head small{display:block;font-size:1rem;font-weight:400;color:#6b7280}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.28rem .7rem .28rem 0;vertical-align:top;
border-bottom:1px solid #f3f4f6}th{color:#6b7280;font-weight:500}td.n,th.n{text-align:right;
font-variant-numeric:tabular-nums;white-space:nowrap}.quiet{color:#6b7280}
.tag{display:inline-block;border-radius:.3rem;padding:0 .5rem;font-size:.85rem;color:#fff;white-space:nowrap}
.pass,.better{background:#2a7f4f}.fail,.worse{background:#b3261e}.inconclusive{background:#6b7280}
img{max-width:100%;height:auto;display:block;margin:.6rem 0}code{font-size:.85rem;word-break:break-all}
"""


def write(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write `scorecard.json`, `scorecard.html` and the pictures, and return their paths.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    pictures = draw(evaluation.card, evaluation.graded)
    folder.mkdir(parents=True, exist_ok=True)
    # Of an earlier scorecard, which may have had more of them.
    for old in folder.glob("worst-*.png"):
        old.unlink()
    written = []
    for name, data in pictures.items():
        written.append(folder / name)
        written[-1].write_bytes(data)
    encoded = msgspec.json.format(msgspec.json.encode(evaluation.card), indent=2)
    for name, data in (("scorecard.json", encoded), ("scorecard.html", as_html(evaluation.card, pictures).encode())):
        written.append(folder / name)
        written[-1].write_bytes(data)
    return written


def number(value: float, unit: str = "") -> str:
    """A number as people read it: times in milliseconds."""
    if unit == "s":
        return f"{1e3 * value:.3g} ms"
    if value and abs(value) >= 1000:
        return f"{value:,.0f}"
    if 0.0001 <= abs(value) < 0.001:
        return f"{value:.4f}"
    return f"{value:.3f}" if 0.001 <= abs(value) < 10 or not value else f"{value:.3g}"


def grouped(card: Scorecard) -> str:
    """What counts as one, and how many there are: `40 groups of patient`, `50 blocks of at`."""
    what = card.group if card.group.startswith("blocks of ") else f"groups of {card.group}"
    return f"{card.headline.groups:,} {what}"


def figure_text(figure: Figure) -> str:
    """The estimate and its interval."""
    value, low, high = (number(one, figure.unit) for one in (figure.value, figure.low, figure.high))
    return f"{value} [{low}, {high}]"


def as_html(card: Scorecard, pictures: dict[str, bytes]) -> str:
    """One page with everything on it, pictures included."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>",
        f"<title>{escape(card.model)} version {card.version}</title><style>{_STYLE}</style>",
        *_head(card),
        *_checks(card.checks),
        *_comparison(card),
        *_figures(card),
        *_slices(card, pictures),
    ]
    for title, name in (
        ("Calibration", "calibration.png"),
        ("Confusion", "confusion.png"),
        ("Errors", "residuals.png"),
        ("Overlap", "overlap.png"),
    ):
        if name in pictures:
            parts += [f"<h2>{title}</h2>", _image(pictures[name], title)]
    if card.worst:
        parts.append(f"<h2>The worst {len(card.worst)} pictures</h2>")
        parts += [_image(pictures[one.file], one.name) for one in card.worst if one.file in pictures]
    parts += [*_cost(card), *_origin(card), "</html>"]
    return "\n".join(parts)


def _head(card: Scorecard) -> list[str]:
    head = card.headline
    counted = f"{head.rows:,} rows" + (f" in {escape(grouped(card))}" if card.group else "")
    better = "higher" if card.direction == "maximize" else "lower"
    about = f"95 % interval {number(head.low)} to {number(head.high)}, {counted}; {better} is better"
    lines = [
        f"<h1>{escape(card.model)} version {card.version}</h1>",
        f"<p class='sub'>{escape(card.task)}; {escape(card.held_out or 'rows that were handed in')}</p>",
        f"<div class='head'>{escape(card.metric)} {number(head.value)} <small>{about}</small></div>",
    ]
    if card.refused:
        why = "; ".join(card.refusals)
        lines.append(
            f"<p><span class='tag fail'>refused</span> {card.refused} rows were not answered: {escape(why)}</p>"
        )
    lines += [f"<p class='quiet'>Note: {escape(note)}.</p>" for note in card.notes]
    return lines


def _checks(checks: Sequence[Verdict]) -> list[str]:
    if not checks:
        return []
    rows = [[_tag(one.outcome), escape(one.rule), escape(one.why)] for one in checks]
    return ["<h2>Can the figures be believed?</h2>", _table(("", "check", "finding"), rows)]


def _comparison(card: Scorecard) -> list[str]:
    found = card.comparison
    if found is None:
        return []
    rows = [
        [
            escape(one.figure.name),
            number(one.value),
            number(one.other),
            f"{one.figure.value:+.4g} [{one.figure.low:+.4g}, {one.figure.high:+.4g}]",
            _tag(one.standing),
        ]
        for one in found.differences
    ]
    alike = f" Both say the same in {figure_text(found.agree)} of them." if found.agree else ""
    return [
        f"<h2>Against version {found.version}</h2>",
        f"<p>Answer by answer on {found.rows:,} rows.{alike} Inconclusive does not mean no worse.</p>",
        _table(("metric", "this", "other", "difference", ""), rows, numbers=(1, 2, 3)),
    ]


def _figures(card: Scorecard) -> list[str]:
    whole = [one for one in card.figures if not one.of]
    head = ("metric", "value", "95 % interval", "rows", "groups", "interval by")
    rows = [_row(one, one.name) for one in whole]
    lines = ["<h2>Figures</h2>", _table(head, rows, numbers=(1, 2, 3, 4))]
    classes = list(dict.fromkeys(one.of for one in card.figures if one.of))
    if classes:
        shown = [one for one in card.figures if one.of in classes[:_CLASSES]]
        rows = [_row(one, f"{one.of}: {one.name}") for one in shown]
        more = f" (the first {_CLASSES} of {len(classes)})" if len(classes) > _CLASSES else ""
        lines += [f"<h2>By class{more}</h2>", _table(("class", *head[1:]), rows, numbers=(1, 2, 3, 4))]
    return lines


def _row(one: Figure, name: str) -> list[str]:
    interval = f"{number(one.low, one.unit)} to {number(one.high, one.unit)}"
    return [escape(name), number(one.value, one.unit), interval, f"{one.rows:,}", f"{one.groups:,}", escape(one.method)]


def _slices(card: Scorecard, pictures: dict[str, bytes]) -> list[str]:
    if not card.slices:
        return []
    rows = [[escape(one.name), f"{one.rows:,}", *_slice(one)] for one in card.slices]
    lines = [
        f"<h2>{escape(card.metric)} by slice</h2>",
        f"<p>{_ABOUT_SLICES}</p>",
        _table(("slice", "rows", "value", "less the rest", ""), rows, numbers=(1, 2, 3)),
    ]
    if "slices.png" in pictures:
        lines.append(_image(pictures["slices.png"], "slices"))
    return lines


def _slice(one: SliceScore) -> list[str]:
    value = figure_text(one.figure) if one.figure else "-"
    apart = figure_text(one.difference) if one.difference else "-"
    said = "<span class='tag worse'>worse</span>" if one.worse else f"<span class='quiet'>{escape(one.note)}</span>"
    return [value, apart, said]


def _cost(card: Scorecard) -> list[str]:
    rows = [
        [
            f"{one.rows} row{'s' if one.rows > 1 else ''} a call",
            figure_text(one.p50),
            figure_text(one.p99) if one.p99 else "too few calls",
            f"{one.calls:,}",
        ]
        for one in card.latency
    ]
    return [
        "<h2>Cost</h2>",
        f"<p>The artifact has {card.size:,} bytes. Times of this process on this machine, after warming up.</p>",
        _table(("", "p50", "p99", "calls"), rows, numbers=(1, 2, 3)),
    ]


def _origin(card: Scorecard) -> list[str]:
    rows = [
        ["version", f"<code>{card.digest}</code>"],
        ["trained on", "<br>".join(f"<code>{escape(one)}</code>" for one in card.trained_on) or "not known"],
        ["evaluated on", f"<code>{card.dataset}</code>" if card.dataset else escape(card.held_out)],
        ["made", escape(card.created)],
    ]
    return ["<h2>Where this is from</h2>", _table(("", ""), rows)]


def _tag(outcome: str) -> str:
    return f"<span class='tag {outcome}'>{outcome}</span>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Cells are HTML already."""

    def line(cells: Sequence[str], kind: str) -> str:
        marked = (
            f"<{kind}{' class=n' if place in numbers else ''}>{cell}</{kind}>" for place, cell in enumerate(cells)
        )
        return f"<tr>{''.join(marked)}</tr>"

    return f"<table>{line(head, 'th') if any(head) else ''}{''.join(line(row, 'td') for row in rows)}</table>"


def _image(data: bytes, about: str) -> str:
    return f"<img alt='{escape(about, quote=True)}' src='data:image/png;base64,{base64.b64encode(data).decode()}'>"
