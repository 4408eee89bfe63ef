"""Who proposes the parameters of a trial, and who ends it early: Optuna's, made from the words of a plan."""

from collections.abc import Callable, Sequence
from typing import Any

from rung.domain.errors import MissingDependency
from rung.domain.studies import Pruner, Sampler

try:
    import optuna
except ImportError:
    raise MissingDependency("rung tune needs Optuna: pip install 'rung[tune]'") from None

__all__ = ["pruner_for", "sampler_for"]


class _Numbered(optuna.samplers.BaseSampler):
    """Draws the numbers of a trial from its number: the same whichever worker does it, and none twice on resuming."""

    def __init__(self, make: Callable[[int], optuna.samplers.BaseSampler], seed: int) -> None:
        self._make, self._seed = make, seed
        self._inner = make(seed)

    def before_trial(self, study: Any, trial: Any) -> None:
        self._inner = self._make((self._seed * 1_000_003 + trial.number) % 2**32)
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Any, trial: Any, state: Any, values: Sequence[float] | None) -> None:
        self._inner.after_trial(study, trial, state, values)


def sampler_for(name: Sampler, seed: int) -> Any:
    """Optuna's sampler of that name. What it draws depends on `seed`, the trial's number, and earlier results.

    Raises:
        MissingDependency: `cmaes` is not installed.
    """
    samplers = optuna.samplers
    if name == "random":
        return _Numbered(lambda number: samplers.RandomSampler(seed=number), seed)
    if name == "tpe":
        # Trials that are running count as bad meanwhile, so that workers do not all try the same place.
        return _Numbered(lambda number: samplers.TPESampler(seed=number, constant_liar=True), seed)
    try:
        import cmaes  # noqa: F401 - Optuna would say so at the second trial only.
    except ImportError:
        raise MissingDependency("--sampler cmaes needs cmaes: pip install 'rung[tune]'") from None
    return _Numbered(lambda number: samplers.CmaEsSampler(seed=number, warn_independent_sampling=False), seed)


def pruner_for(name: Pruner) -> Any:
    """Optuna's pruner of that name. It counts reports, from 1."""
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource="auto", reduction_factor=3)
    return optuna.pruners.NopPruner()
