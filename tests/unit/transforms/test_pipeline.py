"""A manifest's steps give the same tensors wherever they run, and answers in the form that was asked for."""

import io

import numpy as np
import orjson
import pytest
from PIL import Image

from rung.domain.errors import BundleError, InvalidInput, NotAcceptable, UnsupportedMedia
from rung.domain.models import Manifest, Step, Transforms
from rung.domain.predictions import Payload
from rung.domain.tensors import Signature, TensorSpec
from rung.transforms.images import decode, layout, normalize, resize
from rung.transforms.pipeline import Pipeline

STEPS = Transforms(
    input=(
        Step("image.decode"),
        Step("image.resize", {"height": 32, "width": 32}),
        Step("image.normalize", {"mean": 0.5, "std": 0.25}),
        Step("image.layout"),
    ),
    output=(Step("segmentation.mask", {"threshold": 0.5}),),
)
SEGMENT = Signature((TensorSpec("image", "FP32", (-1, 3, 32, 32)),), (TensorSpec("logits", "FP32", (-1, 1, 32, 32)),))
TINY = Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 2)),))


def manifest(transforms=STEPS, signature=SEGMENT):
    return Manifest("nuclei", 1, "onnx", signature, labels=("nucleus",), transforms=transforms)


def png(value=200, height=40, width=60):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2] = value
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def segment(prepared):
    """A model that finds what is bright."""
    return {"logits": prepared.inputs["image"][:, :1] * 10}


def test_the_same_bytes_give_the_tensor_that_training_computes():
    prepared = Pipeline.build(manifest()).prepare(Payload("image", png()))
    context = {}
    by_hand = resize(decode(png(), context), context, height=32, width=32)
    by_hand = layout(normalize(by_hand, context, mean=0.5, std=0.25), context)
    np.testing.assert_array_equal(prepared.inputs["image"], by_hand[None])
    assert prepared.rows == 1


def test_an_image_becomes_a_mask_in_every_form():
    pipeline = Pipeline.build(manifest())
    assert pipeline.accepts == ("image", "tensors")
    assert pipeline.media == (
        "application/json",
        "image/png",
        "image/vnd.rung.overlay+png",
        "application/octet-stream",
    )
    prepared = pipeline.prepare(Payload("image", png()))
    results = pipeline.finish(segment(prepared), prepared)
    answer = orjson.loads(pipeline.render(results, "application/json"))
    assert answer["predictions"][0]["fraction"] == pytest.approx(0.5, abs=0.02)
    assert answer["predictions"][0]["classes"][0]["label"] == "nucleus"
    assert Image.open(io.BytesIO(pipeline.render(results, "image/png"))).size == (60, 40)
    assert Image.open(io.BytesIO(pipeline.render(results, "image/vnd.rung.overlay+png"))).mode == "RGB"
    assert len(pipeline.render(results, "application/octet-stream")) == 60 * 40
    described = "application/octet-stream; datatype=UINT8; shape=40x60"
    assert pipeline.content_type(results, "application/octet-stream") == described
    assert pipeline.content_type(results, "image/png") == "image/png"


def test_several_images_of_different_sizes_are_answered_in_order_and_in_json_only():
    pipeline = Pipeline.build(manifest())
    prepared = pipeline.prepare(Payload("image", [png(0), png(200, 20, 20)]))
    assert prepared.rows == 2
    assert pipeline.negotiate(("image/png", "*/*"), prepared.rows) == "application/json"
    with pytest.raises(NotAcceptable, match="several items as application/json"):
        pipeline.negotiate(("image/png",), prepared.rows)
    results = pipeline.finish(segment(prepared), prepared)
    answer = orjson.loads(pipeline.render(results, "application/json"))["predictions"]
    assert [item["size"] for item in answer] == [[40, 60], [20, 20]]
    assert answer[0]["fraction"] == 0


def test_the_bad_one_of_several_images_is_named():
    with pytest.raises(InvalidInput, match="item 1: the bytes are no JPEG or PNG"):
        Pipeline.build(manifest()).prepare(Payload("image", [png(), b"no"]))


def test_tensors_skip_the_input_steps():
    pipeline = Pipeline.build(manifest())
    tensor = np.ones((2, 3, 32, 32), np.float32)
    prepared = pipeline.prepare(Payload("tensors", {"image": tensor}))
    results = pipeline.finish(segment(prepared), prepared)
    assert [result.mask.shape for result in results] == [(32, 32)] * 2


def test_without_transforms_rows_go_in_and_predictions_come_out():
    pipeline = Pipeline.build(manifest(Transforms(), TINY))
    assert pipeline.cheap
    assert pipeline.media == ("application/json", "application/octet-stream")
    prepared = pipeline.prepare(Payload("rows", [[1, 2, 3, 4]] * 3))
    assert prepared.rows == 3
    assert prepared.inputs["x"].dtype == np.float32
    outputs = {"y": prepared.inputs["x"][:, :2]}
    results = pipeline.finish(outputs, prepared)
    assert orjson.loads(pipeline.render(results, "application/json")) == {"predictions": [[1, 2]] * 3}
    assert pipeline.render(results, "application/octet-stream") == outputs["y"].tobytes()
    assert pipeline.content_type(results, "application/octet-stream").endswith("datatype=FP32; shape=3x2")


def test_the_wrong_kind_of_payload_is_refused():
    with pytest.raises(UnsupportedMedia, match="takes image or tensors, not rows"):
        Pipeline.build(manifest()).prepare(Payload("rows", [[1]]))
    with pytest.raises(UnsupportedMedia, match="not image"):
        Pipeline.build(manifest(Transforms(), TINY)).prepare(Payload("image", png()))


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ((Step("image.sharpen"),), "no transform 'image.sharpen'"),
        ((Step("image.resize", {"height": 3}),), "width"),
        ((Step("image.decode", {"max_pixel": 3}),), "max_pixel"),
    ],
)
def test_unknown_steps_and_parameters_are_found_when_the_bundle_is_loaded(steps, reason):
    with pytest.raises(BundleError, match=reason):
        Pipeline.build(manifest(Transforms(input=steps)))


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (("*/*",), "application/json"),
        (("text/html", "image/webp", "image/*", "*/*"), "image/png"),
        (("image/vnd.rung.overlay+png",), "image/vnd.rung.overlay+png"),
        (("*/*", "application/json"), "image/png"),
        (("application/*",), "application/json"),
        (("application/*", "application/json;q=0"), "application/octet-stream"),
        (("*/*", "application/*;q=0", "image/png;q=0"), "image/vnd.rung.overlay+png"),
    ],
)
def test_negotiation(accept, chosen):
    assert Pipeline.build(manifest()).negotiate(accept) == chosen


def test_negotiation_says_what_there_is():
    with pytest.raises(NotAcceptable, match="application/json, image/png"):
        Pipeline.build(manifest()).negotiate(("text/html",))
    with pytest.raises(NotAcceptable):
        Pipeline.build(manifest()).negotiate(("*/*;q=0",))


def test_the_digest_follows_the_steps_and_nothing_else():
    one = Transforms(input=(Step("image.resize", {"height": 1, "width": 2}),))
    same = Transforms(input=(Step("image.resize", {"width": 2, "height": 1}),))
    other = Transforms(input=(Step("image.resize", {"height": 2, "width": 1}),))
    digests = [Pipeline.of(steps, SEGMENT).digest for steps in (one, same, other)]
    assert digests[0] == digests[1] != digests[2]
    assert len(digests[0]) == 64


def test_a_model_that_is_not_batched_takes_one_item():
    single = Signature((TensorSpec("image", "FP32", (3, 32, 32)),), (TensorSpec("m", "FP32", (1, 32, 32)),), False)
    pipeline = Pipeline.build(manifest(STEPS, single))
    prepared = pipeline.prepare(Payload("image", png()))
    assert prepared.inputs["image"].shape == (3, 32, 32)
    assert pipeline.finish({"m": prepared.inputs["image"][:1]}, prepared)[0].mask.shape == (40, 60)
    with pytest.raises(InvalidInput, match="one item"):
        pipeline.prepare(Payload("image", [png(), png()]))


def test_images_of_different_sizes_need_a_resize_to_go_together():
    free = Signature((TensorSpec("image", "UINT8", (-1, -1, -1, 3)),), (TensorSpec("y", "FP32", (-1, 1)),))
    pipeline = Pipeline.of(Transforms(input=(Step("image.decode"),)), free)
    assert pipeline.prepare(Payload("image", png())).inputs["image"].shape == (1, 40, 60, 3)
    with pytest.raises(InvalidInput, match="one shape"):
        pipeline.prepare(Payload("image", [png(), png(1, 2, 3)]))
