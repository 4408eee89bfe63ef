import numpy as np
import pytest

from rung.training.differences import Tolerance

CLOSE = Tolerance(1e-3, 1e-4)


def array(*values, dtype=np.float32):
    return np.array(values, dtype)


def test_the_furthest_value_is_named_with_its_place():
    found = CLOSE.values({"y": array([1.0, 2.0], [3.0, 4.0])}, {"y": array([1.0, 2.1], [3.5, 4.0])})
    assert found["y"].where == "[1, 0]"
    assert (found["y"].logged, found["y"].replayed) == (3.0, 3.5)


def test_columns_are_compared_each_by_itself():
    columns = {"x": ("age", "size", "size")}
    found = CLOSE.values({"x": array([1, 2, 3])}, {"x": array([1, 2.5, 9])}, columns)
    assert set(found) == {"size"}
    assert (found["size"].logged, found["size"].replayed, found["size"].where) == (3, 9, "")


@pytest.mark.parametrize(
    ("was", "now", "apart"),
    [
        (array(np.nan), array(np.nan), False),
        (array(np.inf), array(np.inf), False),
        (array(np.inf), array(1.0), True),
        (array(1.0), array(np.nan), True),
        (array(1000.0), array(1000.9), False),
        (array(0.0), array(2e-4), True),
        (array(), array(), False),
        (array(1, dtype=np.int64), array(2, dtype=np.int64), True),
        (array("a", dtype=object), array(b"a", dtype=object), False),
        (array("a", dtype=object), array("b", dtype=object), True),
        (array(1.0), array("yes", dtype=object), True),
        (array(1.0), array(1.0, 1.0), True),
    ],
)
def test_what_counts_as_apart(was, now, apart):
    assert bool(CLOSE.values({"y": was}, {"y": now})) is apart


def test_bit_patterns_are_compared_as_the_numbers_that_they_are():
    one, more = (np.float32(value).view(np.uint32) >> 16 for value in (1.0, 1.1))
    was, now = {"y": array(one, dtype=np.uint16)}, {"y": array(more, dtype=np.uint16)}
    assert not CLOSE.values(was, now)
    found = CLOSE.values(was, now, bfloat={"y"})["y"]
    assert (found.logged, found.replayed) == (1.0, pytest.approx(1.1, abs=0.01))


def test_summaries_name_the_figure():
    was = {"y": (2.0, 1.0, 3.0), "gone": (0.0, 0.0, 0.0)}
    found = CLOSE.summaries(was, {"y": array(1.0, 2.0, 3.0, np.nan)})
    assert set(found) == {"gone"}
    assert CLOSE.summaries(was, {"y": array(1.0, 9.0)})["y"].where == " greatest"
    assert not CLOSE.summaries({"y": (0.0, 0.0, 0.0)}, {"y": array(np.nan)})
