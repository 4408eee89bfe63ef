"""The audit line that a command leaves, and showing such lines."""

import functools
import getpass
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import typer

__all__ = ["CHANGES", "LOOKS", "audited", "commands", "show", "whoami"]

CHANGES = frozenset(
    {
        "alerts ack",
        "alerts silence",
        "compress",
        "data ingest",
        "down",
        "feedback import",
        "jobs cancel",
        "jobs replay",
        "jobs retry",
        "keys create",
        "keys revoke",
        "log erase",
        "mapreduce",
        "models delete",
        "models import",
        "models register",
        "promote",
        "release",
        "restart",
        "retrain",
        "rollback",
        "scale",
        "score",
        "train",
    }
)
"""Commands that change a project for others: each leaves a line, however it ends."""
LOOKS = frozenset(
    {
        "alerts errors",
        "alerts export",
        "alerts list",
        "alerts rules",
        "alerts test",
        "audit",
        "data check",
        "data list",
        "data profile",
        "data show",
        "doctor",
        "drift",
        "evaluate",
        "experiment",
        "feedback coverage",
        "feedback list",
        "history",
        "init",
        "jobs answers",
        "jobs asked",
        "jobs list",
        "jobs show",
        "keys list",
        "log convert",
        "log stats",
        "models export",
        "models list",
        "models show",
        "models verify",
        "plan",
        "predict",
        "ps",
        "quality",
        "releases",
        "reproduce",
        "retrains",
        "runs compare",
        "runs list",
        "runs show",
        "selftest stats",
        "serve",
        "trace",
        "tune",
        "up",
    }
)
"""Commands that change nothing that others see, or what is only this command's own."""
_UNQUOTED = frozenset({"log erase"})
"""Commands whose arguments must not be remembered: what was to be forgotten."""


def commands(app: typer.Typer, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every command below `app` by its full name, as typer holds it."""
    for one in app.registered_commands:
        assert one.callback is not None
        yield above + (one.name or one.callback.__name__.replace("_", "-")), one
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from commands(group.typer_instance, f"{above}{group.name} ")


def audited(app: typer.Typer) -> None:
    """Let every command that changes something leave a line."""
    for name, command in commands(app):
        if name in CHANGES:
            command.callback = _remembering(name, command.callback)


def _remembering(name: str, callback: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(callback)
    def run(*arguments: Any, **options: Any) -> object:
        try:
            result = callback(*arguments, **options)
        except typer.Exit as stop:
            _write(name, f"exit code {stop.exit_code}" if stop.exit_code else "")
            raise
        except BaseException as error:
            _write(name, str(error) or type(error).__name__)
            raise
        _write(name, "")
        return result

    return run


def _write(name: str, why: str) -> None:
    if not (Path("rung.toml").exists() or Path(".rung").exists()):
        return  # no project: nobody would look for a line here
    from rung.store.audit import AuditLine, AuditLog

    what = f"rung {name}" if name in _UNQUOTED else f"rung {shlex.join(sys.argv[1:])}"
    line = AuditLine(by=whoami(), via="cli", what=what, outcome="failed" if why else "done", why=why)
    try:
        AuditLog().write(line)
    except OSError as error:
        print(f"rung: the audit log cannot be written: {error.strerror}", file=sys.stderr)


def show(limit: int, *, refused: bool, as_json: bool) -> None:
    """Print the latest lines, the newest last."""
    from rung.cli.printing import print_json, print_table
    from rung.store.audit import AuditLog

    lines = (line for line in AuditLog().read() if not refused or line.outcome == "refused")
    found = [*islice(lines, limit)][::-1]
    if as_json:
        print_json(found)
        return
    if not found:
        print("nothing has been changed yet that the audit log knows of")
        return
    rows = [
        (line.at[:19], line.by or line.address or "-", line.role or line.via, line.outcome, _short(line.what), line.why)
        for line in found
    ]
    print_table(("TIME (UTC)", "WHO", "ROLE", "OUTCOME", "WHAT", "WHY"), rows)


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def whoami() -> str:
    """The user of this machine."""
    with suppress(KeyError, OSError):
        return getpass.getuser()
    return "somebody"  # a container may run as a user without a name
