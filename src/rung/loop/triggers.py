"""When a model is trained anew: a pure plan over what is known of it.

One thing at a time: while a retraining or a rollout of the model is under way, nothing is asked for. What is asked for
names its occasion, so that whoever notices the same thing again asks for nothing new.
"""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from rung.domain.errors import ConfigurationError
from rung.domain.retraining import Request, Retraining
from rung.settings.project import RetrainSection

__all__ = ["Plan", "Policy", "Seen", "plan", "read_policy"]

_SECONDS = {"day": 86_400.0, "week": 7 * 86_400.0, "month": 30 * 86_400.0}
_BUDGET = re.compile(r"([1-9]\d*)\s*/\s*(day|week|month)\Z")


class Policy(msgspec.Struct, frozen=True):
    """What may start a retraining."""

    drift: bool = False
    quality: bool = False
    labels: int = 0
    """Labels since the last retraining; 0: they start none."""
    cron: str = ""
    least: int = 1
    """Labels without which nothing can be learned."""
    cooldown: float = 3600.0
    """Seconds."""
    budget: int = 0
    """Most in `budget_seconds`; 0: no limit."""
    budget_seconds: float = 0.0

    @property
    def watches(self) -> bool:
        """Whether anything is to be measured for it."""
        return bool(self.drift or self.quality or self.labels)


class Seen(msgspec.Struct, frozen=True):
    """What was last measured of a model's traffic; a field is None where it was not, or could not be."""

    at: float = 0.0
    """Seconds since the epoch."""
    labels: int | None = None
    """Labels old enough to count that came since the last retraining."""
    labelled: int | None = None
    """All labels old enough to count."""
    drifted: bool | None = None
    """Whether inputs have moved, confirmed over several windows."""
    triage: str = ""
    """What kind of change it is, such as `covariate drift` or `data bug`."""
    worse: bool | None = None
    """Whether quality by its detector is below what it was."""
    skew: float | None = None
    """The least that the share of requests can be which come out otherwise when they are answered again."""
    evidence: dict[str, Any] = {}


class Plan(msgspec.Struct, frozen=True):
    """What is to be done, and why in words."""

    request: Request | None
    why: str


def read_policy(section: RetrainSection, where: str) -> Policy:
    """What `[models.NAME.retrain]` says.

    Raises:
        ConfigurationError: an entry of `on` or the budget means nothing.
    """
    found: dict[str, Any] = {"cooldown": section.cooldown, "least": section.least}
    for entry in section.on:
        name, _, value = entry.partition(":")
        if entry in ("drift", "quality"):
            found[name] = True
        elif name == "labels" and value.isdigit() and int(value):
            found["labels"] = int(value)
        elif name == "cron" and value.strip():
            found["cron"] = value.strip()
        else:
            raise ConfigurationError(
                f"[{where}] on: {entry!r:.80} starts nothing; use drift, quality, labels:COUNT or cron:EXPRESSION"
            )
    if section.budget:
        match = _BUDGET.match(section.budget)
        if not match:
            raise ConfigurationError(
                f"[{where}] budget: {section.budget!r:.40} is none; write 4/month, 1/week or 2/day"
            )
        found |= {"budget": int(match[1]), "budget_seconds": _SECONDS[match[2]]}
    return Policy(**found)


def plan(
    policy: Policy, seen: Seen, past: Sequence[Retraining], now: float, *, tick: float | None = None, rolling: bool
) -> Plan:
    """Whether to train anew now.

    Args:
        policy: what may start it.
        seen: what was measured last.
        past: retrainings so far, oldest first.
        now: seconds since the epoch.
        tick: when the schedule was last due and nothing was asked for yet; None: it is not.
        rolling: whether a candidate is on its way up.
    """
    wanted = _wanted(policy, seen, now, tick)
    if wanted is None:
        return Plan(None, "nothing asks for it")
    if any((one.request.cause, one.request.occasion) == (wanted.cause, wanted.occasion) for one in past):
        return Plan(None, f"{wanted.why}: that has been answered")
    if past and not past[-1].over:
        return Plan(None, f"{wanted.why}, and retraining {past[-1].number} is under way")
    if rolling:
        return Plan(None, f"{wanted.why}, and a candidate is on its way up")
    if seen.labelled is not None and seen.labelled < policy.least:
        return Plan(None, f"{wanted.why}; {seen.labelled} of {policy.least} labels are there")
    ours = [one for one in past if one.request.cause != "manual"]
    # One of the future was asked for before the clock was set back: nobody knows how long ago.
    if past and 0 <= now - past[-1].request.at < policy.cooldown:
        left = policy.cooldown - (now - past[-1].request.at)
        return Plan(None, f"{wanted.why}; the cooldown lasts {left:.0f} s more")
    spent = sum(one.request.at > now - policy.budget_seconds for one in ours)
    if policy.budget and spent >= policy.budget:
        return Plan(None, f"{wanted.why}; the budget of {policy.budget} is spent")
    return Plan(wanted, wanted.why)


def _wanted(policy: Policy, seen: Seen, now: float, tick: float | None) -> Request | None:
    """The most pressing reason. Data with a fault starts nothing: the loop would learn the fault."""
    measured = f"{seen.at:.3f}"
    if seen.triage == "data bug":
        return None
    if policy.quality and seen.worse:
        why = "quality is below what it was"
        return Request("quality", measured, _with(why, seen), now, evidence=seen.evidence)
    if policy.drift and seen.drifted and seen.triage != "label problem":
        why = "what is asked for has moved"
        return Request("drift", measured, _with(why, seen), now, evidence=seen.evidence)
    if policy.labels and seen.labels is not None and seen.labels >= policy.labels:
        why = f"{seen.labels:,} labels have come since the last retraining"
        return Request("labels", measured, why, now)
    if policy.cron and tick is not None:
        return Request("schedule", f"{tick:.0f}", f"the schedule {policy.cron!r} is due", now)
    return None


def _with(why: str, seen: Seen) -> str:
    return f"{why} ({seen.triage})" if seen.triage and seen.triage != "none" else why
