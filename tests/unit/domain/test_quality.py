import pytest

from rung.domain.quality import quality_of


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
    assert quality_of(kind, value) == quality  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "predicted", "quality"),
    [("cat", "cat", 1.0), ("dog", "cat", 0.0), (3, "3", 1.0), (True, "1", 1.0), ("cat", "", None)],
)
def test_a_label_is_compared_with_the_class_that_was_predicted(
    value: object, predicted: str, quality: float | None
) -> None:
    assert quality_of("label", value, predicted) == quality
