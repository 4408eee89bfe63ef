import numpy as np
import polars as pl
import pytest

from rung.data.quality_coverage import by_arm, imbalance


def mature(rng, units, coverage, *, each=3, share=0.3, epoch=2):
    """Predictions of units divided by lot, those of an arm labelled with its probability."""
    arms = np.where(rng.random(units) < share, "canary", "stable")
    rows = [
        (f"u{unit}", arm, 1 + (arm == "canary"), epoch, 0.5, 1.0 if rng.random() < coverage[arm] else None)
        for unit, arm in enumerate(arms.tolist())
        for _ in range(each)
    ]
    return pl.DataFrame(
        rows,
        schema={
            "unit": pl.String,
            "arm": pl.String,
            "version": pl.Int64,
            "epoch": pl.Int64,
            "propensity": pl.Float64,
            "received": pl.Float64,
        },
        orient="row",
    )


def test_coverage_counts_predictions_and_units():
    frame = mature(np.random.default_rng(1), 100, {"stable": 1.0, "canary": 0.0})
    canary, stable = by_arm(frame)
    assert (canary.coverage, canary.labelled, canary.labelled_units) == (0.0, 0, 0)
    assert (stable.coverage, stable.labelled, stable.labelled_units) == (1.0, stable.predictions, stable.units)
    assert canary.units + stable.units == 100


@pytest.mark.parametrize("coverage", [{"stable": 0.6, "canary": 0.2}, {"stable": 0.98, "canary": 0.8}])
def test_labels_that_are_missing_in_one_arm_are_noticed(coverage):
    rng = np.random.default_rng(2)
    found = [imbalance(mature(rng, 1_000, coverage)).outcome for _ in range(20)]
    assert found.count("fail") >= 18


def test_releases_that_one_arm_answered_are_no_comparison():
    rng = np.random.default_rng(3)
    before = mature(rng, 2_000, {"stable": 0.1, "canary": 0.1}, share=0.0, epoch=1)
    after = mature(rng, 2_000, {"stable": 0.9, "canary": 0.9}, share=1.0, epoch=2)
    verdict = imbalance(pl.concat([before, after]))
    assert verdict.outcome == "inconclusive"
    assert "nothing to compare" in verdict.why


@pytest.mark.nightly
@pytest.mark.parametrize("share", [0.5, 0.05])
def test_labels_that_come_back_evenly_seldom_alarm_at_any_look(share):
    rng = np.random.default_rng(4)
    alarms = 0
    for _ in range(300):
        frame = mature(rng, 3_000, {"stable": 0.7, "canary": 0.7}, each=1, share=share)
        alarms += any(imbalance(frame[:stop]).outcome == "fail" for stop in range(150, 3_001, 150))
    assert alarms <= 9  # 1 % is the promise
