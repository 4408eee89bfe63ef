"""scikit-learn, XGBoost and LightGBM against the conformance suite, with answers from the frameworks themselves."""

import numpy as np
import pytest

from rung.runtimes.lightgbm import LightGBMRuntime
from rung.runtimes.sklearn import SklearnRuntime
from rung.runtimes.xgboost import XGBoostRuntime
from rung.testing import models_tabular as models
from rung.testing.runtimes import RuntimeCase, RuntimeConformance

pytest.importorskip("sklearn")


def broken(folder, whole, suffix):
    """Files that carry the suffix and are no model."""
    bad = {name: folder / f"{name}{suffix}" for name in ("empty", "text", "cut", "missing")}
    bad["empty"].write_bytes(b"")
    bad["text"].write_text("this is no model")
    bad["cut"].write_bytes(whole[: len(whole) // 2])
    return bad | {"folder": folder}


def spoilt(rows, value):
    rows = rows.copy()
    rows[1, 0] = value
    return rows


class OfOneLoad(RuntimeConformance):
    """The tests of one class ask one model: converting it takes a moment."""

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, case):
        model = cls.runtime.load(case.artifact, case.options)
        yield model
        model.close()


class NothingFails(OfOneLoad):
    """Trees that answer whatever fits the signature."""

    def test_a_failure_is_a_model_error_and_passes(self, model, case):
        for value in (np.nan, np.inf, -np.inf):
            (answer,) = model.predict({"input": spoilt(case.inputs["input"], value)}).values()
            assert np.isfinite(answer).all()


class TestSklearnClassifier(OfOneLoad):
    runtime = SklearnRuntime()

    @pytest.fixture(scope="class", params=["logistic", "forest"])
    @classmethod
    def case(cls, request, tmp_path_factory):
        folder = tmp_path_factory.mktemp("case")
        fitted, rows = models.estimator(request.param), models.flowers()[0][::10]
        artifact = models.save_skops(folder / "m.skops", fitted)
        labels = fitted.predict(rows)
        if labels.dtype.kind == "U":
            labels = np.array([label.encode() for label in labels], object)
        expected = {"label": labels, "probabilities": fitted.predict_proba(rows).astype("<f4")}
        poison, bad = {"input": spoilt(rows, np.inf)}, broken(folder, artifact.read_bytes(), ".skops")
        return RuntimeCase(artifact, {"input": rows}, expected, poison, bad)


class TestSklearnRegressor(OfOneLoad):
    runtime = SklearnRuntime()

    @pytest.fixture(scope="class")
    @classmethod
    def case(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("case")
        fitted, rows = models.estimator("linear"), models.patients()[0][:9]
        artifact = models.save_skops(folder / "m.skops", fitted)
        poison, bad = {"input": spoilt(rows, np.inf)}, broken(folder, artifact.read_bytes(), ".skops")
        return RuntimeCase(artifact, {"input": rows}, {"output": fitted.predict(rows)}, poison, bad)


class TestSklearnHistogram(NothingFails):
    runtime = SklearnRuntime()

    @pytest.fixture(scope="class")
    @classmethod
    def case(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("case")
        fitted, rows = models.estimator("histogram"), models.patients()[0][:9]
        artifact = models.save_skops(folder / "m.skops", fitted)
        bad = broken(folder, artifact.read_bytes(), ".skops")
        return RuntimeCase(
            artifact, {"input": rows}, {"output": fitted.predict(rows)}, {"input": rows}, bad, rtol=0, atol=0
        )


class TestSklearnTransformer(OfOneLoad):
    runtime = SklearnRuntime()

    @pytest.fixture(scope="class")
    @classmethod
    def case(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("case")
        fitted, rows = models.estimator("pca"), models.flowers()[0][:9]
        artifact = models.save_skops(folder / "m.skops", fitted)
        poison, bad = {"input": spoilt(rows, np.nan)}, broken(folder, artifact.read_bytes(), ".skops")
        return RuntimeCase(artifact, {"input": rows}, {"transformed": fitted.transform(rows)}, poison, bad)


class TestSklearnTable(OfOneLoad):
    runtime = SklearnRuntime()

    @pytest.fixture(scope="class")
    @classmethod
    def case(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("case")
        fitted, frame = models.estimator("mixed"), models.trips()[0][:9]
        artifact = models.save_skops(folder / "m.skops", fitted)
        words = np.array([[word.encode()] for word in frame["weather"]], object)
        inputs = {
            "hours": frame["hours"].to_numpy()[:, None],
            "weather": words,
            "season": frame["season"].to_numpy()[:, None].astype("<f8"),
        }
        expected = {"label": fitted.predict(frame), "probabilities": fitted.predict_proba(frame).astype("<f4")}
        poison, bad = inputs | {"weather": spoilt(words, b"hail")}, broken(folder, artifact.read_bytes(), ".skops")
        return RuntimeCase(artifact, inputs, expected, poison, bad)


class TestSklearnText(OfOneLoad):
    runtime = SklearnRuntime()

    @pytest.fixture(scope="class")
    @classmethod
    def case(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("case")
        fitted, texts = models.estimator("words"), ["cheap lunch", "noon", "win pills now"]
        artifact = models.save_skops(folder / "m.skops", fitted)
        expected = {
            "label": np.array([label.encode() for label in fitted.predict(texts)], object),
            "probabilities": fitted.predict_proba(texts).astype("<f4"),
        }
        words = np.array([text.encode() for text in texts], object)
        poison = {"input": np.array([b"\xff"], object)}
        return RuntimeCase(
            artifact, {"input": words}, expected, poison, broken(folder, artifact.read_bytes(), ".skops")
        )


class TestXGBoost(NothingFails):
    runtime = XGBoostRuntime()

    @pytest.fixture(scope="class", params=["multi:softprob.json", "binary:logistic.ubj", "reg:squarederror.ubj"])
    @classmethod
    def case(cls, request, tmp_path_factory):
        folder = tmp_path_factory.mktemp("case")
        xgboost = pytest.importorskip("xgboost")
        objective, _, suffix = request.param.partition(".")
        artifact = models.xgboost_model(folder / f"m.{suffix}", objective)
        rows = (models.patients() if objective.startswith("reg") else models.flowers())[0][:150:10].astype("<f4")
        name = {"multi": "probabilities", "binary": "probability", "reg": "output"}[objective.partition(":")[0]]
        expected = {name: xgboost.Booster(model_file=artifact).predict(xgboost.DMatrix(rows))}
        bad = broken(folder, artifact.read_bytes(), f".{suffix}")
        return RuntimeCase(artifact, {"input": rows}, expected, {"input": rows}, bad, rtol=0, atol=0)


class TestLightGBM(NothingFails):
    runtime = LightGBMRuntime()

    @pytest.fixture(scope="class", params=["multiclass", "binary", "regression"])
    @classmethod
    def case(cls, request, tmp_path_factory):
        folder = tmp_path_factory.mktemp("case")
        lightgbm = pytest.importorskip("lightgbm")
        artifact = models.lightgbm_model(folder / "m.txt", request.param)
        rows = (models.patients() if request.param == "regression" else models.flowers())[0][:150:10]
        name = {"multiclass": "probabilities", "binary": "probability"}.get(request.param, "output")
        expected = {name: lightgbm.Booster(model_file=artifact).predict(rows)}
        bad = broken(folder, artifact.read_bytes(), ".txt")
        return RuntimeCase(artifact, {"input": rows}, expected, {"input": rows}, bad, rtol=0, atol=0)
