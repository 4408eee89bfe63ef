"""The rules that every project begins with, and how `[alerts]` changes them.

One table: what fires, what is told, how often it fires wrongly, and the query by which Prometheus says the same.
"""

from collections.abc import Iterable

import msgspec

from rung.domain.alerts import AlertRule
from rung.domain.errors import ConfigurationError
from rung.settings.alerts import AlertSection

__all__ = ["LOOK_ALPHA", "RULES", "rules_of"]

LOOK_ALPHA = 1e-6
"""Probability, per look at one model, that the least a share can be lies above what it is."""
_BOUND = (
    "at most 1 in 1,000,000 looks at a model: the value is the least that the share can be (Chernoff's bound for the "
    "binomial); with a look each 10 seconds at most 0.009 a day"
)

RULES: tuple[AlertRule, ...] = (
    AlertRule(
        name="errors",
        metric="error_share",
        above=0.01,
        resolve=0.002,
        clear_seconds=60,
        severity="critical",
        cause="serving",
        says="at least {percent} of the requests to {model} fail through no fault of the caller",
        way_out="rung ps, then the log of the replicas; rung rollback takes a new version back",
        false_alarms=_BOUND,
    ),
    AlertRule(
        name="latency",
        metric="slow_share",
        above=0.01,
        resolve=0.005,
        clear_seconds=60,
        cause="serving",
        says="the p99 of {model} is above its objective: at least {percent} of its answers take longer",
        way_out="more replicas, a smaller model (rung compress) or a cache; docs/how-to/tune-limits.md",
        false_alarms=_BOUND,
    ),
    AlertRule(
        name="shed",
        metric="shed_share",
        above=0.01,
        resolve=0.002,
        clear_seconds=60,
        cause="serving",
        says="at least {percent} of the requests to {model} are refused (429): more is asked than can be answered",
        way_out="more replicas, or a longer objective_ms",
        false_alarms=_BOUND,
    ),
    AlertRule(
        name="process-down",
        metric="process_down",
        above=0,
        for_seconds=15,
        absent_resolves=True,
        severity="critical",
        cause="processes",
        says="{process} does not run",
        way_out="rung ps says why it ended; rung up starts everything again",
    ),
    AlertRule(
        name="process-restarts",
        metric="process_restarts",
        above=2,
        absent_resolves=True,
        cause="processes",
        says="{process} was started again {value} times in ten minutes",
        way_out="rung ps says why it ends",
    ),
    AlertRule(
        name="log-lost",
        metric="log_lost",
        above=0,
        clear_seconds=60,
        cause="disk",
        says="{value} records of the prediction log were lost in ten minutes",
        way_out="free the disk or use a faster one; the reasons are in rung ps",
    ),
    AlertRule(
        name="log-failing",
        metric="log_failing",
        above=0,
        for_seconds=10,
        severity="critical",
        cause="disk",
        says="a replica cannot write the prediction log",
        way_out="free the disk; answers go on, but are not recorded",
    ),
    AlertRule(
        name="disk",
        metric="disk_free_share",
        below=0.05,
        resolve=0.08,
        for_seconds=30,
        severity="critical",
        cause="disk",
        says="only {percent} of the disk under {place} is free",
        way_out="delete what is not needed, or set days in [models.NAME.serve.log]",
    ),
    AlertRule(
        name="jobs-dead",
        metric="jobs_dead",
        above=0,
        absent_resolves=True,
        cause="jobs",
        says="{value} jobs of the kind {kind} have used up their tries",
        way_out="rung jobs list --state dead, then rung jobs retry ID or rung jobs cancel ID",
    ),
    AlertRule(
        name="jobs-waiting",
        metric="job_wait_seconds",
        above=900,
        resolve=300,
        absent_resolves=True,
        cause="jobs",
        says="a job of the kind {kind} has been ready for {value} seconds",
        way_out="more workers: count in [workers]",
    ),
    AlertRule(
        name="control",
        metric="part_failures",
        above=2,
        resolve=0,
        severity="critical",
        cause="control",
        says="the part {part} of the control plane failed {value} times in a row",
        way_out="the log of the control plane says more",
    ),
    AlertRule(
        name="database-locked",
        metric="database_locked",
        above=0,
        clear_seconds=30,
        severity="critical",
        cause="control",
        says="the database stays locked by another process",
        way_out="end what holds it: fuser -v on the file shows it",
    ),
    AlertRule(
        name="drift",
        metric="drift_confirmed",
        above=0,
        absent_resolves=True,
        cause="model",
        says="what {model} is asked has moved from what it learned",
        way_out="rung drift {model} says which columns, and what kind of change it is",
        false_alarms=(
            "at most 0.73 % of the windows in which nothing has changed: two of three windows, each with a chance of "
            "5 % (3 x 0.05^2 x 0.95 + 0.05^3), with the defaults of [models.NAME.drift]"
        ),
    ),
    AlertRule(
        name="quality",
        metric="quality_worse",
        above=0,
        absent_resolves=True,
        severity="critical",
        cause="model",
        says="the answers of {model} have become worse, by their labels",
        way_out="rung quality {model}; rung retrain {model}, or rung rollback {model}",
        false_alarms=(
            "that of the detector: on average no more than one in 1 / alpha cohorts where nothing has changed "
            "(e-detector, Shin, Ramdas and Rinaldo 2023)"
        ),
    ),
    AlertRule(
        name="skew",
        metric="skew_share",
        above=0,
        absent_resolves=True,
        cause="model",
        says="what {model} was asked comes out otherwise when it is answered again",
        way_out="rung drift {model} --replay 200 names what differs; rung models verify {model} checks its files",
        false_alarms="none where a model answers the same input alike: any difference beyond its tolerance counts",
    ),
    AlertRule(
        name="rollout-held",
        metric="rollout_held",
        above=0,
        absent_resolves=True,
        cause="rollout",
        says="the rollout of {model} version {version} goes no further by itself",
        way_out="rung experiment {model}, then rung promote {model} or rung rollback {model}",
    ),
    AlertRule(
        name="rolled-back",
        metric="rolled_back",
        above=0,
        absent_resolves=True,
        cause="rollout",
        says="{model} was taken back to version {version}",
        way_out="rung releases {model} shows the evidence",
        false_alarms="alpha of [models.NAME.release], over all guards and looks of a rollout together; by hand: none",
    ),
    AlertRule(
        name="no-data",
        metric="no_data_seconds",
        above=0,
        absent_resolves=True,
        cause="no-data",
        says="the rule {rule} has had no data for {value} seconds: nobody knows whether it would fire",
        way_out="rung ps shows what does not answer",
    ),
)


def rules_of(changes: Iterable[AlertSection]) -> tuple[AlertRule, ...]:
    """The default rules with the project's changes, and its own.

    Raises:
        ConfigurationError: naming the rule and the key.
    """
    rules = {rule.name: rule for rule in RULES}
    for change in changes:
        given = {
            name: value
            for name in change.__struct_fields__
            if (value := getattr(change, name)) is not None and name != "off"
        }
        before = rules.get(change.name)
        if change.off:
            if before is None:
                raise ConfigurationError(f"[[alerts.rule]] name = {change.name!r}: there is no such rule to turn off")
            del rules[change.name]
            continue
        if before is None:
            rules[change.name] = AlertRule(**{"metric": "", **given})
            continue
        if "above" in given and before.below is not None:
            raise ConfigurationError(f"[[alerts.rule]] name = {change.name!r}: it fires below a bound; give `below`")
        if "below" in given and before.above is not None:
            raise ConfigurationError(f"[[alerts.rule]] name = {change.name!r}: it fires above a bound; give `above`")
        if ("above" in given or "below" in given) and "resolve" not in given:
            given["resolve"] = None  # the default's belongs to the default's bound
        rules[change.name] = msgspec.structs.replace(before, **given)
    return tuple(rules.values())
