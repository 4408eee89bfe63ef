"""Rows are divided so that nothing of the future or of a neighbour is learned from, and stay where they are."""

from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.data.splits import divide
from rung.domain.errors import InvalidData
from rung.settings.project import DataSection


def table(count, **columns):
    return pl.DataFrame({"id": range(count), **columns})


def ids(parts):
    return {split: part["id"].to_list() for split, part in parts.items()}


@given(st.integers(1, 300), st.integers(0, 60))
@settings(max_examples=30, deadline=None)
def test_a_row_stays_in_its_split_when_others_come(count, more):
    section = DataSection(key=("id",))
    before, after = ids(divide(table(count), section)), ids(divide(table(count + more), section))
    for split, rows in before.items():
        assert set(rows) <= set(after[split])
    assert sorted(row for part in after.values() for row in part) == list(range(count + more))


def test_the_shares_are_about_what_was_asked_for():
    parts = divide(table(20_000), DataSection(key=("id",), validation=0.1, test=0.2))
    assert parts["validation"].height == pytest.approx(2000, abs=150)
    assert parts["test"].height == pytest.approx(4000, abs=200)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=200))
@settings(max_examples=50, deadline=None)
def test_by_time_no_row_is_later_than_those_that_judge_it(times):
    parts = divide(table(len(times), at=times), DataSection(time="at"))
    ends = [(part["at"].min(), part["at"].max()) for part in parts.values() if part.height]
    # Equal times stay together, so there is no overlap at the edges either.
    assert all(before[1] < after[0] for before, after in pairwise(ends))
    assert sum(part.height for part in parts.values()) == len(times)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=100))
@settings(max_examples=50, deadline=None)
def test_a_group_is_never_divided(groups):
    parts = divide(table(len(groups), who=groups), DataSection(group="who"))
    found = [set(part["who"]) for part in parts.values()]
    assert sum(len(one) for one in found) == len(set.union(*found))


def test_a_column_that_says_it_is_followed():
    parts = divide(table(4, part=["train", "val", "test", "validation"]), DataSection(split="part"))
    assert ids(parts) == {"train": [0], "validation": [1, 3], "test": [2]}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (DataSection(split="part"), "the split column 'part' holds 'holdout' in 1 rows"),
        (DataSection(time="when"), r"there is no column 'when' \(data.time\); there are id, part"),
        (DataSection(group="who"), r"no column 'who' \(data.group\)"),
        (DataSection(key=("what",)), r"no column 'what' \(data.key\)"),
        (DataSection(validation=0.6, test=0.5), "leave no rows to learn from"),
    ],
)
def test_what_will_not_do_is_named(section, message):
    with pytest.raises(InvalidData, match=message):
        divide(table(2, part=["train", "holdout"]), section)


def test_equal_rows_are_never_on_both_sides():
    frame = pl.DataFrame({"text": ["a", "b", "c", "a", "b", "c"] * 20})
    parts = divide(frame, DataSection())
    assert sum(part["text"].n_unique() for part in parts.values()) == 3
