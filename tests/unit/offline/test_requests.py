import pytest

from rung.domain.errors import Conflict, InvalidInput, NotFound, NotReady, Overloaded, StorageFull
from rung.domain.inference import NewItem, NewRequest


def asked(*bodies: bytes, **more) -> NewRequest:
    return NewRequest(
        model="tiny", items=tuple(NewItem(body, "application/json", f"n{i}") for i, body in enumerate(bodies)), **more
    )


def test_what_was_accepted_is_there_with_its_items_and_messages(bench):
    shown = bench.requests.accept(asked(b"[1]", b"[2]", key="k", priority=3, unit="ann", owner="me"))
    assert (shown.state, shown.items, shown.counts) == ("open", 2, {"waiting": 2})
    assert [one.id for one in bench.requests.find("tiny")] == [shown.id]
    assert bench.requests.find("other") == bench.requests.find("tiny", owner="you") == []
    assert [one.id for one in bench.requests.find("tiny", owner="me", state="open")] == [shown.id]
    [lease] = bench.queue.take(10)
    assert lease.message.id == f"{shown.id}.0", "those of a key come one at a time"
    assert (lease.message.priority, lease.message.owner, lease.message.topic) == (3, "me", "tiny")


def test_the_same_idempotency_key_is_the_same_request(bench):
    first = bench.requests.accept(asked(b"[1]", idempotency_key="k"))
    assert bench.requests.accept(asked(b"[1]", idempotency_key="k")) == first
    assert bench.requests.accept(asked(b"[1]", idempotency_key="k", owner="else")).id != first.id
    with pytest.raises(Conflict, match="asked for something else"):
        bench.requests.accept(asked(b"[2]", idempotency_key="k"))
    assert len(bench.queue.take(10)) == 2


@pytest.mark.parametrize(
    ("new", "why"),
    [
        (asked(), "no items"),
        (asked(b""), "empty"),
        (asked(*[b"1"] * 10_001), "10,000"),
        (asked(b"1", priority=1001), "priority"),
        (asked(b"1", key="x" * 101), "key"),
        (asked(b"1", unit="a\r\nb"), "unit"),
        (asked(b"1", accept="a\nb"), "accept"),
        (NewRequest(model="tiny", items=(NewItem(b"1", "a\r\nx: y"),)), "type"),
        (NewRequest(model="../tiny", items=(NewItem(b"1", "a"),)), "name"),
    ],
)
def test_what_makes_no_sense_is_not_taken(bench, new, why):
    with pytest.raises(InvalidInput, match=why):
        bench.requests.accept(new)
    assert bench.queue.take(10) == []


def test_a_request_belongs_to_its_model_and_its_owner(bench):
    shown = bench.requests.accept(asked(b"[1]", owner="me"))
    assert bench.requests.get(shown.id, "tiny", "me") == shown
    for model, owner in (("other", None), ("tiny", "you")):
        with pytest.raises(NotFound):
            bench.requests.get(shown.id, model, owner)


def test_a_cancelled_request_ends_at_once_and_can_be_replayed(bench):
    shown = bench.requests.accept(asked(b"[1]", b"[2]"))
    gone = bench.requests.cancel(shown.id, "a slip")
    assert (gone.state, gone.counts, gone.reason) == ("cancelled", {"cancelled": 2}, "a slip")
    with pytest.raises(Conflict, match="ended"):
        bench.requests.cancel(shown.id)
    with pytest.raises(Conflict, match="is dead"):
        bench.requests.replay(shown.id)
    again = bench.requests.replay(shown.id, ["cancelled"])
    assert (again.state, again.counts, again.finished) == ("open", {"waiting": 2}, 0.0)


def test_a_deadline_that_passes_ends_what_waits(bench):
    shown = bench.requests.accept(asked(b"[1]", deadline=bench.clock.now + 5))
    bench.requests.turn(100.0)
    assert bench.requests.get(shown.id).state == "open"
    bench.clock.now += 6
    bench.requests.turn(100.0)
    [item] = bench.requests.answers(shown.id)
    assert (item.state, item.error) == ("expired", "its deadline passed before its turn came")
    with pytest.raises(Conflict, match="submit it anew"):
        bench.requests.replay(shown.id, ["expired"])


def test_answers_are_forgotten_after_their_time(bench):
    shown = bench.requests.accept(asked(b"[1]"))
    bench.requests.cancel(shown.id)
    bench.clock.now += 99
    bench.requests.turn(100.0)
    assert bench.requests.get(shown.id)
    bench.clock.now += 2
    bench.requests.turn(100.0)
    with pytest.raises(NotFound):
        bench.requests.get(shown.id)
    assert bench.requests.answers(shown.id) == []


def test_a_queue_that_is_away_loses_nothing(lossy):
    lossy.queue.away = True
    shown = lossy.requests.accept(asked(b"[1]", b"[2]"))
    assert shown.state == "open"
    lossy.queue.away = False
    lossy.requests.turn(100.0)
    assert lossy.queue.held == [], "it may be on its way still"
    lossy.clock.now += 6
    lossy.requests.turn(100.0)
    lossy.requests.turn(100.0)
    assert [one.id for one in lossy.queue.held] == [f"{shown.id}.0", f"{shown.id}.1"]


def test_what_a_queue_in_memory_has_lost_is_put_there_again(lossy):
    shown = lossy.requests.accept(asked(b"[1]"))
    lossy.queue.held.clear()
    lossy.clock.now += 601
    lossy.requests.turn(1e6)
    assert [one.id for one in lossy.queue.held] == [f"{shown.id}.0"]


def test_what_does_not_fit_on_the_disk_is_not_accepted_and_what_was_stays(bench):
    kept = bench.requests.accept(asked(b"[1]"))

    def limit(connection, pages=None):
        used = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {used + 20 if pages is None else pages}")

    bench.database.read(limit)
    with pytest.raises(StorageFull):
        bench.requests.accept(asked(b"[" + b"1," * 1_000_000 + b"1]"))
    assert [one.id for one in bench.requests.find()] == [kept.id]
    bench.database.read(lambda connection: limit(connection, 1 << 30))
    assert bench.requests.accept(asked(b"[" + b"1," * 1_000_000 + b"1]")).state == "open"
    assert len(bench.queue.take(10)) == 2


def test_an_owner_asks_for_as_many_items_a_day_as_its_quota_says(bench):
    mine = {"owner": "me", "quota": 3}
    first = bench.requests.accept(asked(b"[1]", b"[2]", idempotency_key="k", **mine))
    with pytest.raises(Overloaded, match="quota of 3 and has used 2") as refused:
        bench.requests.accept(asked(b"[3]", b"[4]", **mine))
    assert 0 < refused.value.retry_after <= 86_400
    assert bench.requests.accept(asked(b"[1]", b"[2]", idempotency_key="k", **mine)) == first
    bench.requests.accept(asked(b"[3]", **mine))
    bench.requests.accept(asked(b"[3]", owner="you", quota=1))
    bench.requests.accept(asked(*[b"[5]"] * 10))
    bench.clock.now += 86_400
    bench.requests.accept(asked(b"[6]", b"[7]", b"[8]", **mine))


def test_an_answer_that_is_not_there_says_why(bench):
    shown = bench.requests.accept(asked(b"[1]"))
    with pytest.raises(NotReady, match="waits"):
        bench.requests.answer(shown.id, 0)
    with pytest.raises(NotFound, match="no item 1"):
        bench.requests.answer(shown.id, 1)
    bench.requests.cancel(shown.id, "a slip")
    with pytest.raises(Conflict, match="cancelled: a slip"):
        bench.requests.answer(shown.id, 0)
