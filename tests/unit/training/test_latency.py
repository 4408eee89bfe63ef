import itertools

import numpy as np
import polars as pl
import pytest

from rung.settings.project import DataSection
from rung.training.latency import compare, quantile


class Clocked:
    """Answers in the time that it is told to take, on a machine that something else slows now and then."""

    def __init__(self, seconds: float, machine: "itertools.count[int]", *, refuses: bool = False) -> None:
        self.seconds, self.machine, self.refuses = seconds, machine, refuses

    def columns(self, frame: pl.DataFrame, section: DataSection) -> tuple[str, ...]:
        return ("a",)

    def payload(self, part: pl.DataFrame, columns: tuple[str, ...]) -> list[float]:
        return part["a"].to_list()

    def timed(self, payload: list[float]) -> float | None:
        disturbed = 4 if next(self.machine) // 100 % 2 else 1
        return None if self.refuses else self.seconds * disturbed


@pytest.mark.parametrize("q", [0.5, 0.9])
def test_a_quantile_lies_within_its_interval_as_often_as_it_says(q: float) -> None:
    """Of 1,000 intervals at 95 % over 100 calls at least 93 %: order statistics are on the safe side."""
    rng = np.random.default_rng(1)
    truth = -np.log(1 - q)
    held = []
    for _ in range(1_000):
        found = quantile(rng.exponential(1, 100).tolist(), q, "p")
        assert found is not None
        held.append(found.low <= truth <= found.high)
    assert np.mean(held) >= 0.93


def test_the_99th_percentile_takes_368_calls() -> None:
    assert quantile([1.0] * 367, 0.99, "p99") is None
    assert quantile([1.0] * 368, 0.99, "p99") is not None
    assert quantile([], 0.5, "p50") is None


@pytest.mark.parametrize("times", [1.0, 1.2, 3.0])
def test_versions_are_compared_by_turns_so_a_busy_machine_slows_both(times: float) -> None:
    frame, machine = pl.DataFrame({"a": [1.0, 2.0, 3.0]}), itertools.count()
    found = compare(Clocked(0.001, machine), Clocked(0.001 * times, machine), frame, DataSection())
    assert found is not None
    assert found.low == pytest.approx(times)
    assert found.high == pytest.approx(times)
    assert found.unit == ""


def test_nothing_is_compared_where_one_refuses() -> None:
    frame, machine = pl.DataFrame({"a": [1.0]}), itertools.count()
    assert compare(Clocked(1, machine), Clocked(1, machine, refuses=True), frame, DataSection()) is None
