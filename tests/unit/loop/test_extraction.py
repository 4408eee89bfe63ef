"""Data sets of a retraining, from a CSV file and labelled requests."""

import polars as pl
import pytest

from rung.data import datasets
from rung.data.splits import divide
from rung.domain.errors import ConfigurationError, InvalidData
from rung.loop.extraction import SPLIT, extract
from rung.settings.project import DataSection, ModelSettings, RetrainSection
from rung.store.blobs import DiskStore

DATA = DataSection(source="csv:rows.csv", label="y", key=("id",))


@pytest.fixture
def folder(tmp_path):
    pl.DataFrame({"id": [f"r{n}" for n in range(60)], "x": range(60), "y": [0, 1] * 30}).write_csv(
        tmp_path / "rows.csv"
    )
    return tmp_path


def labelled(count):
    return pl.DataFrame(
        {
            "x": [1000 + n for n in range(count)],
            "label": [n % 2 for n in range(count)],
            "prediction_id": [f"p{n}" for n in range(count)],
            "predicted_at": [5000.0 + n for n in range(count)],
        }
    )


def run(folder, count=50, **retrain):
    store = DiskStore(folder / "data")
    model = ModelSettings(data=DATA, retrain=RetrainSection(**{"least": 10, **retrain}))
    return store, extract(store, folder, "m", model, labelled(count))


def parts(store, window):
    version = datasets.load(store, "m", window.dataset)
    return divide(datasets.frame(store, version), datasets.divided(DATA, version))


def test_the_latest_requests_are_held_out_and_nobody_moves(folder):
    store, found = run(folder)
    (window,) = found.windows
    split = parts(store, window)
    new = {name: part.filter(pl.col("x") >= 1000)["x"].to_list() for name, part in split.items()}
    assert new["test"] == list(range(1035, 1050))
    assert new["validation"] == list(range(1028, 1035))
    assert new["train"] == list(range(1000, 1028))
    # The earlier rows are where they were without the requests.
    version = next(one for one in datasets.versions(store, "m") if one.source == "csv:rows.csv")
    before = divide(datasets.frame(store, version), DATA)
    for name, part in before.items():
        assert set(part["id"]) == {one for one in split[name]["id"] if one.startswith("r")}
    assert (window.earlier, found.labelled, found.held_out, found.until) == (60, 50, 15, 5049.0)
    assert set(split["train"].columns) == {"id", "x", "y", SPLIT}


def test_what_the_serving_version_may_know_is_told_from_what_it_cannot(folder):
    (folder / "odd.py").write_text(
        "def row(request):\n"
        "    if request['x'] % 2: return {'id': request['prediction_id'], 'x': request['x'], 'y': request['label']}\n"
    )
    store = DiskStore(folder / "data")
    model = ModelSettings(data=DATA, retrain=RetrainSection(least=10, rows="odd:row", windows=("requests:5",)))
    found = extract(store, folder, "m", model, labelled(50), since=5039.0)
    # Of the odd ones asked after 5039: 1041, 1043, ... 1049, which no window leaves out.
    assert (found.labelled, found.fresh, found.until) == (25, 5, 5049.0)
    version = datasets.load(store, "m", found.windows[0].dataset)
    assert datasets.frame(store, version)["x"].to_list()[-5:] == [1041, 1043, 1045, 1047, 1049]


def test_the_same_requests_are_the_same_data(folder):
    _, first = run(folder)
    store, second = run(folder)
    assert first == second
    assert len(datasets.versions(store, "m")) == 2


def test_windows_differ_in_what_is_learned_from_only(folder):
    store, found = run(folder, windows=("all", "requests:10", "rows:30", "rows:5"))
    every, late, rows, few = (parts(store, window) for window in found.windows)
    for one in (late, rows, few):
        assert one["test"].equals(every["test"])
        assert one["validation"].equals(every["validation"])
    assert late["train"].filter(pl.col("x") >= 1000)["x"].to_list() == list(range(1018, 1028))
    assert late["train"].filter(pl.col("x") < 1000).equals(every["train"].filter(pl.col("x") < 1000))
    # All 28 requests, and the two rows before them.
    assert rows["train"]["x"].to_list() == every["train"]["x"].to_list()[-30:]
    assert few["train"]["x"].to_list() == list(range(1023, 1028))


def test_rows_of_a_function_of_the_project(folder, monkeypatch):
    (folder / "makes.py").write_text(
        "def row(request):\n"
        "    if request['x'] % 2: return {'id': request['prediction_id'], 'x': -request['x'], 'y': request['label']}\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    store, found = run(folder, rows="makes:row")
    assert found.labelled == 25
    assert parts(store, found.windows[0])["test"]["x"].min() < 0


@pytest.mark.parametrize(
    ("retrain", "count", "error", "says"),
    [
        ({"least": 60}, 50, InvalidData, "50 labelled requests are there, and 60 are needed"),
        ({"least": 1}, 1, InvalidData, "none is left to learn from"),
        ({"windows": ("latest:9",)}, 50, ConfigurationError, "'latest:9' is none; use all, requests:COUNT"),
        ({"rows": "nothing:row"}, 50, ConfigurationError, "there is no nothing.py here"),
    ],
)
def test_what_cannot_be_is_told(folder, retrain, count, error, says):
    with pytest.raises(error, match=says):
        run(folder, count, **retrain)


def test_a_field_of_another_type_is_named(folder):
    store = DiskStore(folder / "data")
    model = ModelSettings(data=DATA, retrain=RetrainSection(least=10))
    words = labelled(50).with_columns(x=pl.lit("many"))
    with pytest.raises(InvalidData, match="'x' of the labelled requests is String, and of the data Int64"):
        extract(store, folder, "m", model, words)
