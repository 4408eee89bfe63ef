import itertools

import numpy as np
import pytest

from rung.catalog import bundles
from rung.catalog.golden import pack_golden
from rung.catalog.source import FileSource, RepositorySource
from rung.domain.errors import BundleError, ModelError
from rung.domain.models import Golden, Manifest
from rung.domain.tensors import Signature, TensorSpec
from rung.ports import LoadOptions
from rung.serving.loader import load
from rung.store.blobs import DiskStore
from rung.testing import models
from rung.testing.scripted import ScriptedModel


def bring_up(source, **options):
    return load(source, source.poll()[0], LoadOptions(**options), 0.0)


def test_a_file_takes_its_signature_from_the_artifact(tmp_path):
    loaded = bring_up(FileSource(models.tiny(tmp_path / "tiny.onnx"), "tiny"))
    assert loaded.manifest.signature == loaded.model.signature
    assert loaded.manifest.signature.inputs == (TensorSpec("x", "FP32", (-1, 16)),)
    assert loaded.cost.estimate(1) > 0
    assert loaded.cost.cap >= 1
    loaded.model.close()


def test_what_costs_little_is_inline_and_what_costs_much_has_its_wide_cost_measured(source):
    source.offer("quick", 1)
    assert bring_up(source, threads=2).cost.inline
    source.offered.clear()
    source.offer("slow", 1, ScriptedModel(seconds=0.002))
    cost = bring_up(source, threads=2).cost
    assert not cost.inline
    assert cost.wide > 0.001


def test_measuring_stops_where_time_runs_out(source):
    model = source.offer("slow", 1, ScriptedModel(seconds=0.08))
    bring_up(source)
    assert sum(model.calls) < 12


@pytest.mark.parametrize(("seconds", "measured"), [(0.11, {1, 2}), (0.2, {1})])
def test_two_rows_together_are_measured_also_where_a_busy_machine_made_the_first_slow(source, seconds, measured):
    source.offer("slow", 1, ScriptedModel(seconds=seconds))
    assert set(bring_up(source).cost.known) == measured


class Broken(ScriptedModel):
    """Answers one row and no more."""

    def predict(self, inputs, threads=1):
        if len(inputs["x"]) > 1:
            raise ModelError("Reshape: 8 elements into [1, 4]")
        return super().predict(inputs, threads)


class Mixing(ScriptedModel):
    """Rows depend on each other."""

    def predict(self, inputs, threads=1):
        return {"y": inputs["x"] / inputs["x"].sum(axis=0, keepdims=True)}


class Folding(ScriptedModel):
    """One row out, however many go in."""

    def predict(self, inputs, threads=1):
        return {"y": inputs["x"][:1]}


class Random(ScriptedModel):
    """Never the same answer twice."""

    def __init__(self):
        super().__init__()
        self.numbers = itertools.count()

    def predict(self, inputs, threads=1):
        return {"y": inputs["x"] + np.float32(next(self.numbers))}


@pytest.mark.parametrize("kind", [Broken, Mixing, Folding])
def test_rows_that_do_not_stand_alone_are_never_batched(source, kind):
    source.offer("m", 1, kind())
    cost = bring_up(source).cost
    cost.learn(2, 1e-9)
    assert cost.cap == 1


@pytest.mark.parametrize("kind", [ScriptedModel, Random])
def test_rows_that_stand_alone_and_chance_are_batched(source, kind):
    source.offer("m", 1, kind())
    assert bring_up(source).cost.largest > 1


class Failing(ScriptedModel):
    def predict(self, inputs, threads=1):
        raise ModelError("no")


class Nan(ScriptedModel):
    def predict(self, inputs, threads=1):
        return {"y": inputs["x"] * np.float32(np.nan)}


@pytest.mark.parametrize(("kind", "reason"), [(Failing, "cannot answer a made-up example: no"), (Nan, "is NaN")])
def test_a_failed_warm_up_closes_the_model(source, kind, reason):
    model = source.offer("m", 1, kind())
    with pytest.raises(BundleError, match=reason):
        bring_up(source)
    assert model.closed


def test_a_made_up_size_may_be_what_a_model_objects_to(source):
    model = Failing()
    spec = TensorSpec("x", "FP32", (-1, -1))
    model.signature = Signature((spec,), (spec,))
    source.offer("m", 1, model)
    assert not bring_up(source).cost.inline


@pytest.mark.parametrize(("expected", "sound"), [(2.0, True), (2.001, True), (2.1, False)])
def test_golden_answers_decide(tmp_path, expected, sound):
    ones = np.ones((1, 4), np.float32)
    spec = TensorSpec("x", "FP32", (-1, 4)), TensorSpec("y", "FP32", (-1, 4))
    manifest = Manifest("m", 1, "onnx", Signature(spec[:1], spec[1:]), "m.onnx", golden=Golden("g.npz", 1))
    files = {
        "m.onnx": models.scale(tmp_path / "m.onnx", 2.0),
        "g.npz": pack_golden([({"x": ones}, {"y": ones * np.float32(expected)})]),
    }
    store = DiskStore(tmp_path / "repository")
    bundles.publish(store, manifest, files)
    source = RepositorySource(store, tmp_path / "cache")
    if sound:
        bring_up(source).model.close()
        return
    with pytest.raises(BundleError, match="golden example 1 is answered differently than at registration"):
        bring_up(source)
