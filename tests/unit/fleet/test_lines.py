import json

import pytest

from rung.fleet.lines import Lines


@pytest.fixture
def written(capsys):
    def write(*lines: bytes, pretty: bool = False) -> list[str]:
        out = Lines(pretty=pretty)
        out.open()
        for line in lines:
            out.forward("replica-1", line)
        out.close()
        return capsys.readouterr().err.splitlines()

    return write


def test_every_line_says_who_wrote_it(written):
    event, text, odd = (json.loads(line) for line in written(b'{"event":"a","role":"x"}', b"Traceback \xff", b"[1]"))

    assert event == {"event": "a", "role": "replica-1"}
    assert (text["event"], text["role"]) == ("Traceback \N{REPLACEMENT CHARACTER}", "replica-1")
    assert odd["event"] == "[1]"


def test_people_get_words(written):
    line = (
        b'{"event":"a version is available","level":"info","timestamp":"2026-01-02T03:04:05Z","action":"x","model":"m"}'
    )

    assert written(line, pretty=True) == ["03:04:05 replica-1  info     a version is available  model=m"]


def test_a_slow_reader_costs_lines_and_no_time(capsys):
    out = Lines(pretty=False)
    for number in range(10_005):
        out.event("info", str(number))  # nobody writes yet
    out.open()
    while out.waiting:
        pass
    out.event("info", "later")
    out.close()

    events = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert events[0] == "0"
    assert events[-2:] == ["5 log lines were dropped", "later"]
