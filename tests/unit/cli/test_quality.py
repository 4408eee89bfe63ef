"""A log in a folder of its own, and the real command."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rung.cli import app
from rung.domain.errors import NotFound
from rung.domain.identity import Keyring
from rung.domain.records import FeedbackRecord, PredictionRecord
from rung.store.segment_writer import SegmentWriter

Run = Callable[..., Result]
DAY = 86_400.0


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    Path("rung.toml").write_text("[models.spam.release]\nmaturity = 3600.0\n")
    writer = SegmentWriter(Path(".rung/log"), replica="r0")
    writer.open()
    start = time.time() // DAY * DAY - 6 * DAY
    for number in range(1_000):
        version, when = 1 + number // 500, start + number * 5 * DAY / 1_000
        identity = Keyring(bytes(32), number).mint("spam", version, "stable", 1)(when)
        summary = {"p": (0.5, 0.1, 0.9)}
        writer.append(
            PredictionRecord(
                identity, when, "spam", version, "stable", 1, f"u{number}", output_summary=summary, predicted="spam"
            )
        )
        said = "ham" if number % 10 == 0 or (number > 800 and number % 2) else "spam"
        writer.append(
            FeedbackRecord(
                f"e{number}", identity, when + 60, when + 60, "label", said, "", "spam", version, "stable", when
            )
        )
    writer.commit([]).result(30)
    writer.close()

    def invoke(*arguments: str) -> Result:
        result = CliRunner().invoke(app, ["quality", *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


def test_it_prints_what_is_mature_and_writes_a_page(run: Run) -> None:
    lines = run("spam").stdout.splitlines()
    text = "\n".join(lines)
    assert lines[0].startswith("spam: quality by labels, ")
    assert "1,000 of 1,000 predictions have a label so far" in text
    assert "a prediction counts from an age of 60 min on: as it is set" in text
    assert text.count("all mature") == 2
    # No line holds both a figure by labels and an estimate.
    truth, estimate = text.split("estimate, without labels")
    assert "0.900 [0." in truth
    assert "expected accuracy" not in truth
    assert "0.900 [0." in estimate
    assert "detector on version 2: alarm, level " in text
    assert lines[-1] == "written: .rung/quality/spam/quality.html"
    assert Path(".rung/quality/spam/quality.html").exists()


def test_json_is_the_whole_report_and_writes_nothing(run: Run) -> None:
    report = json.loads(run("spam", "--json").stdout)
    assert report["maturity_seconds"] == 3_600
    assert len(report["cohorts"]) == 6
    assert report["detector"]["alarm"]
    assert not Path(".rung/quality").exists()
    part = json.loads(run("spam", "--json", "--days", "2.5", "--cohort", "43200", "--out", "here").stdout)
    assert 0 < part["delay"]["predictions"] < 600
    assert part["cohort_seconds"] == 43_200
    assert Path("here/quality.html").exists()


def test_a_model_that_nobody_knows_is_said_so(run: Run) -> None:
    with pytest.raises(NotFound, match="nothing is known of 'spma'"):
        run("spma")
