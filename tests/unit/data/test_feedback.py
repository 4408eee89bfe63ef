import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rung.data.feedback import coverage, labelled, versions
from rung.data.predictions import convert

from .conftest import NOON, Project, feedback, prediction


def test_the_join_is_exact_and_the_latest_by_time_counts(project):
    one, two, three = (prediction(number, NOON + number) for number in range(3))
    project.write(one, two, three)
    project.write(
        feedback(one, "cat", NOON + 100, event="a"),
        feedback(one, "dog", NOON + 300, event="b"),
        feedback(one, "cow", NOON + 200, event="c"),  # late, about an earlier time
        feedback(two, "cat", NOON + 50, event="d"),
        replica="r1",
    )
    for log in (project.log, None):
        if log is None:
            convert(project.log, project.store)
        rows = labelled(project.store, log, "m").to_dicts()
        assert [(row["id"], row["value"], row["labelled"], row["of"], row["conflicts"]) for row in rows] == [
            (one.id, '"dog"', NOON + 300, 3, True),
            (two.id, '"cat"', NOON + 50, 1, False),
        ]
        assert rows[0]["delay"] == pytest.approx(300, abs=0.01)
        assert rows[0]["unit"] == one.unit
        told = versions(project.store, log, "m", prediction=one.id)
        assert told.select("event", "number", "counts").rows() == [("a", 1, False), ("c", 2, False), ("b", 3, True)]


def test_the_same_event_twice_is_one_row(project):
    one = prediction(1)
    event = feedback(one, "cat", event="a")
    project.write(one, event, event)
    convert(project.log, project.store)
    project.write(event, replica="r1")
    assert versions(project.store, project.log, "m").height == 1
    assert labelled(project.store, project.log, "m")["of"].to_list() == [1]


def test_kinds_are_told_apart(project):
    one = prediction(1)
    project.write(one, feedback(one, "cat"), feedback(one, 0.5, kind="score"))
    assert labelled(project.store, project.log, "m").select("kind", "value").sort("kind").rows() == [
        ("label", '"cat"'),
        ("score", "0.5"),
    ]
    assert labelled(project.store, project.log, "m", kind="score", columns=["total"])["value"].to_list() == ["0.5"]


def test_coverage_by_arm_never_takes_a_missing_label_for_one(project):
    made = [prediction(number, arm="canary" if number < 4 else "stable", version=2) for number in range(10)]
    failed = prediction(20, arm="canary", version=2, error="ModelError")
    unlogged = prediction(30, arm="stable", version=2)
    project.write(*made, failed)
    project.write(*[feedback(one, 1, one.time + 10 * (n + 1)) for n, one in enumerate(made[:2])], replica="r1")
    project.write(feedback(made[5], 1), feedback(made[5], 0), feedback(unlogged, 1), replica="r2")
    canary, stable = coverage(project.store, project.log, "m").to_dicts()
    assert (canary["arm"], canary["answers"], canary["labelled"], canary["coverage"]) == ("canary", 4, 2, 0.5)
    assert canary["delay_median"] == pytest.approx(15, abs=0.01)
    assert canary["delay_90"] == pytest.approx(19, abs=0.01)
    assert (stable["answers"], stable["labelled"], stable["conflicts"], stable["unlogged"]) == (6, 1, 1, 1)


def test_no_log_is_an_empty_table(project):
    assert labelled(project.store, project.log, "m").height == 0
    assert coverage(project.store, project.log, "m").height == 0


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 3)), max_size=20), st.integers(0, 20))
def test_the_join_is_what_a_dict_would_say(tmp_path_factory, events, split):
    """Any events in any order, some of them converted and some not."""
    project = Project(tmp_path_factory.mktemp("p"))
    made = [prediction(number, NOON) for number in range(4)]  # the fifth was never logged
    about = [*made, prediction(4, NOON)]
    records = [feedback(about[who], value, NOON + when, event=f"{value}-{when}") for who, when, value in events]
    project.write(*made, *records[:split])
    convert(project.log, project.store)
    project.write(*records[split:], replica="r1")
    expected: dict[str, tuple[float, str]] = {}
    for record in records:
        known = expected.get(record.id)
        if record.id != about[4].id and (known is None or (record.time, record.event) > known):
            expected[record.id] = (record.time, record.event)
    rows = labelled(project.store, project.log, "m")
    found = {row["id"]: (row["labelled"], f"{row['value']}-{row['labelled'] - NOON:.0f}") for row in rows.to_dicts()}
    assert found == expected
