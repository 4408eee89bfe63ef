import pytest

from rung.domain.errors import ConfigurationError
from rung.domain.rules import Metric, Rule
from rung.stats.guards import judge
from rung.stats.quantiles import Histogram
from rung.stats.sequential import Moments

SLOW, FAST = Histogram.of([0.4] * 3_000), Histogram.of([0.1] * 3_000)


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (
            Rule(Metric("clicks", worse="lower"), tolerance=0.02),
            Moments.of_rate(2_500, 5_000),
            Moments.of_rate(2_000, 5_000),
        ),
        (Rule(Metric("failed", "errors"), tolerance=0.01), Moments.of_rate(5, 5_000), Moments.of_rate(100, 5_000)),
        (Rule(Metric("seconds", "quantile", measure="s")), FAST, SLOW),
    ],
    ids=["mean", "errors", "quantile"],
)
def test_each_kind_of_rule(rule: Rule, good: Moments | Histogram, bad: Moments | Histogram) -> None:
    verdict = judge(rule, good, bad)

    assert verdict.outcome == "fail"
    assert verdict.rule == rule.metric.name
    assert verdict.why.startswith(f"{rule.metric.name}: The candidate")
    assert judge(rule, bad, good).outcome == "pass"
    assert judge(rule, good, good, before=verdict.evidence["p"]).outcome == "fail"


def test_without_units_no_rule_passes() -> None:
    for metric, empty in (
        (Metric("m"), Moments()),
        (Metric("e", "errors"), Moments()),
        (Metric("q", "quantile"), Histogram()),
    ):
        assert judge(Rule(metric, tolerance=0.5), empty, empty).outcome == "inconclusive"


def test_the_share_reaches_the_test_of_errors() -> None:
    """A twentieth of the units with half of the failures."""
    rule, baseline, candidate = (
        Rule(Metric("failed", "errors")),
        Moments.of_rate(20, 19_000),
        Moments.of_rate(20, 1_000),
    )

    assert judge(rule, baseline, candidate, share=0.05).outcome == "fail"
    assert judge(rule, baseline, candidate, share=0.5).outcome == "inconclusive"


@pytest.mark.parametrize(
    ("metric", "baseline", "candidate"),
    [
        (Metric("seconds", "quantile"), Moments(), Moments()),
        (Metric("clicks"), FAST, SLOW),
        (Metric("clicks"), FAST, Moments()),
        (Metric("rows per second", "quantile", worse="lower"), FAST, SLOW),
    ],
)
def test_what_does_not_go_together(
    metric: Metric, baseline: Moments | Histogram, candidate: Moments | Histogram
) -> None:
    with pytest.raises(ConfigurationError, match=metric.name):
        judge(Rule(metric), baseline, candidate)
