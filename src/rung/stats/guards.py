"""Run a rule on what the two arms have shown so far."""

from rung.domain.errors import ConfigurationError
from rung.domain.rules import Rule, Verdict
from rung.stats.errors import errors
from rung.stats.quantiles import Histogram, latency
from rung.stats.sequential import Moments, harm

__all__ = ["Arm", "judge"]

Arm = Moments | Histogram


def judge(rule: Rule, baseline: Arm, candidate: Arm, *, share: float = 0.5, before: float = 1.0) -> Verdict:
    """The verdict of a rule, under the name of its metric.

    Args:
        rule: what to compare, and how much worse the candidate may be.
        baseline: `Moments` for a rule of kind `mean` or `errors`, a `Histogram` of seconds for `quantile`.
        candidate: of the same class.
        share: the candidate's share of the units of the two arms; only `errors` needs it.
        before: `evidence["p"]` of the last look; 1 at the first.

    Raises:
        ConfigurationError: when the rule's kind does not go with what the arms have kept, or asks for a latency
            where lower is worse.
    """
    metric = rule.metric
    if metric.kind == "quantile" and isinstance(baseline, Histogram) and isinstance(candidate, Histogram):
        if metric.worse == "lower":
            raise ConfigurationError(f"`{metric.name}` is a quantile where lower is worse; only higher can be judged.")
        verdict = latency(
            baseline, candidate, quantile=rule.quantile, ratio=rule.ratio, alpha=rule.alpha, before=before
        )
    elif metric.kind != "quantile" and isinstance(baseline, Moments) and isinstance(candidate, Moments):
        verdict = _moments(rule, baseline, candidate, share, before)
    else:
        raise ConfigurationError(
            f"`{metric.name}` is of kind `{metric.kind}`, which is not judged by a {type(baseline).__name__} and a "
            f"{type(candidate).__name__}: `quantile` takes histograms, `mean` and `errors` take moments."
        )
    return Verdict(verdict.outcome, metric.name, f"{metric.name}: {verdict.why}", verdict.evidence)


def _moments(rule: Rule, baseline: Moments, candidate: Moments, share: float, before: float) -> Verdict:
    if rule.metric.kind == "errors":
        return errors(
            baseline,
            candidate,
            share=share,
            alpha=rule.alpha,
            margin=rule.margin,
            tolerance=rule.tolerance,
            before=before,
        )
    return harm(
        baseline,
        candidate,
        tau=rule.tau,
        alpha=rule.alpha,
        margin=rule.margin,
        tolerance=rule.tolerance,
        worse=rule.metric.worse,
        before=before,
    )
