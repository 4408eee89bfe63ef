"""The same rules for those who have Prometheus and Grafana: a file of alerting rules, and a dashboard.

Only what replicas export at `/metrics` can be asked for there. Drift, quality, jobs, releases and the control plane
are in rung's own alerts alone. Prometheus has no confidence bounds: its shares are plain ones, so the rules on them ask
for 100 requests.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from rung.domain.alerts import AlertRule

__all__ = ["PANELS", "Panel", "dashboard", "queries", "rule_file"]

_REQUESTS = "rung_request_duration_seconds_count"
_FAILURES = "rung_request_failures_total"
_CALLERS = (
    "InvalidInput|Unauthenticated|Forbidden|NotFound|TooLarge|UnsupportedMedia|NotAcceptable|Unsupported|Conflict|"
    "Cancelled"
)
_ANSWERED = f"sum by (model) (increase({_REQUESTS}[5m]))"
# Where nothing has failed there is no series to add.
_TOTAL = f"({_ANSWERED} + (sum by (model) (increase({_FAILURES}[5m])) or 0 * {_ANSWERED}))"


class Panel(msgspec.Struct, frozen=True):
    """One chart of the dashboard."""

    title: str
    unit: str
    """Of Grafana: `reqps`, `percentunit`, `s`, `short`."""
    queries: dict[str, str]
    """Legend -> PromQL."""


PANELS = (
    Panel("Requests", "reqps", {"{{model}} {{version}}": f"sum by (model, version) (rate({_REQUESTS}[5m]))"}),
    Panel("Errors", "reqps", {"{{model}} {{error}}": f"sum by (model, error) (rate({_FAILURES}[5m]))"}),
    Panel(
        "Latency",
        "s",
        {
            f"{{{{model}}}} p{number}": f"histogram_quantile({quantile}, sum by (model, le)"
            " (rate(rung_request_duration_seconds_bucket[5m])))"
            for number, quantile in ((50, 0.5), (99, 0.99))
        },
    ),
    Panel("Requests in flight", "short", {"{{model}}": "sum by (model) (rung_requests_in_flight)"}),
    Panel("Predicted wait", "s", {"{{model}}": "max by (model) (rung_predicted_wait_seconds)"}),
    Panel(
        "Rows per model call",
        "short",
        {
            "{{model}}": "sum by (model) (rate(rung_inference_rows_total[5m]))"
            " / sum by (model) (rate(rung_model_calls_total[5m]))"
        },
    ),
    Panel("Share of each arm", "percentunit", {"{{model}} {{arm}}": "max by (model, arm) (rung_arm_share)"}),
    Panel("Prediction log", "short", {"records/s": "sum(rate(rung_log_records_total[5m]))"}),
    Panel(
        "Records lost",
        "short",
        {"{{model}} {{reason}}": "sum by (model, reason) (increase(rung_log_shed_total[10m]))"},
    ),
    Panel("Ready", "short", {"{{instance}}": "rung_ready"}),
    Panel("Resident memory", "bytes", {"{{instance}}": "process_resident_memory_bytes"}),
)


def queries(rules: Iterable[AlertRule], objectives: Mapping[str, float]) -> dict[str, str]:
    """Name of a rule -> PromQL, for those that replicas export something for.

    Args:
        rules: as rung has them.
        objectives: model -> seconds that an answer may take; those with 0 are left out.
    """
    found: dict[str, str] = {}
    for rule in rules:
        above = rule.above or 0.0
        selector = ",".join(f"{name}={json.dumps(value)}" for name, value in sorted(rule.labels.items()))
        match rule.metric:
            case "error_share":
                found[rule.name] = _share(_join(selector, f'error!~"{_CALLERS}|Overloaded"'), above)
            case "shed_share":
                found[rule.name] = _share(_join(selector, 'error="Overloaded"'), above)
            case "slow_share":
                late = [
                    f"histogram_quantile({1 - above:g}, sum by (model, le)"
                    f' (rate(rung_request_duration_seconds_bucket{{model="{model}"}}[5m]))) > {seconds:g}'
                    for model, seconds in sorted(objectives.items())
                    if seconds > 0
                ]
                if late:
                    found[rule.name] = " or ".join(late)
            case "process_down":
                found[rule.name] = "rung_ready == 0"
            case "process_restarts":
                found[rule.name] = f"changes(process_start_time_seconds[10m]) > {above:g}"
            case "log_lost":
                found[rule.name] = f"sum(increase(rung_log_shed_total[10m])) > {above:g}"
            case "log_failing":
                found[rule.name] = f"max(rung_log_failing) > {above:g}"
    return found


def rule_file(rules: Sequence[AlertRule], objectives: Mapping[str, float]) -> str:
    """A rule file of Prometheus, as YAML. Strings are written as JSON, which YAML reads."""
    lines = ["groups:", "- name: rung", "  rules:"]
    asked = queries(rules, objectives)
    for rule in rules:
        if rule.name not in asked:
            continue
        name = "Rung" + "".join(part.capitalize() for part in rule.name.replace("_", "-").split("-"))
        lines += [
            f"  - alert: {json.dumps(name)}",
            f"    expr: {json.dumps(asked[rule.name])}",
            f"    for: {max(round(rule.for_seconds), 0)}s",
            "    labels:",
            f"      severity: {json.dumps(rule.severity)}",
            f"      cause: {json.dumps(rule.cause or rule.name)}",
            "    annotations:",
            f"      summary: {json.dumps(_template(rule.says or rule.name))}",
            f"      runbook: {json.dumps(rule.way_out)}",
        ]
    return "\n".join(lines) + "\n"


def dashboard(title: str) -> str:
    """A dashboard of Grafana, as JSON to import. It asks for the data source."""
    panels: list[dict[str, Any]] = []
    for number, panel in enumerate(PANELS):
        panels.append(
            {
                "id": number + 1,
                "type": "timeseries",
                "title": panel.title,
                "datasource": {"type": "prometheus", "uid": "${source}"},
                "gridPos": {"h": 8, "w": 12, "x": 12 * (number % 2), "y": 8 * (number // 2)},
                "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
                "targets": [
                    {"refId": chr(65 + place), "expr": expression, "legendFormat": legend}
                    for place, (legend, expression) in enumerate(panel.queries.items())
                ],
            }
        )
    source = {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    board = {
        "title": title,
        "uid": "rung",
        "schemaVersion": 39,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [source]},
        "panels": panels,
    }
    return json.dumps(board, indent=2) + "\n"


def _share(selector: str, above: float) -> str:
    events = f"sum by (model) (increase({_FAILURES}{{{selector}}}[5m]))"
    return f"{events} / {_TOTAL} > {above:g} and {_TOTAL} > 100"


def _join(*selectors: str) -> str:
    return ",".join(one for one in selectors if one)


def _template(sentence: str) -> str:
    """The sentence as a template of Prometheus."""
    for name in ("model", "process", "place", "kind", "part"):
        sentence = sentence.replace(f"{{{name}}}", f"{{{{ $labels.{'instance' if name == 'process' else name} }}}}")
    return sentence.replace("{percent}", "{{ $value | humanizePercentage }}").replace("{value}", "{{ $value }}")
