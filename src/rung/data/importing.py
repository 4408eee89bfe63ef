"""Labels that lie in a file or a database: into the same log, under the same rules as `POST /feedback`."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

import msgspec

from rung.data.predictions import scan
from rung.domain.errors import ConfigurationError, InvalidInput, RungError
from rung.domain.feedback import KINDS, feedback_of
from rung.domain.identity import Keyring
from rung.domain.records import FeedbackRecord
from rung.ports import BlobStore
from rung.store.segment_writer import SegmentWriter

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Imported", "import_feedback", "rows_of"]

_BATCH = 1000
"""Events that share a sync."""
_REFUSALS = 1000
"""Refused rows that are told one by one; the rest is counted."""


class Imported(msgspec.Struct):
    """What an import did."""

    read: int = 0
    taken: int = 0
    known: int = 0
    """Rows whose event was in the log already."""
    refused: list[tuple[int, str]] = []
    """Number of a row, from 1, and why it was left out."""
    reasons: Counter[str] = msgspec.field(default_factory=Counter)
    """Class of the error -> rows refused."""


def rows_of(
    source: str, columns: Mapping[str, str], *, query: str = "", source_name: str = ""
) -> Iterator[dict[str, Any]]:
    """Read events from a CSV or Parquet file, or from a database by URL and query.

    Args:
        source: path of a file, or URL of a database such as `sqlite:labels.db` or `postgresql://...`.
        columns: field of an event (`id`, `label`, `time`, ...) -> name of its column.
        query: for a database.
        source_name: what `source` says in events that have no column for it.

    Raises:
        ConfigurationError: the source cannot be read.
        InvalidInput: it has no such column.
    """
    table = _query(source, query) if query else _file(Path(source))
    for field, column in columns.items():
        if column not in table.columns:
            raise InvalidInput(f"{source} has no column {column!r}; there are {', '.join(table.columns)}", field=field)
    for row in table.select(list(dict.fromkeys(columns.values()))).iter_rows(named=True):
        item = {field: _plain(row[column]) for field, column in columns.items()}
        for field in ("event", "source"):  # a number will do as a name
            if item.get(field) is not None:
                item[field] = str(item[field])
        if source_name and item.get("source") is None:
            item["source"] = source_name
        yield {field: value for field, value in item.items() if value is not None}


def import_feedback(
    rows: Iterable[Mapping[str, Any]],
    keyring: Keyring,
    models: Iterable[str],
    writer: SegmentWriter,
    log: Path,
    store: BlobStore,
) -> Imported:
    """Verify rows and write the good ones; what the log has already is not written again.

    `writer` is open. An event without an id of its own is named by its content, so running an import twice, or
    after it was killed, takes each row once.

    Raises:
        NotReady: the disk refuses; what was counted as taken before is safe.
    """
    done = Imported()
    names = frozenset(models)
    there = scan(store, log, table="feedback", columns=["id", "event"])
    known = set(zip(there["id"].to_list(), there["event"].to_list(), strict=True))
    batch: list[FeedbackRecord] = []
    for number, row in enumerate(rows, 1):
        done.read += 1
        try:
            record = _record(row, keyring, names)
        except RungError as error:
            done.reasons[type(error).__name__] += 1
            if len(done.refused) < _REFUSALS:
                done.refused.append((number, str(error)))
            continue
        if (record.id, record.event) in known:
            done.known += 1
            continue
        known.add((record.id, record.event))
        batch.append(record)
        if len(batch) >= _BATCH:
            done.taken += _write(writer, batch)
            batch = []
    done.taken += _write(writer, batch)
    return done


def _record(row: Mapping[str, Any], keyring: Keyring, models: frozenset[str]) -> FeedbackRecord:
    prediction = row.get("id")
    if not isinstance(prediction, str):
        raise InvalidInput(f"the id of a prediction is a text, not {prediction!r:.60}", field="id")
    said = [kind for kind in KINDS if row.get(kind) is not None]
    if not said:
        raise InvalidInput("the row says nothing: its label is empty")
    return feedback_of(row, keyring.verify(prediction, models), time())


def _write(writer: SegmentWriter, batch: list[FeedbackRecord]) -> int:
    if batch:
        writer.commit(batch, 400 * len(batch)).result()
    return len(batch)


def _file(path: Path) -> "pl.DataFrame":
    import polars as pl

    if not path.is_file():
        raise ConfigurationError(f"there is no file {path}: name a CSV or Parquet file, or a database with --query")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pl.read_parquet(path)
        # The whole column decides its type: `0, 1, n/a` is text, not numbers with a hole.
        return pl.read_csv(path, infer_schema_length=None)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ConfigurationError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None


def _query(url: str, query: str) -> "pl.DataFrame":
    import polars as pl
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError

    if url.startswith("sqlite:") and not url.startswith("sqlite://"):
        url = f"sqlite:///{url.removeprefix('sqlite:')}"
    if url.startswith("postgresql://"):
        url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    try:
        engine = create_engine(url)
        with engine.connect() as connection:
            result = connection.execute(text(query))
            names, found = list(result.keys()), [tuple(row) for row in result]
        engine.dispose()
    except (SQLAlchemyError, ImportError) as error:
        raise ConfigurationError(f"the query could not be run: {str(error).splitlines()[0]}") from None
    return pl.DataFrame(found, schema=names, orient="row", infer_schema_length=None, strict=False)


def _plain(value: Any) -> Any:
    """A cell as JSON has it. Times without a zone are UTC."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, str):
        return value.strip() or None
    return value
