"""What was logged of a request, as rows: the one reader of bodies for training data and for drift."""

import base64
from collections.abc import Sequence
from typing import Any

import orjson

__all__ = ["rows_of"]


def rows_of(body: bytes | None, media: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows that a logged request asked about.

    Args:
        body: as it came.
        media: its content type.
        names: of the model's columns, for rows that are lists.

    Raises:
        ValueError: the body is not there, or is of a kind that is not read here; the text says what to do.
    """
    if not body:
        raise ValueError('what was asked was not logged: set [models.NAME.serve.log] inputs = "body"')
    if media.startswith("image/") or body[:8] == b"\x89PNG\r\n\x1a\n" or body[:3] == b"\xff\xd8\xff":
        return [{"image": body}]
    if media.startswith("text/"):
        return [{"text": body.decode(errors="replace")}]
    try:
        asked = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ValueError(f"a body of {media or 'no stated type'} is not read here: JSON, text or an image is") from None
    found = _items(asked)
    rows = [_row(item, names) for item in found]
    if not rows:
        raise ValueError("it asked about no row")
    return rows


def _items(asked: Any) -> list[Any]:
    if isinstance(asked, list):
        return asked
    if not isinstance(asked, dict):
        raise ValueError("a JSON body that is neither a list nor an object is no row")  # noqa: TRY004 - its text says why
    for key in ("rows", "instances", "inputs", "data", "dataframe_records"):
        if key in asked:
            inner = asked[key]
            if isinstance(inner, list) and inner and all(_tensor(one) for one in inner):
                return _columns({one["name"]: _unfolded(one) for one in inner})
            return _columns(inner) if isinstance(inner, dict) else _items(inner)
    if set(asked) == {"text"}:
        return [{"text": one} for one in (asked["text"] if isinstance(asked["text"], list) else [asked["text"]])]
    return _columns(asked)


def _columns(table: dict[str, Any]) -> list[Any]:
    """Rows of an object of columns; one row of an object of values."""
    lists = [value for value in table.values() if isinstance(value, list)]
    if len(lists) != len(table) or len({len(one) for one in lists}) != 1:
        return [table]
    return [dict(zip(table, row, strict=True)) for row in zip(*lists, strict=True)]


def _tensor(item: Any) -> bool:
    return isinstance(item, dict) and {"name", "shape", "data"} <= item.keys()


def _unfolded(tensor: dict[str, Any]) -> list[Any]:
    """The rows of a tensor of the Open Inference Protocol, whose data may be flat."""
    data, shape = tensor["data"], tensor["shape"]
    if len(shape) == 2 and data and not isinstance(data[0], list):
        return [data[at : at + shape[1]] for at in range(0, len(data), max(1, shape[1]))]
    return list(data)


def _row(item: Any, names: Sequence[str]) -> dict[str, Any]:
    if isinstance(item, dict) and set(item) == {"b64"} and isinstance(item["b64"], str):
        return {"image": base64.b64decode(item["b64"])}
    if isinstance(item, dict):
        inner = next(iter(item.values())) if len(item) == 1 else None
        if isinstance(inner, list) and len(inner) == len(names) > 1:
            return dict(zip(names, inner, strict=True))
        return item
    if isinstance(item, list) and len(item) == len(names):
        return dict(zip(names, item, strict=True))
    if isinstance(item, str):
        return {names[0] if len(names) == 1 else "text": item}
    if len(names) == 1 and not isinstance(item, list):
        return {names[0]: item}
    if not names:
        raise ValueError('a row of values has no names here: send objects, such as {"age": 7}')
    raise ValueError(f"a row of {len(item) if isinstance(item, list) else 1} values does not fit {len(names)} columns")
