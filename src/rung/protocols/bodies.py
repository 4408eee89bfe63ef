"""Bodies of `/predict`: what people send, by its Content-Type, as a `Payload`."""

import math
import re
from collections.abc import Mapping

import numpy as np
import orjson

from rung.domain.errors import InvalidInput, UnsupportedMedia
from rung.domain.models import Manifest
from rung.domain.predictions import Payload
from rung.domain.tensors import DATATYPES, Array, TensorSpec
from rung.protocols import multipart
from rung.protocols.media import sniff

__all__ = ["FORM", "RAW", "payload_of", "shape_from", "shape_of"]

FORM = "multipart/form-data"
RAW = "application/octet-stream"
_CURL = "application/x-www-form-urlencoded"

_TAKEN = "image/png, image/jpeg, multipart/form-data, application/json, text/plain or application/octet-stream"


def payload_of(
    body: bytes, media: str, parameters: Mapping[str, str], manifest: Manifest, max_parts: int = 64
) -> Payload:
    """Read a body.

    Args:
        body: as it came.
        media: lower-case media type; empty when the sender did not say, which the first bytes may make up for.
        parameters: of the Content-Type.
        manifest: of the model it is for.
        max_parts: files that one form may hold.

    Raises:
        InvalidInput: the body is not what its type says.
        UnsupportedMedia: nobody reads this type, or not for this model.
        TooLarge: a form of too many parts.
    """
    # curl calls every body a form unless it is told; the first bytes say what it is.
    media = sniff(body) or media if media in ("", _CURL) else media
    takes_images = bool(manifest.transforms.input) and manifest.transforms.input[0].name.startswith("image.")
    if media.startswith("image/") or (media == RAW and takes_images and sniff(body).startswith("image/")):
        return Payload("image", body)
    if media == "application/json":
        return _json_payload(body)
    if media == FORM:
        return _form_payload(multipart.parse(body, parameters.get("boundary", ""), max_parts))
    if media == "text/plain":
        return Payload("text", _text(body, parameters))
    if media == RAW:
        return Payload("tensors", _raw_tensors(body, parameters, manifest))
    if media == _CURL:
        raise UnsupportedMedia(
            "application/x-www-form-urlencoded is not read here; curl says so unless it is told what the body is: "
            "add -H 'Content-Type: image/png' (or application/json), or send a file with -F file=@NAME"
        )
    given = f"{media!r:.100} is not read here" if media else "the request has no Content-Type"
    raise UnsupportedMedia(f"{given}: send {_TAKEN}")


def shape_of(spec: TensorSpec, length: int, shown: tuple[int, ...] | None) -> tuple[int, ...]:
    """Shape of a raw tensor of `length` bytes; `shown` is what its sender states.

    Raises:
        InvalidInput: so many bytes make no such tensor; the message says how many would.
    """
    itemsize = DATATYPES[spec.datatype].itemsize
    expected = f"input {spec.name!r} is {spec.datatype} {list(spec.shape)}"
    if length == 0:
        raise InvalidInput(f"the body is empty: {expected}", field=spec.name)
    shape = shown or spec.shape
    if not spec.admits(shape) and shown:
        raise InvalidInput(f"the Content-Type states the shape {list(shown)}: {expected}", field=spec.name)
    varying = shape.count(-1)
    if varying > 1:
        raise InvalidInput(
            f"{expected}, so the length of the body does not tell its shape: state it as in "
            f"'Content-Type: {RAW}; shape={'x'.join(str(abs(size)) for size in shape)}'",
            field=spec.name,
        )
    fixed = itemsize * math.prod(size for size in shape if size != -1)
    if not fixed or length % fixed or (not varying and length != fixed):
        wanted = f"a multiple of {fixed}" if varying else str(fixed)
        raise InvalidInput(f"the body has {length} bytes: {expected}, which takes {wanted}", field=spec.name)
    return tuple(length // fixed if size == -1 else size for size in shape)


def shape_from(parameters: Mapping[str, str]) -> tuple[int, ...] | None:
    """Read the parameter `shape=1x3x256x256` of a Content-Type; None when there is none.

    Raises:
        InvalidInput: it cannot be read.
    """
    text = parameters.get("shape")
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}(x[0-9]{1,9}){0,31}", text, re.ASCII):
        raise InvalidInput(f"shape={text!r:.50} is no shape: write it as in shape=1x3x256x256", field="shape")
    return tuple(map(int, text.split("x")))


def _raw_tensors(body: bytes, parameters: Mapping[str, str], manifest: Manifest) -> dict[str, Array]:
    inputs = manifest.signature.inputs
    if len(inputs) != 1 or inputs[0].datatype == "BYTES":
        raise UnsupportedMedia(
            f"raw bytes fit models with one input of numbers, this one has {', '.join(map(_words, inputs))}: "
            "send JSON, or use /v2/models"
        )
    spec = inputs[0]
    array: Array = np.ndarray(shape_of(spec, len(body), shape_from(parameters)), DATATYPES[spec.datatype], body)
    if spec.datatype == "BOOL" and array.view(np.uint8).max() > 1:
        raise InvalidInput(f"input {spec.name!r} is BOOL: each byte must be 0 or 1", field=spec.name)
    return {spec.name: array}


def _json_payload(body: bytes) -> Payload:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is no JSON: {error}") from None
    if isinstance(value, list):
        return Payload("rows", value)
    forms = "[row, ...], or an object with one of: rows, instances, inputs, text"
    if not isinstance(value, dict):
        raise InvalidInput(f"the JSON body must be {forms}")
    # Other fields beside the one may say who asks: a release can go by them.
    found = [key for key in value if key in ("rows", "instances", "inputs", "text")]
    if len(found) != 1:
        if value and not found:
            raise InvalidInput(f"there is no field {next(iter(value))!r:.50} here: the JSON body must be {forms}")
        raise InvalidInput(f"the JSON body must be {forms}")
    key, content = found[0], value[found[0]]
    if key == "text" and isinstance(content, str | list):
        return Payload("text", content)
    if key in ("rows", "instances") and isinstance(content, list):
        return Payload("rows", content)
    if key == "inputs" and isinstance(content, list | dict):
        return Payload("rows", content)
    kinds = {"text": "a text or a list of them", "inputs": "a list or an object of columns"}
    raise InvalidInput(f"{key!r} must hold {kinds.get(key, 'a list of rows')}", field=key)


def _form_payload(parts: list[multipart.Part]) -> Payload:
    for part in parts:
        if part.filename is None:
            raise InvalidInput(
                f"the form's field {part.name!r:.50} is no file: send image files, as in -F file=@NAME", field=part.name
            )
    if not parts:
        raise InvalidInput("the form has no files: send image files, as in -F file=@NAME")
    files = [part.body for part in parts]
    return Payload("image", files[0] if len(files) == 1 else files)


def _text(body: bytes, parameters: Mapping[str, str]) -> str:
    charset = parameters.get("charset", "utf-8").lower()
    if charset not in ("utf-8", "us-ascii"):
        raise UnsupportedMedia(f"text in {charset!r:.50} is not read here: send UTF-8")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the text is not UTF-8: byte {error.start} cannot be read") from None


def _words(spec: TensorSpec) -> str:
    return f"{spec.name} ({spec.datatype} {list(spec.shape)})"
