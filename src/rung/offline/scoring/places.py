"""From the word behind `--out` to a sink."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from rung.domain.errors import ConfigurationError
from rung.offline.scoring.order import Order
from rung.offline.scoring.results import Answers, files_of
from rung.offline.scoring.sinks import Appended, Parts, Pictures, Sink, appended

if TYPE_CHECKING:
    from rung.offline.scoring.answering import Answerer

__all__ = ["Place", "open_sink", "place_of"]


class Place(msgspec.Struct, frozen=True):
    """Where a result and what belongs to it lie."""

    kind: str
    """`file`, `folder`, `table` or `scores`."""
    target: Path
    work: Path
    """Folder of the journal and of what is not finished."""
    manifest: Path
    """Written last: what was scored, by which version, with which counts."""
    refused: Path
    """JSON lines of rows that were not answered, with reasons; absent where there are none."""


def place_of(order: Order, folder: Path) -> Place:
    """Where the result of an order goes.

    Raises:
        ConfigurationError: it is nowhere that rung can write.
    """
    out = order.out
    if out == "scores:" or out.startswith(("sqlite:", "postgresql:")):
        kind = "scores" if out == "scores:" else "table"
        if not order.key:
            raise ConfigurationError(f"--out {out.partition('?')[0]} needs --key: by what a row of the table is found")
        # One journal for each table and model, so that two runs into the same rows do not mix.
        work = folder / ".rung" / "scoring" / hashlib.sha256(f"{out}\0{order.model}".encode()).hexdigest()[:16]
        return Place(kind, work, work, work / "manifest.json", work / "refused.jsonl")
    target = folder / out
    if appended(target.suffix.lower()) or target.suffix.lower() == ".parquet":
        if target.is_dir():
            raise ConfigurationError(f"{target} is a folder, and the result is to be a file of this name")
        if not target.parent.is_dir():
            raise ConfigurationError(f"there is no folder {target.parent} for the result")
        work = target.with_name(f".{target.name}.scoring")
        manifest = target.with_name(f"{target.name}.manifest.json")
        return Place("file", target, work, manifest, target.with_name(f"{target.name}.refused.jsonl"))
    if target.suffix and not target.is_dir():
        raise ConfigurationError(
            f"{target.name} is no kind of file that rung writes: .csv, .tsv, .jsonl and .parquet are; a name without a "
            "suffix is a folder, sqlite:PATH?table=NAME a table, scores: the project's own"
        )
    if target.is_file():
        raise ConfigurationError(f"{target} is a file, and the result is to be a folder of this name")
    return Place("folder", target, target / ".scoring", target / "manifest.json", target / "refused.jsonl")


def open_sink(order: Order, place: Place, answerer: "Answerer", as_of: str, folder: Path, store: str) -> Sink:
    """The sink of an order; tells the answerer to make files, where it takes files.

    `store` is the URL of the project's database.

    Raises:
        ConfigurationError: the database or its table cannot be written.
    """
    if place.kind in ("table", "scores"):
        from rung.offline.scoring import tables

        identity = tables.Identity(answerer.manifest.name, answerer.manifest.version, as_of)
        if place.kind == "scores":
            from rung.offline.scoring.scores import Scores

            return Scores(store, identity, order.key, order.group, answerer.answers, days=order.days)
        return tables.open_table(order.out, msgspec.structs.asdict(identity), order.key, folder)
    suffix = place.target.suffix.lower()
    encode = appended(suffix)
    if encode is not None:
        return Appended(place.target, place.work, encode)
    if suffix == ".parquet" and place.kind == "file":
        return Parts(place.target, place.work, one_file=True)
    files: tuple[Answers, str] | None = files_of(answerer.answers)
    if files is None:
        return Parts(place.target, place.work, one_file=False)
    answerer.answers = files[0]
    return Pictures(place.target, files[1])
