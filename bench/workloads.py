"""The two reference models, the requests that carry their tensors, and what the answers must be.

tiny: `x` float32 [N, 16] -> `y` [N, 3], a 16-16-3 MLP: it costs nothing, so it measures the server.
seg: `x` float32 [N, 3, 128, 128] -> `y` [N, 1, 128, 128], a small U-Net: it measures how cores are shared.

`pictures` has a larger one take PNGs and give masks, as people use it.
"""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from rung.domain.models import Step, Transforms
from rung.testing import models

__all__ = ["PICTURE_STEPS", "BenchError", "Request", "Workload", "pictures", "prepare"]

SHAPES = {"tiny": (1, 16), "seg": (1, 3, 128, 128)}
BUILDERS = {"tiny": models.tiny, "seg": models.segmentation}
PICTURE_STEPS = Transforms(
    (
        Step("image.decode"),
        Step("image.resize", {"height": 256, "width": 256}),
        Step("image.normalize"),
        Step("image.layout"),
    ),
    (Step("segmentation.mask", {"activation": "none"}),),
)
BODIES = ("raw", "json", "binary")
BYTES = "application/octet-stream"


class BenchError(Exception):
    """A measurement could not be taken; the message says why."""


@dataclass(frozen=True)
class Request:
    """One HTTP request without its address."""

    path: str
    headers: dict[str, str]
    body: bytes

    def wire(self, port: int) -> bytes:
        """The bytes of a keep-alive request to 127.0.0.1."""
        lines = [f"POST {self.path} HTTP/1.1", f"host: 127.0.0.1:{port}", f"content-length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


@dataclass(frozen=True)
class Workload:
    """A model file, one input for it, and the answer that bare onnxruntime gives."""

    model: str
    file: Path
    requests: dict[str, Request]
    """Body (`raw`, `json`, `binary`) -> request."""
    answer: np.ndarray
    terms: dict[str, Any] = field(default_factory=dict)
    """What it is registered with, where the file alone would not do."""

    def decode(self, body: str, content: bytes) -> tuple[int, np.ndarray]:
        """The version (0 where the format does not carry it) and the values of an answer.

        Raises:
            ValueError, KeyError: the content is no answer in this format.
        """
        if body == "json":
            reply = json.loads(content)
            return int(reply.get("model_version") or 0), np.array(reply["outputs"][0]["data"], np.float32).ravel()
        values = np.frombuffer(content[len(content) - self.answer.nbytes :], np.float32)
        if body == "raw":
            return 0, values
        reply = json.loads(content[: len(content) - self.answer.nbytes])
        return int(reply.get("model_version") or 0), values

    def check(self, body: str, content: bytes) -> None:
        """Raise `BenchError` unless this answer has the right values."""
        try:
            right = self.matches(self.decode(body, content)[1])
        except (KeyError, ValueError):
            right = False
        if not right:
            raise BenchError(f"not the answer that onnxruntime gives: {content[:200]!r}")

    def matches(self, values: np.ndarray) -> bool:
        """Whether these are this model's values; sums of other batch sizes differ in the last bits."""
        return values.shape == (self.answer.size,) and np.allclose(values, self.answer.ravel(), rtol=1e-4, atol=1e-5)


def prepare(model: str, folder: Path, *, negated: bool = False) -> Workload:
    """Write the model's file and return its workload. `negated` makes a twin of it that answers otherwise."""
    file = folder / ("negated" if negated else "") / f"{model}.onnx"
    file.parent.mkdir(parents=True, exist_ok=True)
    BUILDERS[model](file)
    if negated:
        _negate_last_weight(file)
    # Four decimals, so that JSON bodies have the length that people's have and all bodies carry the same values.
    values = np.random.default_rng(1).standard_normal(SHAPES[model]).round(4)
    x = values.astype(np.float32)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    answer = session.run(None, {"x": x})[0]
    return Workload(model, file, {body: _request(model, body, x) for body in BODIES}, answer)


def pictures(folder: Path) -> Workload:
    """A U-Net over PNGs of 256 x 256 pixels and some 65 kB, as slides have them; the answer is a mask."""
    from PIL import Image

    rows, columns = np.mgrid[:256, :256]
    grain = np.random.default_rng(2).integers(0, 22, (256, 256))
    cells = 80 + 80 * np.sin(rows / 9) * np.sin(columns / 11) + grain
    held = io.BytesIO()
    Image.fromarray(cells.clip(0, 255).astype(np.uint8)).convert("RGB").save(held, "PNG")
    return Workload(
        "unet",
        models.segmentation(folder / "unet.onnx", 256, 16),
        {"png": Request("/predict/unet", {"content-type": "image/png", "accept": "image/png"}, held.getvalue())},
        np.empty(0),
        {"task": "segmentation", "transforms": PICTURE_STEPS},
    )


def _request(model: str, body: str, x: np.ndarray) -> Request:
    if body == "raw":
        return Request(f"/predict/{model}", {"content-type": BYTES, "accept": BYTES}, x.tobytes())
    path = f"/v2/models/{model}/infer"
    tensor: dict[str, object] = {"name": "x", "shape": list(x.shape), "datatype": "FP32"}
    if body == "json":
        tensor["data"] = [round(float(value), 4) for value in x.ravel()]
        return Request(path, {"content-type": "application/json"}, _compact({"inputs": [tensor]}))
    tensor["parameters"] = {"binary_data_size": x.nbytes}
    wanted = [{"name": "y", "parameters": {"binary_data": True}}]
    header = _compact({"inputs": [tensor], "outputs": wanted})
    headers = {"content-type": BYTES, "inference-header-content-length": str(len(header))}
    return Request(path, headers, header + x.tobytes())


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _negate_last_weight(file: Path) -> None:
    model = onnx.load(str(file))
    weight = [tensor for tensor in model.graph.initializer if len(tensor.dims) > 1][-1]
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
    onnx.save(model, str(file))
