"""Bodies of `rung data profile|check`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from rung.catalog import models
from rung.cli.printing import print_json, print_table
from rung.cli.train import model_of
from rung.data import datasets, validation
from rung.data.profile import make
from rung.data.profile_report import write
from rung.data.sources import without_password
from rung.domain.errors import ConfigurationError, NotFound
from rung.domain.profiles import ColumnProfile, Profile
from rung.ports import BlobStore
from rung.settings.file import FILE, load_project
from rung.settings.project import DataSection
from rung.store.blobs import open_store

if TYPE_CHECKING:
    import polars as pl

__all__ = ["check", "profile"]

_WORDS = {"fail": "red", "warn": "yellow", "inconclusive": "unclear"}


def profile(what: str, out: Path, *, as_json: bool) -> None:
    """Print a profile, and write its page and pictures."""
    title, section, frame = _rows(what)
    made = make(frame, label=section.label, time=section.time, key=section.key)
    findings = validation.check(frame, None, section)
    page = write(out, title, frame, made, findings)
    if as_json:
        print_json(made)
        return
    print(f"{title}  {made.rows:,} rows, {len(made.columns)} columns")
    print_table(("COLUMN", "KIND", "NULLS", "DIFFERENT", "LOOKS LIKE"), [_line(*one) for one in made.columns.items()])
    for finding in findings:
        print(f"{_WORDS[finding.verdict]}: {finding.text}")
    print(f"page  {page}")


def check(model: str, source: str, against: int | None, *, fresh: bool, as_json: bool) -> None:
    """Print what is wrong; exit with 1 when something is red."""
    name, section, store = _place_of(model)
    if source:
        _, _, frame = _rows(source)
    else:
        frame = datasets.frame(store, datasets.ingest(store, name, section, Path()))
    baseline, version = _baseline(name, against)
    findings = validation.check(frame, baseline, section, fresh=fresh)
    red = any(finding.verdict == "fail" for finding in findings)
    if as_json:
        print_json({"rows": frame.height, "against": version, "red": red, "findings": msgspec.to_builtins(findings)})
    else:
        compared = f"compared with version {version}" if version else "alone: there is no version to compare with"
        # Sorted by how bad they are.
        verdict = _WORDS[findings[0].verdict] if findings else "all is well"
        print(f"{name}  {frame.height:,} rows, {compared}: {verdict}")
        for finding in findings:
            print(f"  {_WORDS[finding.verdict]:<8} {finding.fault}: {finding.text}")
    if red:
        sys.exit(1)


def _place_of(model: str) -> tuple[str, DataSection, BlobStore]:
    project = load_project(Path())
    name, settings = model_of(project, model)
    if not settings.dataset.source:
        raise ConfigurationError(f'[models.{name}] says no data: add data = "csv:FILE" or data = "module:function"')
    return name, settings.dataset, open_store(project.project.data)


def _rows(what: str) -> tuple[str, DataSection, "pl.DataFrame"]:
    """Rows of a model of this project, or of a source."""
    here = load_project(Path()).models if Path(FILE).exists() else {}
    if what in here or (not what and here):
        name, section, store = _place_of(what)
        return name, section, datasets.frame(store, datasets.ingest(store, name, section, Path()))
    if not what:
        raise NotFound(f"name a model of the project, or a source such as rows.csv: there is no {FILE} here")
    return without_password(what), DataSection(source=what), datasets.read(what, Path())


def _baseline(name: str, version: int | None) -> tuple[Profile | None, int]:
    repository = open_store(load_project(Path()).project.repository)
    try:
        manifest = models.show(repository, name, version)
    except NotFound:
        if version is not None:
            raise
        return None, 0
    if not manifest.profile:
        return None, 0
    content = repository.get(f"{name}/{manifest.version}/{manifest.profile}")
    return msgspec.json.decode(content, type=Profile), manifest.version


def _line(name: str, column: ColumnProfile) -> tuple[str, str, str, str, str]:
    if column.quantiles:
        low, middle, high = (column.quantiles[place] for place in (0, len(column.quantiles) // 2, -1))
        looks = f"{low:.4g} ... {middle:.4g} ... {high:.4g}"
    elif column.top and column.distinct < 1000:
        looks = ", ".join(f"{value[:20]} ({count:,})" for value, count in column.top[:4])
    else:
        looks = f"{column.size:,.0f} on average" if column.size is not None else ""
    return name, column.kind, f"{column.nulls:,}", f"{column.distinct:,}" if column.distinct else "", looks
