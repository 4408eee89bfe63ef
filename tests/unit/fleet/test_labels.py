import numpy as np
import pytest

from rung.domain.records import FeedbackRecord
from rung.fleet.labels import Delays, Labels, quality_of


def feedback(kind: str, value: object) -> FeedbackRecord:
    return FeedbackRecord("e", "id", 1.0, 1.0, kind, value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "value", "quality"),
    [
        ("score", 0.8, 0.8),
        ("score", True, 1.0),
        ("score", "good", None),
        ("score", float("nan"), None),
        ("label", {"correct": False}, 0.0),
        ("label", {"score": 0.25}, 0.25),
        ("label", True, 1.0),
        ("label", 3, None),
        ("label", "cat", None),
        ("mask", {"media": "image/png", "data": ""}, None),
        ("correction", True, None),
        ("correction", {"score": 1}, None),
    ],
)
def test_what_feedback_says_of_quality(kind: str, value: object, quality: float | None) -> None:
    assert quality_of(feedback(kind, value)) == quality


@pytest.mark.parametrize(
    ("value", "predicted", "quality"),
    [("cat", "cat", 1.0), ("dog", "cat", 0.0), (3, "3", 1.0), (True, "1", 1.0), ("cat", "", None)],
)
def test_a_label_is_compared_with_the_class_that_was_predicted(
    value: object, predicted: str, quality: float | None
) -> None:
    assert quality_of(feedback("label", value), predicted) == quality


def test_the_class_that_was_predicted_is_known_as_long_as_the_prediction_is() -> None:
    labels = Labels(4)
    for request in range(4):
        labels.predicted(request << 62, request, 10.0, "cat" if request else "")
    assert [labels.named(request << 62) for request in range(4)] == ["", "cat", "cat", "cat"]
    labels.predicted(1, 9, 11.0, "dog")  # one too many: half of them go
    kept = [request << 62 for request in range(4) if labels.unit(request << 62) is not None]
    assert 0 < len(kept) < 4
    assert all(bool(labels.named(request)) == (labels.unit(request) is not None) for request in (1 << 62, 3 << 62, 1))


def test_labels_are_averaged_within_a_unit_and_a_later_word_stands() -> None:
    labels = Labels(100)
    for request, key in enumerate((1, 1, 1, 2)):
        labels.predicted(request, key, 10.0)
    labels.label(0, 1.0, time=20.0)
    labels.label(1, 0.0, time=20.0)
    labels.label(3, 1.0, time=20.0)
    labels.label(3, 0.0, time=30.0)
    labels.label(3, 0.7, time=25.0)  # found out before what is known
    labels.label(3, 0.0, time=30.0)  # the same again
    mature = labels.mature(before=15.0)
    assert (mature.quality.count, mature.quality.total) == (2, 0.5)
    assert (mature.labelled, mature.predictions, mature.coverage) == (3, 4, 0.75)
    assert labels.mature(before=5.0).coverage is None


def test_only_mature_predictions_count() -> None:
    labels = Labels(100)
    for request in range(10):
        labels.predicted(request, request, float(request))
        labels.label(request, 1.0, 100.0)
    assert labels.mature(before=4.0).quality.count == 5


def test_labels_beyond_the_cap_are_a_random_share() -> None:
    rng = np.random.default_rng(2)
    labels = Labels(500)
    for request in rng.integers(0, 2**64, 5_000, dtype=np.uint64):
        labels.predicted(int(request), int(request), 0.0)
        if labels.unit(int(request)) is not None:
            labels.label(int(request), float(rng.random() < 0.5), 1.0)
    mature = labels.mature(1.0)
    assert 200 <= mature.predictions <= 500
    assert mature.quality.mean == pytest.approx(0.5, abs=0.15)


def test_maturity_is_learned_from_delays_in_spite_of_labels_still_to_come() -> None:
    """Predictions every second, delays exponential with a mean of 100 s: 90 % are there after 230 s."""
    rng = np.random.default_rng(3)
    errors, naive = [], []
    for _ in range(40):
        delays, now, seen = Delays(), 700.0, []
        for second in range(700):
            delay = rng.exponential(100.0)
            if second + delay <= now:
                delays.add(int(rng.integers(2**63)), float(second), second + delay)
                seen.append(delay)
        age = delays.maturity(now)
        assert age is not None
        errors.append(age - 100 * np.log(10))
        naive.append(np.quantile(seen, 0.9) - 100 * np.log(10))
    assert abs(np.mean(errors)) < 12
    assert np.mean(naive) < -30  # what forgetting the truncation would give


def test_maturity_is_unknown_while_labels_were_not_watched_for_long_enough() -> None:
    rng = np.random.default_rng(4)
    delays = Delays()
    assert delays.maturity(0.0) is None
    for second in range(600):
        delay = rng.uniform(0, 86_400)  # a day, of which we have seen ten minutes
        if second + delay <= 600:
            delays.add(int(rng.integers(2**63)), float(second), second + delay)
    for second in range(30):
        delays.add(second, 0.0, 500.0 + second)
    assert delays.maturity(600.0) is None
    quick = Delays()
    for second in range(30):
        quick.add(second, float(second), second + 0.5)
    assert quick.maturity(60.0) == pytest.approx(0.5)


def test_memory_of_delays_is_bounded() -> None:
    rng = np.random.default_rng(5)
    delays = Delays()
    for second in range(20_000):
        delays.add(int(rng.integers(2**64, dtype=np.uint64)), float(second), second + 1.0)
    assert len(delays.curve(30_000.0)) == 1
    assert len(delays._delays) <= 2_000
