"""Files, one after the other: what reads one of them is what tells their formats apart."""

from collections.abc import Callable, Iterator
from pathlib import Path

from rung.data.sources import Address
from rung.domain.datasets import Piece
from rung.domain.errors import InvalidData

__all__ = ["Files"]


class Files:
    """A `RowSource` over the files that an address names; it is read whole each time."""

    incremental = False

    def __init__(
        self, address: Address, read_one: Callable[[Path], Iterator[Piece]], numeric: set[str] | None = None
    ) -> None:
        self._address, self._read_one = address, read_one
        self.numeric = set() if numeric is None else numeric
        """Columns of text that may come as FP64 where all their values in a piece are numbers; whoever knows adds them,
        and what reads one file may look there."""

    def read(self, cursor: str) -> Iterator[Piece]:
        """Every file, in the order of names."""
        for path in self._address.files():
            try:
                yield from self._read_one(path)
            except UnicodeDecodeError as error:
                raise InvalidData(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
            except OSError as error:
                raise InvalidData(f"{path} cannot be read: {error.strerror or error}") from None

    def keep(self, cursor: str) -> None:
        """Nothing to keep."""
