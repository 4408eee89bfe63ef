"""What SageMaker's container contract adds to MLflow's paths: tensors in `/invocations`, its words for models.

A container there speaks the Open Inference Protocol under `/invocations`, as JSON, or as binary data behind a JSON
header whose length the content type gives. Rows go as `.npy` and come back as that or as CSV where `Accept` asks for
it: what the predictors of its SDK do unless they are told otherwise. `/models` is TorchServe's path too: who sends a
header `x-amzn-sagemaker-...`, or a JSON body to `POST /models`, is SageMaker, and so is who asks for a model that came
by such a body.
"""

import csv
import io
from typing import Any

import msgspec
import numpy as np
import orjson

from rung.domain.errors import InvalidInput, NotAcceptable
from rung.domain.predictions import Call
from rung.ports import Served
from rung.protocols.exchange import Head, Reply
from rung.protocols.headers import timeout_of
from rung.protocols.media import content_type
from rung.protocols.oip_infer import NO_HEADER, InferCodec

__all__ = ["NPY", "asks", "infer", "read_model", "read_npy", "rewrite", "write_model"]

NPY = "application/x-npy"
_CSV = "text/csv"
_AS_IT_IS = ("application/json", "application/*", "*/*")

_BINARY = "application/vnd.sagemaker-triton.binary+json"
_HEADER_LENGTH = b"Inference-Header-Content-Length"
_PREFIX = b"x-amzn-sagemaker-"


class _Model(msgspec.Struct):
    model_name: str
    url: str


def asks(head: Head) -> bool:
    """Whether SageMaker sent this."""
    return any(name.startswith(_PREFIX) for name in head.headers)


async def infer(served: Served, head: Head, body: bytes, call: Call) -> Reply | None:
    """Answer tensors of the Open Inference Protocol; None when the body holds none.

    Raises:
        RungError: of every kind that `Served` raises, and `InvalidInput` for the body.
    """
    media, parameters = content_type(head.headers.get(b"content-type"))
    header = NO_HEADER
    if media == _BINARY:
        length = parameters.get("json-header-size", "")
        if not (length.isascii() and length.isdigit() and len(length) <= 12):
            raise InvalidInput(f"{_BINARY} needs json-header-size=N, the bytes of its JSON", field="json-header-size")
        header = int(length)
    elif b'"datatype"' not in body or not _tensors(body):
        return None
    codec = InferCodec(served.manifest)
    request, wanted, echo = codec.decode(body, header, call)
    request.deadline = min(request.deadline, call.arrived + timeout_of(head.headers.get(b"rung-timeout-ms")))
    reply = codec.encode(await served.predict(request), wanted, echo)
    if wanted.binary:
        # Here the length stands in the content type, and nowhere else.
        size = next(value for name, value in reply.headers if name.lower() == _HEADER_LENGTH.lower())
        reply.media = f"{_BINARY};json-header-size=".encode() + size
        reply.headers = tuple(one for one in reply.headers if one[0].lower() != _HEADER_LENGTH.lower())
    return reply


def _tensors(body: bytes) -> bool:
    try:
        inputs = orjson.loads(body)["inputs"]
        return isinstance(inputs[0], dict) and inputs[0].keys() >= {"name", "shape", "datatype"}
    except (ValueError, TypeError, LookupError):
        return False


def read_npy(body: bytes) -> list[Any]:
    """Rows of a `.npy` file. Raises `InvalidInput`: it is none, or holds objects, which only a pickle can bring."""
    try:
        array = np.lib.format.read_array(io.BytesIO(body), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InvalidInput(f"the body is no .npy file of numbers: {str(error)[:200]}") from None
    if not array.ndim or array.dtype.kind not in "biuf":
        raise InvalidInput(
            f"the .npy file holds {array.dtype} of shape {list(array.shape)}: rows of numbers are needed"
        )
    rows: list[Any] = array.tolist()
    return rows


def rewrite(reply: Reply, accept: tuple[str, ...]) -> Reply:
    """Write `{"predictions": [...]}` as CSV or `.npy` where the caller likes that better than JSON.

    Raises:
        NotAcceptable: an answer of several outputs is no array.
    """
    media = next((one for one in accept if one in (NPY, _CSV, *_AS_IT_IS)), "")
    if media not in (NPY, _CSV):
        return reply
    predictions = orjson.loads(bytes(reply.body))["predictions"]
    if media == _CSV:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(map(_cells, predictions))
        return Reply(reply.status, text.getvalue().encode(), _CSV.encode(), reply.headers)
    try:
        array = np.array(predictions)
    except ValueError:
        array = np.array(None)
    if array.dtype.kind not in "biuf":
        raise NotAcceptable(f"this answer is no array of numbers, so it cannot be {NPY}: ask for application/json")
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=False)
    return Reply(reply.status, stream.getvalue(), NPY.encode(), reply.headers)


def _cells(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [cell for one in value for cell in _cells(one)]
    return [value]


def read_model(body: bytes) -> tuple[str, str]:
    """Name and place of a model to add. Raises `InvalidInput`."""
    try:
        model = msgspec.json.decode(body, type=_Model)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f'the body must be {{"model_name": "...", "url": "..."}}: {error}') from None
    return model.model_name, model.url


def write_model(name: str, place: str) -> dict[str, Any]:
    """A model as the listing, and the answer about one, have it."""
    return {"modelName": name, "modelUrl": place}
