"""What a model takes and gives, for people: the answer of `GET /predict/{model}`, and a line for curl."""

import math
import re
import shlex
from typing import Any

import orjson

from rung.domain.models import Manifest
from rung.domain.tensors import DATATYPES, TensorSpec
from rung.protocols.bodies import FORM, RAW
from rung.transforms.pipeline import Pipeline

__all__ = ["VIEWS", "base_url", "curl_example", "describe"]

VIEWS = {
    "json": "application/json",
    "mask": "image/png",
    "overlay": "image/vnd.rung.overlay+png",
    "raw": "application/octet-stream",
}
"""Value of `?view=` -> the media type that it stands for."""

_HOST = re.compile(rb"[0-9A-Za-z.:\[\]-]{1,255}")


def base_url(host: bytes | None, scheme: str = "http") -> str:
    """Where the caller reached this server, by its Host header; only what is safe to paste into a shell."""
    if host and _HOST.fullmatch(host):
        return f"{scheme}://{host.decode('ascii')}"
    return "http://localhost:8000"


def describe(manifest: Manifest, url: str) -> dict[str, Any]:
    """Gather what a caller needs to know; `url` is where the model answers."""
    pipeline = Pipeline.build(manifest)
    return {
        "model": manifest.name,
        "version": manifest.version,
        "task": manifest.task,
        "description": manifest.description,
        "labels": manifest.labels,
        "takes": _takes(pipeline, manifest),
        "gives": pipeline.media,
        "views": [view for view, media in VIEWS.items() if media in pipeline.media],
        "inputs": [_spec(spec) for spec in manifest.signature.inputs],
        "outputs": [_spec(spec) for spec in manifest.signature.outputs],
        "curl": curl_example(manifest, url),
    }


def curl_example(manifest: Manifest, url: str) -> str:
    """Write a line for a shell that sends `url` something the model takes."""
    signature = manifest.signature
    pipeline = Pipeline.build(manifest)
    if pipeline.accepts[0] == "image":
        view = "?view=overlay" if VIEWS["overlay"] in pipeline.media else ""
        output = " -o overlay.png" if view else ""
        return f"curl --data-binary @picture.png -H 'Content-Type: image/png'{output} '{url}{view}'"
    if pipeline.accepts[0] == "text" and (manifest.transforms.input or len(signature.inputs[0].shape) == 1):
        return f"curl -d 'some words' -H 'Content-Type: text/plain' '{url}'"
    if pipeline.example is not None:
        row = orjson.dumps([pipeline.example]).decode()
        return f"curl -d {shlex.quote(row)} -H 'Content-Type: application/json' '{url}'"
    sizes = [math.prod(abs(size) for size in spec.shape) for spec in signature.inputs]
    if sum(sizes) <= 64 or len(signature.inputs) > 1:
        columns = {spec.name: _zeros(spec) for spec in signature.inputs}
        one = len(columns) == 1 and isinstance(columns[signature.inputs[0].name], list)
        example = orjson.dumps(columns[signature.inputs[0].name] if one else {"inputs": columns}).decode()
        # A tensor's name is whatever its model says: it must not reach the shell.
        return f"curl -d {shlex.quote(example)} -H 'Content-Type: application/json' '{url}'"
    spec = signature.inputs[0]
    varying = sum(size == -1 for size in spec.shape)
    stated = f"; shape={'x'.join(str(abs(size)) for size in spec.shape)}" if varying > 1 else ""
    count = sizes[0] * DATATYPES[spec.datatype].itemsize
    return f"head -c {count} /dev/zero | curl --data-binary @- -H 'Content-Type: {RAW}{stated}' -o answer.bin '{url}'"


def _takes(pipeline: Pipeline, manifest: Manifest) -> list[str]:
    by_kind = {
        "image": ["image/png", "image/jpeg", FORM],
        "rows": ["application/json"],
        "text": ["text/plain", "application/json"],
        "tensors": [RAW] if len(manifest.signature.inputs) == 1 else [],
    }
    return list(dict.fromkeys(media for kind in pipeline.accepts for media in by_kind[kind]))


def _spec(spec: TensorSpec) -> dict[str, Any]:
    described = {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}
    return described | ({"columns": spec.columns} if spec.columns else {})


def _zeros(spec: TensorSpec) -> Any:
    value: Any = {"BYTES": "word", "BOOL": False}.get(spec.datatype, 0) if spec.sample is None else spec.sample
    for size in reversed(spec.shape):
        value = [value] * abs(size)
    return value
