import subprocess
import sys
import time

import numpy as np
import pytest

from rung.domain.errors import ConfigurationError
from rung.domain.rules import Metric, Rule
from rung.stats.simulate import Measured, Traffic, draw, evidence, expected_units, measure, simulate, units_needed


def test_what_is_drawn_is_the_traffic() -> None:
    traffic = Traffic(0.05, 0.02, 0.25, units=40_000, looks=80)
    baseline, candidate = draw(traffic, runs=200, rng=np.random.default_rng(1))

    assert baseline.count.shape == (200, 80)
    assert (baseline.count[:, -1] + candidate.count[:, -1] == 40_000).all()
    assert candidate.count[:, -1].mean() == pytest.approx(10_000, rel=0.01)
    assert (candidate.total[:, -1] / candidate.count[:, -1]).mean() == pytest.approx(0.07, rel=0.02)
    assert (np.diff(candidate.total, axis=1) >= 0).all()


def test_what_is_measured() -> None:
    found = np.array([[0.0, 9.0, 0.0], [0.0, 0.0, 9.0], [0.0, 0.0, 0.0]])
    ours = measure(found, 0.05, np.array([10, 20, 30]))

    assert (ours.fired, ours.runs, ours.median_units) == (2, 3, 25)
    assert ours.low < 2 / 3 < ours.high
    assert str(ours).startswith("66.7 % [")
    assert measure(found[2:], 0.05, np.array([10, 20, 30])).median_units is None


def test_a_thousand_rollouts_take_seconds() -> None:
    began = time.process_time()
    simulate(Rule(Metric("rate")), Traffic(0.05, units=80_000), runs=1_000, rng=np.random.default_rng(2))

    assert time.process_time() - began < 5


def test_the_same_seed_gives_the_same_answer() -> None:
    one, two = (expected_units(0.05, 0.02, rng=np.random.default_rng(3), runs=200) for _ in range(2))

    assert one == two


@pytest.mark.parametrize(("effect", "share", "power"), [(0.01, 0.5, 0.85), (0.05, 0.5, 0.99), (0.03, 0.05, 0.8)])
def test_expected_units_are_what_another_simulation_takes(effect: float, share: float, power: float) -> None:
    said = expected_units(0.05, effect, rng=np.random.default_rng(4), share=share, power=power, runs=1_000)
    rule, traffic = Rule(Metric("rate"), tau=effect), Traffic(0.05, effect, share, units=said.units, looks=100)
    found: Measured = simulate(rule, traffic, runs=1_000, rng=np.random.default_rng(5))

    assert found.rate == pytest.approx(power, abs=0.05)
    assert said.median < said.units
    assert said.units < 1.25 * said.closed_form
    assert said.closed_form < 2 * said.units
    assert f"{said.units} units of both arms" in str(said)


def test_closed_form_grows_as_it_should() -> None:
    least = units_needed(0.05, 0.01, share=0.5, alpha=0.005, power=0.8)

    assert units_needed(0.05, 0.005, share=0.5, alpha=0.005, power=0.8) == pytest.approx(4 * least, rel=0.01)
    assert units_needed(0.05, 0.01, share=0.05, alpha=0.005, power=0.8) == pytest.approx(
        least * 0.25 / 0.0475, rel=0.01
    )
    assert units_needed(0.05, 0.01, share=0.5, alpha=0.001, power=0.8) > least
    assert units_needed(0.05, 0.01, share=0.5, alpha=0.005, power=0.9) > least


@pytest.mark.parametrize(("base", "effect"), [(0.0, 0.01), (0.05, 0.0), (0.99, 0.02), (0.05, -0.01)])
def test_no_harm_to_be_found(base: float, effect: float) -> None:
    with pytest.raises(ConfigurationError):
        expected_units(base, effect, rng=np.random.default_rng(6))


def test_a_quantile_is_not_simulated() -> None:
    arms = draw(Traffic(0.05, units=1_000, looks=2), runs=1, rng=np.random.default_rng(7))
    with pytest.raises(ConfigurationError, match="p99"):
        evidence(Rule(Metric("p99", "quantile")), *arms)


def test_importing_costs_nothing() -> None:
    code = (
        "import sys, rung.stats.guards, rung.stats.simulate, rung.stats.assignment, rung.stats.betting;"
        "print(sorted({'scipy', 'polars'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
