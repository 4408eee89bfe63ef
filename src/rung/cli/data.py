"""Bodies of `rung data`: versions of the rows that a model learns from, by hand."""

from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from rung.cli.printing import print_json, print_table
from rung.data import datasets
from rung.domain.datasets import DatasetVersion, Quarantined
from rung.domain.errors import ConfigurationError, NotFound
from rung.ports import BlobStore
from rung.settings.file import project_here
from rung.settings.project import DataSection, ModelSettings
from rung.store.blobs import open_store

__all__ = ["ingest", "list_versions", "show"]

_REFUSED = 5
"""Refused rows that are printed; `--json` has the first 1,000."""
_WIDE = 40


def ingest(name: str, source: str, place: str, *, as_json: bool) -> None:
    """Take in what the source has beyond the newest version.

    Raises:
        ConfigurationError: nothing says where the rows are.
        InvalidData: they are empty, unreadable, or broke off; the versions are as they were.
    """
    store, section = _store(place), _section(name, source)
    before = datasets.latest(store, name)
    version = datasets.ingest(store, name, section, Path())
    refused = datasets.quarantined(store, name, version.digest)
    if as_json:
        print_json({"version": _told(version), "new": version != before})
        return
    if version == before:
        print(f"nothing new: {_line(version)}")
        return
    more = f", {version.rows - before.rows:+,} rows" if before is not None else ""
    print(f"{_line(version)}{more}")
    _print_refused(version, refused)


def list_versions(name: str, place: str, *, as_json: bool) -> None:
    """All versions, newest first."""
    store = _store(place)
    names = [name] if name else sorted({blob.key.split("/")[1] for blob in store.list("datasets")})
    found = [version for one in names for version in reversed(datasets.versions(store, one))]
    if as_json:
        print_json([_told(version) for version in found])
    elif found:
        rows = [
            [one.name, one.digest[:12], f"{one.rows:,}", f"{one.quarantined:,}", one.created, one.source]
            for one in found
        ]
        print_table(["model", "version", "rows", "refused", "taken in", "source"], rows)
    else:
        print("there is no data yet; rung data ingest MODEL takes some in")


def show(name: str, digest: str, rows: int, place: str, *, as_json: bool) -> None:
    """One version.

    Raises:
        NotFound: there is none.
        InvalidData: a part of it is gone or damaged.
    """
    store = _store(place)
    version = datasets.load(store, name, digest) if digest else datasets.latest(store, name)
    if version is None:
        raise NotFound(f"there is no data of {name} yet; rung data ingest {name} takes some in")
    refused = datasets.quarantined(store, name, version.digest)
    if as_json:
        print_json({**_told(version), "columns": version.columns, "refused": refused})
        return
    print(_line(version))
    size = sum(part.size for part in version.parts)
    print(f"  source   {version.source}, taken in {version.created}")
    print(f"  parts    {len(version.parts)} Parquet files, {size:,} bytes")
    if version.cursor:
        print(f"  cursor   {version.cursor}")
    if version.parent:
        print(f"  follows  {version.parent[:12]}")
    print()
    first = [row for frame in islice(datasets.scan(store, version, rows=max(rows, 1)), 1) for row in frame.to_dicts()]
    samples = [[_cell(row[column]) for row in first[:rows]] for column in version.columns]
    head = ["column", "kind", *(f"row {number}" for number in range(1, len(first[:rows]) + 1))]
    kinds = version.columns.items()
    print_table(head, [[column, kind, *cells] for (column, kind), cells in zip(kinds, samples, strict=True)])
    _print_refused(version, refused)


def _store(place: str) -> BlobStore:
    return open_store(place or project_here().project.data)


def _section(name: str, source: str) -> DataSection:
    settings = project_here()
    if name not in settings.models and not source:
        known = f"there are {', '.join(settings.models)}" if settings.models else "there is no rung.toml here"
        raise ConfigurationError(f"no model {name!r} in rung.toml; {known}. --source URL names rows without it")
    section = settings.models.get(name, ModelSettings()).dataset
    if source:
        return msgspec.structs.replace(section, source=source)
    if not section.source:
        raise ConfigurationError(f'[models.{name}] says no data: write data = "URL", or name rows with --source URL')
    return section


def _told(version: DatasetVersion) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(version)
    return told | {"rows": version.rows}


def _line(version: DatasetVersion) -> str:
    return f"{version.name} data {version.digest[:12]}: {version.rows:,} rows, {len(version.columns)} columns"


def _print_refused(version: DatasetVersion, refused: list[Quarantined]) -> None:
    if not version.quarantined:
        return
    print(f"{version.quarantined:,} rows were refused:" if refused else f"{version.quarantined:,} rows refused before")
    for one in refused[:_REFUSED]:
        print(f"  {one.source} row {one.row}: {one.reason}")
    if len(refused) > _REFUSED:
        print(f"  and more: rung data show {version.name} {version.digest[:12]} --json")


def _cell(value: Any) -> str:
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    text = "-" if value is None else str(value).replace("\n", " ")
    return text if len(text) <= _WIDE else text[: _WIDE - 1] + "…"
