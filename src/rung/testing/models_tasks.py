"""Tiny real models, one for each task, with the steps that belong to them: trained or built in seconds, on one core.

They need `onnx`, and where they are trained scikit-learn and skl2onnx, all of the `dev` extra, imported inside the
functions. Every builder writes one ONNX file, takes its path first and returns it.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from rung.domain.models import Step, Transforms
from rung.domain.predictions import Payload
from rung.domain.tensors import Array, Signature, TensorSpec
from rung.transforms.pipeline import Pipeline

__all__ = [
    "BLOBS_STEPS",
    "DIGITS_STEPS",
    "FLATS_STEPS",
    "MESSAGES",
    "MESSAGES_STEPS",
    "WORDS",
    "WORDS_STEPS",
    "blobs",
    "digit_png",
    "digits",
    "flat_price",
    "flats",
    "messages",
    "spots_png",
    "words",
]

_OPSET = 17
_IR_VERSION = 8
"""Old enough for every onnxruntime that rung supports."""

DIGITS_STEPS = Transforms(
    input=(
        Step("image.decode"),
        Step("image.resize", {"height": 8, "width": 8, "method": "area"}),
        Step("image.normalize"),
        Step("image.layout"),
    ),
    output=(Step("classification.top_k", {"k": 3}),),
)
"""What `digits` was trained behind."""

BLOBS_STEPS = Transforms(
    input=(
        Step("image.decode"),
        Step("image.resize", {"height": 64, "width": 64, "keep_aspect": True}),
        Step("image.normalize"),
        Step("image.layout"),
    ),
    output=(Step("detection.boxes", {"boxes": "boxes", "scores": "scores", "labels": ["red", "blue"]}),),
)
"""What `blobs` expects."""

FLATS_STEPS = Transforms(
    input=(
        Step(
            "tabular.columns",
            {
                "columns": [
                    {"name": "area", "min": 10, "max": 1000},
                    {"name": "rooms", "type": "integer", "min": 1, "max": 20},
                    {"name": "district", "type": "category", "categories": ["centre", "north", "south"]},
                    {"name": "balcony", "type": "boolean", "default": False},
                ]
            },
        ),
    ),
    output=(Step("regression.value", {"decimals": 0, "min": 0, "unit": "EUR"}),),
)
"""What `flats` was trained behind."""

MESSAGES = {
    "spam": (
        "Free entry to win a prize, text WIN to claim now",
        "You have won a cash prize! Call now to claim your reward",
        "URGENT! Your mobile number won a free holiday, call now",
        "Claim your free ringtone now, text YES to reply",
        "Winner! Cash reward waiting, call this number now",
        "Get free credit today, text STOP to end, prize guaranteed",
    ),
    "ham": (
        "Are you coming home for dinner tonight",
        "Ok see you at the station in ten minutes",
        "Sorry I was in a meeting, what did you want",
        "Happy birthday mum, love you lots",
        "Can you pick up some milk on the way home",
        "I will be late, the train is still at the station",
    ),
}
"""Messages to train on, written for this."""

MESSAGES_STEPS = Transforms(
    input=(Step("text.encode", {"lowercase": True}),),
    output=(Step("classification.top_k", {"output": "probabilities"}),),
)
"""What `messages` expects."""

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "cat", "dog", "##s", "run", "##ning", "a", "the", "!", "car")
"""Vocabulary of `words`."""

WORDS_STEPS = Transforms(
    input=(Step("text.wordpiece", {"vocabulary": list(WORDS), "max_length": 16}),),
    output=(Step("embedding.vector", {"pooling": "mean"}),),
)
"""What `words` expects."""


def digits(path: Path) -> Path:
    """Handwritten digits: `image` FP32 [N, 3, 8, 8] within 0..1 -> `probabilities` FP32 [N, 10].

    Trained on scikit-learn's 1,797 scans, each made a PNG and read by `DIGITS_STEPS`, the steps that serve it.
    """
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    scans = load_digits()
    signature = Signature(
        (TensorSpec("image", "FP32", (-1, 3, 8, 8)),), (TensorSpec("probabilities", "FP32", (-1, 10)),)
    )
    files = [_png(scan) for scan in scans.images]
    inputs = Pipeline.of(DIGITS_STEPS, signature).prepare(Payload("image", files)).inputs["image"]
    trained = LogisticRegression(C=10, max_iter=5000).fit(inputs.reshape(len(files), -1), scans.target)
    weights = {"weight": trained.coef_.T.astype(np.float32), "bias": trained.intercept_.astype(np.float32)}
    return _save(
        path,
        """digits (float[N, 3, 8, 8] image) => (float[N, 10] probabilities) {
            flat = Flatten<axis = 1>(image)
            logits = Gemm(flat, weight, bias)
            probabilities = Softmax<axis = 1>(logits)
        }""",
        weights,
    )


def digit_png(number: int, *, size: int = 80) -> bytes:
    """A PNG of scan `number` of `digits`' data, enlarged to `size` pixels a side."""
    from sklearn.datasets import load_digits

    return _png(load_digits().images[number], size)


def blobs(path: Path, size: int = 64, reach: int = 40) -> Path:
    """A detector of bright spots: `image` FP32 [N, 3, size, size] within 0..1 -> `boxes`, `scores`.

    `boxes` FP32 [N, size * size, 4] holds for each pixel the corners, in pixels, of the spot that it is part of,
    `scores` FP32 [N, size * size, 2] how red and how blue it is. So each spot is found as often as it has pixels.
    Spots further across than `reach` pixels come in parts.
    """
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    # Largest coordinates spread over neighbouring bright pixels; the smallest do when they are counted backwards.
    places = np.stack([size - columns, size - rows, columns + 1, rows + 1])[None]
    spread = "\n".join(
        f"wide{step} = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(held{step})\n"
        f"held{step + 1} = Mul(wide{step}, mask)"
        for step in range(reach)
    )
    return _save(
        path,
        f"""blobs (float[N, 3, {size}, {size}] image) => (float[N, P, 4] boxes, float[N, P, 2] scores) {{
            light = ReduceMax<axes = [1], keepdims = 1>(image)
            bright = Greater(light, level)
            mask = Cast<to = 1>(bright)
            held0 = Mul(places, mask)
            {spread}
            line = Reshape(held{reach}, four)
            turned = Transpose<perm = [0, 2, 1]>(line)
            signed = Mul(turned, signs)
            boxes = Add(signed, offsets)
            colours = Gather<axis = 1>(image, red_and_blue)
            seen = Mul(colours, mask)
            pixels = Reshape(seen, two)
            scores = Transpose<perm = [0, 2, 1]>(pixels)
        }}""",
        {
            "level": np.array(0.5, np.float32),
            "places": places,
            "four": np.array([0, 4, -1], np.int64),
            "two": np.array([0, 2, -1], np.int64),
            "red_and_blue": np.array([0, 2], np.int64),
            "signs": np.array([-1, -1, 1, 1], np.float32),
            "offsets": np.array([size, size, 0, 0], np.float32),
        },
    )


def spots_png() -> bytes:
    """A PNG of 480 x 300 pixels with two red spots and a blue one, on dark ground."""
    image = Image.new("RGB", (480, 300), (30, 34, 40))
    draw = ImageDraw.Draw(image)
    draw.ellipse((50, 60, 140, 150), fill=(250, 60, 50))
    draw.rectangle((200, 20, 250, 70), fill=(250, 20, 30))
    draw.ellipse((300, 150, 420, 250), fill=(50, 90, 250))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def flat_price(area: float, rooms: int, district: str, balcony: bool) -> float:
    """The price in EUR that `flats` learns, without the noise."""
    return area * {"centre": 6000, "north": 4000, "south": 3000}[district] + 5000 * rooms + 10_000 * balcony


def flats(path: Path) -> Path:
    """Prices of flats: `x` FP32 [N, 4] -> `variable` FP32 [N, 1], in EUR.

    Trained on 4,000 invented rows that `FLATS_STEPS`, the steps that serve it, have read.
    """
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.ensemble import RandomForestRegressor

    rng = np.random.default_rng(0)
    rows = [
        {"area": area, "rooms": 1 + int(area // 30), "district": district, "balcony": balcony}
        for area, district, balcony in zip(
            rng.uniform(20, 200, 4000).round(1).tolist(),
            rng.choice(["centre", "north", "south"], 4000).tolist(),
            rng.choice([True, False], 4000).tolist(),
            strict=True,
        )
    ]
    signature = Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("variable", "FP32", (-1, 1)),))
    inputs = Pipeline.of(FLATS_STEPS, signature).prepare(Payload("rows", rows)).inputs["x"]
    prices = [flat_price(**row) for row in rows]
    trained = RandomForestRegressor(40, max_depth=12, random_state=0).fit(inputs, prices)
    model = to_onnx(trained, initial_types=[("x", FloatTensorType([None, 4]))], target_opset=_OPSET)
    path.write_bytes(model.SerializeToString())
    return path


def messages(path: Path, texts: Sequence[str] = (), labels: Sequence[str] = ()) -> Path:
    """Spam or not: `text` BYTES [N, 1] of small letters -> `label` BYTES [N], `probabilities` FP32 [N, 2].

    The probabilities are those of ham and spam, in this order. Trained on `texts` with `labels`, or on `MESSAGES`.
    """
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import StringTensorType
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    if not texts:
        texts = [text for told in MESSAGES.values() for text in told]
        labels = [label for label, told in MESSAGES.items() for _ in told]
    # Words as both sides split them. Small letters are `text.encode`'s work: in the graph they need a locale that
    # the machine may not have.
    words = TfidfVectorizer(token_pattern="[a-z0-9]+", lowercase=False)  # noqa: S106 - a pattern of words
    trained = make_pipeline(words, LogisticRegression(C=10)).fit([text.lower() for text in texts], list(labels))
    options = {
        id(words): {"tokenexp": "[a-z0-9]+"},
        id(trained[-1]): {"zipmap": False},
    }
    model = to_onnx(
        trained, initial_types=[("text", StringTensorType([None, 1]))], options=options, target_opset=_OPSET
    )
    path.write_bytes(model.SerializeToString())
    return path


def words(path: Path) -> Path:
    """An encoder: `input_ids`, `attention_mask` INT64 [N, T] -> `tokens` FP32 [N, T, 8], one vector per word piece."""
    table = np.random.default_rng(3).standard_normal((len(WORDS), 8)).astype(np.float32)
    return _save(
        path,
        """words (int64[N, T] input_ids, int64[N, T] attention_mask) => (float[N, T, 8] tokens) {
            rows = Gather(table, input_ids)
            weights = Cast<to = 1>(attention_mask)
            wide = Unsqueeze(weights, last)
            tokens = Mul(rows, wide)
        }""",
        {"table": table, "last": np.array([-1], np.int64)},
    )


def _png(scan: Array, size: int = 8) -> bytes:
    """Write a scan of 0 to 16 as a PNG."""
    image = Image.fromarray((scan / 16 * 255).astype(np.uint8))
    buffer = io.BytesIO()
    image.resize((size, size), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def _save(path: Path, graph: str, weights: dict[str, Array]) -> Path:
    from onnx import checker, numpy_helper, parser, save

    model: Any = parser.parse_model(f'<ir_version: {_IR_VERSION}, opset_import: ["": {_OPSET}]> {graph}')
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    checker.check_model(model)
    save(model, str(path))
    return path
