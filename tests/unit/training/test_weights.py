"""Two models that hold the same have one digest, whenever they were written."""

import zipfile

import numpy as np
import pytest

from rung.training.weights import weights_digest

skops = pytest.importorskip("skops.io")
sklearn = pytest.importorskip("sklearn.linear_model")


def fitted(seed, path):
    rng = np.random.default_rng(seed)
    model = sklearn.LogisticRegression().fit(rng.normal(size=(40, 3)), np.arange(40) % 2)
    skops.dump(model, path)
    return path


def test_estimators_that_are_equal(tmp_path):
    one, two = fitted(1, tmp_path / "one.skops"), fitted(1, tmp_path / "two.skops")
    assert one.read_bytes() != two.read_bytes()
    assert weights_digest(one) == weights_digest(two)


def test_estimators_that_differ(tmp_path):
    assert weights_digest(fitted(1, tmp_path / "one.skops")) != weights_digest(fitted(2, tmp_path / "two.skops"))


def test_a_zip_counts_by_what_is_in_it(tmp_path):
    for name, year, content in (("a", 1990, b"x"), ("b", 2020, b"x"), ("c", 1990, b"y")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(zipfile.ZipInfo("weights", (year, 1, 1, 0, 0, 0)), content)
    one, two, three = (weights_digest(tmp_path / name) for name in "abc")
    assert one == two != three


def test_a_folder_counts_by_its_files(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "weights").write_bytes(b"w")
    assert weights_digest(tmp_path / "one") == weights_digest(tmp_path / "two")
    (tmp_path / "two" / "deep" / "weights").rename(tmp_path / "two" / "weights")
    assert weights_digest(tmp_path / "one") != weights_digest(tmp_path / "two")
