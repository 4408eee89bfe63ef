"""Rows that a function of the project makes: dicts one by one, or a table."""

import importlib
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rung.data.sources import Address
from rung.data.sources.records import piece_of
from rung.domain.datasets import Piece, Quarantined
from rung.domain.errors import ConfigurationError, InvalidData, RungError

__all__ = ["function_of", "open_function"]

_ROWS = 10_000


class _Function:
    incremental = False

    def __init__(self, address: Address) -> None:
        self._address = address

    def read(self, cursor: str) -> Iterator[Piece]:
        """Call it, in this process, from the project's folder."""
        import polars as pl

        try:
            made = function_of(self._address.rest, self._address.folder, "data source")()
            if isinstance(made, pl.DataFrame | pl.LazyFrame):
                yield Piece(made.lazy().collect())
                return
            rows = iter(made)
            first = 1
            while chunk := list(islice(rows, _ROWS)):
                yield _piece(chunk, self._address.rest, first)
                first += len(chunk)
        except RungError:
            raise
        except Exception as error:
            raise InvalidData(f"{self._address.rest} failed: {type(error).__name__}: {error}") from error

    def keep(self, cursor: str) -> None:
        """Nothing to keep."""


def function_of(name: str, folder: Path, what: str) -> Callable[..., Any]:
    """The function `module:function` of the project in `folder`; `what` says what names it.

    Raises:
        ConfigurationError: there is no such module or function.
    """
    module, _, attribute = name.partition(":")
    place = str(folder.resolve())
    if place not in sys.path:
        sys.path.insert(0, place)
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise ConfigurationError(f"{what} {name!r}: there is no {module}.py here") from None
    except AttributeError:
        raise ConfigurationError(f"{what} {name!r}: {module}.py has no {attribute}") from None
    return found


def _piece(rows: list[Any], where: str, first: int) -> Piece:
    good: list[dict[str, Any]] = []
    numbers: list[int] = []
    refused: list[Quarantined] = []
    for number, row in enumerate(rows, first):
        if isinstance(row, dict):
            good.append(row)
            numbers.append(number)
        else:
            refused.append(Quarantined(where, number, f"a row is a dict, not a {type(row).__name__}", repr(row)[:200]))
    return piece_of(good, numbers, where, refused)


def open_function(address: Address) -> _Function:
    """`module:function`, found in the project's folder."""
    address.allow()
    return _Function(address)
