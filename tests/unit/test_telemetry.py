import io
from typing import Any

import pytest
import structlog

from rung import telemetry
from rung.telemetry import Exceptions, Metrics, configure_logs


def fail(error: Exception) -> None:
    raise error


def raised(message: str, kind: type[Exception] = ValueError) -> Exception:
    with pytest.raises(kind) as found:
        fail(kind(message))
    return found.value


def counts(found: Exceptions) -> list[tuple[dict[str, str], float]]:
    return [(one.labels, one.value) for family in found.collect() for one in family.samples]


def test_a_thousand_equal_exceptions_are_one() -> None:
    found = Exceptions()
    for number in range(1000):
        found.count(raised(f"row {number} of 'file-{number}' is {number / 7}"), "m 3")
    [(labels, count)] = counts(found)
    assert count == 1000
    assert (labels["type"], labels["version"], labels["message"]) == ("ValueError", "m 3", "row _ of _ is _")
    assert labels["place"].endswith(":fail")
    assert float(labels["first"]) > 1e9


def test_others_are_others() -> None:
    found = Exceptions()
    for error, version in ((raised("a"), ""), (raised("b"), ""), (raised("a", KeyError), ""), (raised("a"), "m 2")):
        found.count(error, version)
    assert len(counts(found)) == 4
    # Of another version it is the same error, counted apart.
    assert len({labels["fingerprint"] for labels, _ in counts(found)}) == 3


def test_there_are_only_so_many() -> None:
    found = Exceptions(most=3)
    for letter in "abcdefg":
        found.count(raised(letter))
    assert {labels["type"]: value for labels, value in counts(found)} == {"ValueError": 1.0, "Other": 4.0}


def test_a_logger_that_was_used_before_follows_what_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    before: dict[str, Any] = structlog.get_config()
    first, then = io.StringIO(), io.StringIO()
    try:
        monkeypatch.setattr("sys.stderr", first)
        configure_logs("json")
        log = structlog.get_logger("x").bind()
        log.info("one")
        monkeypatch.setattr("sys.stderr", then)
        configure_logs("json", "warning")
        log.info("two")
        log.warning("three")
        with structlog.testing.capture_logs() as logs:
            log.info("four")
    finally:
        configure_logs()
        structlog.configure(**before)
    assert '"one"' in first.getvalue()
    assert "two" not in then.getvalue()
    assert '"three"' in then.getvalue()
    assert [one["event"] for one in logs] == ["four"]


def test_what_is_logged_with_its_exception_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Exceptions()
    monkeypatch.setattr(telemetry, "exceptions", found)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    before: dict[str, Any] = structlog.get_config()
    try:
        configure_logs("json")
        log = structlog.get_logger("x").bind()
        for number in range(5):
            log.error("an endpoint failed", exc_info=raised(f"no {number}"))
        log.error("without")
        try:
            fail(KeyError(9))
        except KeyError:
            log.exception("with")
    finally:
        structlog.configure(**before)
    assert {labels["type"]: value for labels, value in counts(found)} == {"ValueError": 5.0, "KeyError": 1.0}
    _, page = Metrics([]).render()
    assert b'message="no _"' in page
