"""What servers of queues are refused, what they say of themselves, and what happens when they are full."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rung.domain.errors import ConfigurationError, NotReady, StorageFull
from rung.domain.messages import Message, Outcome
from rung.jobs.brokers import QueuePlace, open_queue
from rung.store.database import Database, open_database
from rung.testing.brokers import serve_broker
from rung.testing.queue_scenes import drain


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_database(f"sqlite:{tmp_path}/rung.db") as database:
        yield database


@pytest.mark.parametrize(
    ("options", "ack", "words"),
    [
        ((), "flushed", "the disk has confirmed it"),
        (("--appendfsync", "everysec"), "memory", "appendfsync always"),
        (("--appendonly", "no"), "memory", "appendonly yes"),
    ],
)
def test_what_valkey_says_of_itself(database, tmp_path, options, ack, words):
    with serve_broker("valkey", tmp_path / "server", *options) as server:
        queue = open_queue(QueuePlace(server.url, "q"), database)
        queue.close()
    assert queue.means.ack == ack
    assert words in queue.means.words


def test_a_server_that_throws_away_is_refused(database, tmp_path):
    evicting = ("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")
    with (
        serve_broker("valkey", tmp_path / "server", *evicting) as server,
        pytest.raises(ConfigurationError, match="noeviction"),
    ):
        open_queue(QueuePlace(server.url, "q"), database)


def test_a_full_server_says_so_and_what_it_holds_can_still_be_done(database, tmp_path):
    with serve_broker("valkey", tmp_path / "server", "--maxmemory", "32mb") as server:
        queue = open_queue(QueuePlace(server.url, "q"), database)
        accepted = 0
        with pytest.raises(StorageFull, match="Give it more room"):
            while accepted < 200:
                queue.put([Message(id=f"m{accepted}", body=b"x" * (1 << 20))])
                accepted += 1
        assert 5 < accepted < 200
        assert {lease.message.id for lease in drain(queue, 3)} == {f"m{number}" for number in range(accepted)}
        queue.put([Message(id="room-again")])
        queue.close()


def test_a_server_that_began_anew_without_its_memory(database, tmp_path):
    with serve_broker("valkey", tmp_path / "server", "--appendonly", "no") as server:
        queue = open_queue(QueuePlace(server.url, "q"), database)
        queue.put([Message(id="lost")])
        [lease] = queue.take(9)
        server.kill()
        server.start()
        for _ in range(3):  # connections that broke are noticed one by one
            try:
                assert queue.take(9) == []
            except NotReady:
                continue
        assert queue.settle([Outcome(lease)]) == set()
        queue.put([Message(id="next")])
        assert [one.message.id for one in queue.take(9)] == ["next"]
        queue.close()


def test_nats_alone_has_no_replicas(database, tmp_path):
    with (
        serve_broker("nats", tmp_path / "server") as server,
        pytest.raises(ConfigurationError, match="replicas"),
    ):
        open_queue(QueuePlace(f"{server.url}?replicas=3", "q"), database)


def test_another_length_of_leases_is_taken_up(database, tmp_path):
    with serve_broker("nats", tmp_path / "server") as server:
        for seconds in (30.0, 60.0):
            queue = open_queue(QueuePlace(server.url, "q", seconds), database)
            queue.put([Message(id=f"after{seconds}")])
            queue.close()
        queue = open_queue(QueuePlace(server.url, "q", 60.0), database)
        assert len(drain(queue)) == 2
        assert queue.means.ack == "memory"
        assert "sync_interval" in queue.means.words
        queue.close()
