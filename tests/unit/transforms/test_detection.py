"""The head of a detector: one box per thing, on the picture as it came."""

import io

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from rung.domain.errors import BundleError, ConfigurationError, ModelError, NotAcceptable
from rung.domain.models import Step, Transforms
from rung.domain.predictions import Payload
from rung.testing.models_tasks import BLOBS_STEPS
from rung.transforms.detection import boxes, suppress
from rung.transforms.pipeline import Pipeline

SPOTS = {"red": (60, 80, 180, 200), "blue": (400, 200, 560, 330)}


def picture(width=640, height=400, spots=SPOTS):
    image = Image.new("RGB", (width, height), (30, 34, 40))
    for colour, (left, top, right, bottom) in spots.items():
        fill = {"red": (250, 60, 50), "blue": (50, 90, 250)}[colour]
        ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), fill=fill)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def look(blobs_model, data, steps=BLOBS_STEPS, media="application/json"):
    model, signature = blobs_model
    pipeline = Pipeline.of(steps, signature)
    prepared = pipeline.prepare(Payload("image", data))
    return pipeline.render(pipeline.finish(model.predict(prepared.inputs), prepared), media)


def test_spots_are_found_where_they_are_in_the_original(blobs_model):
    seen = orjson.loads(look(blobs_model, picture()))["predictions"][0]
    assert seen["size"] == [400, 640]
    assert {item["label"] for item in seen["objects"]} == {"red", "blue"}
    assert len(seen["objects"]) == 2
    for item in seen["objects"]:
        # A pixel of the model's picture is 10 of the original.
        np.testing.assert_allclose(item["box"], SPOTS[item["label"]], atol=10)
        assert 0.9 < item["score"] <= 1


def test_without_keeping_the_aspect_boxes_still_come_back(blobs_model):
    resize = Step("image.resize", {"height": 64, "width": 64})
    steps = Transforms((BLOBS_STEPS.input[0], resize, *BLOBS_STEPS.input[2:]), BLOBS_STEPS.output)
    seen = orjson.loads(look(blobs_model, picture(), steps))["predictions"][0]
    for item in seen["objects"]:
        np.testing.assert_allclose(item["box"], SPOTS[item["label"]], atol=11)


def test_the_overlay_draws_every_box_and_a_plate(blobs_model):
    drawn = Image.open(io.BytesIO(look(blobs_model, picture(), media="image/vnd.rung.overlay+png")))
    plain = np.asarray(Image.open(io.BytesIO(picture())))
    changed = (np.asarray(drawn) != plain).any(axis=2)
    assert drawn.size == (640, 400)
    for left, top, right, _ in SPOTS.values():
        assert changed[top : top + 3, left:right].any(axis=0).mean() > 0.9, "the upper edge"
        assert changed[top - 12 : top - 2, left : left + 20].all(), "the plate above it"
    assert not changed[:60, 300:].any()


@pytest.mark.parametrize("spot", [(0, 0, 640, 400), (0, 0, 20, 20), (620, 0, 640, 400), (0, 390, 640, 400)])
def test_a_plate_stays_within_the_picture(spot):
    row = np.array([[*spot, 0.9]], np.float32)
    result = boxes(row, {"size": (400, 640), "frame": (400, 640), "image": np.zeros((400, 640, 3), np.uint8)})
    drawn = Image.open(io.BytesIO(boxes.renderers["image/vnd.rung.overlay+png"](result)))
    assert drawn.size == (640, 400)
    assert np.asarray(drawn).any()


def test_nothing_found_is_an_answer(blobs_model):
    assert orjson.loads(look(blobs_model, picture(spots={})))["predictions"] == [{"size": [400, 640], "objects": []}]
    assert look(blobs_model, picture(spots={}), media="image/vnd.rung.overlay+png").startswith(b"\x89PNG")


def test_tensors_have_no_picture_to_draw_on(blobs_model):
    model, signature = blobs_model
    pipeline = Pipeline.of(BLOBS_STEPS, signature)
    prepared = pipeline.prepare(Payload("tensors", {"image": np.zeros((1, 3, 64, 64), np.float32)}))
    results = pipeline.finish(model.predict(prepared.inputs), prepared)
    assert orjson.loads(pipeline.render(results, "application/json"))["predictions"][0]["size"] is None
    with pytest.raises(NotAcceptable, match="no picture"):
        pipeline.render(results, "image/vnd.rung.overlay+png")


WHERE = {"size": (100, 200), "frame": (50, 50), "window": (0.25, 0.0, 0.5, 1.0)}
"""A picture twice as wide as high, in a square frame with a border above and below."""


@pytest.mark.parametrize(
    ("layout", "box", "normalized"),
    [
        ("xyxy", (10, 17.5, 20, 25), False),
        ("yxyx", (17.5, 10, 25, 20), False),
        ("cxcywh", (15, 21.25, 10, 7.5), False),
        ("xywh", (10, 17.5, 10, 7.5), False),
        ("xyxy", (0.2, 0.35, 0.4, 0.5), True),
        ("cxcywh", (0.3, 0.425, 0.2, 0.15), True),
    ],
)
def test_every_format_means_the_same_box(layout, box, normalized):
    row = np.array([[*box, 0.9]], np.float32)
    result = boxes(row, dict(WHERE), format=layout, normalized=normalized)
    np.testing.assert_allclose(result.boxes, [[40, 20, 80, 50]], atol=0.02)


def test_boxes_are_cut_at_the_edges_of_the_picture():
    result = boxes(np.array([[-5, -5, 60, 60, 0.9]], np.float32), dict(WHERE))
    np.testing.assert_array_equal(result.boxes, [[0, 0, 200, 100]])


def test_things_of_two_classes_may_lie_on_each_other():
    found = {
        "where": np.array([[0, 0, 10, 10], [1, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60]], np.float32),
        "score": np.array([0.9, 0.8, 0.7, 0.1], np.float32),
        "kind": np.array([0, 0, 1, 1], np.float32),
    }
    names = {"boxes": "where", "scores": "score", "classes": "kind", "labels": ["cup", "hand"]}
    result = boxes(found, {}, **names)
    assert [result.label(kind) for kind in result.classes] == ["cup", "hand"]
    assert len(boxes(found, {}, **names, iou=1).boxes) == 3
    assert len(boxes(found, {}, **names, limit=1).boxes) == 1
    assert len(boxes(found, {}, **names, threshold=0.05).boxes) == 3


def test_scores_may_stand_behind_the_boxes_either_way_round():
    rows = np.array([[5, 5, 10, 10, 0.1, 0.9], [50, 50, 4, 4, 0.8, 0.2]], np.float32)
    upright = boxes(rows, {}, format="cxcywh")
    turned = boxes({"output0": rows.T}, {}, boxes="output0", format="cxcywh", transposed=True)
    np.testing.assert_array_equal(upright.boxes, turned.boxes)
    assert upright.classes.tolist() == turned.classes.tolist() == [1, 0]


@given(st.lists(st.tuples(*[st.integers(0, 12)] * 4, st.integers(0, 2)), max_size=30), st.floats(0, 1))
def test_suppression_keeps_what_the_definition_keeps(drawn, iou):
    corners = np.array([[a, b, a + w, b + h] for a, b, w, h, _ in drawn], np.float32).reshape(-1, 4)
    kinds = np.array([kind for *_, kind in drawn], np.int64)

    def overlap(one, two):
        width, height = (min(one[i + 2], two[i + 2]) - max(one[i], two[i]) for i in (0, 1))
        shared = max(width, 0) * max(height, 0)
        together = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, two)) - shared
        return shared, together

    kept = []
    for index, box in enumerate(corners.tolist()):
        rivals = [overlap(box, corners[other].tolist()) for other in kept if kinds[other] == kinds[index]]
        if all(shared <= iou * together for shared, together in rivals):
            kept.append(index)
    assert suppress(corners, kinds, iou, 100).tolist() == kept


def test_outputs_that_make_no_sense_are_refused():
    with pytest.raises(ModelError, match="say whether they are transposed"):
        boxes(np.zeros((3, 3)), {})
    with pytest.raises(ModelError, match="2 boxes, 3 scores"):
        boxes({"b": np.zeros((2, 4)), "s": np.zeros(3)}, {}, boxes="b", scores="s")
    with pytest.raises(ModelError, match="not finite"):
        boxes(np.array([[0, 0, np.nan, 1, 0.9]]), {})
    assert len(boxes(np.array([[0, 0, 1, 1, np.nan]]), {}).boxes) == 0
    with pytest.raises(ConfigurationError, match="knows the formats"):
        boxes(np.zeros((1, 5)), {}, format="polar")
    with pytest.raises(ConfigurationError, match="`scores`: one of 'b'"):
        boxes({"b": np.zeros((2, 4))}, {}, boxes="b", scores="s")


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"boxes": "b"}, "gives 'boxes', 'scores'"),
        ({"boxes": "boxes", "format": "zz"}, "formats"),
        ({"boxes": "boxes", "iou": 50}, "iou of 0 to 1"),
    ],
)
def test_what_does_not_fit_is_found_when_the_bundle_is_loaded(blobs_model, params, reason):
    with pytest.raises(BundleError, match=reason):
        Pipeline.of(Transforms(output=(Step("detection.boxes", params),)), blobs_model[1])
