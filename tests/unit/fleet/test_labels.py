import numpy as np
import pytest

from rung.fleet.labels import Labels


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
