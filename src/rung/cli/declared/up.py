"""`rung up`, `down`, `ps`, `scale`, `restart`."""

from typing import Annotated, Any

import typer

__all__ = ["add"]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def add(app: typer.Typer) -> None:
    """Declare the commands."""
    for command in (up, down, ps, scale, restart):
        app.command()(command)


def up(
    host: Annotated[
        str | None, typer.Option(help="Address of both doors; beyond this machine it takes a key.  [127.0.0.1]")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port for predictions; 0 lets the kernel choose.  [8000]")] = None,
    control_port: Annotated[int | None, typer.Option(help="Port of the control API, likewise.  [8080]")] = None,
    role: Annotated[str, typer.Option(help="all under a supervisor, or one alone: control, replica, worker.")] = "all",
    replicas: Annotated[int | None, typer.Option(min=1, help="Serving processes.  [the largest `min`]")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Worker processes.  [1]")] = None,
    as_json: AsJson = False,
) -> None:
    """Run the project in this folder: control plane, replicas and workers, until interrupted."""
    from rung.cli.up import up as run

    flags: dict[str, dict[str, Any]] = {
        "serve": {"host": host, "port": port},
        "control": {"port": control_port},
        "workers": {"count": workers},
    }
    run(role, flags, replicas, as_json=as_json)


def down(
    grace: Annotated[float, typer.Option(min=0, help="Seconds after which what is left is killed.")] = 60.0,
) -> None:
    """Stop the project in this folder: control plane and workers, then the replicas, which answer what they have."""
    from rung.cli.up import down as run

    run(grace)


def ps(as_json: AsJson = False) -> None:
    """Show the project in this folder: processes, models with their releases, jobs, and what is wrong."""
    from rung.cli.ps import ps as run

    run(as_json=as_json)


Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait for it; it goes on after them.")]
By = Annotated[str, typer.Option(help="Who says so, for the log.  [the user]")]


def scale(
    replicas: Annotated[
        str, typer.Argument(metavar="N|auto", help="How many replicas answer from now on; auto leaves it to the rules.")
    ],
    by: By = "",
    wait: Wait = 120.0,
) -> None:
    """Start or end replicas of the project in this folder, whatever its rules say, until `auto`."""
    from rung.cli.scale import scale as run
    from rung.fleet.orders import MOST

    if replicas != "auto" and not (replicas.isascii() and replicas.isdigit() and 1 <= int(replicas) <= MOST):
        raise typer.BadParameter(f"{replicas!r} is neither a number from 1 to {MOST} nor auto")
    run(None if replicas == "auto" else int(replicas), by, wait)


def restart(by: By = "", wait: Wait = 600.0) -> None:
    """Replace the replicas of the project in this folder one by one; each new one answers before an old one goes."""
    from rung.cli.scale import restart as run

    run(by, wait)
