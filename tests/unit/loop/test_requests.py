from concurrent.futures import ThreadPoolExecutor

import pytest

from rung.domain.errors import NotFound
from rung.domain.retraining import Decision, Request
from rung.loop import requests
from rung.store.blobs import DiskStore


@pytest.fixture
def store(tmp_path):
    return DiskStore(tmp_path)


def ask(store, occasion, cause="labels"):
    return requests.ask(store, "m", Request(cause, occasion, f"because of {occasion}", 1.0))


def test_an_occasion_is_one_retraining(store):
    assert [ask(store, "a").number, ask(store, "b").number, ask(store, "a").number] == [1, 2, 1]
    assert ask(store, "a", "drift").number == 3
    assert [one.request.occasion for one in requests.retrainings(store, "m")] == ["a", "b", "a"]
    assert requests.retrainings(store, "other") == []


def test_many_who_notice_at_once_ask_for_one(store):
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda _: ask(store, "same").number, range(32)))
    assert set(numbers) == {1}
    assert len(requests.retrainings(store, "m")) == 1


def test_the_first_decision_counts(store):
    number = ask(store, "a").number
    first = requests.decide(store, "m", number, "extract", Decision("pass", "40 rows", 1.0, {"rows": 40}))
    again = requests.decide(store, "m", number, "extract", Decision("fail", "gone", 2.0))
    assert again == first
    assert requests.find(store, "m", number).decisions == {"extract": first}


def test_there_is_none_of_that_number(store):
    with pytest.raises(NotFound, match="m has no retraining 7; rung retrains m"):
        requests.find(store, "m", 7)
