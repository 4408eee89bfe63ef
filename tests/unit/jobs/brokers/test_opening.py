"""What opening a queue says when it cannot be had."""

import pytest

from rung.domain.errors import ConfigurationError, NotReady
from rung.jobs.brokers import QueuePlace, open_queue
from rung.store.database import open_database


@pytest.fixture
def database(tmp_path):
    with open_database(f"sqlite:{tmp_path}/rung.db") as database:
        yield database


@pytest.mark.parametrize("url", ["nats://127.0.0.1:1", "redis://u:secret@127.0.0.1:1/0", "unix:///nowhere.sock"])
def test_a_server_that_is_not_there(database, url, monkeypatch):
    monkeypatch.setattr("rung.jobs.brokers.nats_link._PATIENCE", 0.5)
    with pytest.raises(NotReady) as caught:
        open_queue(QueuePlace(url, "q"), database)
    assert "secret" not in str(caught.value)
    assert "127.0.0.1:1" in str(caught.value) or "nowhere" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("amqp://h", "there is no queue 'amqp'"),
        ("nats://127.0.0.1:1?replicas=2", "replicas=1, 3 or 5"),
        ("nats://127.0.0.1:1?durable=x", "one option"),
        ("redis://h:no", "the queue's URL is wrong"),
    ],
)
def test_a_url_that_is_wrong(database, url, says):
    with pytest.raises(ConfigurationError, match=says):
        open_queue(QueuePlace(url, "q"), database)


def test_a_name_that_is_wrong(database):
    for url in ("sql", "nats://127.0.0.1:1", "redis://127.0.0.1:1"):
        with pytest.raises(ConfigurationError, match="needs a name"):
            open_queue(QueuePlace(url, "a.b"), database)
