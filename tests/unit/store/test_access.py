"""Keys as files: made once, ended once, found by everybody."""

import msgspec
import pytest

from rung.domain.errors import Conflict, InvalidInput, NotFound, Unauthenticated
from rung.domain.quotas import Others
from rung.store.access import KeyStore, Spent
from rung.store.blobs import DiskStore, open_store


@pytest.fixture(params=["disk", "memory"])
def blobs(request, tmp_path):
    return DiskStore(tmp_path / "access") if request.param == "disk" else open_store("memory:")


def test_a_key_is_found_by_another_process_and_its_secret_is_nowhere(blobs):
    token, key = KeyStore(blobs).create("web", at=10.0, by="ana", models=("spam",), rate=5.0, quota=100)

    others = KeyStore(blobs)
    assert others.ring().find(token, 11.0) == key
    assert (key.name, key.by, key.created, key.role) == ("web", "ana", 10.0, "caller")
    kept = b"".join(blobs.get(blob.key) for blob in blobs.list())
    assert token.rpartition("_")[2].encode() not in kept
    assert others.ring() is others.ring()


def test_a_key_that_is_revoked_ends_for_those_who_have_read_it(blobs):
    mine, theirs = KeyStore(blobs), KeyStore(blobs)
    token, key = mine.create("web", at=1.0, by="ana")
    theirs.ring().find(token, 2.0)

    assert mine.revoke("web", at=3.0, by="ben", reason="leaked") == key
    with pytest.raises(Unauthenticated, match="revoked"):
        theirs.ring().find(token, 4.0)
    mine.revoke(key.id, at=9.0, by="eve")  # the first says why
    ended = theirs.ring().revoked[key.id]
    assert (ended.at, ended.by, ended.reason) == (3.0, "ben", "leaked")
    with pytest.raises(NotFound, match="rung keys list"):
        mine.revoke("nobody", at=3.0, by="ben")


def test_a_name_is_of_one_key_at_a_time(blobs):
    keys = KeyStore(blobs)
    first, _ = keys.create("web", at=1.0, by="ana", expires=50.0)
    with pytest.raises(Conflict, match="revoke it first"):
        keys.create("web", at=2.0, by="ana")

    second, key = keys.create("web", at=60.0, by="ana")
    assert keys.revoke("web", at=61.0, by="ana") == key
    for token in (first, second):
        with pytest.raises(Unauthenticated):
            keys.ring().find(token, 62.0)


def test_nothing_is_written_for_a_key_that_makes_no_sense(blobs):
    with pytest.raises(InvalidInput):
        KeyStore(blobs).create("web", at=1.0, by="ana", burst=3)
    assert list(blobs.list()) == []


def test_a_damaged_file_closes_the_doors_and_a_damaged_revocation_ends_its_key(blobs):
    keys = KeyStore(blobs)
    token, key = keys.create("web", at=1.0, by="ana")
    blobs.put(f"revoked/{key.id}.json", b"{")
    blobs.put("keys/aaaaaaaa.json", b"{}")
    blobs.put("keys/bbbbbbbb.json", msgspec.json.encode(key))

    ring = KeyStore(blobs).ring()
    with pytest.raises(Unauthenticated, match="revoked"):
        ring.find(token, 2.0)
    assert (ring.guards_data, ring.guards_control) == (True, True)
    assert [text.partition(" ")[0] for text in ring.unreadable] == ["keys/aaaaaaaa.json", "keys/bbbbbbbb.json"]


def test_what_is_spent_and_claimed_is_summed_over_the_other_replicas_of_the_day(blobs):
    one, two = KeyStore(blobs), KeyStore(blobs)

    assert one.spend("replica-1", Spent(5, {"a": 3, "b": 1}, {"a": 9, "b": 1}), 5) == (0, {})
    assert two.spend("replica-2", Spent(5, {"a": 4}, {"a": 6}), 5) == (1, {"a": Others(3, 9), "b": Others(1, 1)})
    assert one.spend("replica-1", None, 5) == (1, {"a": Others(4, 6)})
    two.spend("replica-2", Spent(5, {"a": 9}), 5)  # as a release did that claimed nothing
    assert one.spend("replica-1", None, 5) == (1, {"a": Others(9, 9)})
    assert one.spend("replica-1", Spent(6), 6) == (0, {})
    assert KeyStore(blobs).spent("replica-2").requests == {"a": 9}
    assert KeyStore(blobs).spent("replica-3").requests == {}
