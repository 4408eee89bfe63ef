"""The reference is the code: nothing can be added without a line in docs/reference."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import typer.main

from rung import cli
from rung.app import Replica
from rung.protocols.exchange import Route
from rung.settings import ServeSettings

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


def load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = load_generator()


@pytest.mark.parametrize("page", GENERATOR.PAGES)
def test_page_is_fresh(page: str) -> None:
    assert GENERATOR.expected(REFERENCE / page) == (REFERENCE / page).read_text(), "run `make docs`"


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
        for name in GENERATOR.PAGES
        if name != "exports.md"  # constants say it by their name
        for line in (REFERENCE / name).read_text().splitlines()
        if re.search(r"\| +\|$", line)
    ]

    assert bare == []


def test_every_route_is_in_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (REFERENCE / "protocols.md").read_text()
    routes: list[Route] = []
    monkeypatch.setattr("rung.app.HttpServer", lambda found, *_, **__: routes.extend(found))
    Replica([], ServeSettings())

    assert len(routes) >= 20
    assert [f"{one.method} {one.pattern}" for one in routes if f"`{one.method} {one.pattern}`" not in page] == []
