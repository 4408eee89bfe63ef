import math
from collections import defaultdict

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rung.data import quality
from rung.data.quality import How, measure
from rung.data.quality_watch import Rule
from rung.domain.quality import QualityReport, Watch
from rung.stats.detectors import Baseline

from .conftest import DAY, NOON, Project, feedback, prediction

START = NOON // DAY * DAY


def day(project, number, rate, *, units=110, each=3, coverage=0.5, version=1, delay=600.0, arm="stable"):
    """A day of answers, some of them with a label that says right or wrong after about `delay` seconds."""
    rng = np.random.default_rng([number, version])
    records = []
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
            records.append(one)
            if rng.random() < coverage:
                said = "cat" if rng.random() >= rate else "dog"
                records.append(feedback(one, said, one.time + delay * (0.5 + rng.random())))
    project.write(*records, replica=f"r{number}-{version}")


def test_a_week_that_gets_worse_is_noticed(project):
    for number in range(6):
        day(project, number, 0.1 if number < 4 else 0.4)
    report = measure(project.store, project.log, "m", now=START + 6 * DAY + 3_600)
    assert report.maturity_seconds == pytest.approx(840, abs=60)
    assert len(report.cohorts) == 6
    assert all(one.mature and one.quality is not None for one in report.cohorts)
    assert report.cohorts[0].quality.low < 0.9 < report.cohorts[0].quality.high
    assert report.cohorts[0].quality.groups <= 110 < report.cohorts[0].quality.rows
    assert report.detector is not None
    assert report.detector.alarm
    assert report.detector.began == START + 4 * DAY
    assert "since about 2023-11-19:" in report.detector.why
    assert report.estimates[0].accuracy.value == pytest.approx(0.9)
    assert report.checks[0].difference.low > 0  # it says 0.9, and 0.8 is true
    assert msgspec.json.decode(msgspec.json.encode(report), type=QualityReport) == report


def test_a_quiet_week_raises_no_alarm_and_the_detector_goes_on_from_where_it_was(project):
    for number in range(6):
        day(project, number, 0.1)
    last = START + 6 * DAY + 3_600
    whole = measure(project.store, project.log, "m", now=last).detector
    assert whole is not None
    assert not whole.alarm
    assert whole.level < whole.run_length
    # Day by day, with nothing but what the last report said; the log may have lost the rest.
    before = None
    for number in range(1, 7):
        now, since = START + number * DAY + 3_600, START + max(number - 3, 0) * DAY
        report = measure(project.store, project.log, "m", now=now, since=since, before=before)
        before = msgspec.json.decode(msgspec.json.encode(report.detector), type=Watch)
    assert before.losses == whole.losses > 0
    assert before.level == pytest.approx(whole.level, rel=1e-6)
    # Looking again changes nothing.
    again = measure(project.store, project.log, "m", now=last, before=before).detector
    assert again == before


def test_another_version_begins_anew_and_a_given_baseline_is_held_to(project):
    day(project, 0, 0.1)
    day(project, 1, 0.5)
    now = START + 2 * DAY + 3_600
    own = measure(project.store, project.log, "m", now=now - DAY).detector
    assert own is not None
    assert own.baseline is None  # the first cohort has not 200 losses
    assert "200" in own.why
    given = measure(project.store, project.log, "m", now=now, how=How(watch=Rule(Baseline(0.1, 0.12)))).detector
    assert given is not None
    assert given.alarm
    assert (given.baseline, given.limit) == (0.1, 0.13)
    day(project, 2, 0.1, version=2)
    later = measure(
        project.store, project.log, "m", now=now + DAY, before=given,
        how=How(version=2, watch=Rule(Baseline(0.1, 0.12), margin=0.05, run_length=1_000.0)),
    ).detector  # fmt: skip
    assert later is not None
    assert (later.version, later.alarm, later.limit) == (2, False, pytest.approx(0.17))
    hopeless = measure(project.store, project.log, "m", now=now, how=How(watch=Rule(Baseline(0.99, 1.0)))).detector
    assert hopeless is not None
    assert "rise could not be told" in hopeless.why


def test_early_complaints_alone_are_not_reported(project):
    """Complaints come within a minute and praise after a day: what is there at first says that all was wrong."""
    made = []
    for number in range(600):
        one = prediction(number, START + number * 430, unit=f"u{number}")  # three days
        made += [one, feedback(one, {"correct": True}, one.time + DAY) if number % 10 else None]
        if number % 10 == 0:
            made.append(feedback(one, {"correct": False}, one.time + 60))
    project.write(*[one for one in made if one is not None])
    day_two = measure(project.store, project.log, "m", now=START + 1.05 * DAY)
    assert day_two.maturity_seconds is None
    assert [one.quality for one in day_two.cohorts] == [None, None]
    assert day_two.cohorts[0].labelled > 20
    assert day_two.detector is not None
    assert day_two.detector.losses == 0
    assert day_two.coverage == ()
    known = measure(project.store, project.log, "m", now=START + 2.05 * DAY, how=How(maturity=DAY))
    assert [one.mature for one in known.cohorts] == [True, False, False]
    assert known.cohorts[0].quality.value == pytest.approx(0.9, abs=0.01)
    assert [one.quality for one in known.cohorts[1:]] == [None, None]
    done = measure(project.store, project.log, "m", now=START + 6 * DAY)
    assert done.maturity_seconds == pytest.approx(DAY, rel=0.01)
    assert all(one.quality.value == pytest.approx(0.9, abs=0.01) for one in done.cohorts)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    answers=st.lists(
        st.tuples(st.integers(0, 3 * 96 - 1), st.integers(0, 3), st.sampled_from([None, 0.0, 1.0]), st.integers(0, 96)),
        max_size=40,
    ),
    now=st.integers(0, 5 * 96),
    maturity=st.integers(1, 96),
    extra=st.lists(st.integers(0, 3 * 96 - 1), max_size=20),
)
def test_only_mature_labels_count_and_no_label_is_never_wrong(tmp_path_factory, answers, now, maturity, extra):
    """Quarters of an hour over three days, against a plain count; answers without a label change no figure."""
    project, quarter = Project(tmp_path_factory.mktemp("p")), 900.0
    records, expected, at = [], defaultdict(lambda: defaultdict(list)), START + now * quarter
    for number, (when, unit, said, delay) in enumerate(answers):
        one = prediction(number, START + when * quarter, unit=f"u{unit}")
        records.append(one)
        if said is not None:
            records.append(feedback(one, said, one.time + delay * quarter, kind="score"))
            end = START + (when // 96 + 1) * DAY
            if end + maturity * quarter <= at and one.time + delay * quarter <= at:
                expected[when // 96][unit].append(said)
    project.write(*records)
    how = How(maturity=maturity * quarter)
    report = measure(project.store, project.log, "m", now=at, how=how)
    for one in report.cohorts:
        units = expected[round((one.start - START) / DAY)]
        assert one.mature == (one.end + maturity * quarter <= at)
        if len(units) < 2:
            assert one.quality is None
        else:
            assert one.quality.value == pytest.approx(np.mean([np.mean(values) for values in units.values()]))
            assert 0 <= one.quality.low <= one.quality.value <= one.quality.high <= 1
    unlabelled = [prediction(1_000 + number, START + when * quarter, unit="v") for number, when in enumerate(extra)]
    project.write(*unlabelled, replica="r1")
    more = measure(project.store, project.log, "m", now=at, how=how)
    figures = {one.start: one.quality for one in report.cohorts}
    assert all(one.quality == figures.get(one.start) for one in more.cohorts)
    assert sum(one.labelled for one in more.coverage) == sum(one.labelled for one in report.coverage)
    assert (more.detector.losses if more.detector else 0) == (report.detector.losses if report.detector else 0)


@pytest.mark.parametrize("spread", [0.0, 4.0])
def test_the_interval_by_unit_holds_the_truth_as_often_as_it_says(spread):
    """Ten requests a user, users unlike each other: by request it would hold it in far fewer than 95 of 100."""
    rng = np.random.default_rng(8)
    held = by_request = 0
    runs, users, each = 300, 80, 10
    for _ in range(runs):
        skill = rng.beta(0.8 * 2, 0.2 * 2, users) if spread else np.full(users, 0.8)
        right = (rng.random((users, each)) < skill[:, None]).astype(float)
        frame = pl.DataFrame({"unit": np.repeat(np.arange(users), each), "quality": right.ravel()})
        figure = quality._figure("quality", frame, "quality")
        assert figure is not None
        held += figure.low <= 0.8 <= figure.high
        radius = 1.96 * math.sqrt(right.mean() * (1 - right.mean()) / right.size)
        by_request += abs(right.mean() - 0.8) <= radius
    assert held / runs > 0.92
    if spread:
        assert by_request / runs < 0.85


def test_numbers_are_held_against_the_labels_deviation(project):
    records = []
    for number in range(60):
        one = prediction(
            number,
            START + number,
            unit=f"u{number}",
            output_summary={"y": (10.0 + number, 10.0 + number, 10.0 + number)},
        )
        records += [one, feedback(one, 10.0 + number + (3 if number % 2 else -1), one.time + 5)]
    project.write(*records)
    now = START + 2 * DAY
    blind = measure(project.store, project.log, "m", now=now)
    assert blind.cohorts[0].error.value == pytest.approx(2)
    assert blind.cohorts[0].quality is None
    assert any("deviation" in note for note in blind.notes)
    report = measure(project.store, project.log, "m", now=now, how=How(scale=2.0))
    assert report.cohorts[0].quality.value == pytest.approx(
        0.25
    )  # half are off by half a deviation, half by more than one
    assert report.cohorts[0].error.low < 2 < report.cohorts[0].error.high
    assert not report.notes
    assert report.estimates == ()


def test_labels_that_come_back_for_one_arm_only_are_noticed(project):
    for arm, coverage, number in (("stable", 0.8, 0), ("canary", 0.2, 1)):
        rng = np.random.default_rng(number)
        records = []
        for unit in range(250):
            one = prediction(number * 1_000 + unit, START + unit, arm=arm, version=number + 1, unit=f"{arm}{unit}")
            one.propensity = 0.5
            records.append(one)
            if rng.random() < coverage:
                records.append(feedback(one, 1.0, one.time + 10, kind="score"))
        project.write(*records, replica=f"r{number}")
    report = measure(project.store, project.log, "m", now=START + 2 * DAY)
    assert [(one.arm, one.predictions) for one in report.coverage] == [("canary", 250), ("stable", 250)]
    assert report.coverage[0].coverage < 0.3 < 0.7 < report.coverage[1].coverage
    assert report.imbalance.outcome == "fail"
    assert "unevenly" in report.imbalance.why


def test_labels_that_come_back_evenly_are_let_be(project):
    records = []
    rng = np.random.default_rng(2)
    for unit in range(400):
        one = prediction(unit, START + unit, arm="canary" if unit % 4 else "stable", unit=f"u{unit}")
        records.append(one)
        if rng.random() < 0.5:
            records.append(feedback(one, 1.0, one.time + 10, kind="score"))
    project.write(*records)
    report = measure(project.store, project.log, "m", now=START + 2 * DAY)
    assert report.imbalance.outcome == "inconclusive"
    assert "not seen" in report.imbalance.why


def test_mature_labels_are_counted_by_kind(project):
    records = []
    for number in range(40):
        one = prediction(number, START + number * 100, unit=f"u{number}")
        records += [
            one,
            feedback(one, "cat" if number % 2 else 0.5, one.time + 10, kind="label" if number % 2 else "score"),
        ]
    project.write(*records, feedback(records[0], [1], kind="correction"))
    now = START + 40 * 100

    def count(**fields):
        found = measure(project.store, project.log, "m", now=now, how=How(maturity=950.0, **fields))
        return sum(one.labelled for one in found.coverage)

    assert count() == 31
    assert count(kind="label") == 15
    assert count(kind="correction") == 1


def test_nothing_logged_is_a_report_that_says_so(project):
    report = measure(project.store, project.log, "m", now=NOON)
    assert report.cohorts == ()
    assert report.detector is None
    assert report.maturity_seconds is None
    assert "nothing" in report.notes[0]
    assert report.imbalance.outcome == "inconclusive"


def test_what_a_report_misses_is_said(project):
    records = []
    for number in range(30):
        one = prediction(number, START + number, unit="one")
        records += [one, feedback(one, "cat", one.time + 5)]
    project.write(*records)
    report = measure(project.store, project.log, "m", now=START + 2 * DAY)
    assert any("no feedback says how good" in note for note in report.notes)
    assert any("one unit" in note for note in report.notes)


def test_scores_beyond_one_are_shown_as_they_are_and_told_of(project):
    records = []
    for number in range(30):
        one = prediction(number, START + number, unit=f"u{number}")
        records += [one, feedback(one, 4 + number % 2, one.time + 5, kind="score")]  # stars
    project.write(*records)
    report = measure(project.store, project.log, "m", now=START + 2 * DAY)
    assert report.cohorts[0].quality.value == pytest.approx(4.5)
    assert any("above 1" in note for note in report.notes)


def test_errors_and_what_came_later_are_left_out(project):
    one, failed = prediction(1, START, unit="a"), prediction(2, START + 1, unit="b", error="ModelError")
    later = prediction(3, START + 5_000, unit="c")
    project.write(one, failed, later, feedback(one, 1.0, START + 2_000, kind="score"))
    report = measure(project.store, project.log, "m", now=START + 1_000)
    assert (report.delay.predictions, report.delay.labels) == (1, 0)
    assert measure(project.store, project.log, "m", now=START + 9_000).delay.labels == 1
