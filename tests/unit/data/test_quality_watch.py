import msgspec
import numpy as np
import polars as pl
import pytest

from rung.data.quality_watch import Rule, moment, watch
from rung.domain.quality import Watch
from rung.stats.detectors import Baseline

DAY = 86_400.0


def losses(*days, users=100, each=1):
    """Losses of whole days, of mean `days[i]`, by users who come again."""
    rng = np.random.default_rng(3)
    rows = [
        (number * DAY, number * DAY + rng.random() * DAY, f"u{user}", float(rng.random() < rate))
        for number, rate in enumerate(days)
        for user in range(users)
        for _ in range(each)
    ]
    return pl.DataFrame(rows, schema=["start", "time", "unit", "loss"], orient="row").sort("time")


def test_a_unit_counts_once_a_cohort():
    found = watch(losses(0.1, 0.1, 0.1, users=100, each=5), 1, Rule(Baseline(0.1, 0.1)), cohort=DAY)
    assert found.losses == 300
    found = watch(losses(0.1, 0.1, 0.1, users=100, each=5), 1, Rule(least=150), cohort=DAY)
    assert found.losses == 100  # two days of 100 are the baseline


def test_a_baseline_of_its_own_grows_and_its_bound_falls():
    limits, before = [], None
    for day in range(1, 21):
        frame = losses(*[0.1] * day).filter(pl.col("start") >= (day - 2) * DAY)
        before = watch(frame, 1, Rule(least=100), cohort=DAY, before=before)
        before = msgspec.json.decode(msgspec.json.encode(before), type=Watch)
        limits.append(before.limit)
    assert limits[0] > limits[-1] + 0.02
    assert sorted(limits, reverse=True) == limits
    assert len(set(limits)) <= 4  # each bound has its part of the probability
    assert before.state["baseline"]["units"] == 800
    assert before.state["early"] == []
    assert before.losses == 1_900
    at_once = watch(losses(*[0.1] * 20), 1, Rule(least=100), cohort=DAY)
    assert (at_once.limit, at_once.losses) == (before.limit, before.losses)
    assert at_once.level == pytest.approx(before.level)


def test_what_raised_an_alarm_is_not_learned_as_normal():
    found = watch(losses(0.1, *[0.6] * 9), 1, Rule(least=100), cohort=DAY)
    assert found.alarm
    assert found.baseline < 0.2
    assert found.state["early"] == []


def test_an_alarm_says_when_it_came_and_when_it_began():
    found = watch(losses(*[0.1] * 5, *[0.5] * 4), 3, Rule(Baseline(0.1, 0.12)), cohort=DAY)
    assert found.alarm
    assert found.version == 3
    assert found.began == 5 * DAY
    assert found.at in (6 * DAY, 7 * DAY)
    assert found.why.startswith("its loss has risen since about 1970-01-06: the mean was 0.1 and 0.")
    assert found.recent == pytest.approx(0.5, abs=0.15)


def test_a_cohort_of_another_length_begins_anew():
    first = watch(losses(0.1, 0.1), 1, Rule(Baseline(0.1, 0.12)), cohort=DAY)
    again = watch(losses(0.1, 0.1).clear(), 1, Rule(Baseline(0.1, 0.12)), cohort=DAY, before=first)
    assert again.losses == 200
    other = watch(losses(0.1, 0.1).clear(), 1, Rule(Baseline(0.1, 0.12)), cohort=DAY / 2, before=first)
    assert other.losses == 0


@pytest.mark.nightly
@pytest.mark.parametrize("each", [1, 10])
def test_quiet_weeks_of_users_who_come_again_seldom_alarm(each):
    """The baseline is the first days' own; 60 days of 100 users, each with an error rate of his own."""
    alarms = 0
    for seed in range(100):
        rng = np.random.default_rng([seed, each])
        skill = rng.beta(1, 9, 100)
        wrong = (rng.random((60, 100, each)) < skill[None, :, None]).mean(axis=2)
        frame = pl.DataFrame(
            {
                "start": np.repeat(np.arange(60) * DAY, 100),
                "time": np.repeat(np.arange(60) * DAY, 100) + rng.random(6_000) * DAY,
                "unit": np.tile(np.arange(100), 60).astype(str),
                "loss": wrong.ravel(),
            }
        )
        alarms += watch(frame, 1, Rule(), cohort=DAY).alarm
    # 6,000 losses at a run length of 50,000: 12 of 100 at most, and chance.
    assert alarms <= 20


def test_moments_are_for_people():
    assert (moment(0.0), moment(3_600.0), moment(61.0)) == ("1970-01-01", "1970-01-01 01:00", "1970-01-01 00:01:01")
