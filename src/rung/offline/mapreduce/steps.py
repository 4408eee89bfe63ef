"""The steps of a map-reduce, each a function from files to files, the same whoever does it and however often.

    WORK/map-00003/part-002.pairs     pairs of chunk 3 whose keys fall into part 2, by key
    WORK/reduce-002.rows              what the keys of part 2 were reduced to

A step writes beside its place and moves there what is whole, so that of two who do it one is as good as the other.
Memory holds some hundred thousand pairs, however many there are of one key.
"""

import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from heapq import merge
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec

from rung.domain.datasets import Quarantined
from rung.domain.errors import InvalidData, InvalidInput, RungError
from rung.offline.mapreduce import plan
from rung.offline.mapreduce.plan import Chunk, Functions

__all__ = ["Mapped", "Reduced", "map_chunk", "part_of", "reduce_part", "rows_of"]

_PAIRS = 200_000
"""Pairs that are held before they go to the disk."""
_OPEN = 200
"""Files that are merged at once."""

_Pair = tuple[bytes, bytes]
"""Key and value, as JSON."""
_encode_key = msgspec.json.Encoder(order="deterministic").encode
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Mapped(msgspec.Struct, frozen=True):
    """What a chunk gave."""

    rows: int
    pairs: int
    """After combining: what travels."""
    refused: int


class Reduced(msgspec.Struct, frozen=True):
    """What a part gave."""

    keys: int
    rows: int


def part_of(key: bytes, parts: int) -> int:
    """The part that a key falls into, the same everywhere and for ever."""
    return zlib.crc32(key) % parts


def map_chunk(chunk: Chunk, number: int, calls: Functions, work: Path, folder: Path, parts: int, token: str) -> Mapped:
    """Map the rows of a chunk, combine what has one key, and leave the pairs by part and in the order of keys.

    Args:
        chunk: which rows.
        number: of the chunk.
        calls: the user's functions.
        work: folder of the whole.
        folder: that relative paths begin at.
        parts: how many there are.
        token: another one for each who tries.

    Raises:
        InvalidData: the rows cannot be read, or a pair is none.
    """
    target = work / f"map-{number:05d}"
    draft = work / f".map-{number:05d}.{token}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    held: dict[bytes, list[bytes]] = {}
    count = rows = runs = 0
    refused: list[Quarantined] = []
    for row, place in plan.rows_of(chunk, folder, refused):
        rows += 1
        try:
            for key, value in calls.map(row) or ():
                held.setdefault(_key(key), []).append(_plain(value, "value"))
                count += 1
        except InvalidInput as error:
            # The function's own word for a row that it does not take.
            refused.append(Quarantined(chunk.url, place, str(error), repr(row)[:200]))
        except RungError:
            raise
        except Exception as error:
            raise InvalidData(f"map failed at row {place} of {chunk.url}: {type(error).__name__}: {error}") from error
        if count >= _PAIRS:
            _spill(held, draft / f"run-{runs:05d}", calls)
            held, count, runs = {}, 0, runs + 1
    _spill(held, draft / f"run-{runs:05d}", calls)
    pairs = _divide(sorted(draft.glob("run-*")), draft, calls, parts)
    if refused:
        (draft / "refused.jsonl").write_bytes(b"".join(_encode(one) + b"\n" for one in refused))
    _put(draft, target)
    return Mapped(rows, pairs, len(refused))


def _key(value: Any) -> bytes:
    try:
        return _encode_key(value)
    except (TypeError, ValueError) as error:
        raise InvalidData(f"map gave a key that is no plain JSON value: {error}") from None


def _plain(value: Any, what: str) -> bytes:
    try:
        return _encode(value)
    except (TypeError, ValueError) as error:
        raise InvalidData(f"map gave a {what} that is no plain JSON value: {error}") from None


def _spill(held: dict[bytes, list[bytes]], path: Path, calls: Functions) -> None:
    """Write pairs by key, combined."""
    with path.open("wb") as file:
        for key in sorted(held):
            for value in _combined(key, held[key], calls):
                file.write(b"%s\t%s\n" % (key, value))


def _combined(key: bytes, values: Iterable[bytes], calls: Functions) -> Iterable[bytes]:
    if calls.combine is None:
        return values
    some = [_decode(value) for value in values]
    return [_plain(calls.combine(_decode(key), some) if len(some) > 1 else some[0], "value")]


def _divide(runs: list[Path], folder: Path, calls: Functions, parts: int) -> int:
    """Merge the runs of a chunk into one file for each part; returns the pairs."""
    pairs = 0
    with ExitStack() as stack:
        files = [stack.enter_context((folder / f"part-{part:03d}.pairs").open("wb")) for part in range(parts)]
        for key, found in groupby(_merged(runs, folder), itemgetter(0)):
            file = files[part_of(key, parts)]
            for value in _combined(key, (pair[1] for pair in found), calls):
                file.write(b"%s\t%s\n" % (key, value))
                pairs += 1
    for run in runs:
        run.unlink()
    return pairs


def _merged(files: list[Path], scratch: Path) -> Iterator[_Pair]:
    """Pairs of sorted files by key; those of one key in the order of the files."""
    level = 0
    while len(files) > _OPEN:
        # Too many to be open at once: groups of them become one.
        joined = []
        for number, start in enumerate(range(0, len(files), _OPEN)):
            path = scratch / f"merged-{level}-{number:05d}"
            with path.open("wb") as file:
                file.writelines(b"%s\t%s\n" % pair for pair in _merged(files[start : start + _OPEN], scratch))
            joined.append(path)
        files, level = joined, level + 1
    with ExitStack() as stack:
        # `merge` keeps the order of its arguments among equal keys.
        yield from merge(*(_pairs(stack.enter_context(path.open("rb"))) for path in files), key=itemgetter(0))


def _pairs(file: Iterable[bytes]) -> Iterator[_Pair]:
    for line in file:
        # JSON has no raw tab.
        key, _, value = line.rstrip(b"\n").partition(b"\t")
        yield key, value


def reduce_part(part: int, chunks: int, calls: Functions, work: Path, token: str) -> Reduced:
    """Reduce every key of a part, once, over all chunks.

    Raises:
        InvalidData: the function failed, or gave what is no row.
    """
    draft = work / f".reduce-{part:03d}.{token}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    files = [work / f"map-{number:05d}" / f"part-{part:03d}.pairs" for number in range(chunks)]
    keys = rows = 0
    with (draft / "rows").open("wb") as file:
        for key, found in groupby(_merged(files, draft), itemgetter(0)):
            keys += 1
            for row in _reduced(key, (_decode(pair[1]) for pair in found), calls):
                file.write(row + b"\n")
                rows += 1
    (draft / "rows").replace(work / f"reduce-{part:03d}.rows")
    shutil.rmtree(draft, ignore_errors=True)
    return Reduced(keys, rows)


def _reduced(key: bytes, values: Iterator[Any], calls: Functions) -> list[bytes]:
    plain = _decode(key)
    try:
        made = calls.reduce(plain, values)
        for _ in values:  # what it did not want to see
            pass
        rows = [] if made is None else [made] if isinstance(made, dict) else list(made)
    except RungError:
        raise
    except Exception as error:
        raise InvalidData(f"reduce failed at the key {plain!r:.200}: {type(error).__name__}: {error}") from error
    for row in rows:
        if not isinstance(row, dict):
            raise InvalidData(f"reduce gave a {type(row).__name__} for the key {plain!r:.200}: a row is a dict")
    return [_plain(row, "row") for row in rows]


def rows_of(part: int, work: Path) -> Iterator[dict[str, Any]]:
    """What a part was reduced to, in the order of its keys."""
    with (work / f"reduce-{part:03d}.rows").open("rb") as file:
        for line in file:
            yield _decode(line)


def _put(draft: Path, target: Path) -> None:
    try:
        draft.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        # Somebody else was faster; what is there is the same.
        shutil.rmtree(draft, ignore_errors=True)
