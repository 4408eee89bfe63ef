import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score

from rung.domain.errors import InvalidInput
from rung.stats.expected import auc, confidence, confusion, f1


def drawn(rng: np.random.Generator, rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and a truth that follows them: a model that is calibrated."""
    p = rng.dirichlet(np.full(classes, 0.6), rows)
    truth = (p.cumsum(axis=1) < rng.random(rows)[:, None]).sum(axis=1)
    return p, np.minimum(truth, classes - 1)


@pytest.mark.parametrize("classes", [2, 4])
def test_of_a_calibrated_model_it_is_what_labels_say(classes: int) -> None:
    p, truth = drawn(np.random.default_rng(1), 20_000, classes)
    said = p.argmax(axis=1)
    assert confidence(p).mean() == pytest.approx((said == truth).mean(), abs=0.01)
    assert f1(p) == pytest.approx(f1_score(truth, said, average="macro"), abs=0.01)
    assert confusion(p) == pytest.approx(confusion_matrix(truth, said), abs=250)
    assert confusion(p).sum() == pytest.approx(20_000)
    if classes == 2:
        assert auc(p) == pytest.approx(roc_auc_score(truth, p[:, 1]), abs=0.01)


def test_of_an_overconfident_model_it_is_too_good_and_cannot_know() -> None:
    p, truth = drawn(np.random.default_rng(2), 5_000, 2)
    sharper = p**3 / (p**3).sum(axis=1, keepdims=True)
    assert confidence(sharper).mean() > (sharper.argmax(axis=1) == truth).mean() + 0.05


def test_one_number_is_the_second_of_two_classes() -> None:
    p = np.array([0.9, 0.2, 0.6])
    both = np.stack([1 - p, p], axis=1)
    assert confidence(p).tolist() == confidence(both).tolist() == pytest.approx([0.9, 0.8, 0.6])
    assert confusion(p) == pytest.approx(np.array([[0.8, 0.5], [0.2, 1.5]]))
    # All pairs of two rows, by hand.
    won = sum(
        p[i] * (1 - p[j]) * (1.0 if p[i] > p[j] else 0.5) for i in range(3) for j in range(3) if i != j and p[i] >= p[j]
    )
    assert auc(p) == pytest.approx(won / sum(p[i] * (1 - p[j]) for i in range(3) for j in range(3) if i != j))
    assert auc(np.array([1.0, 1.0])) is None


@pytest.mark.parametrize("bad", [[[0.5, 0.6]], [[1.2, -0.2]], [[np.nan, 1.0]], [[1.0]], [1.5]])
def test_what_is_no_probability_is_refused(bad: list[object]) -> None:
    with pytest.raises(InvalidInput, match="robabilities"):
        confidence(bad)


def test_an_area_of_three_classes_is_refused() -> None:
    with pytest.raises(InvalidInput, match="two classes"):
        auc([[0.2, 0.3, 0.5]])
