import numpy as np
import pytest

from rung.data.quality import How, measure
from rung.data.quality_estimates import Head, head_of, probabilities
from rung.domain.models import Manifest, Step, Transforms
from rung.domain.packing import pack
from rung.domain.quality import ASSUMPTION
from rung.domain.tensors import Signature

from .conftest import DAY, NOON, feedback, prediction

START = NOON // DAY * DAY


def softmax(scores):
    grown = np.exp(scores - scores.max())
    return grown / grown.sum()


def answers(project, *, kept, logits=False, binary=False, labelled=0.5, shifted=False, rows=400):
    """Answers of a calibrated model of two classes or three, with what the log keeps of them."""
    rng = np.random.default_rng(5)
    records = []
    for number in range(rows):
        scores = rng.normal(0, 2, 2 if binary else 3)
        p = softmax(scores)
        truth = int((p.cumsum() < rng.random()).sum())
        if shifted:
            truth = (int(p.argmax()) + 1) % p.size  # the world turned round; the model's inputs did not
        output = np.array([[p[1]]] if binary else [scores if logits else p], np.float32)
        summary = (float(output.mean(dtype=np.float64)), float(output.min()), float(output.max()))
        one = prediction(
            number, START + number, unit=f"u{number % 100}", predicted=str(p.argmax()), output_summary={"p": summary}
        )
        if kept == "tensors":
            one.outputs = pack({"p": output})
        records.append(one)
        if rng.random() < labelled:
            records.append(feedback(one, truth, one.time + 10))
    project.write(*records)
    return measure


@pytest.mark.parametrize("kept", ["summary", "tensors"])
@pytest.mark.parametrize("binary", [True, False])
def test_a_calibrated_model_is_estimated_as_labels_say(project, kept, binary):
    answers(project, kept=kept, binary=binary)
    report = measure(project.store, project.log, "m", now=START + 2 * DAY)
    (one,) = report.estimates
    (checked,) = report.checks
    assert one.predictions == 400
    assert one.accuracy.low < one.accuracy.value < one.accuracy.high
    assert checked.difference.low < 0 < checked.difference.high
    assert checked.estimated == pytest.approx(one.accuracy.value, abs=0.03)
    assert (one.f1 is not None) == (kept == "tensors")
    assert (one.auc is not None) == (kept == "tensors" and binary)


def test_a_change_of_what_follows_is_not_seen_without_labels_and_the_report_says_so(project):
    answers(project, kept="summary", shifted=True)
    report = measure(project.store, project.log, "m", now=START + 2 * DAY)
    assert report.estimates[0].accuracy.value > 0.7
    assert report.cohorts[0].quality.value == 0
    assert report.checks[0].difference.low > 0.6
    assert "has not changed" in ASSUMPTION


def test_it_needs_no_label_and_no_maturity(project):
    answers(project, kept="summary", labelled=0)
    report = measure(project.store, project.log, "m", now=START + 1_000)
    assert report.estimates
    assert report.cohorts[0].quality is None
    assert report.checks == ()


def test_scores_are_read_as_the_head_reads_them(project):
    answers(project, kept="tensors", logits=True)
    without = measure(project.store, project.log, "m", now=START + 2 * DAY)
    assert without.estimates == ()
    assert 'outputs = "tensors"' in without.notes[-1]
    how = How(heads={1: Head("p", "softmax")})
    (one,) = measure(project.store, project.log, "m", now=START + 2 * DAY, how=how).estimates
    assert 0.6 < one.accuracy.value < 0.9
    assert one.f1 is not None


def test_scores_in_a_summary_are_not_taken_for_probabilities(project):
    answers(project, kept="summary", logits=True)
    assert measure(project.store, project.log, "m", now=START + 2 * DAY).estimates == ()


@pytest.mark.parametrize(
    ("outputs", "head", "expected"),
    [
        ({"p": [[0.2, 0.8]]}, Head(), [0.2, 0.8]),
        ({"p": [[0.3]]}, Head(), [0.7, 0.3]),
        ({"p": [[0.0]]}, Head(activation="sigmoid"), [0.5, 0.5]),
        ({"p": [[1.0, 1.0]]}, Head(activation="softmax"), [0.5, 0.5]),
        ({"p": [[1.0, 1.0]]}, Head(), None),
        ({"p": [[np.nan, 1.0]]}, Head(), None),
        ({"p": [[0.2, 0.8]], "q": [[1.0]]}, Head(), None),
        ({"p": [[0.2, 0.8]], "q": [[1.0]]}, Head("p"), [0.2, 0.8]),
        ({"p": [[0.2, 0.8]]}, Head("q"), None),
        ({}, Head(), None),
    ],
)
def test_what_is_probabilities_and_what_is_not(outputs, head, expected):
    found = probabilities({name: np.array(value, np.float32) for name, value in outputs.items()}, head)
    assert (found is None) == (expected is None)
    if expected is not None:
        assert found == pytest.approx(expected)


def test_the_head_is_that_of_the_manifest():
    plain = Manifest("m", 1, "onnx", Signature((), ()))
    assert head_of(plain) is None
    steps = Transforms((), (Step("classification.top_k", {"activation": "softmax", "output": "p"}),))
    assert head_of(Manifest("m", 1, "onnx", Signature((), ()), transforms=steps)) == Head("p", "softmax")
