import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.domain.errors import InvalidData
from rung.fleet.planning.traces import Trace, arrivals, read_trace


def write(folder, text: str, name: str = "trace.csv"):
    path = folder / name
    path.write_text(text)
    return path


def test_counts_per_interval_with_a_gap(tmp_path):
    lines = ["timestamp,value", "2014-04-10 00:04:00,94.0", "2014-04-10 00:09:00,56.0", "2014-04-10 00:19:00,100.0"]
    trace = read_trace(write(tmp_path, "\n".join(lines)))
    assert trace.width == 300.0
    assert trace.counts.tolist() == [94.0, 56.0, 78.0, 100.0]
    assert (trace.filled, trace.seconds, trace.total) == (1, 1200.0, 328.0)
    assert trace.rates[0] == pytest.approx(94 / 300)


def test_a_line_a_request(tmp_path):
    lines = [
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        "2023-11-16 18:15:46.6805900,374,44",
        "2023-11-16 18:15:46.9951690,396,109",
        "2023-11-16 18:15:49.2224670,879,55",
    ]
    trace = read_trace(write(tmp_path, "\n".join(lines)))
    assert (trace.width, trace.counts.tolist()) == (1.0, [2.0, 0.0, 0.0, 1.0])


def test_compressed_and_by_the_second_since_the_epoch(tmp_path):
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(gzip.compress(b"period,count\n60,5\n0,4\n120,6\n"))
    trace = read_trace(path)
    assert (trace.start, trace.width, trace.counts.tolist()) == (0.0, 60.0, [4.0, 5.0, 6.0])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "no column of times"),
        ("", "no column of times"),
        ("time,value\n1,2\n", "holds 1 line: too few"),
        ("time,value\n1,2\nx,3\n", "line 3"),
        ("time,value\n1,2\n2,-3\n", "line 3: '-3' is no count"),
        ("time,value\n1,2\n2\n", "line 3"),
        ("time,value\n5,2\n5,3\n", "the same time"),
        ("time,value\n1,2\n2,3\n3,1\n1e9,3\n", "too far apart"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(tmp_path, text, said):
    with pytest.raises(InvalidData, match=said):
        read_trace(write(tmp_path, text))


def test_a_file_that_is_not_there_or_is_no_text(tmp_path):
    with pytest.raises(InvalidData, match="cannot be read: No such file"):
        read_trace(tmp_path / "none.csv")
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidData, match="is no text"):
        read_trace(tmp_path / "bad.csv")
    (tmp_path / "bad.csv.gz").write_bytes(b"not compressed")
    with pytest.raises(InvalidData, match="cannot be read"):
        read_trace(tmp_path / "bad.csv.gz")


def test_sped_up_it_keeps_its_rates_and_scaled_its_shape():
    trace = Trace("t", 0.0, 60.0, np.array([60.0, 600.0]))
    fast = trace.sped(10.0)
    assert fast.seconds == 12.0
    assert fast.rates.tolist() == trace.rates.tolist()
    assert trace.scaled(3.0).rates.tolist() == [3.0, 30.0]
    assert trace.cut(60.0, 60.0).counts.tolist() == [600.0]
    with pytest.raises(InvalidData, match="nothing is in it 999 s after"):
        trace.cut(999.0, 1.0)


@given(st.lists(st.integers(0, 200), min_size=2, max_size=20), st.sampled_from([0.5, 60.0]))
def test_arrivals_are_in_order_and_about_as_many(counts, width):
    trace = Trace("t", 0.0, width, np.array(counts, float))
    times = arrivals(trace, np.random.default_rng(0))
    assert (np.diff(times) >= 0).all()
    assert not len(times) or (times[0] >= 0 and times[-1] <= trace.seconds)
    middles = (np.arange(len(counts)) + 0.5) * width
    at = np.linspace(0, trace.seconds, 4001)
    expected = float(np.trapezoid(np.interp(at, middles, trace.rates), at))
    assert abs(len(times) - expected) <= 5 * (expected + 10) ** 0.5
