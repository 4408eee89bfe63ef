import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.domain.inference import item_of, judge, message_id


@pytest.mark.parametrize(
    ("kind", "statuses"),
    [
        ("done", (200, 204)),
        ("failed", (400, 406, 413, 415)),
        ("again", (404, 499, 500, 504)),
        ("busy", (401, 403, 429, 503)),
    ],
)
def test_what_a_reply_means(kind: str, statuses: tuple[int, ...]) -> None:
    assert {judge(status, b"{}").kind for status in statuses} == {kind}


@given(st.integers(100, 599), st.binary(max_size=50))
def test_whatever_comes_back_is_taken_somehow(status: int, body: bytes) -> None:
    taken = judge(status, body)
    assert (taken.kind == "done") == (200 <= status < 300)
    assert taken.reason or taken.kind == "done"


def test_the_reason_is_the_door_s_own() -> None:
    assert judge(400, b'{"error": "too few rows"}').reason == "too few rows"
    assert judge(400, b"<html>").reason == "the model's door answered 400"
    locked = judge(401, b'{"error": "a key is needed"}')
    assert (locked.locked, locked.reason) == (True, "the workers may not ask there: a key is needed")


@given(st.from_regex("[0-9a-f]{23}", fullmatch=True), st.integers(0, 10_000))
def test_a_message_names_its_item(request_id: str, place: int) -> None:
    assert item_of(message_id(request_id, place)) == (request_id, place)
