"""The body of `rung reproduce`."""

import sys
from pathlib import Path

from rung.cli.printing import print_json, print_table
from rung.settings.file import load_project
from rung.telemetry import configure_logs
from rung.training import runs
from rung.training.reproduce import reproduce

__all__ = ["run"]


def run(name: str, *, same_environment: bool, as_json: bool) -> None:
    """Run it again and print the grade; the exit code is 0 for `bit-equal` and `within tolerance`."""
    configure_logs(level="warning")
    folder = Path()
    found = runs.find(folder, name)

    def say(line: str) -> None:
        print(f"{found.name}  {line}", file=sys.stderr, flush=True)

    report = reproduce(load_project(folder), folder, found, same_environment=same_environment, say=say)
    if as_json:
        print_json(report)
    else:
        print(f"{report.run}  {report.grade}: {report.reason}")
        if report.rerun:
            rows = [(key, f"{then:.10g}", f"{now:.10g}") for key, (then, now) in report.metrics.items()]
            rows.append(("weights", report.weights[0][:12], report.weights[1][:12]))
            print_table(("", report.run, report.rerun), rows)
        for line in report.environment[:20]:
            print(f"  environment: {line}")
    if report.grade not in ("bit-equal", "within tolerance"):
        sys.exit(1)
