"""Windows of a log against the data of the version that answers."""

import io

import msgspec
import numpy as np
import orjson
import polars as pl
import pytest
from PIL import Image

from rung.catalog import models
from rung.data import datasets
from rung.data.drift import examine
from rung.data.profile import make
from rung.domain.errors import NotFound
from rung.domain.models import Lineage
from rung.settings.project import DataSection, DriftSection, ModelSettings
from rung.store.blobs import DiskStore
from rung.testing import models_tasks

from .conftest import NOON, feedback, prediction

SETTINGS = ModelSettings(
    data=DataSection(source="csv:x.csv", label="y", validation=0.0, test=0.0), drift=DriftSection(window=300)
)


class Place:
    """A project with a model and the rows that it learned from."""

    def __init__(self, project, folder):
        self.project, self.folder = project, folder
        self.repository = DiskStore(folder / "repository")
        self.sent = []

    def train(self, rows, *, keep=True, profile=True):
        lineage = Lineage()
        if keep:
            version = datasets.keep(self.project.store, "m", rows, source="csv:x.csv")
            lineage = Lineage(data={"m": version.digest})
        path = models_tasks._save(
            self.folder / "line.onnx",
            "line (float[N, 1] x) => (float[N, 1] y) { y = MatMul(x, weight) }",
            {"weight": np.array([[2.0]], np.float32)},
        )
        beside = self.folder / "profile.json"
        beside.write_bytes(msgspec.json.encode(make(rows, label="y")))
        extra = {"beside": {"profile.json": beside}, "profile": "profile.json"} if profile else {}
        models.register(self.repository, path, name="m", lineage=lineage, **extra)

    def ask(self, rows, media="application/json", **fields):
        for row in rows:
            number = len(self.sent)
            body = row if isinstance(row, bytes) else orjson.dumps([row])
            extra = {"unit": f"u{number}", "body": body, "media": media, **fields}
            self.sent.append(prediction(number, NOON + number, **extra))

    def look(self, settings=SETTINGS, **known):
        self.project.write(*self.sent)
        now = NOON + len(self.sent) + 1
        return examine(self.project.store, self.project.log, self.repository, "m", settings, now=now, **known)


@pytest.fixture
def place(project, tmp_path):
    return Place(project, tmp_path)


def table(rows, rng, shift=0.0, city=(0.6, 0.3, 0.1)):
    return pl.DataFrame(
        {
            "a": rng.normal(shift, 1, rows),
            "b": rng.gamma(2.0, 3.0, rows),
            "city": rng.choice(["Ulm", "Bonn", "Jena"], rows, p=city),
            "y": rng.choice(["no", "yes"], rows),
        }
    )


def asked(frame):
    return frame.drop("y").to_dicts()


def test_the_same_is_quiet_and_a_shift_is_confirmed_and_named(place):
    rng = np.random.default_rng(1)
    place.train(table(5_000, rng))
    place.ask(asked(table(900, rng)))
    found = place.look(quality_fell=False, coverage_moved=False)
    quiet = found.report
    assert (quiet.outlook, quiet.confirmed, quiet.persistent) == ("quiet", False, ())
    assert [window.rows for window in quiet.inputs] == [300, 300, 300]
    assert quiet.triage.kind == "none"
    assert {one.column for one in quiet.inputs[-1].columns} == {"a", "b", "city", "all columns together"}
    assert found.windows[-1].height == 300

    place.ask(asked(table(600, rng, shift=0.6)))
    moved = place.look(quality_fell=False).report
    assert moved.confirmed
    assert moved.persistent[0] == moved.worst == "a"
    assert "b" not in moved.persistent
    assert "city" not in moved.persistent
    assert moved.triage.kind == "covariate drift"
    assert "a" in moved.triage.why
    assert moved.run_length == pytest.approx(225.1, abs=0.1)
    assert msgspec.json.decode(msgspec.json.encode(moved), type=type(moved)) == moved


def test_one_odd_window_is_not_confirmed(place):
    rng = np.random.default_rng(2)
    place.train(table(5_000, rng))
    place.ask(asked(table(600, rng)) + asked(table(300, rng, shift=1.0)))
    report = place.look().report
    assert [any(one.verdict == "drifted" for one in window.columns) for window in report.inputs] == [False, False, True]
    assert not report.confirmed
    assert report.worst == "a"
    assert report.triage.kind == "cannot tell"


def test_categories_that_move(place):
    rng = np.random.default_rng(3)
    place.train(table(5_000, rng))
    place.ask(asked(table(900, rng, city=(0.3, 0.3, 0.4))))
    report = place.look().report
    assert report.persistent == ("city",)
    (city,) = [one for one in report.inputs[-1].columns if one.column == "city"]
    assert city.measure == "total variation"
    assert city.low > city.margin


def test_few_rows_are_said_to_be_too_few(place):
    rng = np.random.default_rng(4)
    place.train(table(5_000, rng))
    place.ask(asked(table(40, rng, shift=0.5)))
    report = place.look(quality_fell=True).report
    assert report.outlook == "underpowered"
    assert report.triage.kind == "cannot tell"
    assert {one.verdict for one in report.inputs[0].columns} == {"underpowered"}


def test_without_the_rows_the_profile_stands_in(place):
    rng = np.random.default_rng(5)
    place.train(table(5_000, rng), keep=False)
    place.ask(asked(table(900, rng)))
    quiet = place.look().report
    assert quiet.outlook == "quiet"
    assert "profile" in quiet.reference
    assert any("training data is not here" in note for note in quiet.notes)
    place.ask(asked(table(600, rng, shift=0.6)))
    assert place.look().report.persistent == ("a",)


def test_nothing_to_compare_with_says_what_to_do(place):
    place.train(table(50, np.random.default_rng(6)), keep=False, profile=False)
    with pytest.raises(NotFound, match="--against"):
        place.look()


def test_a_changed_unit_and_a_missing_column_are_bugs_of_the_data(place):
    rng = np.random.default_rng(7)
    place.train(table(5_000, rng))
    rows = table(900, rng).with_columns(pl.col("b") * 1000)
    place.ask(asked(rows.drop("city")))
    report = place.look().report
    assert report.triage.kind == "data bug"
    assert "unit" in report.triage.why
    assert "'city' is gone" in report.triage.why


def test_missing_values_are_drift_of_their_own(place):
    rng = np.random.default_rng(8)
    place.train(table(5_000, rng))
    rows = table(900, rng).with_columns(a=pl.when(pl.Series(rng.random(900) < 0.4)).then(None).otherwise(pl.col("a")))
    place.ask(asked(rows))
    report = place.look().report
    assert report.persistent == ("a",)
    assert [one.kind for one in report.inputs[-1].columns if one.verdict == "drifted"] == ["nulls"]
    assert report.triage.kind == "data bug"


def test_rows_of_few_units_are_worth_less(place):
    """Each of 12 users has a level of their own: 600 rows say no more about the world than 12."""
    rng = np.random.default_rng(9)
    place.train(table(5_000, rng))
    users = [rng.normal() for _ in range(12)]
    for number in range(900):
        level = users[number % 12]
        row = {"a": level + rng.normal(0, 0.05), "b": rng.gamma(2.0, 3.0), "city": "Ulm"}
        place.sent.append(
            prediction(
                number, NOON + number, unit=f"u{number % 12}", body=orjson.dumps([row]), media="application/json"
            )
        )
    report = place.look().report
    (a,) = [one for one in report.inputs[-1].columns if one.column == "a"]
    assert a.rows < 20
    assert a.verdict == "underpowered"
    assert "a" not in report.persistent


def picture(rng, level, tint):
    pixels = rng.normal(level, 20, (24, 24, 1)) * np.array(tint)
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_pictures_move_by_their_statistics(place):
    rng = np.random.default_rng(10)
    settings = msgspec.structs.replace(
        SETTINGS,
        data=DataSection(source="x", features=("photo",), label="y", validation=0.0, test=0.0),
        drift=DriftSection(window=60),
    )
    grey, pink = (1.0, 1.0, 1.0), (1.0, 0.6, 0.9)
    seen = [picture(rng, rng.normal(60, 15), grey) for _ in range(300)]
    place.train(pl.DataFrame({"photo": seen, "y": ["no", "yes"] * 150}), profile=False)
    place.ask([picture(rng, rng.normal(60, 15), grey) for _ in range(180)], media="image/png")
    assert not place.look(settings).report.confirmed
    place.ask([picture(rng, rng.normal(190, 15), pink) for _ in range(120)], media="image/png")
    report = place.look(settings).report
    assert report.confirmed
    assert {"photo brightness", "photo saturation"} <= set(report.persistent)
    assert report.triage.kind == "covariate drift"


def test_answers_and_labels_are_watched_too(place):
    rng = np.random.default_rng(11)
    place.train(table(5_000, rng))
    rows = asked(table(1_800, rng))
    for number, row in enumerate(rows):
        said = rng.normal(0 if number < 1_200 else 2)
        one = prediction(
            number,
            NOON + number,
            unit=f"u{number}",
            body=orjson.dumps([row]),
            media="application/json",
            output_summary={"y": (said, said, said)},
        )
        place.sent.append(one)
    labels = [feedback(one, "yes" if rng.random() < 0.9 else "no") for one in place.sent[-900:]]
    place.project.write(*place.sent, *labels)
    now = NOON + 4_000
    report = examine(place.project.store, place.project.log, place.repository, "m", SETTINGS, now=now).report
    assert report.persistent_answers == ("y",)
    assert not report.confirmed
    assert report.labels is not None
    assert report.labels.verdict == "drifted"
    assert report.triage.kind == "label problem"


def test_requests_that_cannot_be_read_are_counted(place):
    rng = np.random.default_rng(12)
    place.train(table(5_000, rng))
    place.ask(asked(table(300, rng)))
    place.ask([b"\x00\x01"] * 30, media="application/octet-stream")
    place.ask(asked(table(40, rng)), error="InvalidInput", blame="client")
    report = place.look().report
    assert any("30 of 330 requests are left out" in note for note in report.notes)
    assert any("refused" in note for note in report.notes)


def test_no_request_is_no_window(place):
    place.train(table(500, np.random.default_rng(13)))
    report = place.look().report
    assert (report.outlook, report.inputs, report.confirmed) == (None, (), False)
    assert report.triage.kind == "cannot tell"


def test_strange_values_are_missing_and_harm_nothing(place):
    rng = np.random.default_rng(14)
    place.train(table(2_000, rng))
    rows = asked(table(300, rng))
    strange = [2**64 - 1, [1, 2], {"x": 1}, "seven", True, None, 1e308, -(2**63)]
    place.ask(
        [
            {**row, "a": strange[number % 8], "who": [number]} if number % 3 == 0 else row
            for number, row in enumerate(rows)
        ]
    )
    report = place.look().report
    assert report.inputs[0].rows == 300
    assert {one.column for one in report.inputs[0].columns} >= {"a", "b", "city"}


def test_a_window_may_be_so_many_seconds(place):
    rng = np.random.default_rng(15)
    place.train(table(2_000, rng))
    place.ask(asked(table(500, rng)))
    settings = msgspec.structs.replace(SETTINGS, drift=DriftSection(seconds=100.0))
    assert [window.rows for window in place.look(settings).report.inputs] == [100, 100, 100]


def test_rows_as_lists_have_the_names_of_the_columns(place):
    rng = np.random.default_rng(16)
    place.train(table(2_000, rng))
    place.ask([[row["a"], row["b"], row["city"]] for row in asked(table(300, rng))])
    report = place.look().report
    assert {one.column for one in report.inputs[0].columns} >= {"a", "b", "city"}
    assert report.inputs[0].columns[0].verdict != "drifted"


def test_texts_move_by_their_words(place):
    rng = np.random.default_rng(17)
    settings = msgspec.structs.replace(
        SETTINGS,
        data=DataSection(source="x", features=("message",), label="y", validation=0.0, test=0.0),
        drift=DriftSection(window=200),
    )

    def texts(count, words):
        return [" ".join(rng.choice(words, rng.integers(5, 30))) for _ in range(count)]

    english, other = ["free", "call", "home", "later", "win", "now", "dear"], ["gratis", "jetzt", "heim", "HALLO"]
    place.train(pl.DataFrame({"message": texts(2_000, english), "y": ["no", "yes"] * 1_000}), profile=False)
    place.ask([text.encode() for text in texts(400, english)], media="text/plain")
    assert not place.look(settings).report.confirmed
    place.ask([{"text": text} for text in texts(400, other)])
    report = place.look(settings).report
    assert "message unknown" in report.persistent
    assert "message upper" in report.persistent
    assert report.triage.kind == "covariate drift"
