"""Content-Type, Accept and first bytes: what a body is, and what its sender wants back."""

import math
from collections.abc import Mapping

__all__ = ["accepted", "content_type", "sniff"]


def content_type(header: bytes | None) -> tuple[str, dict[str, str]]:
    """Split a Content-Type into its lower-case type and its parameters; both empty when there is none."""
    if not header:
        return "", {}
    kind, *rest = header.decode("latin-1").split(";")
    parameters: dict[str, str] = {}
    for item in rest:
        name, equals, value = item.strip().partition("=")
        if equals:
            parameters[name.strip().lower()] = value.strip().strip('"')
    return kind.strip().lower(), parameters


def accepted(header: bytes | None) -> tuple[str, ...]:
    """Order an Accept header, best first: by q, then as written.

    What has q=0 comes last and ends in `;q=0`. Entries that cannot be read are left out; nothing left means anything.
    """
    entries: list[tuple[float, str]] = []
    for item in (header or b"").decode("latin-1").split(","):
        kind, parameters = content_type(item.encode("latin-1"))
        quality = _quality(parameters)
        if quality is not None and kind.count("/") == 1:
            entries.append((quality, kind))
    entries.sort(key=lambda entry: -entry[0])
    return tuple(kind if quality else f"{kind};q=0" for quality, kind in entries) or ("*/*",)


def sniff(body: bytes) -> str:
    """Name the type of a body that came without a Content-Type by its first bytes; empty when unknown."""
    if body.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if body.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if body[:64].lstrip()[:1] in (b"[", b"{"):
        return "application/json"
    return ""


def _quality(parameters: Mapping[str, str]) -> float | None:
    try:
        quality = float(parameters.get("q", "1"))
    except ValueError:
        return None
    return quality if math.isfinite(quality) and 0 <= quality <= 1 else None
