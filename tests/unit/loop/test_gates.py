"""Real, tiny models in a real repository, asked the same rows."""

import numpy as np
import polars as pl
import pytest

from rung.catalog import models
from rung.domain.errors import InvalidData
from rung.domain.models import Step, Transforms
from rung.loop.gates import Rows, judge
from rung.settings.project import DataSection, RetrainSection
from rung.store.blobs import open_store
from rung.testing import models_tasks
from rung.training import latency

SETTINGS = RetrainSection(margin=0.05, forget=0.1, slower=1000.0)
SECTION = DataSection(label="y", features=("a", "b"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(latency, "_ROUNDS", 6)
    monkeypatch.setattr(latency, "_TURN", 2)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Versions of `line` answer y = factor * a + b: 1 with 2, 2 with 2.1, 3 with 4, 4 does not take a over 1."""
    folder = tmp_path_factory.mktemp("gate")
    store = open_store(str(folder / "repository"))
    for factor, most in [(2.0, 50), (2.1, 50), (4.0, 50), (2.0, 1)]:
        path = models_tasks._save(
            folder / f"line{factor}.onnx",
            "line (float[N, 2] x) => (float[N, 1] y) { y = MatMul(x, weight) }",
            {"weight": np.array([[factor], [1]], np.float32)},
        )
        columns = {"columns": [{"name": "a", "min": -most, "max": most}, {"name": "b"}]}
        steps = Transforms((Step("tabular.columns", columns),), (Step("regression.value"),))
        models.register(store, path, name="line", task="regression", transforms=steps)
    return store


def rows(newest=2.0, earlier=2.0, count=300, slices=()):
    """Half of the rows are earlier; in each half y is that factor * a + b and noise."""
    draw = np.random.default_rng(5)
    a, b, noise = draw.normal(size=(3, count))
    new = np.arange(count) >= count // 2
    y = np.where(new, newest, earlier) * a + b + noise / 4
    frame = pl.DataFrame({"a": a, "b": b, "y": y, "where": np.where(a > 0, "north", "south")})
    return Rows(frame, new, DataSection(label="y", features=("a", "b"), slices=slices))


def said(verdict):
    return {one["rule"]: one["outcome"] for one in verdict.evidence["verdicts"]}


def test_a_better_one_passes(store):
    verdict = judge(store, "line", 1, 3, rows(newest=4.0, earlier=3.0), SETTINGS)
    assert verdict.outcome == "pass"
    assert said(verdict)["newest requests"] == "pass"


def test_one_that_is_worse_fails_and_says_where(store):
    verdict = judge(store, "line", 1, 3, rows(), SETTINGS)
    assert verdict.outcome == "fail"
    assert "On the newest requests: The new model is worse by more than 0.05" in verdict.why


def test_few_rows_are_no_pass(store):
    verdict = judge(store, "line", 1, 2, rows(count=30), SETTINGS)
    assert (verdict.outcome, said(verdict)["newest requests"]) == ("inconclusive", "inconclusive")


def test_one_that_forgets_fails_unless_that_world_is_gone(store):
    asked = rows(newest=4.0, earlier=2.0)
    verdict = judge(store, "line", 1, 3, asked, SETTINGS)
    assert (verdict.outcome, said(verdict)["earlier data"]) == ("fail", "fail")
    gone = RetrainSection(margin=0.05, forget=1, slower=1000.0)
    assert judge(store, "line", 1, 3, asked, gone).outcome == "pass"


def test_a_slice_that_gets_worse_fails(store):
    asked = rows(newest=4.0, earlier=4.0, count=3000)
    south = asked.frame["where"].to_numpy() == "south"
    worse = pl.Series("y", np.where(south, 2.0, 4.0) * asked.frame["a"].to_numpy() + asked.frame["b"].to_numpy())
    # So that as a whole it is better.
    asked.frame = asked.frame.with_columns(worse)[np.flatnonzero(~south | (np.arange(3000) % 3 == 0)).tolist()]
    asked.newest = np.ones(asked.frame.height, bool)
    asked.section = DataSection(label="y", features=("a", "b"), slices=("where",))
    verdict = judge(store, "line", 1, 3, asked, SETTINGS)
    assert said(verdict)["newest requests"] == "pass"
    assert (verdict.outcome, said(verdict)["slice where = south"]) == ("fail", "fail")


def test_one_that_refuses_what_was_answered_fails(store):
    verdict = judge(store, "line", 1, 4, rows(), SETTINGS)
    assert (verdict.outcome, said(verdict)["refusals"]) == ("fail", "fail")


def test_slower_and_larger_ones_fail(store):
    verdict = judge(store, "line", 1, 2, rows(), RetrainSection(margin=0.05, slower=1e-6, larger=1e-6))
    assert (said(verdict)["latency"], said(verdict)["size"]) == ("fail", "fail")


def test_a_slice_that_is_not_there_is_told(store):
    with pytest.raises(InvalidData, match=r"no column 'shop' \(data.slices\)"):
        judge(store, "line", 1, 2, rows(slices=("shop",)), SETTINGS)
