import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rung.cli import app
from rung.domain.alerts import Observation
from rung.domain.errors import ConfigurationError, NotFound
from rung.jobs.queue import JobStore
from rung.loop.alert_rules import RULES
from rung.loop.alert_store import AlertStore
from rung.settings.file import load_project
from rung.store.database import open_database

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`rung alerts ...` in a project's folder where a job is dead."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rung.toml").write_text('[project]\nname = "p"\n')
    with open_database("sqlite:.rung/rung.db") as database:
        AlertStore(JobStore(database)).turn(RULES, [Observation("jobs_dead", 2.0, {"kind": "score"})], [])

    def invoke(*arguments: str) -> Result:
        result = CliRunner().invoke(app, ["alerts", *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result

    return invoke


def test_list_acknowledge_and_silence(run: Run) -> None:
    lines = run("list").stdout.splitlines()
    assert lines[0] == "1 alert fires"
    assert "2 jobs of the kind score have used up their tries" in lines[2]
    id = lines[2].split()[0]
    assert lines[3].startswith(f"{id}: rung jobs list --state dead")
    assert run("ack", id, "--by", "ann").stdout.startswith("ann sees to jobs-dead")
    assert "seen by ann" in run("list").stdout
    assert "silent until" in run("silence", "jobs-dead", "--for", "2h", "--label", "kind=score").stdout
    listed = json.loads(run("list", "--json").stdout)
    assert listed["alerts"][0]["acknowledged"] == "ann"
    assert listed["silences"][0]["labels"] == {"kind": "score"}
    assert "not silent any more" in run("silence", "jobs-dead", "--for", "0", "--label", "kind=score").stdout
    assert json.loads(run("list", "--json").stdout)["silences"] == []
    assert run("errors").stdout == "no errors were counted\n"


@pytest.mark.parametrize(
    ("arguments", "kind", "why"),
    [
        (("ack", "ffff"), NotFound, "no alert 'ffff' fires"),
        (("silence", "nothing"), ConfigurationError, "there is no rule 'nothing': .*jobs-dead"),
        (("silence", "disk", "--for", "soon"), ConfigurationError, "--for 'soon'"),
        (("silence", "disk", "--label", "x"), ConfigurationError, "--label 'x'"),
        (("test",), ConfigurationError, "nobody to tell"),
        (("export",), ConfigurationError, "--prometheus FILE"),
        (("export", "--grafana", "no/such/folder.json"), ConfigurationError, "folder.json cannot be written"),
    ],
)
def test_what_will_not_do_is_said(run: Run, arguments: tuple[str, ...], kind: type[Exception], why: str) -> None:
    with pytest.raises(kind, match=why):
        run(*arguments)


def test_rules_with_their_false_alarms_and_the_projects_changes(run: Run) -> None:
    Path("rung.toml").write_text(
        '[alerts]\n[[alerts.rule]]\nname = "disk"\nbelow = 0.2\n[[alerts.rule]]\nname = "drift"\noff = true\n'
        '[[alerts.rule]]\nname = "mine"\nmetric = "jobs_dead"\nlabels = { kind = "score" }\nabove = 10\n'
    )
    found = {rule["name"]: rule for rule in json.loads(run("rules", "--json").stdout)}
    assert found["disk"]["below"] == 0.2
    assert found["disk"]["resolve"] is None
    assert "drift" not in found
    assert found["mine"]["labels"] == {"kind": "score"}
    assert all(rule["false_alarms"] for rule in found.values())
    assert "disk_free_share < 0.2" in run("rules").stdout


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[[alerts.rule]]\nname = "disk"\nabove = 1', "'disk': .*`below`"),
        ('[[alerts.rule]]\nname = "new"\nabove = 1', "'new'.*`metric`"),
        ('[[alerts.rule]]\nname = "new"\nmetric = "x"', "'new'.*`above`"),
        ('[[alerts.rule]]\nname = "nothing"\noff = true', "'nothing'"),
        ('[[alerts.rule]]\nname = "disk"\nbellow = 1', "bellow"),
        ('[[alerts.rule]]\nname = "disk"\nseverity = "loud"', "severity"),
        ("[alerts]\nescalate_minutes = -1", "rung.toml:2: `alerts.escalate_minutes` = -1"),
        ('[alerts]\nwebhok = "https://x.example/"', "did you mean `webhook`"),
        ('[alerts]\nwebhook = "x"', "`webhook` must be like"),
    ],
)
def test_a_bad_setting_is_named(run: Run, text: str, why: str) -> None:
    Path("rung.toml").write_text(text + "\n")
    with pytest.raises(ConfigurationError, match=why):
        run("rules")


def test_a_secret_is_taken_from_the_environment_and_never_shown(tmp_path: Path) -> None:
    (tmp_path / "rung.toml").write_text('[alerts]\nwebhook_secret = "0123456789abcdef"\n')
    assert load_project(tmp_path, environ={}).alerts.webhook_secret == "0123456789abcdef"
    given = {"RUNG_ALERT_SECRET": "fedcba9876543210"}
    assert load_project(tmp_path, environ=given).alerts.webhook_secret == "fedcba9876543210"
    (tmp_path / "rung.toml").write_text("[alerts]\nwebhook_secret = 123456\n")
    with pytest.raises(ConfigurationError) as raised:
        load_project(tmp_path, environ={})
    assert "123456" not in str(raised.value)
    with pytest.raises(ConfigurationError, match="webhook_secret"):
        load_project(tmp_path.parent / tmp_path.name, environ={"RUNG_ALERT_SECRET": "short"})


def test_export_writes_both(run: Run) -> None:
    out = run("export", "--prometheus", "rules.yml", "--grafana", "board.json").stdout
    assert out == "wrote rules.yml\nwrote board.json\n"
    assert json.loads(Path("board.json").read_text())["title"] == "rung: p"
    assert "RungErrors" in Path("rules.yml").read_text()
