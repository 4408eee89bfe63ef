"""The reference is the code: nothing can be added without a line in docs/reference."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from rung import cli
from rung.app.replica import Replica
from rung.protocols.exchange import Route
from rung.settings import ServeSettings

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


def test_pages_are_fresh() -> None:
    """In a process of its own: what other tests did to the tables must not show."""
    command = [sys.executable, ROOT / "docs" / "generate.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, f"{done.stdout}{done.stderr}run `make docs`"


def test_every_command_is_in_the_reference() -> None:
    """Read off Typer itself, so that a fault of the generator cannot hide a command."""
    page = (REFERENCE / "cli.md").read_text()

    def walk(command: object, path: str) -> list[str]:
        children = getattr(command, "commands", {})
        return [path] + [one for name, child in children.items() for one in walk(child, f"{path} {name}")]

    commands = walk(typer.main.get_command(cli.app), "rung")
    assert len(commands) >= 8
    assert [path for path in commands if f"`{path}`" not in page] == []


def test_every_table_row_says_something() -> None:
    """An empty last cell is a name without a docstring or help text."""
    bare = [
        f"{name}: {line}"
        for name in (
            "cli.md",
            "control-api.md",
            "errors.md",
            "metrics.md",
            "project.md",
            "runtimes.md",
            "settings.md",
            "transforms.md",
        )
        for line in (REFERENCE / name).read_text().splitlines()
        if re.search(r"\| +\|$", line)
    ]

    assert bare == []


def test_every_route_is_in_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (REFERENCE / "protocols.md").read_text()
    routes: list[Route] = []
    monkeypatch.setattr("rung.app.replica.HttpServer", lambda found, *_, **__: routes.extend(found))
    Replica([], ServeSettings())

    assert len(routes) >= 20
    assert [f"{one.method} {one.pattern}" for one in routes if f"`{one.method} {one.pattern}`" not in page] == []
