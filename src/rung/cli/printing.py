"""Tables for people and JSON for programs."""

from collections.abc import Sequence
from typing import Any

import msgspec
import orjson

__all__ = ["print_json", "print_table"]


def print_json(value: Any) -> None:
    """Print structs, lists and dicts as indented JSON."""
    print(orjson.dumps(msgspec.to_builtins(value), option=orjson.OPT_INDENT_2).decode())


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns as wide as their widest cell, two spaces apart."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
