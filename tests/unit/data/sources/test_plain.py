"""The fast way through delimited text gives what the slow one does, whatever the text."""

import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.data.sources import plain
from rung.data.sources.delimited import read_rows
from rung.data.sources.plain import read_plain
from rung.domain.datasets import Piece
from rung.domain.errors import InvalidData
from rung.offline.scoring.wanted import Chosen, typed

CELL = st.one_of(
    st.sampled_from(["", "1", "-2.5", "007", " x ", "ä€", "a b", "\u2028", "\x0b", "\0", "\r", "'"]),
    st.sampled_from(['"', '"q"', '"a,b"', '"two\nlines"', 'in"side']),
)
PLAIN = st.sampled_from(["", "1", "-2.5", "007", " x ", "ä€", "a b", "\u2028", "\x0b"])


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A header of two or three names, and lines most of which have as many fields."""
    width = draw(st.integers(2, 3))
    cell = draw(st.sampled_from([PLAIN, CELL]))
    lines = [",".join(["a", draw(st.sampled_from(["b", '"b"', " b "])), "c"][:width])]
    for _ in range(draw(st.integers(0, 8))):
        count = width if draw(st.integers(0, 9)) else draw(st.integers(0, 4))
        lines.append(",".join(draw(cell) for _ in range(count)))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    return end.join(lines) + draw(st.sampled_from(["", end, end + end]))


def together(pieces: Any) -> tuple[list[tuple[Any, ...]], list[int], list[tuple[int, str, str]], list[str]]:
    rows: list[tuple[Any, ...]] = []
    numbers: list[int] = []
    refused: list[tuple[int, str, str]] = []
    names: list[str] = []
    for piece in pieces:
        assert isinstance(piece, Piece)
        rows += piece.frame.rows()
        numbers += list(piece.numbers)
        refused += [(one.row, one.reason, one.value) for one in piece.refused]
        names = piece.frame.columns
        assert all(dtype == pl.String for dtype in piece.frame.dtypes)
    return rows, numbers, refused, names


def both(path: Path, quote: str, columns: list[str] | None = None) -> tuple[Any, Any]:
    def slow(lines: Any, names: list[str] | None, before: int) -> Any:
        return read_rows(lines, str(path), ",", names, quote, before)

    fast = together(read_plain(path, ",", columns, quote, slow, 3))
    with path.open(newline="", encoding="utf-8-sig") as file:
        return fast, together(read_rows(file, str(path), ",", columns, quote))


@settings(max_examples=300, deadline=None)
@given(text=texts(), quote=st.sampled_from(['"', ""]), size=st.integers(1, 40), mark=st.booleans())
def test_it_gives_what_the_slow_way_gives(text: str, quote: str, size: int, mark: bool) -> None:
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "_BYTES", size)
        path = Path(place, "rows.csv")
        path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + text.encode())
        fast, slow = both(path, quote)
        assert fast[:3] == slow[:3]
        assert fast[3] == slow[3] or not slow[0]
        given_names, slow_names = both(path, quote, ["x", "y"])
        assert given_names[:3] == slow_names[:3]


def test_what_is_no_text_is_said_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "_BYTES", 8)
    path = tmp_path / "rows.csv"
    path.write_bytes(b"a,b\n1,2\n3,4\n5,\xff\n")
    with pytest.raises(UnicodeDecodeError) as caught:
        list(read_plain(path, ",", None, '"', lambda lines, names, before: iter(()), 10))
    assert caught.value.start == 14


def test_a_header_that_will_not_do_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    for text, said in (("", "is empty"), ("a,a\n1,2\n", "names the column 'a' twice")):
        path.write_text(text)
        with pytest.raises(InvalidData, match=said):
            both(path, '"')


FORMS = st.one_of(
    st.floats().map(repr),
    st.integers(-(2**70), 2**70).map(str),
    st.text("0123456789+-.eE_xXinfaNy \t\x0b", max_size=6),
    st.sampled_from(
        ["inf", "-Infinity", "NaN", "1e999", "1_0", "0x1", "+.5", "5.", "1f", "1d", "\u22121", "\u2007 1", " 1 "]
    ),
)


@settings(max_examples=300, deadline=None)
@given(rows=st.lists(st.tuples(FORMS, FORMS), max_size=6))
def test_read_as_numbers_at_once_they_are_those_that_their_text_gives(rows: list[tuple[str, str]]) -> None:
    chosen = Chosen(("a", "b"), {"a": "number", "b": "number"})

    def read(path: Path, numeric: set[str]) -> tuple[Any, list[str]]:
        def slow(lines: Any, names: list[str] | None, before: int) -> Any:
            return read_rows(lines, str(path), ",", names, '"', before)

        frames, reasons = [pl.DataFrame(schema={"a": pl.Float64, "b": pl.Float64})], []
        for piece in read_plain(path, ",", None, '"', slow, 3, numeric):
            frame, good, refused = typed(piece.frame, chosen, str(path), piece.numbers)
            frames.append(frame.filter(good))
            reasons += [(one.row, one.reason) for one in refused]
        return pl.concat(frames), reasons

    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "rows.csv")
        path.write_text("a,b\n" + "".join(f"{a},{b}\n" for a, b in rows))
        (slow, refused), (fast, also) = read(path, set()), read(path, {"a", "b"})
        assert fast.equals(slow)
        assert also == refused


def test_numbers_come_as_such_and_where_one_is_none_all_of_the_piece_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain, "_BYTES", 8)
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n3,4\n5,x\n7,8\n")
    pieces = list(read_plain(path, ",", None, '"', lambda lines, names, before: iter(()), 10, {"b", "c"}))
    assert [piece.frame.dtypes[1] for piece in pieces] == [pl.Float64, pl.String]
    assert [piece.frame.dtypes[0] for piece in pieces] == [pl.String, pl.String]
    assert [piece.loose for piece in pieces] == [["a"], ["a", "b"]]
