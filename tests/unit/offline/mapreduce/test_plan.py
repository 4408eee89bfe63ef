"""Chunks: every row of a source is in one of them."""

import tempfile
from pathlib import Path

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.domain.datasets import Quarantined
from rung.domain.errors import ConfigurationError
from rung.offline.mapreduce import plan
from rung.offline.mapreduce.plan import Plan, chunks_of, fingerprint, functions, rows_of

LINES = st.lists(st.sampled_from([b'{"n": 1}', b"", b'{"n": 22}', b"no", b"[1]", b'{"text": "' + b"x" * 30 + b'"}']))


@settings(max_examples=100, deadline=None)
@given(lines=LINES, size=st.integers(1, 60), end=st.sampled_from([b"", b"\n"]))
def test_every_line_is_in_one_range(lines: list[bytes], size: int, end: bytes) -> None:
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "_BYTES", size)
        folder = Path(place)
        (folder / "rows.jsonl").write_bytes(b"\n".join(lines) + end)
        refused: list[Quarantined] = []
        found = [
            row
            for chunk in chunks_of(Plan(module="m", source="jsonl:rows.jsonl", out="o.csv", folder=place))
            for row, _ in rows_of(chunk, folder, refused)
        ]

    assert found == [msgspec.json.decode(line) for line in lines if line.startswith(b"{")]
    assert [one.value for one in refused] == [line.decode() for line in lines if line in (b"no", b"[1]")]


def test_parquet_is_read_in_ranges_and_csv_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_ROWS", 4)
    monkeypatch.setattr(plan, "_STEP", 3)
    for name, start in (("a", 0), ("b", 10)):
        pl.DataFrame({"n": range(start, start + 10)}).write_parquet(tmp_path / f"{name}.parquet")
        pl.DataFrame({"n": range(start, start + 10)}).write_csv(tmp_path / f"{name}.csv")

    for source, count in (("parquet:*.parquet", 6), ("csv:*.csv", 2)):
        chunks = chunks_of(Plan(module="m", source=source, out="o.csv", folder=str(tmp_path)))
        rows = [row for chunk in chunks for row in rows_of(chunk, tmp_path, [])]
        assert len(chunks) == count
        assert [int(row["n"]) for row, _ in rows] == list(range(20))


def test_what_a_map_reduce_is_shows_in_its_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("n\n1\n")
    one = Plan(module="mine", source="rows.csv", out="o.csv", folder=str(tmp_path))
    seen = {fingerprint(one, chunks_of(one))}
    (tmp_path / "rows.csv").write_text("n\n12\n")
    seen.add(fingerprint(one, chunks_of(one)))
    (tmp_path / "mine.py").write_text("def map(row): ...")
    seen.add(fingerprint(one, chunks_of(one)))
    other = msgspec.structs.replace(one, parts=3)
    seen.add(fingerprint(other, chunks_of(other)))

    assert len(seen) == 4


def test_functions_are_found_and_one_may_be_absent(tmp_path: Path) -> None:
    (tmp_path / "only_two_of_them.py").write_text("def map(row): ...\ndef reduce(key, values): ...\n")
    assert functions("only_two_of_them", tmp_path).combine is None
    (tmp_path / "only_one_of_them.py").write_text("def map(row): ...\n")
    with pytest.raises(ConfigurationError, match="has no reduce"):
        functions("only_one_of_them", tmp_path)
    with pytest.raises(ConfigurationError, match="there is no"):
        functions("none_of_them", tmp_path)
