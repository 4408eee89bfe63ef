"""Names of models and numbers of versions, checked once so that nothing below has to.

A name becomes a folder, a URL segment, a metric label and a log field, so the rule is the
strictest of the four: lower-case ASCII, no separators but `. _ -`, no empty or dotted parts.
"""

import re
from collections.abc import Iterable

from rung.domain.errors import InvalidInput

__all__ = ["MAX_VERSION", "check_name", "check_version", "name_from", "nearest", "rather"]

MAX_VERSION = 2**53 - 1
"""The largest version: it must survive a JSON number read as a double."""

_SHOWN = 10
"""Names that a message lists."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
_RESERVED = frozenset(
    {"con", "prn", "aux", "nul", "releases", "models", "versions", "latest", "all"}
    | {f"{device}{number}" for device in ("com", "lpt") for number in range(1, 10)}
)


def check_name(name: str) -> str:
    """Return `name` if it can name a model.

    Raises:
        InvalidInput: saying which rule it breaks, with the name shown escaped.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r:.80} cannot name a model: use 1 to 63 of a-z, 0-9, '.', '_', '-', "
            "beginning with a letter or digit",
            field="name",
        )
    if ".." in name or name.endswith("."):
        raise InvalidInput(f"{name!r} cannot name a model: dots may not repeat or end it", field="name")
    if name.split(".", 1)[0] in _RESERVED:
        raise InvalidInput(f"{name!r} cannot name a model: the word is reserved", field="name")
    return name


def check_version(version: int | str) -> int:
    """Return the version as a positive integer.

    Raises:
        InvalidInput: when it is not a plain decimal number from 1 to `MAX_VERSION`.
    """
    if isinstance(version, str):
        if not (version.isascii() and version.isdigit() and len(version) <= 16) or version.startswith("0"):
            raise InvalidInput(f"{version!r:.80} is not a version: use a number from 1", field="version")
        version = int(version)
    if not 1 <= version <= MAX_VERSION:
        raise InvalidInput(f"{version} is not a version: use a number from 1", field="version")
    return version


def nearest(name: str, known: Iterable[str]) -> str:
    """The one of `known` that is most like `name`; empty where none is."""
    # Only who errs needs it.
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, list(known), 1, 0.5)), "")


def rather(name: str, known: Iterable[str]) -> str:
    """The way out for who named what is not there: the nearest that is, else the first few of them all."""
    there = list(known)
    if near := nearest(name, there):
        return f"did you mean {near}?"
    shown = [*there[:_SHOWN], "..."] if len(there) > _SHOWN else there
    return f"there are {', '.join(shown) or 'none'}"


def name_from(text: str) -> str:
    """Make a valid name out of a file name or class name: `My Model.v2` becomes `my-model.v2`."""
    lowered = re.sub(r"[^a-z0-9._-]+", "-", text.lower(), flags=re.ASCII)
    lowered = re.sub(r"\.{2,}", ".", lowered).strip(".-_")[:63].rstrip(".-_")
    try:
        return check_name(lowered)
    except InvalidInput:
        return check_name(f"model-{lowered}"[:63].rstrip(".-_"))
