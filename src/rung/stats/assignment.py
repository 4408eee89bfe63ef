"""Whether units reach the arms in the shares that were asked for: the sequential test of sample ratio mismatch (SRM).

A mismatch means that something between the hash and the counter treats the arms differently: a redirect, a crash, a
cache, labels that come back for one arm only. Then the arms are not comparable, and every verdict is blocked.

The Bayes factor of "some other shares", Dirichlet with parameters a_k = c pi_k, against the shares pi asked for

    log BF = lnG(A) - lnG(A+n) + sum_k [lnG(a_k+x_k) - lnG(a_k)] - sum_k x_k ln pi_k,   A = sum_k a_k

is a martingale under the null (Lindon and Malek, Anytime-Valid Inference for Multinomial Count Data, 2022,
arXiv 2011.03567). The average over several c finds large and small errors alike.

When the shares change (a ladder's stages), each stage has a factor E_s of its own. Their product is a martingale, but
what the quiet stages cost would hide an error that begins late; so the evidence is half the product and half the
average of the E_s with weights 1/(s(s+1)) that were fixed before, which is one too.
"""

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from rung.domain.errors import InvalidInput
from rung.domain.rules import Outcome, Verdict

__all__ = ["Stage", "log_bayes_factor", "log_evidence", "srm"]

_CONCENTRATIONS = (100.0, 1_000.0)
"""How near the alternative lies to the null: as many imagined units."""


class Stage(msgspec.Struct, frozen=True):
    """Units that were counted while the shares stayed the same."""

    counts: tuple[int, ...]
    """By arm. Each unit once in all stages together: where it was first seen."""
    shares: tuple[float, ...]
    """By arm; they need not add up to 1."""


def srm(stages: Sequence[Stage], *, alpha: float = 0.01, before: float = 1.0) -> Verdict:
    """Whether the shares are not what was asked for: `fail`, or `inconclusive`. It never passes.

    Forced arms and segments are left out by whoever counts.

    Args:
        stages: in the order of time, the present one last; a new one for each change of the shares.
        alpha: probability that a split that is right ever fails.
        before: the `p` of the last look; 1 at the first.

    Raises:
        InvalidInput: when a stage has not one share per count, or no share above 0.
    """
    found = float(log_evidence([_stage(one) for one in stages]))
    p = min(before, math.exp(-max(found, 0.0)))
    outcome: Outcome = "fail" if p <= alpha else "inconclusive"
    last = stages[-1] if stages else Stage((), ())
    total, asked = sum(last.counts), sum(last.shares)
    seen = [count / total if total else 0.0 for count in last.counts]
    evidence: dict[str, Any] = {
        "method": "Dirichlet-multinomial Bayes factor, always valid",
        "alpha": alpha,
        "p": p,
        "counts": [list(one.counts) for one in stages],
        "shares": [[share / sum(one.shares) for share in one.shares] for one in stages],
        "estimate": seen,
    }
    said = "do not reach" if outcome == "fail" else "are not seen to miss"
    why = (
        f"Units {said} the arms in the shares asked for: {_percent(seen)} of {total} units against "
        f"{_percent([share / asked for share in last.shares])}, p {p:.2g} of {alpha:g}."
    )
    return Verdict(outcome, "sample ratio", why, evidence)


def log_evidence(stages: Sequence[Any]) -> Any:
    """Log of the evidence of all stages, from the `log_bayes_factor` of each: numbers, or arrays of one shape."""
    import numpy as np

    weights = [1 / (number * (number + 1)) for number in range(1, len(stages) + 1)]
    total = np.asarray(sum(stages), dtype=float)
    # The weight of stages that have not begun stays what it is.
    parts = [total, np.full_like(total, math.log(1 - sum(weights)))]
    parts += [math.log(weight) + log for weight, log in zip(weights, stages, strict=True)]
    return np.logaddexp.reduce(parts) - math.log(2)


def log_bayes_factor(counts: Any, shares: Sequence[float]) -> Any:
    """Log of the evidence against the shares.

    Args:
        counts: array of shape (..., arms), of units so far.
        shares: of the arms, above 0, adding up to 1.

    Returns:
        An array of the shape (...).
    """
    import numpy as np
    from scipy.special import gammaln

    x, pi = np.asarray(counts, dtype=float), np.asarray(shares, dtype=float)
    n = x.sum(axis=-1)
    null = (x * np.log(pi)).sum(axis=-1)
    factors = []
    for concentration in _CONCENTRATIONS:
        a = concentration * pi
        arms = (gammaln(a + x) - gammaln(a)).sum(axis=-1)
        factors.append(gammaln(concentration) - gammaln(concentration + n) + arms - null)
    return np.logaddexp.reduce(factors, axis=0) - math.log(len(factors))


def _stage(stage: Stage) -> float:
    total = sum(stage.shares)
    if len(stage.counts) != len(stage.shares) or min(stage.shares, default=-1) < 0 or total <= 0:
        raise InvalidInput(
            f"A stage needs one count and one share per arm, and a share above 0: {stage.counts}, {stage.shares}.",
            field="shares",
        )
    pairs = [(count, share / total) for count, share in zip(stage.counts, stage.shares, strict=True)]
    if any(count and not share for count, share in pairs):
        return math.inf
    used = [(count, share) for count, share in pairs if share]
    return float(log_bayes_factor([count for count, _ in used], [share for _, share in used]))


def _percent(shares: Sequence[float]) -> str:
    return " / ".join(f"{100 * share:.2f} %" for share in shares)
