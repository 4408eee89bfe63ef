"""A run that is cut off at every place where it brings something to the disk, and goes on: the result is the same."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rung.catalog import models, releases
from rung.domain.errors import Cancelled, ConfigurationError, Conflict, InvalidData, NotFound
from rung.domain.models import Step, Transforms
from rung.offline.scoring.order import Order, Scored
from rung.offline.scoring.run import score
from rung.ports import BlobStore
from rung.serving import loader
from rung.store.blobs import open_store
from rung.testing import models_tasks
from rung.testing.models import segmentation

COLUMNS = [{"name": "a", "min": -50, "max": 50}, {"name": "b", "type": "integer", "default": 0}]
SEGMENTATION = Transforms(
    (
        Step("image.decode"),
        Step("image.resize", {"height": 16, "width": 16}),
        Step("image.normalize"),
        Step("image.layout"),
    ),
    (Step("segmentation.mask", {"activation": "none"}),),
)


class Killed(BaseException):
    """What no handler of an error catches."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_BUDGET", 0.0)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    """A repository with `line`: 2 a + b."""
    found = open_store(str(tmp_path / "repository"))
    register_line(found, tmp_path, 2.0)
    return found


def register_line(store: BlobStore, tmp_path: Path, factor: float) -> int:
    path = models_tasks._save(
        tmp_path / f"line{factor}.onnx",
        "line (float[N, 2] x) => (float[N, 1] y) { y = MatMul(x, weight) }",
        {"weight": np.array([[factor], [1]], np.float32)},
    )
    steps = Transforms((Step("tabular.columns", {"columns": COLUMNS, "extra": "ignore"}),), (Step("regression.value"),))
    return models.register(store, path, name="line", task="regression", transforms=steps).version


def write_rows(folder: Path, count: int = 40) -> None:
    """`id`, `a`, `b`, `place`; k4 has no number, k6 one that is too large, k8 too few fields."""
    lines = [f"k{number},{number / 2},{number % 3},p{number % 4}" for number in range(count)]
    lines[4], lines[6], lines[8] = "k4,four,1,p0", "k6,51,1,p2", "k8,1"
    (folder / "rows.csv").write_text("id,a,b,place\n" + "\n".join(lines) + "\n")


def truth(count: int = 40) -> dict[str, float]:
    return {f"k{number}": number + number % 3 for number in range(count) if number not in (4, 6, 8)}


def order(**changes: object) -> Order:
    return Order(**{"model": "line", "source": "rows.csv", "out": "out.csv", "key": ("id",), "chunk": 5, **changes})


def answers(folder: Path, out: str) -> list[tuple[str, float]]:
    """Key and answer of every row of a result, as they stand."""
    path = folder / out.partition("?")[0].removeprefix("sqlite:")
    if out.startswith("sqlite:"):
        with closing(sqlite3.connect(path)) as database:
            return database.execute("SELECT id, prediction FROM results ORDER BY row").fetchall()
    if path.suffix == ".csv":
        rows = pl.read_csv(path)
    elif path.suffix == ".jsonl":
        rows = pl.read_ndjson(path)
    else:
        rows = pl.read_parquet(path / "part-*.parquet" if path.is_dir() else path)
    return list(rows.select("id", pl.col("prediction").cast(pl.Float64)).iter_rows())


OUTS = ["out.csv", "out.jsonl", "out.parquet", "parts", "sqlite:out.db?table=results"]


@pytest.mark.parametrize("out", OUTS)
def test_every_row_is_answered_once_or_refused_with_its_reason(store: BlobStore, tmp_path: Path, out: str) -> None:
    write_rows(tmp_path)

    scored = score(order(out=out), tmp_path, store)

    assert answers(tmp_path, out) == list(truth().items())
    assert (scored.read, scored.rows, scored.refused, scored.left_out) == (40, 37, 3, 0)
    manifest, refused = belongings(tmp_path, out)
    assert manifest.rows == 37
    assert manifest.version == 1
    assert {one["row"]: one["reason"] for one in refused} == {
        6: "column a: 'four' is no number",
        8: "column 'a': 51 is over the maximum 50",
        10: "2 fields where the header has 4",
    }


def belongings(folder: Path, out: str) -> tuple[Scored, list[dict[str, object]]]:
    import msgspec

    if out.startswith("sqlite:"):
        place = next((folder / ".rung" / "scoring").iterdir())
        manifest, refused = place / "manifest.json", place / "refused.jsonl"
    elif out == "parts":
        manifest, refused = folder / out / "manifest.json", folder / out / "refused.jsonl"
    else:
        manifest, refused = folder / f"{out}.manifest.json", folder / f"{out}.refused.jsonl"
    lines = [msgspec.json.decode(line) for line in refused.read_bytes().splitlines()]
    return msgspec.json.decode(manifest.read_bytes(), type=Scored), lines


@pytest.mark.parametrize("out", OUTS)
def test_cut_off_at_any_write_it_goes_on_without_gap_or_double(
    store: BlobStore, tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path)
    real, count = os.fsync, 0
    places = 0
    # One of three places, but each of them for one of the kinds: the rest is the same for all.
    for place in range(1 + OUTS.index(out) % 3, 200, 3):
        folder = tmp_path / f"try{place}"
        folder.mkdir()
        write_rows(folder)
        count = 0

        def counted(descriptor: int, place: int = place) -> None:
            nonlocal count
            count += 1
            if count == place:
                raise Killed
            real(descriptor)

        monkeypatch.setattr(os, "fsync", counted)
        try:
            score(order(out=out), folder, store)
        except Killed:
            places += 1
        else:
            break
        finally:
            monkeypatch.setattr(os, "fsync", real)
        scored = score(order(out=out, resume=True), folder, store)
        assert answers(folder, out) == list(truth().items()), f"cut off at write {place}"
        assert (scored.read, scored.rows, scored.refused) == (40, 37, 3)
        assert len(belongings(folder, out)[1]) == 3
        assert not list(folder.glob(".*.scoring")) or out.startswith("sqlite:")
    assert places > 5


def test_pictures_become_files_and_a_run_that_was_cut_off_writes_the_rest(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    models.register(store, segmentation(tmp_path / "seg.onnx", 16, 4), name="seg", transforms=SEGMENTATION)
    rng = np.random.default_rng(0)
    for number in range(12):
        path = tmp_path / "cells" / f"plate{number % 2}" / f"{number}.{'png' if number % 3 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(path)
    wanted = order(model="seg", source="files:cells", out="masks", key=())
    real, count = os.fsync, 0

    def counted(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count == 20:
            raise Killed
        real(descriptor)

    monkeypatch.setattr(os, "fsync", counted)
    with pytest.raises(Killed):
        score(wanted, tmp_path, store)
    monkeypatch.setattr(os, "fsync", real)
    with pytest.raises(Conflict, match="--resume"):
        score(wanted, tmp_path, store)
    scored = score(order(model="seg", source="files:cells", out="masks", key=(), resume=True), tmp_path, store)

    files = {str(one.relative_to(tmp_path / "masks")) for one in (tmp_path / "masks").rglob("*.png")}
    assert files == {f"plate{number % 2}/{number}.{'png' if number % 3 else 'jpg.png'}" for number in range(12)}
    assert 0 < scored.resumed < scored.rows == 12
    with Image.open(tmp_path / "masks" / "plate1" / "1.png") as mask:
        assert mask.size == (30, 20)
    assert sorted(one.name for one in (tmp_path / "masks").iterdir()) == ["manifest.json", "plate0", "plate1"]


def test_a_run_that_was_cut_off_is_not_mixed_with_another(store: BlobStore, tmp_path: Path) -> None:
    write_rows(tmp_path)
    looks = iter([False, True])

    with pytest.raises(Cancelled):
        score(order(), tmp_path, store, should_stop=lambda: next(looks))

    assert not (tmp_path / "out.csv").exists()
    with pytest.raises(Conflict, match="what is asked for changed"):
        score(order(resume=True, where="place = 'p1'"), tmp_path, store)
    register_line(store, tmp_path, 3.0)
    os.utime(tmp_path / "rows.csv", (1, 1))
    with pytest.raises(Conflict, match="the source's files changed"):
        score(order(resume=True), tmp_path, store)


def test_going_on_stays_with_the_version_and_the_day_that_it_began_with(store: BlobStore, tmp_path: Path) -> None:
    write_rows(tmp_path)
    looks = iter([False, True])
    with pytest.raises(Cancelled):
        score(order(as_of="2026-01-31"), tmp_path, store, should_stop=lambda: next(looks))
    register_line(store, tmp_path, 3.0)

    scored = score(order(resume=True), tmp_path, store)

    assert (scored.version, scored.as_of) == (1, "2026-01-31")
    assert answers(tmp_path, "out.csv") == list(truth().items())


def test_the_release_says_which_version(store: BlobStore, tmp_path: Path) -> None:
    write_rows(tmp_path)
    register_line(store, tmp_path, 3.0)

    assert score(order(), tmp_path, store).version == 2
    releases.release(store, "line", 1)
    assert score(order(), tmp_path, store).version == 1
    assert score(order(version=2), tmp_path, store).version == 2
    with pytest.raises(NotFound):
        score(order(version=7), tmp_path, store)


def test_a_condition_leaves_rows_out_and_columns_can_be_kept(store: BlobStore, tmp_path: Path) -> None:
    write_rows(tmp_path)

    scored = score(order(where="place = 'p1' AND a < 9", keep=("place", "a")), tmp_path, store)

    rows = pl.read_csv(tmp_path / "out.csv")
    assert rows.columns == ["row", "id", "place", "a", "prediction"]
    assert rows["id"].to_list() == ["k1", "k5", "k9", "k13", "k17"]
    assert scored.rows + scored.refused + scored.left_out == scored.read == 40
    with pytest.raises(ConfigurationError, match="cannot be asked"):
        score(order(where="nowhere > 3"), tmp_path, store)
    with pytest.raises(ConfigurationError, match="yes or no"):
        score(order(where="a + 1"), tmp_path, store)


def test_a_column_of_the_source_keeps_its_name(store: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prediction,a\nold,1\n")

    score(order(key=()), tmp_path, store)

    assert pl.read_csv(tmp_path / "out.csv").to_dicts() == [
        {"row": 1, "prediction": "old", "a": 1.0, "predicted_prediction": 2.0}
    ]


def test_a_source_that_cannot_be_scored_leaves_nothing(store: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,b\nx,1\n")
    with pytest.raises(InvalidData, match="takes the column 'a'"):
        score(order(), tmp_path, store)
    (tmp_path / "rows.csv").write_text("id,a\n")
    with pytest.raises(InvalidData, match="there is no row"):
        score(order(), tmp_path, store)
    (tmp_path / "rows.csv").write_text("id,a\n" + "x,1000\n" * 1200)
    with pytest.raises(InvalidData, match="all refused"):
        score(order(resume=True, chunk=0), tmp_path, store)
    assert not (tmp_path / "out.csv").exists()


def test_a_source_without_order_begins_anew(store: BlobStore, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "shop.db")) as database:
        database.execute("CREATE TABLE goods (id TEXT, a REAL, b INTEGER)")
        database.executemany("INSERT INTO goods VALUES (?, ?, ?)", [(f"k{n}", n / 2, n % 3) for n in range(40)])
        database.commit()
    wanted = {"source": "sqlite:shop.db?table=goods"}
    looks = iter([False, True])
    with pytest.raises(Cancelled):
        score(order(**wanted), tmp_path, store, should_stop=lambda: next(looks))

    scored = score(order(**wanted, resume=True), tmp_path, store)

    assert (scored.resumed, scored.rows) == (0, 40)
    assert len(dict(answers(tmp_path, "out.csv"))) == 40


def test_a_source_with_a_cursor_goes_on_behind_it(store: BlobStore, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "shop.db")) as database:
        database.execute("CREATE TABLE goods (id INTEGER PRIMARY KEY, a REAL, b INTEGER)")
        database.executemany("INSERT INTO goods VALUES (?, ?, ?)", [(n + 1, n / 2, n % 3) for n in range(40)])
        database.commit()
    wanted = {"source": "sqlite:shop.db?table=goods&cursor=id"}
    looks = iter([False, False, True])
    with pytest.raises(Cancelled):
        score(order(**wanted), tmp_path, store, should_stop=lambda: next(looks))

    scored = score(order(**wanted, resume=True), tmp_path, store)

    assert scored.resumed > 0
    assert answers(tmp_path, "out.csv") == [(n + 1, n + n % 3) for n in range(40)]
