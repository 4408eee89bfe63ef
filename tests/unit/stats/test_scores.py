import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from rung.domain.errors import InvalidInput
from rung.stats.scores import Answers, auc, by_class, classification, confusion, overlap, regression


def _answers(seed: int, rows: int = 60, classes: int = 3) -> Answers:
    rng = np.random.default_rng(seed)
    likely = rng.dirichlet(np.ones(classes), rows)
    truth = np.where(rng.random(rows) < 0.5, likely.argmax(axis=1), rng.integers(classes, size=rows))
    return Answers(likely, truth, tuple("abcdef"[:classes]))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 5))
def test_the_figures_of_a_classifier_are_those_of_scikit_learn(seed: int, classes: int) -> None:
    answers = _answers(seed, 80, classes)
    truth, said, likely = answers.truth, answers.said, answers.probabilities
    found = {one.name: one.value for one in classification(answers)}

    kept = sorted(set(truth.tolist()))
    options = {"average": "macro", "labels": kept, "zero_division": 0}
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, said))
    assert found["balanced_accuracy"] == pytest.approx(metrics.recall_score(truth, said, **options))
    assert found["precision"] == pytest.approx(metrics.precision_score(truth, said, **options))
    assert found["f1"] == pytest.approx(metrics.f1_score(truth, said, **options))
    assert found["log_loss"] == pytest.approx(metrics.log_loss(truth, likely, labels=range(classes)))
    if len(kept) == classes:
        assert found["auc"] == pytest.approx(metrics.roc_auc_score(truth, likely, multi_class="ovr"))
    theirs = metrics.confusion_matrix(truth, said, labels=range(classes))
    assert (confusion(answers) == theirs).all()


def test_the_figures_of_two_classes() -> None:
    answers = _answers(1, 80, 2)
    found = {one.name: one.value for one in classification(answers)}

    assert found["auc"] == pytest.approx(metrics.roc_auc_score(answers.truth, answers.probabilities[:, 1]))
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(answers.truth, answers.probabilities[:, 1]))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_the_figures_of_a_regression_are_those_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.normal(10, 2, 50)
    said = truth + rng.normal(0.3, 1, 50)
    found = {one.name: one.value for one in regression(said, truth)}

    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(truth, said))
    assert found["rmse"] == pytest.approx(metrics.root_mean_squared_error(truth, said))
    assert found["r2"] == pytest.approx(metrics.r2_score(truth, said))
    if "mape" in found:
        assert found["mape"] == pytest.approx(metrics.mean_absolute_percentage_error(truth, said))


def test_no_share_of_a_label_near_zero_and_no_r2_of_equal_labels() -> None:
    assert "mape" not in {one.name for one in regression(np.ones(3), np.array([1.0, 0.0, 2.0]))}
    assert "r2" not in {one.name for one in regression(np.arange(3.0), np.ones(3))}


@pytest.mark.parametrize("name", ["f1", "precision", "balanced_accuracy", "auc", "brier", "accuracy"])
def test_the_influence_of_a_row_is_how_the_figure_moves_with_its_weight(name: str) -> None:
    """Doubling a row in 100 moves the figure by its influence over 100, but for terms of the second order."""
    answers = _answers(2, 100)
    estimate = next(one for one in classification(answers) if one.name == name)
    for row in range(0, 100, 9):
        more = np.r_[np.arange(100), row]
        doubled = answers._replace(probabilities=answers.probabilities[more], truth=answers.truth[more])
        moved = next(one.value for one in classification(doubled) if one.name == name) - estimate.value
        assert moved == pytest.approx(estimate.influence[row] / 101, abs=2e-3)
    assert estimate.influence.mean() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", ["rmse", "r2", "mae", "mape"])
def test_the_influence_of_a_row_on_a_regression(name: str) -> None:
    rng = np.random.default_rng(3)
    truth = rng.normal(10, 2, 200)
    said = truth + rng.normal(0, 1, 200)
    estimate = next(one for one in regression(said, truth) if one.name == name)
    for row in range(0, 200, 17):
        more = np.r_[np.arange(200), row]
        moved = next(one.value for one in regression(said[more], truth[more]) if one.name == name) - estimate.value
        assert moved == pytest.approx(estimate.influence[row] / 201, abs=1e-3)


def test_a_class_that_is_never_called_has_a_precision_of_zero_and_no_certainty() -> None:
    answers = Answers(np.tile([0.9, 0.1], (40, 1)), np.repeat([0, 1], 20), ("a", "b"))
    found = {(one.name, one.of): one for one in by_class(answers)}

    assert found["precision", "b"].value == 0
    assert found["recall", "b"].value == 0
    assert found["precision", "a"].value == 0.5


def test_scores_that_do_not_add_up_have_no_loss() -> None:
    names = {one.name for one in classification(_answers(4)._replace(whole=False))}
    assert {"accuracy", "auc"} <= names
    assert not {"log_loss", "brier"} & names


def test_an_area_takes_both_kinds() -> None:
    with pytest.raises(InvalidInput, match="both kinds"):
        auc(np.arange(3.0), np.ones(3, bool))


def test_masks() -> None:
    truth = np.zeros((10, 10), np.uint8)
    truth[:5] = 1
    half = np.zeros_like(truth)
    half[:, :5] = 1

    found = overlap(half, truth)
    assert found.iou == pytest.approx(25 / 75)
    assert found.dice == pytest.approx(0.5)
    assert found.accuracy == 0.5
    assert overlap(np.zeros_like(truth), np.zeros_like(truth)).iou == 1
    assert overlap(np.zeros_like(truth), truth).iou == 0


def test_masks_of_several_classes_are_averaged_over_those_that_occur() -> None:
    truth = np.array([[0, 1, 2, 2]])
    assert overlap(np.array([[0, 1, 1, 2]]), truth).iou == pytest.approx((1 / 2 + 1 / 2) / 2)
