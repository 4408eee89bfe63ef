"""multipart/form-data (RFC 7578), strictly: the body is in memory already, so a part is a slice of it.

Every deviation is an error of the caller: no epilogue or preamble of text, no bare line feeds, no nested parts.
"""

import re

import msgspec

from rung.domain.errors import InvalidInput, TooLarge

__all__ = ["Part", "parse"]

_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=?]{1,70}", re.ASCII)
_PARAMETER = re.compile(rb';[ \t]*([A-Za-z0-9*_-]+)=(?:"((?:[^"\\\r\n]|\\.)*)"|([^;\s"]*))[ \t]*')
_MAX_HEADERS = 8192


class Part(msgspec.Struct):
    """One field of the form."""

    name: str
    filename: str | None
    media_type: str
    """Lower case, without parameters; empty when the part does not say."""
    body: bytes


def parse(body: bytes, boundary: str, max_parts: int = 64) -> list[Part]:
    """Split a form into its parts, in order.

    Raises:
        InvalidInput: the boundary or the form breaks a rule; the message says which.
        TooLarge: there are more than `max_parts`.
    """
    if not _BOUNDARY.fullmatch(boundary):
        raise InvalidInput("multipart/form-data needs a boundary of 1 to 70 plain characters in its Content-Type")
    delimiter = b"--" + boundary.encode("ascii")
    if not body.startswith(delimiter):
        raise InvalidInput("the form does not begin with the boundary that its Content-Type names")
    parts: list[Part] = []
    start = len(delimiter)
    between = b"\r\n" + delimiter
    while True:
        if body.startswith(b"--", start):
            if body[start + 2 :] not in (b"", b"\r\n"):
                raise InvalidInput("there are bytes after the end of the form")
            return parts
        if not body.startswith(b"\r\n", start):
            raise InvalidInput("a boundary of the form does not end its line")
        if len(parts) == max_parts:
            raise TooLarge(f"the form has more than {max_parts} parts")
        end = body.find(between, start)
        if end < 0:
            raise InvalidInput("the form ends in the middle of a part: its last boundary is missing")
        parts.append(_part(body, start, end))
        start = end + len(between)


def _part(body: bytes, start: int, end: int) -> Part:
    # `start` is at the line end of the boundary, which also ends the (empty) list of headers.
    blank = body.find(b"\r\n\r\n", start, min(end, start + _MAX_HEADERS))
    if blank < 0:
        raise InvalidInput(f"a part of the form has no headers, or more than {_MAX_HEADERS} bytes of them")
    headers: dict[bytes, bytes] = {}
    for line in body[start + 2 : blank].split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip() or b"\n" in line or b"\0" in line:
            raise InvalidInput("a part of the form has a header that is not `Name: value`")
        headers[name.lower()] = value.strip()
    kind, _, _ = headers.get(b"content-disposition", b"").partition(b";")
    if kind.strip().lower() != b"form-data":
        raise InvalidInput("a part of the form has no `Content-Disposition: form-data`")
    parameters = _parameters(headers[b"content-disposition"][len(kind) :])
    if "name" not in parameters:
        raise InvalidInput("a part of the form has no name")
    media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
    return Part(parameters["name"], parameters.get("filename"), media_type, body[blank + 4 : end])


def _parameters(text: bytes) -> dict[str, str]:
    parameters: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _PARAMETER.match(text, position)
        if match is None:
            raise InvalidInput("a part of the form has a Content-Disposition that cannot be read")
        name, quoted, plain = match.groups()
        value = re.sub(rb"\\(.)", rb"\1", quoted) if quoted is not None else plain
        parameters[name.decode("ascii").lower()] = value.decode("utf-8", "replace")
        position = match.end()
    return parameters
