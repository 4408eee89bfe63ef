import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.domain.errors import ConfigurationError
from rung.domain.retraining import STEPS, Decision, Request, Retraining
from rung.loop.triggers import Policy, Seen, plan, read_policy
from rung.settings.project import RetrainSection

DAY = 86_400.0
NOW = 1000 * DAY
ALL = Policy(drift=True, quality=True, labels=100, cron="0 3 * * *", cooldown=3600.0, budget=2, budget_seconds=30 * DAY)


def before(number, ago, cause="labels", over=True):
    steps = STEPS if over else STEPS[:2]
    return Retraining(
        "m", number, Request(cause, str(number), "then", NOW - ago), {s: Decision("pass", "", 0.0) for s in steps}
    )


@pytest.mark.parametrize(
    ("seen", "tick", "cause"),
    [
        (Seen(at=5.0), None, None),
        (Seen(at=5.0, labels=99), None, None),
        (Seen(at=5.0, labels=100), None, "labels"),
        (Seen(at=5.0, drifted=True, triage="covariate drift", labels=500), None, "drift"),
        (Seen(at=5.0, drifted=False, worse=True, triage="concept drift"), None, "quality"),
        # The loop would learn the fault.
        (Seen(at=5.0, drifted=True, worse=True, labels=500, triage="data bug"), 7.0, None),
        # Labels that are wrong are no reason to learn them.
        (Seen(at=5.0, drifted=True, triage="label problem"), None, None),
        (Seen(), 7.0, "schedule"),
    ],
)
def test_what_asks_for_it(seen, tick, cause):
    decided = plan(ALL, seen, [], NOW, tick=tick, rolling=False)
    assert (decided.request and decided.request.cause) == cause
    assert decided.why


@pytest.mark.parametrize(
    ("past", "rolling", "why"),
    [
        ([before(1, DAY, over=False)], False, "retraining 1 is under way"),
        ([before(1, DAY)], True, "a candidate is on its way up"),
        ([before(1, 600)], False, "the cooldown lasts 3000 s more"),
        ([before(1, 9 * DAY), before(2, 2 * DAY)], False, "the budget of 2 is spent"),
    ],
)
def test_what_stands_in_the_way(past, rolling, why):
    decided = plan(ALL, Seen(at=5.0, labels=500), past, NOW, rolling=rolling)
    assert decided.request is None
    assert why in decided.why


def test_a_clock_that_was_set_back_a_day_does_not_hold_it_up_for_that_day():
    decided = plan(ALL, Seen(at=5.0, labels=500), [before(1, -DAY)], NOW, rolling=False)
    assert decided.request is not None


def test_it_waits_for_labels():
    decided = plan(Policy(drift=True, least=40), Seen(at=5.0, drifted=True, labelled=39), [], NOW, rolling=False)
    assert decided.request is None
    assert "39 of 40 labels are there" in decided.why


def test_people_are_not_counted_and_months_end():
    past = [before(1, 40 * DAY), before(2, 9 * DAY, "manual"), before(3, 2 * DAY)]
    assert plan(ALL, Seen(at=5.0, labels=500), past, NOW, rolling=False).request is not None


def test_an_occasion_is_answered_once():
    first = plan(ALL, Seen(at=5.0, drifted=True), [], NOW, rolling=False).request
    done = [Retraining("m", 1, first, {step: Decision("pass", "", 0.0) for step in STEPS})]
    later = NOW + 40 * DAY
    assert "has been answered" in plan(ALL, Seen(at=5.0, drifted=True), done, later, rolling=False).why
    assert plan(ALL, Seen(at=6.0, drifted=True), done, later, rolling=False).request is not None


@given(
    seen=st.builds(
        Seen,
        at=st.just(5.0),
        labels=st.none() | st.integers(0, 1000),
        drifted=st.none() | st.booleans(),
        triage=st.sampled_from(["", "none", "covariate drift", "data bug", "label problem"]),
        worse=st.none() | st.booleans(),
    ),
    ages=st.lists(st.floats(1.0, 100 * DAY), max_size=6),
    rolling=st.booleans(),
    tick=st.none() | st.just(7.0),
)
def test_never_two_at_once_nor_over_the_budget_nor_from_red_data(seen, ages, rolling, tick):
    past = [before(number, ago) for number, ago in enumerate(sorted(ages, reverse=True), 1)]
    decided = plan(ALL, seen, past, NOW, tick=tick, rolling=rolling)
    if decided.request is not None:
        assert not rolling
        assert seen.triage != "data bug"
        assert all(ago >= ALL.cooldown for ago in ages)
        assert sum(ago < ALL.budget_seconds for ago in ages) < ALL.budget


def test_what_a_project_says():
    section = RetrainSection(on=("drift", "quality", "labels:200", "cron:0 3 * * 1"), budget="4/month", cooldown=60)
    assert read_policy(section, "models.m.retrain") == Policy(
        True, True, 200, "0 3 * * 1", 40, 60, budget=4, budget_seconds=30 * DAY
    )
    assert read_policy(RetrainSection(), "x").watches is False


@pytest.mark.parametrize(
    ("section", "says"),
    [
        (RetrainSection(on=("labels",)), "labels:COUNT"),
        (RetrainSection(on=("labels:0",)), "labels:COUNT"),
        (RetrainSection(on=("drift:3",)), "'drift:3' starts nothing"),
        (RetrainSection(budget="4/year"), "4/month"),
    ],
)
def test_what_means_nothing_is_told(section, says):
    with pytest.raises(ConfigurationError, match=r"models\.m\.retrain") as caught:
        read_policy(section, "models.m.retrain")
    assert says in str(caught.value)
