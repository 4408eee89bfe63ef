import json
import re

import numpy as np
import pytest
from PIL import Image

from rung.data.quality import How, measure
from rung.data.quality_report import span, words, write

from .conftest import DAY, NOON, feedback, prediction

START = NOON // DAY * DAY


@pytest.fixture
def report(project):
    rng = np.random.default_rng(1)
    records = []
    for number in range(900):
        one = prediction(
            number,
            START + number * 5 * DAY / 900,
            version=1 + (number >= 600),
            arm="canary" if number >= 600 else "stable",
            unit=f"u{number % 90}",
            predicted="cat",
            output_summary={"p": (0.5, 0.2, 0.8)},
        )
        records += [one, feedback(one, "cat" if rng.random() < 0.8 else "dog", one.time + 100)]
    project.write(*records)
    return measure(project.store, project.log, "m", now=START + 4.5 * DAY)


def test_the_page_stands_alone_and_keeps_estimate_and_truth_apart(report, tmp_path):
    page = write(tmp_path / "out", report)
    text = page.read_text()
    assert not re.search(r'(?:src|href)="(?!data:)', text)
    assert "<script" not in text
    for name in ("quality.png", "delay.png", "coverage.png", "estimate.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert min(picture.size) > 100
    truth, estimate = text.split('<div class="estimate">')
    assert "expected accuracy" not in truth
    assert "assumes" in estimate
    assert "not mature yet" not in estimate
    assert json.loads((tmp_path / "out" / "quality.json").read_bytes())["model"] == "m"


def test_words_say_what_a_figure_rests_on(report):
    text = "\n".join(words(report))
    assert "810 of 810 predictions have a label so far" in text
    assert "of 100 predictions about 100 have a label by the age of 100 s; half of the labels come within 100 s" in text
    assert "a prediction counts from an age of 100 s on: by then 90 % of the labels have come that come at all" in text
    assert "1 of 6 cohorts are not mature yet and have no figure" in text


def test_a_report_of_nothing_is_a_page_too(project, tmp_path):
    page = write(tmp_path, measure(project.store, project.log, "m", now=NOON))
    assert "no prediction is logged" in page.read_text()
    assert not list(tmp_path.glob("*.png"))


def test_labels_without_any_figure_are_drawn_as_far_as_they_go(project, tmp_path):
    one = prediction(1, START, unit="a")
    project.write(one, feedback(one, "cat", START + 10))
    found = measure(project.store, project.log, "m", now=START + DAY, how=How(maturity=3 * DAY))
    text = write(tmp_path, found).read_text()
    assert "not mature yet" in text
    assert [path.name for path in tmp_path.glob("*.png")] == ["delay.png"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0 s"), (59.6, "59.6 s"), (840.0, "14 min"), (7_200.0, "2 h"), (172_800.0, "2 days")]
)
def test_spans_are_for_people(seconds, text):
    assert span(seconds) == text
