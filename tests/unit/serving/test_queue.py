import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rung.domain.predictions import Request
from rung.serving.queue import RequestQueue, urgency
from rung.serving.ticket import Ticket


def ticket(rows: int = 1, priority: int = 0, key: object = None) -> Ticket:
    return Ticket(Request({"x": np.zeros((rows, 1))}, rows, priority=priority), 0.0, key=key)


def test_the_most_urgent_come_first_and_the_default_stands_between():
    queue = RequestQueue()
    for priority in (9, 0, 1, 5, 4):
        queue.push(ticket(priority=priority, key=priority))
    order = [batch[0].request.priority for batch in iter(lambda: queue.take(10), [])]
    assert order == [1, 4, 0, 5, 9]


def test_less_urgent_work_of_the_same_kind_fills_the_room_left():
    queue = RequestQueue()
    late, soon = ticket(priority=0), ticket(priority=1)
    queue.push(late)
    queue.push(soon)
    assert queue.take(2) == [soon, late]


def test_a_request_larger_than_the_room_goes_alone():
    queue = RequestQueue()
    big, small = ticket(rows=9), ticket()
    queue.push(big)
    queue.push(small)
    assert queue.take(4) == [big]
    assert queue.take(4) == [small]


def test_one_who_left_lends_his_age_to_nobody():
    queue = RequestQueue()
    gone, first, second = ticket(key=0), ticket(key=1), ticket(key=0)
    for one in (gone, first, second):
        queue.push(one)
    queue.drop(gone)
    assert [queue.take(1), queue.take(1), queue.take(1)] == [[first], [second], []]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("push"), st.integers(1, 5), st.integers(0, 6), st.integers(0, 2)),
            st.tuples(st.just("take"), st.integers(1, 8)),
            st.tuples(st.just("drop"), st.integers(0, 30)),
        ),
        max_size=60,
    )
)
def test_nothing_is_lost_mixed_or_served_out_of_turn(steps):
    queue, waiting = RequestQueue(), []
    for step in steps:
        if step[0] == "push":
            new = ticket(*step[1:])
            waiting.append(new)
            queue.push(new)
        elif step[0] == "drop" and waiting:
            queue.drop(waiting.pop(step[1] % len(waiting)))
        elif step[0] == "take":
            taken = queue.take(step[1])
            assert len({one.key for one in taken}) <= 1
            assert len(taken) <= 1 or sum(one.request.rows for one in taken) <= step[1]
            if waiting:
                first = min(waiting, key=lambda one: (urgency(one.request.priority), waiting.index(one)))
                assert taken[0] is first
            for one in taken:
                same = [w for w in waiting if w.key == one.key and w.request.priority == one.request.priority]
                assert same[0] is one, "equals are served in the order in which they came"
                waiting.remove(one)
        assert len(queue) == len(waiting)
        assert queue.rows == sum(one.request.rows for one in waiting)
        for priority in range(7):
            before = [one for one in waiting if urgency(one.request.priority) <= urgency(priority)]
            assert queue.rows_before(priority) == sum(one.request.rows for one in before)
    assert sorted(map(id, queue.clear())) == sorted(map(id, waiting))
