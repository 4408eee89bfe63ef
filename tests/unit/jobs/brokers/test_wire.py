import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.domain.errors import ConfigurationError, InvalidInput, TooLarge
from rung.domain.messages import Message
from rung.jobs.brokers.wire import LINES, PARTS, check, check_name, decode, encode, line_of

messages = st.builds(
    Message,
    id=st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=150),
    topic=st.text(st.characters(categories=["L"]), max_size=20),
    body=st.binary(max_size=300),
    priority=st.integers(-10, 10),
    key=st.text(st.characters(categories=["L"]), max_size=5),
    owner=st.text(st.characters(categories=["L"]), max_size=5),
    deadline=st.floats(0, 1e11),
    max_attempts=st.integers(1, 9),
    replay=st.integers(0, 9),
)


@given(messages)
def test_bytes_and_back(message):
    check([message], 300)
    assert decode(encode(message)) == message


@given(st.binary(max_size=50))
def test_foreign_bytes_are_none_of_ours_or_a_message(data):
    assert decode(data) is None or isinstance(decode(data), Message)


@given(messages)
def test_the_line(message):
    line = line_of(message)
    if message.key:
        assert 0 <= int(line) < PARTS
        assert line == line_of(Message(id="other", key=message.key, priority=-message.priority))
    else:
        assert line == LINES[(message.priority < 0) * 2 + (message.priority == 0)]


def test_parts_never_change():
    # Processes of two releases share a queue: a key that changes its line loses its order.
    assert [line_of(Message(id="a", key=key)) for key in ("a", "b", "user-1", "user-2")] == ["3", "9", "4", "14"]


def test_refusals_name_the_field():
    with pytest.raises(InvalidInput, match="without a space") as caught:
        check([Message(id="fine"), Message(id="a b")], 9)
    assert caught.value.field == "id"
    with pytest.raises(TooLarge, match="put it into the store"):
        check([Message(id="a", body=b"x" * 10)], 9)


@pytest.mark.parametrize("name", ["", "A", "a.b", "a b", "-a", "a" * 64, "a\n"])
def test_names_of_queues(name):
    with pytest.raises(ConfigurationError, match="needs a name"):
        check_name(name)
    assert check_name("offline-2") == "offline-2"
