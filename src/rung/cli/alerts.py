"""Bodies of `rung alerts`."""

import getpass
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import msgspec

from rung.cli.printing import print_json, print_table
from rung.domain.alerts import Alert, Notice
from rung.domain.errors import ConfigurationError, NotReady, RungError
from rung.jobs.queue import JobStore
from rung.loop import notify, prometheus
from rung.loop.alert_rules import rules_of
from rung.loop.alert_store import AlertStore, jobs_of
from rung.settings.file import project_here
from rung.settings.project import ProjectSettings
from rung.store.database import Database, open_database

__all__ = ["acknowledge", "errors", "export", "list_alerts", "rules", "silence", "test"]

_SPAN = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)\Z")
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def _open(url: str) -> Database:
    return open_database(url or project_here().project.store, create=False)


def list_alerts(url: str, *, as_json: bool) -> None:
    """One line for each alert; then the silences. Raises ConfigurationError: there is no such database."""
    with _open(url) as database:
        store = AlertStore(JobStore(database))
        alerts, silences = store.list_alerts(), store.silences()
    if as_json:
        rows = [{"id": alert.id, **msgspec.structs.asdict(alert)} for alert in alerts]
        print_json({"alerts": rows, "silences": silences})
        return
    firing = [alert for alert in alerts if alert.status == "firing"]
    over = [alert for alert in alerts if alert.status != "firing"]
    print(f"{len(firing)} alert{'s' if len(firing) != 1 else ''} fire{'' if len(firing) != 1 else 's'}")
    if alerts:
        head = ("ID", "RULE", "SEVERITY", "STATE", "SINCE", "WHAT")
        print_table(head, [_line(alert) for alert in (*firing, *over)])
    for alert in firing:
        print(f"{alert.id}: {alert.way_out}")
    for silence in silences:
        labels = "".join(f" {name}={value}" for name, value in silence.labels.items())
        why = f": {silence.why}" if silence.why else ""
        print(f"silent until {_moment(silence.until)}: {silence.rule}{labels}{why}")


def _line(alert: Alert) -> tuple[str, ...]:
    firing = alert.status == "firing"
    state = f"seen by {alert.acknowledged}" if firing and alert.acknowledged else "fires" if firing else "over"
    return (alert.id, alert.rule, alert.severity, state, _moment(alert.fired if firing else alert.resolved), alert.says)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(" ", "seconds")


def rules(*, as_json: bool) -> None:
    """One line for each rule. Raises ConfigurationError: one makes no sense."""
    found = rules_of(project_here().alerts.rule)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            rule.name,
            rule.severity,
            f"{rule.metric} > {rule.above:g}" if rule.above is not None else f"{rule.metric} < {rule.below:g}",
            f"{rule.for_seconds:g}s",
            rule.false_alarms.partition(":")[0],
        )
        for rule in found
    ]
    print_table(("RULE", "SEVERITY", "FIRES AT", "AFTER", "FALSE ALARMS"), rows)


def acknowledge(url: str, alert: str, by: str) -> None:
    """Raises NotFound: no alert with this id fires."""
    with _open(url) as database:
        seen = AlertStore(JobStore(database)).acknowledge(alert, by or getpass.getuser())
    print(f"{seen.acknowledged} sees to {seen.rule}: {seen.says}")


def silence(url: str, rule: str, span: str, labels: Sequence[str], why: str) -> None:
    """Raises ConfigurationError: there is no such rule, or the span or a label is none."""
    names = {one.name for one in rules_of(project_here().alerts.rule)}
    if rule != "*" and rule not in names:
        raise ConfigurationError(f"there is no rule {rule!r}: use '*' or one of {', '.join(sorted(names))}")
    if (found := _SPAN.match(span)) is None:
        raise ConfigurationError(f"--for {span!r} is no time: use such as 30m, 2h or 1d")
    pairs = [label.partition("=") for label in labels]
    if wrong := [label for label, pair in zip(labels, pairs, strict=True) if not (pair[0] and pair[1])]:
        raise ConfigurationError(f"--label {wrong[0]!r} is none: use NAME=VALUE")
    seconds = float(found[1]) * _SECONDS[found[2]]
    with _open(url) as database:
        made = AlertStore(JobStore(database)).silence(rule, seconds, {name: value for name, _, value in pairs}, why)
    print(f"{rule} is silent until {_moment(made.until)}" if seconds else f"{rule} is not silent any more")


def test() -> None:
    """Tell every channel, one after the other.

    Raises:
        ConfigurationError: none is set.
        NotReady: one did not take it; the others were told.
    """
    section = _settings().alerts
    channels = notify.channels_of(section)
    if not channels:
        raise ConfigurationError("[alerts] sets nobody to tell: give `webhook`, `slack` or `smtp`")
    now = time.time()
    alert = Alert(rule="test", status="firing", says="this is a test of rung's alerts", fired=now)
    notice = Notice(what="test", cause="test", severity="info", alerts=(alert,))
    failed = []
    for job in jobs_of(notice, channels, now):
        channel = job.arguments["channel"]
        try:
            notify.send(section, job.arguments, uuid4().hex)
        except RungError as error:
            failed.append(str(error))
        else:
            print(f"{channel}: told")
    if failed:
        raise NotReady("; ".join(failed))


def _settings() -> ProjectSettings:
    return project_here()


def errors(url: str, *, as_json: bool) -> None:
    """One line for each group."""
    with _open(url) as database:
        found = AlertStore(JobStore(database)).errors()
    if as_json:
        print_json(found)
        return
    if not found:
        print("no errors were counted")
        return
    rows = [
        (
            one.fingerprint,
            f"{one.count:,}",
            one.version or "-",
            _moment(one.first),
            one.place,
            f"{one.kind}: {one.message}"[:80],
        )
        for one in found
    ]
    print_table(("ID", "COUNT", "VERSION", "FIRST SEEN", "WHERE", "WHAT"), rows)


def export(rule_file: Path | None, dashboard: Path | None) -> None:
    """Write the files. Raises ConfigurationError: none is asked for, or one cannot be written."""
    if rule_file is None and dashboard is None:
        raise ConfigurationError("say what to write: --prometheus FILE, --grafana FILE, or both")
    settings = _settings()
    objectives = {
        name: (model.serve.objective_ms or settings.serve.objective_ms) / 1e3 for name, model in settings.models.items()
    }
    rules = rules_of(settings.alerts.rule)
    for path, text in (
        (rule_file, prometheus.rule_file(rules, objectives)),
        (dashboard, prometheus.dashboard(f"rung: {settings.project.name or Path.cwd().name}")),
    ):
        if path is not None:
            try:
                path.write_text(text, encoding="utf-8")
            except OSError as error:
                raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from None
            print(f"wrote {path}")
