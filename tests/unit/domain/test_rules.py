from itertools import product

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.domain.errors import ConfigurationError
from rung.domain.rules import Metric, Rule, Verdict, combine, split_alpha


def verdict(outcome: str) -> Verdict:
    return Verdict(outcome, f"a rule that says {outcome}", f"It is a {outcome}.", {"p": 0.5})


@pytest.mark.parametrize("outcomes", list(product(("pass", "fail", "inconclusive"), repeat=3)))
def test_inconclusive_never_means_pass(outcomes: tuple[str, ...]) -> None:
    expected = "fail" if "fail" in outcomes else "inconclusive" if "inconclusive" in outcomes else "pass"

    assert combine([verdict(one) for one in outcomes]).outcome == expected


def test_no_guard_is_no_pass() -> None:
    assert combine([]).outcome == "inconclusive"
    assert combine([], checks=[verdict("inconclusive")]).outcome == "inconclusive"


@pytest.mark.parametrize("outcome", ["pass", "fail", "inconclusive"])
def test_a_failed_check_blocks_every_verdict(outcome: str) -> None:
    blocked = combine([verdict(outcome)], checks=[verdict("inconclusive"), verdict("fail")])

    assert blocked.outcome == "inconclusive"
    assert blocked.why == "Blocked: It is a fail."


def test_a_quiet_check_says_nothing() -> None:
    assert combine([verdict("pass")], checks=[verdict("inconclusive")]).outcome == "pass"
    assert combine([verdict("fail")], checks=[verdict("inconclusive")]).outcome == "fail"


def test_the_evidence_of_each_is_kept_as_json() -> None:
    both = combine([verdict("pass"), verdict("fail")])

    assert [one["outcome"] for one in both.evidence["verdicts"]] == ["pass", "fail"]
    assert msgspec.json.decode(msgspec.json.encode(both), type=Verdict) == both


@given(st.floats(1e-6, 0.5), st.dictionaries(st.text(max_size=3), st.floats(0.01, 100), min_size=1, max_size=6))
def test_alpha_is_shared_out_and_no_more(alpha: float, weights: dict[str, float]) -> None:
    shared = split_alpha(alpha, weights)

    assert shared.keys() == weights.keys()
    assert sum(shared.values()) == pytest.approx(alpha)
    assert all(part > 0 for part in shared.values())


def test_a_guard_without_weight_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="above 0"):
        split_alpha(0.05, {"errors": 1, "latency": 0})


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": 1.0}, "alpha"),
        ({"margin": 0.02, "tolerance": 0.01}, "tolerance"),
        ({"tau": 0.0}, "tau"),
        ({"quantile": 99.0}, "quantile"),
        ({"ratio": 0.0}, "ratio"),
    ],
)
def test_numbers_that_do_not_fit(setting: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named) as caught:
        Rule(Metric("clicks"), **setting)
    assert "clicks" in str(caught.value)
