"""The JSON messages of the Open Inference Protocol's infer call, and the parameters that rung reads."""

from typing import Annotated

import msgspec
from msgspec import Meta, Raw

from rung.domain.errors import InvalidInput, Unsupported

__all__ = [
    "ABSENT",
    "InferInput",
    "InferOutput",
    "InferRequest",
    "Options",
    "Parameters",
    "parse_infer",
    "read_flag",
    "read_number",
    "read_options",
    "refuse_unsupported",
]

Parameters = dict[str, bool | int | float | str]
"""Parameters of a request, an input or an output; names that rung does not know are ignored."""

ABSENT = Raw()
"""Stands for `data` where there is none; compare by identity."""

_LARGEST = 2**63 - 1


class InferInput(msgspec.Struct, gc=False):
    """One input tensor: its data stand here, or after the JSON when `binary_data_size` is given."""

    name: str
    shape: Annotated[tuple[Annotated[int, Meta(ge=0)], ...], Meta(max_length=64)]
    datatype: str
    data: Raw = ABSENT
    parameters: Parameters | None = None


class InferOutput(msgspec.Struct, gc=False):
    """One output that is wanted back."""

    name: str
    parameters: Parameters | None = None


class InferRequest(msgspec.Struct, gc=False):
    """The body of an infer call."""

    inputs: list[InferInput]
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[InferOutput] | None = None


class Options(msgspec.Struct, frozen=True):
    """What the parameters of a request say."""

    timeout: float = 0.0
    """Seconds from arrival to the deadline; 0 means none."""
    priority: int = 0
    binary: bool = False
    """Whether outputs come as binary data where they do not say otherwise."""


_DEFAULTS = Options()
_decode = msgspec.json.Decoder(InferRequest).decode

# To ignore one of these would give an answer that looks right and is not.
_UNSUPPORTED = {
    "sequence_id": "sequences are not kept here: send requests that do not depend on each other",
    "sequence_start": "sequences are not kept here: send requests that do not depend on each other",
    "sequence_end": "sequences are not kept here: send requests that do not depend on each other",
    "shared_memory_region": "shared memory is not offered here: send the tensor in the body",
    "classification": "classification is not offered here: take the scores and sort them",
}


def parse_infer(text: bytes) -> InferRequest:
    """Read an infer request.

    Raises:
        InvalidInput: the text is no strict JSON (bare NaN and Infinity are not), or does not fit the protocol.
    """
    try:
        return _decode(text)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the request does not fit the protocol: {error}") from None
    except RecursionError:
        raise InvalidInput("the request is nested too deeply") from None
    except ValueError as error:
        hint = ""
        if b"NaN" in text or b"Infinity" in text:
            hint = "; JSON has no NaN and no Infinity, send such tensors as binary data"
        raise InvalidInput(f"the request is not valid JSON: {error}{hint}") from None


def read_options(parameters: Parameters | None) -> Options:
    """Read the parameters of a request.

    Raises:
        InvalidInput: naming a parameter of the wrong type or out of range.
        Unsupported: naming a parameter that would change the answer and that rung does not honour.
    """
    if not parameters:
        return _DEFAULTS
    refuse_unsupported(parameters)
    return Options(
        timeout=read_number(parameters, "timeout") * 1e-6,
        priority=read_number(parameters, "priority"),
        binary=read_flag(parameters, "binary_data_output", default=False),
    )


def refuse_unsupported(parameters: Parameters) -> None:
    """Raise `Unsupported` for a parameter that may not be ignored."""
    for name in parameters.keys() & _UNSUPPORTED.keys():
        if parameters[name]:
            raise Unsupported(f"parameter {name!r}: {_UNSUPPORTED[name]}")


def read_number(parameters: Parameters, name: str, default: int = 0) -> int:
    """Read a parameter that is a whole number, not negative, of at most 63 bits. Raises `InvalidInput`."""
    value = parameters.get(name, default)
    if type(value) is not int or not 0 <= value <= _LARGEST:
        raise InvalidInput(f"parameter {name!r} is {value!r:.60}: it must be a whole number from 0", field=name)
    return value


def read_flag(parameters: Parameters, name: str, *, default: bool) -> bool:
    """Read a parameter that is true or false. Raises `InvalidInput`."""
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidInput(f"parameter {name!r} is {value!r:.60}: it must be true or false", field=name)
    return value
