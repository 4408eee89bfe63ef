"""Rows of a log divided into windows, and each window held against a reference, column by column."""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rung.data.drift_reference import Column, counts_of, names_of, numbers_of
from rung.domain.drift import ColumnDrift, Outlook, Window
from rung.settings.project import DriftSection
from rung.stats.drift import Shift, benjamini_hochberg, categories, judge, numbers, worth
from rung.stats.joint import together

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

__all__ = ["ALL", "TIME", "UNIT", "compare", "compare_column", "divide"]

ALL = "all columns together"
TIME, UNIT = "rung: asked", "rung: unit"
"""Columns with when a row was asked, in seconds since the epoch, and by whom."""

_Kind = Literal["number", "category", "nulls", "joint"]


def divide(rows: "pl.DataFrame", rule: DriftSection) -> "list[pl.DataFrame]":
    """Windows, oldest first; the newest row ends the last. A part of a window counts only where there is no whole."""
    import polars as pl

    if not rows.height:
        return []
    of = rule.persistence[1]
    if rule.seconds:
        last = rows[TIME].max()
        place = ((last - pl.col(TIME)) // rule.seconds).cast(pl.Int64)
        parts = [rows.filter(place == one) for one in reversed(range(of))]
        return [part for part in parts if part.height]
    whole = min(of, rows.height // rule.window)
    if not whole:
        return [rows]
    first = rows.height - whole * rule.window
    return [rows[first + one * rule.window : first + (one + 1) * rule.window] for one in range(whole)]


def compare(
    frame: "pl.DataFrame", columns: dict[str, Column], table: "pl.DataFrame | None", rule: DriftSection
) -> Window:
    """Test every column of a window, and all numbers together where the rows of the reference are known (`table`)."""
    units = np.unique(frame[UNIT].fill_null("").to_numpy(), return_inverse=True)[1]
    tests: list[tuple[str, _Kind, float, Shift]] = []
    for name, column in columns.items():
        if name in frame.columns:
            tests += _tests(name, column, frame[name], units, rule)
    if table is not None:
        tests += _joint(frame, columns, table, units, rule)
    significant = benjamini_hochberg([shift.p for *_, shift in tests], rule.alpha)
    found = [
        _column_drift(name, kind, rows, shift, judge(shift, significant=flag))
        for (name, kind, rows, shift), flag in zip(tests, significant, strict=True)
    ]
    times = frame[TIME]
    return Window(float(times.min()), float(times.max()), frame.height, tuple(found))  # type: ignore[arg-type]


def _tests(
    name: str, before: Column, now: "pl.Series", units: "NDArray[np.int64]", rule: DriftSection
) -> list[tuple[str, _Kind, float, Shift]]:
    how: dict[str, Any] = {"margin": rule.margin, "alpha": rule.alpha, "count": before.rows or None}
    kind: _Kind
    if before.values is not None:
        values, places = numbers_of(now)
        if before.ends is not None:
            values = values.clip(*before.ends)
        rows = worth(values, units[places]) if values.size else 0.0
        shift, kind = numbers(before.values, values, rows=rows, **how), "number"
    else:
        texts, places = names_of(now)
        codes = np.unique(texts.to_numpy(), return_inverse=True)[1] if texts.len() else np.array([], int)
        rows = worth(codes.astype(float), units[places]) if texts.len() else 0.0
        shift, kind = categories(before.counts, counts_of(texts), rows=rows, **how), "category"
    # A column that was always missing has nothing that could move; that it is there now is told below.
    found: list[tuple[str, _Kind, float, Shift]] = [(name, kind, rows, shift)] if before.rows else []
    missing = now.len() - places.size
    if missing or before.nulls:
        counts = {"known": before.rows, "missing": before.nulls}
        here = {"known": float(places.size), "missing": float(missing)}
        flags = np.ones(now.len())
        flags[places] = 0.0
        rows = worth(flags, units)
        shift = categories(counts, here, rows=rows, margin=rule.margin, alpha=rule.alpha)
        found.append((name, "nulls", rows, shift))
    return found


def _joint(
    frame: "pl.DataFrame",
    columns: dict[str, Column],
    table: "pl.DataFrame",
    units: "NDArray[np.int64]",
    rule: DriftSection,
) -> list[tuple[str, _Kind, float, Shift]]:
    """All numbers together; missing ones, which are tested apart, are drawn from before: so they move nothing."""
    import polars as pl

    names = [name for name, one in columns.items() if one.values is not None and name in frame.columns]
    if len(names) < 2:
        return []

    def matrix(rows: "pl.DataFrame") -> Any:
        cells = rows.select(pl.col(names).cast(pl.Float64, strict=False)).fill_null(np.nan).to_numpy().copy()
        chance = np.random.default_rng(6)
        for place, name in enumerate(names):
            holes = ~np.isfinite(cells[:, place])
            cells[holes, place] = chance.choice(columns[name].values, holes.sum())  # type: ignore[arg-type]
        return cells

    now = matrix(frame)
    rows = min(worth(column, units) for column in now.T)
    shift = together(matrix(table), now, margin=rule.margin, alpha=rule.alpha, rows=rows, units=units)
    return [(ALL, "joint", rows, shift)]


def _column_drift(name: str, kind: _Kind, rows: float, shift: Shift, verdict: Outlook) -> ColumnDrift:
    measures: dict[_Kind, Any] = {"number": "standard deviations", "joint": "area under the curve"}
    return ColumnDrift(
        column=name,
        kind=kind,
        test=shift.test,
        p=shift.p,
        effect=shift.effect,
        low=shift.low,
        margin=shift.margin,
        measure=measures.get(kind, "total variation"),
        verdict=verdict,
        detectable=shift.detectable if np.isfinite(shift.detectable) else None,
        psi=shift.psi,
        rows=rows,
    )


def compare_column(
    name: str, before: Column, now: "pl.Series", units: "NDArray[np.int64]", rule: DriftSection
) -> ColumnDrift:
    """One column alone, with the code of the unit of each row; what is missing in it is left out."""
    _, kind, rows, shift = _tests(name, before, now, units, rule)[0]
    return _column_drift(name, kind, rows, shift, judge(shift, significant=shift.p <= rule.alpha))
