"""Each seeded fault of real data is found and named; clean data passes at the stated rate."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rung.data import profile, validation
from rung.domain.errors import ConfigurationError, InvalidData
from rung.settings.project import DataSection
from rung.stats.intervals import wilson

BIKES = Path(__file__).resolve().parents[4] / "shared" / "data" / "bike_sharing" / "hour.csv"

SECTION = DataSection(label="cnt", time="instant", key=("instant",), ignore=("dteday",))
WEATHER = ["clear", "mist", "rain", "storm"]


@pytest.fixture(scope="module")
def bikes():
    if not BIKES.is_file():
        pytest.skip("the bike rentals do not lie beside the repository")
    table = pl.read_csv(BIKES)
    words = pl.Series("weather", [WEATHER[one - 1] for one in table["weathersit"]])
    # In no order of time, so that two halves differ by chance alone: that is what "clean" means here.
    return table.with_columns(words).sample(fraction=1.0, shuffle=True, seed=1)


@pytest.fixture(scope="module")
def baseline(bikes):
    return profile.make(bikes[:12_000], label="cnt", time="instant", key=("instant",))


@pytest.fixture
def batch(bikes):
    return bikes[12_000:14_000]


def found(batch, baseline, section=SECTION, **more):
    return {(one.fault, one.column): one.verdict for one in validation.check(batch, baseline, section, **more)}


def test_a_clean_batch_has_nothing_red(batch, baseline):
    assert "fail" not in found(batch, baseline, fresh=True).values()


FAULTS = {
    "missing column": (lambda rows: rows.drop("temp"), ("missing column", "temp")),
    "wrong type": (lambda rows: rows.with_columns(pl.col("hum").cast(pl.String)), ("wrong type", "hum")),
    "unit x100": (lambda rows: rows.with_columns(pl.col("temp") * 100), ("unit change", "temp")),
    "unit /100": (lambda rows: rows.with_columns(pl.col("hum") / 100), ("unit change", "hum")),
    "shifted mean": (lambda rows: rows.with_columns(pl.col("hum") + 0.6), ("shifted mean", "hum")),
    "new category": (
        lambda rows: rows.with_columns(
            pl.when(pl.int_range(pl.len()) % 20 == 0).then(pl.lit("hail")).otherwise("weather").alias("weather")
        ),
        ("new category", "weather"),
    ),
    "nulls": (
        lambda rows: rows.with_columns(
            pl.when(pl.int_range(pl.len()) % 8 == 0).then(None).otherwise("windspeed").alias("windspeed")
        ),
        ("nulls", "windspeed"),
    ),
    "duplicate rows": (lambda rows: pl.concat([rows, rows[:100]]), ("duplicate rows", "")),
    "duplicate batch": (
        lambda rows: pl.concat([rows.drop("instant"), rows[:100].drop("instant")]),
        ("duplicate batch", ""),
    ),
    "new code": (
        lambda rows: rows.with_columns(
            pl.when(pl.int_range(pl.len()) % 20 == 0).then(9).otherwise("weathersit").alias("weathersit")
        ),
        ("new category", "weathersit"),
    ),
    "label gone": (lambda rows: rows.drop("cnt"), ("label missing", "cnt")),
    "label empty": (
        lambda rows: rows.with_columns(pl.when(pl.col("hr") == 3).then(None).otherwise("cnt").alias("cnt")),
        ("label empty", "cnt"),
    ),
    "one label": (lambda rows: rows.with_columns(pl.lit(7).alias("cnt")), ("one class", "cnt")),
    "empty": (lambda rows: rows[:0], ("empty", "")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_seeded_fault_is_red_and_stops_training(fault, batch, baseline):
    spoil, wanted = FAULTS[fault]
    findings = validation.check(spoil(batch), baseline, SECTION)
    assert {(one.fault, one.column): one.verdict for one in findings}.get(wanted) == "fail"
    with pytest.raises(InvalidData, match="the data is red, so nothing was trained"):
        validation.gate(findings)


def test_a_batch_that_came_before_is_red(bikes, baseline, batch):
    again = bikes[3_000:5_000]
    assert found(again, baseline, fresh=True)[("seen before", "")] == "fail"
    # A whole data set holds what it held before; only a batch of news should not.
    assert ("seen before", "") not in found(again, baseline)
    assert ("seen before", "") not in found(batch, baseline, fresh=True)


def test_a_constant_column_is_yellow(batch, baseline):
    assert found(batch.with_columns(pl.lit(1).alias("holiday")), None)[("constant column", "holiday")] == "warn"


def test_a_modest_shift_is_yellow_with_its_size(batch, baseline):
    moved = batch.with_columns(pl.col("hum") + 0.1)
    (finding,) = [one for one in validation.check(moved, baseline, SECTION) if one.column == "hum"]
    assert finding.verdict == "warn"
    assert "standard deviations [+0." in finding.text


def test_old_rows_are_red():
    rows = pl.DataFrame({"at": ["2026-01-01T00:00:00", "2026-01-05T00:00:00"], "y": [1, 2]})
    section = DataSection(time="at", label="y", stale="2d")
    now = datetime(2026, 1, 8, tzinfo=UTC)
    (finding,) = validation.check(rows, None, section, now=now)
    assert (finding.fault, finding.verdict) == ("stale", "fail")
    assert "3.0 days old" in finding.text
    assert validation.check(rows, None, section, now=datetime(2026, 1, 6, tzinfo=UTC)) == []


def test_an_age_that_cannot_be_told_is_unclear_and_never_well():
    section = DataSection(time="at", stale="2d")
    (finding,) = validation.check(pl.DataFrame({"at": ["spring", "autumn"]}), None, section)
    assert finding.verdict == "inconclusive"
    with pytest.raises(ConfigurationError, match="stale = 'soon' needs a number with s, m, h, d or w"):
        validation.check(pl.DataFrame({"at": [1, 2]}), None, DataSection(time="at", stale="soon"))


@pytest.mark.parametrize("seed", range(20))
def test_another_unit_is_seen_around_zero_too(seed):
    random = np.random.default_rng(seed)
    before = profile.make(pl.DataFrame({"x": random.normal(size=5000)}))
    now = pl.DataFrame({"x": random.normal(size=500) * 100})
    assert found(now, before, DataSection())[("unit change", "x")] == "fail"
    assert found(pl.DataFrame({"x": random.normal(size=500)}), before, DataSection()) == {}


def test_few_rows_are_unclear_and_said():
    before = profile.make(pl.DataFrame({"x": np.arange(1000.0)}))
    findings = validation.check(pl.DataFrame({"x": [1e9, 2e9]}), before, DataSection())
    assert [one.verdict for one in findings] == ["inconclusive"]
    assert validation.gate(findings) == [
        "data: 2 rows are too few to tell whether they are spread as they were; 30 are needed"
    ]


def test_infinities_and_wide_numbers_do_no_harm(tmp_path):
    import msgspec

    from rung.data.profile_report import write
    from rung.domain.profiles import Profile

    rows = pl.DataFrame(
        {"x": [1.0, float("inf"), float("nan"), 2.0], "n": [0, 1, 10**10, 2], "<b>": ["&", "<", "a", "a"]}
    )
    made = profile.make(rows)
    assert msgspec.json.decode(msgspec.json.encode(made), type=Profile) == made
    page = write(tmp_path, "<script>", rows, made).read_text()
    assert "<script>" not in page
    assert "<b>" not in page


@pytest.mark.parametrize(
    ("times", "fault"),
    [([1_767_000_000_000, 1_767_000_000_500], None), ([4_000_000_000], "stale"), ([10**18], "stale")],
)
def test_times_in_milliseconds_are_read_and_those_to_come_are_red(times, fault):
    now = datetime.fromtimestamp(1_767_000_060, UTC)
    findings = validation.check(pl.DataFrame({"at": times}), None, DataSection(time="at", stale="2d"), now=now)
    assert [one.fault for one in findings] == ([fault] if fault else [])


def test_a_time_that_is_not_there_is_named():
    (finding,) = validation.check(pl.DataFrame({"a": [1, 2]}), None, DataSection(time="at", stale="2d"))
    assert "there is no column 'at' (data.time); there are a" in finding.text


def rate(bikes, repeats, rows, seed):
    """How often a clean batch is red: baseline and batch drawn anew from one population each time."""
    random = np.random.default_rng(seed)
    columns = ["hr", "temp", "hum", "windspeed", "weather", "workingday", "cnt"]
    table = bikes.select(columns)
    section = DataSection(label="cnt")
    red = 0
    for _ in range(repeats):
        picked = random.permutation(table.height)
        before = profile.make(table[picked[:8_000]], label="cnt")
        findings = validation.check(table[picked[8_000 : 8_000 + rows]], before, section, fresh=False)
        red += any(one.verdict == "fail" for one in findings)
    return red


def test_clean_batches_are_red_at_most_as_often_as_said(bikes):
    red = rate(bikes, 30, 300, 1)
    assert wilson(red, 30, level=0.99).low <= validation.ALPHA


@pytest.mark.nightly
@pytest.mark.parametrize("rows", [50, 300, 2000])
def test_clean_batches_are_red_at_most_as_often_as_said_over_a_thousand(bikes, rows):
    red = rate(bikes, 1000, rows, rows)
    print(f"{red} of 1000 clean batches of {rows} rows were red: {wilson(red, 1000)}")
    assert wilson(red, 1000, level=0.99).low <= validation.ALPHA


def test_new_values_of_a_column_that_the_model_does_not_see_are_told_and_are_no_fault() -> None:
    before = pl.DataFrame({"x": np.arange(200.0), "site": ["a", "b"] * 100, "y": [0, 1] * 100})
    after = before.with_columns(site=pl.lit("c"))
    for features, verdict in [((), "fail"), (("x",), "warn")]:
        section = DataSection(label="y", features=features, slices=("site",))
        found = validation.check(after, profile.make(before, label="y"), section)
        assert [one.verdict for one in found if one.fault == "new category"] == [verdict]
