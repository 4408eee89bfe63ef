import msgspec
import numpy as np
import pytest

from rung.catalog import models, releases
from rung.data.quality import How
from rung.data.quality_catalog import baseline_of, with_catalog
from rung.data.quality_estimates import Head
from rung.domain.errors import InvalidInput
from rung.domain.models import Step, Transforms
from rung.domain.profiles import ColumnProfile, Profile
from rung.domain.scorecards import Figure
from rung.store.blobs import open_store
from rung.testing import models_tasks


@pytest.fixture
def repository(tmp_path):
    store = open_store(str(tmp_path / "repository"))
    path = models_tasks._save(
        tmp_path / "line.onnx",
        "line (float[N, 1] x) => (float[N, 1] y) { y = MatMul(x, weight) }",
        {"weight": np.array([[2.0]], np.float32)},
    )
    profile = Profile(3, {"price": ColumnProfile("number", deviation=12.5), "x": ColumnProfile("number")}, "price")
    beside = tmp_path / "profile.json"
    beside.write_bytes(msgspec.json.encode(profile))
    models.register(store, path, name="line", beside={"profile.json": beside}, profile="profile.json")
    steps = Transforms((), (Step("classification.top_k", {"activation": "sigmoid"}),))
    models.register(store, path, name="line", transforms=steps)
    return store


def test_what_is_not_said_is_what_the_catalog_knows(repository):
    found = with_catalog(How(), repository, "line")
    assert found.heads == {2: Head("", "sigmoid")}
    assert (found.version, found.scale) == (None, None)  # the latest has no profile
    releases.release(repository, "line", 1)
    found = with_catalog(How(), repository, "line")
    assert (found.version, found.scale) == (1, 12.5)


def test_what_is_said_stands(repository):
    given = How(version=1, scale=3.0, heads={2: Head("z")})
    assert with_catalog(given, repository, "line") == given
    assert with_catalog(How(version=1), repository, "line").scale == 12.5


def test_a_model_that_the_repository_does_not_know_changes_nothing(repository):
    assert with_catalog(How(), repository, "other") == How()


def test_a_scorecard_gives_a_baseline():
    figure = Figure("accuracy", 0.9, 0.88, 0.92, 900, 300, "Wilson")
    baseline = baseline_of(figure)
    assert (baseline.mean, baseline.high) == (pytest.approx(0.1), pytest.approx(0.12))
    assert (baseline.units, baseline.alpha) == (300, pytest.approx(0.025))
    with pytest.raises(InvalidInput, match="share"):
        baseline_of(Figure("mae", 9.5, 9.0, 10.0, 900, 300, "t"))
