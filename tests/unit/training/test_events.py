"""What a training process says arrives as it was said."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.training import events

names = st.text(max_size=20)
finite = st.floats(allow_nan=False)
steps = st.integers(0, 2**53)
metrics = st.dictionaries(names, finite, max_size=4)
rows = st.dictionaries(names, steps, max_size=3)

any_event = st.one_of(
    st.builds(events.Started, names),
    st.builds(events.Ready, names, rows, rows, steps, names, steps),
    st.builds(events.Progress, steps, steps),
    st.builds(events.Reported, steps, metrics, st.booleans()),
    st.builds(events.Checkpointed, steps),
    st.builds(events.Said, names),
    st.builds(events.Restarted, names),
    st.builds(
        events.Produced,
        names,
        st.dictionaries(names, st.one_of(names, steps, st.lists(names, max_size=2)), max_size=3),
        metrics,
        steps,
        steps,
        steps,
        st.booleans(),
        names,
        steps,
        finite,
        finite,
        steps,
    ),
)


@given(any_event)
def test_it_comes_back_over_the_wire(event):
    wire = msgspec.msgpack.decode(msgspec.msgpack.encode(msgspec.to_builtins(event)))
    assert events.decode(wire) == event


@pytest.mark.parametrize(
    "value", [{}, {"type": "Unknown"}, {"type": "Said"}, {"type": "Progress", "step": "far"}, None]
)
def test_what_is_no_event_is_refused(value):
    with pytest.raises(msgspec.ValidationError):
        events.decode(value)
