import numpy as np
import polars as pl
import pytest

from rung.domain.errors import ConfigurationError
from rung.domain.metrics import METRICS
from rung.settings.project import DataSection
from rung.stats.estimates import interval, mean
from rung.stats.scores import Answers
from rung.training.grading import Graded, names_of
from rung.training.scorecard import calibration, compare, confusion_of, figures, groups_of, slices


def _classes(rows: int, classes: int = 3, seed: int = 0, sharp: float = 1.5) -> Graded:
    rng = np.random.default_rng(seed)
    truth = rng.integers(classes, size=rows)
    scores = rng.normal(0, 1, (rows, classes))
    scores[np.arange(rows), truth] += sharp
    likely = np.exp(scores)
    answers = Answers(likely / likely.sum(axis=1, keepdims=True), truth, tuple(f"c{one}" for one in range(classes)))
    return Graded(np.arange(rows), answers)


def test_neighbours_in_time_are_alike() -> None:
    """Errors that go on for hours: 50 blocks hold the truth in 90 % of 200 cards or more, single rows in under 70 %."""
    rng = np.random.default_rng(1)
    held, naive = [], []
    frame = pl.DataFrame({"at": np.arange(1_000)})
    groups, name = groups_of(frame, np.arange(1_000), DataSection(time="at"))
    assert groups is not None
    assert name == "blocks of at"
    assert len(np.unique(groups)) == 50
    for _ in range(200):
        noise, error = rng.normal(0, 1, 1_000), np.empty(1_000)
        error[0] = noise[0]
        for place in range(1, 1_000):
            error[place] = 0.7 * error[place - 1] + noise[place]
        estimate = mean("bias", error, "free")
        for kept, by in ((held, groups), (naive, None)):
            found = interval(estimate, by)
            kept.append(found.low <= 0 <= found.high)
    assert np.mean(held) >= 0.9
    assert np.mean(naive) < 0.7


def test_few_rows_in_time_stand_alone_and_a_group_comes_first() -> None:
    frame = pl.DataFrame({"at": np.arange(90), "user": ["a", "b", None] * 30})
    assert groups_of(frame, np.arange(90), DataSection(time="at")) == (None, "")
    groups, name = groups_of(frame, np.array([0, 1, 2, 3]), DataSection(time="at", group="user"))
    assert groups is not None
    assert (groups.tolist(), name) == ([1, 2, 0, 1], "user")


def test_every_figure_has_a_count_and_an_interval() -> None:
    found, notes = figures(_classes(200), "classification", "f1", None)

    assert found[0].name == "f1"
    assert {one.name for one in found if not one.of} == {
        name for name, one in METRICS.items() if one.task == "classification"
    }
    assert all(one.rows >= 40 and one.groups >= 40 and one.low < one.high for one in found)
    assert not notes


def test_many_classes_have_no_figures_of_their_own() -> None:
    graded = _classes(3_000, 60)
    found, notes = figures(graded, "classification", "accuracy", None)
    assert not [one for one in found if one.of]
    assert "60 classes" in notes[0]
    assert confusion_of(graded) is None


def test_too_few_rows_for_calibration_are_noted() -> None:
    found, notes = figures(_classes(30), "classification", "accuracy", None)
    assert "calibration_error" not in {one.name for one in found}
    assert notes == ["not worked out of these rows: calibration_error"]
    assert calibration(_classes(30), None) is None
    with pytest.raises(ConfigurationError, match="cannot be worked out of these 30 rows"):
        figures(_classes(30), "classification", "calibration_error", None)


def test_slices_of_numbers_are_quarters_and_of_many_texts_the_commonest() -> None:
    rng = np.random.default_rng(3)
    graded = _classes(1_000)
    frame = pl.DataFrame(
        {
            "age": pl.Series(rng.normal(40, 9, 1_000)).set(pl.Series(np.arange(1_000) < 25), None),
            "town": [f"t{min(int(one), 60)}" for one in rng.geometric(0.05, 1_000)],
            "flag": rng.random(1_000) < 0.5,
        }
    )
    found = slices(graded, frame, ("age", "town", "flag"), METRICS["accuracy"], None)

    names = [one.name for one in found]
    assert [one.rows for one in found if one.column == "age"][-1] == 25
    assert names[0].startswith("age <= ")
    assert names[3].startswith("age > ")
    assert "age = empty" in names
    assert sum("rarer values" in name for name in names) == 1
    assert {"flag = true", "flag = false"} <= set(names)
    assert sum(one.rows for one in found if one.column == "town") == 1_000
    assert not any(one.worse for one in found)
    assert all(one.note.startswith("too few") for one in found if one.figure is None)
    assert all(one.figure is None or one.figure.rows >= 20 for one in found)


def test_a_column_of_one_value_has_nothing_to_compare_with() -> None:
    frame = pl.DataFrame({"site": ["a"] * 190 + ["b"] * 10})
    one, other = slices(_classes(200), frame, ("site",), METRICS["accuracy"], None)
    (alone,) = slices(_classes(190), frame[:190], ("site",), METRICS["accuracy"], None)

    assert one.note == alone.note == "too few other rows to compare with"
    assert one.figure is not None
    assert one.p is None
    assert other.figure is None


def test_a_slice_of_one_class_has_no_area() -> None:
    graded = _classes(300, 2)
    assert graded.answers is not None
    frame = pl.DataFrame({"same": graded.answers.truth.astype(str)})
    found = slices(graded, frame, ("same",), METRICS["auc"], None)
    assert {one.note for one in found} == {"no auc can be worked out of these rows alone"}


def test_two_versions_are_compared_on_the_rows_that_both_answered() -> None:
    one, other = _classes(300, sharp=3.0), _classes(300, sharp=1.0)
    some = Graded(
        np.arange(100, 300),
        other.answers
        and other.answers._replace(probabilities=other.answers.probabilities[100:], truth=other.answers.truth[100:]),
    )
    found = compare(one, some, (7, "digest"), METRICS["log_loss"], np.arange(300) // 3)

    assert (found.version, found.rows) == (7, 200)
    head = found.differences[0]
    assert (head.figure.name, head.standing) == ("log_loss", "better")
    assert head.figure.high < 0
    assert {one.figure.name: one.standing for one in found.differences}["accuracy"] == "better"
    assert head.figure.method == "paired t by group"


def test_rows_are_called_by_their_key() -> None:
    frame = pl.DataFrame({"id": [4, 5], "path": ["a.png", "b.png"]})
    assert names_of(frame, [1], ("id", "path")) == ["5, b.png"]
    assert names_of(frame, [1], ()) == ["b.png"]
    assert names_of(frame.select(x="id"), [1], ()) == ["row 2"]
