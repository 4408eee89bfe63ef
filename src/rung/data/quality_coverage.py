"""Labels by arm: how many mature predictions have one, and whether they come back evenly."""

from typing import TYPE_CHECKING, Any

from rung.domain.quality import ArmCoverage
from rung.domain.rules import Verdict
from rung.stats.assignment import Stage, srm

if TYPE_CHECKING:
    import polars as pl

__all__ = ["by_arm", "imbalance"]

_RULE = "labels by arm"
_ALPHA = 0.01


def by_arm(mature: "pl.DataFrame") -> tuple[ArmCoverage, ...]:
    """Coverage of each arm and version.

    Args:
        mature: predictions old enough, with `received`, null where there is no label.
    """
    import polars as pl

    labelled = pl.col("received").is_not_null()
    arms = mature.group_by("arm", "version").agg(
        pl.len().alias("predictions"),
        labelled.sum().alias("labelled"),
        pl.col("unit").n_unique().alias("units"),
        pl.col("unit").filter(labelled).n_unique().alias("labelled_units"),
        labelled.mean().alias("coverage"),
    )
    return tuple(ArmCoverage(**one) for one in arms.sort("arm", "version").iter_rows(named=True))


def imbalance(mature: "pl.DataFrame") -> Verdict:
    """`fail` where labels come back for one arm and not for another; `inconclusive` otherwise.

    Arms are compared within one release, at the same time, by the first prediction of each unit: who asks often would
    have some label in any case. Units with a label, and those without one, have to reach the arms in the shares of all
    units. Half of the probability of a false alarm goes to each: where nearly all have one, only the second shows it.

    Args:
        mature: predictions old enough, by time, with `received`, null where there is no label.
    """
    import polars as pl

    drawn = mature.filter(pl.col("propensity") > 0)
    units = (
        drawn.filter(pl.col("arm").n_unique().over("epoch") > 1)
        .unique("unit", keep="first", maintain_order=True)
        .group_by("epoch", "arm")
        .agg(pl.len().alias("units"), pl.col("received").is_not_null().sum().alias("labelled"))
        .sort("epoch", "arm")
    )
    parts = [part for _, part in units.group_by("epoch", maintain_order=True) if part.height > 1]
    if not parts:
        why = "No two arms answered mature predictions at the same time: nothing to compare."
        return Verdict("inconclusive", _RULE, why)
    present = srm([_stage(part, part["labelled"]) for part in parts], alpha=_ALPHA / 2)
    missing = srm([_stage(part, part["units"] - part["labelled"]) for part in parts], alpha=_ALPHA / 2)
    worse = min(present, missing, key=lambda one: float(one.evidence["p"]))
    p = min(1.0, 2 * float(worse.evidence["p"]))
    failed = worse.outcome == "fail"
    said = "come back unevenly from" if failed else "are not seen to come back unevenly from"
    why = f"Labels {said} the arms, p {p:.2g} of {_ALPHA:g}."
    evidence: dict[str, Any] = {
        "method": "Dirichlet-multinomial Bayes factor of units with and without a label, always valid",
        "alpha": _ALPHA,
        "p": p,
        "counts": present.evidence["counts"],
        "units": [part["units"].to_list() for part in parts],
        "arms": [part["arm"].to_list() for part in parts],
    }
    return Verdict("fail" if failed else "inconclusive", _RULE, why, evidence)


def _stage(part: "pl.DataFrame", counts: "pl.Series") -> Stage:
    return Stage(tuple(counts.to_list()), tuple(float(one) for one in part["units"]))
