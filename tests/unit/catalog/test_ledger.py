"""The chain of links: who wins, what is noticed, what a follower makes of it."""

import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from threading import Barrier

import msgspec
import pytest
from structlog.testing import capture_logs

from rung.catalog import ledger
from rung.domain import moves
from rung.domain.errors import BundleError, Conflict, InvalidInput, NotFound, NotReady
from rung.domain.releases import Move
from rung.store.blobs import DiskStore, open_store

T0 = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.fixture(params=["disk", "memory"])
def place(request, tmp_path):
    return DiskStore(tmp_path / "repository") if request.param == "disk" else open_store("memory:")


def to(version, model="m", **move):
    """What builds the release in which this version answers everybody."""
    return lambda before: moves.whole(before, model, version, f"d{version}", Move("release", "ana", **move))


def add(place, *versions, model="m"):
    return [ledger.append(place, model, to(version, model)) for version in versions]


def key(epoch, model="m"):
    return f"releases/{model}/{epoch:012d}.json"


# --- the chain ------------------------------------------------------------------------------------


def test_each_link_names_the_bytes_before_it(place):
    made = add(place, 1, 2, 3)
    assert [one.epoch for one in made] == [1, 2, 3]
    assert made[0].previous == ""
    for before, after in pairwise(made):
        assert after.previous == hashlib.sha256(place.get(key(before.epoch))).hexdigest()
        assert after.at > before.at
    chain = ledger.links(place, "m")
    assert [link.release for link in chain] == made
    assert [link.release for link in ledger.back(place, "m")] == made[::-1]
    assert ledger.last(place, "m") == chain[-1]
    assert ledger.models(place) == ["m"]


def test_without_a_link_there_is_nothing(place):
    assert ledger.last(place, "m") is None
    assert ledger.links(place, "m") == []
    assert list(ledger.back(place, "m")) == []
    assert ledger.models(place) == []
    with pytest.raises(NotFound):
        ledger.read(place, "m", 1)


def test_models_whose_names_begin_alike_have_chains_of_their_own(place):
    add(place, 1, 2)
    add(place, 7, model="m2")
    assert ledger.last(place, "m").release.epoch == 2
    assert ledger.last(place, "m2").release.main.version == 7
    assert ledger.models(place) == ["m", "m2"]


def test_what_else_lies_there_is_no_link(place):
    add(place, 1)
    for stray in ("000000000009.temp", "000000000009.json.bak", "notes.txt", "sub/000000000009.json"):
        place.put(f"releases/m/{stray}", b"x")
    place.put("releases/README", b"x")
    place.put("releases/Not A Model/000000000001.json", b"x")
    assert ledger.last(place, "m").release.epoch == 1
    assert ledger.models(place) == ["m"]
    assert len(ledger.links(place, "m")) == 1


def test_whatever_a_build_raises_nothing_is_written(place):
    def refuse(before):
        raise Conflict("no")

    with pytest.raises(Conflict, match=r"^no$"):
        ledger.append(place, "m", refuse)
    assert ledger.last(place, "m") is None


def test_evidence_has_to_be_plain(place):
    with pytest.raises(InvalidInput, match="the evidence of a move must be plain JSON") as caught:
        ledger.append(place, "m", to(1, evidence={"units": object()}))
    assert caught.value.field == "evidence"
    made = ledger.append(place, "m", to(1, evidence={"units": [1, 2], "interval": {"low": 0.5}}, reason="Ümlaut"))
    assert ledger.last(place, "m").release == made


def test_a_clock_that_was_set_back_does_not_reorder_the_ledger(place):
    ledger.append(place, "m", to(1), lambda: T0)
    second = ledger.append(place, "m", to(2), lambda: T0 - timedelta(hours=1))
    third = ledger.append(place, "m", to(3), lambda: T0 - timedelta(hours=1))
    fourth = ledger.append(place, "m", to(4), lambda: T0 + timedelta(hours=1))
    assert datetime.fromisoformat(second.at) == T0 + timedelta(microseconds=1)
    assert datetime.fromisoformat(third.at) == T0 + timedelta(microseconds=2)
    assert datetime.fromisoformat(fourth.at) == T0 + timedelta(hours=1)


def test_a_put_whose_reply_was_lost_is_not_a_conflict(place):
    class Forgetful:
        """Writes, and then says that somebody else had."""

        def __getattr__(self, name):
            return getattr(place, name)

        def put(self, key, data, *, create=False):
            place.put(key, data, create=create)
            raise Conflict("exists")

    made = ledger.append(Forgetful(), "m", to(1))
    assert ledger.last(place, "m").release == made


# --- tampering ------------------------------------------------------------------------------------


def rewrite(place, epoch, change):
    data = json.loads(place.get(key(epoch)))
    change(data)
    place.put(key(epoch), json.dumps(data).encode())


@pytest.mark.parametrize(
    ("epoch", "change", "says"),
    [
        (2, lambda data: data["move"].update(by="somebody else"), "broken at epoch 3"),
        (1, lambda data: data["arms"][0].update(version=9), "broken at epoch 2"),
        (2, lambda data: data.update(previous="0" * 64), "broken at epoch 2"),
        (1, lambda data: data.update(previous="0" * 64), "broken at epoch 1"),
        (3, lambda data: data.update(epoch=4), "no release of epoch 3 of m"),
        (3, lambda data: data.update(model="n"), "no release of epoch 3 of m"),
        (3, lambda data: data.update(format=2), "has format 2, this rung reads format 1: upgrade rung"),
        (3, lambda data: data.update(ranges=[]), "no release of epoch 3 of m"),
        (3, lambda data: data.update(ranges=[[0, 999_999, "stable"]]), "no release of epoch 3 of m"),
        (3, lambda data: data.update(ranges=[[0, 1_000_000, "nobody"]]), "no release of epoch 3 of m"),
        (3, lambda data: data.update(ranges=[[0, 600_000, "stable"], [500_000, 1_000_000, "stable"]]), "no release"),
        (3, lambda data: data.update(arms=[]), "no release of epoch 3 of m"),
        (3, lambda data: data.update(at="yesterday"), "no release of epoch 3 of m"),
        (3, lambda data: data.update(unit='json:"'), "no release of epoch 3 of m"),
        (3, lambda data: data.update(segments=[{"attribute": "ip", "values": [], "arm": "stable"}]), "no release"),
        (3, lambda data: data.update(at="2026-05-01T12:00:00"), "no release of epoch 3 of m"),
        (3, lambda data: data.update(rollout={"candidate": 2, "digest": "", "ladder": [5], "stage": 1}), "no release"),
        (3, lambda data: data["arms"][0].update(version="three"), r"cannot be read.*arms\[0\]\.version"),
    ],
)
def test_a_changed_link_is_noticed(place, epoch, change, says):
    add(place, 1, 2, 3)
    rewrite(place, epoch, change)
    with pytest.raises(BundleError, match=says):
        ledger.links(place, "m")
    with pytest.raises(BundleError, match="m"):
        list(ledger.back(place, "m"))


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[]", b"[" * 100_000], ids=lambda data: repr(data[:8]))
def test_a_link_that_is_no_json_is_noticed(place, data):
    add(place, 1)
    place.put(key(1), data)
    with pytest.raises(BundleError, match=r"releases/m/000000000001\.json cannot be read"):
        ledger.last(place, "m")


def test_a_missing_link_is_noticed(place):
    add(place, 1, 2, 3)
    place.delete([key(2)])
    with pytest.raises(BundleError, match="broken at epoch 3"):
        ledger.links(place, "m")
    with pytest.raises(BundleError, match="epoch 2 is missing"):
        list(ledger.back(place, "m"))


def test_a_link_of_another_chain_is_noticed(place):
    add(place, 1, 2)
    other = open_store("memory:")
    add(other, 5, 6, 7)
    place.put(key(3), other.get(key(3)))
    with pytest.raises(BundleError, match="broken at epoch 3: it does not follow the one before"):
        ledger.links(place, "m")
    with pytest.raises(BundleError, match="broken at epoch 3"):
        list(ledger.back(place, "m"))


# --- rivals -----------------------------------------------------------------------------------------


def race(place, count, epoch_before):
    """Writers that all saw the same last link; what each got."""
    barrier = Barrier(count)

    def write(number):
        def build(before):
            barrier.wait(30)
            return to(number, reason=f"writer {number}")(before)

        try:
            return ledger.append(place, "m", build)
        except Conflict as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        results = list(pool.map(write, range(1, count + 1)))
    won = [one for one in results if not isinstance(one, Conflict)]
    lost = [one for one in results if isinstance(one, Conflict)]
    assert len(won) == 1, results
    assert all(f"somebody else moved m to epoch {epoch_before + 1} first" in str(one) for one in lost)
    assert ledger.last(place, "m").release == won[0]


def test_of_threads_that_write_at_once_one_wins(place):
    for turn in range(10):
        race(place, 8, turn)
    assert len(ledger.links(place, "m")) == 10


WRITER = """
import sys
from pathlib import Path
from rung.catalog import ledger
from rung.domain import moves
from rung.domain.errors import Conflict
from rung.domain.releases import Move
from rung.store.blobs import DiskStore

store = DiskStore(Path(sys.argv[1]))
def build(before):
    print("seen", flush=True)
    sys.stdin.readline()
    return moves.whole(before, "m", 1, "d", Move("release", sys.argv[2]))
for turn in range(5):
    try:
        ledger.append(store, "m", build)
        print("won", flush=True)
    except Conflict:
        print("lost", flush=True)
"""


def test_of_processes_that_write_at_once_one_wins(tmp_path: Path):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), f"writer {number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    try:
        for turn in range(5):
            assert [one.stdout.readline() for one in writers] == ["seen\n"] * 3
            for one in writers:
                one.stdin.write("go\n")
                one.stdin.flush()
            assert sorted(one.stdout.readline() for one in writers) == ["lost\n", "lost\n", "won\n"], turn
        assert [one.wait(30) for one in writers] == [0, 0, 0]
    finally:
        for one in writers:
            one.kill()
            one.communicate()
    assert len(ledger.links(DiskStore(tmp_path), "m")) == 5


# --- following --------------------------------------------------------------------------------------


def test_a_follower_sees_each_move_and_returns_the_same_until_then(place):
    follower = ledger.ReleaseFollower(place)
    assert follower.poll({"m"}) == []
    [first] = add(place, 1)
    assert follower.poll({"m"}) == [first]
    assert follower.poll({"m"})[0] is follower.poll({"m"})[0]
    made = add(place, 2, 3)
    assert follower.poll({"m"}) == [made[-1]]
    add(place, 1, model="n")
    assert {one.model for one in follower.poll({"m", "n"})} == {"m", "n"}
    assert {one.model for one in follower.poll({"n"})} == {"n"}
    assert ledger.ReleaseFollower(place).poll({"m"}) == [made[-1]]


def test_a_follower_stays_with_what_it_knows_when_the_next_link_is_broken_and_says_so_once(place):
    made = add(place, 1, 2)
    add(place, 1, model="n")
    follower = ledger.ReleaseFollower(place)
    follower.poll({"m", "n"})
    place.put(key(3), b"{")
    [moved] = add(place, 2, model="n")
    with capture_logs() as logs:
        for _ in range(3):
            # Another model's release moves all the same.
            assert sorted(follower.poll({"m", "n"}), key=lambda one: one.model) == [made[-1], moved]
    [said] = logs
    assert (said["log_level"], said["model"], said["action"]) == ("error", "m", "ledger_broken")
    assert "releases/m/000000000003.json cannot be read" in said["reason"]
    # Repaired, it goes on.
    place.delete([key(3)])
    [third] = add(place, 3)
    assert third in follower.poll({"m", "n"})
    place.put(key(4), b"{")
    with capture_logs() as logs:
        follower.poll({"m", "n"})
    assert len(logs) == 1, "a new breakage is said again"


def test_a_new_follower_takes_the_last_link_that_can_be_read(place):
    made = add(place, 1, 2)
    place.put(key(3), b"{")
    follower = ledger.ReleaseFollower(place)
    with capture_logs() as logs:
        assert follower.poll({"m"}) == [made[-1]]
        assert follower.poll({"m"}) == [made[-1]]
    assert len(logs) == 1


def test_a_follower_raises_what_the_store_raises(place):
    class Away:
        def get(self, key):
            raise NotReady("the bucket does not answer")

        def list(self, prefix=""):
            raise NotReady("the bucket does not answer")

    with pytest.raises(NotReady):
        ledger.ReleaseFollower(Away()).poll({"m"})


def test_fields_that_a_later_rung_adds_are_passed_over(place):
    add(place, 1)
    rewrite(place, 1, lambda data: data.update(colour="blue"))
    assert isinstance(ledger.last(place, "m").release, msgspec.Struct)
