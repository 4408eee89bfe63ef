"""A checkpoint is there whole or not at all, and the last good one survives everything."""

import errno
import os
import resource
import signal
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.domain.errors import StorageFull
from rung.training import checkpoints
from rung.training.checkpoints import Checkpoints


@pytest.fixture
def kept(tmp_path):
    return Checkpoints(tmp_path / "checkpoints")


def test_nothing_is_there_at_first(kept):
    assert kept.load() is None
    assert kept.load("best") is None


def test_the_newest_comes_back_with_all_that_went_in(kept):
    kept.save(1, {"epoch": 0}, {"net": b"one"})
    kept.save(12, {"epoch": 1, "places": {"train/8": 3}}, {"net": b"two", "opt": b""})
    found = kept.load()
    assert (found.step, found.state, found.files) == (
        12,
        {"epoch": 1, "places": {"train/8": 3}},
        {"net": b"two", "opt": b""},
    )


def test_two_are_kept_and_the_best_apart_from_them(kept, tmp_path):
    kept.save(3, {}, {}, "best")
    for step in range(1, 6):
        kept.save(step, {}, {})
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["best", "step-000000004", "step-000000005"]
    assert kept.load("best").step == 3


def test_the_best_is_replaced(kept):
    kept.save(3, {}, {"net": b"three"}, "best")
    kept.save(9, {}, {"net": b"nine"}, "best")
    assert kept.load("best").files == {"net": b"nine"}


@given(place=st.floats(0, 1), file=st.sampled_from(["net", "checkpoint.json"]))
@settings(max_examples=30, deadline=None)
def test_one_that_was_damaged_is_not_believed(tmp_path_factory, place, file):
    folder = tmp_path_factory.mktemp("damaged")
    kept = Checkpoints(folder)
    kept.save(1, {}, {"net": b"good" * 50})
    kept.save(2, {"epoch": 7}, {"net": b"also" * 50})
    path = folder / "step-000000002" / file
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 0x20
    path.write_bytes(content)
    found = kept.load()
    # Damage that JSON does not notice may only be in the state itself, never in what is hashed.
    assert found.step == 1 or (file == "checkpoint.json" and found.files == {"net": b"also" * 50})


def test_one_that_was_cut_off_is_not_believed(kept, tmp_path):
    kept.save(1, {}, {"net": b"good"})
    kept.save(2, {}, {"net": b"good"})
    (tmp_path / "checkpoints" / "step-000000002" / "checkpoint.json").unlink()
    assert kept.load().step == 1


def test_no_room_leaves_the_earlier_one(kept, monkeypatch, tmp_path):
    kept.save(1, {}, {"net": b"good"})

    def full(_path, _content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "_write", full)
    with pytest.raises(StorageFull, match="step 2"):
        kept.save(2, {}, {"net": b"more"})
    assert kept.load().step == 1
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000001"]


def test_a_real_limit_of_the_system_leaves_the_earlier_one(tmp_path):
    script = (
        "import signal, sys; from pathlib import Path; from rung.training.checkpoints import Checkpoints\n"
        "kept = Checkpoints(Path(sys.argv[1])); kept.save(1, {}, {'net': b'x' * 100})\n"
        "try: kept.save(2, {}, {'net': b'x' * 100_000})\n"
        "except Exception as error: print(type(error).__name__, kept.load().step)\n"
    )

    def small_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "small"],
        preexec_fn=small_files,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["StorageFull", "1"]
