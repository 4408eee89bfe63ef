import base64

import pytest

from rung.domain.errors import InvalidInput
from rung.domain.feedback import feedback_of, time_of
from rung.domain.identity import Identity

NOW = 1.7e9
IDENTITY = Identity(NOW - 60, 3, "canary", 7, 1, b"hi", "nuclei")
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\nrest").decode()


def read(**item):
    return feedback_of({"id": "the-id", **item}, IDENTITY, NOW)


def test_an_event_carries_what_its_id_says():
    record = read(label="cat", source="moderator", time=NOW - 5)
    assert (record.model, record.version, record.arm, record.predicted) == ("nuclei", 3, "canary", NOW - 60)
    assert (record.kind, record.value, record.source, record.time) == ("label", "cat", "moderator", NOW - 5)
    assert record.received == NOW


@pytest.mark.parametrize(
    ("item", "kind", "value"),
    [
        ({"label": 0}, "label", 0),
        ({"label": False}, "label", False),
        ({"label": ["a", "b"]}, "label", ["a", "b"]),
        ({"score": 0.25}, "score", 0.25),
        ({"correction": {"text": "right"}}, "correction", {"text": "right"}),
        ({"mask": PNG}, "mask", {"media": "image/png", "data": PNG}),
        ({"mask": {"media": "image/png", "data": PNG}}, "mask", {"media": "image/png", "data": PNG}),
    ],
)
def test_each_kind(item, kind, value):
    record = read(**item)
    assert (record.kind, record.value) == (kind, value)


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ({}, "this says none"),
        ({"label": None}, "this says none"),
        ({"label": 1, "score": 1}, "label and score"),
        ({"label": 1, "lable": 2}, "no field 'lable'"),
        ({"score": "high"}, "finite number"),
        ({"score": float("nan")}, "finite number"),
        ({"score": True}, "finite number"),
        ({"mask": "!!"}, "no base64"),
        ({"mask": base64.b64encode(b"GIF89a").decode()}, "PNG file"),
        ({"mask": 7}, "base64 text"),
        ({"label": 1, "source": "x" * 129}, "128 printable"),
        ({"label": 1, "source": "a\nb"}, "printable"),
        ({"label": 1, "event": 7}, "event must be"),
        ({"label": 1, "time": "yesterday"}, "seconds since the epoch"),
        ({"label": 1, "time": "2026-01-31T14:03:00"}, "seconds since the epoch"),
        ({"label": 1, "time": -1}, "seconds since the epoch"),
        ({"label": 1, "time": True}, "seconds since the epoch"),
        ({"label": 1, "time": NOW + 1000}, "future"),
    ],
)
def test_what_breaks_a_rule_is_refused_by_name(item, says):
    with pytest.raises(InvalidInput, match=says):
        read(**item)


def test_the_same_content_is_one_event_whenever_it_comes():
    first = read(label="cat")
    again = feedback_of({"label": "cat", "id": "the-id"}, IDENTITY, NOW + 1000)
    assert first.event == again.event
    assert read(label="dog").event != first.event
    assert read(label="cat", source="other").event != first.event
    assert read(label="cat", event="mine").event == "mine"


def test_times_are_numbers_or_text_with_a_zone():
    assert time_of("2023-11-14T22:13:20Z", NOW) == NOW
    assert time_of("2023-11-14T23:13:20+01:00", NOW) == NOW
    assert time_of(NOW - 0.5, NOW) == NOW - 0.5
