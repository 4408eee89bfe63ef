"""Rows are taken in once and kept for ever; what is wrong with one of them costs that one."""

import os
import signal
import subprocess
import sys
import time

import polars as pl
import pytest

from rung.data import datasets
from rung.domain.errors import ConfigurationError, InvalidData, NotFound
from rung.settings.project import DataSection
from rung.store.blobs import open_store


@pytest.fixture
def place(tmp_path):
    return tmp_path


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


def ingest(store, place, source, **more):
    return datasets.ingest(store, "things", DataSection(source=source, **more), place)


def test_equal_content_has_an_equal_digest_wherever_it_was_read_from(store, place):
    frame = pl.DataFrame({"a": [1, 2, 3], "b": ["x", None, "z"]})
    frame.write_csv(place / "one.csv")
    frame.write_parquet(place / "two.parquet")
    assert ingest(store, place, "one.csv").digest == ingest(store, place, "two.parquet").digest


def test_types_are_told_from_all_rows(store, place):
    # The word stands behind any sample that a reader would take.
    lines = ["n,code,flag"] + [f"{number},0{number % 10},true" for number in range(30_000)]
    lines += ["1.5,01,false"]
    (place / "long.csv").write_text("\n".join(lines))
    version = ingest(store, place, "long.csv")
    assert version.columns == {"n": "number", "code": "text", "flag": "boolean"}
    assert datasets.frame(store, version)["code"][3] == "03"


def test_bad_rows_are_put_aside_with_place_and_reason(store, place):
    lines = ["n,word"] + [f"{number},w" for number in range(100)]
    lines[41] = "fourty,w"
    lines[51] = "50,w,more"
    (place / "slips.csv").write_text("\n".join(lines))
    version = ingest(store, place, "slips.csv")
    assert (version.rows, version.quarantined) == (98, 2)
    reasons = {one.row: one.reason for one in datasets.quarantined(store, "things", version.digest)}
    assert reasons[52] == "3 fields where the header has 2"
    assert any(reason == "column n: 'fourty' is no integer" for reason in reasons.values())


def test_json_lines_that_are_none_are_put_aside(store, place):
    (place / "events.jsonl").write_bytes(b'{"a": 1}\n{"a": \n[1]\n\n{"a": 2}\n')
    version = ingest(store, place, "events.jsonl")
    assert version.rows == 2
    assert [one.row for one in datasets.quarantined(store, "things", version.digest)] == [2, 3]


def test_pictures_that_cannot_be_read_are_put_aside(store, place):
    from PIL import Image

    for name in ("cat/1.png", "dog/2.png"):
        path = place / "pets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    (place / "pets" / "dog" / "3.png").write_bytes(b"no picture")
    version = ingest(store, place, "files:pets")
    frame = datasets.frame(store, version)
    assert frame["label"].to_list() == ["cat", "dog"]
    (bad,) = datasets.quarantined(store, "things", version.digest)
    assert bad.source.endswith("dog/3.png")
    assert "no picture that can be read" in bad.reason


def test_pictures_come_with_the_masks_of_their_names(store, place):
    from PIL import Image

    for folder in ("images", "masks"):
        (place / "cells" / folder).mkdir(parents=True)
        Image.new("L", (4, 4)).save(place / "cells" / folder / "a.png")
    Image.new("L", (4, 4)).save(place / "cells" / "images" / "b.png")
    version = ingest(store, place, "files:cells")
    assert datasets.frame(store, version)["name"].to_list() == ["a"]
    assert "no mask of its name" in datasets.quarantined(store, "things", version.digest)[0].reason


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty: a first line with the names of the columns is expected"),
        ("a,b\n", "there is no row in csv:data.csv"),
        ("a,a\n1,2\n", "names the column 'a' twice"),
        ("a,b\n1\n2\n", "all 2 rows were refused, the first because 1 fields where the header has 2"),
    ],
)
def test_data_that_is_none_is_an_error_and_no_version(store, place, content, message):
    (place / "data.csv").write_text(content)
    with pytest.raises(InvalidData, match=message):
        ingest(store, place, "csv:data.csv")
    assert datasets.latest(store, "things") is None


def test_text_in_another_encoding_is_named(store, place):
    (place / "data.csv").write_bytes("a\nköln\n".encode("latin-1"))
    with pytest.raises(InvalidData, match=r"data.csv is not UTF-8 text: .* at byte 3"):
        ingest(store, place, "data.csv")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("csv:none.csv", "there is no file none.csv"),
        ("ftp://host/rows.csv", "is none that rung knows"),
        ("rows", "is none that rung knows"),
        ("csv:none.csv?seperator=;", "has an option 'seperator'; csv knows separator, columns, quote"),
        ("sqlite:shop.db?table=a;drop", "is no plain name"),
        ("sqlite:shop.db", "needs a table or a query"),
        ("nomodule:rows", "there is no nomodule.py here"),
        ("nats://host", "needs nats://HOST:PORT/SUBJECT"),
    ],
)
def test_a_source_that_makes_no_sense_says_why(store, place, source, message):
    with pytest.raises(ConfigurationError, match=message):
        ingest(store, place, source)


def test_a_password_is_neither_kept_nor_said(store, place):
    url = "postgresql://ana:sesame@127.0.0.1:1/db?table=things"
    with pytest.raises(InvalidData) as caught:
        ingest(store, place, url)
    assert "sesame" not in str(caught.value)
    assert "ana:***@" in str(caught.value)


def test_a_function_that_fails_is_named(store, place):
    (place / "broken_source.py").write_text("def rows():\n    yield {'a': 1}\n    raise OSError('the disk is gone')\n")
    with pytest.raises(InvalidData, match="broken_source:rows failed: OSError: the disk is gone"):
        ingest(store, place, "broken_source:rows")
    assert datasets.latest(store, "things") is None


def test_a_part_that_is_damaged_or_gone_is_noticed(store, place):
    pl.DataFrame({"a": [1]}).write_csv(place / "a.csv")
    version = ingest(store, place, "a.csv")
    (part,) = (place / "store").rglob("*.parquet")
    content = part.read_bytes()
    part.write_bytes(content[:-1] + b"x")
    with pytest.raises(InvalidData, match="has a damaged part"):
        datasets.frame(store, version)
    part.unlink()
    with pytest.raises(InvalidData, match="has lost a part"):
        datasets.frame(store, version)


def test_a_version_is_found_by_the_beginning_of_its_digest(store, place):
    pl.DataFrame({"a": [1]}).write_csv(place / "a.csv")
    version = ingest(store, place, "a.csv")
    assert datasets.load(store, "things", version.digest[:8]) == version
    with pytest.raises(NotFound, match="there is no version zzz of the data of things"):
        datasets.load(store, "things", "zzz")


def test_rows_are_read_in_bounded_pieces(store, place):
    pl.DataFrame({"a": range(1000)}).write_parquet(place / "a.parquet")
    version = ingest(store, place, "a.parquet")
    pieces = list(datasets.scan(store, version, rows=300))
    assert [piece.height for piece in pieces] == [300, 300, 300, 100]
    assert pl.concat(pieces)["a"].to_list() == list(range(1000))


def test_a_killed_reader_leaves_the_old_version(store, place):
    (place / "slow_source.py").write_text(
        "import pathlib, time\n"
        "def rows():\n"
        "    for number in range(100_000):\n"
        "        yield {'a': number}\n"
        "        if number == 25_000:\n"
        "            pathlib.Path('half').touch(); time.sleep(60)\n"
    )
    pl.DataFrame({"a": [1]}).write_csv(place / "a.csv")
    before = ingest(store, place, "a.csv")
    code = (
        "from pathlib import Path\nfrom rung.data import datasets\nfrom rung.settings.project import DataSection\n"
        "from rung.store.blobs import open_store\n"
        "datasets.ingest(open_store('store'), 'things', DataSection(source='slow_source:rows'), Path())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=place, env=os.environ) as process:
        end = time.monotonic() + 60
        while not (place / "half").exists():
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert datasets.latest(store, "things") == before
    assert datasets.frame(store, before)["a"].to_list() == [1]


def test_a_cache_gives_the_same_rows_and_is_never_trusted_blindly(store, place):
    pl.DataFrame({"a": range(1000), "b": [str(one) for one in range(1000)]}).write_parquet(place / "a.parquet")
    version = ingest(store, place, "a.parquet")
    cache = place / "cache"
    plain = datasets.frame(store, version)
    assert datasets.frame(store, version, cache=cache).equals(plain)
    assert datasets.frame(store, version, ["b"], cache=cache).equals(plain.select("b"))
    (kept,) = cache.rglob("*.arrow")
    kept.write_bytes(kept.read_bytes()[:200])
    assert datasets.frame(store, version, cache=cache).equals(plain)
    # Where it cannot be written, rows come all the same.
    (place / "file").touch()
    assert datasets.frame(store, version, cache=place / "file" / "cache").equals(plain)


def test_a_cache_keeps_only_what_the_newest_version_needs(store, place):
    for number in range(3):
        pl.DataFrame({"a": [number]}).write_parquet(place / "a.parquet")
        datasets.frame(store, ingest(store, place, "a.parquet"), cache=place / "cache")
    assert len(list((place / "cache").rglob("*.arrow"))) == 1
