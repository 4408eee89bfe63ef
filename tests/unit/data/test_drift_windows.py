import math

import numpy as np
import polars as pl
import pytest

from rung.data.drift_reference import column_of, of_rows
from rung.data.drift_windows import ALL, TIME, UNIT, compare, compare_column, divide
from rung.settings.project import DataSection, DriftSection


def rows(count, columns=None):
    table = {TIME: np.arange(count, dtype=float), UNIT: [f"u{number}" for number in range(count)]}
    return pl.DataFrame({**(columns or {}), **table})


@pytest.mark.parametrize(
    ("count", "sizes"), [(0, []), (70, [70]), (100, [100]), (250, [100, 100]), (1_000, [100, 100, 100])]
)
def test_the_newest_row_ends_the_last_window(count, sizes):
    found = divide(rows(count), DriftSection(window=100))
    assert [one.height for one in found] == sizes
    if sizes:
        assert found[-1][TIME].max() == count - 1
        joined = pl.concat(found)[TIME].to_list()
        assert joined == sorted(set(joined))


def test_empty_stretches_of_time_are_no_windows():
    frame = rows(30).with_columns(pl.Series(TIME, [0.0] * 10 + [25.0] * 20))
    assert [one.height for one in divide(frame, DriftSection(seconds=10.0))] == [10, 20]
    assert [one.height for one in divide(frame, DriftSection(seconds=5.0))] == [20]


def test_two_columns_that_now_go_together_are_found_by_all_together_alone():
    rng = np.random.default_rng(1)

    def pairs(count, alike):
        first = rng.normal(size=count)
        second = alike * first + math.sqrt(1 - alike**2) * rng.normal(size=count)
        return {"a": first, "b": second, "c": rng.normal(size=count)}

    reference = of_rows(pl.DataFrame(pairs(3_000, 0.0)), DataSection(source="x"), "rows")
    window = compare(rows(800, pairs(800, 0.8)), reference.columns, reference.table, DriftSection())
    verdicts = {one.column: one.verdict for one in window.columns}
    assert verdicts == {"a": "quiet", "b": "quiet", "c": "quiet", ALL: "drifted"}
    quiet = compare(rows(800, pairs(800, 0.0)), reference.columns, reference.table, DriftSection())
    assert {one.verdict for one in quiet.columns} == {"quiet"}


def test_a_column_that_was_always_missing_drifts_when_it_is_there():
    before = {"a": column_of(pl.Series([None] * 500, dtype=pl.Float64))}
    there = rows(200, {"a": np.arange(200.0)})
    assert [(one.kind, one.verdict) for one in compare(there, before, None, DriftSection()).columns] == [
        ("nulls", "drifted")
    ]
    gone = rows(200, {"a": [None] * 200})
    assert [(one.kind, one.verdict) for one in compare(gone, before, None, DriftSection()).columns] == [
        ("nulls", "quiet")
    ]


def test_one_column_alone():
    rng = np.random.default_rng(2)
    before, units = column_of(pl.Series(rng.choice(["yes", "no"], 2_000))), np.arange(400)
    same = compare_column("label", before, pl.Series(rng.choice(["yes", "no"], 400)), units, DriftSection())
    moved = compare_column("label", before, pl.Series(["yes"] * 400), units, DriftSection())
    assert (same.verdict, moved.verdict, moved.column) == ("quiet", "drifted", "label")
