"""`rung alerts list|rules|ack|silence|test|errors|export`."""

from pathlib import Path
from typing import Annotated

import typer

from rung.cli.declared.jobs import AsJson, Database

__all__ = ["add"]


def add(app: typer.Typer) -> None:
    """Declare the commands."""
    alerts = typer.Typer(help="See what is wrong, say that you see to it, and test who is told.", no_args_is_help=True)
    for name, command in (
        ("list", list_alerts),
        ("rules", rules),
        ("ack", acknowledge),
        ("silence", silence),
        ("test", test),
        ("errors", errors),
        ("export", export),
    ):
        alerts.command(name)(command)
    app.add_typer(alerts, name="alerts")


def list_alerts(database: Database = "", as_json: AsJson = False) -> None:
    """List alerts that fire, and those of the last week that are over."""
    from rung.cli import alerts as bodies

    bodies.list_alerts(database, as_json=as_json)


def rules(as_json: AsJson = False) -> None:
    """List the rules of this project, with how often each fires where nothing is wrong."""
    from rung.cli import alerts as bodies

    bodies.rules(as_json=as_json)


def acknowledge(
    alert: Annotated[str, typer.Argument(metavar="ID", help="Of the alert, as `rung alerts list` shows it.")],
    by: Annotated[str, typer.Option(help="Who sees to it.  [you]")] = "",
    database: Database = "",
) -> None:
    """Say that you see to an alert, so that it does not escalate."""
    from rung.cli import alerts as bodies

    bodies.acknowledge(database, alert, by)


def silence(
    rule: Annotated[str, typer.Argument(metavar="RULE", help="Name of the rule; '*' for all.")],
    span: Annotated[str, typer.Option("--for", help="For how long, such as 30m, 2h or 1d; 0 ends a silence.")] = "2h",
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="Only alerts with this label; repeat it.")
    ] = None,
    because: Annotated[str, typer.Option("--because", help="Why; kept with the silence.")] = "",
    database: Database = "",
) -> None:
    """Tell nothing of a rule's alerts for a while; they are still listed."""
    from rung.cli import alerts as bodies

    bodies.silence(database, rule, span, label or [], because)


def test() -> None:
    """Send a test notification to everyone who is set in [alerts], at once."""
    from rung.cli import alerts as bodies

    bodies.test()


def errors(database: Database = "", as_json: AsJson = False) -> None:
    """List errors of the replicas, equal ones as one: how many, of which version, since when."""
    from rung.cli import alerts as bodies

    bodies.errors(database, as_json=as_json)


def export(
    prometheus: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a rule file of Prometheus.")] = None,
    grafana: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a dashboard of Grafana.")] = None,
) -> None:
    """Write what replicas can be asked for as a rule file of Prometheus and a dashboard of Grafana."""
    from rung.cli import alerts as bodies

    bodies.export(prometheus, grafana)
