import numpy as np
import pytest

from rung.domain.errors import InvalidInput
from rung.domain.rules import Metric, Rule
from rung.stats.replay import Plan, replay

RNG = np.random.default_rng(71)
CLICKS = (RNG.random(12_000) < 0.05).astype(float)
SCORES = RNG.gamma(2, 0.1, 6_000)
SECONDS = RNG.lognormal(-4, 0.5, 4_000)


@pytest.mark.parametrize(
    ("metric", "values", "tau"),
    [
        (Metric("clicks"), CLICKS, 0.01),
        (Metric("clicks", worse="lower"), CLICKS, 0.01),
        (Metric("score", worse="lower"), SCORES, 0.02),
        (Metric("failed", "errors"), CLICKS, 0.01),
    ],
)
@pytest.mark.parametrize("share", [0.5, 0.1])
def test_a_quiet_log_is_quiet(metric: Metric, values: np.ndarray, tau: float, share: float) -> None:
    ours = replay(Rule(metric, alpha=0.05, tau=tau), values, Plan(share, runs=300), rng=np.random.default_rng(72))

    assert ours.runs == 300
    assert ours.low <= 0.05, str(ours)


@pytest.mark.parametrize(
    ("metric", "values", "harm"),
    [
        (Metric("clicks"), CLICKS, 0.03),
        (Metric("clicks", worse="lower"), CLICKS, 0.03),
        (Metric("score", worse="lower"), SCORES, 0.03),
        (Metric("failed", "errors"), CLICKS, 0.03),
    ],
)
def test_a_harm_that_is_put_in_is_found(metric: Metric, values: np.ndarray, harm: float) -> None:
    ours = replay(Rule(metric), values, Plan(runs=100, harm=harm), rng=np.random.default_rng(73))

    assert ours.rate > 0.9, str(ours)


def test_latencies() -> None:
    rule = Rule(Metric("seconds", "quantile"), quantile=0.95, alpha=0.05)
    quiet = replay(rule, SECONDS, Plan(runs=12, looks=8), rng=np.random.default_rng(74))
    slow = replay(rule, SECONDS, Plan(runs=12, looks=8, harm=1.0), rng=np.random.default_rng(74))

    assert quiet.fired == 0
    assert slow.fired == 12


@pytest.mark.parametrize(
    ("values", "plan"),
    [
        (CLICKS[:10], Plan()),
        (np.array([np.nan] * 100), Plan()),
        (CLICKS, Plan(harm=0.99)),
    ],
)
def test_what_cannot_be_replayed(values: np.ndarray, plan: Plan) -> None:
    with pytest.raises(InvalidInput):
        replay(Rule(Metric("clicks")), values, plan, rng=np.random.default_rng(75))
