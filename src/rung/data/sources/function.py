"""Rows that a function of the project makes: dicts one by one, or a table."""

import importlib
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any

from rung.data.sources import Address
from rung.data.sources.records import piece_of
from rung.domain.datasets import Piece, Quarantined
from rung.domain.errors import ConfigurationError, InvalidData, RungError

__all__ = ["open_function"]

_ROWS = 10_000


class _Function:
    incremental = False

    def __init__(self, address: Address) -> None:
        self._address = address

    def read(self, cursor: str) -> Iterator[Piece]:
        """Call it, in this process, from the project's folder."""
        import polars as pl

        try:
            made = self._call()
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

    def _call(self) -> Any:
        module, _, name = self._address.rest.partition(":")
        folder = str(self._address.folder.resolve())
        if folder not in sys.path:
            sys.path.insert(0, folder)
        try:
            function = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if error.name != module.partition(".")[0]:
                raise
            raise ConfigurationError(f"data source {self._address.rest!r}: there is no {module}.py here") from None
        except AttributeError:
            raise ConfigurationError(f"data source {self._address.rest!r}: {module}.py has no {name}") from None
        return function()


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
