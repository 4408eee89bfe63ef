import numpy as np
import polars as pl
import pytest

from rung.data.drift_reference import column_of, counts_of, names_of, of_profile, of_rows
from rung.data.profile import make
from rung.settings.project import DataSection


def test_numbers_and_categories_are_told_apart():
    rng = np.random.default_rng(1)
    assert column_of(pl.Series(rng.normal(size=100))).values.size == 100
    few = column_of(pl.Series([1, 2, 2, None]))
    assert (few.values, few.counts, few.rows, few.nulls) == (None, {"2": 2.0, "1": 1.0}, 3.0, 1.0)
    assert column_of(pl.Series([True, False])).counts == {"false": 1.0, "true": 1.0}
    assert column_of(pl.Series([b"x"])) is None
    assert column_of(pl.Series([], dtype=pl.Float64)) is None


def test_what_is_not_finite_is_missing():
    rng = np.random.default_rng(2)
    found = column_of(pl.Series([*rng.normal(size=50), float("nan"), float("inf"), None]))
    assert (found.rows, found.nulls) == (50.0, 3.0)


def test_a_whole_number_and_its_fraction_are_one_category():
    assert names_of(pl.Series([1, 2]))[0].to_list() == names_of(pl.Series([1.0, 2.0]))[0].to_list()
    assert counts_of(pl.Series(["b", "a", "b"])) == {"b": 2.0, "a": 1.0}


def test_what_the_model_does_not_see_is_left_out():
    rows = pl.DataFrame({"a": [1.5, 2.5], "y": [0, 1], "id": ["p", "q"], "later": [1, 2]})
    found = of_rows(rows, DataSection(source="x", label="y", key=("id",), ignore=("later",)), "rows")
    assert set(found.columns) == {"a"}
    assert found.labels.counts == {"0": 1.0, "1": 1.0}
    assert set(found.profile.columns) == {"a"}


def test_words_are_not_unknown_to_rows_of_their_own_kind():
    rng = np.random.default_rng(3)
    words = np.array([f"word{chr(97 + one // 26)}{chr(97 + one % 26)}" for one in range(300)])
    texts = [" ".join(rng.choice(words, 12)) for _ in range(400)]
    found = of_rows(pl.DataFrame({"text": texts}), DataSection(source="x"), "rows")
    assert set(found.known) == {"text"}
    assert found.columns["text unknown"].values is None  # nearly always 0: few different values
    assert max(found.columns["text unknown"].counts, key=found.columns["text unknown"].counts.get) == "0"
    assert found.table.height == 200


def test_a_profile_gives_quantiles_and_counts():
    rng = np.random.default_rng(4)
    rows = pl.DataFrame(
        {"n": rng.normal(size=1_000), "c": rng.choice(["x", "y"], 1_000), "t": [f"{i}" for i in range(1_000)]}
    )
    found = of_profile(make(rows), DataSection(source="x"), 3, "a note")
    assert found.columns["n"].ends == pytest.approx(np.quantile(rows["n"].to_numpy(), (0.05, 0.95)))
    assert found.columns["n"].rows == 1_000
    assert set(found.columns["c"].counts) == {"x", "y"}
    assert "t" not in found.columns
    assert found.notes[0] == "a note"
    assert "too little to compare t" in found.notes[1]
