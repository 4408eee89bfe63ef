import numpy as np
import pytest

from rung.data.quality import How, measure

from .conftest import DAY, NOON, feedback, prediction

START = NOON // DAY * DAY


def day(project, number, rate, *, units=150, each=3, coverage=0.5, version=1, delay=600.0, seed=0, arm="stable"):
    """A day of answers, some of them with a label that says right or wrong after `delay` seconds."""
    rng = np.random.default_rng([seed, number, version])
    made, said = [], []
    for unit in range(units):
        for place in range(each):
            one = prediction(
                number * 10_000 + version * 1_000_000 + unit * each + place,
                START + number * DAY + 80_000 * rng.random(),
                version=version,
                arm=arm,
                unit=f"u{number}-{unit}",
                predicted="cat",
                output_summary={"score": (0.5, 0.1, 0.9)},
            )
            made.append(one)
            if rng.random() < coverage:
                right = rng.random() >= rate
                said.append(feedback(one, "cat" if right else "dog", one.time + delay * (0.5 + rng.random())))
    project.write(*made, *said, replica=f"r{number}-{version}")


def test_a_week_that_gets_worse_is_noticed(project):
    for number in range(6):
        day(project, number, 0.1 if number < 4 else 0.4)
    now = START + 6 * DAY + 3_600
    report = measure(project.store, project.log, "m", now=now)
    assert report.maturity_seconds == pytest.approx(840, abs=60)
    assert len(report.cohorts) == 6
    assert all(one.mature and one.quality is not None for one in report.cohorts)
    assert report.cohorts[0].quality.low < 0.9 < report.cohorts[0].quality.high
    assert report.detector is not None
    assert report.detector.alarm
    assert report.detector.began == START + 4 * DAY
    assert report.estimates[0].accuracy.value == pytest.approx(0.9)
