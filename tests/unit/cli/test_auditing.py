"""Which commands leave an audit line."""

import pytest
import typer

from rung.cli import app
from rung.cli.auditing import CHANGES, LOOKS, audited, commands
from rung.store.audit import AuditLog


def test_every_command_is_said_to_change_something_or_not():
    names = {name for name, _ in commands(app)}

    assert names - CHANGES - LOOKS == set(), "say in cli/auditing.py whether they change something"
    assert not CHANGES & LOOKS
    assert {"promote", "keys create", "models register"} <= names & CHANGES


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A command line of two commands, in a project."""
    monkeypatch.chdir(tmp_path)
    made = typer.Typer()

    @made.command()
    def promote(model: str, fail: bool = False, stop: int = 0) -> None:
        if fail:
            raise ValueError("no such version")
        if stop:
            raise typer.Exit(stop)

    log = typer.Typer()

    @log.command()
    def erase(unit: str) -> None:
        pass

    @made.command()
    def ps() -> None:
        pass

    made.add_typer(log, name="log")
    audited(made)

    def run(*words: str) -> None:
        monkeypatch.setattr("sys.argv", ["rung", *words])
        made(list(words), standalone_mode=False)

    return run


def test_a_change_leaves_a_line_however_it_ends(small, tmp_path):
    small("promote", "spam")
    assert not (tmp_path / ".rung").exists()  # no project

    (tmp_path / "rung.toml").touch()
    small("promote", "spam 2")
    small("ps")
    with pytest.raises(ValueError, match="no such version"):
        small("promote", "spam", "--fail")
    small("promote", "spam", "--stop", "3")
    small("log", "erase", "ana@example.org")

    lines = [(line.outcome, line.what, line.why) for line in AuditLog(tmp_path / ".rung/audit").read()][::-1]
    assert lines == [
        ("done", "rung promote 'spam 2'", ""),
        ("failed", "rung promote spam --fail", "no such version"),
        ("failed", "rung promote spam --stop 3", "exit code 3"),
        ("done", "rung log erase", ""),
    ]
