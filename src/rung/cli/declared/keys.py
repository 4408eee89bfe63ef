"""`rung keys create|list|revoke` and `rung audit`."""

from typing import Annotated, Literal

import typer

from rung.cli.declared.options import AsJson

__all__ = ["add"]

_RoleName = Literal["caller", "viewer", "operator", "deployer", "admin"]
Store = Annotated[
    str,
    typer.Option(
        "--store", envvar="RUNG_KEY_STORE", help="Where keys lie.  [key_store in rung.toml, else .rung/access]"
    ),
]


def add(app: typer.Typer) -> None:
    """Declare the commands."""
    keys = typer.Typer(help="Make and end the keys of those who may call.", no_args_is_help=True)
    for name, command in (("create", create), ("list", list_keys), ("revoke", revoke)):
        keys.command(name)(command)
    app.add_typer(keys, name="keys")
    app.command()(audit)


def create(
    name: Annotated[str, typer.Argument(help="Whose it is, for people.")],
    role: Annotated[
        _RoleName, typer.Option(help="What its holder may do; each role may do what those before it may.")
    ] = ("caller"),
    model: Annotated[
        list[str] | None, typer.Option(help="A model that it is for, or a pattern such as cells-*; repeatable.  [all]")
    ] = None,
    expires: Annotated[str, typer.Option(metavar="SPAN", help="When it ends by itself, such as 12h or 90d.")] = "",
    rate: Annotated[float, typer.Option(min=0, help="Requests a second on the data port; 0: no limit.")] = 0.0,
    burst: Annotated[int, typer.Option(min=0, help="Requests at once.  [those of one second]")] = 0,
    quota: Annotated[int, typer.Option(min=0, help="Requests a day (UTC) on the data port; 0: no limit.")] = 0,
    store: Store = "",
    as_json: AsJson = False,
) -> None:
    """Make a key. It is shown this once: only a digest of it is kept."""
    from rung.cli import keys as bodies

    wanted = bodies.Wanted(name, role, tuple(model or ()), expires, rate, burst, quota)
    bodies.create(store, wanted, as_json=as_json)


def list_keys(
    everything: Annotated[bool, typer.Option("--all", help="Also keys that have ended.")] = False,
    store: Store = "",
    as_json: AsJson = False,
) -> None:
    """List keys, without their secrets."""
    from rung.cli import keys as bodies

    bodies.list_keys(store, everything=everything, as_json=as_json)


def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name or id of the key.")],
    because: Annotated[str, typer.Option("--because", help="Why; kept with the key.")] = "",
    store: Store = "",
) -> None:
    """End a key. It is refused everywhere within five seconds."""
    from rung.cli import keys as bodies

    bodies.revoke(store, name, because)


def audit(
    limit: Annotated[int, typer.Option(min=1, help="Most lines to print.")] = 50,
    refused: Annotated[bool, typer.Option("--refused", help="Only what was refused.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say who changed what, or tried to: by commands in this folder and over the control API."""
    from rung.cli.auditing import show

    show(limit, refused=refused, as_json=as_json)
