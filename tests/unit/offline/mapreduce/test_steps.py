"""Any rows, through chunks, runs and parts: each key is reduced once, over all that was mapped to it."""

import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.domain.errors import InvalidData, InvalidInput
from rung.offline.mapreduce import steps
from rung.offline.mapreduce.plan import Chunk, Functions

KEYS = st.one_of(st.text(max_size=3), st.integers(-3, 3), st.lists(st.integers(0, 2), max_size=2))
ROWS = st.lists(st.lists(st.tuples(KEYS, st.integers(-9, 9)), max_size=6), max_size=30)
"""Pairs of each row: none, one or many, and some keys far more frequent than others."""


def pairs(row: dict[str, Any]) -> Any:
    return [tuple(pair) for pair in row["pairs"]]


def total(key: Any, values: Any) -> dict[str, Any]:
    return {"key": msgspec.json.encode(key).decode(), "sum": sum(values)}


def add(key: Any, values: list[int]) -> int:
    return sum(values)


def reduced(rows: list[Any], chunks: int, parts: int, calls: Functions) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        for number in range(chunks):
            lines = [msgspec.json.encode({"pairs": row}) for row in rows[number::chunks]]
            (work / f"{number}.jsonl").write_bytes(b"\n".join(lines))
            steps.map_chunk(Chunk(f"jsonl:{number}.jsonl", 0, 1 << 30), number, calls, work, work, parts, "one")
        for part in range(parts):
            steps.reduce_part(part, chunks, calls, work, "one")
        return [row for part in range(parts) for row in steps.rows_of(part, work)]


@settings(max_examples=30, deadline=None)
@given(rows=ROWS, chunks=st.integers(1, 4), parts=st.integers(1, 4), held=st.integers(1, 9), at_once=st.integers(2, 5))
def test_each_key_is_reduced_once_over_all_its_values(
    rows: list[Any], chunks: int, parts: int, held: int, at_once: int
) -> None:
    wanted: dict[str, int] = defaultdict(int)
    for row in rows:
        for key, value in row:
            wanted[msgspec.json.encode(key).decode()] += value
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "_PAIRS", held)
        patch.setattr(steps, "_OPEN", at_once)
        combined = reduced(rows, chunks, parts, Functions(pairs, total, add))
        plain = reduced(rows, chunks, parts, Functions(pairs, total))

    assert combined == plain
    assert len(plain) == len(wanted)
    assert {row["key"]: row["sum"] for row in plain} == wanted


def test_values_of_a_key_come_in_the_order_of_the_rows() -> None:
    rows = [[("k", number), ("other", 0)] for number in range(20)]
    calls = Functions(pairs, lambda key, values: {"key": key, "values": list(values)})

    found = {row["key"]: row["values"] for row in reduced(rows, 1, 2, calls)}

    assert found["k"] == list(range(20))


def test_a_key_of_many_values_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_PAIRS", 100)
    most = 0

    def count(key: Any, values: Any) -> dict[str, Any]:
        return {"key": key, "count": sum(1 for _ in values)}

    real = steps._spill

    def watched(held: dict[bytes, list[bytes]], path: Path, calls: Functions) -> None:
        nonlocal most
        most = max(most, sum(map(len, held.values())))
        real(held, path, calls)

    monkeypatch.setattr(steps, "_spill", watched)
    rows = [[("hot", 1)] * 10 for _ in range(300)]

    assert reduced(rows, 2, 3, Functions(pairs, count)) == [{"key": "hot", "count": 3000}]
    assert most <= 110


def test_no_one_or_many_rows_come_of_a_key() -> None:
    def several(key: Any, values: Any) -> Any:
        return None if key == "none" else [{"key": key}] * (2 if key == "two" else 1)

    found = reduced([[("none", 1), ("two", 1), ("one", 1)]], 1, 1, Functions(pairs, several))

    assert sorted(row["key"] for row in found) == ["one", "two", "two"]


def test_a_row_that_the_function_does_not_take_is_refused_with_its_place(tmp_path: Path) -> None:
    def picky(row: dict[str, Any]) -> Any:
        if row["n"] == 2:
            raise InvalidInput("two is no number of ours")
        return [(row["n"], 1)]

    (tmp_path / "rows.jsonl").write_text('{"n": 1}\n{"n": 2}\nnonsense\n{"n": 3}\n')

    done = steps.map_chunk(
        Chunk("jsonl:rows.jsonl", 0, 1 << 30), 0, Functions(picky, total), tmp_path, tmp_path, 1, "one"
    )

    refused = [
        msgspec.json.decode(line) for line in (tmp_path / "map-00000" / "refused.jsonl").read_bytes().splitlines()
    ]
    assert (done.rows, done.pairs, done.refused) == (3, 2, 2)
    assert {one["row"]: one["reason"][:8] for one in refused} == {3: "no JSON:", 2: "two is n"}


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        (Functions(lambda row: 1 / 0, total), "map failed at row 1 .* ZeroDivisionError"),
        (Functions(lambda row: [(object(), 1)], total), "a key that is no plain"),
        (Functions(lambda row: [(1, object())], total), "a value that is no plain"),
        (Functions(pairs, lambda key, values: 1 / 0), "reduce failed at the key 'k'"),
        (Functions(pairs, lambda key, values: [3]), "a row is a dict"),
    ],
)
def test_a_function_that_fails_says_where(calls: Functions, said: str) -> None:
    with pytest.raises(InvalidData, match=said):
        reduced([[("k", 1)]], 1, 1, calls)


def test_of_two_who_do_a_chunk_one_is_as_good_as_the_other(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(msgspec.json.encode({"pairs": [["k", 1]]}))
    arguments = (Chunk("jsonl:rows.jsonl", 0, 1 << 30), 0, Functions(pairs, total, add), tmp_path, tmp_path, 2)

    first = steps.map_chunk(*arguments, "one")
    second = steps.map_chunk(*arguments, "two")

    assert first == second
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".map")] == []
