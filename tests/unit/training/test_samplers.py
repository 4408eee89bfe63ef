"""Each sampler finds better values than chance does, on functions whose minima are known."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("optuna")

import optuna
from scipy.stats import binomtest

from rung.domain.studies import Sampler
from rung.training.samplers import pruner_for, sampler_for

Function = Callable[[Any], float]


def _sphere(trial: Any) -> float:
    return sum(trial.suggest_float(f"x{i}", -5, 5) ** 2 for i in range(4))


def _ellipsoid(trial: Any) -> float:
    return sum(10 ** (2 * i / 3) * (trial.suggest_float(f"x{i}", -5, 5) - 1) ** 2 for i in range(4))


def _branin(trial: Any) -> float:
    x, y = trial.suggest_float("x", -5, 10), trial.suggest_float("y", 0, 15)
    bend = y - 5.1 / (4 * math.pi**2) * x * x + 5 / math.pi * x - 6
    return bend * bend + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


def _rates(trial: Any) -> float:
    """As a learning rate and a weight decay behave: good within an order of magnitude."""
    rate, decay = trial.suggest_float("rate", 1e-6, 1, log=True), trial.suggest_float("decay", 1e-8, 1, log=True)
    depth = trial.suggest_int("depth", 1, 12)
    return (math.log10(rate) + 2.5) ** 2 + 0.5 * (math.log10(decay) + 4) ** 2 + 0.1 * (depth - 7) ** 2


def _rosenbrock(trial: Any) -> float:
    x = [trial.suggest_float(f"x{i}", -2, 2) for i in range(3)]
    return float(sum(100 * (x[i + 1] - x[i] ** 2) ** 2 + (1 - x[i]) ** 2 for i in range(2)))


FUNCTIONS: dict[str, Function] = {
    function.__name__[1:]: function for function in (_sphere, _ellipsoid, _branin, _rates, _rosenbrock)
}


def _found(name: Sampler, function: Function, seed: int, trials: int) -> float:
    study = optuna.create_study(sampler=sampler_for(name, seed))
    study.optimize(function, n_trials=trials)
    return float(study.best_value)


def _wins(name: Sampler, functions: list[str], seeds: int, trials: int) -> tuple[int, int]:
    """Searches in which the sampler found a better value than chance with the same seed, of how many."""
    pairs = [
        (_found(name, FUNCTIONS[function], seed, trials), _found("random", FUNCTIONS[function], seed, trials))
        for function in functions
        for seed in range(seeds)
    ]
    return sum(ours < chance for ours, chance in pairs), len(pairs)


@pytest.mark.parametrize("name", ["tpe", "cmaes"])
def test_a_sampler_beats_chance(name: Sampler) -> None:
    won, of = _wins(name, ["sphere", "rates"], seeds=5, trials=60)
    # If it were no better than chance, this many wins would come up in 1 of 1,000 runs.
    assert binomtest(won, of, alternative="greater").pvalue < 1e-3, f"{won} of {of}"


@pytest.mark.nightly
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("name", ["tpe", "cmaes"])
@pytest.mark.parametrize("function", list(FUNCTIONS))
def test_a_sampler_beats_chance_on_every_function(name: Sampler, function: str) -> None:
    won, of = _wins(name, [function], seeds=25, trials=120)
    assert binomtest(won, of, alternative="greater").pvalue < 1e-3, f"{won} of {of}"


def test_two_seeds_draw_otherwise_and_one_draws_alike() -> None:
    first, again, other = (_found("random", _sphere, seed, 5) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("name", ["median", "hyperband"])
def test_a_pruner_ends_bad_trials_and_keeps_the_best(name: Any) -> None:
    study = optuna.create_study(sampler=sampler_for("random", 0), pruner=pruner_for(name))
    steps = 0

    def curve(trial: Any) -> float:
        nonlocal steps
        floor = trial.suggest_float("floor", 0, 1)
        for step in range(1, 28):
            steps += 1
            trial.report(floor + 1 / step, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return float(floor)

    study.optimize(curve, n_trials=40)
    best = min(trial.params["floor"] for trial in study.trials)
    assert study.best_value == pytest.approx(best, abs=0.05)
    assert steps < 0.7 * 40 * 27
    assert np.mean([trial.state.name == "PRUNED" for trial in study.trials]) > 0.3
