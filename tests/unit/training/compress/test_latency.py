"""Two graphs by turns: equal ones are not told apart, a large one is slower."""

import numpy as np

from rung.training.compress import latency
from rung.training.compress.latency import measure
from rung.training.compress.prune import prune


def test_a_tenth_of_the_work_is_faster_and_the_way_back_is_slower(digits, monkeypatch):
    monkeypatch.setattr(latency, "_SECONDS", 0.2)
    small = prune(digits.model, 0.9, ()).model
    (one, many) = measure(digits.model, small, digits.rows[:32], batched=True)
    assert (one.rows, many.rows) == (1, 32)
    assert many.high < 1
    assert not many.slower
    (*_, back) = measure(small, digits.model, digits.rows[:32], batched=True)
    assert back.slower
    assert np.isclose(back.ratio * many.ratio, 1, rtol=0.7)
