"""Data sets through the real command, killed on the way: nothing is missing, nothing is there twice."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import orjson
import psutil
import pytest
from PIL import Image

from rung.catalog import models as catalog
from rung.domain.models import Step, Transforms
from rung.store.blobs import DiskStore
from rung.testing.models import segmentation

PATIENCE = 60.0
IMAGES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "nuclei_dsb2018" / "images"
STEPS = Transforms(
    (
        Step("image.decode"),
        Step("image.resize", {"height": 128, "width": 128}),
        Step("image.normalize"),
        Step("image.layout"),
    ),
    (Step("segmentation.mask", {"activation": "none"}),),
)


def started(folder: Path, *args: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "rung", *map(str, args)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ.copy(),
    )


def until(true, process: subprocess.Popen[bytes]) -> None:
    """Wait for something that a running command does."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert process.poll() is None, process.stdout.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(PATIENCE)
    assert process.returncode == -signal.SIGKILL
    process.stdout.close()


@pytest.mark.data
@pytest.mark.skipif(not IMAGES.is_dir(), reason="the images do not lie beside the repository")
def test_200_pictures_killed_twice_and_resumed_are_complete(tmp_path, rung):
    model = segmentation(tmp_path / "seg.onnx", 128, 8)
    catalog.register(DiskStore(tmp_path / ".rung" / "repository"), model, name="seg", transforms=STEPS)
    pictures = sorted(IMAGES.glob("*.png"))[:200]
    assert len(pictures) == 200
    (tmp_path / "cells").mkdir()
    for picture in pictures:
        (tmp_path / "cells" / picture.name).symlink_to(picture)
    wanted = ("score", "seg", "cells", "--out", "masks", "--chunk", 10)
    journal = tmp_path / "masks" / ".scoring" / "journal"

    def commits() -> int:
        return journal.read_bytes().count(b"\n") - 1 if journal.exists() else 0

    first = started(tmp_path, *wanted)
    until(lambda: commits() >= 1, first)
    kill(first)
    assert not (tmp_path / "masks" / "manifest.json").exists()
    before = commits()
    second = started(tmp_path, *wanted, "--resume")
    until(lambda: commits() > before, second)
    kill(second)
    done = rung(*wanted, "--resume", "--json")
    assert done.returncode == 0, done.stderr

    scored = orjson.loads(done.stdout)
    assert (scored["read"], scored["rows"], scored["refused"]) == (200, 200, 0)
    assert scored["resumed"] >= 20
    assert {one.name for one in (tmp_path / "masks").iterdir()} == {one.name for one in pictures} | {"manifest.json"}
    for picture in pictures:
        with Image.open(picture) as image, Image.open(tmp_path / "masks" / picture.name) as mask:
            mask.load()
            assert mask.size == image.size
    # What a replica would answer.
    some = pictures[::50]
    alone = rung("predict", ".rung/repository/seg", *some, "--out", "alone", "--accept", "mask")
    assert alone.returncode == 0, alone.stderr
    for picture in some:
        assert (tmp_path / "alone" / picture.name).read_bytes() == (tmp_path / "masks" / picture.name).read_bytes()


WORDS = """
import time


def map(row):
    time.sleep(0.002)
    for word in row["text"].split():
        yield word, 1


def combine(key, values):
    return sum(values)


def reduce(key, values):
    return {"word": key, "count": sum(values)}
"""


def test_a_map_reduce_whose_processes_are_killed_counts_every_word_once(tmp_path, rung):
    (tmp_path / "words.py").write_text(WORDS)
    counts: Counter[str] = Counter()
    for number in range(12):
        lines = [f"the w{(number * 37 + line) % 50} the" for line in range(120)]
        counts.update(word for line in lines for word in line.split())
        rows = b"".join(orjson.dumps({"text": line}) + b"\n" for line in lines)
        (tmp_path / f"log{number}.jsonl").write_bytes(rows)
    wanted = ("mapreduce", "words", "jsonl:log*.jsonl", "--out", "counts.csv", "--parts", 3, "--processes", 2)
    work = tmp_path / ".counts.csv.mapreduce"

    def mapped() -> int:
        return len(list(work.glob("map-*")))

    first = started(tmp_path, *wanted)
    until(lambda: mapped() >= 1, first)
    psutil.Process(first.pid).children()[0].kill()
    until(lambda: mapped() >= 5, first)
    kill(first)
    second = rung(*wanted, "--resume", "--json")
    assert second.returncode == 0, second.stderr
    alone = rung(*wanted[:4], "alone.csv", "--parts", 3, "--processes", 1)
    assert alone.returncode == 0, alone.stderr

    lines = (tmp_path / "counts.csv").read_text().splitlines()
    assert lines[0] == "word,count"
    assert len(lines) == len(counts) + 1
    assert {word: int(count) for word, count in (line.split(",") for line in lines[1:])} == counts
    assert (tmp_path / "alone.csv").read_bytes() == (tmp_path / "counts.csv").read_bytes()
    assert not work.exists()
    assert orjson.loads(second.stdout)["read"] == 12 * 120
