"""A profile as one page that opens anywhere: figures, findings, and a picture of each column. No script, no address."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rung.data.validation import Finding
from rung.domain.profiles import ColumnProfile, Profile

if TYPE_CHECKING:
    import polars as pl

__all__ = ["write"]

_BLUE, _GREY = "#2563eb", "#9ca3af"
_BARS = 12
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#111827;max-width:74rem;margin:2rem auto;padding:0 1.5rem}
h1{font-size:1.6rem;margin:0}.sub{color:#6b7280;margin:.2rem 0 1.4rem}
.finding{border-left:4px solid #d97706;background:#fffbeb;padding:.5rem .8rem;margin:.4rem 0}
.finding.fail{border-color:#dc2626;background:#fef2f2}
.columns{display:grid;grid-template-columns:repeat(auto-fill,minmax(21rem,1fr));gap:1.2rem;margin-top:1.4rem}
.column{border:1px solid #e5e7eb;border-radius:.5rem;padding:.8rem 1rem}
.column h2{font-size:1.05rem;margin:0;overflow-wrap:anywhere}.kind{color:#6b7280;font-weight:400}
img{width:100%;height:auto;display:block;margin:.4rem 0}
table{border-collapse:collapse;width:100%;font-size:.88rem}td{padding:.12rem 0}td+td{text-align:right}
"""


def write(folder: Path, title: str, frame: "pl.DataFrame", profile: Profile, findings: Sequence[Finding] = ()) -> Path:
    """Write `profile.html`, `profile.json` and a PNG of each column that can be drawn; the page is returned."""
    import msgspec

    folder.mkdir(parents=True, exist_ok=True)
    cards = []
    for number, (name, column) in enumerate(profile.columns.items(), 1):
        picture = _picture(frame[name], column)
        if picture:
            (folder / f"{number:03}-{_plain(name)}.png").write_bytes(picture)
        cards.append(_card(name, column, profile, picture))
    notes = "".join(
        f'<div class="finding {one.verdict}"><b>{html.escape(one.fault)}</b> {html.escape(one.text)}</div>'
        for one in findings
    )
    page = folder / "profile.html"
    page.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}: profile</title>'
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>"
        f'<p class="sub">{profile.rows:,} rows, {len(profile.columns)} columns'
        f"{f', label {html.escape(profile.label)}' if profile.label else ''}</p>"
        f'{notes}<div class="columns">{"".join(cards)}</div></html>'
    )
    (folder / "profile.json").write_bytes(msgspec.json.format(msgspec.json.encode(profile), indent=1))
    return page


def _card(name: str, column: ColumnProfile, profile: Profile, picture: bytes) -> str:
    rows = [("missing", f"{column.nulls:,} ({column.nulls / max(1, profile.rows):.1%})")]
    if column.distinct:
        rows.append(("different values", f"{column.distinct:,}"))
    if column.quantiles:
        low, middle, high = (column.quantiles[place] for place in (0, len(column.quantiles) // 2, -1))
        rows += [("least, median, greatest", f"{low:.5g}, {middle:.5g}, {high:.5g}")]
        rows += [("mean, deviation", f"{column.mean:.5g}, {column.deviation:.5g}")]
    if column.size is not None:
        unit = "bytes" if column.kind == "bytes" else "characters"
        rows.append(("mean size", f"{column.size:,.0f} {unit}"))
    image = f'<img alt="" src="data:image/png;base64,{base64.b64encode(picture).decode()}">' if picture else ""
    table = "".join(f"<tr><td>{one}<td>{html.escape(two)}" for one, two in rows)
    mark = " label" if name == profile.label else ""
    return (
        f'<div class="column"><h2>{html.escape(name)} <span class="kind">{column.kind}{mark}</span></h2>'
        f"{image}<table>{table}</table></div>"
    )


def _picture(values: "pl.Series", column: ColumnProfile) -> bytes:
    """A histogram of numbers, bars of words; nothing for what is different in every row."""
    if column.quantiles and column.distinct > 1:
        return _histogram(values.drop_nulls().to_numpy(), column)
    # Bars of a few among very many words say nothing.
    known = values.len() - column.nulls
    if column.top and sum(count for _, count in column.top[:_BARS]) >= 0.2 * known:
        return _bars(column, known)
    return b""


def _histogram(values: Any, column: ColumnProfile) -> bytes:
    values = values.astype(np.float64)
    values = values[np.isfinite(values)]
    low, high = column.quantiles[1], column.quantiles[-2]
    # The outer twentieths may lie far away; drawn to the end they would flatten all the rest.
    far = low - (high - low) > values.min() or high + (high - low) < values.max()
    if column.kind == "integer" and values.max() - values.min() <= 40:
        edges: Any = np.arange(values.min() - 0.5, values.max() + 1.5)
    else:
        spread = (low - (high - low), high + (high - low)) if far and high > low else (values.min(), values.max())
        edges = np.linspace(max(values.min(), spread[0]), min(values.max(), spread[1]), 41)
    figure, axes = _axes()
    inside = values[(values >= edges[0]) & (values <= edges[-1])]
    counts, edges = np.histogram(inside, edges)
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=_BLUE, linewidth=0.4, edgecolor="white")
    if column.kind == "integer":
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    beyond = len(values) - len(inside)
    if beyond:
        axes.set_title(f"{beyond:,} values lie beyond", loc="right", fontsize=8, color=_GREY)
    return _png(figure)


def _bars(column: ColumnProfile, known: int) -> bytes:
    top = column.top[:_BARS]
    rest = known - sum(count for _, count in top)
    names = [value if len(value) <= 24 else f"{value[:23]}\N{HORIZONTAL ELLIPSIS}" for value, _ in top]
    counts = [count for _, count in top]
    colors = [_BLUE] * len(top)
    if rest:
        names, counts, colors = [*names, f"{column.distinct - len(top):,} others"], [*counts, rest], [*colors, _GREY]
    figure, axes = _axes(height=0.5 + 0.22 * len(names))
    # By place, since two shortened names may be the same.
    axes.barh(range(len(names)), counts, color=colors, height=0.7)
    axes.set_yticks(range(len(names)), [name.replace("$", r"\$") for name in names])
    axes.invert_yaxis()
    return _png(figure)


def _axes(height: float = 1.7) -> tuple[Any, Any]:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(4.2, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, length=2)
    axes.locator_params(axis="x", nbins=5)
    return figure, axes


def _png(figure: Any) -> bytes:
    from matplotlib import pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)[:40] or "column"
