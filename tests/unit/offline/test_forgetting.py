import pytest

from rung.domain.errors import InvalidInput, NotFound
from rung.domain.inference import NewItem, NewRequest
from rung.offline.forgetting import forget


def asked(unit: str) -> NewRequest:
    items = (NewItem(b"[1]", "application/json", "a"), NewItem(b"[2]", "application/json", "b"))
    return NewRequest(model="tiny", items=items, unit=unit)


@pytest.mark.asyncio
async def test_a_unit_is_gone_with_its_answers_and_what_waits_is_not_asked(bench, replicas):
    theirs, other = (bench.requests.accept(asked(unit)) for unit in ("ann", "ben"))
    assert forget(bench.database, "ann") == 1
    assert forget(bench.database, "ann") == 0
    with pytest.raises(NotFound):
        bench.requests.get(theirs.id)
    assert bench.requests.answers(theirs.id) == []
    asked_of = replicas()
    await bench.work(asked_of, lambda: bench.requests.get(other.id).state == "ended")
    assert len(asked_of.asked) == 2


def test_nobody_in_particular_is_not_erased(bench):
    bench.requests.accept(asked(""))
    with pytest.raises(InvalidInput, match="empty"):
        forget(bench.database, "")
    assert len(bench.requests.find("tiny")) == 1
