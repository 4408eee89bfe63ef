"""Answers as JSON, written and described by msgspec: the domain's own structs, without a twin for the wire."""

import enum
from typing import Any

import msgspec
from fastapi import Response

from rung.protocols.status import OK

__all__ = ["answer", "components", "described"]

_REFERENCE = "#/components/schemas/{name}"
_encode = msgspec.json.Encoder(enc_hook=str, order="deterministic").encode


def answer(value: Any, status: int = OK) -> Response:
    """A JSON response of structs and plain values."""
    return Response(_encode(value), status, media_type="application/json")


def described(kind: Any, text: str, *, status: int = OK, example: Any = None) -> dict[int | str, dict[str, Any]]:
    """The part of an OpenAPI operation that says what comes back."""
    (schema,), _ = msgspec.json.schema_components((kind,), schema_hook=_hook, ref_template=_REFERENCE)
    content: dict[str, Any] = {"schema": schema}
    if example is not None:
        content["example"] = example
    return {status: {"description": text, "content": {"application/json": content}}}


def components(kinds: tuple[Any, ...]) -> dict[str, Any]:
    """The schemas that the descriptions of `kinds` refer to, by name."""
    return msgspec.json.schema_components(kinds, schema_hook=_hook, ref_template=_REFERENCE)[1]


def _hook(kind: Any) -> dict[str, Any]:
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return {"type": "string"}
    raise NotImplementedError
