import numpy as np
import orjson
import pytest

from rung.catalog import models
from rung.domain.errors import MissingDependency
from rung.domain.identity import Keyring
from rung.domain.models import Step, Transforms
from rung.domain.packing import pack
from rung.domain.records import PredictionRecord
from rung.store.blobs import DiskStore
from rung.store.segment_writer import SegmentWriter
from rung.testing import models_tasks
from rung.training.skew import replay

NOON = 1_700_049_600.0


class Place:
    def __init__(self, folder, **declared):
        self.repository, self.store = DiskStore(folder / "repository"), DiskStore(folder / "data")
        self.log, self.folder, self.records = folder / "log", folder, []
        path = models_tasks._save(
            folder / "line.onnx",
            "line (float[N, 2] x) => (float[N, 1] y) { y = MatMul(x, weight) }",
            {"weight": np.array([[2.0], [1.0]], np.float32)},
        )
        models.register(self.repository, path, name="m", **declared)

    def answered(self, x, y, *, version=1, tensors=True, body=None, media="application/json", door="predict", **fields):
        number = len(self.records)
        said = np.array(y, np.float32).reshape(-1, 1)
        record = PredictionRecord(
            Keyring(bytes(32), number).mint("m", version, "", 1)(NOON + number),
            NOON + number,
            "m",
            version,
            rows=len(said),
            body=orjson.dumps(x) if body is None else body,
            media=media,
            door=door,
            output_summary={"y": (float(said.mean()), float(said.min()), float(said.max()))},
            outputs=pack({"y": said}) if tensors else None,
            **fields,
        )
        self.records.append(record)

    def replay(self, **options):
        writer = SegmentWriter(self.log, replica="r0")
        writer.open()
        for record in self.records:
            assert writer.append(record)
        writer.commit([]).result(30)
        writer.close()
        return replay(self.store, self.log, self.repository, "m", now=NOON + 1_000, **options)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.mark.parametrize("tensors", [True, False])
def test_what_answers_as_it_did_has_no_skew(place, tensors):
    for number in range(20):
        place.answered([[number, 1.0]], [2 * number + 1], tensors=tensors)
    found = place.replay()
    assert (found.requests, found.compared, found.mismatched, found.worst) == (20, 20, 0, None)
    assert found.exact == 20 * tensors
    assert found.share.low == 0
    assert found.share.high == pytest.approx(0.168, abs=0.001)


def test_a_value_that_differs_is_counted_and_named(place):
    for number in range(10):
        place.answered([[number, 1.0], [0.0, 0.0]], [2 * number + 1, 0.5 if number < 3 else 0.0])
    found = place.replay()
    assert found.mismatched == 3
    assert found.outputs == {"y": 3}
    assert (found.worst.name, found.worst.logged, found.worst.replayed) == ("y[1, 0]", 0.5, 0.0)
    assert found.worst.version == 1
    assert found.share.low > 0.05


def test_a_summary_that_differs_names_its_figure(place):
    place.answered([[1.0, 1.0], [5.0, 0.0]], [3, 20], tensors=False)
    found = place.replay()
    assert found.mismatched == 1
    assert found.worst.name == "y greatest"


def test_a_difference_within_the_tolerance_is_none(place):
    place.answered([[1.0, 1.0]], [3.0001])
    assert place.replay().mismatched == 0
    assert place.replay(rtol=0.0, atol=1e-6).mismatched == 1


def test_the_newest_requests_are_looked_at(place):
    for number in range(12):
        place.answered([[1.0, 1.0]], [3 if number >= 2 else 99])
    found = place.replay(count=10)
    assert (found.requests, found.mismatched) == (10, 0)


def test_what_cannot_be_compared_is_counted_with_its_reason(place):
    place.answered([[1.0, 1.0]], [3])
    place.answered([[1.0, 1.0]], [3], version=7)
    place.answered(None, [3], body=b"")
    found = place.replay()
    assert (found.requests, found.compared) == (3, 1)
    assert any("version 7" in reason for reason in found.skipped)
    assert any('inputs = "body"' in reason for reason in found.skipped)


def test_what_was_answered_and_is_refused_now_differs(place):
    place.answered([[1.0]], [3])
    found = place.replay()
    assert found.mismatched == 1
    assert found.worst.name.startswith("refused")


def test_tensors_are_replayed_as_they_are(place):
    place.answered(None, [3], body=b"", inputs=pack({"x": np.array([[1.0, 1.0]], np.float32)}))
    assert place.replay().mismatched == 0


def sent(x):
    return pack({"x": np.array(x, np.float32)})


def test_a_feature_that_is_prepared_otherwise_is_named_before_what_it_does_to_the_answer(place):
    for number in range(10):
        was = [[number, 1.0], [0.0, 1.0]]
        place.answered(was, [2 * number + 1, 1.0], inputs=sent(was))
    place.answered([[1.0, 1.0], [2.0, 1.0]], [3, 4.5], inputs=sent([[1.0, 1.0], [2.0, 0.5]]))
    found = place.replay()
    assert (found.prepared, found.compared, found.mismatched) == (11, 11, 1)
    assert found.features == {"x": 1}
    assert found.outputs == {"y": 1}
    worst = found.worst
    assert (worst.kind, worst.name, worst.logged, worst.replayed) == ("feature", "x[1, 1]", 0.5, 1.0)


def test_a_feature_of_a_table_goes_by_its_column(tmp_path):
    steps = Transforms((Step("tabular.columns", {"columns": [{"name": "age"}, {"name": "body size"}]}),))
    place = Place(tmp_path, transforms=steps)
    place.answered([{"age": 3, "body size": 1}], [7], inputs=sent([[3.0, 1.0]]))
    place.answered([{"age": 3, "body size": 1}], [7], inputs=sent([[3.0, 100.0]]))
    place.answered([{"age": 3, "body size": 1}], [7], inputs=sent([[3.0]]))
    found = place.replay()
    assert found.features == {"body size": 1, "x": 1}
    assert found.mismatched == 2
    assert found.worst.name == "x (another shape)"


def test_without_both_features_are_not_compared(place):
    place.answered([[1.0, 1.0]], [3])
    place.answered(None, [3], body=b"", inputs=sent([[1.0, 1.0]]))
    found = place.replay()
    assert (found.compared, found.prepared, found.features) == (2, 0, {})


def test_what_came_in_by_another_door_is_answered_from_its_tensors_or_left_out(place):
    body = orjson.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 1]}]})
    place.answered(None, [3], body=body, door="", inputs=sent([[1.0, 1.0]]))
    place.answered(None, [3], body=body, door="")
    found = place.replay()
    assert (found.compared, found.mismatched, found.prepared) == (1, 0, 0)
    assert [count for reason, count in found.skipped.items() if "another door" in reason] == [1]


def test_the_parameters_of_the_content_type_count(tmp_path):
    place = Place(tmp_path)
    x = np.array([[1, 1], [2, 0]], np.float32)
    place.answered(None, [3, 4], body=x.tobytes(), media="application/octet-stream; shape=2x2", inputs=sent(x))
    assert (place.replay().prepared, place.replay().mismatched) == (1, 0)


def test_a_version_that_cannot_be_asked_leaves_the_others(place, monkeypatch):
    place.answered([[1.0, 1.0]], [3])

    def load(*_):
        raise MissingDependency("torch")

    monkeypatch.setattr("rung.training.skew.resolve", load)
    found = place.replay()
    assert (found.requests, found.compared) == (1, 0)
    assert found.skipped == {"version 1 cannot be asked: torch": 1}


def test_what_cannot_be_put_in_numbers_is_said_without(place):
    place.answered([[1.0]], [3])
    assert str(place.replay().worst).endswith("(version 1)")
    assert "nan" not in str(place.replay().worst)


def test_an_empty_log_has_no_share(place):
    found = place.replay()
    assert (found.requests, found.share) == (0, None)
